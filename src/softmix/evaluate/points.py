"""Distances for samples of points, and statistics of known modes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..memory import in_batches
from ..rng import Rng
from .matrix import as_matrix, at_least_one, distances, need_same_width


class Modes(NamedTuple):
    """The result of `mode_statistics`: two shares and an int64 histogram [K]."""

    good: float
    total_variation: float
    counts: Tensor


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 256, *, seed: int) -> float:
    """Sliced Wasserstein-1 distance: the mean over directions of W1 between the projected samples.

        mean_theta  integral_0^1 |Q_a(u) - Q_b(u)| du,    theta uniform on the sphere

    Q is the quantile function of the sample's projection. For samples of unequal size the integral of the two step
    functions is exact, as if each sample were repeated up to a common size.

    Parameters
    ----------
    a, b : samples [N, ...] and [M, ...], flattened to D numbers each. Units are those of the samples.
    projections : number of directions. Direction i depends on (seed, i, D) only. So a larger number keeps the first
        directions, and two comparisons with one seed use the same directions.
    seed : decides the directions.

    A shift by d gives mean |<theta, d>|, which is 2/pi |d| in the plane. For two samples of one law the distance is not
    0 but near 1/sqrt(N): always report this floor too.

    Raises ValueError for different widths, an empty set, and values that are not finite.

    Source: Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures" (2015), with power 1.
    """
    a, b = as_matrix(a, "the first sample"), as_matrix(b, "the second sample")
    need_same_width(a, b, "the samples")
    if projections < 1:
        raise ValueError(f"{projections} projections were asked for; give at least 1")
    directions = Rng(seed, projections, "sliced wasserstein").normal((projections, a.shape[1]), torch.float64)
    directions = directions / directions.norm(dim=1, keepdim=True)
    pick_a, pick_b, weight = _common_quantiles(len(a), len(b), a.device)

    def distance(low: int, high: int) -> Tensor:
        line_a, line_b = ((x @ directions[low:high].T).sort(0).values for x in (a, b))
        return (weight @ (line_a[pick_a] - line_b[pick_b]).abs()).sum()

    parts = in_batches(distance, projections, max(1, (1 << 22) // len(weight)), "projection")
    total = sum(parts, torch.zeros((), dtype=torch.float64, device=a.device))
    return float(total / projections)


def energy_distance(a: Tensor, b: Tensor, chunk: int = 1024) -> float:
    """Unbiased energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'|, with Euclidean norms.

    Parameters
    ----------
    a, b : independent samples [N, ...] and [M, ...], at least 2 items each; units are those of the samples.
    chunk : rows of distances in memory at once; the result depends on it in the last bits only.

    No item is compared with itself, so there is no floor: two samples of one law give 0 on average. Half of the values
    are then below 0; they are not clamped. A set against itself is below 0 by 2/N of its mean distance.

    Raises ValueError for different widths, fewer than 2 items, and values that are not finite.

    Source: Székely & Rizzo, "Energy statistics" (2013). It is 0 only for equal laws. It is the population form of the
    energy score that trains an SMD model.
    """
    a, b = as_matrix(a, "the first sample", least=2), as_matrix(b, "the second sample", least=2)
    need_same_width(a, b, "the samples")
    between = _total_distance(a, b, chunk) / (len(a) * len(b))
    within = sum(_total_distance(x, x, chunk) / (len(x) * (len(x) - 1)) for x in (a, b))
    return 2 * between - within


def mode_statistics(
    x: Tensor, means: Tensor, sd: Tensor | float, within: float = 4.0, *, weights: Tensor | None = None
) -> Modes:
    """Count how samples spread over the known modes of a mixture.

        good             share of samples within `within` standard deviations of at least one mode
        total_variation  0.5 sum_k |counts_k / N - weights_k|; every sample counts for its nearest mode
        counts           these counts, int64 [K]

    Parameters
    ----------
    x : samples [N, D].
    means : modes [K, D].
    sd : standard deviation per coordinate, one number or [K].
    within : radius in units of sd, for the Euclidean distance in all D coordinates. A true sample is inside
        with the probability of a chi variable with D degrees: 0.99966 for 4 in the plane, but 0.97 in
        eight dimensions and nearly 0 in forty. Use a larger radius in many dimensions.
    weights : true weights [K]; None for equal ones.

    The total variation has a floor near sum_k sqrt(w_k (1 - w_k) / (2 pi N)).

    Raises ValueError for sizes that do not fit, sd not positive, and weights that are not a distribution.
    """
    x, means = as_matrix(x, "the sample"), as_matrix(means, "the modes")
    need_same_width(x, means, "the sample and the modes")
    weights = torch.ones(len(means), device=means.device) / len(means) if weights is None else weights
    sd = torch.as_tensor(sd, dtype=torch.float64).cpu()
    if sd.shape not in ((), (len(means),)) or not (sd > 0).all():
        raise ValueError(f"sd must be one positive number, or one for each of {len(means)} modes; it is {sd.tolist()}")
    if weights.shape != (len(means),):
        raise ValueError(f"there are {len(means)} modes, but the weights have shape {list(weights.shape)}")

    def assigned(low: int, high: int) -> tuple[Tensor, int]:
        apart = distances(x[low:high], means)
        return apart.argmin(1), int((apart <= within * sd).any(1).sum())

    nearest, good = zip(*in_batches(assigned, len(x), 4096, "item"), strict=True)
    labels = torch.cat(nearest)
    return Modes(sum(good) / len(x), histogram_tv(labels, weights), labels.bincount(minlength=len(means)))


def histogram_tv(labels: Tensor, weights: Tensor) -> float:
    """Total variation 0.5 sum_k |share of label k - weights_k| between labels [N] in 0 .. K-1 and weights [K].

    0 for the right shares, 1 for disjoint ones. For classes, give `features.classify(x0).argmax(1)`.

    Raises ValueError for no labels, a label outside 0 .. K-1, and weights that are not a distribution.
    """
    weights, labels = weights.detach().to("cpu", torch.float64), labels.detach().cpu()
    # Weights normalised in float32 are off by up to 1e-5.
    if weights.ndim != 1 or not (weights >= 0).all() or abs(float(weights.sum()) - 1) > 1e-5:
        raise ValueError(
            "weights must be numbers >= 0 that sum to 1, shape [K]; "
            f"they have shape {list(weights.shape)} and sum to {float(weights.sum()):.6g}"
        )
    if labels.ndim != 1 or len(labels) == 0 or labels.is_floating_point():
        raise ValueError(
            f"labels must be at least one integer, shape [N]; they are {labels.dtype} of shape {list(labels.shape)}"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= len(weights):
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, "
            f"but there are weights for 0 to {len(weights) - 1} only"
        )
    shares = labels.bincount(minlength=len(weights)).double() / len(labels)
    return float((shares - weights).abs().sum() / 2)


def _common_quantiles(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The common steps of two quantile functions: the index of the sorted item of each, and the width."""
    # In units of 1 / (n m) the steps are integers, so rounding loses no edge.
    ends = torch.unique(
        torch.cat([torch.arange(1, n + 1, device=device) * m, torch.arange(1, m + 1, device=device) * n])
    )
    starts = torch.cat([torch.zeros(1, dtype=torch.int64, device=device), ends[:-1]])
    return starts // m, starts // n, (ends - starts).double() / (n * m)


def _total_distance(a: Tensor, b: Tensor, chunk: int) -> float:
    return sum(in_batches(lambda low, high: float(distances(a[low:high], b).sum()), len(a), at_least_one(chunk), "row"))
