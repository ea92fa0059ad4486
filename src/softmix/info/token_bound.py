"""The bound of masked diffusion on the bits of tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cond import Cond
from ..posterior import Categorical
from ..process import Masked
from ..rng import Rng
from ..shape import take

if TYPE_CHECKING:
    from ..denoiser import Denoiser


def bits_per_token(
    denoiser: Denoiser,
    x0: Tensor,
    rng: Rng,
    draws: int = 8,
    cond: Cond | Tensor | None = None,
    batch: int = 256,
) -> Tensor:
    """An upper bound on -log2 p(x_0) / L of each item, in bits per token, [B], float64.

        -log p(x_0) / L <= E_n E_(masks M of size n) (1 / n) sum_(l in M) -log q(x0_l | x_t),   n uniform in 1 .. L

    For a model that does not read t this is the bound in continuous time: the integral over t is in closed form, since
    int_0^1 Binomial(n; L, t) dt / t is 1 / n for any schedule. For any model it is the bound of unmasking one token
    after another in a random order. The denoiser is asked at the time with a share n / L of masks.

    denoiser : a model of `Masked` with a `Categorical` posterior.
    x0 : clean tokens, [B, ...] integers.
    rng : the masks, one stream for each item.
    draws : the number of masked versions of each item. Their n are spread evenly over 1 .. L. The estimate is unbiased
        for any number.
    cond : the conditions of the items.
    batch : the number of items in one evaluation.

    For the exact posterior the expectation is -log2 p(x_0) / L itself, and its mean over the data is their entropy. For
    a model it is above that by a divergence of the model from the data.

    Raises TypeError for another process or posterior, ValueError for fewer than one draw.
    Source: Hoogeboom et al., "Autoregressive diffusion models", ICLR 2022, section 2; Sahoo et al., "Simple and
    effective masked diffusion language models", NeurIPS 2024, eq. 10.
    When to choose: to compare models of tokens on held-out items.
    """
    process = denoiser.process
    if not isinstance(process, Masked):
        raise TypeError(f"bits per token need the process Masked, and this model has {type(process).__name__}")
    if draws < 1:
        raise ValueError(f"{draws} draws were asked for: take at least 1")
    parts = []
    for low in range(0, len(x0), batch):
        rows = slice(low, low + batch)
        parts.append(_of_batch(denoiser, process, x0[rows], rng.take(rows), draws, take(cond, rows)))
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=x0.device)


def _of_batch(
    denoiser: Denoiser, process: Masked, x0: Tensor, rng: Rng, draws: int, cond: Cond | Tensor | None
) -> Tensor:
    """The mean over the draws of the mean cross-entropy of n masked tokens, [B]."""
    size, places = len(x0), x0[0].numel()
    first = rng.uniform((size,), torch.float64).to(x0.device)
    total = torch.zeros(size, dtype=torch.float64, device=x0.device)
    for draw in range(draws):
        share = (first + draw / draws) % 1.0
        count = (share * places).long().clamp(max=places - 1) + 1
        order = rng.uniform((size, places), torch.float64).to(x0.device).argsort(1).argsort(1)
        hidden = (order < count[:, None]).reshape(x0.shape)
        with torch.no_grad():
            t = process.time_of_share(count.double() / places)
            posterior = denoiser(x0.masked_fill(hidden, process.mask), t, cond)
        if not isinstance(posterior, Categorical):
            raise TypeError(f"bits per token need a Categorical posterior, and found a {type(posterior).__name__}")
        nats = torch.where(hidden, -posterior.log_prob_each(x0).double(), 0.0).flatten(1).sum(1)
        total += nats / count / draws
    return total / math.log(2)
