"""Mixtures of Gaussians through a process with another basis as its frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..data.toys import ToyMixture
from ..denoiser import Denoiser
from ..denoiser.frame import from_frame
from ..process import Framed
from ..rng import Rng
from .mixture import MixtureProblem


@dataclass(frozen=True, eq=False)
class FramedProblem:
    """x0 ~ the law of `problem`, and x_t by a process with a linear frame: `InBasis`, `SPD`, `NonUniform`.

    In the frame the law is again a mixture of Gaussians, with the means T m and the covariances T S T^t.

    Raises ValueError for a frame that keeps clean items (take the problem with its base), and for one that moves 0.

    When to choose: to test processes in a basis, and denoisers of them.
    """

    problem: MixtureProblem
    process: Framed

    def __post_init__(self) -> None:
        name, zero = type(self.process).__name__, self.problem.law.means.new_zeros(1, *self.problem.shape)
        if self.process.keeps_x0 or self.process.enter(zero, 0.0).any():
            raise ValueError(
                f"{self.name}: {name} is no change of basis: take a process such as InBasis, SPD or NonUniform, or a "
                "problem of pairs for a shift"
            )

    @property
    def name(self) -> str:
        return self.problem.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.problem.shape

    def draw(self, n: int, rng: Rng) -> tuple[Tensor, None]:
        """n draws of x0, float64 [n, *shape], and no condition."""
        return self.problem.draw(n, rng)

    def denoiser(self) -> Denoiser:
        """The exact posterior of x0."""
        return from_frame(self.inside().denoiser(), self.process)

    def inside(self) -> MixtureProblem:
        """The law of the coordinates y0 in the frame, with the plain process of the frame."""
        law = self.problem.law
        factors = torch.stack([self._turned(each.mT).mT for each in law.factors])
        inside = ToyMixture(law.name, law.weights, self._turned(law.means), torch.linalg.cholesky(factors @ factors.mT))
        return replace(self.problem, law=inside, process=self.process.base)

    def _turned(self, x: Tensor) -> Tensor:
        return self.process.enter(x.reshape(-1, *self.shape), 0.0).flatten(1)
