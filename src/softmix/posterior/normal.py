"""The normal law, and the Gaussian log-densities that `Normal` and `Mixture` share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..rng import Rng
from ..shape import column
from .ability import HasDensity, HasVariance


def gaussian_log_prob(x: Tensor, mean: Tensor, var: Tensor, event: int) -> Tensor:
    """log N(x; mean, diag var) in nats, summed over the last `event` axes."""
    terms = (x - mean) ** 2 / var + var.log() + math.log(2 * math.pi)
    # with an empty `dim` torch would sum over all axes
    return -0.5 * (terms.sum(dim=tuple(range(-event, 0))) if event else terms)


def factor_log_prob(x: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """log N(x; mean, L L^T) in nats. x, mean : [..., D]. factor : L, any square root of the covariance, [..., D, D]."""
    offset = torch.linalg.solve(factor, (x - mean)[..., None])[..., 0]
    scale = torch.linalg.slogdet(factor).logabsdet
    return -0.5 * (offset**2).sum(-1) - scale - 0.5 * x.shape[-1] * math.log(2 * math.pi)


class Normal(HasVariance, HasDensity):
    """x0 | x_t ~ N(mean, var), independent over elements.

    mean : [B, ...].
    var : broadcastable to mean: [B, 1, ...] for one number per item, or [B, ...].

    When to choose: for a density at little cost, if x0 has about one mode given x_t.
    """

    def __init__(self, mean: Tensor, var: Tensor):
        self._mean, self._var = mean, var

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def var(self) -> Tensor:
        return self._var

    def sample(self, rng: Rng) -> Tensor:
        return self._mean + self._var.sqrt() * rng.normal(self._mean.shape, self._mean.dtype).to(self._mean.device)

    def log_prob(self, x0: Tensor) -> Tensor:
        return gaussian_log_prob(x0, self._mean, self._var.expand_as(self._mean), x0.ndim - 1)

    def blurred(self, var: Tensor) -> Normal:
        """The law of x0 + N(0, var I). var : one number per item, [B]."""
        return Normal(self._mean, self._var + column(var, self._mean))
