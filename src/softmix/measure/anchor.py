"""Anchored posterior sampling of masked tokens: logits are fitted to a measurement, and decide what is unmasked."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..posterior import Categorical, Posterior
from ..precision import without_autocast
from ..process import Gaussian, Masked
from ..rng import Rng
from ..sampler import Ask, Sampler, SamplerError
from ..sampler.contract import declare
from ..sampler.unmask import masks_left, most_confident
from .guide import Likelihood, checked

At = Literal["quantised", "expected"]
Order = Literal["anchored", "prior", "random"]

# log 0 as a finite number, so that differences of logarithms exist; its exponential is 0
LEAST = -1e4


def anchored(
    likelihood: Likelihood,
    codes: Tensor,
    *,
    inner: int = 100,
    rate: float = 0.1,
    prior: float = 1.0,
    at: At = "quantised",
    confidence: Order = "anchored",
) -> Sampler:
    """Anchored posterior sampling (APS): in each step the logits phi of all masked tokens are fitted to y,

        phi <- p_theta(. | x_t)
        repeat `inner` times:   phi <- Adam(phi, grad [-log p(y | q(phi)) + prior KL(softmax(phi) || p_theta)])
        q_l = the code next to e_l,   e_l = sum_k softmax(phi_l)_k codes_k
        x0_l ~ softmax(phi_l),   c_l = softmax(phi_l)[x0_l]

    and the draws of the highest confidence c are kept, as many as the schedule says (`unmask` has the counts). A
    visible token has its own code in q, is not fitted, and never changes.

    likelihood : log p(y | x) of vectors x [B, *places, *D], differentiable, for example `gaussian_likelihood` or
        `instrument.likelihood(y)`. A decoder of codes to an image is a part of it.
    codes : the vector of each token, [K, *D]. `torch.eye(K)` gives the likelihood the probabilities themselves.
    inner : steps of Adam; with 0 the measurement has no effect.
    rate : of Adam, in logits.
    prior : the weight of the Kullback-Leibler divergence, 0 or above. 1 is the weight of the paper's bound. By its
        reviewers the published algorithm has no such term; 0 is that algorithm.
    at : "quantised", the code next to the expected one, with the gradient of the expected one (straight through);
        "expected", the expected code itself.
    confidence : "anchored", the probability of the draw under phi; "prior", under p_theta, which is the usual order;
        "random", equal for all.

    The law of the result is not p(x | y), for any number of steps and with an exact model: p(y | q) stands for the
    average of p(y | x0) over x0, and the tokens of a step are drawn independently. A token with two probable codes can
    have a third one as the code next to its expected one; its likelihood is then that of a token that is never drawn.
    `token_particles` is exact for many particles.

    A step costs one evaluation of the model and `inner` gradients of the likelihood, none of the model.
    Raises ValueError for codes without an axis of tokens, for settings out of range, and for a likelihood without a
    gradient, with a gradient that is not finite, or with another number of results than items; SamplerError for a
    process other than `Masked` and for a posterior that is not `Categorical` over as many values as there are codes.
    Source: Rout et al., "Test-time anchoring for discrete diffusion posterior sampling", arXiv 2510.02291, algorithm
    1. There is no published code to compare with.
    When to choose: for a likelihood with a gradient and a model of many tokens, and if one good answer is needed and
    not the spread of all.
    """
    if confidence not in get_args(Order) or at not in get_args(At):
        raise ValueError(
            f"at={at!r} and confidence={confidence!r} were asked for; there are {', '.join(get_args(At))} and "
            f"{', '.join(get_args(Order))}"
        )
    if inner < 0 or not rate > 0 or not prior >= 0:
        raise ValueError(f"inner={inner}, rate={rate}, prior={prior} were given; give at least 0, above 0, at least 0")
    if codes.ndim < 2:
        raise ValueError(f"codes of shape {list(codes.shape)} were given; give a vector for each token, [K, *D]")
    # a partial of one function, so that the traits of that function are its own
    return partial(
        _anchored,
        likelihood=likelihood,
        codes=codes,
        inner=inner,
        rate=rate,
        prior=prior,
        at=at,
        confidence=confidence,
    )


@declare("anchored", order=None, needs=Posterior, cites=("aps",), tokens=True, numbers=False)
def _anchored(
    process: Gaussian | Masked,
    x: Tensor,
    grid: Tensor,
    rng: Rng,
    *,
    likelihood: Likelihood,
    codes: Tensor,
    inner: int,
    rate: float,
    prior: float,
    at: At,
    confidence: Order,
) -> Generator[Ask, Posterior, Tensor]:
    if not isinstance(process, Masked):
        raise SamplerError(
            f"anchored unmasks tokens, and {type(process).__name__} has none: take a wrap, guided_by_..."
        )
    fit = _Fit(likelihood, codes, inner, rate, prior, at)
    first = process.masked(x).flatten(1).sum(1)
    for t, s in pairwise(grid):
        posterior = yield Ask(t, x)
        law = law_of_codes(posterior, codes, "anchored")
        fitted = fit(law, x, process.masked(x))
        draw = fitted.sample(rng)
        if confidence == "random":
            score = rng.uniform(draw.shape, torch.float64).to(draw.device)
        else:
            score = (fitted if confidence == "anchored" else law).log_prob_each(draw)
        x = most_confident(process, x, draw, score, masks_left(process, first, grid[0], s))
    return x


def quantised(expected: Tensor, codes: Tensor) -> Tensor:
    """The code next to each vector, with the gradient of the vector itself (straight through).

    expected : [B, *places, *D].
    codes : [K, *D].

    Of two codes at the same distance it is the first. The distance is Euclidean, over all elements of D.
    Source: Bengio, Léonard & Courville, "Estimating or propagating gradients through stochastic neurons", 2013, for the
    gradient.
    """
    flat = codes.to(expected).flatten(1)
    with torch.no_grad(), without_autocast(expected.device):
        rows = expected.reshape(-1, flat.shape[1])
        # |e - c|^2 / 2 without the part that all codes share
        nearest = (flat.square().sum(1) / 2 - rows @ flat.T).argmin(1)
        code = flat[nearest].reshape(expected.shape)
    return expected + (code - expected).detach()


def token_vectors(p: Tensor, codes: Tensor) -> Tensor:
    """sum_k p_k codes_k at each place, [B, *places, *D]. p : probabilities [B, *places, K]. codes : [K, *D]."""
    with without_autocast(p.device):
        return (p @ codes.to(p).flatten(1)).reshape(*p.shape[:-1], *codes.shape[1:])


def law_of_codes(posterior: Posterior[Any], codes: Tensor, who: str) -> Categorical:
    """The posterior, if it is over as many tokens as there are codes. Raises SamplerError for another one."""
    if not isinstance(posterior, Categorical) or posterior.log_probabilities.shape[1] != len(codes):
        raise SamplerError(
            f"{who} needs the probabilities of {len(codes)} tokens, one for each code, and found a "
            f"{type(posterior).__name__}: give a model of tokens, and a code for each"
        )
    return posterior


@dataclass(frozen=True)
class _Fit:
    """The inner loop. The fields are the arguments of `anchored`."""

    likelihood: Likelihood
    codes: Tensor
    inner: int
    rate: float
    prior: float
    at: At

    def __call__(self, posterior: Categorical, x: Tensor, masked: Tensor) -> Categorical:
        """softmax(phi) after all steps of Adam."""
        if not self.inner:
            return posterior
        # values last, as the likelihood has them
        model = posterior.log_probabilities.movedim(1, -1).clamp(min=LEAST).detach()
        visible = one_hot(x.masked_fill(masked, 0), len(self.codes)).to(model)
        phi = model.clone().requires_grad_()
        optimiser = torch.optim.Adam([phi], lr=self.rate)
        with torch.enable_grad(), without_autocast(phi.device):
            for _ in range(self.inner):
                logs = phi.log_softmax(-1)
                p = torch.where(masked[..., None], logs.exp(), visible)
                apart = (logs.exp() * (logs - model)).sum(-1).masked_fill(~masked, 0).flatten(1).sum(1)
                # a sum, so that an item has the gradient that it has alone
                loss = (self.prior * apart - self._fits(p)).sum()
                (phi.grad,) = torch.autograd.grad(loss, phi)
                optimiser.step()
        found = phi.detach()
        if not bool(found.isfinite().all()):
            raise ValueError(
                "anchored: the gradient of log p(y | x0) is not finite: give a likelihood above 0 for every x0"
            )
        return Categorical(found.movedim(-1, 1))

    def _fits(self, p: Tensor) -> Tensor:
        """log p(y | q), [B]. p : [B, *places, K]."""
        vectors = token_vectors(p, self.codes)
        found = checked(self.likelihood, quantised(vectors, self.codes) if self.at == "quantised" else vectors)
        if not found.requires_grad:
            raise ValueError("anchored: log p(y | x0) has no gradient in x0: use token_particles, which needs none")
        return found
