"""Samplers that unmask a fixed number of tokens in each step, the most confident ones first."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from ..posterior import Categorical, Posterior
from ..process import Gaussian, Masked
from ..rng import Rng
from .contract import Ask, SamplerError, declare

Confidence = Literal["probability", "entropy", "random"]


@declare("unmask", order=None, needs=Posterior, cites=("maskgit",), tokens=True, numbers=False)
def unmask(
    process: Gaussian | Masked,
    x: Tensor,
    grid: Tensor,
    rng: Rng,
    confidence: Confidence = "probability",
    temperature: float = 1.0,
    noise: float = 0.0,
) -> Generator[Ask, Posterior, Tensor]:
    """Draw each masked token, and keep the draws of the most confident places. The others stay masked.

        x0_l ~ p_l^(1 / temperature),   c_l = log p_l(x0_l) + noise (1 - alpha_s) g_l
        n(s) = round(N (1 - alpha_s) / (1 - alpha_t)),   t = grid[0]

    After the step to s the n(s) places of the lowest confidence c are masked. N is the number of masks of an item at
    the start. g is Gumbel noise.

    confidence : "probability", the log-probability of the drawn token; "entropy", minus the entropy of its place;
        "random", equal for all: a random order with the same counts, the control of the other two.
    temperature : of the draws; 0 takes the most probable token. Confidence is that of the law at the temperature, and
        for 0 at 1.
    noise : the size of the Gumbel noise. Large numbers give a random order.

    A visible token never changes. From the exact posterior with one token a step, a random order draws from the law of
    the data. An order by confidence in the drawn token does not: places are then kept because of their values, and
    probable values come too often. An order by entropy depends on x_t alone, and keeps the law.

    Raises ValueError for another confidence, and for numbers below 0; SamplerError for another process, and for a
    posterior that is not `Categorical`.
    Source: Chang et al., "MaskGIT: masked generative image transformer", CVPR 2022, section 3.2.
    When to choose: for fewer steps than tokens, and when probable samples matter more than their variety. `ancestral`
    draws from the law of the model.
    """
    if confidence not in get_args(Confidence) or temperature < 0 or noise < 0:
        raise ValueError(
            f"confidence {confidence!r}, temperature {temperature} and noise {noise} were asked for; there are "
            f"{', '.join(get_args(Confidence))}, and both numbers are at least 0"
        )
    if not isinstance(process, Masked):
        raise SamplerError(f"unmask unmasks tokens, and {type(process).__name__} has none: take a sampler of SAMPLERS")
    first = process.masked(x).flatten(1).sum(1)
    for t, s in pairwise(grid):
        posterior = yield Ask(t, x)
        if not isinstance(posterior, Categorical):
            raise SamplerError(
                f"unmask compares the probabilities of tokens, and found a {type(posterior).__name__}: take ancestral"
            )
        draw, score = _drawn(posterior, rng, confidence, temperature)
        if noise:
            uniform = rng.uniform(score.shape, torch.float64).to(score.device)
            score = score - noise * float(1 - process.alpha(s)) * (-uniform.log()).log()
        x = most_confident(process, x, draw, score, masks_left(process, first, grid[0], s))
    return x


def masks_left(process: Masked, first: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """round(N (1 - alpha_s) / (1 - alpha_t)) of each item. first : N, its number of masks at t, [B]."""
    return (first * (float(1 - process.alpha(s)) / float(1 - process.alpha(t)))).round()


def most_confident(process: Masked, x: Tensor, draw: Tensor, score: Tensor, left: Tensor) -> Tensor:
    """x with the drawn tokens at its masks of the highest scores.

    draw, score : of the shape of x.
    left : the number of masks of each item that stay, [B].
    """
    masked = process.masked(x)
    return torch.where(masked & ~_lowest(score, masked, left), draw, x)


def _drawn(posterior: Categorical, rng: Rng, confidence: Confidence, temperature: float) -> tuple[Tensor, Tensor]:
    """A token for each place, and the confidence in it, both of the shape of x_t."""
    law = posterior if temperature in (0, 1) else Categorical(posterior.log_probabilities / temperature)
    draw = law.sample(rng) if temperature else law.mode
    if confidence == "entropy":
        return draw, -law.entropy
    if confidence == "random":
        return draw, rng.uniform(draw.shape, torch.float64).to(draw.device)
    return draw, law.log_prob_each(draw)


def _lowest(score: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    """The masked places with the lowest scores, `count` [B] of each item; booleans of the shape of x_t."""
    only = score.masked_fill(~masked, torch.inf).flatten(1)
    rank = only.argsort(dim=1, stable=True).argsort(dim=1)
    return masked & (rank < count[:, None]).reshape(masked.shape)
