"""Partial information decomposition: what two sources say of a target, uniquely, redundantly and together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .convex import convex_solver, solved

Measure = Literal["min", "mmi", "pm", "ccs", "broja"]

# sums over the axes of p [..., A, B, T]
_A, _B, _T = -3, -2, -1


@dataclass(frozen=True)
class Decomposition:
    """I(A,B; T) in four parts, in bits.

        I(A; T) = redundant + first,   I(B; T) = redundant + second,
        I(A,B; T) = redundant + first + second + synergy

    redundant, first, second, synergy : of one shape, [...]; first and second are the unique parts of A and B.
    measure : of the redundant part. Measures differ, even in sign: always name it with the numbers.
    """

    redundant: Tensor
    first: Tensor
    second: Tensor
    synergy: Tensor
    measure: str

    @classmethod
    def of(cls, redundant: Tensor, first: Tensor, second: Tensor, both: Tensor, measure: str) -> Decomposition:
        """From R, I(A; T), I(B; T) and I(A,B; T)."""
        own, other = first - redundant, second - redundant
        return cls(redundant, own, other, both - redundant - own - other, measure)


def decompose(p: Tensor, measure: Measure = "broja") -> Decomposition:
    """The decomposition of joint probabilities, in bits.

    p : [..., A, B, T], at least 0, with sum 1 over the last three axes.
    measure :
        "broja"  R = I(A; T) - min_q I_q(A; T | B) over all q with the marginals (a, t) and (b, t) of p. No part is
                 below 0. A convex program for each joint (the extra `pid`: cvxpy and clarabel).
        "mmi"    min( I(A; T), I(B; T) )
        "min"    Williams and Beer's I_min: sum_t p(t) min_i I(S_i; T = t)
        "pm"     pointwise, by specificity and ambiguity: E[ min_i h(s_i) - min_i h(s_i | t) ], h = -log2 p. Its parts
                 may be negative. For sources with equal surprisals it is E[max_i i(s_i; t)], and no unique part is
                 above 0.
        "ccs"    Ince's: the mean of the pointwise co-information, over events at which it agrees in sign with all
                 informations, under the maximum-entropy law with the pairs of p.

    All but "broja" are computed for all joints at once. Raises ValueError for p that is no joint law, and for another
    measure; ImportError without the extra.
    Sources: Williams & Beer, 2010; Bertschinger et al., "Quantifying unique information", 2014; Finn & Lizier, 2018;
    Ince, 2017.
    When to choose: "broja" for a claim of unique information; "mmi" for Gaussians, where it is the same for one target.
    """
    _require_law(p)
    if measure not in get_args(Measure):
        raise ValueError(f"the measure {measure!r} was asked for; there are {', '.join(get_args(Measure))}")
    p = p.double()
    first, second, both = _information(p.sum(_B)), _information(p.sum(_A)), _information(p.flatten(_A, _B))
    if measure == "mmi":
        redundant = torch.minimum(first, second)
    elif measure == "broja":
        flat = p.reshape(-1, *p.shape[-3:])
        redundant = (first.reshape(-1) - torch.stack([_unique(each) for each in flat])).reshape(first.shape)
    else:
        redundant = {"min": _specific, "pm": _plus_minus, "ccs": _common_change}[measure](p)
    return Decomposition.of(redundant, first, second, both, measure)


def decompose_pointwise(
    first: Tensor, second: Tensor, both: Tensor, prior: tuple[Tensor | float, Tensor | float]
) -> Decomposition:
    """The pointwise decomposition of i(x; y_1, y_2), such as the maps of `pointwise_information`, in their unit:

        h_i = -log p(y_i),   R = min_i h_i - min_i (h_i - i(x; y_i))

    first, second, both : i(x; y_1), i(x; y_2) and i(x; y_1, y_2), of one shape.
    prior : h_1 and h_2, in the same unit. They do not come from the model.

    With equal priors R = max_i i(x; y_i), so that no unique part is above 0, and two independent conditions that each
    say one bit are one bit redundant. Say so beside a map.
    Source: Dewan et al., "DiffusionPID", NeurIPS 2024.
    """
    own, other = (torch.as_tensor(each, dtype=first.dtype, device=first.device) for each in prior)
    redundant = torch.minimum(own, other) - torch.minimum(own - first, other - second)
    return Decomposition.of(redundant, first, second, both, "pm")


def gaussian_information(covariance: Tensor, first: list[int], second: list[int]) -> Tensor:
    """I(X; Y) of parts of a Gaussian vector, in bits: (1 / 2) log2( |C_X| |C_Y| / |C_XY| ).

    covariance : [..., D, D].
    first, second : the elements of X and of Y.
    """

    def size(index: list[int]) -> Tensor:
        return torch.linalg.slogdet(covariance.double()[..., index, :][..., index])[1]

    return (size(first) + size(second) - size([*first, *second])) / (2 * math.log(2))


def _require_law(p: Tensor) -> None:
    if p.ndim < 3 or not p.is_floating_point():
        raise ValueError(f"joint probabilities [..., A, B, T] were expected; found {p.dtype} {list(p.shape)}")
    off = float((p.double().sum((_A, _B, _T)) - 1).abs().max()) if p.numel() else 0.0
    if off > 1e-6 or bool((p < 0).any()):
        raise ValueError(f"joint probabilities are at least 0 with sum 1; found {float(p.min()):.3g}, off by {off:.2g}")


def _plogp(p: Tensor) -> Tensor:
    """p log2 p, 0 at 0."""
    return torch.special.xlogy(p, p) / math.log(2)


def _information(p: Tensor) -> Tensor:
    """I of a joint law [..., S, T], in bits."""
    parts = _plogp(p).sum((-2, -1)), _plogp(p.sum(-1)).sum(-1), _plogp(p.sum(-2)).sum(-1)
    return parts[0] - parts[1] - parts[2]


def _log2(p: Tensor) -> Tensor:
    """log2 p, 0 where p is 0: such events have no weight."""
    return torch.where(p > 0, p, 1.0).log2()


def _specific(p: Tensor) -> Tensor:
    """sum_t p(t) min_i sum_s p(s | t) log2( p(t | s) / p(t) )."""
    t = p.sum((_A, _B))
    each = []
    for other in (_B, _A):
        joint = p.sum(other)
        ratio = _log2(joint) - _log2(joint.sum(-1, keepdim=True)) - _log2(t)[..., None, :]
        each.append((joint * ratio).sum(-2))
    # p(t) times the specific information
    return torch.minimum(*each).sum(-1)


def _plus_minus(p: Tensor) -> Tensor:
    t = p.sum((_A, _B))
    plus, minus = [], []
    for other in (_B, _A):
        joint = p.sum(other, keepdim=True)
        alone = joint.sum(_T, keepdim=True)
        plus.append(-_log2(alone))
        minus.append(-(_log2(joint) - _log2(t)[..., None, None, :]))
    found = torch.minimum(*plus) - torch.minimum(*minus)
    return (p * found).sum((_A, _B, _T))


def _common_change(p: Tensor, rounds: int = 500) -> Tensor:
    q = _most_entropy(p, rounds)
    a, b, t = q.sum((_B, _T), keepdim=True), q.sum((_A, _T), keepdim=True), q.sum((_A, _B), keepdim=True)
    at, bt, ab = q.sum(_B, keepdim=True), q.sum(_A, keepdim=True), q.sum(_T, keepdim=True)
    first, second = _log2(at) - _log2(a) - _log2(t), _log2(bt) - _log2(b) - _log2(t)
    both = _log2(q) - _log2(ab) - _log2(t)
    common = first + second - both
    signs = [torch.where(each.abs() < 1e-6, 0.0, each.sign()) for each in (common, first, second, both)]
    agree = (signs[0] == signs[1]) & (signs[0] == signs[2]) & (signs[0] == signs[3])
    return (q * torch.where(agree, common, 0.0)).sum((_A, _B, _T))


def _most_entropy(p: Tensor, rounds: int) -> Tensor:
    """The law of most entropy with the three pairs of p: for binary variables by bisection, else by iterative
    proportional fitting."""
    if p.shape[-3:] == (2, 2, 2):
        return _most_entropy_of_bits(p)
    q = torch.full_like(p, 1 / math.prod(p.shape[-3:]))
    for _ in range(rounds):
        before = q
        for axis in (_A, _B, _T):
            have = q.sum(axis, keepdim=True)
            q = q * torch.where(have > 0, p.sum(axis, keepdim=True) / have.clamp(min=1e-300), 0.0)
        if float((q - before).abs().max()) < 1e-12:
            break
    return q


def _most_entropy_of_bits(p: Tensor) -> Tensor:
    """The same for binary variables: the laws with these pairs are p + e s, with s = 1 for an even and -1 for an odd
    number of ones. Entropy is largest where sum s log(p + e s) = 0, which rises with e."""
    bit = torch.tensor([1.0, -1.0], dtype=p.dtype, device=p.device)
    sign = bit[:, None, None] * bit[:, None] * bit
    even, odd = (torch.where(sign * side > 0, p, torch.inf).amin((_A, _B, _T)) for side in (1, -1))
    low, high = -even, odd
    for _ in range(60):
        middle = (low + high) / 2
        q = (p + middle[..., None, None, None] * sign).clamp(min=1e-300)
        rises = (sign * q.log()).sum((_A, _B, _T)) < 0
        low, high = torch.where(rises, middle, low), torch.where(rises, high, middle)
    return (p + ((low + high) / 2)[..., None, None, None] * sign).clamp(min=0)


def _unique(p: Tensor) -> Tensor:
    """min_q I_q(A; T | B) over the laws with the marginals (a, t) and (b, t) of p, in bits."""
    cvxpy = convex_solver('the measure "broja"')
    array = p.cpu().numpy()
    count_a, count_b, count_t = array.shape
    # q of each target, a and b
    q: list[Any] = [cvxpy.Variable((count_a, count_b), nonneg=True) for _ in range(count_t)]
    limits = []
    for t, each in enumerate(q):
        limits += [cvxpy.sum(each, axis=1) == array[:, :, t].sum(1), cvxpy.sum(each, axis=0) == array[:, :, t].sum(0)]
    whole = sum(q[1:], q[0])
    # -H_q(T | A, B)
    aim = sum(cvxpy.sum(cvxpy.rel_entr(each, whole)) for each in q)
    value = solved(cvxpy, cvxpy.Problem(cvxpy.Minimize(aim), limits), "BROJA")
    bt = p.sum(_A)
    # I_q(A; T | B) = H(T | B) - H_q(T | A, B)
    given = _plogp(bt.sum(-1)).sum() - _plogp(bt).sum()
    return (given + value / math.log(2)).clamp(min=0)
