"""The energy score over all pairs of draws and truths that have one law in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def all_pairs(draws: Tensor, truth: Tensor) -> Tensor:
    """E |truth - draw| - (1/2) E |draw - draw'| over all pairs, averaged over places; a number.

    draws : [n, C, places], n at least 2.
    truth : [k, C, places]. It gets no gradient.

    |.| is the root mean square over C. The sums are taken in float32 at least, since half precision has too few digits
    for sums of squares. For C = 1 the cost grows with n log n and not with n^2, because numbers can be sorted.
    """
    real = torch.promote_types(draws.dtype, torch.float32)
    a, b = draws.permute(2, 0, 1).to(real), truth.permute(2, 0, 1).to(real)
    if a.shape[2] == 1:
        numbers: Tensor = _AllPairsOfNumbers.apply(a[..., 0], b[..., 0].detach())  # type: ignore[no-untyped-call]
        return numbers
    value: Tensor = _AllPairs.apply(a, b.detach())  # type: ignore[no-untyped-call]
    return value / a.shape[2] ** 0.5


class _AllPairs(torch.autograd.Function):
    """mean_ij |a_i - b_j| - sum_ij |a_i - a_j| / (2 n (n - 1)), for a [places, n, C] and b [places, k, C].

    The derivative is computed beside the value, with one matrix product:

        d / d a_i = sum_j u(a_i - b_j) / (n k) - sum_j u(a_i - a_j) / (n (n - 1)),   u(x) = x / |x|, u(0) = 0

    Automatic differentiation would need three, and store all distances until the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        places, n, k = len(a), a.shape[1], b.shape[1]
        others = torch.cat([b, a], dim=1)
        distance = torch.cdist(a, others)
        near, apart = distance.split([k, n], dim=2)
        # exactly 0: a matrix product leaves its rounding error there
        apart.diagonal(dim1=1, dim2=2).zero_()
        value = near.mean() - 0.5 * apart.sum() / (places * n * (n - 1))
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(_slope(a, others, distance, k))
        return value

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None


class _AllPairsOfNumbers(torch.autograd.Function):
    """`_AllPairs` for numbers, a [places, n] and b [places, k], by sorting.

    With s_i[b] the number of b below a_i less the number above,

        sum_ij |a_i - b_j| = sum_i a_i s_i[b] + sum_j b_j s_j[a],   d / d a_i sum_j |a_i - b_j| = s_i[b]
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        (places, n), k = a.shape, b.shape[1]
        # far from 0 the sums would lose digits
        origin = b.mean(1, keepdim=True)
        a, b = (a - origin).contiguous(), (b - origin).contiguous()
        sorted_a, sorted_b = a.sort(1).values, b.sort(1).values
        to_truth, to_draws = _rank(a, sorted_b), _rank(a, sorted_a)
        near = (a * to_truth).sum() + (b * _rank(b, sorted_a)).sum()
        ctx.save_for_backward(to_truth / (places * n * k) - to_draws / (places * n * (n - 1)))
        return near / (places * n * k) - (a * to_draws).sum() / (places * n * (n - 1))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None


def _rank(x: Tensor, ordered: Tensor) -> Tensor:
    """How many of `ordered` are below each x, less the number above."""
    below = torch.searchsorted(ordered, x, out_int32=True)
    not_above = torch.searchsorted(ordered, x, out_int32=True, right=True)
    return (below + not_above - ordered.shape[1]).to(x.dtype)


def _slope(a: Tensor, others: Tensor, distance: Tensor, k: int) -> Tensor:
    """The derivative in a. Overwrites the distances."""
    places, n = len(a), a.shape[1]
    share = distance.reciprocal_().masked_fill_(distance == torch.inf, 0)
    share[..., :k] /= places * n * k
    share[..., k:] /= -places * n * (n - 1)
    # in half precision the difference of the two sums would be lost
    with torch.autocast(a.device.type, enabled=False):
        return a * share.sum(2, keepdim=True) - share @ others
