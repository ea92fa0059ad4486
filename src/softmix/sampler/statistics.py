"""What DPM-Solver-v3 has to know of a model, measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..cond import Cond
from ..posterior import HasMean, HasVariance, need
from ..process import Gaussian, Table, one_clock
from ..rng import Rng
from ..shape import column, take

if TYPE_CHECKING:
    from ..denoiser import Denoiser

T = TypeVar("T")
STEEPEST = 4.0
# of differences along the flow, in log(alpha / sigma)
GAP = 0.02


@dataclass(frozen=True, eq=False)
class Statistics:
    """What DPM-Solver-v3 knows of a model: l, s, b by the clock log(alpha / sigma), one number for each element of x0.

    clock [N], rising, float64; l, s, b [N, *shape] or [N, 1, ...]. Between the times of `clock` they are straight
    lines. Outside nothing was measured: before the first l is 1, after the last it stays, and s and b are 0. (s is an
    exponent: carried on from a logsnr of -9 to the -20 where a grid may begin, it is e to the tenth.)
    """

    clock: Tensor
    l: Tensor  # noqa: E741
    s: Tensor
    b: Tensor

    def at(self, clock: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """l, s and b at these values of the clock, [n, ...] each."""
        where = clock.clamp(float(self.clock[0]), float(self.clock[-1]))
        upper = torch.searchsorted(self.clock, where).clamp(1, len(self.clock) - 1)
        low, high = self.clock[upper - 1], self.clock[upper]
        share = ((where - low) / (high - low)).reshape(-1, *[1] * (self.l.ndim - 1))
        l, s, b = (torch.lerp(part[upper - 1], part[upper], share) for part in (self.l, self.s, self.b))  # noqa: E741
        shape = (-1, *[1] * (self.l.ndim - 1))
        before = (clock < self.clock[0] - 1e-9).reshape(shape)
        known = ~before & (clock <= self.clock[-1] + 1e-9).reshape(shape)
        return torch.where(before, 1.0, l), torch.where(known, s, 0.0), torch.where(known, b, 0.0)

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file."""
        save_file({name: getattr(self, name).contiguous() for name in ("clock", "l", "s", "b")}, str(path))

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Reads what `save` wrote."""
        return cls(**load_file(str(path)))


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
    """The statistics of a denoiser on data x0 [B, ...], noised by `rng`.

    With y = x / alpha, D the mean and lambda = log(alpha / sigma), along the flow dy/dlambda = D - y:

        l = 1 - alpha E[diag dD/dx],   f = (1 - l) y - D,   s = Cov(f, f') / Var f,   b = E f' - s E f,

    for each element, f' the derivative of f along the flow. As dD/dx = (alpha / sigma^2) Cov[x0 | x], l is 1 minus snr
    times the posterior's variance, which is taken from the denoiser if it has one; else it is measured by differences
    along one random direction for each item. Costs 4 or 6 evaluations for each item and node. `logsnr` is cut to what
    the process has, of a discrete model to its first step.
    Where f does not vary (Gaussian data), s = 0: the step is then exact. Where it hardly does, s is a ratio of noises,
    and is kept within 4 of 0; of exact models it was within 2.1.
    Source: Zheng et al., "DPM-Solver-v3", NeurIPS 2023, equations 57 to 63.
    """
    if nodes < 3:
        raise ValueError(f"{nodes} levels were asked for; curves need at least 3")
    source = _Source(denoiser, x0, rng, cond, batch)
    low, high = _within(source.process, *logsnr)
    clock = torch.linspace(low / 2, high / 2, nodes, dtype=torch.float64)
    slopes = torch.stack(list(_seen((source.slope(float(at)) for at in clock), look)))
    change = _smooth(torch.gradient(slopes, spacing=(clock,), dim=0)[0], 5)
    lines = list(_seen((source.line(float(at), slopes[k], change[k]) for k, at in enumerate(clock)), look))
    return Statistics(clock, slopes, *(torch.stack(part) for part in zip(*lines, strict=True)))


def _within(process: Gaussian, low: float, high: float) -> tuple[float, float]:
    """The part of an interval of logsnr that the process has, with room for differences at its ends."""
    last = float(process.logsnr(1 / process.steps)) if isinstance(process, Table) else math.inf
    return max(low, float(process.logsnr(1.0)) + 2 * GAP), min(high, last - 2 * GAP)


def _seen(each: Iterable[T], look: Callable[[int], None] | None) -> Iterator[T]:
    for item in each:
        yield item
        if look is not None:
            look(1)


@dataclass(frozen=True, eq=False)
class _Source:
    """The denoiser on its data, the same items with the same noise at every level."""

    denoiser: Denoiser
    x0: Tensor
    rng: Rng
    cond: Cond | Tensor | None
    batch: int

    @property
    def process(self) -> Gaussian:
        return one_clock(self.denoiser.process, "fit_statistics")

    def parts(self, t: Tensor) -> Iterator[tuple[Tensor, Rng, Cond | Tensor | None]]:
        """x_t of some items at a time, their rng and their conditions."""
        for low in range(0, len(self.x0), self.batch):
            rows = slice(low, low + self.batch)
            rng = self.rng.take(rows)
            yield self.process.noise(self.x0[rows], t, rng).xt, rng, take(self.cond, rows)

    def slope(self, at: float) -> Tensor:
        """l = 1 - alpha E[diag dD/dx]."""
        t = self.process.time(2 * at)
        alpha, sigma = float(self.process.alpha(t)), float(self.process.sigma(t))
        total = torch.zeros(self.x0.shape[1:], dtype=torch.float64)
        for xt, rng, told in self.parts(t):
            with torch.no_grad():
                posterior = self.denoiser(xt, t, told)
            if isinstance(posterior, HasVariance):
                total += (alpha / sigma**2) * posterior.var.double().expand(xt.shape).sum(0).cpu()
                continue
            way = rng.integers(2, xt.shape).to(xt) * 2 - 1
            small = 0.02 * sigma
            ends = [_mean(self.denoiser, xt + side * small * way, t, told) for side in (1, -1)]
            total += (way * (ends[0] - ends[1]) / (2 * small)).double().sum(0).cpu()
        return 1 - alpha * total / len(self.x0)

    def line(self, at: float, slope: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """s and b of f' = s f + b, by regression over the items."""
        t = self.process.time(2 * at)
        sums = torch.zeros(4, *self.x0.shape[1:], dtype=torch.float64)
        for xt, _, told in self.parts(t):
            mean = _mean(self.denoiser, xt, t, told)
            ends = []
            for side in (GAP, -GAP):
                s = self.process.time(2 * (at + side))
                ends.append(_mean(self.denoiser, self.process.transfer(xt, mean, t, s), s, told))
            drift = (ends[0] - ends[1]).double() / (2 * GAP)
            y, d = (xt / column(self.process.alpha(t), xt)).double(), mean.double()
            f = (1 - slope.to(y)) * y - d
            rate = -(1 - slope.to(y)) * (y - d) - change.to(y) * y - drift
            sums += torch.stack([f, rate, f * f, f * rate]).sum(1).cpu()
        ef, er, eff, efr = sums / len(self.x0)
        spread = eff - ef**2
        s = torch.where(spread > 1e-6 * eff, (efr - ef * er) / spread, 0.0).clamp(-STEEPEST, STEEPEST)
        return s, er - s * ef


def _mean(denoiser: Denoiser, xt: Tensor, t: Tensor, cond: Cond | Tensor | None) -> Tensor:
    with torch.no_grad():
        return need(denoiser(xt, t, cond), HasMean, "the statistics of dpm-solver-v3").mean


def _smooth(values: Tensor, reach: int) -> Tensor:
    """The mean over `reach` neighbours to either side, as many as there are."""
    ends = range(len(values))
    return torch.stack([values[max(i - reach, 0) : i + reach + 1].mean(0) for i in ends])
