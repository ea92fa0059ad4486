"""EVODiff, whose two weights a step are chosen by what the last means have in common."""

from __future__ import annotations

import math
from collections.abc import Generator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..posterior import HasMean, Posterior, need
from ..process import Gaussian, few
from ..rng import Rng
from ..shape import column
from .contract import Ask, declare

Form = Literal["consistent", "released"]


@declare("evodiff", order=2, grid=few, cites=("evodiff",))
def evodiff(
    process: Gaussian,
    x: Tensor,
    grid: Tensor,
    rng: Rng,
    form: Form = "consistent",
    fixed: tuple[float, float] | None = None,
) -> Generator[Ask, Posterior, Tensor]:
    """EVODiff of order 2: DDIM's step with m + B / (2 zeta) in the place of the mean, where

        B = (1 - eta) D2 - (eta / r) D1,   D1 = m - rho m_before,   D2 = m_there - rho m,

    m_there is the mean at a probe at s, which the next step takes for its m, and r the ratio of the last step's length
    to this one's in log(alpha / sigma). eta is half a sigmoid of a projection of the differences on each other, one
    number for each item and channel; in the paper it lowers the conditional variance of the step.

    form : "released" is what the authors' code does: rho below 1 keeps a part of the means in their differences, D2
    has a further r, zeta is a sigmoid of a second projection, and the last step before t = 0 mixes by numbers of its
    own. It is of first order, since (1 - 2 eta) / (2 zeta) tends to 0.25 where 1/2 is right, and moving all the data by
    a constant changes what it does. "consistent" keeps the idea, with rho = 1, zeta = 1 - 2 eta and no last
    step: of second order.
    fixed : (eta, zeta) in the place of both, the control.

    Source: Li et al., "EVODiff", NeurIPS 2025; the equations of "released" from its code. All is in units of
    x / alpha and sigma / alpha, where every process is the one that the code was written for; its numbers are made for
    grids that begin at some sigma / alpha = 80 in steps that grow alike. From a logsnr of -20, as on `few`'s first
    step, its rho runs away.
    """
    kappa = (process.sigma(grid) / process.alpha(grid)).tolist()
    if form == "released" and math.isinf(kappa[0]):
        raise ValueError(
            "the released form of EVODiff reckons from sigma / alpha at the start, which is infinite where there is no "
            'signal: begin later, or take form="consistent"'
        )
    before: Tensor | None = None
    mean: Tensor | None = None
    finite = len(grid) - 1 - (kappa[-1] == 0)
    for i, (t, s) in enumerate(pairwise(grid)):
        if mean is None:
            mean = need((yield Ask(t, x)), HasMean, "evodiff").mean
        if before is None or kappa[i + 1] == 0:
            before, x = mean, process.bridge(x, mean, t, s, rng, eta=0)
            mean = None
            continue
        step = _Step(kappa, i, form, finite)
        if form == "released" and i == finite - 1:
            x, mean = step.last(process, x, before, mean, t, s, rng), None
            continue
        probe = process.bridge(x, mean + step.guess(before, mean), t, s, rng, eta=0)
        there = need((yield Ask(s, probe)), HasMean, "evodiff").mean
        x = process.bridge(x, mean + step.change(before, mean, there, fixed), t, s, rng, eta=0)
        before, mean = mean, there
    return x


class _Step:
    """The arithmetic of the step from kappa[i] to kappa[i + 1], kappa = sigma / alpha."""

    def __init__(self, kappa: list[float], i: int, form: Form, finite: int):
        self.kappa, self.i, self.released, self.finite = kappa, i, form == "released", finite
        here, there = kappa[i], kappa[i + 1]
        self.length = 1 / there - 1 / here
        self.share = there / here
        self.r = math.log(kappa[i - 1] / here) / math.log(here / there)
        if self.released:
            self.w = (1 - ((there + kappa[finite]) / (kappa[0] + kappa[finite])) ** 2) / 2
            self.b = math.sqrt(self.share * kappa[i - 1] / here)

    def _left(self, new: Tensor, old: Tensor) -> Tensor:
        """new - rho old."""
        if not self.released:
            return new - old
        return new - ((1 - self.w) * self.b + self.w * _onto(new, old)) * old

    def _reach(self, before: Tensor, mean: Tensor) -> Tensor | float:
        """r, in the released form made smaller by rho."""
        if not self.released:
            return self.r
        rho = (1 - self.w) * self.b + self.w * _onto(mean, before)
        return self.r * torch.sigmoid(rho.abs() / 4)

    def guess(self, before: Tensor, mean: Tensor) -> Tensor:
        """What the probe adds to the mean."""
        return self._left(mean, before) / (2 * self._reach(before, mean))

    def change(self, before: Tensor, mean: Tensor, there: Tensor, fixed: tuple[float, float] | None) -> Tensor:
        """B / (2 zeta)."""
        first, second = self._left(mean, before), self._left(there, mean)
        near, far = first / self.r, self.r * second if self.released else second
        eta: Tensor | float = torch.sigmoid(_onto(far + near, far - near).abs() / 2) / 2
        if fixed is not None:
            eta = fixed[0]
        mixed = (1 - eta) * far - eta * near
        if fixed is not None:
            return mixed / (2 * fixed[1])
        return mixed / (2 * (self._zeta(before, mean, first, mixed) if self.released else 1 - 2 * eta))

    def _zeta(self, before: Tensor, mean: Tensor, first: Tensor, mixed: Tensor) -> Tensor:
        share = 1 - self.share
        gap = share * (first - mixed) / (2 * self._reach(before, mean))
        wanted = (_onto(gap, first) / share).abs() - 0.5
        if self.finite <= 20:
            return torch.sigmoid(wanted)
        slope = _onto(mean, (mean - before) / self.length)
        return torch.sigmoid(-torch.sigmoid(slope * (2 - self.share**2)) * wanted)

    def last(
        self, process: Gaussian, x: Tensor, before: Tensor, mean: Tensor, t: Tensor, s: Tensor, rng: Rng
    ) -> Tensor:
        """The released form's last step that does not end at t = 0."""
        here, there = self.kappa[self.i], self.kappa[self.i + 1]
        rho = 1 - math.sqrt(self.share if self.share < 0.5 else self.share - 0.5) / 2
        moved = process.bridge(x, mean, t, s, rng, eta=0)
        more = (1 - self.share) / 2 * (mean - rho * before)
        return (1 - math.sqrt(here * there)) * moved + column(process.alpha(s), x) * more


def _onto(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> / <b, b> for each item and channel, kept within 2 of 0; 0 where b is nothing."""
    over = tuple(range(2, a.ndim)) if a.ndim > 2 else (1,)
    size = (b * b).sum(over, keepdim=True)
    found = (a * b).sum(over, keepdim=True) / size
    return torch.where(size > 0, found, 0.0).clamp(-2, 2)
