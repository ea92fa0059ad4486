"""Parallel-beam tomography with exact strip integrals, and filtered back-projection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..precision import without_autocast
from .linear import image_shape
from .operator import LinearOperator


class Tomography(LinearOperator):
    """Parallel-beam computed tomography: the mean of the line integrals of x0 over each detector bin.

        y(theta, d) = 1 / w  integral over bin d of  integral x0(X, Y) delta(X cos theta + Y sin theta - r)

    shape : (C, H, W) of an item. A pixel is a square of side 1 with one value. X runs to the right and Y up, from the
        middle of the image.
    angles : theta in degrees; or their number, for even ones from 0 below 180.
    detectors : the number of bins, around the middle; None for as many as the diagonal needs.
    spacing : w, the width of a bin in pixels.

    y is [B, C, angles, detectors] in units of a value times a pixel: the sum of a row of y, times w, is the sum of all
    pixels. x0 is measured as it stands: air of -1 has negative integrals.

    The projection of a square pixel is a trapezoid, and its integral over a bin has a closed form. So the matrix is
    exact for this model, and its adjoint is its transpose. It has about 2 to 3 numbers for each pixel and angle. Two
    forms of it are kept, by rows for A and by columns for A^T, so that both are sums in a fixed order, and the
    derivative of each is the other.

    Raises ValueError without angles, and for less than one bin or a spacing that is not above 0.
    When to choose: computed tomography with few angles (sparse view) or a part of 180 degrees (limited angle).
    Source: Kak & Slaney, "Principles of computerized tomographic imaging", 1988, sections 3.1 to 3.3 and 7.1.
    """

    def __init__(
        self,
        shape: Sequence[int],
        angles: int | Sequence[float] | Tensor,
        detectors: int | None = None,
        spacing: float = 1.0,
    ):
        self.shape = image_shape(shape)
        channels, height, width = self.shape
        if not 0 < spacing < math.inf:
            raise ValueError(f"bins of width {spacing} were asked for; give a width above 0, in pixels")
        bins = math.ceil(math.hypot(height, width) / spacing) if detectors is None else detectors
        self.angles, self.spacing = _degrees(angles), spacing
        if bins < 1 or not len(self.angles):
            raise ValueError(f"{len(self.angles)} angles and {bins} bins were asked for; give at least one of each")
        self.measured = (channels, len(self.angles), bins)
        rows, pixels, weights = _entries(self.angles, bins, spacing, height, width)
        self._index, self._start, self._weight = _by_row(rows, pixels, weights, len(self.angles) * bins)
        self._t_index, self._t_start, self._t_weight = _by_row(pixels, rows, weights, height * width)

    def __call__(self, x0: Tensor) -> Tensor:
        self.check(x0, self.shape, "x0")
        return self._product(x0, ("", "_t"), self.measured)

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.measured, "y")
        return self._product(y, ("_t", ""), self.shape)

    def filtered_back_projection(self, y: Tensor) -> Tensor:
        """x0 from y [B, *measured] by the ramp filter and A^T, [B, *shape].

        Right for many even angles over 180 degrees and bins that cover the image. With few of them it has streaks, and
        it is an image to look at and a condition; `solve` and `pseudo_inverse` know the angles.
        """
        self.check(y, self.measured, "y")
        # the ramp between its zeros: sampled in the frequencies, it would lose the mean
        bins = self.measured[2]
        size = 1 << (2 * bins - 1).bit_length()
        place = torch.arange(size, device=y.device)
        far = torch.minimum(place, size - place).to(y.dtype)
        kernel = torch.where(far % 2 == 1, -1 / (math.pi * far.clamp(min=1)) ** 2, 0)
        kernel[0] = 0.25
        with without_autocast(y.device):
            ramp = torch.fft.rfft(kernel).real
            filtered = torch.fft.irfft(torch.fft.rfft(y, size) * ramp, size)[..., :bins]
        # a pixel has the weight 1 / w in each angle
        return self.adjoint(filtered) * (math.pi / self.measured[1])

    def picture(self, y: Tensor) -> Tensor:
        """The filtered back-projection."""
        return self.filtered_back_projection(y)

    def _product(self, x: Tensor, forms: tuple[str, str], shape: tuple[int, ...]) -> Tensor:
        """The matrix, or its transpose, times the flattened pixels or bins of each channel."""
        tables = [self.constant(f"{form}_{part}", x) for form in forms for part in ("index", "start", "weight")]
        flat = _SparseProduct.apply(x.reshape(len(x) * shape[0], -1).mT, *tables)
        return flat.mT.reshape(len(x), *shape)


class _SparseProduct(torch.autograd.Function):
    """A sparse matrix times columns, and its transpose as the derivative.

    Each matrix is a table of columns, of the start of each row in it, and of weights.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *tables: Tensor) -> Tensor:
        ctx.save_for_backward(*tables)
        index, start, weight = tables[:3]
        # the rows of an embedding, weighed and summed, are this product
        return torch.nn.functional.embedding_bag(index, x.contiguous(), start, mode="sum", per_sample_weights=weight)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        tables = ctx.saved_tensors
        return _SparseProduct.apply(slopes[0], *tables[3:], *tables[:3]), *(None,) * len(tables)


def _degrees(angles: int | Sequence[float] | Tensor) -> tuple[float, ...]:
    if isinstance(angles, int):
        return tuple(180 * number / angles for number in range(angles))
    return tuple(float(angle) for angle in angles)


def _entries(
    angles: Sequence[float], bins: int, spacing: float, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Row, pixel and weight of each entry of the matrix that is not 0, float64."""
    up = (height - 1) / 2 - torch.arange(height, dtype=torch.float64, device="cpu")[:, None]
    right = torch.arange(width, dtype=torch.float64, device="cpu") - (width - 1) / 2
    pixel = torch.arange(height * width, device="cpu")
    # bins that the shadow of a pixel may touch
    count = int(math.sqrt(2) / spacing) + 2
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for number, angle in enumerate(angles):
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        long, short = max(abs(cosine), abs(sine)), min(abs(cosine), abs(sine))
        middle = (right * cosine + up * sine).flatten()
        first = ((middle - (long + short) / 2) / spacing + bins / 2).floor()
        bin_ = first[:, None] + torch.arange(count, device="cpu")
        edge = (bin_ - bins / 2) * spacing - middle[:, None]
        weight = (_shadow(edge + spacing, long, short) - _shadow(edge, long, short)) / spacing
        # rounding leaves shares of about 1e-16 in bins beside the shadow
        kept = (weight > 1e-14) & (bin_ >= 0) & (bin_ < bins)
        rows = (number * bins + bin_).long()
        found.append((rows[kept], pixel[:, None].expand_as(rows)[kept], weight[kept]))
    rows, pixels, weights = (torch.cat(part) for part in zip(*found, strict=True))
    return rows, pixels, weights


def _shadow(place: Tensor, long: float, short: float) -> Tensor:
    """The share of the shadow of a pixel below a place, measured from its middle.

    The density is a trapezoid: flat, with the height 1 / long, as far as (long - short) / 2, and 0 from (long +
    short) / 2 on.
    """
    far = place.abs()
    ramp = ((long + short) / 2 - far).clamp(0, short)
    # beyond `far`: of the ramp, and of the flat part
    tail = ramp**2 / (2 * long * short) if short > 0 else torch.zeros_like(far)
    tail = tail + ((long - short) / 2 - far).clamp(min=0) / long
    return torch.where(place < 0, tail, 1 - tail)


def _by_row(rows: Tensor, columns: Tensor, weights: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The entries in the order of their rows: columns, the start of each row, weights."""
    order = rows.argsort(stable=True)
    start = torch.bincount(rows, minlength=count).cumsum(0).roll(1)
    start[0] = 0
    # half the memory of int64; a matrix with more entries would not fit anyway
    return columns[order].int(), start.int(), weights[order]
