"""A posterior with all its mass at one point: the output of a usual diffusion model."""

from __future__ import annotations

from types import MappingProxyType

from torch import Tensor

from ..rng import Rng
from .ability import SPREAD, HasDensity, HasMean, HasNoise, HasVariance


class Point(HasMean):
    """All probability is at one x0, [B, ...]. The model knows the mean and nothing about the spread.

    When to choose: for eight evaluations and more, with a sampler that solves the ODE.
    """

    remedies = MappingProxyType(
        {
            HasVariance: f"A point has no spread. {SPREAD}",
            HasDensity: "A point has no density. Use a Normal or Mixture head, or train the mean by the loss `Square`.",
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


class PointAndNoise(Point, HasNoise):
    """A point with the mean of the latent noise.

    mean : E[x0 | x_t], [B, ...].
    noise : E[z | x_t], [B, ...].

    When to choose: for interpolants; it is the answer of a `NoiseHead`.
    """

    def __init__(self, mean: Tensor, noise: Tensor):
        super().__init__(mean)
        self._noise = noise

    @property
    def noise(self) -> Tensor:
        return self._noise
