"""Kernels, and the unbiased maximum mean discrepancy of two samples.

A kernel maps items a [n, D] and b [m, D] to k(a_i, b_j), [n, m], up to a constant: constants cancel in the discrepancy.
A characteristic kernel tells all laws apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor


class Kernel(Protocol):
    """A positive definite kernel, up to a constant."""

    @property
    def characteristic(self) -> bool:
        """Whether the discrepancy is 0 for equal laws alone."""
        ...

    def __call__(self, a: Tensor, b: Tensor, scale: Tensor | float) -> Tensor:
        """k(a_i, b_j), [n, m].

        a, b : [n, D] and [m, D].
        scale : a usual distance of two items of the data, the unit of the widths of a kernel. A kernel without a width
            does not depend on it.
        """
        ...


@dataclass(frozen=True)
class CubicKernel:
    """k(a, b) = (a.b / D + 1)^3: the kernel of KID, and of the paper of MMD-DDM.

    It compares moments up to the third, and nothing else: in one dimension it cannot tell N(0, 1) from -1 and 1 with
    probability 1/2. It depends on the size and the origin of the features.

    Source: Binkowski et al., "Demystifying MMD GANs", 2018, section 4.
    When to choose: for features of a deep network, with moments that follow from the content of an image.
    """

    characteristic: ClassVar[bool] = False

    def __call__(self, a: Tensor, b: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3


@dataclass(frozen=True)
class GaussianKernel:
    """k(a, b) = mean over q of exp(-|a - b|^2 / (2 (q s)^2)), with the usual distance s of the data.

    widths : the numbers q. One width is nearly constant, or nearly 0 off the diagonal, if it does not fit the data.

    Source: Gretton et al., "A kernel two-sample test", 2012; several widths: Li, Swersky & Zemel, "Generative moment
    matching networks", 2015.
    When to choose: for points and pixels.
    """

    widths: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0)
    characteristic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_widths(self.widths)

    def __call__(self, a: Tensor, b: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        square = (_distances(a, b) / scale) ** 2
        # without the ones, which cancel, small distances keep their digits
        return torch.stack([torch.expm1(-square / (2 * q**2)) for q in self.widths]).mean(0)


@dataclass(frozen=True)
class LaplaceKernel:
    """k(a, b) = mean over q of exp(-|a - b| / (q s)), with the usual distance s of the data.

    widths : the numbers q.

    When to choose: for points and pixels, if the laws have sharp details.
    """

    widths: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0)
    characteristic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_widths(self.widths)

    def __call__(self, a: Tensor, b: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        distance = _distances(a, b) / scale
        return torch.stack([torch.expm1(-distance / q) for q in self.widths]).mean(0)


@dataclass(frozen=True)
class EnergyKernel:
    """k(a, b) = -|a - b| / s: the discrepancy is the energy distance, in units of the usual distance s of the data.

    Source: Sejdinovic et al., "Equivalence of distance-based and RKHS-based statistics", 2013.
    When to choose: for points, without a width to choose. In many dimensions it learns slowly.
    """

    characteristic: ClassVar[bool] = True

    def __call__(self, a: Tensor, b: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        return -_distances(a, b) / scale


def _require_widths(widths: tuple[float, ...]) -> None:
    if not widths or min(widths) <= 0:
        raise ValueError(f"a kernel needs at least one width, and widths above 0; found {widths}")


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|. Exactly 0 for equal items; the derivative is 0 there. A matrix product would leave its rounding."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def median_distance(x: Tensor) -> Tensor:
    """The median distance of two different items of x [N, ...], N at least 2; a number, 1 if all are equal."""
    flat = x.flatten(1)
    rows, columns = torch.triu_indices(len(flat), len(flat), 1, device=x.device)
    apart = _distances(flat, flat)[rows, columns].sort().values
    apart = apart[apart > 0]
    return apart[len(apart) // 2] if len(apart) else apart.new_ones(())


def unbiased_mmd(
    drawn: Tensor, real: Tensor, kernel: Kernel, scale: Tensor | float = 1.0, labels: Tensor | None = None
) -> Tensor:
    """The unbiased squared maximum mean discrepancy of n drawn and n real items, as a share of each item, [n].

        mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_ij k(x_i, y_j)

    x are drawn and y real. The mean of the shares is this number. It is 0 on average for two samples of one law, so
    that it is below 0 in half of the batches. It is not clamped: a clamped one has no gradient there, and a bias.

    drawn, real : [n, D], n at least 2.
    scale : the usual distance, see `Kernel`.
    labels : of the pairs (x_i, y_i), [n] or [n, K]. Then the laws of (item, label) are compared: a pair with different
        labels has the kernel 0, and x_i is not compared with y_i, which always has its label.

    Sums are taken in float32 at least. Raises ValueError for sets of different sizes, and of fewer than 2 items.
    Source: Gretton et al., "A kernel two-sample test", JMLR 2012, lemma 6.
    """
    n = len(drawn)
    if n < 2 or drawn.shape != real.shape:
        raise ValueError(
            "an unbiased discrepancy needs two sets of one size, of at least 2 items; found the shapes "
            f"{list(drawn.shape)} and {list(real.shape)}"
        )
    kind = torch.promote_types(drawn.dtype, torch.float32)
    x, y = drawn.flatten(1).to(kind), real.flatten(1).to(kind)
    # products of 8 bits would be noise
    with torch.autocast(x.device.type, enabled=False):
        own, data, cross = kernel(x, x, scale), kernel(y, y, scale), kernel(x, y, scale)
    others = 1 - torch.eye(n, dtype=kind, device=x.device)
    if labels is None:
        return ((own + data) * others).sum(1) / (n - 1) - 2 * cross.mean(1)
    named = labels.reshape(n, -1)
    alike = (named[:, None] == named).all(2) * others
    return ((own + data - 2 * cross) * alike).sum(1) / (n - 1)
