"""Y = A x0 + n beside a mixture. What is known of x0 from y, and from y and x_t, exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cond import Cond
from ..posterior import FullMixture
from ..process import Gaussian
from ..rng import Rng
from ..shape import column
from .problem import Problem


@dataclass(frozen=True, eq=False)
class Observed:
    """x0 of a problem with y = A x0 + sd z, z of variance 1, as its condition.

    matrix : A [K, D], float64, over the flattened elements of an item. sd : 0 for a measurement without noise; the rows
    of A are then linearly independent.

    The truth for restoration, and for models that are told a value or an image. Raises ValueError if A is no [K, D].
    """

    problem: Problem
    matrix: Tensor
    sd: float = 0.0

    def __post_init__(self) -> None:
        dim = self.problem.law.dim
        if self.matrix.ndim != 2 or self.matrix.shape[1] != dim:
            raise ValueError(
                f"for items of {dim} elements a matrix [K, {dim}] was expected, not {list(self.matrix.shape)}"
            )

    @classmethod
    def elements(cls, problem: Problem, seen: Tensor, sd: float = 0.0) -> Observed:
        """Some elements themselves. seen : booleans, in the shape of an item."""
        return cls(problem, torch.eye(problem.law.dim, dtype=torch.float64)[seen.flatten()], sd)

    @property
    def process(self) -> Gaussian:
        return self.problem.process

    @property
    def shape(self) -> tuple[int, ...]:
        return self.problem.shape

    def observe(self, x0: Tensor, rng: Rng) -> Tensor:
        """y [B, K] of items [B, *shape]."""
        clean = x0.flatten(1) @ self.matrix.to(x0).T
        return clean + self.sd * rng.normal(clean.shape, clean.dtype) if self.sd else clean

    def given(self, y: Tensor) -> FullMixture:
        """The law of x0 when y [B, K] is known."""
        noise = torch.full((1, len(self.matrix)), self.sd**2, dtype=torch.float64)
        return self._conditioned(self.matrix.expand(1, -1, -1), noise, y)

    def denoiser(self) -> _Told:
        """The exact posterior q(x0 | x_t, y), for y as the condition's value [B, K] or image, K elements an item."""
        return _Told(self)

    def _conditioned(self, matrix: Tensor, noise: Tensor, y: Tensor) -> FullMixture:
        """x0 given y = A x0 + n: each component's own regression, in shares of what it makes likely.

        With G = S A^T (A S A^T + N)^-1: means mu + G (y - A mu); covariances S - G A S.
        matrix [1 or B, M, D]; noise [1 or B, M], the variances N; y [B, M].
        """
        law, logs, means, factors = self.problem.law, [], [], []
        for weight, mean, covariance in zip(law.weights, law.means, law.covariances, strict=True):
            cross = matrix @ covariance
            inner = torch.linalg.cholesky(cross @ matrix.mT + torch.diag_embed(noise))
            off = (y - matrix @ mean)[..., None]
            half = torch.linalg.solve_triangular(inner, off, upper=False)
            spread = inner.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            logs.append(weight.log() - half.square().sum((-2, -1)) / 2 - spread)
            means.append(mean + (cross.mT @ torch.cholesky_solve(off, inner))[..., 0])
            left = torch.linalg.eigh(covariance - cross.mT @ torch.cholesky_solve(cross, inner))
            factors.append(left.eigenvectors * left.eigenvalues.clamp(min=0).sqrt()[..., None, :])
        return FullMixture(torch.stack(logs, 1), torch.stack(means, 1), torch.stack(factors, 1), self.shape)


class _Told:
    """x_t = alpha x0 + sigma z is one more measurement of x0, beside y."""

    def __init__(self, observed: Observed):
        self.observed, self.process, self.shape = observed, observed.process, observed.shape

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> FullMixture:
        y = self._y(cond)
        alpha, sigma = (
            column(part(t), xt.double()).reshape(-1, 1, 1) for part in (self.process.alpha, self.process.sigma)
        )
        times = len(alpha)
        eye = torch.eye(math.prod(self.shape), dtype=torch.float64)
        matrix = torch.cat([alpha * eye, self.observed.matrix.expand(times, -1, -1)], 1)
        own = torch.full((times, y.shape[1]), self.observed.sd**2, dtype=torch.float64)
        noise = torch.cat([(sigma[..., 0] ** 2).expand(times, len(eye)), own], 1)
        return self.observed._conditioned(matrix, noise, torch.cat([xt.flatten(1).double(), y], 1))

    def _y(self, cond: Cond | Tensor | None) -> Tensor:
        given = None if not isinstance(cond, Cond) else cond.value if cond.value is not None else cond.image
        count = len(self.observed.matrix)
        if given is None or given[0].numel() != count:
            found = "none" if given is None else f"one of {list(given.shape)}"
            raise ValueError(f"an observed problem is told y, {count} numbers an item, as Cond(value=y); found {found}")
        return given.flatten(1).double()
