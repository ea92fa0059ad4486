"""Two signals of a known joint law, each with a time of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cond import Cond
from ..data import toys
from ..data.toys import ToyMixture
from ..posterior import FullMixture
from ..process import VP, Gaussian, TwoClocks
from ..rng import Rng
from .observed import beside_the_state, regression


@dataclass(frozen=True, eq=False)
class JointProblem:
    """(x, y) ~ a mixture of Gaussians, and z_t = (x at t_x, y at t_y). No condition.

    law : over the elements of x and then those of y, both flattened.
    process : the two clocks.
    shape : of the pair: (D,) or (C, H, W), with the channels of x before those of y.

    Raises ValueError for shapes that do not add up, and for sequences, of which the elements of x do not come first.
    When to choose: to test models of two signals.
    """

    name: str
    law: ToyMixture
    process: TwoClocks
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shape) == 2 or len(self.shape) != self.process.axes or self.shape[0] != sum(self.process.sizes):
            raise ValueError(
                f"{self.name}: pairs of shape {self.shape} were given for two clocks of {self.process.sizes} channels "
                f"and {self.process.axes} axes; take points or images"
            )
        if math.prod(self.shape) != self.law.dim:
            raise ValueError(f"{self.name}: a law of {self.law.dim} dimensions was given for pairs of {self.shape}")

    def draw(self, n: int, rng: Rng) -> tuple[Tensor, None]:
        """n pairs, float64 [n, *shape]."""
        return self.law.sample(n, rng).reshape(n, *self.shape), None

    def denoiser(self) -> _JointPosterior:
        """q(x0, y0 | x_t, y_t') at any pair of times, (0, 0) included: a `FullMixture`."""
        return _JointPosterior(self)

    def marginal(self, stream: int) -> ToyMixture:
        """The law of x (stream 0) or of y (1)."""
        own = self._elements(stream)
        covariances = self.law.covariances[:, own][:, :, own]
        return ToyMixture(
            f"{self.name}, one signal", self.law.weights, self.law.means[:, own], torch.linalg.cholesky(covariances)
        )

    def given(self, stream: int, other: Tensor) -> ToyMixture:
        """The law of one signal given the other one, of a single item [1, ...] or [...]."""
        known = other.double().reshape(1, -1)
        matrix = torch.eye(self.law.dim, dtype=torch.float64, device=known.device)[self._elements(1 - stream)]
        logs, means, factors = regression(self.law, matrix[None], known.new_zeros(1, len(matrix)), known)
        own = self._elements(stream)
        rows = factors[0, :, own]
        return ToyMixture(
            f"{self.name}, given the other",
            logs[0].softmax(0),
            means[0, :, own],
            torch.linalg.cholesky(rows @ rows.mT),
        )

    def _elements(self, stream: int) -> slice:
        size = math.prod(self.process.shape_of(self.shape, 0))
        return slice(size, None) if stream else slice(size)


class _JointPosterior:
    """The denoiser of a `JointProblem`."""

    def __init__(self, problem: JointProblem):
        self.problem, self.process, self.shape = problem, problem.process, problem.shape

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> FullMixture:
        if cond is not None:
            raise ValueError(f"{self.problem.name} has no condition, and one was given: leave it out")
        law, none = self.problem.law, xt.new_zeros(1, 0, dtype=torch.float64)
        rows = xt.new_zeros(0, law.dim, dtype=torch.float64)
        measured = beside_the_state(law, rows, none, self.process, xt, t, none.expand(len(xt), 0))
        logs, means, factors = (part.to(xt) for part in regression(*measured))
        return FullMixture(logs, means, factors, self.shape)


def joint(sizes: tuple[int, int] = (2, 2), base: Gaussian | None = None, components: int = 3) -> JointProblem:
    """Points x and y: correlated components of unequal weight and size; one component for a joint Gaussian."""
    law = toys.unequal(sum(sizes), components, 2)
    return JointProblem("joint", law, TwoClocks(base or VP(), sizes, 1), (sum(sizes),))
