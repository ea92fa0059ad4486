"""Noise levels with weights for integrals over logsnr, and data noised at them: the loop of all measures by errors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cond import Cond
from ..process import Gaussian, Noised
from ..rng import Rng
from ..shape import take

# the logsnr of the last time is known to within rounding
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Levels:
    """A logistic law of logsnr, cut at both ends, for integrals by importance sampling.

        int f(a) da = E[w f(a)],   a = loc + scale logit(p),   w = scale (1 - 2 c) / (p (1 - p)),   p ~ U(c, 1 - c)

    loc, scale : of the law. `Levels.of` takes them from the variances of the data.
    clip : the ends are loc - clip scale and loc + clip scale; c = sigmoid(-clip).
    low, high : the levels at which a model may be asked. Others get the weight 0.

    Source: Kong, Brekelmans & Ver Steeg, "Information-theoretic diffusion", ICLR 2023.
    """

    loc: float = 0.0
    scale: float = 2.0
    clip: float = 4.0
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if not (self.scale > 0 and self.clip > 0 and math.isfinite(self.loc + self.scale * self.clip)):
            raise ValueError(f"levels have a finite loc, and a scale and a clip above 0; found {self}")
        first, last = self.ends
        if not first < last:
            raise ValueError(f"no level is left between low = {self.low:g} and high = {self.high:g}; found {self}")

    @classmethod
    def of(cls, variances: Tensor, clip: float = 4.0) -> Levels:
        """Those for data with these variances along their principal axes, l_i:

            loc = -mean log l,   scale = sqrt(1 + (3 / pi) var log l)

        The law of matching variance would have 3 / pi^2, and cut off more at the ends.
        """
        logs = variances.double().log()
        return cls(-float(logs.mean()), math.sqrt(1 + 3 / math.pi * float(logs.var(correction=0))), clip)

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest logsnr with a weight."""
        wide = self.clip * self.scale
        return max(self.loc - wide, self.low), min(self.loc + wide, self.high)

    def inside(self, low: float, high: float) -> Levels:
        """The same levels, for a model that may be asked from `low` to `high` alone."""
        return replace(self, low=max(self.low, low), high=min(self.high, high))

    def draw(self, n: int, offset: float = 0.5) -> tuple[Tensor, Tensor]:
        """n levels and their weights, float64 [n] each, for all items.

        The shares p are even, p_k = c + (1 - 2 c) (k + offset) / n. For a random offset in [0, 1) the sum is unbiased.
        """
        u = (torch.arange(n, dtype=torch.float64, device="cpu") + offset) / n
        least = 1 / (1 + math.exp(self.clip))
        width = 1 - 2 * least
        p = least + width * u
        logsnr = self.loc + self.scale * p.logit()
        weight = self.scale * width / (p * (1 - p)) / n
        return logsnr, weight.masked_fill((logsnr < self.low) | (logsnr > self.high), 0)


@dataclass(frozen=True)
class EvenLevels:
    """Levels at equal distances between two ends, for errors that do not fall towards them.

    When to choose: for whole numbers, where the error of the noise grows with logsnr up to the end of the range.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"even levels go from a finite number to a larger one; found {self}")

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def inside(self, low: float, high: float) -> EvenLevels:
        """Those from `low` to `high` alone."""
        return EvenLevels(max(self.low, low), min(self.high, high))

    def draw(self, n: int, offset: float = 0.5) -> tuple[Tensor, Tensor]:
        """n levels and their weights, as `Levels.draw`."""
        width = (self.high - self.low) / n
        logsnr = self.low + width * (torch.arange(n, dtype=torch.float64, device="cpu") + offset)
        return logsnr, torch.full_like(logsnr, width)


@dataclass(frozen=True)
class GivenLevels:
    """Given levels of logsnr, each with the weight 1.

    When to choose: for the errors at each level, such as a curve.
    """

    at: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.at or not all(math.isfinite(level) for level in self.at):
            raise ValueError(f"levels are finite numbers, at least one; found {self.at}")

    @property
    def ends(self) -> tuple[float, float]:
        return min(self.at), max(self.at)

    def inside(self, low: float, high: float) -> GivenLevels:
        """The same levels. Raises ValueError if one of them lies outside."""
        outside = [level for level in self.at if not low - _ROUNDING <= level <= high + _ROUNDING]
        if outside:
            raise ValueError(f"levels from {low:g} to {high:g} were expected; found {outside[0]:g}")
        return self

    def draw(self, n: int, offset: float = 0.5) -> tuple[Tensor, Tensor]:
        """The levels and ones. Raises ValueError for another n than their number."""
        if n != len(self.at):
            raise ValueError(f"{n} levels were asked for; {len(self.at)} are given")
        logsnr = torch.tensor(self.at, dtype=torch.float64, device="cpu")
        return logsnr, torch.ones_like(logsnr)


@dataclass(frozen=True)
class AtLevel:
    """Some items at one noise level.

    rows : of the data.
    number : of the level, from 0 on.
    logsnr, weight : of the level.
    noised : the items at this level.
    """

    rows: slice
    number: int
    logsnr: float
    weight: float
    noised: Noised

    @property
    def snr(self) -> float:
        return math.exp(self.logsnr)

    def error(self, mean: Tensor) -> Tensor:
        """snr (mean - x0)^2 of each element, which is the squared error of the noise; float64, of the shape of x0."""
        return self.snr * (mean.double() - self.noised.x0.double()).square()


def at_levels(
    process: Gaussian,
    x0: Tensor,
    rng: Rng,
    levels: Levels | EvenLevels | GivenLevels,
    n: int,
    offset: float = 0.5,
    cond: Cond | Tensor | None = None,
    batch: int = 256,
) -> Iterator[AtLevel]:
    """The data at n noise levels, with fresh noise at each, level by level and batch by batch.

    All items of a batch have one time, so that every model and every wrap can be asked. All denoisers that are compared
    get the same noise, because they are asked for the same record. Levels without a weight, and those below the last
    level of the process, its logsnr at t = 1, are left out.

    rng : the noise, one stream for each item. An item does not depend on its batch.
    """
    logsnr, weight = levels.inside(float(process.logsnr(1.0)), math.inf).draw(n, offset)
    for k, (level, share) in enumerate(zip(logsnr.tolist(), weight.tolist(), strict=True)):
        if not share:
            continue
        t = float(process.time(level))
        for low in range(0, len(x0), batch):
            rows = slice(low, low + batch)
            noised = process.noise(x0[rows], t, rng.take(rows).child(f"noise {k}"), take(cond, rows))
            yield AtLevel(rows, k, level, share, noised)
