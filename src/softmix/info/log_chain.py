"""The chain of log-probabilities: the likelihood of the steps of a sampler that draws x0 from the whole posterior."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from ..cond import Cond
from ..posterior import FullMixture, HasDensity, Mixture, Normal, Point, Posterior, need
from ..posterior.normal import gaussian_log_prob
from ..process import Gaussian
from ..rng import Rng
from .density import Nats, as_nats, by_repeats, require_process
from .discrete import Grid
from .variational import decoded, require_falling

if TYPE_CHECKING:
    from ..denoiser import Denoiser

OfDraws = Literal["mixture", "normal"]
_Blurs = Normal | Mixture | FullMixture


def chain(
    denoiser: Denoiser,
    x0: Tensor,
    rng: Rng,
    times: Tensor,
    grid: Grid | None = None,
    draws: int = 64,
    of_draws: OfDraws = "mixture",
    repeats: int = 2,
    cond: Cond | Tensor | None = None,
    batch: int = 256,
) -> Nats:
    """An upper bound, in the mean, on -log p(x_0) of the chain x_T, ..., x_1, x_0 of a model, in nats:

        E[ log q(x_T | x_0) - log N(x_T; 0, sigma_T^2)
           + sum_steps ( log q(x_s | x_t, x_0) - log p(x_s | x_t) ) - log p(x_0 | x_1) ],
        p(x_s | x_t) = int q(x_s | x_t, x_0) p(x_0 | x_t) dx_0

    over paths of q. p(x_0 | x_t) is the whole posterior of the model, where `variational` takes its mean. The chain is
    that of `ancestral` with eta = 1. For exact posteriors each path gives -log p(x_0), in any number of steps, up to
    the distance of x_T from noise. A posterior without a density gives a mixture of `draws` draws in each step, and a
    bound that falls with their number; in many dimensions no draw is near, and a Normal by their moments is better.

    x0 : [B, ...]. cond, batch : as in `density`.
    times : falling times of the chain [T + 1], inside (0, 1]. The last one is the time of x_1.
    grid : the values of whole numbers; -log P(x_0 | x_1) is then that of `variational`. By default x0 are real numbers,
        and the posterior at the last time needs a density.
    draws : of a posterior without a density. A `Point` has one, its mean.
    of_draws : "mixture", or "normal", with the mean and the variance of each element over at least two draws.
    repeats : paths of each item, at least 2, for the standard error.

    Raises TypeError for real numbers and a posterior without a density, and for a process without one clock or whose
    noise depends on x0; ValueError for numbers out of range.
    Sources: the chain of Ho, Jain & Abbeel, NeurIPS 2020; importance-weighted draws of Burda, Grosse & Salakhutdinov,
    ICLR 2016.
    When to choose: for what a mixture or a soft mixture gains in few steps over one Gaussian, in nats.
    """
    process = require_process(denoiser, "chain")
    require_falling(times)
    least = 2 if of_draws == "normal" else 1
    if of_draws not in get_args(OfDraws) or draws < least or repeats < 2:
        raise ValueError(
            f"take a mixture of one draw, or a normal of two, at least, and two repeats; found {of_draws!r}, {draws} "
            f"and {repeats}"
        )
    law = partial(_law, draws=draws, of_draws=of_draws)

    def one(repeat: int, items: Tensor, own: Rng, given: Cond | Tensor | None) -> Tensor:
        with torch.no_grad():
            return _path(denoiser, process, items, own, times, grid, law, given)

    totals = by_repeats(x0, rng, repeats, cond, batch, one)
    ends = tuple(float(process.logsnr(t)) for t in (times[0], times[-1]))
    return as_nats(totals, (ends[0], ends[1]), x0, (0.0, 0.0))


def _path(
    denoiser: Denoiser,
    process: Gaussian,
    x0: Tensor,
    rng: Rng,
    times: Tensor,
    grid: Grid | None,
    law: Callable[[Posterior, Rng], _Blurs],
    cond: Cond | Tensor | None,
) -> Tensor:
    """The sum along one path of each item, [b].

    x_t is known by w = snr x_t / alpha, to which each step adds d u with d = snr_s - snr_t and u = x_0 + N(0, 1 / d):
    x_s is a function of x_t and u, so that the step has the likelihood of u.
    """
    noised = process.noise(x0, float(times[0]), rng.child("first"), cond)
    xt, total = noised.xt, _first(process, x0, noised.xt, times[0])
    alpha, sigma = (float(part) for part in process.levels(times[0]))
    w = (alpha / sigma**2) * xt.double()
    for k, (t, s) in enumerate(pairwise(times)):
        posterior = denoiser(xt, float(t), cond)
        d = float(process.logsnr(s).exp() - process.logsnr(t).exp())
        own = rng.child(f"step {k}")
        u = x0.double() + own.normal(x0.shape, torch.float64).to(x0.device) / math.sqrt(d)
        of_u = law(posterior, own.child("draws")).blurred(torch.full_like(total, 1 / d))
        total = total + _normal(u, x0, 1 / d) - of_u.log_prob(u.to(x0))
        w = w + d * u
        alpha, sigma = (float(part) for part in process.levels(s))
        xt = (w * (sigma**2 / alpha)).to(x0)
    if grid is not None:
        return total + decoded(process, x0, xt, times[-1], grid)
    return total - need(denoiser(xt, float(times[-1]), cond), HasDensity, "a chain over real numbers").log_prob(x0)


def _first(process: Gaussian, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """log q(x_T | x_0) - log N(x_T; 0, sigma_prior^2) of each item, [b]."""
    alpha, sigma = (float(part) for part in process.levels(t))
    x = xt.double()
    return _normal(x, alpha * x0, sigma**2) - _normal(x, torch.zeros_like(x0), float(process.sigma(1.0)) ** 2)


def _normal(x: Tensor, mean: Tensor, var: float) -> Tensor:
    """log N(x; mean, var I) of each item, float64 [b]."""
    return gaussian_log_prob(x, mean.double(), torch.full_like(x, var), x.ndim - 1)


def _law(posterior: Posterior, rng: Rng, draws: int, of_draws: OfDraws) -> _Blurs:
    """The posterior itself if it has a density, or that of its draws."""
    if isinstance(posterior, Normal | Mixture | FullMixture):
        return posterior
    if isinstance(posterior, Point):
        return Normal(posterior.mean.double(), torch.zeros_like(posterior.mean, dtype=torch.float64))
    found = posterior.draws(draws, rng).double()
    if of_draws == "normal":
        return Normal(found.mean(0), found.var(0))
    means = found.transpose(0, 1)
    return Mixture(means.new_zeros(means.shape[:2]), means, torch.zeros_like(means))
