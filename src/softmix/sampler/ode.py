"""The room of samplers: one-step solvers of the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise

from torch import Tensor

from ..posterior import HasMean, Posterior, need
from ..process import Gaussian
from ..rng import Rng
from ..shape import column
from .contract import Ask, declare


@declare("heun", order=2)
def heun(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """Heun's rule in u = x / alpha against k = sigma / alpha, where du/dk = eps_hat: two questions a step, but
    the last one to t = 0, which is DDIM's.

    Source: Karras et al., "Elucidating the design space of diffusion-based generative models", 2022, alg. 1.
    """
    for t, s in pairwise(grid):
        alpha, sigma = process.alpha(t), process.sigma(t)
        mean = need((yield Ask(t, x)), HasMean, "heun").mean
        if s == 0:
            return process.bridge(x, mean, t, s, rng, eta=0)
        slope = (x - column(alpha, x) * mean) / column(sigma, x)
        step = column(process.sigma(s) / process.alpha(s) - sigma / alpha, x)
        u = x / column(alpha, x)
        guess = column(process.alpha(s), x) * (u + step * slope)
        there = need((yield Ask(s, guess)), HasMean, "heun").mean
        slope_there = (guess - column(process.alpha(s), x) * there) / column(process.sigma(s), x)
        x = column(process.alpha(s), x) * (u + step * (slope + slope_there) / 2)
    return x


