"""Schedules that differ between the elements of x."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .gaussian import Gaussian
from .numbers import as_float64, falling_inverse


@dataclass(frozen=True, eq=False)
class PerElement(Gaussian):
    """Each element runs through the schedule of `base` at its own pace.

        alpha_i(t) = alpha(t^p_i),   sigma_i(t) = sigma(t^p_i)

    base : a process with one alpha and one sigma for all elements.
    power : p > 0, of the rank of one item, with sizes of 1 for elements that share a number: [C, 1, 1] for channels.

    An element with p > 1 keeps its signal longer, and a sampler decides it earlier. All elements are clean at t = 0 and
    noise at t = 1. The shared clock is the one of the noisiest element, which has the least p. Grids that end at little
    noise then end there for every element.

    Raises ValueError for a power of 0 or below, and for a base with a schedule per element.

    When to choose: to generate the parts of an image in an order: channels, places, or frequencies (`InBasis`).
    """

    base: Gaussian
    power: Tensor

    def __post_init__(self) -> None:
        if not (self.power > 0).all() or not self.power.isfinite().all() or not self.power.ndim:
            raise ValueError(
                f"powers above 0 were expected, of the rank of one item, for example of shape [C, 1, 1]; found "
                f"{self.power.flatten()[:4].tolist()} of shape {list(self.power.shape)}"
            )
        if self.base.per_element:
            raise ValueError(
                f"{type(self.base).__name__} has a schedule for each element already: give a base with one for all"
            )

    def alpha(self, t: Tensor | float) -> Tensor:
        return self.base.alpha(self._own(t))

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.base.sigma(self._own(t))

    def logsnr(self, t: Tensor | float) -> Tensor:
        """The logsnr of the noisiest element."""
        return self.base.logsnr(as_float64(t) ** float(self.power.min()))

    def time(self, logsnr: Tensor | float) -> Tensor:
        return self.base.time(logsnr) ** (1 / float(self.power.min()))

    def element_logsnr(self, t: Tensor | float) -> Tensor:
        return self.base.logsnr(self._own(t))

    def rates(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """The rates of the base at t^p, times p t^(p - 1)."""
        own = self._own(t)
        pace = self._power(own) * own / self._spread(t)
        alpha, sigma = self.base.rates(own)
        return pace * alpha, pace * sigma

    def _spread(self, t: Tensor | float) -> Tensor:
        return as_float64(t).reshape(-1, *(1,) * self.power.ndim)

    def _power(self, like: Tensor) -> Tensor:
        return self.power.to(like)[None]

    def _own(self, t: Tensor | float) -> Tensor:
        """The time of each element, [1 or B, *power.shape]."""
        t = self._spread(t)
        own: Tensor = torch.pow(t, self._power(t))
        return own


@dataclass(frozen=True, eq=False)
class EarlyNoise(Gaussian):
    """Each element runs through the schedule of `base`, and is noise from a time of its own on.

        alpha_i(t) = alpha(w) e^(-f / 2),   sigma_i(t) = sigma(w) / gain
        w = c min(t / end_i, 1),   f = v c max(t / end_i - 1, 0)
        c = the time at which the logsnr of base is last,   v = -d logsnr / dt there

    base : a process with one alpha and one sigma for all elements.
    end : in (0, 1], of the rank of one item, with sizes of 1 for elements that share a number. An element with end 1
        has the schedule of `base`.
    last : the logsnr of `base` at the end of an element. Behind it the logsnr goes on along its tangent, because
        solvers need a clock that moves, and multistep solvers one without a kink.
    gain : the noise of all elements is divided by it.

    The shared clock is the logsnr of the share of signal alpha^2 / (alpha^2 + sigma^2), averaged over the different
    ends: near t = 1 it moves with the last elements, near t = 0 with the first. (That of the noisiest element would
    skip the last elements in one step.)

    Raises ValueError for an end outside (0, 1], a `last` that `base` does not reach, a gain of 0 or below, and for a
    base with a schedule per element.

    When to choose: for parts that are to be dropped once they are noise, as in `NonUniform`. `PerElement` gives paces
    without an end.
    """

    base: Gaussian
    end: Tensor
    last: float = -10.0
    gain: float = 1.0

    def __post_init__(self) -> None:
        if not self.end.ndim or not ((self.end > 0) & (self.end <= 1)).all():
            raise ValueError(
                f"ends above 0 and at most 1 were expected, of the rank of one item; found "
                f"{self.end.flatten()[:4].tolist()} of shape {list(self.end.shape)}"
            )
        if self.base.per_element:
            raise ValueError(
                f"{type(self.base).__name__} has a schedule for each element already: give a base with one for all"
            )
        least = float(self.base.logsnr(1.0))
        if not self.last > least:
            raise ValueError(
                f"an element is to be noise at logsnr = {self.last:g}, and {type(self.base).__name__} ends at "
                f"{least:g}: give a larger last"
            )
        if not 0 < self.gain < math.inf:
            raise ValueError(f"the noise is divided by the gain, a number above 0; found {self.gain}")

    def alpha(self, t: Tensor | float) -> Tensor:
        own, fall = self._own(self._spread(t), self.end)
        return self.base.alpha(own) * (-fall / 2).exp()

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.base.sigma(self._own(self._spread(t), self.end)[0]) / self.gain

    def logsnr(self, t: Tensor | float) -> Tensor:
        """The logsnr of the averaged share of signal."""
        each = self._levels(as_float64(t)[..., None], self._ends)
        signal, noise = (torch.nn.functional.logsigmoid(part).logsumexp(-1) for part in (each, -each))
        return signal - noise

    def time(self, logsnr: Tensor | float) -> Tensor:
        return falling_inverse(self.logsnr, logsnr)

    def element_logsnr(self, t: Tensor | float) -> Tensor:
        return self._levels(self._spread(t), self.end)

    def rates(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Up to the end the rates of the base at w, times the slope of w. Behind it sigma stays."""
        at = self._spread(t)
        own, _ = self._own(at, self.end)
        before, (rise, fall) = at <= self.end.to(at), self._slopes(self.end.to(at))
        alpha, sigma = (rise * before * rate for rate in self.base.rates(own))
        return torch.where(before, alpha, -fall / 2 * self.alpha(t)), sigma / self.gain

    @cached_property
    def _tangent(self) -> float:
        """v, the rate at which the logsnr of `base` falls at c."""
        alpha, sigma = self.base.levels(self._reached)
        of_alpha, of_sigma = self.base.rates(self._reached)
        return 2 * float(of_sigma / sigma - of_alpha / alpha)

    @cached_property
    def _reached(self) -> float:
        """c, the time of `base` at the end of an element."""
        return float(self.base.time(self.last))

    @cached_property
    def _ends(self) -> Tensor:
        """The different ends."""
        return self.end.flatten().unique()

    def _levels(self, t: Tensor, end: Tensor) -> Tensor:
        own, fall = self._own(t, end)
        return self.base.logsnr(own) - fall + 2 * math.log(self.gain)

    def _spread(self, t: Tensor | float) -> Tensor:
        return as_float64(t).reshape(-1, *(1,) * self.end.ndim)

    def _slopes(self, end: Tensor) -> tuple[Tensor, Tensor]:
        """The slope c / end of w up to the end, and that of the fall f behind it."""
        # a number would be float32 in `where`
        c = torch.where(end < 1, torch.full_like(end, self._reached), torch.ones_like(end))
        return c / end, self._tangent * c / end

    def _own(self, t: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """The time w of each element, and the fall f of its logsnr behind its end."""
        end = end.to(t)
        rise, fall = self._slopes(end)
        return rise * torch.minimum(t, end), fall * (t - end).clamp(min=0)
