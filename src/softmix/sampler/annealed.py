"""Samplers of a density without training: annealed importance sampling, and Langevin's chain without correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..rng import Rng
from ..shape import column
from .weighted import LogDensity, WeightedSamples, log_normal


@dataclass(frozen=True, eq=False)
class _Point:
    """A state with log gamma and its gradient there: one call."""

    x: Tensor
    value: Tensor
    slope: Tensor

    @classmethod
    def at(cls, log_density: LogDensity, x: Tensor) -> _Point:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = log_density(x)
            (slope,) = torch.autograd.grad(value.sum(), x)
        return cls(x.detach(), value.detach(), slope)

    def where(self, taken: Tensor, other: _Point) -> _Point:
        """This state where `taken` [B] is true, else the other."""
        here = column(taken, self.x).bool()
        return _Point(
            torch.where(here, self.x, other.x),
            torch.where(taken, self.value, other.value),
            torch.where(here, self.slope, other.slope),
        )


@torch.no_grad()
def annealed_importance_samples(
    log_density: LogDensity,
    shape: tuple[int, ...],
    n: int,
    rng: Rng,
    levels: Sequence[float],
    step: float | Sequence[float],
    leaps: int = 1,
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
) -> WeightedSamples:
    """Annealed importance sampling from N(0, scale^2 I) to gamma along gamma_b = N(0, scale^2 I)^(1 - b) gamma^b.

        log w = sum_k (b_k - b_{k-1}) (log gamma - log N(0, scale^2 I))(x_{k-1})

    x_k comes from x_{k-1} by a Hamiltonian step that leaves gamma_(b_k) as it is: fresh momenta p ~ N(0, I), leapfrogs,
    and a choice by the change of the energy. E[w] = Z for every step size.

    log_density : log gamma, [B, *shape] -> [B].
    rng : serves n items.
    levels : b_0 = 0 < b_1 < ... < b_K = 1. There is no Hamiltonian step after the last.
    step : the size of a leapfrog, one or K - 1.
    leaps : leapfrogs of a Hamiltonian step. With 1 it is MALA with the step size step^2 / 2.

    Each sample costs 1 + (K - 1) leaps calls of the gradient.
    Raises ValueError for levels that do not rise from 0 to 1, and for other step sizes.
    Source: Neal, "Annealed importance sampling", Statistics and Computing 2001; Neal, "MCMC using Hamiltonian
    dynamics", 2011, section 5.2.
    When to choose: for log Z without training. Find `step` on a few samples: about 0.65 to 0.9 of the steps should be
    taken.
    """
    if len(levels) < 2 or levels[0] != 0 or levels[-1] != 1 or any(a >= b for a, b in pairwise(levels)):
        raise ValueError(f"levels rise from 0 to 1; found {list(levels)[:5]}")
    sizes = [step] * (len(levels) - 2) if isinstance(step, int | float) else list(step)
    if len(sizes) != len(levels) - 2 or any(size <= 0 for size in sizes) or leaps < 1:
        raise ValueError(
            f"{len(levels) - 2} step sizes above 0 and 1 leapfrog or more were expected; found {sizes[:5]} and {leaps}"
        )
    now = _Point.at(log_density, scale * rng.normal((n, *shape), dtype))
    log_weight = torch.zeros(n, dtype=torch.float64, device=now.x.device)
    for k, (before, level) in enumerate(pairwise(levels)):
        log_weight += (level - before) * (now.value - log_normal(now.x, scale)).double()
        if level < 1:
            now = _hamiltonian(log_density, now, rng, level, sizes[k], leaps, scale)
    return WeightedSamples(now.x, log_weight, 1 + (len(levels) - 2) * leaps)


def _hamiltonian(
    log_density: LogDensity, now: _Point, rng: Rng, level: float, step: float, leaps: int, scale: float
) -> _Point:
    """One step that leaves N(0, scale^2 I)^(1 - level) gamma^level as it is."""

    def force(point: _Point) -> Tensor:
        return level * point.slope - (1 - level) / scale**2 * point.x

    def energy(point: _Point, p: Tensor) -> Tensor:
        value = level * point.value + (1 - level) * log_normal(point.x, scale)
        return p.square().flatten(1).sum(1) / 2 - value

    p = rng.normal(now.x.shape, now.x.dtype)
    start, point = energy(now, p), now
    for _ in range(leaps):
        p = p + step / 2 * force(point)
        point = _Point.at(log_density, point.x + step * p)
        p = p + step / 2 * force(point)
    # a NaN is never taken
    taken = rng.uniform((len(now.x),), now.x.dtype).log() < start - energy(point, p)
    return point.where(taken, now)


@torch.no_grad()
def langevin_samples(
    log_density: LogDensity,
    shape: tuple[int, ...],
    n: int,
    rng: Rng,
    steps: int,
    step: float,
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The unadjusted Langevin algorithm from N(0, scale^2 I): x <- x + step grad log gamma(x) + sqrt(2 step) z.

    Its law has an error that does not vanish with more steps, and it gives no weights. Returns x [n, *shape].

    log_density : log gamma, [B, *shape] -> [B].
    rng : serves n items.
    steps : calls of the gradient for each sample.
    step : the step size, in the unit of x squared.

    Raises ValueError for a step size of 0 or below, and for less than 1 step.
    Source: Roberts & Tweedie, "Exponential convergence of Langevin distributions", Bernoulli 1996.
    When to choose: as a baseline, for moments.
    """
    if steps < 1 or step <= 0:
        raise ValueError(f"1 step or more and a step size above 0 were expected; found {steps} and {step}")
    x = scale * rng.normal((n, *shape), dtype)
    for _ in range(steps):
        x = x + step * _Point.at(log_density, x).slope + (2 * step) ** 0.5 * rng.normal(x.shape, x.dtype)
    return x
