"""Maps of the probability-flow ODE with a closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..denoiser import exact
from ..process import Gaussian


def gaussian_flow(process: Gaussian, mean: Tensor, covariance: Tensor, x: Tensor, t: float, s: float) -> Tensor:
    """`denoiser.exact.gaussian_flow` for a covariance [D, D]."""
    variances, vectors = torch.linalg.eigh(covariance)
    return exact.gaussian_flow(process, mean, variances, vectors, x, t, s)


def monotone_flow(
    before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor], x: Tensor, low: float, high: float
) -> Tensor:
    """F_s^-1(F_t(x)) for distribution functions F_t = before and F_s = after, by bisection in [low, high].

    In one dimension the paths of the ODE cannot cross and it transports the marginals, so that this is its map for any
    law. The error is about 1e-15 / density: keep x within some 6 sd of the bulk.
    """
    target = before(x)
    left, right = torch.full_like(x, low), torch.full_like(x, high)
    for _ in range(100):
        middle = (left + right) / 2
        below = after(middle) < target
        left, right = torch.where(below, middle, left), torch.where(below, right, middle)
    return (left + right) / 2
