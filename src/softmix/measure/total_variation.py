"""Total variation along some axes of images and volumes, by ADMM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .each_slice import spectral_norm
from .krylov import conjugate_gradients
from .operator import LinearOperator

# argmin_v step r(v) + |v - u|^2 / 2 of a penalty r of each difference, from (u, step)
Shrink = Callable[[Tensor, float], Tensor]

# Of the equation of a correction. In directions that neither A nor D sees the residual is rounding alone, and a step of
# conjugate gradients along it would be huge. A correction that vanishes has the same limit with a ridge.
_RIDGE = {torch.float64: 1e-8}


def differences(x: Tensor, axis: int) -> Tensor:
    """D x: x[i + 1] - x[i] along an axis of n places, n - 1 numbers.

    The ends are free (Neumann): the last place is not tied to the first.
    """
    return x.diff(dim=axis)


def differences_adjoint(v: Tensor, axis: int) -> Tensor:
    """D^T v: v[i - 1] - v[i], with zeros beyond the ends, so that n - 1 numbers become n."""
    shape = list(v.shape)
    shape[axis] = 1
    end = v.new_zeros(shape)
    return -v.diff(dim=axis, prepend=end, append=end)


def roughness(x: Tensor, axis: int) -> Tensor:
    """The mean of |D x| of each item, [B]."""
    return differences(x, axis).abs().flatten(1).mean(1)


def shrink_absolute(u: Tensor, step: float) -> Tensor:
    """For the penalty |v|: sign(u) max(|u| - step, 0), the soft threshold."""
    return u.sign() * (u.abs() - step).clamp(min=0)


def shrink_square(u: Tensor, step: float) -> Tensor:
    """For the penalty v^2: u / (1 + 2 step). Every step of ADMM is then linear, and a limit has a closed form."""
    return u / (1 + 2 * step)


class LeastSquares:
    """|y - A x|^2 / (2 |A|^2), by its gradient: A^T A x / |A|^2 and A^T y / |A|^2.

    Divided by |A|^2, the largest curvature is 1 for every instrument. So the weights of a penalty mean the same for
    all of them.
    """

    def __init__(self, operator: LinearOperator, y: Tensor):
        self.operator = operator
        back = operator.adjoint(y)
        square = spectral_norm(operator, y.device).to(back) ** 2
        # an operator that measures nothing
        self.scale = 1 / square.clamp(min=torch.finfo(back.dtype).tiny)
        self.back = back * self.scale

    def normal(self, x: Tensor) -> Tensor:
        """A^T A x / |A|^2."""
        return self.operator.normal(x) * self.scale


@dataclass(frozen=True, eq=False)
class SplitVariables:
    """The variables of ADMM for each axis: v, that stands for D x, and w, the scaled multiplier of v = D x."""

    v: tuple[Tensor, ...]
    w: tuple[Tensor, ...]


@dataclass(frozen=True)
class TotalVariation:
    """The penalty weight sum_a |D_a x|_1 beside |y - A x|^2 / (2 |A|^2), and one iteration of ADMM for it:

        x <- CG on (A^T A / |A|^2 + rho D^T D) x = A^T y / |A|^2 + rho D^T (v - w)
        v <- shrink(D x + w, weight / rho)
        w <- w + D x - v

    weight : lambda, 0 or above. Noise of sd s in y asks for a weight in proportion to s^2 / |A|^2.
    rho : of ADMM, above 0. The limit does not depend on it; a single iteration does.
    axes : counted from the last, such as -3 for z of volumes [B, C, D, H, W], and -2 and -1 for images. Without axes
        an iteration is least squares alone.
    shrink : the proximal map of the penalty; `shrink_square` replaces |D x| by (D x)^2.

    CG begins at x, so that a single step of it stays near x. Raises ValueError for other numbers.
    Source: Chung et al., "Solving 3D inverse problems using pre-trained 2D diffusion models", CVPR 2023, section 3;
    ADMM: Boyd et al., "Distributed optimization and statistical learning via ADMM", 2011, section 3.1.1.
    """

    weight: float
    rho: float = 1.0
    axes: tuple[int, ...] = (-3,)
    shrink: Shrink = shrink_absolute

    def __post_init__(self) -> None:
        if not self.weight >= 0 or not self.rho > 0:
            raise ValueError(f"weight = {self.weight} and rho = {self.rho} were given; weight >= 0, rho > 0 are needed")
        if len(set(self.axes)) < len(self.axes) or not all(-3 <= axis <= -1 for axis in self.axes):
            raise ValueError(
                f"axes {self.axes} were given; give some of -3 (z of a volume), -2 and -1, each once, counted from the "
                "last, so that they mean the same for images and volumes"
            )

    def begin(self, x: Tensor) -> SplitVariables:
        """v = w = 0. Raises ValueError for an axis that items do not have."""
        if self.axes and x.ndim + min(self.axes) < 2:
            raise ValueError(
                f"axis {min(self.axes)} of x {list(x.shape)} is no axis of places: volumes are [B, C, D, H, W], and "
                "images [B, C, H, W]"
            )
        zeros = tuple(torch.zeros_like(differences(x, axis)) for axis in self.axes)
        return SplitVariables(zeros, zeros)

    def step(self, data: LeastSquares, x: Tensor, split: SplitVariables, cg: int) -> tuple[Tensor, SplitVariables]:
        """One iteration: x [B, ...] and the variables after it. cg : steps of the method of conjugate gradients."""
        pulled = self._adjoint([v - w for v, w in zip(split.v, split.w, strict=True)], x)
        missing = data.back + self.rho * pulled - self._product(data, x)
        ridge = _RIDGE.get(x.dtype, 1e-3)
        x = x + conjugate_gradients(lambda way: self._product(data, way) + ridge * way, missing, cg, strict=False)
        found = [differences(x, axis) for axis in self.axes]
        v = tuple(self.shrink(d + w, self.weight / self.rho) for d, w in zip(found, split.w, strict=True))
        return x, SplitVariables(v, tuple(w + d - u for w, d, u in zip(split.w, found, v, strict=True)))

    def _product(self, data: LeastSquares, x: Tensor) -> Tensor:
        return data.normal(x) + self.rho * self._adjoint([differences(x, axis) for axis in self.axes], x)

    def _adjoint(self, parts: list[Tensor], like: Tensor) -> Tensor:
        total = torch.zeros_like(like)
        for axis, part in zip(self.axes, parts, strict=True):
            total = total + differences_adjoint(part, axis)
        return total


def admm_tv(
    operator: LinearOperator, y: Tensor, variation: TotalVariation, iterations: int = 200, cg: int = 20
) -> Tensor:
    """argmin_x |y - A x|^2 / (2 |A|^2) + weight sum_a |D_a x|_1, [B, *shape of x], from x = 0.

    y : [B, *measured].
    iterations : of ADMM. With a rho near weight / (a typical step of x) 200 of them reach 1e-4 of the size of x.
    cg : steps of the method of conjugate gradients in each.

    Raises ValueError for no iterations.
    When to choose: to restore images or volumes without a learned prior, and as the baseline of every learned one.
    Choose the weight on items with a known answer.
    """
    check_counts(iterations, cg)
    data = LeastSquares(operator, y)
    x = torch.zeros_like(data.back)
    split = variation.begin(x)
    for _ in range(iterations):
        x, split = variation.step(data, x, split, cg)
    return x


def check_counts(iterations: int, cg: int) -> None:
    """Raises ValueError unless both are at least 1."""
    if iterations < 1 or cg < 1:
        raise ValueError(
            f"{iterations} iterations of ADMM with {cg} steps of conjugate gradients were asked for; take 1 or more"
        )
