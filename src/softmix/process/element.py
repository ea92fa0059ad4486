"""A schedule that differs between the elements of x."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .gaussian import Gaussian
from .numbers import as_float64


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
