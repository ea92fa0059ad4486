"""One-step solvers of the probability-flow ODE, which ask several times a step."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise

import torch
from torch import Tensor

from ..posterior import HasMean, Posterior, need
from ..process import Gaussian, few
from ..rng import Rng
from ..shape import column
from .average import averaged, clock_of
from .contract import Ask, declare


@declare("heun", order=2, evaluations=lambda n: 2 * n - 1, grid=few, per_element=True, cites=("edm",))
def heun(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """Heun's rule in y = x / r against the angle phi, where (alpha, sigma) = r (cos phi, sin phi) and
    dy/dphi = (alpha eps_hat - sigma mean) / r: two questions a step, but the last one to t = 0, which is DDIM's.

    The guess is DDIM's. In the variable sigma / alpha of the source, the first step from logsnr = -20 is
    thousands long and few steps explode; the angle never is longer than pi / 2.
    Source: Karras et al., "Elucidating the design space of diffusion-based generative models", 2022, alg. 1.
    """
    for t, s in pairwise(grid):
        mean = need((yield Ask(t, x)), HasMean, "heun").mean
        guess = process.bridge(x, mean, t, s, rng, eta=0)
        if s == 0:
            return guess
        there = need((yield Ask(s, guess)), HasMean, "heun").mean
        slope = (_slope(process, x, mean, t) + _slope(process, guess, there, s)) / 2
        turn = _angle(process, s) - _angle(process, t)
        x = column(_radius(process, s), x) * (x / column(_radius(process, t), x) + column(turn, x) * slope)
    return x


@declare("dpm-solver-2s", order=2, evaluations=lambda n: 2 * n - 1, grid=few, per_element=True, cites=("dpm_solver",))
def dpm_solver_2s(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """DPM-Solver++(2S): the exponential step with the mean half way on, in log(alpha / sigma), where DDIM's step leads.

    Two questions a step; a last step to t = 0 has no half way, and is DDIM's.
    Source: Lu et al., "DPM-Solver++", 2022, algorithm 1 with r = 1/2.
    """
    for t, s in pairwise(grid):
        mean = need((yield Ask(t, x)), HasMean, "dpm-solver-2s").mean
        if s > 0:
            half = between(process, t, s, 1 / 2)
            guess = process.bridge(x, mean, t, half, rng, eta=0)
            mean = need((yield Ask(half, guess)), HasMean, "dpm-solver-2s").mean
        x = process.bridge(x, mean, t, s, rng, eta=0)
    return x


@declare(
    "dpm-solver-3s",
    order=3,
    evaluations=lambda n: 3 * n - 2,
    grid=few,
    per_element=True,
    cites=("dpm_solver_1", "dpm_solver"),
)
def dpm_solver_3s(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """DPM-Solver++(3S): means at a third and two thirds of the step, each where the line through the ones before leads.

    Three questions a step; a last step to t = 0 is DDIM's.
    Source: Lu et al., "DPM-Solver++", 2022, appendix B; Lu et al., "DPM-Solver", 2022, algorithm 2.
    """
    who = "dpm-solver-3s"
    for t, s in pairwise(grid):
        first = need((yield Ask(t, x)), HasMean, who).mean
        if s == 0:
            return process.bridge(x, first, t, s, rng, eta=0)
        third, thirds = between(process, t, s, 1 / 3), between(process, t, s, 2 / 3)
        here, *later = clock_of(process, torch.stack([t, third, thirds, s]))
        first_node, second_node, h = (level - here for level in later)
        mean = need((yield Ask(third, process.bridge(x, first, t, third, rng, eta=0))), HasMean, who).mean
        mean = averaged([first, mean], [0.0, first_node], second_node)
        mean = need((yield Ask(thirds, process.bridge(x, mean, t, thirds, rng, eta=0))), HasMean, who).mean
        x = process.bridge(x, averaged([first, mean], [0.0, second_node], h), t, s, rng, eta=0)
    return x


def between(process: Gaussian, t: Tensor, s: Tensor, share: float) -> Tensor:
    """The time that far on from t to s in logsnr."""
    return process.time(torch.lerp(process.logsnr(t), process.logsnr(s), share))


def _radius(process: Gaussian, t: Tensor) -> Tensor:
    return torch.hypot(process.alpha(t), process.sigma(t))


def _angle(process: Gaussian, t: Tensor) -> Tensor:
    return torch.atan2(process.sigma(t), process.alpha(t))


def _slope(process: Gaussian, x: Tensor, mean: Tensor, t: Tensor) -> Tensor:
    """dy/dphi with eps_hat = (x - alpha mean) / sigma put in: (alpha x - r^2 mean) / (sigma r)."""
    alpha, sigma, radius = process.alpha(t), process.sigma(t), _radius(process, t)
    return column(alpha / (sigma * radius), x) * x - column(radius / sigma, x) * mean
