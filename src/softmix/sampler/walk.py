"""Walks over the process's bridge, one question a step."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise

from torch import Tensor

from ..posterior import HasMean, Posterior, need
from ..process import Gaussian
from ..rng import Rng
from .contract import Ask, declare


@declare("ancestral", order=None, needs=Posterior, per_element=True, cites=("ddpm", "ddim"))
def ancestral(
    process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, eta: float = 1.0
) -> Generator[Ask, Posterior, Tensor]:
    """x_s ~ q(x_s | x_t, x0) with x0 drawn from the posterior.

    If the posterior is the true one, every marginal is exact for any number of steps, one included, and
    for any eta. From a point it is DDPM's sampler (Ho et al. 2020) with the smaller of its two variances.
    The sampler for soft mixtures, mixtures and exact denoisers.
    """
    for t, s in pairwise(grid):
        posterior = yield Ask(t, x)
        x = process.bridge(x, posterior.sample(rng), t, s, rng, eta=eta)
    return x


@declare("renoise", order=None, needs=Posterior, per_element=True, cites=("consistency",))
def renoise(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """x_s = alpha_s x0 + sigma_s z with x0 drawn from the posterior and z all new.

    As exact as `ancestral` for a true posterior, and it forgets more: what one step got wrong, the noise of
    the next covers. The multistep sampler of consistency models, whose "draw" is the end of the ODE's path.
    Source: Song, Dhariwal, Chen & Sutskever, "Consistency models", ICML 2023, algorithm 1.
    """
    for t, s in pairwise(grid):
        posterior = yield Ask(t, x)
        x = process.noise(posterior.sample(rng), s, rng).xt
    return x


@declare("ddim", order=1, per_element=True, cites=("ddim",))
def ddim(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, eta: float = 0.0) -> Generator[Ask, Posterior, Tensor]:
    """x_s from the bridge with x0 at the posterior's mean: for eta = 0 a first-order step of the flow ODE.

    For a flow map, whose answer is the x0 that makes the step from t to s exact, a jump along the ODE.
    Source: Song, Meng & Ermon, "Denoising diffusion implicit models", ICLR 2021.
    """
    for t, s in pairwise(grid):
        posterior = need((yield Ask(t, x, s)), HasMean, "ddim")
        x = process.bridge(x, posterior.mean, t, s, rng, eta=eta)
    return x
