"""Samplers for stochastic interpolants: the ODE, and the SDE with any strength of noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from functools import lru_cache
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..posterior import HasMean, HasNoise, Posterior, need
from ..process import Gaussian, Interpolant, Process, one_clock
from ..rng import Rng
from ..shape import column
from .contract import Ask, SamplerError, declare

Strength = float | Callable[[Tensor], Tensor]
# beyond this logit of t the renewal of the noise is complete, or there is none
_REACH = 30.0


@declare("epsilon", order=1, cites=("stochastic_interpolants",), interpolant=True)
def epsilon(
    process: Gaussian | Interpolant, x: Tensor, grid: Tensor, rng: Rng, eps: Strength = 0.0
) -> Generator[Ask, Posterior, Tensor]:
    """The ODE, or the SDE with any eps(t), of a stochastic interpolant, in steps of first order.

        dX = b dt                             for eps = 0,
        dX = (b - eps s) dt + sqrt(2 eps) dW  with dt below 0, from t = 1 to t = 0

    All have the marginals of the process. A step forms x_s from the conditional means at x_t:

        x_s = a_s x_0 + k (x_t - a_t x_0 - gamma_t z) + gamma_s (e^-h z + sqrt(1 - e^-2h) fresh)
        k = b_s / b_t,   h = int_s^t eps(u) / gamma(u)^2 du

    For fixed ends x_0 and x_1 this is the exact solution of the SDE, for any step. So with joint draws of (x_0, z) in
    the place of the means the marginals would be exact. Nothing divides by gamma, and t = 0 and 1 need no clipping. On
    the linear path with Brownian gamma, eps = c / 2 is the step of `Interpolant.bridge`.

    eps : eps(t), a number of at least 0, or a function from times to numbers.

    A Gaussian process is a one-sided interpolant with b = 0 and gamma = sigma. eps = 0 is then `ddim`.

    The posterior of an Interpolant needs the mean of the latent noise (`NoiseHead`), unless c = 0.
    Raises SamplerError for eps above 0 without latent noise, and for eps below 0.
    When to choose: with eps = 0, as a deterministic map between two data sets. With eps above 0, against the errors of
    a learned model, at many evaluations: they do less harm than in the ODE (`softmix papers stochastic_interpolants`).
    Source: Albergo, Boffi & Vanden-Eijnden, "Stochastic interpolants", 2023, sections 2 and 3. The authors' code takes
    Euler's and Heun's steps on [1e-3, 1 - 1e-3].
    """
    if eps != 0 and not _has_noise(process):
        raise SamplerError(f"eps renews latent noise, and {process} has none: leave eps at 0, or give c above 0")
    for t, s in pairwise(grid):
        mean, noise = _means(process, x, t, (yield Ask(t, x)), "epsilon")
        kept = math.exp(-renewal(process, float(t), float(s), eps))
        gamma = float(_parts(process, s)[2])
        x = _moved(process, x, mean, noise, t, s, kept)
        if kept < 1 and gamma > 0:
            x = x + gamma * math.sqrt(1 - kept**2) * rng.normal(x.shape, x.dtype).to(x.device)
    return x


@declare(
    "interpolant-heun",
    order=2,
    evaluations=lambda n: 2 * n - 1,
    cites=("stochastic_interpolants",),
    interpolant=True,
)
def interpolant_heun(
    process: Gaussian | Interpolant, x: Tensor, grid: Tensor, rng: Rng
) -> Generator[Ask, Posterior, Tensor]:
    """Heun's rule for the ODE of an `Interpolant`: the trapezoid rule in a, b and gamma.

        x_s = x_t + (a_s - a_t) x_0 + (b_s - b_t) x_1 + (gamma_s - gamma_t) z

    with each of x_0, x_1 and z the average of its conditional means at the beginning and at the end of the step. The
    guess of the end is a step of `epsilon`. In this form gamma' = c (1 - 2t) / (2 gamma) is never needed, which is
    infinite at both ends for Brownian gamma.

    Two evaluations in each step, but one in the last step, to t = 0, which is the guess.
    Raises SamplerError for another process.
    When to choose: for the deterministic map with few errors of discretisation.
    Source: Albergo, Boffi & Vanden-Eijnden, "Stochastic interpolants", 2023, section 2, for the ODE.
    """
    if not isinstance(process, Interpolant):
        raise SamplerError(f"interpolant-heun is for an Interpolant, and found {type(process).__name__}: take heun")
    for t, s in pairwise(grid):
        here = _means(process, x, t, (yield Ask(t, x)), "interpolant-heun")
        guess = _moved(process, x, *here, t, s, 1.0)
        if s == 0:
            return guess
        there = _means(process, guess, s, (yield Ask(s, guess)), "interpolant-heun")
        x1s = [each for each in (_x1(process, x, *here, t), _x1(process, guess, *there, s)) if each is not None]
        a, b, gamma = (float(end - start) for start, end in zip(process.parts(t), process.parts(s), strict=True))
        x = x + a / 2 * (here[0] + there[0]) + gamma / 2 * (here[1] + there[1])
        if x1s:
            x = x + b * cast(Tensor, sum(x1s)) / len(x1s)
    return x


def velocity(process: Process, x: Tensor, t: Tensor | float, posterior: Posterior) -> Tensor:
    """b(t, x) = a' E[x_0 | x] + b' E[x_1 | x] + gamma' E[z | x], the right side of the ODE, at a time inside (0, 1).

    process : an `Interpolant`, or a Gaussian process with one alpha and one sigma, for which it is alpha' E[x_0 | x] +
        sigma' E[z | x].
    x : [B, ...]. t : one time for all.
    posterior : the answer at (x, t).
    """
    mean, noise = _means(process, x, t, posterior, "velocity")
    if not isinstance(process, Interpolant):
        of_x0, of_z = one_clock(process, "velocity").rates(t)
        return column(of_x0, x) * mean + column(of_z, x) * noise
    of_x0, of_x1, of_z = process.rates(t)
    result = column(of_x0, x) * mean
    result = result if process.c == 0 else result + column(of_z, x) * noise
    x1 = _x1(process, x, mean, noise, t)
    return result if x1 is None else result + column(of_x1, x) * x1


def renewal(process: Process, t: float, s: float, eps: Strength) -> float:
    """h = int_s^t eps(u) / gamma(u)^2 du: a step keeps e^-h of the latent noise. At least 0, and it may be infinite.

    It is integrated in logit(u), by a Gauss rule. Raises SamplerError for eps below 0.
    """
    if not callable(eps) and eps == 0:
        return 0.0
    low, high = (min(max(_logit(u), -_REACH), _REACH) for u in (s, t))
    places, shares = (torch.from_numpy(each) for each in _gauss())
    logits = low + (high - low) * (places + 1) / 2
    u = torch.sigmoid(logits)
    strength = torch.as_tensor(eps(u) if callable(eps) else eps, dtype=torch.float64)
    if not (strength >= 0).all():
        raise SamplerError(f"eps is at least 0 at all times; found {float(strength.min()):g}")
    rate = strength * u * torch.sigmoid(-logits) / _parts(process, u)[2] ** 2
    return float((shares * rate).sum()) * (high - low) / 2


@lru_cache
def _gauss() -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    return np.polynomial.legendre.leggauss(96)


def _logit(u: float) -> float:
    if u in (0, 1):
        return math.inf if u else -math.inf
    return math.log(u / (1 - u))


def _has_noise(process: Process) -> bool:
    return not isinstance(process, Interpolant) or process.c > 0


def _parts(process: Process, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """a, b and gamma. A Gaussian process has b = 0."""
    if isinstance(process, Interpolant):
        return process.parts(t)
    alpha, sigma = one_clock(process, "epsilon").levels(t)
    return alpha, torch.zeros_like(alpha), sigma


def _means(process: Process, x: Tensor, t: Tensor | float, posterior: Posterior, who: str) -> tuple[Tensor, Tensor]:
    """E[x_0 | x] and E[z | x]; zeros for the latter without latent noise."""
    mean = need(posterior, HasMean, who).mean
    if not _has_noise(process):
        return mean, torch.zeros_like(mean)
    if isinstance(process, Interpolant):
        return mean, need(posterior, HasNoise, who).noise
    alpha, sigma = one_clock(process, who).levels(t)
    return mean, (x - column(alpha, x) * mean) / column(sigma, x)


def _x1(process: Interpolant, x: Tensor, mean: Tensor, noise: Tensor, t: Tensor | float) -> Tensor | None:
    """E[x_1 | x], from x = a E[x_0] + b E[x_1] + gamma E[z]; None where b = 0."""
    a, b, gamma = process.parts(t)
    return (x - column(a, x) * mean - column(gamma, x) * noise) / column(b, x) if b > 0 else None


def _moved(process: Process, x: Tensor, mean: Tensor, noise: Tensor, t: Tensor, s: Tensor, kept: float) -> Tensor:
    """a_s x_0 + b_s x_1 + kept gamma_s z, with b x_1 = x - a x_0 - gamma z."""
    (a, b, gamma), (a_s, b_s, gamma_s) = ([float(each) for each in _parts(process, u)] for u in (t, s))
    k = b_s / b if b > 0 else 0.0
    return (a_s - k * a) * mean + k * x + (kept * gamma_s - k * gamma) * noise
