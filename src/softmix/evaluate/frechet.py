"""The Fréchet distance between Gaussians fitted to two sets of features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..rng import permutation
from .matrix import rows


@dataclass(frozen=True)
class Moments:
    """Mean [F], covariance [F, F] (divided by N - 1) and number of items of a feature set, in float64."""

    mean: Tensor
    covariance: Tensor
    count: int


def moments(features: Tensor) -> Moments:
    """The Gaussian fitted to features [N, F], N >= 2: compute it once for a reference that is used often."""
    x = rows(features, "the feature set", least=2)
    mean = x.mean(0)
    centred = x - mean
    return Moments(mean, centred.T @ centred / (len(x) - 1), len(x))


def frechet(a: Tensor | Moments, b: Tensor | Moments) -> float:
    """Squared Fréchet distance between the Gaussians fitted to two feature sets.

        |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)

    in float64 and in squared units of the features. Covariances may be singular (fewer items than
    features): nothing is inverted and no ridge is added.

    Parameters
    ----------
    a, b : features [N, F] and [M, F], N, M >= 2, or their `moments`. The order does not matter.

    Two finite samples of one law are not at 0: for N(0, I) the floor is near (1/N + 1/M) F (F + 5) / 4
    when N and M are much larger than F. So compare only numbers with equal counts, and give the counts.
    This is not "FID", which is this distance in the features of one particular Inception network.

    Raises ValueError for different numbers of features, fewer than 2 items, or values that are not finite.

    Source: Dowson & Landau, "The Fréchet distance between multivariate normal distributions" (1982);
    for images Heusel et al., arXiv 1706.08500. Choose it to compare with habit; `kernel_distance` has no
    floor. `frechet_error` says how sure this one is.
    """
    a = a if isinstance(a, Moments) else moments(a)
    b = b if isinstance(b, Moments) else moments(b)
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"the two sets have {len(a.mean)} and {len(b.mean)} features; both must come from the same extractor"
        )
    # tr (A^1/2 B A^1/2)^1/2 is the sum of the singular values of A^1/2 B^1/2. Taken so, rounding of
    # 1e-16 stays 1e-16; square roots of eigenvalues near 0 would make it 1e-8.
    shared = torch.linalg.svdvals(_root(a.covariance) @ _root(b.covariance)).sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * shared
    # The spread is a square, below 0 only by rounding.
    return float((a.mean - b.mean).square().sum() + spread.clamp(min=0))


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance that may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    # Eigenvalues that are 0 in truth come out near +-eps; their roots, near 1e-8, would be noise.
    floor = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    roots = torch.where(values > floor, values, 0.0).sqrt()
    return torch.matmul(vectors * roots, vectors.T)


def frechet_error(a: Tensor, b: Tensor, rng_seed: int, splits: int = 16) -> float:
    """The standard error of `frechet(a, b)`, by halves: how far it would move with other items of the same laws.

    Both sets are cut at random into two halves. With d1 the distance of the first halves and d2 that of the second,

        error^2 = mean over splits of (d1 - d2)^2 / 4

    d1 and d2 share no item. Each has twice the variance of the whole, and the same floor, which their difference
    does not see.

    Parameters
    ----------
    a, b : features [N, F] and [M, F], N, M >= 4: the whole sets. rng_seed : decides the halves, nothing else.
    splits : how many times; 16 know the error to about a fifth.

    Where both sets are of one law, the distance itself is all floor and its spread falls faster with the counts: the
    error is then too large by a factor near 1.4. The error is of both sets: two distances to the same real
    set share a part of it, so their difference is known better than the two errors say.

    Raises ValueError for sets too small to be cut, no split, and what `frechet` refuses.

    Source: half-sample replication, McCarthy, "Pseudo-replication: half samples" (1969), with the two halves of a
    split against each other in place of a half against the whole, whose floors differ.
    """
    if splits < 1:
        raise ValueError(f"{splits} splits were asked for; give at least 1")
    a, b = rows(a, "the first feature set", least=4), rows(b, "the second feature set", least=4)
    total = 0.0
    for split in range(splits):
        (a1, a2), (b1, b2) = _halves(a, rng_seed, f"a {split}"), _halves(b, rng_seed, f"b {split}")
        total += (frechet(a1, b1) - frechet(a2, b2)) ** 2 / 4
    return math.sqrt(total / splits)


def _halves(x: Tensor, seed: int, role: str) -> tuple[Tensor, Tensor]:
    """Two sets of equal size that share no item; of an odd number one item is left out."""
    half = len(x) // 2
    order = permutation(seed, len(x), f"frechet halves {role}")
    return x[order[:half]], x[order[half : 2 * half]]
