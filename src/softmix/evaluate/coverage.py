"""Precision, recall, density and coverage: fidelity and diversity, measured by nearest neighbours."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..memory import in_batches
from .matrix import as_matrix, at_least_one, need_same_width

# Equal distances differ in the last bits by rounding. This tolerance, relative to the radius, treats them as equal.
_EDGE = 1e-9


class Coverage(NamedTuple):
    """The four shares of `coverage`. All lie in [0, 1], but density may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(real: Tensor, fake: Tensor, k: int = 5, chunk: int = 512) -> Coverage:
    """Compute precision, recall, density and coverage of generated features.

    B(x) is the ball around x with the radius of the k-th nearest neighbour of x in its own set.

        precision  share of fakes inside the ball of at least one real
        recall     share of reals inside the ball of at least one fake
        density    mean over fakes of (number of real balls around it) / k
        coverage   share of reals with at least one fake in their ball

    Parameters
    ----------
    real, fake : features [N, F] and [M, F], more than k items each.
    k : the neighbour that sets the radius. Report it with the numbers: all four depend on it and on N and M.
    chunk : rows of distances in memory at once; memory beyond the features is near 20 chunk max(N, M) bytes. It is
        halved if the memory is too small. The result does not depend on it.

    Reference points: for two samples of one law with N = M, density is 1 on average and coverage is
    1 - prod_{i=1..k} (N - i) / (2N - i), near 1 - 2^-k. A set against itself gives 1, 1, 1, 1. A lost mode
    lowers recall and coverage and leaves precision. Samples off the data lower precision and density.

    A fake on the edge of a ball counts as inside. Density is the exception: otherwise a set against itself would
    count k + 1 neighbours of k.

    Raises ValueError for k < 1, sets not larger than k, different numbers of features, and values not finite.

    Source: Kynkäänniemi et al., arXiv 1904.06991, section 2 (precision, recall); Naeem et al.,
    arXiv 2002.09797, section 3 (density, coverage). Prefer density and coverage if outliers are likely.
    """
    if k < 1:
        raise ValueError(f"k = {k} neighbours were asked for; give at least 1")
    real, fake = as_matrix(real, "the real set", least=k + 1), as_matrix(fake, "the generated set", least=k + 1)
    need_same_width(real, fake, "the real and the generated set")
    # A common shift changes no distance, and near the origin the squares lose fewer digits.
    real, fake = real - real.mean(0), fake - real.mean(0)
    real_radius, fake_radius = _radii(real, k, chunk), _radii(fake, k, chunk)
    inside_a_real_ball = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)

    def counted(low: int, high: int) -> tuple[int, int, int]:
        apart, radius = _squares(real[low:high], fake), real_radius[low:high, None]
        near = apart <= radius * (1 + _EDGE)
        inside_a_real_ball.logical_or_(near.any(0))
        pairs = int((apart < radius * (1 - _EDGE)).sum())
        recalled = int((apart <= fake_radius * (1 + _EDGE)).any(1).sum())
        return pairs, recalled, int(near.any(1).sum())

    pairs, recalled, covered = map(sum, zip(*in_batches(counted, len(real), at_least_one(chunk), "row"), strict=True))
    return Coverage(
        precision=float(inside_a_real_ball.double().mean()),
        recall=recalled / len(real),
        density=pairs / (k * len(fake)),
        coverage=covered / len(real),
    )


def _radii(x: Tensor, k: int, chunk: int) -> Tensor:
    """Squared distance from each row to its k-th nearest other row."""

    def radii(low: int, high: int) -> Tensor:
        # Each item is its own nearest neighbour at distance 0, hence k + 1.
        return _squares(x[low:high], x).topk(k + 1, dim=1, largest=False).values[:, -1]

    return torch.cat(in_batches(radii, len(x), at_least_one(chunk), "row"))


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances [N, M] by one matrix product: four times as fast as by differences."""
    size = a.square().sum(1)[:, None] + b.square().sum(1)
    apart = torch.addmm(size, a, b.T, alpha=-2)
    # The distance of two copies is 0; here it is rounding error of either sign.
    return apart.masked_fill_(apart < 1e-13 * size, 0.0)
