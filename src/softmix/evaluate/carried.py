"""How much of the true spread of x0 a model's latent carries, by noise level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cond import Cond
from ..denoiser import Denoiser
from ..posterior import HasMean, HasVariance, Implicit, need
from ..posterior.implicit import spread
from ..rng import Rng

LEVELS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)


@dataclass(frozen=True)
class Carried:
    """rho at each logsnr: the draws' variance over the true one; 0 is a collapsed mixture and 1 the truth.

    spread, truth : E tr Cov_eta(x0_hat) and E tr Cov(x0 | x_t), per element. by : "oracle" if the truth is
    known exactly, "residual" if it is the squared error of the model's own mean on held-out data, which is
    too large by the squared error of that mean, so that rho is then a lower bound.
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
        """The levels together, each with the weight of its true spread: sum of spreads over sum of truths; nan if there
        is no true spread at any."""
        return sum(self.spread) / sum(self.truth) if sum(self.truth) > 0 else math.nan


@torch.no_grad()
def carried(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    oracle: Denoiser | None = None,
    cond: Cond | Tensor | None = None,
    levels: Sequence[float] = LEVELS,
    m: int = 16,
    seed: int = 0,
    batch: int = 256,
) -> Carried:
    """rho_t = E tr Cov_eta(x0_hat(eta)) / E tr Cov(x0 | x_t) at each level of logsnr.

    x0 [N, ...] : items that the model was not trained on. oracle : a denoiser with the true variance, if there
    is one. Without it the truth is estimated by E |x0 - mean|^2, where the mean is the model's own or that of
    its m draws (then less the spread / m that this average has by itself).
    Source: the collapse argument of `softmix.loss.PublishedSquare`.
    """
    rows = [_level(denoiser, x0, oracle, cond, level, m, seed, batch) for level in levels]
    return Carried(
        tuple(levels),
        tuple(s for s, _ in rows),
        tuple(t for _, t in rows),
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
    t = denoiser.process.time(level)
    spreads, truths = 0.0, 0.0
    for start in range(0, len(x0), batch):
        part = x0[start : start + batch]
        rng = Rng(seed, range(start, start + len(part)), f"carried.{level}", x0.device)
        label = cond[start : start + batch] if cond is not None else None
        noised = denoiser.process.noise(part, t, rng.child("noise"), label)
        posterior = denoiser(noised.xt, t, label)
        varied = (
            spread(posterior.draws(m, rng)) if isinstance(posterior, Implicit | HasVariance) else torch.zeros(len(part))
        )
        spreads += float(varied.sum())
        if oracle is not None:
            var = need(oracle(noised.xt, t, label), HasVariance, "the spread's oracle").var
            truths += float(var.expand_as(part).sum())
        elif isinstance(posterior, HasMean):
            truths += float(((part - posterior.mean) ** 2).sum())
        else:
            mean = posterior.draws(m, rng).mean(0)
            truths += float(((part - mean) ** 2).sum() - varied.sum() / m)
    return spreads / x0.numel(), max(truths, 0.0) / x0.numel()
