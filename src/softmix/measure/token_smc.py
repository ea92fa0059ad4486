"""Particles over paths of masked tokens: exact for a measurement as their number grows."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..cond import Cond
from ..denoiser.categorical import with_visible
from ..posterior import Categorical
from ..process import Masked
from ..rng import Rng
from ..sampler import SamplerError, WeightedSamples
from ..sampler.unmask import masks_left, most_confident
from ..shape import take
from .anchor import LEAST, law_of_codes, token_vectors
from .guide import Likelihood, checked
from .particles import Population

if TYPE_CHECKING:
    from ..denoiser import Denoiser


@torch.no_grad()
def token_particles(
    denoiser: Denoiser,
    likelihood: Likelihood,
    codes: Tensor,
    n: int,
    steps: int,
    rng: Rng,
    *,
    threshold: float = 0.5,
    cond: Cond | Tensor | None = None,
    shape: tuple[int, ...] | None = None,
) -> WeightedSamples:
    """Sequential Monte Carlo from all masks to tokens, with a look at y in each step:

        psi(x_t) = p(y | sum_k p_theta(k | x_t) codes_k)^alpha_t
        w <- w psi(x_s) / psi(x_t)
        resample if (sum w)^2 / sum w^2 < threshold n
        x_s ~ p_theta(x_s | x_t), places in random order with the counts of `unmask`

    At t = 0 psi is p(y | x0), so that the weighted tokens are draws of p(x0 | y) for n -> infinity, if the steps
    without y have the law of the model: with one token a step they have. psi before that decides how many particles
    are needed. The power alpha_t, the share of visible tokens, is there because p(y | mean) is too sure while much is
    masked. The mean weight is unbiased for p(y) (`log_z`).

    likelihood : log p(y | x) of vectors x [n, *places, *D], with one y for all. No gradient is needed.
    codes : the vector of each token, [K, *D].
    n : the number of particles, all in one batch.
    steps : the number of steps; as many as tokens for the law of the model.
    rng : one stream for each particle.
    threshold : the share of n below which the particles are resampled, 0 to 1. With 0 they never are, and the result
        is n draws of the model with the weights p(y | x0): the best of n, or importance sampling.
    cond : one condition for all particles, [1].
    shape : of one item; by default that of the model.

    Raises ValueError for settings out of range, an rng of another number of streams, a model without a shape, and a
    likelihood that is 0 or undefined for all particles; SamplerError for a model of another process or posterior.
    Source: Doucet & Johansen, "A tutorial on particle filtering and smoothing", 2009, section 3; Wu et al., "Practical
    and asymptotically exact conditional sampling in diffusion models", NeurIPS 2023, section 3, for the look ahead.
    When to choose: for the spread of p(x0 | y), for likelihoods without a gradient, and as the yardstick of `anchored`.
    """
    process = _checked_model(denoiser, n, steps, threshold, rng)
    places = shape or getattr(denoiser, "shape", None)
    if places is None:
        raise ValueError(f"a {type(denoiser).__name__} has no shape: give shape=(L,)")
    own = take(cond, torch.zeros(n, dtype=torch.int64, device=rng.device))
    x, grid = process.prior((n, *places), rng), process.grid(steps)
    first = process.masked(x).flatten(1).sum(1)
    people = Population.of(x, threshold, rng)
    seen = torch.zeros_like(people.log_weight)
    for t, s in pairwise(grid):
        law = law_of_codes(denoiser(x, t, own), codes, "token_particles")
        logs = with_visible(law.log_probabilities, x, len(codes))
        if threshold > 0:
            # psi must be above 0, also where p(y | mean) is 0
            fits = _fits(likelihood, logs.exp().movedim(1, -1), codes).clamp(min=LEAST)
            ahead = float(process.alpha(t)) * fits
            people.weigh(ahead - seen)
            x, logs, seen = people.resampled(x, logs, ahead)
        draw = Categorical(logs).sample(rng)
        order = rng.uniform(draw.shape, torch.float64).to(draw.device)
        x = most_confident(process, x, draw, order, masks_left(process, first, grid[0], s))
    people.weigh(_fits(likelihood, one_hot(x, len(codes)), codes) - seen)
    return WeightedSamples(x, people.log_weight, steps)


def _fits(likelihood: Likelihood, p: Tensor, codes: Tensor) -> Tensor:
    """log p(y | sum_k p_k codes_k), float64 [n]. p : [n, *places, K]."""
    real = p.to(codes) if not p.is_floating_point() else p
    return checked(likelihood, token_vectors(real, codes)).double()


def _checked_model(denoiser: Denoiser, n: int, steps: int, threshold: float, rng: Rng) -> Masked:
    process = denoiser.process
    if not isinstance(process, Masked):
        raise SamplerError(f"token_particles unmasks tokens, and {type(process).__name__} has none")
    if not 0 <= threshold <= 1 or n < 1 or steps < 1:
        raise ValueError(
            f"n={n}, steps={steps} and threshold={threshold} were given; both numbers must be at least 1, and the "
            "threshold from 0 to 1"
        )
    if len(rng) != n:
        raise ValueError(f"{n} particles were asked for, and the rng has {len(rng)} streams: give one for each")
    return process
