"""DDRM: a sampler that treats each singular value of the operator by its own noise level."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise

import torch
from torch import Tensor

from ..posterior import HasMean, Posterior, need
from ..process import Gaussian
from ..rng import Rng
from ..sampler import Ask, Sampler
from .instrument import Instrument
from .moments import linear
from .operator import DecomposedOperator


def ddrm(instrument: Instrument, y: Tensor, eta: float = 0.85, eta_b: float = 1.0) -> Sampler:
    """Denoising diffusion restoration. With A = U diag(s) V^T, write c = V^T x_t / alpha_t, d = V^T E[x0 | x_t],
    b = U^T y / s and u_t = sigma_t / alpha_t. The step to s' draws each coefficient from a normal law:

        s = 0                   mean d + sqrt(1 - eta^2) u_s' (c - d) / u_t          sd eta u_s'
        u_s' < sd / s           mean d + sqrt(1 - eta^2) u_s' (b - d) s / sd         sd eta u_s'
        u_s' >= sd / s          mean (1 - eta_b) d + eta_b b                         sd sqrt(u_s'^2 - (eta_b sd / s)^2)

    It starts at N(b, u^2 - (sd / s)^2) where s > 0 and y is that precise, and else at the given x.

    instrument : with a `DecomposedOperator` and Gaussian noise, else TypeError.
    y : [1 or B, *measured].
    eta, eta_b : in [0, 1].

    The spread of unmeasured coefficients is right for eta = 0 and many steps. With eta > 0 each step has a share of
    fresh noise, however short it is, so that more steps do not reach the law of the data: draws vary too little.
    Raises ValueError for another eta, and for alpha = 0 at the first time.
    When to choose: for linear measurements with a known decomposition, noisy ones too. One evaluation a step.
    Source: Kawar, Elad, Ermon & Song, "Denoising diffusion restoration models", NeurIPS 2022.
    """
    operator, sd = linear(instrument, "ddrm"), instrument.sd
    if not isinstance(operator, DecomposedOperator):
        raise TypeError(
            f"ddrm needs the singular values of the operator, and {type(operator).__name__} does not have them: use "
            "guided_by_pseudo_inverse or proximal"
        )
    if not (0 <= eta <= 1 and 0 <= eta_b <= 1):
        raise ValueError(f"eta = {eta} and eta_b = {eta_b} were asked for; both are in [0, 1]")

    def sampler(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
        s = operator.s_like(x)
        # an infinite noise stands for what is not measured
        noise = torch.where(s > 0, sd / torch.where(s > 0, s, 1), torch.inf)
        known = operator.into_measured(y.to(x)) / torch.where(s > 0, s, 1)
        alpha, level = _levels(process, grid[0])
        fresh = operator.into(rng.normal(x.shape, x.dtype).to(x.device))
        start = torch.where(
            noise <= level, known + (level**2 - noise.clamp(max=level) ** 2).sqrt() * fresh, operator.into(x) / alpha
        )
        x = alpha * operator.back(start)
        for t, after in pairwise(grid):
            d = operator.into(need((yield Ask(t, x)), HasMean, "ddrm").mean)
            (alpha, level), (alpha_next, next_level) = _levels(process, t), _levels(process, after)
            c = operator.into(x) / alpha
            fresh = operator.into(rng.normal(x.shape, x.dtype).to(x.device))
            kept = (1 - eta**2) ** 0.5 * next_level
            unseen = d + kept * (c - d) / level + eta * next_level * fresh
            noisier = d + kept * (known - d) / noise + eta * next_level * fresh
            width = (next_level**2 - eta_b**2 * noise.clamp(max=next_level) ** 2).clamp(min=0).sqrt()
            clearer = (1 - eta_b) * d + eta_b * known + width * fresh
            moved = torch.where(noise.isinf(), unseen, torch.where(noise > next_level, noisier, clearer))
            x = alpha_next * operator.back(moved)
        return x

    return sampler


def _levels(process: Gaussian, t: Tensor) -> tuple[float, float]:
    """alpha and sigma / alpha."""
    alpha, sigma = (float(value) for value in process.levels(t))
    if alpha == 0:
        raise ValueError(
            f"{type(process).__name__} has alpha = 0 at t = {float(t)}, and ddrm works with x_t / alpha: begin below "
            "that time"
        )
    return alpha, sigma / alpha
