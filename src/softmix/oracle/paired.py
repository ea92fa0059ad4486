"""Pairs (x0, x_in) of a known joint law."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cond import Cond
from ..data import toys
from ..data.toys import ToyMixture
from ..posterior import FullMixture
from ..process import VP, Framed, Gaussian, Interpolant
from ..rng import Rng
from .observed import beside_the_state, regression
from .two_laws import BetweenPosterior, independent, law_between


@dataclass(frozen=True, eq=False)
class PairedProblem:
    """(x0, x_in) ~ a mixture of Gaussians; x_in is the condition, an image, or a value for items of one axis.

    law      : over the elements of x0 and then those of x_in, both flattened.
    process  : a Gaussian process, or one with a frame that keeps clean items, such as a `Shifted` process with a shift
        by x_in; or an `Interpolant`, which leads from x0 to x_1 = x_in.
    shape    : of x0.
    in_shape : of x_in.

    The oracle of restoration from pairs, of translation, and of processes between x0 and x_in. Raises ValueError for
    shapes that do not add up to the dimension of the law, and for a frame that changes clean items.
    """

    name: str
    law: ToyMixture
    process: Gaussian | Framed | Interpolant
    shape: tuple[int, ...]
    in_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = math.prod(self.shape), math.prod(self.in_shape)
        if sum(sizes) != self.law.dim:
            raise ValueError(
                f"{self.name}: x0 and x_in have {sizes[0]} and {sizes[1]} elements, the law {self.law.dim}"
            )
        if isinstance(self.process, Interpolant) and self.shape != self.in_shape:
            raise ValueError(f"{self.name}: an Interpolant leads to items of one shape; found {self.in_shape}")
        if isinstance(self.process, Framed) and not self.process.keeps_x0:
            raise ValueError(
                f"{self.name}: {type(self.process).__name__} changes clean items, and this oracle answers for x0 "
                "itself: take a process whose frame keeps x0"
            )

    def draw(self, n: int, rng: Rng) -> tuple[Tensor, Cond]:
        """n pairs: x0 float64 [n, *shape], and the condition x_in."""
        both = self.law.sample(n, rng)
        size = math.prod(self.shape)
        return both[:, :size].reshape(n, *self.shape), self.cond(both[:, size:])

    def cond(self, x_in: Tensor) -> Cond:
        """x_in [B, ...] as a condition: an image, or a value if its items have one axis."""
        x_in = x_in.reshape(len(x_in), *self.in_shape)
        return Cond(value=x_in) if len(self.in_shape) == 1 else Cond(image=x_in)

    def given(self, x_in: Tensor) -> FullMixture:
        """p(x0 | x_in) for x_in [B, *in_shape]."""
        known = x_in.flatten(1).double()
        return self.of_x0(*regression(self.law, self._matrix[None], known.new_zeros(1, known.shape[1]), known))

    def denoiser(self) -> _PairedPosterior | BetweenPosterior:
        """q(x0 | x_t, x_in); for an `Interpolant` q(x0 | x_t), with E[x_1 | x_t] and E[z | x_t]."""
        if isinstance(self.process, Interpolant):
            return BetweenPosterior(self, self.process)
        return _PairedPosterior(self, self.process)

    def at(self, t: float) -> ToyMixture:
        """The law of x_t, flattened, for an `Interpolant`; for another process TypeError."""
        if not isinstance(self.process, Interpolant):
            raise TypeError(f"the law of x_t is known here for an Interpolant, not for {type(self.process).__name__}")
        return law_between(self.law, self.process, t)

    @property
    def _matrix(self) -> Tensor:
        """[0 I], which picks x_in."""
        return torch.eye(self.law.dim, dtype=torch.float64)[math.prod(self.shape) :]

    def of_x0(self, logs: Tensor, means: Tensor, factors: Tensor) -> FullMixture:
        """The mixture of the first elements alone, with square roots of their covariances."""
        size = math.prod(self.shape)
        own = factors[..., :size, :]
        roots = torch.linalg.eigh(own @ own.mT)
        square = roots.eigenvectors * roots.eigenvalues.clamp(min=0).sqrt()[..., None, :]
        return FullMixture(logs, means[..., :size], square, self.shape)


class _PairedPosterior:
    """The denoiser of a `PairedProblem`."""

    def __init__(self, problem: PairedProblem, process: Gaussian | Framed):
        self.problem, self.process, self.shape = problem, process, problem.shape

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> FullMixture:
        problem = self.problem
        x_in = None if not isinstance(cond, Cond) else cond.value if len(problem.in_shape) == 1 else cond.image
        if x_in is None or tuple(x_in.shape[1:]) != problem.in_shape:
            raise ValueError(
                f"{problem.name}: the condition must be x_in [B, {', '.join(map(str, problem.in_shape))}], as "
                f"`problem.cond(x_in)` makes it; found {'none' if x_in is None else list(x_in.shape)}"
            )
        process, state = self.process, xt.double()
        base = process.base if isinstance(process, Framed) else process
        if isinstance(process, Framed):
            state = process.enter(state, t, cond)
        known = x_in.flatten(1).double()
        noise = known.new_zeros(1, known.shape[1])
        return problem.of_x0(*regression(*beside_the_state(problem.law, problem._matrix, noise, base, state, t, known)))


def pairs(shape: tuple[int, ...] = (2,), process: Gaussian | Framed | Interpolant | None = None) -> PairedProblem:
    """Pairs of equal shapes: three correlated components of unequal weight and size in twice the dimension."""
    law = toys.unequal(2 * math.prod(shape), 3, 2)
    return PairedProblem("pairs", law, process or VP(), shape, shape)


def between(
    first: ToyMixture, second: ToyMixture, process: Interpolant, shape: tuple[int, ...] | None = None
) -> PairedProblem:
    """x0 of the first law and x_1 of the second, independent, with an interpolant between them.

    shape : of an item, by default (D,).
    """
    shape = shape or (first.dim,)
    return PairedProblem(f"{second.name} to {first.name}", independent(first, second), process, shape, shape)
