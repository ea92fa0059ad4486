"""Sums over all paths of a Markov chain: normalising constant, marginals and draws, in O(L K^2)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..posterior.mixture import draw_index
from ..rng import Rng


def marginals(first: Tensor, steps: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor]:
    """The forward-backward recursion for p(x) ~ first[x_1] prod_l steps[x_l, x_(l+1)] prod_l evidence[l, x_l].

        a_1 = first + e_1,   a_(l+1)[j] = e_(l+1)[j] + logsumexp_i (a_l[i] + steps[i, j]),
        b_L = 0,             b_l[i] = logsumexp_j (steps[i, j] + e_(l+1)[j] + b_(l+1)[j])

    first    : logarithms, [K].
    steps    : logarithms, [K, K], from row to column.
    evidence : logarithms, [B, L, K].

    Returns log p(x_l = k) [B, L, K], and log Z [B], the logarithm of the sum over all paths.
    Source: Rabiner, "A tutorial on hidden Markov models", Proc. IEEE 1989, section III.
    """
    forward = _forward(first, steps, evidence)
    backward = [torch.zeros_like(evidence[:, 0])]
    for each in evidence[:, 1:].unbind(1)[::-1]:
        backward.append(torch.logsumexp(steps + (each + backward[-1])[:, None], 2))
    log_z = torch.logsumexp(forward[:, -1], 1)
    return forward + torch.stack(backward[::-1], 1) - log_z[:, None, None], log_z


def paths(first: Tensor, steps: Tensor, evidence: Tensor, rng: Rng) -> Tensor:
    """One exact draw of x [B, L] for each of B items, for the law of `marginals`: forwards a_l, then backwards

        x_L ~ a_L,   x_l ~ a_l + steps[:, x_(l+1)].

    evidence : [B, L, K], or [1, L, K] if it is the same for all items of the rng.
    """
    forward = _forward(first, steps, evidence).expand(len(rng), -1, -1)
    drawn = [draw_index(forward[:, -1], rng)[:, 0]]
    for each in forward[:, :-1].unbind(1)[::-1]:
        drawn.append(draw_index(each + steps.mT[drawn[-1]], rng)[:, 0])
    return torch.stack(drawn[::-1], 1)


def _forward(first: Tensor, steps: Tensor, evidence: Tensor) -> Tensor:
    """a_l of every place, [B, L, K]."""
    sums = [first + evidence[:, 0]]
    for each in evidence[:, 1:].unbind(1):
        sums.append(each + torch.logsumexp(sums[-1][:, :, None] + steps, 1))
    return torch.stack(sums, 1)
