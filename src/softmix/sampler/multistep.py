"""The room of samplers: multistep solvers, which remember what they were told before."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise

from torch import Tensor

from ..posterior import HasMean, Posterior, need
from ..process import Gaussian
from ..rng import Rng
from ..shape import column
from .contract import Ask, declare


@declare("dpm-solver-2m", order=2)
def dpm_solver_2m(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """DPM-Solver++(2M): x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) D, with l = log(alpha / sigma),
    h = l_s - l_t, and D = m + (m - m_before) h / (2 h_before) for the means m.

    The first step and a last one to t = 0, where h is infinite, take D = m.
    Source: Lu et al., "DPM-Solver++", 2022, algorithm 2.
    """
    before: Tensor | None = None
    clock = process.logsnr(grid) / 2
    for i, (t, s) in enumerate(pairwise(grid)):
        mean = need((yield Ask(t, x)), HasMean, "dpm-solver-2m").mean
        guess = mean
        if before is not None and s > 0:
            guess = mean + (mean - before) * column((clock[i + 1] - clock[i]) / (2 * (clock[i] - clock[i - 1])), x)
        # with the mean moved to D, the exponential step is DDIM's
        x = process.bridge(x, guess, t, s, rng, eta=0)
        before = mean
    return x
