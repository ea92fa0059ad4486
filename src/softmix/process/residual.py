"""Residual processes: x_t leads from the clean item of a pair, x0, to its other item, x_in, with noise.

    x_t = alpha(t) x_0 + k(t) x_in + sigma(t) z,   R = x_in - x_0 the residual

x_in is the condition: its image, or its value for items of one axis. The frame y = x - k x_in is a Gaussian process, so
that every sampler and every posterior serves. The papers have no signal of x_0 at t = 1: sampling starts from x_in and
noise. Here logsnr(1) = -20, as in the other processes, so that every parameterisation and every solver has finite
numbers there.

The published chains keep more of the noise from step to step than Bayes' rule for the frame's own chain does. All laws
q(x_t | x_0, x_in) are the same. Their fresh noise at eta = 1 is the published one (`Gaussian.fresh`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..cond import CondSpec
from .frame import Shifted
from .gaussian import LOGSNR_MIN, VP, Gaussian
from .numbers import as_float64, falling_inverse
from .pair import other_item, require_pair


def _own_logsnr(ratio: float) -> float:
    """log(a^2 / (1 - a^2)) for (2 a - 1) / sqrt(1 - a^2) = ratio."""
    a = (2 + ratio * math.sqrt(3 + ratio**2)) / (4 + ratio**2)
    return math.log(a**2 / (1 - a**2))


@lru_cache(maxsize=8)
def _last_time(schedule: Literal["cosine", "linear", "sigmoid"]) -> float:
    """The time of VP(schedule) at which Resfusion ends."""
    return float(VP(schedule).time(_LAST))


# alpha / sigma at t = 1
_END = math.exp(LOGSNR_MIN / 2)


# log(a^2 / (1 - a^2)) at t = 1, where (2 a - 1)^2 = _END^2 (1 - a^2)
_LAST = _own_logsnr(_END)


class _Chain(Gaussian):
    """A Gaussian process with the ancestral step of a published chain."""

    def fresh(self, t: Tensor, s: Tensor) -> Tensor:
        return 1 - (self.kept(t) / self.kept(s) * self.sigma(s) / self.sigma(t)) ** 2

    @abstractmethod
    def kept(self, t: Tensor) -> Tensor:
        """m(t): a step of the published chain from s to t multiplies the noise in x_s by m(t) / m(s)."""


@dataclass(frozen=True)
class Fading(_Chain):
    """alpha = (1 - t)^fade, lifted to 4.5e-5 sigma(1) at t = 1, and sigma = sd t^rise: the process of RDDM in its
    frame.

    See `RDDM` for the numbers.
    """

    fade: float = 2.0
    rise: float = 1.0
    sd: float = 1.0

    def __post_init__(self) -> None:
        if not (self.fade > 0 and self.rise > 0 and self.sd > 0):
            raise ValueError(
                f"fade, rise and sd are above 0; found {self.fade:g}, {self.rise:g} and {self.sd:g}. For almost "
                "no noise take a small one, such as 0.01"
            )

    def alpha(self, t: Tensor | float) -> Tensor:
        end = _END * self.sd
        return end + (1 - end) * (1 - as_float64(t)) ** self.fade

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.sd * as_float64(t) ** self.rise

    def time(self, logsnr: Tensor | float) -> Tensor:
        """By bisection: alpha / sigma has no inverse in closed form for most powers."""
        return falling_inverse(self.logsnr, logsnr)

    def kept(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class Halved(_Chain):
    """alpha = 2 a - 1, sigma = sqrt(1 - a^2) with a from 1 to 1/2 + 2e-5: the process of Resfusion in its frame.

    a is alpha of VP(schedule), of which the part up to this end becomes [0, 1].
    """

    schedule: Literal["cosine", "linear", "sigmoid"] = "linear"

    def a(self, t: Tensor | float) -> Tensor:
        """sqrt(alpha_bar) of the published chain."""
        return VP(self.schedule).alpha(as_float64(t) * _last_time(self.schedule))

    def alpha(self, t: Tensor | float) -> Tensor:
        return 2 * self.a(t) - 1

    def sigma(self, t: Tensor | float) -> Tensor:
        return (1 - self.a(t) ** 2).sqrt()

    def time(self, logsnr: Tensor | float) -> Tensor:
        """a = (2 + r sqrt(3 + r^2)) / (4 + r^2) for r = alpha / sigma, then the time of VP."""
        r = (as_float64(logsnr) / 2).exp()
        a = (2 + r * (3 + r**2).sqrt()) / (4 + r**2)
        return VP(self.schedule).time(2 * a.log() - torch.log1p(-(a**2))) / _last_time(self.schedule)

    def kept(self, t: Tensor) -> Tensor:
        return self.a(t)


class Residual(Shifted):
    """x_t = alpha x_0 + k x_in + sigma z, with x_in from the condition.

    Where x_in is nan (not given) it counts as 0, so that the same process serves generation. Without a condition `u`
    raises ValueError.
    """

    def u(self, cond: Any) -> Tensor:
        return other_item(cond, type(self).__name__).nan_to_num(0.0)

    def require_pair(self, cond: CondSpec, shape: tuple[int, ...], name: str) -> None:
        """Raises CondError for data without an x_in of the shape of x0: an image, or numbers for items of one axis."""
        require_pair(cond, shape, name, type(self).__name__)


@dataclass(frozen=True)
class RDDM(Residual):
    """The residual denoising diffusion model: x_t = x_0 + abar(t) R + bbar(t) z, two schedules that are independent.

        abar(t) = 1 - (1 - t)^fade,   bbar(t) = sd t^rise

    fade : 2 is the paper's a_t, which falls linearly; 1 is a constant one.
    rise : 1 is the paper's b_t^2, which rises linearly; 1/2 is a constant one.
    sd : bbar(1). 1 as in the paper's experiments, 0.1 where hardly any noise is wanted.

    x_1 = x_in + sd z. The first answer is E[x_0 | x_in], as a regression gives it. The paper's eta multiplies the
    variance of the fresh noise, and ours its standard deviation: ours is the root of theirs. With a small sd errors of
    the output "resnoise" are enlarged, 20 times for sd = 0.1: take "residual".

    When to choose: restoration and translation from pairs in 2 to 10 steps.
    Source: Liu et al., "Residual denoising diffusion models", CVPR 2024, eq. 7 to 13; for any number of steps T the
    schedules of the code, in the limit of large T.
    """

    fade: float = 2.0
    rise: float = 1.0
    sd: float = 1.0
    cites: ClassVar[tuple[str, ...]] = ("rddm",)

    @property
    def base(self) -> Gaussian:  # type: ignore[override]
        return Fading(self.fade, self.rise, self.sd)

    def k(self, t: Tensor | float) -> Tensor:
        return 1 - self.base.alpha(t)


@dataclass(frozen=True)
class Resfusion(Residual):
    """Resfusion: x_t = a x_0 + (1 - a) R + sqrt(1 - a^2) z = (2 a - 1) x_0 + (1 - a) x_in + sqrt(1 - a^2) z.

    At a = 1/2 nothing of x_0 is left, and sampling starts there: x_1 = x_in / 2 + sqrt(3) / 2 z.

    schedule : a(t) is alpha of VP(schedule), from 1 to 1/2.

    When to choose: restoration from pairs in about 5 steps.
    Source: Shi et al., "Resfusion: denoising diffusion probabilistic models for image restoration based on prior
    residual noise", NeurIPS 2024, eq. 5 to 10; the published table in the limit of many steps.
    """

    schedule: Literal["cosine", "linear", "sigmoid"] = "linear"
    cites: ClassVar[tuple[str, ...]] = ("resfusion",)

    @property
    def base(self) -> Gaussian:  # type: ignore[override]
        return Halved(self.schedule)

    def k(self, t: Tensor | float) -> Tensor:
        return 1 - Halved(self.schedule).a(t)
