"""Comparisons of samples with a known law, and of errors with a claimed order.

The size of each statistic for exact samples is known, so that a test needs no guessed tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.toys import ToyMixture
from ..rng import Rng


def standardised(x: Tensor, law: ToyMixture) -> float:
    """The largest deviation of first and second moments of x [n, ...] from those of the law, in standard errors.

    It is the largest of D + D (D + 1) / 2 nearly normal numbers: for exact samples rarely above 4. Values that are not
    finite give infinity.
    """
    x, law = x.flatten(1).double(), law.to(x.device)
    off = x - law.mean
    rows, columns = torch.triu_indices(law.dim, law.dim, device=x.device)
    products = torch.cat([off, off[:, rows] * off[:, columns]], dim=1)
    truth = torch.cat([torch.zeros(law.dim, dtype=x.dtype, device=x.device), law.covariance[rows, columns]])
    error = (products.mean(0) - truth) / (products.std(0) / math.sqrt(len(x)))
    return float(error.nan_to_num(nan=math.inf).abs().max())


def ks(x: Tensor, law: ToyMixture, directions: int = 8) -> float:
    """Kolmogorov's statistic sqrt(n) sup |F_n - F| of x [n, ...], projected on fixed directions; the largest of them.

    F is the exact distribution function of the law along a direction, so that no second sample is needed. P(> 2) is
    about 0.0007 for each direction and any law. Values that are not finite give infinity.
    """
    x, law = x.flatten(1).double(), law.to(x.device)
    if not x.isfinite().all():
        return math.inf
    axes = Rng(0, directions, "softmix.oracle.ks", x.device).normal((directions, law.dim), torch.float64)
    n, worst = len(x), 0.0
    steps = torch.arange(n + 1, dtype=torch.float64, device=x.device) / n
    for axis in axes:
        line = (x @ axis).sort().values
        mean, sd = law.means @ axis, (law.factors.mT @ axis).norm(dim=1)
        true = torch.special.ndtr((line[:, None] - mean) / sd) @ law.weights
        gap = torch.maximum((true - steps[:-1]).abs().max(), (true - steps[1:]).abs().max())
        worst = max(worst, float(gap) * math.sqrt(n))
    return worst


def order(counts: Sequence[int], errors: Sequence[float]) -> float:
    """The p of error ~ count^-p, by least squares on logarithmic axes. Raises ValueError for an error of 0."""
    if min(errors) <= 0:
        raise ValueError(f"an order needs errors above 0; found {min(errors)}: measure fewer steps")
    logs = torch.tensor([[math.log(count), math.log(error)] for count, error in zip(counts, errors, strict=True)])
    x, y = (logs.double() - logs.double().mean(0)).T
    return -float((x * y).sum() / (x * x).sum())
