"""Two laws with a stochastic interpolant between them: the exact law of x_t, and all its conditional means."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cond import Cond
from ..data.toys import ToyMixture
from ..posterior import FullMixture, HasNoise
from ..process import Interpolant
from ..shape import column
from .observed import regression

if TYPE_CHECKING:
    from .paired import PairedProblem


def independent(first: ToyMixture, second: ToyMixture) -> ToyMixture:
    """The joint law of an x_0 of the first mixture and an x_1 of the second, independent of each other."""
    pick_0, pick_1 = torch.cartesian_prod(torch.arange(len(first.weights)), torch.arange(len(second.weights))).T
    factors = [torch.block_diag(first.factors[i], second.factors[j]) for i, j in zip(pick_0, pick_1, strict=True)]
    return ToyMixture(
        f"{first.name} and {second.name}",
        first.weights[pick_0] * second.weights[pick_1],
        torch.cat([first.means[pick_0], second.means[pick_1]], 1),
        torch.stack(factors),
    )


def law_between(law: ToyMixture, process: Interpolant, t: float) -> ToyMixture:
    """The law of x_t = a x_0 + b x_1 + gamma z for a joint law of x_0 and x_1."""
    a, b, gamma = (part.to(law.means.device) for part in process.parts(t))
    eye = torch.eye(law.dim // 2, dtype=torch.float64, device=a.device)
    matrix = torch.cat([a * eye, b * eye], 1)
    total = matrix @ law.covariances @ matrix.mT + gamma**2 * eye
    return ToyMixture(f"{law.name} at {t}", law.weights, law.means @ matrix.mT, torch.linalg.cholesky(total))


class BetweenMixture(FullMixture, HasNoise):
    """q(x0 | x_t), with E[x_1 | x_t] and E[z | x_t]."""

    def __init__(self, x0: FullMixture, x1: Tensor, noise: Tensor):
        super().__init__(x0.log_weights, x0._means, x0._factors, x0._shape)
        self.x1, self._noise = x1, noise

    @property
    def noise(self) -> Tensor:
        return self._noise


class BetweenPosterior:
    """The denoiser of a `PairedProblem` with an `Interpolant`: it receives x_t alone, and no x_1.

    (x_0, x_1, z) is a mixture of Gaussians, and x_t is a measurement of it by [a I, b I, gamma I], without noise.
    """

    def __init__(self, problem: PairedProblem, process: Interpolant):
        self.problem, self.process, self.shape = problem, process, problem.shape
        law, size = problem.law, math.prod(problem.shape)
        parts = torch.stack([torch.block_diag(factor, torch.eye(size, dtype=factor.dtype)) for factor in law.factors])
        means = torch.cat([law.means, law.means.new_zeros(len(law.means), size)], 1)
        self._law = ToyMixture(law.name, law.weights, means, parts)

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> BetweenMixture:
        state = xt.double()
        size = math.prod(self.shape)
        eye = torch.eye(size, dtype=torch.float64, device=state.device)
        parts = [column(part, state).reshape(-1, 1, 1) * eye for part in self.process.parts(t)]
        matrix = torch.cat([part.expand(max(len(each) for each in parts), -1, -1) for part in parts], 2)
        noise = torch.zeros(1, size, dtype=torch.float64, device=state.device)
        logs, means, factors = regression(self._law, matrix, noise, state.flatten(1))
        x1, z = (
            (logs.softmax(1)[..., None] * part).sum(1).reshape(-1, *self.shape).to(xt.dtype)
            for part in (means[..., size : 2 * size], means[..., 2 * size :])
        )
        law = self.problem.of_x0(logs.to(xt.dtype), means.to(xt.dtype), factors.to(xt.dtype))
        return BetweenMixture(law, x1, z)
