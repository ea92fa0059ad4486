"""The room of samplers: multistep solvers, which remember what they were told before."""

from __future__ import annotations

import math
from collections.abc import Generator
from functools import lru_cache
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..posterior import HasMean, Point, Posterior, need
from ..process import Gaussian, few
from ..rng import Rng
from .contract import Ask, declare


@declare("dpm-solver-2m", order=2, grid=few)
def dpm_solver_2m(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """DPM-Solver++(2M): x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) D, with l = log(alpha / sigma),
    h = l_s - l_t, and D = m + (m - m_before) h / (2 h_before) for the means m.

    The first step and a last one to t = 0, where h is infinite, take D = m.
    Source: Lu et al., "DPM-Solver++", 2022, algorithm 2.
    """
    before: Tensor | None = None
    clock = (process.logsnr(grid) / 2).tolist()
    for i, (t, s) in enumerate(pairwise(grid)):
        mean = need((yield Ask(t, x)), HasMean, "dpm-solver-2m").mean
        # with the mean moved to D, the exponential step is DDIM's
        x = process.bridge(x, _extrapolated(mean, before, clock, i), t, s, rng, eta=0)
        before = mean
    return x


@declare("adams", order=3, grid=few)
def adams(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """Exponential Adams rule: a predictor through two means, a corrector through three, at one evaluation a step.

        x_s = (sigma_s / sigma_t) x_t + alpha_s int_0^h e^(u-h) m(u) du,   u = l - l_t,  l = log(alpha / sigma),

    with m the polynomial through means at the newest times: first those at t and before, and when the mean at s is
    known the step to s is taken again with that one too. The integral is exact for the polynomial, for any h.
    dpm-solver-2m and UniPC's shortcuts have its limit for small h: at 4 to 8 steps, where h is 1 to 3, much of
    their error is that.

    A first step, and a last one to t = 0, where h is infinite, take the newest mean alone.
    Source: Xue et al., "SA-Solver", NeurIPS 2023, with tau = 0; Hochbruck & Ostermann, "Exponential integrators", 2010.
    """
    return (yield from _adams(process, x, grid, rng, soft=False))


@declare("soft-adams", order=None, needs=Posterior, grid=few)
def soft_adams(
    process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, below: int = 8
) -> Generator[Ask, Posterior, Tensor]:
    """DDIM's step with a draw of x0 where the belief has a spread; where it is a point, `adams`.

    For soft mixtures that are soft at high noise alone (`Staged`): there a draw settles what the image is of,
    which a mean cannot; underneath, the posterior is narrow and a mean and a good solver are more exact. Every
    law that `ancestral` keeps it keeps too, while beliefs are soft; with points alone it is `adams`.

    With `below` steps or more, of a learned model, no single step is long enough for a draw to say more than the mean
    (docs/experiments.md), and a belief that has a mean is solved by it all the way, with a solver's error.
    """
    return (yield from _adams(process, x, grid, rng, soft=True, mean=len(grid) > below))


def _adams(
    process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, soft: bool, mean: bool = True
) -> Generator[Ask, Posterior, Tensor]:
    """`soft`: beliefs may be drawn from; `mean`: and yet those that have a mean are not."""
    clock = (process.logsnr(grid) / 2).tolist()
    means: list[Tensor] = []
    start = x
    for i, (t, s) in enumerate(pairwise(grid)):
        posterior = yield Ask(t, x)
        if soft and not isinstance(posterior, HasMean if mean else Point):
            x, means = process.bridge(x, posterior.sample(rng), t, s, rng, eta=0), []
            continue
        means = [*means, need(posterior, HasMean, "adams").mean][-3:]
        if len(means) > 1:
            x = process.bridge(start, _averaged(means, clock[: i + 1], i - 1), grid[i - 1], t, rng, eta=0)
        start = x
        # with the mean's average over the step in its place, the exponential step is DDIM's
        x = process.bridge(x, _averaged(means[-2:], clock[: i + 1], i, clock[i + 1]), t, s, rng, eta=0)
    return x


def _averaged(means: list[Tensor], clock: list[float], i: int, end: float | None = None) -> Tensor:
    """The average over the step from clock[i] to `end` of the polynomial through means at the last of these times."""
    end = clock[i + 1] if end is None else end
    if len(means) == 1 or math.isinf(end):
        return means[-1]
    weights = _weights(tuple(at - clock[i] for at in clock[-len(means) :]), end - clock[i])
    return cast(Tensor, sum(weight * mean for weight, mean in zip(weights, means, strict=True)))


@lru_cache(maxsize=4096)
def _weights(nodes: tuple[float, ...], h: float) -> tuple[float, ...]:
    """int_0^h e^(u-h) l_k(u) du / int_0^h e^(u-h) du for the Lagrange polynomials l_k of these nodes."""
    places, shares = np.polynomial.legendre.leggauss(24)
    u = (places + 1) * h / 2
    shares = shares * np.exp(u - h)
    found = [shares @ np.prod([(u - b) / (a - b) for b in nodes if b != a], axis=0) for a in nodes]
    return tuple(float(weight / shares.sum()) for weight in found)


def _extrapolated(mean: Tensor, before: Tensor | None, clock: list[float], i: int) -> Tensor:
    """The mean half a step on, in the clock log(alpha / sigma); as it is in a first step and in one to t = 0."""
    if before is None or math.isinf(clock[i + 1]):
        return mean
    return torch.lerp(before, mean, 1 + (clock[i + 1] - clock[i]) / (2 * (clock[i] - clock[i - 1])))
