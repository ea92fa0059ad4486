"""Comparisons of samples with a law that is known, and of errors with an order that is claimed.

Each gives a number whose size under the truth is known beforehand, so that no floor has to be guessed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.toys import ToyMixture
from ..rng import Rng


def standardised(x: Tensor, law: ToyMixture) -> float:
    """The largest deviation of the first and second moments of x [n, ...] from the law's, in standard errors.

    The largest of D + D (D + 1) / 2 nearly normal numbers: for a true sample rarely above 4.
    """
    x = x.flatten(1).double()
    off = x - law.mean
    rows, columns = torch.triu_indices(law.dim, law.dim)
    products = torch.cat([off, off[:, rows] * off[:, columns]], dim=1)
    truth = torch.cat([torch.zeros(law.dim, dtype=x.dtype), law.covariance[rows, columns]])
    error = (products.mean(0) - truth) / (products.std(0) / math.sqrt(len(x)))
    return float(error.nan_to_num(nan=math.inf).abs().max())


def ks(x: Tensor, law: ToyMixture, directions: int = 8) -> float:
    """The largest sqrt(n) sup |F_n - F| over fixed directions: Kolmogorov's statistic of the projected samples.

    x [n, ...]. F, the law's distribution function along a direction, is exact, so there is no second sample.
    P(> 2) is about 0.0007 for each direction, whatever the law; values that are not finite give infinity.
    """
    x = x.flatten(1).double()
    if not x.isfinite().all():
        return math.inf
    axes = Rng(0, directions, "softmix.oracle.ks").normal((directions, law.dim), torch.float64)
    n, worst = len(x), 0.0
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    for axis in axes:
        line = (x @ axis).sort().values
        mean, sd = law.means @ axis, (law.factors.mT @ axis).norm(dim=1)
        true = torch.special.ndtr((line[:, None] - mean) / sd) @ law.weights
        gap = torch.maximum((true - steps[:-1]).abs().max(), (true - steps[1:]).abs().max())
        worst = max(worst, float(gap) * math.sqrt(n))
    return worst


def order(counts: Sequence[int], errors: Sequence[float]) -> float:
    """The p of error ~ count^-p that fits best on logarithmic axes."""
    if min(errors) <= 0:
        raise ValueError("an order needs errors above 0: compare with the truth, and with fewer steps")
    logs = torch.tensor([[math.log(count), math.log(error)] for count, error in zip(counts, errors, strict=True)])
    x, y = (logs.double() - logs.double().mean(0)).T
    return -float((x * y).sum() / (x * x).sum())
