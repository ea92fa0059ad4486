"""The room of samplers: multistep solvers, which remember what they were told before."""

from __future__ import annotations

import math
from collections.abc import Generator
from itertools import pairwise

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


@declare("soft-2m", order=None, needs=Posterior, grid=few)
def soft_2m(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """DDIM's step with a draw of x0 where the belief has a spread; where it is a point, DPM-Solver++(2M).

    For soft mixtures that are soft at high noise alone (`Staged`): there a draw settles what the
    image is of, which a mean cannot; below, the posterior is narrow and a mean of second order is more exact.
    Every law that `ancestral` keeps it keeps too, while beliefs are soft; with points alone it is dpm-solver-2m.
    """
    before: Tensor | None = None
    clock = (process.logsnr(grid) / 2).tolist()
    for i, (t, s) in enumerate(pairwise(grid)):
        posterior = yield Ask(t, x)
        if isinstance(posterior, Point):
            x = process.bridge(x, _extrapolated(posterior.mean, before, clock, i), t, s, rng, eta=0)
            before = posterior.mean
        else:
            x = process.bridge(x, posterior.sample(rng), t, s, rng, eta=0)
            before = None
    return x


def _extrapolated(mean: Tensor, before: Tensor | None, clock: list[float], i: int) -> Tensor:
    """The mean half a step on, in the clock log(alpha / sigma); as it is in a first step and in one to t = 0."""
    if before is None or math.isinf(clock[i + 1]):
        return mean
    return torch.lerp(before, mean, 1 + (clock[i + 1] - clock[i]) / (2 * (clock[i] - clock[i - 1])))
