"""Mixtures of Gaussians with a process, in any shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..data import load, toys
from ..data.toys import ToyMixture
from ..denoiser import ExactMixture
from ..process import VP, Gaussian
from ..rng import Rng
from .transport import gaussian_flow, monotone_flow


class _Shaped(ExactMixture):
    """The exact denoiser, with the shape of its items."""

    def __init__(self, process: Gaussian, law: ToyMixture, shape: tuple[int, ...]):
        super().__init__(process, law.weights, law.means, law.covariances)
        self.shape = shape


@dataclass(frozen=True, eq=False)
class MixtureProblem:
    """x0 ~ `law`, laid out in `shape`, and x_t = alpha x0 + sigma z by `process`. No condition.

    shape : of one item, (D,), (L,) or (C, H, W), with as many elements as the law has dimensions; else ValueError.

    When to choose: to test samplers, losses and posteriors.
    """

    name: str
    law: ToyMixture
    process: Gaussian
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if math.prod(self.shape) != self.law.dim:
            raise ValueError(f"a law of {self.law.dim} dimensions was given for items of shape {self.shape}")

    def denoiser(self) -> ExactMixture:
        """The exact posterior, a `FullMixture`."""
        return _Shaped(self.process, self.law, self.shape)

    def sample(self, n: int, rng: Rng) -> Tensor:
        """n draws of x0, float64 [n, *shape]."""
        return self.law.sample(n, rng).reshape(n, *self.shape)

    def draw(self, n: int, rng: Rng) -> tuple[Tensor, None]:
        """`sample`, and no condition."""
        return self.sample(n, rng), None

    def at(self, t: float) -> ToyMixture:
        """The law of x_t, flattened: sum_k w_k N(alpha mu_k, alpha S_k alpha + sigma^2 I), alpha and sigma diagonal."""
        alpha, sigma = (part(t).to(self.law.means.device) for part in (self.process.alpha, self.process.sigma))
        if self.process.per_element:
            alpha, sigma = (part.expand(1, *self.shape).flatten() for part in (alpha, sigma))
        seen = alpha.reshape(-1, 1) * self.law.covariances * alpha
        total = seen + sigma**2 * torch.eye(self.law.dim, dtype=torch.float64, device=seen.device)
        return ToyMixture(
            f"{self.law.name} at {t}", self.law.weights, alpha * self.law.means, torch.linalg.cholesky(total)
        )

    def flow(self, x: Tensor, t: float, s: float) -> Tensor:
        """The probability-flow ODE's map from time t to time s, exactly: for one Gaussian, or in one dimension.

        x [B, *shape], float64. Raises ValueError for any other law, because its map has no closed form, and for a
        process with an alpha for each element.
        """
        if self.process.per_element:
            raise ValueError(
                f"the flow of {self.name} has no closed form by {type(self.process).__name__}, which has an alpha for "
                "each element: take a process whose alpha and sigma are numbers"
            )
        law = self.law.to(x.device)
        if len(law.weights) == 1:
            return gaussian_flow(self.process, law.mean, law.covariance, x.flatten(1), t, s).reshape(x.shape)
        if law.dim > 1:
            raise ValueError(f"the flow of {self.name} has no closed form: take one Gaussian, or one dimension")
        here = replace(self, law=law)
        before, after = here.at(t), here.at(s)
        reach = float(x.abs().max()) + 20 * max(float(before.means.abs().max()), float(after.means.abs().max()), 1.0)
        return monotone_flow(_distribution(before), _distribution(after), x, -reach, reach)

    def through(self, process: Gaussian) -> MixtureProblem:
        """The same law through another process."""
        return replace(self, process=process)


def _distribution(law: ToyMixture) -> Callable[[Tensor], Tensor]:
    """The distribution function of a law in one dimension."""
    mean, sd = law.means[:, 0], law.factors[:, 0, 0]

    def cdf(x: Tensor) -> Tensor:
        return torch.special.ndtr((x[..., None] - mean) / sd) @ law.weights

    return cdf


def gaussian(shape: tuple[int, ...] = (2,), process: Gaussian | None = None) -> MixtureProblem:
    """One Gaussian, off centre and correlated, with sds from 0.9 down to 0.3."""
    dim = math.prod(shape)
    rng = Rng(0, 1, "softmix.oracle.gaussian")
    turn = torch.linalg.qr(rng.normal((1, dim, dim), torch.float64)[0]).Q
    sds = torch.linspace(0.9, 0.3, dim, dtype=torch.float64)
    factor = torch.linalg.cholesky(turn @ (sds.square()[:, None] * turn.mT))
    mean = torch.linspace(-0.4, 0.4, dim, dtype=torch.float64) if dim > 1 else torch.full((1,), 0.3).double()
    law = ToyMixture("gaussian", torch.ones(1, dtype=torch.float64), mean[None], factor[None])
    return MixtureProblem("gaussian", law, process or VP(), shape)


def correlated(shape: tuple[int, ...] = (2,), process: Gaussian | None = None) -> MixtureProblem:
    """Three components, correlated, of unequal weight and size."""
    return MixtureProblem("correlated", toys.unequal(math.prod(shape), 3, 1), process or VP(), shape)


def grid_of_modes(process: Gaussian | None = None) -> MixtureProblem:
    """49 thin modes on a 7 x 7 grid in the plane. Few steps with a mean alone fail on it."""
    return MixtureProblem("grid", toys.mode_grid(), process or VP(), (2,))


def eight(process: Gaussian | None = None) -> MixtureProblem:
    """Eight narrow round components in 16 dimensions, sd 0.1, a few sds apart. Errors of solvers differ most on it."""
    means = 0.5 * Rng(7, 8, "softmix.oracle.eight").normal((8, 16), torch.float64)
    factors = 0.1 * torch.eye(16, dtype=torch.float64, device="cpu").repeat(8, 1, 1)
    law = ToyMixture("eight", torch.full((8,), 1 / 8, dtype=torch.float64, device="cpu"), means, factors)
    return MixtureProblem("eight", law, process or VP(), (16,))


def digits(process: Gaussian | None = None) -> MixtureProblem:
    """Ten Gaussians, one fitted to each class of scikit-learn's digits, 8 x 8: real spectra with exact answers."""
    data = load("digits")
    x, labels = data.x0().flatten(1).double(), data.labels
    assert labels is not None
    parts = [x[labels == k] for k in range(10)]
    weights = torch.tensor([len(part) / len(x) for part in parts], dtype=torch.float64)
    covariances = [torch.cov(part.T) + 1e-2 * torch.eye(64, dtype=torch.float64) for part in parts]
    factors = torch.linalg.cholesky(torch.stack(covariances))
    law = ToyMixture("digits", weights / weights.sum(), torch.stack([part.mean(0) for part in parts]), factors)
    return MixtureProblem("digits", law, process or VP(), (1, 8, 8))


def problems(process: Gaussian | None = None) -> list[MixtureProblem]:
    """Points, an image and a sequence through a process, by default VP's cosine."""
    return [
        gaussian(process=process),
        correlated(process=process),
        grid_of_modes(process),
        correlated((2, 2, 2), process),
        correlated((5,), process),
    ]


PROBLEMS = tuple(problems())
