"""The room of samplers: one-step solvers of the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise

import torch
from torch import Tensor

from ..posterior import HasMean, Posterior, need
from ..process import Gaussian
from ..rng import Rng
from ..shape import column
from .contract import Ask, declare


@declare("heun", order=2, evaluations=lambda n: 2 * n - 1)
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


def _radius(process: Gaussian, t: Tensor) -> Tensor:
    return torch.hypot(process.alpha(t), process.sigma(t))


def _angle(process: Gaussian, t: Tensor) -> Tensor:
    return torch.atan2(process.sigma(t), process.alpha(t))


def _slope(process: Gaussian, x: Tensor, mean: Tensor, t: Tensor) -> Tensor:
    """dy/dphi with eps_hat = (x - alpha mean) / sigma put in: (alpha x - r^2 mean) / (sigma r)."""
    alpha, sigma, radius = process.alpha(t), process.sigma(t), _radius(process, t)
    return column(alpha / (sigma * radius), x) * x - column(radius / sigma, x) * mean
