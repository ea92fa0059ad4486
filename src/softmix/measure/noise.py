"""The noise n of a measurement y = A(x0) + n, and its log-density."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..posterior.normal import gaussian_log_prob
from ..rng import Rng


class Noise(Protocol):
    """The law of y given A(x0), independent over elements."""

    def draw(self, clean: Tensor, rng: Rng) -> Tensor:
        """y [B, ...] of A(x0) [B, ...]."""
        ...

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y | A(x0)) of each element, in nats."""
        ...

    def sd(self, clean: Tensor) -> Tensor:
        """The standard deviation of y given A(x0), broadcastable to it."""
        ...


@dataclass(frozen=True)
class GaussianNoise:
    """y = A(x0) + scale z, z ~ N(0, I).

    scale : above 0; for a measurement without noise use a small one, or `replacing` or `projected`.
    """

    scale: float

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"noise with a standard deviation of {self.scale} was asked for; give one above 0")

    def draw(self, clean: Tensor, rng: Rng) -> Tensor:
        return clean + self.scale * rng.normal(clean.shape, clean.dtype).to(clean)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        return gaussian_log_prob(y, clean, clean.new_tensor(self.scale**2), 0)

    def sd(self, clean: Tensor) -> Tensor:
        return clean.new_tensor(self.scale)


@dataclass(frozen=True)
class PoissonNoise:
    """Photons are counted: (1 + y) peak / 2 ~ Poisson of mean (1 + A(x0)) peak / 2 + dark.

    peak : the mean count at A(x0) = 1. Less light has more noise.
    dark : counts without light, at least 0.

    A(x0) below -1 counts as no light. y stands on the scale of A(x0), with `dark` taken off. The log-density is the log
    of the probability of the count.
    """

    peak: float
    dark: float = 0.01

    def __post_init__(self) -> None:
        if not self.peak > 0 or self.dark < 0:
            raise ValueError(f"peak = {self.peak} and dark = {self.dark} were given; peak must be above 0, dark >= 0")

    def draw(self, clean: Tensor, rng: Rng) -> Tensor:
        mean = self._mean(clean)
        # by inversion, so that the count of an item depends on its stream alone
        count = _poisson(mean, rng.uniform(tuple(clean.shape), torch.float64).to(clean.device))
        return (count.to(clean) - self.dark) * (2 / self.peak) - 1

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        count, mean = (1 + y) * (self.peak / 2) + self.dark, self._mean(clean)
        return count * mean.clamp(min=1e-30).log() - mean - torch.lgamma(count + 1)

    def sd(self, clean: Tensor) -> Tensor:
        return self._mean(clean).sqrt() * (2 / self.peak)

    def _mean(self, clean: Tensor) -> Tensor:
        return (1 + clean).clamp(min=0) * (self.peak / 2) + self.dark


@dataclass(frozen=True)
class RoundingNoise:
    """y = the multiple of `step` next to A(x0) + scale z: a measurement of few bits.

    log p(y | A(x0)) = log [Phi((y + step/2 - A(x0)) / scale) - Phi((y - step/2 - A(x0)) / scale)]

    step : the distance of two values, above 0. For b bits in [-1, 1] it is 2 / (2^b - 1).
    scale : of the Gaussian noise before rounding, above 0.
    """

    step: float
    scale: float

    def __post_init__(self) -> None:
        if not (self.step > 0 and self.scale > 0):
            raise ValueError(f"step = {self.step} and scale = {self.scale} were given; both must be above 0")

    def draw(self, clean: Tensor, rng: Rng) -> Tensor:
        noisy = clean + self.scale * rng.normal(clean.shape, clean.dtype).to(clean)
        return (noisy / self.step).round() * self.step

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        off = (y - clean).abs() / self.scale
        half = self.step / (2 * self.scale)
        # from the upper tail: exact far from the value too
        upper, lower = torch.special.log_ndtr(half - off), torch.special.log_ndtr(-half - off)
        return upper + torch.log1p(-(lower - upper).exp())

    def sd(self, clean: Tensor) -> Tensor:
        return clean.new_tensor((self.scale**2 + self.step**2 / 12) ** 0.5)


def _poisson(mean: Tensor, u: Tensor) -> Tensor:
    """The smallest count whose cumulative probability is at least u, by bisection of the regularised gamma function.

    P(count <= k) = Q(k + 1, mean).
    """
    mean = mean.to(u.dtype)
    low, high = torch.full_like(mean, -1.0), (mean + 12 * mean.sqrt() + 40).ceil()
    for _ in range(int(math.log2(max(float(high.max()), 1))) + 2):
        middle = ((low + high) / 2).floor()
        enough = torch.special.gammaincc(middle + 1, mean) >= u
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high
