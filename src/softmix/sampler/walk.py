"""Samplers that step over the bridge of the process, with one evaluation in each step."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise

from torch import Tensor

from ..posterior import HasMean, Posterior, need
from ..process import Gaussian
from ..rng import Rng
from .contract import Ask, declare


@declare(
    "ancestral", order=None, needs=Posterior, per_element=True, cites=("ddpm", "ddim"), interpolant=True, tokens=True
)
def ancestral(
    process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, eta: float = 1.0
) -> Generator[Ask, Posterior, Tensor]:
    """Draw x0 from the posterior, then step over the bridge: x_s ~ q(x_s | x_t, x0).

    eta : the share of fresh noise in a step, 0 to 1.

    From the true posterior every marginal is exact, for any number of steps, one included, and for any eta. From a
    point it is the sampler of DDPM (Ho et al. 2020) with the smaller of its two variances.
    Take it for soft mixtures, mixtures and exact denoisers.
    """
    for t, s in pairwise(grid):
        posterior = yield Ask(t, x)
        x = process.bridge(x, posterior.sample(rng), t, s, rng, eta=eta)
    return x


@declare("renoise", order=None, needs=Posterior, per_element=True, cites=("consistency",), tokens=True)
def renoise(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """Draw x0 from the posterior, then add new noise: x_s = alpha_s x0 + sigma_s z.

        x <- f(x_T, T)
        for n = 1 .. N-1:
            z ~ N(0, I)
            x_{tau_n} <- x + sqrt(tau_n^2 - epsilon^2) z
            x <- f(x_{tau_n}, tau_n)

    is the box of the paper, in the units of sigma (VE); f is the consistency model and its x a draw of x0.

    From the true posterior it is as exact as `ancestral`. It forgets more: the noise of the next step covers the errors
    of a step. It is the multistep sampler of consistency models.
    When to choose: for consistency models, and for exact posteriors. For a learned soft mixture `soft_adams` is better
    (docs/choose-a-sampler.md).
    Source: Song, Dhariwal, Chen & Sutskever, "Consistency models", ICML 2023, algorithm 1.
    """
    for t, s in pairwise(grid):
        posterior = yield Ask(t, x)
        x, later = posterior.sample(rng), float(s)
        # at t = 0 a process has no noise
        x = process.noise(x, later, rng).xt if later > 0 else x
    return x


@declare("ddim", order=1, per_element=True, cites=("ddim",))
def ddim(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, eta: float = 0.0) -> Generator[Ask, Posterior, Tensor]:
    """Step over the bridge with x0 at the mean of the posterior.

        x_{t-1} = sqrt(alpha_{t-1}) x0' + sqrt(1 - alpha_{t-1} - sigma_t^2) eps_theta(x_t) + sigma_t eps_t
        x0'     = (x_t - sqrt(1 - alpha_t) eps_theta(x_t)) / sqrt(alpha_t)
        sigma_t = eta sqrt((1 - alpha_{t-1}) / (1 - alpha_t)) sqrt(1 - alpha_t / alpha_{t-1})

    in the symbols of the paper. Its alpha is our alpha^2.

    eta : the share of fresh noise; with 0 this is a step of first order of the probability-flow ODE.

    For a flow map it is a jump along the ODE: its answer is the x0 that makes the step from t to s exact.
    When to choose: for flow maps (`MapHead`), and as the baseline of first order.
    Source: Song, Meng & Ermon, "Denoising diffusion implicit models", ICLR 2021, equations 12 and 16.
    """
    for t, s in pairwise(grid):
        posterior = need((yield Ask(t, x, s)), HasMean, "ddim")
        x = process.bridge(x, posterior.mean, t, s, rng, eta=eta)
    return x
