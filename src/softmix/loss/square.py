"""Squared error of the mean, and of one draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..posterior import HasMean, Posterior, need
from ..process import Noised
from ..rng import Rng
from .weight import CITES, Weight, scaled


def squared_error(estimate: Tensor, noised: Noised, name: Weight) -> Tensor:
    """w(logsnr) times the mean over elements of (estimate - x0)^2, [B]."""
    each, difference = scaled(name, noised, estimate - noised.x0)
    return each * (difference**2).flatten(1).mean(1)


@dataclass(frozen=True)
class Square:
    """w(logsnr) mean (E[x0 | x_t] - x0)^2: the loss of every usual diffusion model.

    weight : the name of w, a row of `softmix.loss.weight`.

    The optimum is the mean of the posterior. The loss is independent of the spread.
    When to choose: for plain models, sampled in eight evaluations and more.
    """

    weight: Weight = "eps"

    @property
    def proper(self) -> bool:
        return False

    @property
    def cites(self) -> tuple[str, ...]:
        return CITES[self.weight]

    def __call__(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        return squared_error(need(posterior, HasMean, "squared error").mean, noised, self.weight)


@dataclass(frozen=True)
class PublishedSquare:
    """w(logsnr) mean (x0_hat(eta) - x0)^2 with one draw eta for each item: the loss of SMD as published.

    In the symbols of the paper, eq. 10:

        eta ~ N(0, I),  z_t = g_xi(eta, x_t, t),  L = || eps - eps_{theta, f_phi(z_t, t)}(x_t, t) ||^2

    Its expectation over eta is the squared error of the mean of the draws plus the variance of the draws. The optimum
    therefore has no variance: the network learns to ignore the latent (rho falls to 0). It is here to test the paper.

    weight : the name of w. With w = snr this is the loss of the authors' code, an error of eps.

    When to choose: only to test the paper.
    Source: Li et al., ICLR 2024, and their code.
    """

    weight: Weight = "eps"
    cites: ClassVar[tuple[str, ...]] = ("smd",)

    @property
    def proper(self) -> bool:
        return False

    def __call__(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        return squared_error(posterior.sample(rng), noised, self.weight)
