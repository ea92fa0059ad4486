"""The energy score, a scoring rule that needs only draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..posterior import ImplicitMean, Posterior
from ..process import Noised
from ..rng import Rng
from .square import squared_error
from .weight import Weight, scaled

# ||.|| has no derivative at 0. (r^2 + tiny)^(beta/2) has one, and is still a negative definite kernel, so that the loss
# stays strictly proper.
_TINY = 1e-8


Distance = Callable[[Tensor], Tensor]


def power(difference: Tensor, beta: float) -> Tensor:
    """(mean over elements of difference^2)^(beta / 2), over all but the two leading axes."""
    return ((difference**2).flatten(2).mean(2) + _TINY) ** (beta / 2)


def energy(draws: Tensor, truth: Tensor, distance: Distance, lam: float = 1.0) -> Tensor:
    """E d(truth - draw) - (lam / 2) E d(draw - draw'), [B].

    draws : [m, B, ...].
    truth : [B, ...].
    distance : a function from differences [k, B, ...] to lengths [k, B].
    """
    # draws k apart, for each k: every pair once, without a copy of the draws
    apart = torch.cat([draws[k:] - draws[:-k] for k in range(1, len(draws))])
    return distance(draws - truth).mean(0) - 0.5 * lam * distance(apart).mean(0)


@dataclass(frozen=True)
class Energy:
    """The energy score of m draws x_j:

        w [ (1/m) sum_j |x0 - x_j|^beta  -  lam / (2 m (m-1)) sum_{j != k} |x_j - x_k|^beta ]

    |.| is the root mean square over elements. For lam = 1 and 0 < beta < 2 it is strictly proper: the one optimum is
    q(x0 | x_t) itself. For beta = 2 or lam = 0 it teaches only the mean, and the mixture collapses.

    beta : the power of the distance, in (0, 2].
    m : draws for each item, at least 2.
    lam : the weight of the second term.
    weight : w(logsnr)^(beta/2), so that a name means the same scale of error as in squared error.
    mean : the weight of the squared error of the posterior's own mean, if it has one.

    When to choose: for soft mixtures of points and sequences. For images `FeatureEnergy` learns sharper draws.
    Source: Gneiting & Raftery 2007, section 4.3; for diffusion De Bortoli et al., "Distributional diffusion models with
    scoring rules", 2025.
    """

    beta: float = 1.0
    m: int = 4
    lam: float = 1.0
    weight: Weight = "eps"
    mean: float = 1.0
    cites: ClassVar[tuple[str, ...]] = ("scoring_rules", "distributional")

    def __post_init__(self) -> None:
        if self.m < 2 or not 0 < self.beta <= 2:
            raise ValueError(
                f"the energy score needs m >= 2 draws and 0 < beta <= 2; found m = {self.m}, beta = {self.beta}"
            )

    @property
    def proper(self) -> bool:
        return self.lam == 1 and self.beta < 2

    def __call__(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        draws = posterior.draws(self.m, rng)
        each, _ = scaled(self.weight, noised, noised.x0)

        def distance(difference: Tensor) -> Tensor:
            return power(scaled(self.weight, noised, difference)[1], self.beta)

        loss = each ** (self.beta / 2) * energy(draws, noised.x0, distance, self.lam)
        if self.mean and isinstance(posterior, ImplicitMean):
            loss = loss + self.mean * squared_error(posterior.mean, noised, self.weight)
        return loss
