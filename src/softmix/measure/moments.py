"""Guidance for y = A x0 + n by the mean and the covariance of q(x0 | x_t): one Gaussian in its place.

For x0 ~ N(D, C) given x_t, and Gaussian noise of variance sd^2,

    p(y | x_t)     = N(y; A D, A C A^T + sd^2 I)
    E[x0 | x_t, y] = D + C A^T (A C A^T + sd^2 I)^-1 (y - A D)

The three wraps differ in the C that they use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser, Wrap
from ..denoiser.tuned import require_untuned
from ..denoiser.wrap import Wrapped
from ..posterior import HasMean, HasVariance, Point, Posterior, need
from ..process import Gaussian, one_clock, require_independent
from ..shape import column
from .guide import guided_by_gradient, tweedie_factor
from .instrument import Instrument
from .krylov import conjugate_gradients
from .misfit import data_residual
from .operator import DecomposedOperator, LinearOperator


def guided_by_pseudo_inverse(instrument: Instrument, y: Tensor, data_var: float = 1.0, scale: float = 1.0) -> Wrap:
    """Pseudo-inverse guidance: C = r_t^2 I inside, and the true covariance, from the Jacobian, outside:

        E[x0 | x_t, y] ~ D + scale (sigma_t^2 / alpha_t) grad_xt log N(y; A D, r_t^2 A A^T + sd^2 I)
        r_t^2 = v sigma_t^2 / (sigma_t^2 + v alpha_t^2)

    r_t^2 is the variance of x0 given x_t for data N(0, v I). A measurement without noise (sd -> 0) gives A^+.

    instrument : with a `LinearOperator` and Gaussian noise, else TypeError.
    y : [1 or B, *measured].
    data_var : v, of an element of the data.
    scale : of the gradient.

    A call costs one evaluation and one backward pass. Raises as `guided_by_mean` does.
    When to choose: for linear measurements and any network. It needs less trial than `guided_by_mean`, because the
    guidance is right for Gaussian data.
    Source: Song, Vahdat, Mardani & Kautz, "Pseudoinverse-guided diffusion models for inverse problems", ICLR 2023.
    """
    operator, sd = linear(instrument, "guided_by_pseudo_inverse"), instrument.sd
    if not data_var > 0:
        raise ValueError(f"data_var = {data_var} was given; the variance of the data is above 0")

    def wrap(denoiser: Denoiser) -> Denoiser:
        process = one_clock(denoiser.process, "guided_by_pseudo_inverse")

        def log_evidence(posterior: Posterior[Any], t: Tensor | float) -> Tensor:
            mean = need(posterior, HasMean, "guided_by_pseudo_inverse").mean
            off = data_residual(operator, y, mean)
            var = spread_of(process, t, data_var)
            weighed = _Weighed.apply(off, operator, sd, var)
            return -(off * weighed).flatten(1).sum(1) / 2 - log_volume(operator, var, sd, mean)

        return guided_by_gradient(denoiser, log_evidence, scale, "guided_by_pseudo_inverse")

    return wrap


def guided_by_moments(instrument: Instrument, y: Tensor, iterations: int = 100) -> Wrap:
    """Guidance by the mean and the covariance of the posterior itself: the equation above with its own C.

    C is the whole covariance for posteriors that have one (`FullMixture`), else the variances of the elements. For a
    posterior that is one Gaussian the answer is exact.

    instrument : with a `LinearOperator` and Gaussian noise, else TypeError.
    y : [1 or B, *measured].
    iterations : of conjugate gradients, at most.

    Returns a denoiser with posteriors of kind `Point`. A call costs one evaluation, and no backward pass. Raises
    TypeError for a posterior without a variance.
    When to choose: for heads with a variance, and exact denoisers. `guided_by_draws` needs no Gaussian, and many draws.
    Source: Boys et al., "Tweedie moment projected diffusions for inverse problems", TMLR 2024, with the posterior's own
    moments in the place of a Jacobian.
    """
    operator, sd = linear(instrument, "guided_by_moments"), instrument.sd

    def wrap(denoiser: Denoiser) -> Denoiser:
        require_independent(denoiser.process, "guided_by_moments")
        require_untuned(denoiser, "guided_by_moments")

        def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Any) -> Point:
            posterior = need(inner(xt, t, cond), HasVariance, "guided_by_moments")
            full = getattr(posterior, "covariance", None)
            product = _by_matrix(full) if isinstance(full, Tensor) else lambda x: posterior.var * x
            return Point(_updated(operator, sd, y, posterior.mean, product, iterations))

        return Wrapped(denoiser, call)

    return wrap


def guided_by_jacobian(instrument: Instrument, y: Tensor, iterations: int = 5) -> Wrap:
    """Guidance with the covariance that the denoiser has without saying so, C = (sigma_t^2 / alpha_t) dD / dx_t.

    The identity is exact for an exact D. The equations are solved by a few iterations of conjugate gradients, each with
    one product of the Jacobian.

    instrument : with a `LinearOperator` and Gaussian noise, else TypeError.
    y : [1 or B, *measured].
    iterations : of conjugate gradients. Few are enough, and act as a ridge; a network's Jacobian is not quite
        symmetric, and many iterations can diverge.

    Returns a denoiser with posteriors of kind `Point`. A call costs one evaluation and `iterations` + 1 backward
    passes. Raises TypeError for a posterior without a mean and a process without one clock; ValueError for alpha_t = 0,
    and for an x_t that records gradients.
    When to choose: for a network that knows only a mean, if the best guidance is worth several backward passes a step.
    Source: Rozet et al., "Learning diffusion priors from observations by expectation maximization", NeurIPS 2024.
    """
    operator, sd = linear(instrument, "guided_by_jacobian"), instrument.sd
    if iterations < 1:
        raise ValueError(f"{iterations} iterations were asked for; take at least 1")

    def wrap(denoiser: Denoiser) -> Denoiser:
        process = one_clock(denoiser.process, "guided_by_jacobian")
        require_independent(process, "guided_by_jacobian")
        require_untuned(denoiser, "guided_by_jacobian")

        def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Any) -> Point:
            if torch.is_grad_enabled() and xt.requires_grad:
                raise ValueError(
                    "guided_by_jacobian has no derivative of its own in x_t: run it without gradients, or take "
                    "guided_by_pseudo_inverse"
                )
            size = column(tweedie_factor(process, t), xt)
            with torch.enable_grad():
                x = xt.detach().requires_grad_()
                mean = need(inner(x, t, cond), HasMean, "guided_by_jacobian").mean

            def product(v: Tensor) -> Tensor:
                return size * torch.autograd.grad(mean, x, v, retain_graph=True)[0]

            return Point(_updated(operator, sd, y, mean.detach(), product, iterations))

        return Wrapped(denoiser, call)

    return wrap


class _Weighed(torch.autograd.Function):
    """(var A A^T + sd^2 I)^-1 off, by the rule of Woodbury: [off - A (A^T A + (sd^2 / var) I)^-1 A^T off] / sd^2.

    The matrix is symmetric, so that the derivative is the same product: it need not pass through a solution by
    iterations, and all higher derivatives are right.
    """

    @staticmethod
    def forward(ctx: Any, off: Tensor, operator: LinearOperator, sd: float, var: Tensor) -> Tensor:
        ctx.of = (operator, sd, var)
        return (off - operator(operator.solve(operator.adjoint(off), sd**2 / var))) / sd**2

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None, None]:
        return _Weighed.apply(grads[0], *ctx.of), None, None, None


def linear(instrument: Instrument, who: str) -> LinearOperator:
    """The operator of an instrument. Raises TypeError unless it is linear, and the noise Gaussian."""
    if not isinstance(instrument.operator, LinearOperator):
        raise TypeError(
            f"{who} needs a LinearOperator, and {type(instrument.operator).__name__} is none: use guided_by_mean or "
            "guided_by_draws with instrument.likelihood(y)"
        )
    _ = instrument.sd
    return instrument.operator


def spread_of(process: Gaussian, t: Tensor | float, data_var: float) -> Tensor:
    """r_t^2, the variance of an element of x0 given x_t for data N(0, data_var I)."""
    alpha, sigma = process.levels(t)
    return data_var * sigma**2 / (sigma**2 + data_var * alpha**2)


def _updated(
    operator: LinearOperator,
    sd: float,
    y: Tensor,
    mean: Tensor,
    product: Callable[[Tensor], Tensor],
    iterations: int,
) -> Tensor:
    """D + C A^T (A C A^T + sd^2 I)^-1 (y - A D). product : C v."""
    left = conjugate_gradients(
        lambda u: operator(product(operator.adjoint(u))) + sd**2 * u,
        data_residual(operator, y, mean),
        iterations,
        strict=False,
    )
    return mean + product(operator.adjoint(left))


def _by_matrix(covariance: Tensor) -> Callable[[Tensor], Tensor]:
    """The product with a covariance [B, D, D] of items of any shape."""
    return lambda x: (covariance.to(x) @ x.flatten(1)[..., None])[..., 0].reshape(x.shape)


def log_volume(operator: LinearOperator, var: Tensor | float, sd: float, like: Tensor) -> Tensor | float:
    """log sqrt det 2 pi (var A A^T + sd^2 I) over the elements of y that exist, [B]; 0 if s is not known.

    var : a number, or one for each item, [B].
    like : items, [B, *shape], for their number and device.
    """
    if not isinstance(operator, DecomposedOperator):
        return 0.0
    grid = operator.into(torch.zeros_like(like))
    each = operator.s_like(like).square() / sd**2 * column(var, grid.real)
    own = torch.log1p(each).expand(grid.shape).double().flatten(1).sum(1)
    count: Tensor | float = math.prod(operator.measured)
    if operator.seen is not None:
        count = operator.constant("seen", own).expand(-1, *operator.measured).flatten(1).sum(1)
    return ((own + count * math.log(2 * math.pi * sd**2)) / 2).to(like.dtype)
