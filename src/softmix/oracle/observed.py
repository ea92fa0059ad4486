"""A mixture of which a measurement y = A x0 + n is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cond import Cond
from ..data.toys import ToyMixture
from ..posterior import FullMixture
from ..process import Gaussian
from ..rng import Rng
from ..shape import column
from .mixture import MixtureProblem


@dataclass(frozen=True, eq=False)
class ObservedProblem:
    """x0 of a mixture, with y = A x0 + sd z as its condition; z ~ N(0, I).

    matrix : A [K, D], float64, over the flattened elements of an item.
    sd     : of the noise. 0 stands for a measurement without noise; the rows of A must then be linearly independent.

    The oracle of restoration, and of models with a value or an image as condition. The process may have one alpha for
    each element. Raises ValueError if A is not [K, D].
    When to choose: to test restoration, that is methods for measured data.
    """

    problem: MixtureProblem
    matrix: Tensor
    sd: float = 0.0

    def __post_init__(self) -> None:
        dim = self.problem.law.dim
        if self.matrix.ndim != 2 or self.matrix.shape[1] != dim:
            raise ValueError(
                f"for items of {dim} elements a matrix [K, {dim}] was expected, not {list(self.matrix.shape)}"
            )

    @classmethod
    def elements(cls, problem: MixtureProblem, seen: Tensor, sd: float = 0.0) -> ObservedProblem:
        """A picks some elements of x0. seen : booleans, in the shape of an item."""
        return cls(problem, torch.eye(problem.law.dim, dtype=torch.float64, device=seen.device)[seen.flatten()], sd)

    @property
    def name(self) -> str:
        return f"{self.problem.name}, {len(self.matrix)} measured"

    @property
    def process(self) -> Gaussian:
        return self.problem.process

    @property
    def shape(self) -> tuple[int, ...]:
        return self.problem.shape

    def draw(self, n: int, rng: Rng) -> tuple[Tensor, Cond]:
        """n items, float64 [n, *shape], each with its y as the condition's value."""
        x0 = self.problem.sample(n, rng)
        return x0, Cond(value=self.observe(x0, rng.child("y")))

    def observe(self, x0: Tensor, rng: Rng) -> Tensor:
        """y [B, K] of items [B, *shape]."""
        clean = x0.flatten(1) @ self.matrix.to(x0).T
        return clean + self.sd * rng.normal(clean.shape, clean.dtype).to(clean) if self.sd else clean

    def given(self, y: Tensor) -> FullMixture:
        """p(x0 | y) for y [B, K]."""
        noise = torch.full((1, len(self.matrix)), self.sd**2, dtype=torch.float64, device=y.device)
        return FullMixture(*regression(self.problem.law, self.matrix[None], noise, y), self.shape)

    def denoiser(self) -> _ObservedPosterior:
        """q(x0 | x_t, y), for y as the condition's value [B, K], or as its image if that has K elements an item."""
        return _ObservedPosterior(self)


class _ObservedPosterior:
    """The denoiser of an `ObservedProblem`."""

    def __init__(self, observed: ObservedProblem):
        self.observed, self.process, self.shape = observed, observed.process, observed.shape

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> FullMixture:
        y, observed = self._y(cond), self.observed
        noise = torch.full((1, y.shape[1]), observed.sd**2, dtype=torch.float64, device=y.device)
        parts = regression(*beside_the_state(observed.problem.law, observed.matrix, noise, self.process, xt, t, y))
        return FullMixture(*parts, self.shape)

    def _y(self, cond: Cond | Tensor | None) -> Tensor:
        y = None if not isinstance(cond, Cond) else cond.value if cond.value is not None else cond.image
        count = len(self.observed.matrix)
        if y is None or y[0].numel() != count:
            found = "none" if y is None else f"one of {list(y.shape)}"
            raise ValueError(
                f"{self.observed.name}: the condition must be y, {count} numbers an item, as Cond(value=y); "
                f"found {found}"
            )
        return y.flatten(1).double()


def regression(law: ToyMixture, matrix: Tensor, noise: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p(x | y) for x ~ sum_k w_k N(mu_k, S_k) and y = A x + n, n ~ N(0, diag(noise)): a mixture again.

    With G = S A^T (A S A^T + N)^-1 for each component: log weights log w + log N(y; A mu, A S A^T + N), means
    mu + G (y - A mu), covariances S - G A S.

    matrix : A [1 or B, M, D].
    noise  : variances [1 or B, M].
    y      : [B, M].

    Returns log weights [B, K], means [B, K, D] and roots of the covariances [1 or B, K, D, D], as `FullMixture` takes
    them.
    """
    matrix, noise, logs, means, factors = matrix.to(y), noise.to(y), [], [], []
    components = (law.weights.to(y), law.means.to(y), law.covariances.to(y))
    for weight, mean, covariance in zip(*components, strict=True):
        cross = matrix @ covariance
        inner = torch.linalg.cholesky(cross @ matrix.mT + torch.diag_embed(noise))
        off = (y - matrix @ mean)[..., None]
        half = torch.linalg.solve_triangular(inner, off, upper=False)
        volume = inner.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        logs.append(weight.log() - half.square().sum((-2, -1)) / 2 - volume)
        means.append(mean + (cross.mT @ torch.cholesky_solve(off, inner))[..., 0])
        left = torch.linalg.eigh(covariance - cross.mT @ torch.cholesky_solve(cross, inner))
        factors.append(left.eigenvectors * left.eigenvalues.clamp(min=0).sqrt()[..., None, :])
    return torch.stack(logs, 1), torch.stack(means, 1), torch.stack(factors, 1)


def beside_the_state(
    law: ToyMixture, matrix: Tensor, noise: Tensor, process: Gaussian, xt: Tensor, t: Tensor | float, y: Tensor
) -> tuple[ToyMixture, Tensor, Tensor, Tensor]:
    """The arguments of `regression` with x_t = alpha x0 + sigma z as a further measurement, before y.

    matrix : A [K, D'] of y. The elements of x0 are the first D of the D' of the law.
    noise  : variances of y, [1, K].
    """
    state = xt.double()
    alpha, sigma = (
        (value if value.ndim else value.reshape(1, *(1,) * (state.ndim - 1))).expand(-1, *state.shape[1:]).flatten(1)
        for value in (column(part(t), state) for part in (process.alpha, process.sigma))
    )
    times, dim = alpha.shape
    seen = torch.cat([torch.diag_embed(alpha), alpha.new_zeros(times, dim, law.dim - dim)], 2)
    whole = torch.cat([seen, matrix.to(alpha).expand(times, -1, -1)], 1)
    noises = torch.cat([sigma**2, noise.to(sigma).expand(times, -1)], 1)
    return law, whole, noises, torch.cat([state.flatten(1), y.to(state)], 1)
