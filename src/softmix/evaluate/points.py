"""Distances for samples of points and for problems whose modes are known."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..rng import Rng
from .matrix import distances, rows, same_width, spans


class Modes(NamedTuple):
    """See `mode_statistics`: a share, a share, and an int64 histogram [K]."""

    good: float
    total_variation: float
    counts: Tensor


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 256, *, seed: int) -> float:
    """Sliced Wasserstein-1 distance: the mean over directions of W1 between the projected samples.

        mean_theta  integral_0^1 |Q_a(u) - Q_b(u)| du,    theta uniform on the sphere

    Q is the quantile function of the sample's projection. For samples of unequal size the integral of
    the two step functions is taken exactly, as if each sample were repeated up to a common size.

    Parameters
    ----------
    a, b : samples [N, ...] and [M, ...], flattened to D numbers each. Units are those of the samples.
    projections : number of directions. Direction i depends on (seed, i, D) alone, so asking for more
        keeps the first ones, and two comparisons with one seed use the same directions.

    A shift by d gives mean |<theta, d>|, which is 2/pi |d| in the plane. Two samples of one law are not
    at 0 but near 1/sqrt(N): always give this floor too. Raises ValueError for different widths, an empty
    set, or values that are not finite.

    Source: Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures" (2015), with power 1.
    """
    a, b = rows(a, "the first sample"), rows(b, "the second sample")
    same_width(a, b, "the samples")
    if projections < 1:
        raise ValueError(f"{projections} projections were asked for; give at least 1")
    directions = Rng(seed, projections, "sliced wasserstein").normal((projections, a.shape[1]), torch.float64)
    directions = directions / directions.norm(dim=1, keepdim=True)
    pick_a, pick_b, weight = _common_quantiles(len(a), len(b))
    total = torch.zeros((), dtype=torch.float64)
    for part in spans(projections, max(1, (1 << 22) // len(weight))):
        line_a, line_b = ((x @ directions[part].T).sort(0).values for x in (a, b))
        total += (weight @ (line_a[pick_a] - line_b[pick_b]).abs()).sum()
    return float(total / projections)


def energy_distance(a: Tensor, b: Tensor, chunk: int = 1024) -> float:
    """Unbiased energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'|, with Euclidean norms.

    Parameters
    ----------
    a, b : independent samples [N, ...] and [M, ...], at least 2 items each; units are those of the samples.
    chunk : rows of distances held at once; the result does not depend on it, but for the last bits.

    No item is compared with itself, so there is no floor: samples of one law give 0 on average, hence
    values below 0, which are not clamped; a set against itself is below 0 by 2/N of its mean distance.
    Raises ValueError for different widths, fewer than 2 items, or values that are not finite.

    Source: Székely & Rizzo, "Energy statistics" (2013). It is 0 only for equal laws, and it is the
    population form of the energy score that trains an SMD model.
    """
    a, b = rows(a, "the first sample", least=2), rows(b, "the second sample", least=2)
    same_width(a, b, "the samples")
    between = _total_distance(a, b, chunk) / (len(a) * len(b))
    within = sum(_total_distance(x, x, chunk) / (len(x) * (len(x) - 1)) for x in (a, b))
    return 2 * between - within


def mode_statistics(
    x: Tensor, means: Tensor, sd: Tensor | float, within: float = 4.0, *, weights: Tensor | None = None
) -> Modes:
    """How samples spread over the known modes of a mixture.

    good             share of samples within `within` standard deviations of at least one mode
    total_variation  0.5 sum_k |counts_k / N - weights_k|, with every sample, good or not, given to its nearest mode
    counts           those counts, int64 [K]

    Parameters
    ----------
    x : samples [N, D]. means : modes [K, D]. sd : standard deviation per coordinate, one or [K].
    within : radius in units of sd, of the Euclidean distance in all D coordinates. A true sample is inside
        with the probability of a chi variable with D degrees: 0.99966 for 4 in the plane, but 0.97 in
        eight dimensions and nearly 0 in forty, so widen it there.
    weights : true weights [K], equal ones if left out.

    The total variation has a floor near sum_k sqrt(w_k (1 - w_k) / (2 pi N)). Raises ValueError for sizes
    that do not fit, sd not positive, or weights that are not a distribution.
    """
    x, means = rows(x, "the sample"), rows(means, "the modes")
    same_width(x, means, "the sample and the modes")
    weights = torch.ones(len(means)) / len(means) if weights is None else weights
    sd = torch.as_tensor(sd, dtype=torch.float64).cpu()
    if sd.shape not in ((), (len(means),)) or not (sd > 0).all():
        raise ValueError(f"sd must be one positive number, or one for each of {len(means)} modes; it is {sd.tolist()}")
    if weights.shape != (len(means),):
        raise ValueError(f"there are {len(means)} modes, but the weights have shape {list(weights.shape)}")
    labels, good = torch.empty(len(x), dtype=torch.int64), 0
    for part in spans(len(x), 4096):
        apart = distances(x[part], means)
        labels[part] = apart.argmin(1)
        good += int((apart <= within * sd).any(1).sum())
    return Modes(good / len(x), histogram_tv(labels, weights), labels.bincount(minlength=len(means)))


def histogram_tv(labels: Tensor, weights: Tensor) -> float:
    """Total variation 0.5 sum_k |share of label k - weights_k| between labels [N] in 0 .. K-1 and weights [K].

    0 for the right shares, 1 for disjoint ones; for classes, give `features.classify(x0).argmax(1)`.
    ValueError for no labels, a label outside 0 .. K-1, or weights that are not a distribution.
    """
    weights, labels = weights.detach().to("cpu", torch.float64), labels.detach().cpu()
    # 1e-5 lets weights pass that were normalised in float32.
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


def _common_quantiles(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """The steps of two quantile functions laid over each other: which sorted item of each, and how wide."""
    # Counted in units of 1 / (n m), the steps are whole numbers and no edge is lost to rounding.
    ends = torch.unique(torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]))
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
    return starts // m, starts // n, (ends - starts).double() / (n * m)


def _total_distance(a: Tensor, b: Tensor, chunk: int) -> float:
    return sum(float(distances(a[part], b).sum()) for part in spans(len(a), chunk))
