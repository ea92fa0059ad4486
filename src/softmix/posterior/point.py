"""Certainty. What a usual diffusion model believes."""

from __future__ import annotations

from types import MappingProxyType

from torch import Tensor

from ..rng import Rng
from .ability import SPREAD, HasDensity, HasMean, HasVariance


class Point(HasMean):
    """All belief at one x0, [B, ...]: the model knows where the mean lies and nothing of the spread."""

    remedies = MappingProxyType(
        {
            HasVariance: f"A point knows no spread. {SPREAD}",
            HasDensity: "A point has no density. Use a Normal or Mixture head, or score the mean by `Square`.",
        }
    )

    def __init__(self, mean: Tensor):
        self._mean = mean

    @property
    def mean(self) -> Tensor:
        return self._mean

    def sample(self, rng: Rng) -> Tensor:
        return self._mean

    def draws(self, m: int, rng: Rng) -> Tensor:
        return self._mean.expand(m, *self._mean.shape)
