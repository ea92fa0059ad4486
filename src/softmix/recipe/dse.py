"""Diffusion spectral entropy: the dimension of noisy points, hidden states in training, and states over noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from ..data import load
from ..info import relative_width, spectral_entropy
from ..info.spectral import Operator
from ..rng import Rng
from .dse_nets import (
    BY_DSMI,
    BY_NEIGHBOURS,
    BY_NOISE,
    CLASSIFIER,
    DENOISER,
    ENTROPY,
    ENTROPY_RELATIVE,
    FIXED,
    LEARNING,
    NEIGHBOURS,
    NETWORK,
    RANDOM,
    RANKED,
    RELATIVE,
    SCALE,
    TRUE,
    UNTRAINED,
    learning,
    over_noise,
    rank_correlation,
)
from .frame import Arms, Numbers, Results, Study, arm
from .paper import Paper, Role

PAPER = Paper.of(
    "dse",
    "The entropy of the spectrum of a diffusion over points measures their dimension in spite of noise. It rises while "
    "a network learns, and the information of the labels rises if the network generalises and stays flat if it learns "
    "random labels by heart.",
)
RESULT = ""

F64 = torch.float64
CLUSTERS = "clusters and limits"
COUNTS = (1, 2, 3, 5, 8, 16)
# manifolds: their dimensions, and the variance of the noise as a share of that of the points
DIMENSIONS, SPACE = tuple(range(1, 9)), 100
NOISES = (0.0, 0.1, 0.3, 1.0)
# points of equal variance, and points whose variance grows with the dimension, as the authors' do
EQUAL, GROWING = "equal variance", "variance grows"
# of the variance of the points, and of the median distance
WIDE, FACTOR = 1.0, 0.5

OURS, PUBLISHED = "DSE, one width", "DSE, one width, published operator"
OWN_WIDTH, OWN_PUBLISHED = "DSE, width of the scale", "DSE, width of the scale, published operator"
JOINT, EACH = "Shannon, joint bins", "Shannon, bins of each coordinate"
VARIANCE, LINEAR = "log of the variance", "dimension by principal components"
MEASURES: dict[str, Role] = {
    OURS: "ours",
    PUBLISHED: "ours",
    OWN_WIDTH: "control",
    OWN_PUBLISHED: "control",
    JOINT: "baseline",
    EACH: "baseline",
    VARIANCE: "control",
    LINEAR: "baseline",
}


def limits(seed: int, n: int) -> Mapping[str, float]:
    """The largest errors, in bits: of log2 k for k tight clusters far apart, and at the ends of the widths, for a curve
    and for a Gaussian in twenty dimensions."""
    line = torch.arange(n, dtype=F64)[:, None] / n
    clouds = torch.cat([line.cos(), line.sin()], 1), Rng(seed, n, "points").normal((n, 20), F64)
    results: dict[str, float] = {}
    for operator in get_args(Operator):
        off = [spectral_entropy(clusters(k, n, seed), 1.0, operator=operator) - math.log2(k) for k in COUNTS]
        narrow = [spectral_entropy(x, 1e-6, operator=operator) - math.log2(n) for x in clouds]
        wide = [spectral_entropy(x, 1e6, operator=operator) for x in clouds]
        for kind, errors in (("clusters", off), ("narrow", narrow), ("wide", wide)):
            results[f"{kind}, {operator}"] = max(abs(error) for error in errors)
    return results


def clusters(count: int, n: int, seed: int) -> Tensor:
    """n points in twenty dimensions, in `count` tight clusters of equal or almost equal size, far apart."""
    centre = 1000 * torch.eye(20, dtype=F64)[torch.arange(n) % count]
    return centre + 1e-4 * Rng(seed, n, f"{count} clusters").normal((n, 20), F64)


def manifold(dimension: int, n: int, seed: int, noise: float, family: str) -> Tensor:
    """n points of a curved manifold in R^100, with noise.

    Each of the `dimension` coordinates, uniform, is the angle of a half circle in a plane of its own, and all are
    turned together. `EQUAL` scales the points to a mean square distance of 1 from their mean; `GROWING` leaves half
    circles of radius 1.

    noise : the sum of its variances over all directions.
    """
    angle = math.pi * (Rng(seed, n, f"dimension {dimension}").uniform((n, dimension), F64) - 0.5)
    turn = torch.linalg.qr(Rng(seed, 1, f"turn {dimension}").normal((1, SPACE, SPACE), F64)[0]).Q
    x = torch.cat([angle.sin(), angle.cos()], 1)
    x = x - x.mean(0)
    if family == EQUAL:
        x = x / x.square().sum(1).mean().sqrt()
    more = Rng(seed, n, f"noise {dimension}").normal((n, SPACE), F64)
    return x @ turn[: 2 * dimension] + math.sqrt(noise / SPACE) * more


def binned(x: Tensor, bins: int) -> Tensor:
    """The cell of each coordinate, from 0 on, of points [N, D] scaled to [0, 1]."""
    low, high = x.min(0).values, x.max(0).values
    return ((x - low) / (high - low) * bins).long().clamp(max=bins - 1)


def joint_entropy(x: Tensor, bins: int = 2) -> float:
    """The entropy of points in cells of all coordinates together, in bits, as in the authors' code."""
    return _entropy(binned(x, bins).unique(dim=0, return_counts=True)[1])


def coordinate_entropy(x: Tensor, bins: int = 30) -> float:
    """The entropy of points in bins of each coordinate, in bits, the sum over coordinates."""
    return sum(_entropy(each.bincount()) for each in binned(x, bins).T)


def _entropy(counts: Tensor) -> float:
    share = counts.double() / counts.sum()
    return float(torch.special.entr(share).sum()) / math.log(2)


def principal_dimension(x: Tensor) -> float:
    """(sum v)^2 / sum v^2 for the eigenvalues v of the covariance: the number of directions, without curvature."""
    values = torch.linalg.svdvals(x - x.mean(0)) ** 2
    return float(values.sum() ** 2 / values.square().sum())


def measures(x: Tensor) -> dict[str, float]:
    """All measures of points [N, D]."""
    own = relative_width(x, FACTOR)
    return {
        OURS: spectral_entropy(x, WIDE),
        PUBLISHED: spectral_entropy(x, WIDE, operator="published"),
        OWN_WIDTH: spectral_entropy(x, own),
        OWN_PUBLISHED: spectral_entropy(x, own, operator="published"),
        JOINT: joint_entropy(x),
        EACH: coordinate_entropy(x),
        # rounded: equal numbers would be ranked by their rounding errors
        VARIANCE: round(math.log((x - x.mean(0)).square().sum(1).mean()), 9),
        LINEAR: principal_dimension(x),
    }


def dimensions(family: str, seed: int, n: int) -> Results:
    """The rank correlation of each measure with the dimension, at each noise and over all noises together. And for the
    entropies how far the strongest noise moves them, as a multiple of their range over dimensions without noise."""
    tables = {
        noise: [measures(manifold(dimension, n, seed, noise, family)) for dimension in DIMENSIONS] for noise in NOISES
    }
    results: dict[tuple[str, str], float] = {}
    for name in MEASURES:
        values = {noise: [each[name] for each in table] for noise, table in tables.items()}
        own = on(name, family)
        results |= {(own, f"rank@{noise:g}"): rank_correlation(line, DIMENSIONS) for noise, line in values.items()}
        together = [value for line in values.values() for value in line]
        results[own, "rank, all"] = rank_correlation(together, DIMENSIONS * len(NOISES))
        if name not in (VARIANCE, LINEAR):
            clean, noisy = values[NOISES[0]], values[NOISES[-1]]
            moved = max(abs(there - here) for here, there in zip(clean, noisy, strict=True))
            results[own, "moved"] = moved / (max(clean) - min(clean))
    return results


def on(name: str, family: str) -> str:
    """The name of a measure on one family of manifolds."""
    return f"{name} ({family})"


# half the 95 % interval of the mean of five seeds, in standard deviations: Student's t over the root of 5
INTERVAL = 2.776 / math.sqrt(5)


def checks(value: Numbers) -> Mapping[str, bool]:
    """Manifolds; limits; a classifier in training; a diffusion model over noise."""
    errors = [number for (name, _), number in value.items() if name == CLUSTERS]
    found = _of_dimensions(value) | {
        f"k tight clusters have log2 k bits, and all points log2 N and 0 bits at the ends of the widths, by both "
        f"operators (within {max(errors):.1g})": max(errors) < 1e-4
    }
    if (FIXED, f"{TRUE}: rise") in value:
        found |= _of_learning(value)
    if (BY_DSMI, "rank over all") in value:
        found |= _of_noise(value)
    return found


def _of_dimensions(value: Numbers) -> dict[str, bool]:
    def worst(name: str, family: str) -> float:
        return min(value[on(name, family), f"rank@{noise:g}"] for noise in NOISES)

    ours, joint, linear = (worst(name, EQUAL) for name in (OURS, JOINT, LINEAR))
    published = worst(PUBLISHED, EQUAL)
    scaled = worst(OWN_WIDTH, GROWING)
    return {
        f"with as much noise as signal and less the entropy ranks manifolds of equal variance by their dimension, by "
        f"at least 0.9, and joint bins do not ({ours:.2f}, published operator {published:.2f}; {joint:.2f})": ours
        >= 0.9
        and published >= 0.9
        and joint < 0.9,
        f"it does so better than the number of principal components ({ours:.2f}; {linear:.2f})": ours > linear,
        f"a width of the scale ranks manifolds whose variance grows too, by at least 0.9 ({scaled:.2f}; one width "
        f"{worst(OURS, GROWING):.2f}, the variance alone {worst(VARIANCE, GROWING):.2f})": scaled >= 0.9,
        f"noise as strong as the signal moves the entropy by less than half of its range over dimensions "
        f"({value[on(OURS, EQUAL), 'moved']:.2f} of it)": value[on(OURS, EQUAL), "moved"] < 0.5,
    }


def _of_learning(value: Numbers) -> dict[str, bool]:
    def rises(name: str, label: str) -> tuple[float, float]:
        """The rise, and half its interval."""
        return value[name, f"{label}: rise"], INTERVAL * value.spread(name, f"{label}: rise")

    def shown(name: str, label: str) -> str:
        number, half = rises(name, label)
        return f"{number:.2f} ± {half:.2f}" if half else f"{number:.2f}"

    def above(name: str, label: str) -> bool:
        number, half = rises(name, label)
        return number - half > 0

    def stays(name: str) -> bool:
        """At most a quarter of the rise by true labels."""
        number, half = rises(name, RANDOM)
        return number + half <= rises(name, TRUE)[0] / 4

    def ends(name: str, label: str) -> str:
        return f"{value[name, f'{label}: first']:.2f} to {value[name, f'{label}: last']:.2f}"

    # of the images that the classifier learned from, with the labels that it learned
    own = f"{RANDOM}, own"
    learned = value[NETWORK, f"{own}: last"]
    memorised, seen = (value[name, f"{own}: last"] for name in (RELATIVE, NEIGHBOURS))
    return {
        f"while a classifier learns, the information of the class rises at the authors' width ({shown(FIXED, TRUE)} "
        f"bits)": above(FIXED, TRUE),
        f"and at a width of the scale ({shown(RELATIVE, TRUE)} bits; k nearest neighbours {shown(NEIGHBOURS, TRUE)})": (
            above(RELATIVE, TRUE)
        ),
        f"with random labels it rises by no more than a quarter of that at the authors' width ({shown(FIXED, RANDOM)} "
        f"bits)": stays(FIXED),
        f"and at a width of the scale ({shown(RELATIVE, RANDOM)} bits; k nearest neighbours "
        f"{shown(NEIGHBOURS, RANDOM)})": stays(RELATIVE),
        f"the entropy rises at the authors' width ({ends(ENTROPY, TRUE)} bits)": above(ENTROPY, TRUE),
        f"and at a width of the scale ({ends(ENTROPY_RELATIVE, TRUE)} bits; log2 of the median distance "
        f"{ends(SCALE, TRUE)})": above(ENTROPY_RELATIVE, TRUE),
        f"states of images whose random labels were learned ({100 * learned:.0f} % right) tell of them, at "
        f"least half of what k nearest neighbours find ({memorised:.2f}; {seen:.2f} bits)": memorised >= seen / 2,
    }


def _of_noise(value: Numbers) -> dict[str, bool]:
    def of(metric: str, *names: str) -> str:
        return "; ".join(f"{value[name, metric]:.2f} {name}" for name in names)

    everywhere, blocks, by = "rank over all", "rank over blocks", (BY_DSMI, BY_NEIGHBOURS, BY_NOISE, UNTRAINED)
    return {
        f"the information of the class ranks the blocks and noise levels of a diffusion model as a linear probe does, "
        f"by at least 0.9 and better than the noise alone ({of(everywhere, *by)})": value[BY_DSMI, everywhere] >= 0.9
        and value[BY_DSMI, everywhere] > value[BY_NOISE, everywhere],
        f"and the blocks at one noise level, at least as well as k nearest neighbours do "
        f"({of(blocks, BY_DSMI, BY_NEIGHBOURS, UNTRAINED)})": value[BY_DSMI, blocks] >= value[BY_NEIGHBOURS, blocks],
    }


def _arms() -> list[Arms]:
    needs = partial(load, "fashion-mnist")
    found = [arm(CLUSTERS, "oracle", limits, "known answers", {"n": 160}, {"n": 480}, 1)]
    for family in (EQUAL, GROWING):
        roles: dict[str, Role] = {on(name, family): role for name, role in MEASURES.items()}
        measure = partial(dimensions, family)
        found.append(Arms(roles, measure, f"manifolds in 100 dimensions, {family}", {"n": 300}, {"n": 800}))
    short, long = {"images": 1000, "n": 300, "doublings": 3}, {"images": 2000, "n": 800, "doublings": 5}
    found.append(Arms(LEARNING, learning, CLASSIFIER, short, long, needs=needs))
    short, long = {"images": 4800, "n": 300, "fitted": 1000}, {"images": 24_000, "n": 800, "fitted": 2000}
    return [*found, Arms(RANKED, over_noise, DENOISER, short, long, needs=needs)]


run = Study(PAPER, checks, _arms())
