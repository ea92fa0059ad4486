"""The Fréchet distance between Gaussians fitted to two sets of features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..rng import permutation
from .matrix import as_matrix


@dataclass(frozen=True)
class Moments:
    """Mean [F], covariance [F, F] (divided by N - 1) and number of items of a feature set, in float64."""

    mean: Tensor
    covariance: Tensor
    count: int


def moments(features: Tensor) -> Moments:
    """Fit a Gaussian to features [N, F], N >= 2. Compute it once for a reference that is used often."""
    x = as_matrix(features, "the feature set", least=2)
    mean = x.mean(0)
    centred = x - mean
    return Moments(mean, centred.T @ centred / (len(x) - 1), len(x))


def frechet(a: Tensor | Moments, b: Tensor | Moments) -> float:
    """Squared Fréchet distance between the Gaussians fitted to two feature sets.

        |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)

    It is computed in float64, in squared units of the features. Covariances may be singular (fewer items than
    features): nothing is inverted and no ridge is added.

    Parameters
    ----------
    a, b : features [N, F] and [M, F], N, M >= 2, or their `moments`. The order does not matter.

    The distance of two finite samples of one law is not 0. For N(0, I) this floor is near (1/N + 1/M) F (F + 5) / 4
    if N and M are much larger than F. So compare only numbers with equal counts, and report the counts.
    This is not "FID": FID is this distance in the features of one particular Inception network.

    Raises ValueError for different numbers of features, fewer than 2 items, or values that are not finite.

    Source: Dowson & Landau, "The Fréchet distance between multivariate normal distributions" (1982);
    for images Heusel et al., arXiv 1706.08500. Choose it because it is the usual distance. `kernel_distance` has
    no floor. `frechet_error` gives the standard error of this one.
    """
    a = a if isinstance(a, Moments) else moments(a)
    b = b if isinstance(b, Moments) else moments(b)
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"the two sets have {len(a.mean)} and {len(b.mean)} features; both must come from the same extractor"
        )
    # tr (A^1/2 B A^1/2)^1/2 is the sum of the singular values of A^1/2 B^1/2. Rounding of 1e-16 then stays 1e-16;
    # square roots of eigenvalues near 0 would turn it into 1e-8.
    shared = torch.linalg.svdvals(_root(a.covariance) @ _root(b.covariance)).sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * shared
    # The spread is a square: only rounding makes it negative.
    return float((a.mean - b.mean).square().sum() + spread.clamp(min=0))


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance that may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    # Eigenvalues that are 0 in exact arithmetic are near +-eps here; their roots, near 1e-8, would be noise.
    floor = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    roots = torch.where(values > floor, values, 0.0).sqrt()
    return torch.matmul(vectors * roots, vectors.T)


def frechet_error(a: Tensor, b: Tensor, rng_seed: int, splits: int = 16) -> float:
    """Estimate the standard error of `frechet(a, b)` over other samples of the same two laws, by halves.

    Both sets are cut at random into two halves. d1 is the distance of the first halves and d2 that of the second.

        error^2 = mean over splits of (d1 - d2)^2 / 4

    d1 and d2 share no item. Each has twice the variance of the whole. Both have the same floor, which cancels in the
    difference.

    Parameters
    ----------
    a, b : the whole sets of features, [N, F] and [M, F], N, M >= 4.
    rng_seed : decides the halves, nothing else.
    splits : the number of random cuts; 16 give the error to about a fifth.

    If both sets are of one law, the distance is all floor, and its spread falls faster with the counts. The error is
    then too large by a factor near 1.4. The error is that of both sets. Two distances to the same real set share a
    part of it, so their difference is more certain than the two errors suggest.

    Raises ValueError for fewer than 4 items, fewer than 1 split, and for the errors of `frechet`.

    Source: half-sample replication, McCarthy, "Pseudo-replication: half samples" (1969). Here the two halves of a
    split are compared with each other and not with the whole, because a half and the whole have different floors.
    """
    if splits < 1:
        raise ValueError(f"{splits} splits were asked for; give at least 1")
    a, b = as_matrix(a, "the first feature set", least=4), as_matrix(b, "the second feature set", least=4)
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
