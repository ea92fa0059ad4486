"""The reference chain of a sampler without data: an Ornstein-Uhlenbeck process that keeps a normal law."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

from torch import Tensor

from .gaussian import VP, Gaussian
from .numbers import level_numbers


@dataclass(frozen=True)
class StationaryOU(Gaussian):
    """x_t = alpha(t) x_0 + scale sqrt(1 - alpha(t)^2) z: it leaves the law N(0, scale^2 I) as it is.

    It is VP with noise in the unit of the data. A step from t to s < t of the same chain, run in its stationary law, is

        x_s = sqrt(1 - b^2) x_t + scale b z,   b^2 = 1 - alpha(t)^2 / alpha(s)^2

    scale : the standard deviation of the noise, in the unit of x. Take at least the spread of the target: where
        N(0, scale^2 I) has no mass a sampler does not look.
    schedule : alpha(t), that of `VP`.

    Raises ValueError for a scale of 0 or below.
    Source: Vargas, Grathwohl & Doucet, "Denoising diffusion samplers", ICLR 2023, section 3. Their b^2 is proportional
    to cos^4, with a total that is tuned for each target; here a chain begins in its noise up to alpha(1) = 4.5e-5.
    When to choose: for `SampleTarget`.
    """

    scale: float = 1.0
    schedule: Literal["cosine", "linear", "sigmoid"] = "cosine"
    cites: ClassVar[tuple[str, ...]] = ("dds",)

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"the scale is a standard deviation above 0; found {self.scale}")

    @property
    def unit(self) -> VP:
        """The process of x / scale."""
        return VP(self.schedule)

    def alpha(self, t: Tensor | float) -> Tensor:
        return self.unit.alpha(t)

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.scale * self.unit.sigma(t)

    def levels(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.unit.levels(t)
        return alpha, self.scale * sigma

    def time(self, logsnr: Tensor | float) -> Tensor:
        return self.unit.time(logsnr + 2 * math.log(self.scale))

    def rates(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.unit.rates(t)
        return alpha, self.scale * sigma


@lru_cache(maxsize=4096)
def reference_step(process: StationaryOU, t: float, s: float) -> tuple[float, float]:
    """(sqrt(1 - b^2), b) of the step of the reference chain from t to s < t. Raises ValueError for s >= t."""
    if not s < t:
        raise ValueError(f"a step back needs s < t; found t = {t} and s = {s}")
    before, after = level_numbers(process, t), level_numbers(process, s)
    assert before is not None and after is not None
    keep = before[0] / after[0]
    return keep, math.sqrt((1 - keep) * (1 + keep))
