"""Measure the coefficients of DPM-Solver-v3 on data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from ..cond import Cond
from ..posterior import HasMean, HasVariance, need
from ..precision import full_fp32
from ..process import Gaussian, Table, one_clock
from ..rng import Rng
from ..sampler import Statistics
from ..shape import column, take

if TYPE_CHECKING:
    from ..denoiser import Denoiser

T = TypeVar("T")
# the largest |s|
MAX_S = 4.0
# the half width of differences along the flow, in log(alpha / sigma)
HALF_WIDTH = 0.02


@full_fp32()
def fit_statistics(
    denoiser: Denoiser,
    x0: Tensor,
    rng: Rng,
    nodes: int = 120,
    logsnr: tuple[float, float] = (-9.0, 9.0),
    cond: Cond | Tensor | None = None,
    batch: int = 256,
    look: Callable[[int], None] | None = None,
) -> Statistics:
    """Measure the statistics l, s, b of a denoiser for `dpm_solver_v3`.

    Let y = x / alpha, D the mean and lambda = log(alpha / sigma). Along the flow dy/dlambda = D - y:

        l = 1 - alpha E[diag dD/dx],   f = (1 - l) y - D,   s = Cov(f, f') / Var f,   b = E f' - s E f,

    for each element. f' is the derivative of f along the flow. Since dD/dx = (alpha / sigma^2) Cov[x0 | x], l is 1
    minus snr times the variance of the posterior. A denoiser with a variance gives it. For a denoiser without one it is
    measured by differences along one random direction for each item.

    denoiser : the model.
    x0 : data, [B, ...].
    rng : the noise, one stream for each item.
    nodes : the number of noise levels, at least 3.
    logsnr : the interval of log-SNR. It is cut to the range of the process; for a discrete model, to its first step.
    cond : the conditions of the items, [B].
    batch : the number of items in one evaluation.
    look : is called with 1 after each level, twice for each level in all.

    Costs 4 or 6 evaluations for each item and level.
    If f is constant over the data (Gaussian data), s = 0 and the step is exact. If f hardly varies, s is a ratio of two
    noises; it is clipped to [-4, 4]. Of exact models |s| was at most 2.1.
    Raises ValueError for fewer than 3 nodes, TypeError for a process with an alpha for each element.
    When to choose: once for each model that `dpm_solver_v3` samples.
    Source: Zheng et al., "DPM-Solver-v3", NeurIPS 2023, equations 57 to 63.
    """
    if nodes < 3:
        raise ValueError(f"{nodes} levels were asked for, and a curve needs at least 3: give nodes=3 or more")
    data = _NoisedData(denoiser, x0, rng, cond, batch)
    low, high = _within(data.process, *logsnr)
    clock = torch.linspace(low / 2, high / 2, nodes, dtype=torch.float64, device=x0.device)
    l = torch.stack(list(_reported((data.l(float(at)) for at in clock), look)))  # noqa: E741
    l_rate = _smooth(torch.gradient(l, spacing=(clock,), dim=0)[0], 5)
    lines = list(_reported((data.s_and_b(float(at), l[k], l_rate[k]) for k, at in enumerate(clock)), look))
    return Statistics(clock, l, *(torch.stack(part) for part in zip(*lines, strict=True)))


def _within(process: Gaussian, low: float, high: float) -> tuple[float, float]:
    """The part of an interval of logsnr inside the range of the process, with room for differences at its ends."""
    last = float(process.logsnr(1 / process.steps)) if isinstance(process, Table) else math.inf
    return max(low, float(process.logsnr(1.0)) + 2 * HALF_WIDTH), min(high, last - 2 * HALF_WIDTH)


def _reported(items: Iterable[T], look: Callable[[int], None] | None) -> Iterator[T]:
    for item in items:
        yield item
        if look is not None:
            look(1)


@dataclass(frozen=True, eq=False)
class _NoisedData:
    """A denoiser and its data. The same items have the same noise at every level."""

    denoiser: Denoiser
    x0: Tensor
    rng: Rng
    cond: Cond | Tensor | None
    batch: int

    @property
    def process(self) -> Gaussian:
        return one_clock(self.denoiser.process, "fit_statistics")

    def batches(self, t: Tensor) -> Iterator[tuple[Tensor, Rng, Cond | Tensor | None]]:
        """x_t of one batch after the other, with its rng and its conditions."""
        for low in range(0, len(self.x0), self.batch):
            rows = slice(low, low + self.batch)
            rng = self.rng.take(rows)
            yield self.process.noise(self.x0[rows], t, rng).xt, rng, take(self.cond, rows)

    def l(self, at: float) -> Tensor:  # noqa: E743
        """l = 1 - alpha E[diag dD/dx]."""
        t = self.process.time(2 * at)
        alpha, sigma = float(self.process.alpha(t)), float(self.process.sigma(t))
        total = torch.zeros(self.x0.shape[1:], dtype=torch.float64, device=self.x0.device)
        for xt, rng, cond in self.batches(t):
            with torch.no_grad():
                posterior = self.denoiser(xt, t, cond)
            if isinstance(posterior, HasVariance):
                total += (alpha / sigma**2) * posterior.var.double().expand(xt.shape).sum(0)
                continue
            direction = rng.integers(2, xt.shape).to(xt) * 2 - 1
            width = 0.02 * sigma
            ends = [_mean(self.denoiser, xt + side * width * direction, t, cond) for side in (1, -1)]
            total += (direction * (ends[0] - ends[1]) / (2 * width)).double().sum(0)
        return 1 - alpha * total / len(self.x0)

    def s_and_b(self, at: float, l: Tensor, l_rate: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741
        """s and b of f' = s f + b, by regression over the items."""
        t = self.process.time(2 * at)
        sums = torch.zeros(4, *self.x0.shape[1:], dtype=torch.float64, device=self.x0.device)
        for xt, _, cond in self.batches(t):
            mean = _mean(self.denoiser, xt, t, cond)
            ends = []
            for side in (HALF_WIDTH, -HALF_WIDTH):
                s = self.process.time(2 * (at + side))
                ends.append(_mean(self.denoiser, self.process.transfer(xt, mean, t, s), s, cond))
            mean_rate = (ends[0] - ends[1]).double() / (2 * HALF_WIDTH)
            y, d = (xt / column(self.process.alpha(t), xt)).double(), mean.double()
            f = (1 - l.to(y)) * y - d
            f_rate = -(1 - l.to(y)) * (y - d) - l_rate.to(y) * y - mean_rate
            sums += torch.stack([f, f_rate, f * f, f * f_rate]).sum(1)
        ef, er, eff, efr = sums / len(self.x0)
        variance = eff - ef**2
        s = torch.where(variance > 1e-6 * eff, (efr - ef * er) / variance, 0.0).clamp(-MAX_S, MAX_S)
        return s, er - s * ef


def _mean(denoiser: Denoiser, xt: Tensor, t: Tensor, cond: Cond | Tensor | None) -> Tensor:
    with torch.no_grad():
        return need(denoiser(xt, t, cond), HasMean, "the statistics of dpm-solver-v3").mean


def _smooth(values: Tensor, reach: int) -> Tensor:
    """The mean over the `reach` neighbours on either side, fewer at the ends."""
    return torch.stack([values[max(i - reach, 0) : i + reach + 1].mean(0) for i in range(len(values))])
