"""Draws of a posterior against the truth: proper scores, and whether the spread of the draws is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..rng import Rng

# of m = 19 draws, the central intervals with these shares lie between two draws
SHARES = (0.5, 0.9)


@dataclass(frozen=True)
class Calibration:
    """The numbers of `calibration`. For draws of the true posterior they are, but for chance, those in brackets.

    m : the number of draws for each item.
    crps : the continuous ranked probability score, the mean over elements. Smaller is better; proper for the marginals.
    energy : the energy score of whole items, with the root mean square as length. Smaller is better; strictly proper.
    error : the root mean squared error of the mean of the draws. Smaller is better.
    spread : the square root of (m + 1) / m times the mean variance of the draws. It equals the error if they are right.
    spread_skill : spread / error. [1; below 1 the draws are underdispersed]
    inside : the shares of the elements inside the central intervals of `shares`. [the shares]
    shares : of the central intervals.
    ranks : the counts of the rank of the truth among its draws, over all elements, [m + 1]. [flat]
    p_value : of the test that the ranks of whole items are uniform (`uniformity`). [below 0.01 once in 100]
    """

    m: int
    crps: float
    energy: float
    error: float
    spread: float
    inside: tuple[float, ...]
    shares: tuple[float, ...]
    ranks: tuple[int, ...]
    p_value: float

    @property
    def spread_skill(self) -> float:
        return self.spread / self.error if self.error else math.nan

    @property
    def psnr(self) -> float:
        """The peak signal-to-noise ratio of the mean of the draws in decibel, for values in [-1, 1]."""
        return psnr(self.error)


def psnr(error: float) -> float:
    """The peak signal-to-noise ratio in decibel of a root mean squared error, for values in [-1, 1]."""
    return 20 * math.log10(2 / error) if error else math.inf


def calibration(draws: Tensor, truth: Tensor, rng: Rng, shares: Sequence[float] = SHARES) -> Calibration:
    """Measure draws of a posterior given y against the x0 that y was made of.

    draws : m draws for each of B items, [m, B, ...], m at least 2. With m = 19 the default shares are possible.
    truth : [B, ...], items that the model has not seen.
    rng : decides the order of equal values, and serves B items.
    shares : of central intervals of each element. The interval lies between the k-th smallest and the k-th largest
        draw, and has the share (m + 1 - 2 k) / (m + 1) for exact draws.

    crps, energy and error compare models: they are least for the law of x0 given y (error for its mean). The other
    numbers test one model: they are right for the exact posterior, and for the law of x0 without y too.

    Raises ValueError for other shapes, values that are not finite, and shares that m draws cannot have.
    When to choose: for models with a condition (restoration, forecasts), where several x0 fit one y.
    Source: Gneiting & Raftery 2007 (scores); Gneiting et al., "Assessing probabilistic forecasts of multivariate
    quantities", 2008 (the idea of ranks of whole items); Fortin et al. 2014 (spread and error).
    """
    draws, truth = _checked(draws, truth)
    m = len(draws)
    places = [_depth(share, m) for share in shares]
    ranks = ranks_among(draws, truth, rng.child("elements"))
    off = draws.mean(0) - truth
    apart = _distances(draws, truth)
    whole = ranks_of_items(apart, rng.child("items"))
    return Calibration(
        m=m,
        crps=float(crps(draws, truth).mean()),
        energy=_energy(apart),
        error=float(off.square().mean().sqrt()),
        # the mean of m draws has a part of their variance itself
        spread=float((draws.var(0).mean() * (m + 1) / m).sqrt()),
        inside=tuple(float(((ranks >= k) & (ranks <= m - k)).double().mean()) for k in places),
        shares=tuple(shares),
        ranks=tuple(ranks.flatten().bincount(minlength=m + 1).tolist()),
        p_value=uniformity(whole.bincount(minlength=m + 1)),
    )


def crps(draws: Tensor, truth: Tensor) -> Tensor:
    """The continuous ranked probability score of each item, the mean over its elements, [B]:

        (1/m) sum_j |x0 - x_j|  -  1 / (2 m (m-1)) sum_{j != k} |x_j - x_k|

    For m of 2 and more it is an unbiased estimate of the score of the law of the draws. For one draw it is the absolute
    error, which is the score of a law at one point.

    draws : [m, B, ...].
    truth : [B, ...]. Raises ValueError for other shapes.
    """
    if draws.ndim < 2 or draws.shape[1:] != truth.shape:
        raise ValueError(f"draws [m, {list(truth.shape)}] were expected, and found {list(draws.shape)}")
    near = (draws - truth).abs().mean(0)
    if len(draws) > 1:
        # for sorted draws sum_{j<k} |x_j - x_k| = sum_j (2 j + 1 - m) x_j
        m = len(draws)
        factors = 2 * torch.arange(m, dtype=draws.dtype, device=draws.device) + 1 - m
        near = near - torch.einsum("m,m...->...", factors, draws.sort(0).values) / (m * (m - 1))
    return near.reshape(len(truth), -1).mean(1)


def ranks_among(draws: Tensor, truth: Tensor, rng: Rng) -> Tensor:
    """The rank of the truth among its draws: the number of smaller draws, 0 to m, for each element.

    Of equal values a random order counts, so that ranks of equal laws are uniform also where values are rounded.

    draws : [m, B, ...].
    truth : [B, ...].
    rng : serves B items.
    """
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    among = rng.uniform(tuple(truth.shape), torch.float64).to(truth.device)
    return below + (among * (equal + 1)).floor().long().minimum(equal)


def ranks_of_items(apart: Tensor, rng: Rng) -> Tensor:
    """The rank of the truth among its draws as a whole, by the mean distance of each from all others, [B].

    apart : the distances of the truth (first) and the draws of each item from each other, [B, m + 1, m + 1].

    An item far from its draws has rank m. If truth and draws have one law, the ranks are uniform.
    """
    total = apart.sum(2)
    return ranks_among(total[:, 1:].T, total[:, 0], rng)


def _distances(draws: Tensor, truth: Tensor) -> Tensor:
    """The root mean square distances of the truth and the draws of each item from each other, [B, m + 1, m + 1]."""
    both = torch.cat([truth[None], draws]).movedim(1, 0)
    # exact for equal items
    apart = torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist")
    return apart / both.shape[2] ** 0.5


def _energy(apart: Tensor) -> float:
    """The energy score from `_distances`, the mean over items."""
    m = apart.shape[1] - 1
    return float(apart[:, 0, 1:].mean() - apart[:, 1:, 1:].sum((1, 2)).mean() / (2 * m * (m - 1)))


def uniformity(counts: Tensor) -> float:
    """The p-value of counts if all are equally likely: Pearson's chi-squared test.

    It is right for independent ranks: of items, and not of the elements of one item. Neighbouring cells are added up
    until about five counts are expected in each. nan for fewer than 10 counts.
    """
    total = int(counts.sum())
    if total < 10:
        return math.nan
    groups = counts.cpu().double().tensor_split(min(len(counts), total // 5))
    found = torch.stack([group.sum() for group in groups])
    expected = found.new_tensor([len(group) * total / len(counts) for group in groups])
    statistic = ((found - expected).square() / expected).sum()
    # the upper tail of chi-squared with one degree of freedom less than groups
    return float(torch.special.gammaincc(found.new_tensor((len(groups) - 1) / 2), statistic / 2))


def _depth(share: float, m: int) -> int:
    """The k of a central interval."""
    k = (1 - share) * (m + 1) / 2
    if not 0 < share < 1 or round(k) < 1 or abs(k - round(k)) > 1e-6:
        possible = ", ".join(f"{m + 1 - 2 * k}/{m + 1}" for k in range(1, m // 2 + 1))
        raise ValueError(
            f"with {m} draws a central interval can have the shares {possible}; {share:g} was asked for (with 19 draws "
            "0.5 and 0.9 are possible)"
        )
    return round(k)


def _checked(draws: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    if draws.ndim < 2 or len(draws) < 2 or draws.shape[1:] != truth.shape or not len(truth):
        raise ValueError(
            "draws [m, B, ...] with m of at least 2, and the truth [B, ...], were expected; found "
            f"{list(draws.shape)} and {list(truth.shape)}"
        )
    if not (bool(draws.isfinite().all()) and bool(truth.isfinite().all())):
        raise ValueError("draws or truth hold values that are not finite, and have no score")
    # some devices have no float64
    draws, truth = draws.cpu().double(), truth.cpu().double()
    return draws.reshape(*draws.shape[:2], -1), truth.reshape(len(truth), -1)
