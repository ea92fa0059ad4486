"""Data consistency: wraps that move every x0 of a posterior towards y = A x0 + n.

The change is linear in x0. So it is applied to the draws of a posterior as well as to its mean, and a soft mixture
stays one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser, Wrap
from ..denoiser.frame import mapped
from ..denoiser.tuned import require_untuned
from ..denoiser.wrap import Wrapped
from ..posterior import HasVariance, Posterior, need
from ..process import one_clock, require_independent
from .guide import tweedie_factor
from .instrument import Instrument
from .misfit import data_residual
from .moments import linear, spread_of
from .operator import LinearOperator

# nu of an item: from the denoiser, its posterior and the time
Spread = Callable[[Denoiser, Posterior[Any], "Tensor | float"], "Tensor | float"]


def own_variance(denoiser: Denoiser, posterior: Posterior[Any], t: Tensor | float) -> Tensor:
    """The mean variance of the elements of the posterior, [B]: the Bayes weight, if they are alike."""
    found = need(posterior, HasVariance, "proximal with own_variance")
    return found.var.expand_as(found.mean).flatten(1).mean(1)


def of_data(data_var: float = 1.0) -> Spread:
    """v sigma_t^2 / (sigma_t^2 + v alpha_t^2): the variance of x0 given x_t for data N(0, v I)."""
    return lambda denoiser, posterior, t: spread_of(one_clock(denoiser.process, "of_data"), t, data_var)


def of_noise(strength: float) -> Spread:
    """(sigma_t / alpha_t)^2 / strength, as in DiffPIR, whose lambda is the strength."""

    def spread(denoiser: Denoiser, posterior: Posterior[Any], t: Tensor | float) -> Tensor:
        process = one_clock(denoiser.process, "of_noise")
        return tweedie_factor(process, t) / (process.alpha(t) * strength)

    return spread


def proximal(instrument: Instrument, y: Tensor, spread: Spread = own_variance) -> Wrap:
    """The proximal data step:

        x0 <- argmin_x |y - A x|^2 / (2 sd^2) + |x - x0|^2 / (2 nu)
            = x0 + (A^T A + (sd^2 / nu) I)^-1 A^T (y - A x0)

    It is E[x0 | x_t, y] for a posterior N(D, nu I). nu says how sure the denoiser is; for nu -> infinity it is
    `projected`.

    instrument : with a `LinearOperator` and Gaussian noise, else TypeError.
    y : [1 or B, *measured].
    spread : nu; `own_variance` of a head with a variance, `of_data(v)`, or `of_noise(strength)`.

    A call costs one evaluation. Raises TypeError for a posterior without a variance, if that is asked for.
    When to choose: for noisy linear measurements, with networks of any kind, conditional ones included.
    Source: Zhu et al., "Denoising diffusion models for plug-and-play image restoration" (DiffPIR), CVPRW 2023.
    """
    operator, sd = linear(instrument, "proximal"), instrument.sd

    def step(denoiser: Denoiser, posterior: Posterior[Any], t: Tensor | float) -> Callable[[Tensor], Tensor]:
        ridge = sd**2 / torch.as_tensor(spread(denoiser, posterior, t))
        return lambda x0: x0 + operator.solve(operator.adjoint(data_residual(operator, y, x0)), ridge)

    return _wrap(step, "proximal")


def projected(operator: LinearOperator, y: Tensor) -> Wrap:
    """The hard data step: x0 <- x0 + A^+ (y - A x0). A of the result is y, and what A does not see stays.

    y : [1 or B, *measured], without noise: with noise it is copied into x0 whole.

    When to choose: for linear measurements without noise.
    Source: Wang, Yu & Zhang, "Zero-shot image restoration using denoising diffusion null-space model" (DDNM), ICLR
    2023.
    """
    return _wrap(lambda *_: lambda x0: x0 + operator.pseudo_inverse(data_residual(operator, y, x0)), "projected")


def stepped(operator: LinearOperator, y: Tensor, step: float) -> Wrap:
    """One gradient step on the data: x0 <- x0 + step A^T (y - A x0).

    step : above 0, and below 2 / |A|^2 for a step that does not lead away from y.

    When to choose: for operators whose equations are costly to solve.
    """
    if not step > 0:
        raise ValueError(f"a step of {step} was asked for; give one above 0")
    return _wrap(lambda *_: lambda x0: x0 + step * operator.adjoint(data_residual(operator, y, x0)), "stepped")


def _wrap(step: Callable[[Denoiser, Posterior[Any], Tensor | float], Callable[[Tensor], Tensor]], who: str) -> Wrap:
    def wrap(denoiser: Denoiser) -> Denoiser:
        require_independent(denoiser.process, who)
        require_untuned(denoiser, who)

        def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Any) -> Posterior:
            posterior = inner(xt, t, cond)
            return mapped(posterior, step(inner, posterior, t))

        return Wrapped(denoiser, call)

    return wrap
