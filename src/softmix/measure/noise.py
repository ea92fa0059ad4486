"""The noise n of a measurement y = A(x0) + n, and its log-density."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..posterior.normal import gaussian_log_prob
from ..rng import Rng

# the mean count above which the law is taken from an expansion
_MANY = 1e4


class Noise(Protocol):
    """The law of y given A(x0), independent over elements."""

    def draw(self, clean: Tensor, rng: Rng) -> Tensor:
        """y [B, ...] of A(x0) [B, ...]."""
        ...

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y | A(x0)) of each element, in nats, differentiable in A(x0).

        A density if y is continuous. If y takes separate values only, as a count does, the probability of the value.
        """
        ...

    def sd(self, clean: Tensor) -> Tensor:
        """The standard deviation of y given A(x0), broadcastable to it."""
        ...


@dataclass(frozen=True)
class GaussianNoise:
    """y = A(x0) + scale z, z ~ N(0, I).

    scale : above 0; for a measurement without noise use a small one, or `replacing`.

    When to choose: a sensor with much light, k-space, and a measurement of which only the size of the error is known.
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
    """Photons are counted:

        count ~ Poisson of mean (1 + A(x0)) peak / 2 + dark
        y     = (count - dark) 2 / peak - 1

    peak : the mean count at A(x0) = 1, without `dark`. Less light has more noise.
    dark : counts without light, at least 0. Above 0, no x0 makes a count impossible, and the gradient stays finite.

    A(x0) below -1 counts as no light. The mean of y is A(x0) otherwise.

    `log_prob` is the log of the probability of the count, so that its sum over counts is 1; the density of y on its own
    scale would be larger by the constant log(peak / 2). A y between two counts has the value of the same formula with
    the gamma function in place of the factorial, and a y below the count 0 has probability 0.
    When to choose: `LowLight`, and tomography with few photons.
    """

    peak: float
    dark: float = 0.01

    def __post_init__(self) -> None:
        if not (0 < self.peak < math.inf and 0 <= self.dark < math.inf):
            raise ValueError(f"peak = {self.peak} and dark = {self.dark} were given; peak must be above 0, dark >= 0")

    def draw(self, clean: Tensor, rng: Rng) -> Tensor:
        # by inversion, so that the count of an item depends on its stream alone
        count = _poisson(self._mean(clean), rng.uniform(tuple(clean.shape), torch.float64).to(clean.device))
        return ((count - self.dark) * (2 / self.peak) - 1).to(clean.dtype)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        # in float64: the terms are of the size of the count, and cancel
        count, mean = (1 + y.double()) * (self.peak / 2) + self.dark, self._mean(clean)
        # a count of 0 may be off by the rounding of y
        possible = count > -0.5
        count = count.clamp(min=-0.5)
        found = count * mean.clamp(min=1e-30).log() - mean - torch.lgamma(count + 1)
        return torch.where(possible, found, -math.inf).to(clean.dtype)

    def sd(self, clean: Tensor) -> Tensor:
        return (self._mean(clean).sqrt() * (2 / self.peak)).to(clean.dtype)

    def _mean(self, clean: Tensor) -> Tensor:
        """Of the count, float64."""
        return (1 + clean.double()).clamp(min=0) * (self.peak / 2) + self.dark


@dataclass(frozen=True)
class RoundingNoise:
    """y = the multiple of `step` next to A(x0) + scale z: a measurement of few bits.

        log p(y | A(x0)) = log [Phi((y + step/2 - A(x0)) / scale) - Phi((y - step/2 - A(x0)) / scale)]

    step : the distance of two values, above 0. For 2^b - 1 values from -1 to 1, with 0, it is 2 / (2^b - 2).
    scale : of the Gaussian noise before rounding, above 0.

    `log_prob` is the log of the probability of the value, exact in both tails. `sd` takes the error of rounding for
    uniform, which it is for a scale of about step / 2 and more.
    When to choose: a converter of few bits, and JPEG-like quantisation of a linear measurement.
    """

    step: float
    scale: float

    def __post_init__(self) -> None:
        if not (0 < self.step < math.inf and 0 < self.scale < math.inf):
            raise ValueError(f"step = {self.step} and scale = {self.scale} were given; both must be above 0")

    def draw(self, clean: Tensor, rng: Rng) -> Tensor:
        noisy = clean + self.scale * rng.normal(clean.shape, clean.dtype).to(clean)
        return (noisy / self.step).round() * self.step

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        # in float64: for a small step the two probabilities nearly cancel
        off = (y.double() - clean.double()).abs() / self.scale
        half = self.step / (2 * self.scale)
        # from the tail in which y lies: exact far from A(x0) too
        upper, lower = torch.special.log_ndtr(half - off), torch.special.log_ndtr(-half - off)
        gap = lower - upper
        share = torch.where(gap > -math.log(2), (-torch.expm1(gap)).log(), torch.log1p(-gap.exp()))
        return (upper + share).to(clean.dtype)

    def sd(self, clean: Tensor) -> Tensor:
        return clean.new_tensor((self.scale**2 + self.step**2 / 12) ** 0.5)


def _poisson(mean: Tensor, u: Tensor) -> Tensor:
    """The smallest count whose cumulative probability is at least u.

    By bisection of the regularised gamma function, P(count <= k) = Q(k + 1, mean). Above a mean of 1e4 by the expansion
    of Cornish and Fisher for z = Phi^-1(u) and s^2 = mean:

        k + 1/2 = mean + s z + (z^2 - 1) / 6 + (z - z^3) / (72 s)

    It is right to a count there, and Q of torch is not.

    u : in (0, 1), float64. A mean that is not finite gives NaN.
    """
    few = torch.where(mean <= _MANY, mean, 0)
    # above the bound lies less than the smallest cell of u, 2^-53
    low, high = torch.full_like(few, -1.0), (few + 12 * few.sqrt() + 40).ceil()
    for _ in range(int(math.log2(float(high.max()) + 1)) + 1 if high.numel() else 0):
        middle = ((low + high) / 2).floor()
        enough = torch.special.gammaincc(middle + 1, few) >= u
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    z, s = torch.special.ndtri(u), mean.sqrt()
    many = (mean + s * z + (z**2 - 1) / 6 + (z - z**3) / (72 * s) - 0.5).ceil()
    return torch.where(mean.isfinite(), torch.where(mean <= _MANY, high, many), torch.nan)
