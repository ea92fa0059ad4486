"""Guidance by a likelihood: wraps that turn q(x0 | x_t) into q(x0 | x_t, y), for any measurement y of x0."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser, Wrap
from ..denoiser.tuned import require_untuned
from ..denoiser.wrap import Wrapped
from ..posterior import HasMean, Implicit, Normal, Point, Posterior, need
from ..posterior.mixture import draw_index
from ..posterior.normal import gaussian_log_prob
from ..process import Gaussian, one_clock, require_independent
from ..process.numbers import as_float64
from ..rng import Rng
from ..shape import column

# log p(y | x0) in nats, one number per item: from x0 [B, ...] to [B]
Likelihood = Callable[[Tensor], Tensor]

# posteriors with draws that are differentiable in x_t. The choice of a component is not differentiable.
_DIFFERENTIABLE = (Implicit, Normal, Point)


def gaussian_likelihood(y: Tensor, sd: float, operator: Callable[[Tensor], Tensor] | None = None) -> Likelihood:
    """log N(y; A(x0), sd^2 I), the likelihood of y = A(x0) + sd z.

    y : the measurement, one row for all items or one for each, [1 or B, ...].
    sd : of the noise, above 0.
    operator : A, any function from x0 [B, ...] to the shape of y; None for y in the shape of x0. The two wraps with a
        gradient need a differentiable A.

    Raises ValueError for sd of 0 or below, and for a y that does not fit A(x0).
    """
    if not sd > 0:
        raise ValueError(f"a measurement noise of sd = {sd} was given; give one above 0, or use `replacing`")

    def log_prob(x0: Tensor) -> Tensor:
        clean = x0 if operator is None else operator(x0)
        check_measurement(y, clean)
        return gaussian_log_prob(y.to(clean), clean, clean.new_tensor(sd**2), clean.ndim - 1)

    return log_prob


class Conditioned(Point):
    """E[x0 | x_t, y] as a point, with what it was made of.

    mean : E[x0 | x_t, y], [B, ...].
    prior : E[x0 | x_t].
    log_evidence : an estimate of log p(y | x_t) in nats, [B].
    """

    def __init__(self, mean: Tensor, prior: Tensor, log_evidence: Tensor):
        super().__init__(mean)
        self.prior, self.log_evidence = prior, log_evidence


def check_measurement(y: Tensor, clean: Tensor) -> None:
    """Raise ValueError unless y has the shape of A(x0), with one row or as many."""
    if y.shape[1:] != clean.shape[1:] or len(y) not in (1, len(clean)):
        raise ValueError(
            f"y has shape {list(y.shape)}, and A(x0) has shape {list(clean.shape)}: give y with one row, or one "
            "for each item, and run all items in one batch, `sample(..., batch=n)`"
        )


class WeightedDraws(HasMean):
    """Draws x0_j of q(x0 | x_t) with weights w_j in proportion to p(y | x0_j): an estimate of q(x0 | x_t, y).

        mean    E[x0 | x_t] + sum_j (w_j - 1/m) x0_j,   or sum_j w_j x0_j without a mean of q(x0 | x_t)
        sample  draw j with probability w_j

    log_likelihoods : log p(y | x0_j), [m, B].
    draws : x0_j, [m, B, ...].
    centre : E[x0 | x_t], [B, ...], if it is known. The error of the average of the draws then cancels.

    Raises ValueError if an item has no draw with p(y | x0_j) above 0, or an infinite or undefined likelihood.
    """

    def __init__(self, log_likelihoods: Tensor, draws: Tensor, centre: Tensor | None = None):
        bad = ~log_likelihoods.amax(0).isfinite()
        if bool(bad.any()):
            raise ValueError(
                f"for {int(bad.sum())} of {bad.numel()} items no draw of {len(draws)} has a finite log p(y | x0) as "
                "its largest: take more draws, or a likelihood that is above 0 for every x0"
            )
        self._log_likelihoods, self._draws, self._centre = log_likelihoods, draws, centre

    @property
    def prior(self) -> Tensor:
        """E[x0 | x_t], or the average of the draws if it is not known."""
        return self._draws.mean(0) if self._centre is None else self._centre

    @property
    def log_evidence(self) -> Tensor:
        """log (1/m) sum_j p(y | x0_j), [B].

        The sum is unbiased for p(y | x_t). Its logarithm is too low on average, by Var[p(y | x0) | x_t] / (2 m
        p(y | x_t)^2) for large m (Jensen).
        """
        return _log_mean(self._log_likelihoods)

    @property
    def log_weights(self) -> Tensor:
        """log w_j, [B, m]."""
        return self._log_likelihoods.log_softmax(0).T

    @property
    def mean(self) -> Tensor:
        weights = self._log_likelihoods.softmax(0).to(self._draws)
        if self._centre is not None:
            weights = weights - 1 / len(weights)
        total = (weights.reshape(*weights.shape, *(1,) * (self._draws.ndim - 2)) * self._draws).sum(0)
        return total if self._centre is None else self._centre + total

    def sample(self, rng: Rng) -> Tensor:
        index = draw_index(self.log_weights, rng)[:, 0]
        return self._draws[index, torch.arange(len(index), device=index.device)]


def guided_by_mean(likelihood: Likelihood, scale: float = 1.0) -> Wrap:
    """Guidance by the likelihood at the mean, as in DPS:

        E[x0 | x_t, y] ~ E[x0 | x_t] + scale (sigma_t^2 / alpha_t) grad_xt log p(y | x0 = E[x0 | x_t])

    From Tweedie's formula, E[x0 | x_t] = (x_t + sigma_t^2 grad log p(x_t)) / alpha_t, the equation would be exact with
    log p(y | x_t) and scale 1. The mean stands for the whole posterior here. For one Gaussian of covariance C given
    x_t and y = A x0 + sd z, the gradient has (sd^2 I)^-1 in place of (A C A^T + sd^2 I)^-1. So it is too strong at high
    noise, and the error does not fall with the number of steps.

    likelihood : log p(y | x0), differentiable.
    scale : of the gradient. Below 1 it compensates for the missing covariance.

    The paper adds the gradient to x_(i-1) itself, with a step zeta' / |y - A(x0)|. Here it moves the mean of x0, so
    that every sampler can use it.

    Returns a denoiser with posteriors of kind `Conditioned`. A call costs one evaluation and one backward pass.
    Raises TypeError for a posterior without a mean and for a process without one clock; ValueError for alpha_t = 0.
    When to choose: for models that know only a mean. Limit it to logsnr above about -6 by `within`: at more noise the
    factor sigma^2 / alpha enlarges the errors of a network.
    Source: Chung et al., "Diffusion posterior sampling for general noisy inverse problems", ICLR 2023, section 3,
    theorem 1 and algorithm 1.
    """

    def log_evidence(posterior: Posterior[Any], t: Tensor | float) -> Tensor:
        return checked(likelihood, need(posterior, HasMean, "guided_by_mean").mean)

    return lambda denoiser: guided_by_gradient(denoiser, log_evidence, scale, "guided_by_mean")


def guided_through_draws(likelihood: Likelihood, m: int, rng: Rng, scale: float = 1.0) -> Wrap:
    """Guidance by the gradient through m draws x0_j of the posterior, each a function of x_t and its own noise:

        E[x0 | x_t, y] ~ E[x0 | x_t] + scale (sigma_t^2 / alpha_t) grad_xt log (1/m) sum_j p(y | x0_j)

    The average is unbiased for p(y | x_t), and its gradient for the gradient. The logarithm has a bias of order 1/m.

    likelihood : log p(y | x0), differentiable.
    m : the number of draws.
    rng : one stream for each item. The draws of an item depend on its stream and on t alone.

    Returns a denoiser with posteriors of kind `Conditioned`. A call costs one evaluation, m draws and a backward pass.
    For a `Point` it is the same as `guided_by_mean`.
    Raises TypeError for posteriors with draws that are not differentiable in x_t (mixtures: the choice of a component
    is not), without a mean, and for a process without one clock; ValueError for alpha_t = 0, and for an rng of another
    number of items.
    When to choose: for soft mixtures and a measurement so precise that few draws of `guided_by_draws` fit it: a
    gradient can lead outside the draws.
    """
    _at_least_one(m)

    def log_evidence(posterior: Posterior[Any], t: Tensor | float) -> Tensor:
        if not isinstance(posterior, _DIFFERENTIABLE):
            raise TypeError(
                f"guided_through_draws needs draws that are differentiable in x_t, and those of "
                f"{type(posterior).__name__} are not: use guided_by_draws, which needs no gradient"
            )
        return _log_mean(_each(likelihood, posterior.draws(m, _stream(rng, t))))

    return lambda denoiser: guided_by_gradient(denoiser, log_evidence, scale, "guided_through_draws", rng)


def guided_by_draws(likelihood: Likelihood, m: int, rng: Rng) -> Wrap:
    """Guidance by weights: m draws x0_j of the posterior, weighted by p(y | x0_j), a `WeightedDraws`.

        E[x0 | x_t, y] = E[p(y | x0) x0 | x_t] / E[p(y | x0) | x_t]

    with both expectations estimated by the draws. The error falls as m^(-1/2) for any likelihood and process. Its
    constant grows as fewer draws fit y. With m = 1 there is no guidance.

    likelihood : log p(y | x0). No gradient is needed.
    m : the number of draws.
    rng : one stream for each item. The draws of an item depend on its stream and on t alone.

    A call costs one evaluation and m draws.
    Raises TypeError for posteriors over names or several parts; ValueError for an rng of another number of items.
    When to choose: for posteriors with cheap draws, and for likelihoods without a gradient. With `ancestral` the steps
    may be long, because each takes a draw for y and not the mean. With an ODE sampler the mean is used.
    """
    _at_least_one(m)

    def wrap(denoiser: Denoiser) -> Denoiser:
        require_independent(denoiser.process, "guided_by_draws")
        require_untuned(denoiser, "guided_by_draws")

        def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Any) -> WeightedDraws:
            _check_items(rng, xt)
            posterior = inner(xt, t, cond)
            draws = posterior.draws(m, _stream(rng, t))
            if not isinstance(draws, Tensor) or not draws.is_floating_point():
                raise TypeError(
                    f"guided_by_draws needs draws of real numbers, and those of {type(posterior).__name__} are not: "
                    "for a Categorical give the numbers by `with_values`"
                )
            return WeightedDraws(
                _each(likelihood, draws), draws, posterior.mean if isinstance(posterior, HasMean) else None
            )

        return Wrapped(denoiser, call)

    return wrap


def guided_by_gradient(
    denoiser: Denoiser,
    log_evidence: Callable[[Posterior[Any], Tensor | float], Tensor],
    scale: float,
    who: str,
    rng: Rng | None = None,
) -> Denoiser:
    """The mean of q(x0 | x_t, y) by Tweedie's formula, from an estimate of log p(y | x_t)."""
    process = one_clock(denoiser.process, who)
    require_independent(process, who)
    require_untuned(denoiser, who)

    def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Any) -> Conditioned:
        size = column(scale * tweedie_factor(process, t), xt)
        if rng is not None:
            _check_items(rng, xt)
        # a sampler runs without gradients, and then the result has none
        outer = torch.is_grad_enabled()
        with torch.enable_grad():
            x = xt if outer and xt.requires_grad else xt.detach().requires_grad_()
            posterior = need(inner(x, t, cond), HasMean, who)
            evidence = log_evidence(posterior, t)
            if not evidence.requires_grad:
                raise ValueError(f"{who}: log p(y | x0) has no gradient in x0: use guided_by_draws, which needs none")
            (slope,) = torch.autograd.grad(evidence.sum(), x, create_graph=outer)
            prior = posterior.mean
            parts = (prior + size * slope, prior, evidence)
        return Conditioned(*(parts if outer else (part.detach() for part in parts)))

    return Wrapped(denoiser, call)


def tweedie_factor(process: Gaussian, t: Tensor | float) -> Tensor:
    """sigma_t^2 / alpha_t, the factor between a gradient in x_t and a change of the mean of x0."""
    alpha, sigma = process.levels(t)
    if bool((alpha == 0).any()):
        raise ValueError(
            f"{type(process).__name__} has alpha = 0 at t = {t}, and x_t does not depend on x0 there: begin below that "
            "time, or use guided_by_draws"
        )
    return sigma**2 / alpha


def _stream(rng: Rng, t: Tensor | float) -> Rng:
    """The noise of each item at its time. It does not depend on earlier calls."""
    time = as_float64(t).to(rng.device, torch.float32).expand(len(rng)).contiguous()
    own = rng.child("guidance").bits((len(rng), 1))[:, 0]
    return Rng(0, own ^ time.view(torch.int32).long(), "guidance", rng.device)


def _check_items(rng: Rng, xt: Tensor) -> None:
    if len(rng) != len(xt):
        raise ValueError(
            f"guidance by draws has an rng of {len(rng)} items, and the batch has {len(xt)}: give an rng of as many "
            "items, and run them in one batch, `sample(..., batch=n)`"
        )


def _at_least_one(m: int) -> None:
    if m < 1:
        raise ValueError(f"guidance by {m} draws was asked for; take at least 1")


def checked(likelihood: Likelihood, x0: Tensor) -> Tensor:
    """log p(y | x0), [B]."""
    value = likelihood(x0)
    if value.shape != x0.shape[:1]:
        raise ValueError(
            f"the likelihood gave shape {list(value.shape)} for {len(x0)} items; it must give log p(y | x0), one "
            f"number per item, [{len(x0)}]: sum over the elements of y"
        )
    return value


def _each(likelihood: Likelihood, draws: Tensor) -> Tensor:
    """log p(y | x0_j) of each draw, [m, B]. One call for each draw, so that y may have a row for each item."""
    return torch.stack([checked(likelihood, x0) for x0 in draws])


def _log_mean(logs: Tensor) -> Tensor:
    """log (1/m) sum_j exp(logs_j) over the first axis."""
    return logs.logsumexp(0) - math.log(len(logs))
