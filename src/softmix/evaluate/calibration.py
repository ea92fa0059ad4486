"""Draws of a posterior against the truth: proper scores, and whether the spread of the draws is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..loss.energy import energy
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
    spread : the root mean variance of the draws, for m draws: it equals the error of their mean if the draws are right.
    spread_skill : spread / error. [1; below 1 the draws are too sure]
    inside : the shares of the elements inside the central intervals of `shares`. [the shares]
    shares : of the central intervals.
    ranks : the counts of the rank of the truth among its draws, over all elements, [m + 1]. [flat]
    uniform : the probability of ranks of whole items as uneven as these. [uniform in (0, 1); below 0.01 they are wrong]
    """

    m: int
    crps: float
    energy: float
    error: float
    spread: float
    inside: tuple[float, ...]
    shares: tuple[float, ...]
    ranks: tuple[int, ...]
    uniform: float

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

    The scores compare models: at their optimum the draws have the law of x0 given y. The other numbers compare a model
    with itself: they are right for each exact posterior, and for the law of x0 without y too.

    Raises ValueError for other shapes, values that are not finite, and shares that m draws cannot have.
    When to choose: for models with a condition (restoration, forecasts), where several x0 fit one y.
    Source: Gneiting & Raftery 2007 (scores); Gneiting et al., "Assessing probabilistic forecasts of multivariate
    quantities", 2008 (ranks of whole items); Fortin et al. 2014 (spread and error).
    """
    draws, truth = _checked(draws, truth)
    m = len(draws)
    places = [_depth(share, m) for share in shares]
    ranks = ranks_among(draws, truth, rng.child("elements"))
    off = draws.mean(0) - truth
    whole = ranks_of_items(draws, truth, rng.child("items"))
    return Calibration(
        m=m,
        crps=float(crps(draws, truth).mean()),
        energy=float(energy(draws, truth, _length).mean()),
        error=float(off.square().mean().sqrt()),
        # the mean of m draws has a part of their variance itself
        spread=float((draws.var(0).mean() * (m + 1) / m).sqrt()),
        inside=tuple(float(((ranks >= k) & (ranks <= m - k)).double().mean()) for k in places),
        shares=tuple(shares),
        ranks=tuple(ranks.flatten().bincount(minlength=m + 1).tolist()),
        uniform=evenness(whole.bincount(minlength=m + 1)),
    )


def crps(draws: Tensor, truth: Tensor) -> Tensor:
    """The continuous ranked probability score of each item, the mean over its elements, [B]:

        (1/m) sum_j |x0 - x_j|  -  1 / (2 m (m-1)) sum_{j != k} |x_j - x_k|

    It is unbiased for the law of the draws. For one draw, or equal ones, it is the absolute error.

    draws : [m, B, ...].
    truth : [B, ...].
    """
    if len(draws) == 1:
        return (draws[0] - truth).abs().flatten(1).mean(1)
    return energy(draws, truth, lambda difference: difference.abs().flatten(2).mean(2))


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


def ranks_of_items(draws: Tensor, truth: Tensor, rng: Rng) -> Tensor:
    """The rank of the truth among its draws as a whole, by the mean distance of each from all others, [B].

    An item far from its draws has rank m. If truth and draws have one law, the ranks are uniform.
    """
    everything = torch.cat([truth[None], draws]).flatten(2).movedim(1, 0)
    apart = torch.cdist(everything, everything, compute_mode="donot_use_mm_for_euclid_dist").sum(2)
    return ranks_among(apart[:, 1:].T, apart[:, 0], rng)


def evenness(counts: Tensor) -> float:
    """The probability of counts as uneven as these, or more, if all are equally likely: Pearson's chi-squared test.

    It is right for independent ranks: of items, and not of the elements of one item. With fewer than five expected in
    a cell, neighbouring cells are added up.
    """
    total = int(counts.sum())
    groups = counts.cpu().double().tensor_split(max(min(len(counts), total // 5), 2))
    found = torch.stack([group.sum() for group in groups])
    expected = found.new_tensor([len(group) * total / len(counts) for group in groups])
    statistic = ((found - expected).square() / expected).sum()
    # the upper tail of chi-squared with one degree of freedom less than groups
    return float(torch.special.gammaincc(found.new_tensor((len(groups) - 1) / 2), statistic / 2))


def _length(difference: Tensor) -> Tensor:
    return difference.flatten(2).square().mean(2).sqrt()


def _depth(share: float, m: int) -> int:
    """The k of a central interval."""
    k = (1 - share) * (m + 1) / 2
    if not 0 < share < 1 or round(k) < 1 or abs(k - round(k)) > 1e-6:
        possible = ", ".join(f"{(m + 1 - 2 * k) / (m + 1):.3g}" for k in range(1, (m + 1) // 2 + 1))
        raise ValueError(
            f"between two of {m} draws lie central intervals of the shares {possible or 'none'}; {share:g} was asked "
            "for (with 19 draws 0.5 and 0.9 are possible)"
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
    return draws.double(), truth.double()
