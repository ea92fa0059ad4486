"""One-step solvers of the probability-flow ODE, with two or three evaluations in each step."""

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
    """Heun's rule for the probability-flow ODE, in an angle.

    With (alpha, sigma) = r (cos phi, sin phi) and y = x / r the ODE is dy/dphi = (alpha eps_hat - sigma mean) / r. One
    step from t_i to t_{i+1}, in the symbols of the paper:

        d_i      = dy/dphi at (x_i, t_i)
        x_{i+1}  = x_i moved to t_{i+1} by DDIM           # the guess
        if t_{i+1} != 0:
            d'_i     = dy/dphi at (x_{i+1}, t_{i+1})
            y_{i+1}  = y_i + (phi_{i+1} - phi_i) (d_i + d'_i) / 2

    The paper takes sigma / alpha for phi, and Euler's step for the guess. In that variable the first step from logsnr =
    -20 is thousands long, and few steps diverge. The angle is at most pi / 2.
    Two evaluations in each step, but one in a last step to t = 0.
    When to choose: as a reference of second order. At few evaluations multistep solvers are better.
    Source: Karras et al., "Elucidating the design space of diffusion-based generative models", 2022, alg. 1.
    """
    for t, s in pairwise(grid):
        mean = need((yield Ask(t, x)), HasMean, "heun").mean
        guess = process.bridge(x, mean, t, s, rng, eta=0)
        if s == 0:
            return guess
        mean_at_s = need((yield Ask(s, guess)), HasMean, "heun").mean
        slope = (_slope(process, x, mean, t) + _slope(process, guess, mean_at_s, s)) / 2
        turn = _angle(process, s) - _angle(process, t)
        x = column(_radius(process, s), x) * (x / column(_radius(process, t), x) + column(turn, x) * slope)
    return x


@declare("dpm-solver-2s", order=2, evaluations=lambda n: 2 * n - 1, grid=few, per_element=True, cites=("dpm_solver",))
def dpm_solver_2s(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """DPM-Solver++(2S): the exponential step with the mean at its middle, in lambda = log(alpha / sigma).

        h_i = lambda_{t_i} - lambda_{t_{i-1}},   s_i = t_lambda(lambda_{t_{i-1}} + r h_i),   r = 1/2
        u_i = (sigma_{s_i} / sigma_{t_{i-1}}) x_{i-1} - alpha_{s_i} (e^{-r h_i} - 1) x_theta(x_{i-1}, t_{i-1})
        D_i = (1 - 1/(2r)) x_theta(x_{i-1}, t_{i-1}) + (1/(2r)) x_theta(u_i, s_i)
        x_i = (sigma_{t_i} / sigma_{t_{i-1}}) x_{i-1} - alpha_{t_i} (e^{-h_i} - 1) D_i

    Two evaluations in each step. A last step to t = 0 has no middle; it is the step of DDIM.
    When to choose: to compare. Below 16 evaluations multistep solvers are better (docs/choose-a-sampler.md).
    Source: Lu et al., "DPM-Solver++", 2022, algorithm 1 with r = 1/2.
    """
    for t, s in pairwise(grid):
        mean = need((yield Ask(t, x)), HasMean, "dpm-solver-2s").mean
        if s > 0:
            middle = between(process, t, s, 1 / 2)
            guess = process.bridge(x, mean, t, middle, rng, eta=0)
            mean = need((yield Ask(middle, guess)), HasMean, "dpm-solver-2s").mean
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
    """DPM-Solver++(3S): the exponential step with means at a third and at two thirds of it.

        r_1 = 1/3,   r_2 = 2/3,   s_1, s_2 = the times at lambda + r_1 h and lambda + r_2 h
        u_1 = (sigma_{s_1} / sigma_t) x - alpha_{s_1} (e^{-r_1 h} - 1) x_theta(x, t)
        D_1 = x_theta(u_1, s_1) - x_theta(x, t)
        u_2 = (sigma_{s_2} / sigma_t) x - alpha_{s_2} (e^{-r_2 h} - 1) x_theta(x, t)
              + (r_2 / r_1) alpha_{s_2} ((e^{-r_2 h} - 1) / (r_2 h) + 1) D_1
        D_2 = x_theta(u_2, s_2) - x_theta(x, t)
        x_s = (sigma_s / sigma_t) x - alpha_s (e^{-h} - 1) x_theta(x, t)
              + (1 / r_2) alpha_s ((e^{-h} - 1) / h + 1) D_2

    Three evaluations in each step. A last step to t = 0 is the step of DDIM.
    When to choose: to compare. Below 16 evaluations multistep solvers are better (docs/choose-a-sampler.md).
    Source: Lu et al., "DPM-Solver++", 2022, appendix B; Lu et al., "DPM-Solver", 2022, algorithm 2.
    """
    who = "dpm-solver-3s"
    for t, s in pairwise(grid):
        first = need((yield Ask(t, x)), HasMean, who).mean
        if s == 0:
            return process.bridge(x, first, t, s, rng, eta=0)
        time_1, time_2 = between(process, t, s, 1 / 3), between(process, t, s, 2 / 3)
        here, *later = clock_of(process, torch.stack([t, time_1, time_2, s]))
        node_1, node_2, h = (level - here for level in later)
        mean = need((yield Ask(time_1, process.bridge(x, first, t, time_1, rng, eta=0))), HasMean, who).mean
        mean = averaged([first, mean], [0.0, node_1], node_2)
        mean = need((yield Ask(time_2, process.bridge(x, mean, t, time_2, rng, eta=0))), HasMean, who).mean
        x = process.bridge(x, averaged([first, mean], [0.0, node_2], h), t, s, rng, eta=0)
    return x


def between(process: Gaussian, t: Tensor, s: Tensor, share: float) -> Tensor:
    """The time at this share of the way from t to s, in logsnr."""
    return process.time(torch.lerp(process.logsnr(t), process.logsnr(s), share))


def _radius(process: Gaussian, t: Tensor) -> Tensor:
    return torch.hypot(process.alpha(t), process.sigma(t))


def _angle(process: Gaussian, t: Tensor) -> Tensor:
    return torch.atan2(process.sigma(t), process.alpha(t))


def _slope(process: Gaussian, x: Tensor, mean: Tensor, t: Tensor) -> Tensor:
    """dy/dphi with eps_hat = (x - alpha mean) / sigma: (alpha x - r^2 mean) / (sigma r)."""
    alpha, sigma, radius = process.alpha(t), process.sigma(t), _radius(process, t)
    return column(alpha / (sigma * radius), x) * x - column(radius / sigma, x) * mean
