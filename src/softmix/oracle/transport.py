"""Room `oracle`: the probability-flow ODE's map where it has a closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..process import Gaussian


def gaussian_flow(process: Gaussian, mean: Tensor, covariance: Tensor, x: Tensor, t: float, s: float) -> Tensor:
    """x_s = alpha_s m + U diag(psi) U^T (x_t - alpha_t m),
    psi = sqrt((alpha_s^2 l + sigma_s^2) / (alpha_t^2 l + sigma_t^2)),

    for x0 ~ N(m, U diag(l) U^T). mean [D], covariance [D, D], x [B, D] at time t; the result at time s.
    """
    spread, vectors = torch.linalg.eigh(covariance)
    total = [process.alpha(time) ** 2 * spread + process.sigma(time) ** 2 for time in (t, s)]
    psi = (total[1] / total[0]).sqrt()
    return process.alpha(s) * mean + ((x - process.alpha(t) * mean) @ vectors * psi) @ vectors.mT


def monotone_flow(
    before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor], x: Tensor, low: float, high: float
) -> Tensor:
    """F_s^-1(F_t(x)) for distribution functions F_t = before and F_s = after, by bisection in [low, high].

    In one dimension the ODE's paths cannot cross and it carries the marginals, so this is its map, whatever
    the law. Good to about 1e-15 / density: keep x within some 6 sd of the bulk.
    """
    target = before(x)
    left, right = torch.full_like(x, low), torch.full_like(x, high)
    for _ in range(100):
        middle = (left + right) / 2
        below = after(middle) < target
        left, right = torch.where(below, middle, left), torch.where(below, right, middle)
    return (left + right) / 2
