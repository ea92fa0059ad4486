"""Masked Fourier transforms: magnetic resonance with one coil and with several, and an oversampled transform."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .linear import checked_mask, image_shape
from .operator import DecomposedOperator, LinearOperator

_AXES = (-2, -1)


class MaskedFourier(DecomposedOperator):
    """y = M F x0, magnetic resonance with one coil.

    F is the orthonormal Fourier transform. Its origin in the image is [H // 2, W // 2], and the zero frequency of y is
    at [H // 2, W // 2] too. M keeps the frequencies that are seen.

    seen : booleans, or 0 and 1: [1, H, W], or broadcastable to it such as [1, 1, W] for columns; or a mask for each
        item, [B, 1, ...]. `random_columns`, `uniform_columns` and `radial_lines` make masks.
    shape : (2, H, W) for complex images, with the real and the imaginary part as channels; (1, H, W) for real ones.

    y is [B, 2, H, W], the real and the imaginary part, and 0 at frequencies that are not seen.

    The decomposition: for complex images s = M, and V = U is the transform. The transform c of a real image has
    c(-k) = conj c(k), so that A^T A x = Re F^H M F x is diagonal in c too:

        s^2 = (M + M') / 2,   M'(k) = M(-k)
        U c = M c / s,   (U^T y)(k) = [M y(k) + conj (M y)(-k)] / (2 s)

    A frequency is known from its opposite one, and two of them have half the variance of noise.

    Raises ValueError for a shape or a mask that does not fit.
    When to choose: the picture of a scanner with one coil, or of several coils that are combined. For several coils
    choose `MultiCoilFourier`.
    """

    def __init__(self, seen: Tensor, shape: Sequence[int]):
        self.shape, self.measured = _complex_or_real(shape)
        self._seen, self.items = checked_mask(seen, (1, *self.shape[1:]))
        self._real = self.shape[0] == 1
        # of the full size, so that a mask of columns can be reflected
        whole = self._seen.double().expand(-1, -1, *self.shape[1:])
        self._singular = ((whole + opposite(whole)) / 2).sqrt() if self._real else self._seen

    @property
    def seen(self) -> Tensor:
        return self._seen

    @property
    def singular(self) -> Tensor:
        return self._singular

    def into(self, x: Tensor) -> Tensor:
        return centred_fft(as_complex(x, self.shape[0]))

    def back(self, c: Tensor) -> Tensor:
        return as_channels(centred_ifft(c), self.shape[0])

    def into_measured(self, y: Tensor) -> Tensor:
        c = as_complex(y, 2)
        if not self._real:
            return c
        kept = self.constant("_seen", y) * c
        return self._over_s((kept + opposite(kept).conj()) / 2)

    def back_measured(self, c: Tensor) -> Tensor:
        return as_channels(self.constant("_seen", c) * self._over_s(c) if self._real else c, 2)

    def picture(self, y: Tensor) -> Tensor:
        """A^+ y: the image with 0 in place of what is not seen."""
        return self.pseudo_inverse(y)

    def _over_s(self, c: Tensor) -> Tensor:
        s = self.s_like(c)
        return c / torch.where(s > 0, s, 1)


class MultiCoilFourier(LinearOperator):
    """y_j = M F (S_j x0), j = 1 .. J, magnetic resonance with J coils.

    F, its origins and M are those of `MaskedFourier`.

    seen : as in `MaskedFourier`.
    maps : S_j, the complex sensitivities of the coils, [J, H, W]; or maps for each item, [B, J, H, W].
    shape : (2, H, W) for complex images, (1, H, W) for real ones.

    y is [B, 2 J, H, W]: the real part of coil 1, its imaginary part, the real part of coil 2, ... If the squares of the
    sensitivities sum to 1 at each pixel, no singular value is above 1.

    Its equations are solved by conjugate gradients. Raises ValueError for a shape, a mask or maps that do not fit.
    When to choose: the raw data of a scanner with several coils.
    Source: Pruessmann et al., "SENSE: sensitivity encoding for fast MRI", Magn. Reson. Med. 42, 1999, equation 1.
    """

    def __init__(self, seen: Tensor, maps: Tensor, shape: Sequence[int]):
        self.shape, _ = _complex_or_real(shape)
        if not maps.is_complex() or maps.ndim not in (3, 4) or tuple(maps.shape[-2:]) != self.shape[1:]:
            raise ValueError(
                f"complex maps [J, {self.shape[1]}, {self.shape[2]}], or such maps for each item, were expected, and "
                f"found {list(maps.shape)} of {maps.dtype}"
            )
        self._maps = maps if maps.ndim == 4 else maps[None]
        self._seen, of_mask = checked_mask(seen, (1, *self.shape[1:]))
        counts = {of_mask, len(self._maps) if len(self._maps) > 1 else None} - {None}
        if len(counts) > 1:
            raise ValueError(f"there are masks for {of_mask} items, and maps for {len(self._maps)}")
        self.items = next(iter(counts), None)
        self.measured = (2 * self._maps.shape[1], *self.shape[1:])

    @property
    def seen(self) -> Tensor:
        return self._seen

    def __call__(self, x0: Tensor) -> Tensor:
        self.check(x0, self.shape, "x0")
        coils = self.constant("_maps", x0) * as_complex(x0, self.shape[0])
        return as_channels(self.constant("_seen", x0) * centred_fft(coils), self.measured[0])

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.measured, "y")
        coils = centred_ifft(self.constant("_seen", y) * as_complex(y, self.measured[0]))
        return as_channels((self.constant("_maps", y).conj() * coils).sum(1, keepdim=True), self.shape[0])

    def picture(self, y: Tensor) -> Tensor:
        """A^T y over the sum of |S_j|^2: the coils combined, with 0 in place of what is not seen."""
        power = self.constant("_maps", y).abs().square().sum(1, keepdim=True)
        return self.adjoint(y) / torch.where(power > 0, power, 1)


class OversampledFourier(DecomposedOperator):
    """The Fourier transform of an image with zeros around it: more frequencies than pixels, real and imaginary part.

    shape : (C, H, W) of a real image.
    oversampling : of each axis, at least 1. The transform has ceil(oversampling H) x ceil(oversampling W) frequencies.

    y is [B, 2 C, H', W'], the two parts of each channel in turn, with the zero frequency at [H' // 2, W' // 2]. The
    transform is orthonormal, so that A^T A = I. Raises ValueError for an oversampling below 1.
    When to choose: inside `phase_retrieval`.
    """

    def __init__(self, shape: Sequence[int], oversampling: float = 2.0):
        self.shape = image_shape(shape)
        if not 1 <= oversampling < math.inf:
            raise ValueError(f"an oversampling of {oversampling} was asked for; give 1 or more")
        self.measured = (2 * self.shape[0], *(math.ceil(oversampling * size) for size in self.shape[1:]))

    @property
    def singular(self) -> Tensor:
        return torch.ones(1, 1, 1, device="cpu")

    def into(self, x: Tensor) -> Tensor:
        return x

    def back(self, c: Tensor) -> Tensor:
        return c

    def into_measured(self, y: Tensor) -> Tensor:
        image = centred_ifft(as_complex(y, self.measured[0])).real
        top, left = self._corner()
        return image[..., top : top + self.shape[1], left : left + self.shape[2]]

    def back_measured(self, c: Tensor) -> Tensor:
        top, left = self._corner()
        below, right = (self.measured[1] - top - self.shape[1], self.measured[2] - left - self.shape[2])
        return as_channels(centred_fft(torch.nn.functional.pad(c, (left, right, top, below))), self.measured[0])

    def picture(self, y: Tensor) -> Tensor:
        """A^+ y, the image."""
        return self.pseudo_inverse(y)

    def _corner(self) -> tuple[int, int]:
        """The place of the image among the zeros: its middle is the origin of the transform."""
        return self.measured[1] // 2 - self.shape[1] // 2, self.measured[2] // 2 - self.shape[2] // 2


def centred_fft(x: Tensor) -> Tensor:
    """The orthonormal Fourier transform of the last two axes, with both origins at [H // 2, W // 2]."""
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(x, _AXES), norm="ortho"), _AXES)


def centred_ifft(c: Tensor) -> Tensor:
    """The inverse of `centred_fft`."""
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(c, _AXES), norm="ortho"), _AXES)


def opposite(c: Tensor) -> Tensor:
    """c(-k) for each frequency k, with the zero frequency at [H // 2, W // 2]."""
    # an axis of even size has one frequency without an opposite one, its first
    return c.flip(_AXES).roll([1 - size % 2 for size in c.shape[-2:]], _AXES)


def as_complex(x: Tensor, channels: int) -> Tensor:
    """Pairs of channels [B, 2 K, H, W] as complex numbers [B, K, H, W]; one channel stays, as it is real."""
    return x if channels == 1 else torch.complex(x[:, 0::2], x[:, 1::2])


def as_channels(c: Tensor, channels: int) -> Tensor:
    """The inverse of `as_complex`; of numbers for one channel, the real part."""
    return c.real if channels == 1 else torch.stack([c.real, c.imag], 2).flatten(1, 2)


def _complex_or_real(shape: Sequence[int]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The shapes of an item and of its transform. Raises ValueError for a shape of more channels."""
    channels, height, width = image_shape(shape)
    if channels not in (1, 2):
        raise ValueError(
            f"images of 1 channel (real) or 2 channels (real and imaginary part) were expected, and found {channels}"
        )
    return (channels, height, width), (2, height, width)
