"""The spread of a model's draws relative to the true spread of x0, by noise level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cond import Cond
from ..denoiser import Denoiser
from ..memory import in_batches
from ..posterior import HasMean, HasVariance, Implicit, need
from ..posterior.implicit import spread
from ..precision import full_fp32
from ..rng import Rng

LEVELS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)


@dataclass(frozen=True)
class LatentSpread:
    """rho at each logsnr: the variance of the draws divided by the true variance.

    rho = 0 is a collapsed mixture. rho = 1 is the truth.

    logsnr : the noise levels.
    spread : E tr Cov_eta(x0_hat) per element, at each level.
    truth : E tr Cov(x0 | x_t) per element, at each level.
    by : "oracle" if the truth is known exactly. "residual" if the truth is the squared error of the model's own mean
        on held-out data. A residual is too large by the squared error of that mean, so rho is then a lower bound.
    """

    logsnr: tuple[float, ...]
    spread: tuple[float, ...]
    truth: tuple[float, ...]
    by: str

    @property
    def rho(self) -> tuple[float, ...]:
        return tuple(s / t if t > 0 else 0.0 for s, t in zip(self.spread, self.truth, strict=True))

    @property
    def total(self) -> float:
        """Sum of the spreads over the sum of the truths; nan if the true spread is 0 at every level."""
        return sum(self.spread) / sum(self.truth) if sum(self.truth) > 0 else math.nan


@torch.no_grad()
@full_fp32()
def latent_spread(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    oracle: Denoiser | None = None,
    cond: Cond | Tensor | None = None,
    levels: Sequence[float] = LEVELS,
    m: int = 16,
    seed: int = 0,
    batch: int = 256,
) -> LatentSpread:
    """Measure the share of the true spread that the latent of a model carries.

        rho_t = E tr Cov_eta(x0_hat(eta)) / E tr Cov(x0 | x_t)    at each level of logsnr

    x0 : items [N, ...] that the model was not trained on.
    oracle : a denoiser with the true variance, if there is one. Without it the truth is estimated by E |x0 - mean|^2.
        The mean is the model's own, or that of its m draws. In the second case the spread / m of this average is
        subtracted.
    cond : the condition of each item.
    levels : the noise levels, as logsnr.
    m : draws for each item.
    batch : items for each call of the model, halved if the memory is too small; the result does not depend on it.

    Source: the collapse argument of `softmix.loss.PublishedSquare`.
    """
    pairs = [_level(denoiser, x0, oracle, cond, level, m, seed, batch) for level in levels]
    return LatentSpread(
        tuple(levels),
        tuple(s for s, _ in pairs),
        tuple(t for _, t in pairs),
        "residual" if oracle is None else "oracle",
    )


def _level(
    denoiser: Denoiser,
    x0: Tensor,
    oracle: Denoiser | None,
    cond: Cond | Tensor | None,
    level: float,
    m: int,
    seed: int,
    batch: int,
) -> tuple[float, float]:
    """The spread and the true spread per element at one noise level."""
    t = denoiser.process.time(level)

    def sums(low: int, high: int) -> tuple[float, float]:
        part = x0[low:high]
        # The role keeps its earlier name: another one would change every number.
        rng = Rng(seed, range(low, high), f"carried.{level}", x0.device)
        label = cond[low:high] if cond is not None else None
        noised = denoiser.process.noise(part, t, rng.child("noise"), label)
        posterior = denoiser(noised.xt, t, label)
        variances = (
            spread(posterior.draws(m, rng))
            if isinstance(posterior, Implicit | HasVariance)
            else torch.zeros(len(part), device=x0.device)
        )
        total = float(variances.sum())
        if oracle is not None:
            var = need(oracle(noised.xt, t, label), HasVariance, "the spread's oracle").var
            return total, float(var.expand_as(part).sum())
        if isinstance(posterior, HasMean):
            return total, float(((part - posterior.mean) ** 2).sum())
        mean = posterior.draws(m, rng).mean(0)
        return total, float(((part - mean) ** 2).sum() - variances.sum() / m)

    spreads, truths = map(sum, zip(*in_batches(sums, len(x0), batch, "item"), strict=True))
    return spreads / x0.numel(), max(truths, 0.0) / x0.numel()
