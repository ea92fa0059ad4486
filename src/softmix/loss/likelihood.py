"""Likelihoods of one reverse step, for posteriors with a density and for draws.

A reverse step from t to s depends on x0 through q(x_s | x_t, x0) = N(c_x x_t + c_0 x0, v I). Divided by c_0 it is x0
with noise of variance v / c_0^2 = 1 / (snr(s) - snr(t)), for any schedule. So both losses draw y = x0 + N(0, 1 / dSNR)
and take the likelihood of y under the posterior blurred by the same noise. The blur prevents a spike of the density at
a training point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..posterior import HasDensity, Mixture, Normal, Posterior, need
from ..posterior.normal import gaussian_log_prob
from ..process import Noised, Process
from ..rng import Rng
from ..shape import column


def step_variance(process: Process, t: Tensor, ratio: float) -> Tensor:
    """The variance of x0 that a step from t to s = ratio t leaves open: 1 / (snr(s) - snr(t)), one number per item."""
    high, low = process.logsnr(ratio * t), process.logsnr(t)
    return (-high).exp() / -torch.expm1(low - high)


@dataclass(frozen=True)
class Likelihood:
    """-log q_blurred(y) / D in nats per element, for a Normal or a Mixture.

    ratio : s / t of the reverse step; 0.5 for images and 0.9 for points in GMFlow.

    Raises TypeError for any other posterior.
    When to choose: for `NormalHead` and `MixtureHead`.
    Source: Chen et al., "Gaussian mixture flow matching", ICML 2025, eq. 5 (there in x_s).
    """

    ratio: float = 0.5
    cites: ClassVar[tuple[str, ...]] = ("gmflow",)

    @property
    def proper(self) -> bool:
        return True

    def __call__(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        posterior = need(posterior, HasDensity, "the likelihood")
        if not isinstance(posterior, Normal | Mixture):
            raise TypeError(f"the likelihood needs a Normal or Mixture head, and {type(posterior).__name__} was found")
        var = step_variance(noised.process, noised.t, self.ratio).to(noised.x0)
        y = noised.x0 + column(var.sqrt(), noised.x0) * rng.normal(noised.x0.shape, noised.x0.dtype).to(
            noised.x0.device
        )
        return -posterior.blurred(var).log_prob(y) / math.prod(noised.x0.shape[1:])


@dataclass(frozen=True)
class Importance:
    """The importance-weighted bound of k draws x_j: -log (1/k) sum_j N(y; x_j, (1 / dSNR + tau^2) I) / D.

    The bound tightens with k. k = 1 is the published loss of SMD up to its weight. For k > 1 the collapsed mixture is
    unstable if (k - 1) dSNR lambda_max(C_t) > 1 (see `collapse`), and as k grows the bound becomes the likelihood. In
    many dimensions one draw takes all the weight. Then the loss is winner-take-all.

    k : draws for each item.
    ratio : s / t of the reverse step.
    tau : the least standard deviation of a draw.
    temper : divides the log-likelihoods inside the softmax, against winner-take-all.

    When to choose: to study the bound in few dimensions. Otherwise take `Energy`.
    Source: Burda et al., "Importance weighted autoencoders", ICLR 2016, applied to Li et al. 2024, eq. 10.
    """

    k: int = 16
    ratio: float = 0.5
    tau: float = 0.0
    temper: float = 1.0
    cites: ClassVar[tuple[str, ...]] = ("iwae", "smd")

    @property
    def proper(self) -> bool:
        # for finite k it is a bound, and its optimum is close to the truth and not at it
        return False

    def __call__(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        var = step_variance(noised.process, noised.t, self.ratio).to(noised.x0)
        y = noised.x0 + column(var.sqrt(), noised.x0) * rng.normal(noised.x0.shape, noised.x0.dtype).to(
            noised.x0.device
        )
        draws = posterior.draws(self.k, rng)
        total = column(var + self.tau**2, noised.x0)
        each = gaussian_log_prob(y[None], draws, total.expand_as(draws), noised.x0.ndim - 1) / self.temper
        return (math.log(self.k) - torch.logsumexp(each, 0)) * self.temper / math.prod(noised.x0.shape[1:])
