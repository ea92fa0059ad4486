"""Two signals with a time each, and paths in the square of the two times.

A pair (x, y) is one state with the channels of x before those of y. x_t has the noise of its time t_x, and y_t' that of
its own time t_y. A task is a path of (t_x, t_y) from noise to clean: with t_y = 0 it is x given y, with t_x = 0 it is y
given x, and on the diagonal it is the pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from ..cond import Cond
from ..rng import Rng
from .gaussian import Gaussian
from .noised import Noised
from .numbers import as_float64

STREAMS = ("x", "y")


@dataclass(frozen=True)
class TwoClocks(Gaussian):
    """z_t = (alpha(t_x) x + sigma(t_x) noise, alpha(t_y) y + sigma(t_y) noise), with independent times and noises.

    base : the process of both signals, with one alpha and one sigma for all elements.
    sizes : the channels of x and of y.
    axes : the number of axes of an item: 1 for points [D], 2 for sequences [L, D], 3 for images [C, H, W].
    low : the least time that a network is told. Training times begin there, and a clean signal is told this time.

    A time is a pair, a tensor [B, 2], or [1, 2] for all items. alpha and sigma have the rank of the state, and `logsnr`
    has a column for each signal.

    Raises ValueError for sizes below 1, for other numbers of axes, and for a base with a number for each element; and
    for a single time, because a model of two clocks has no path of its own.

    When to choose: for one model of two signals that serves every task between them.
    Source: Li et al., "A simple approach to unifying diffusion-based conditional generation", ICLR 2025.
    """

    base: Gaussian
    sizes: tuple[int, int]
    axes: int = 3
    low: float = 0.0
    cites: ClassVar[tuple[str, ...]] = ("unicon",)

    def __post_init__(self) -> None:
        if len(self.sizes) != 2 or min(self.sizes) < 1 or self.axes not in (1, 2, 3) or not 0 <= self.low < 1:
            raise ValueError(
                "two clocks need two numbers of channels, items of 1, 2 or 3 axes, and 0 <= low < 1; found "
                f"{self.sizes}, {self.axes} and {self.low}"
            )
        if self.base.per_element:
            raise ValueError(
                f"two clocks share a base of one alpha for all elements; {type(self.base).__name__} is not"
            )

    @property
    def per_element(self) -> bool:
        return True

    @property
    def axis(self) -> int:
        """The axis of the channels, counted from the last."""
        return -1 if self.axes == 2 else -self.axes

    def alpha(self, t: Tensor | float) -> Tensor:
        return self._spread(self.base.alpha(_pair(t)))

    def sigma(self, t: Tensor | float) -> Tensor:
        return self._spread(self.base.sigma(_pair(t)))

    def logsnr(self, t: Tensor | float) -> Tensor:
        """log(alpha^2 / sigma^2) of each signal, as a network is told it: [B, 2]."""
        return self.base.logsnr(_pair(t).clamp(min=self.low))

    def element_logsnr(self, t: Tensor | float) -> Tensor:
        return self._spread(self.base.logsnr(_pair(t)))

    def time(self, logsnr: Tensor | float) -> Tensor:
        """The two times of two log-SNRs, [B, 2]."""
        return self.base.time(_pair(logsnr))

    def noise(self, x0: Tensor, t: Tensor | float, rng: Rng, cond: Cond | Tensor | None = None) -> Noised:
        """t : a pair of times for each item, [B, 2], or one for all, [1, 2]."""
        pairs, z = self.pairs(t, len(x0)), rng.normal(x0.shape, x0.dtype).to(x0.device)
        return Noised(x0, self.state(x0, pairs, z), pairs, z, self, cond)

    def pairs(self, t: Tensor | float, n: int) -> Tensor:
        """The times of n items, [n, 2]. Raises ValueError for another number of times."""
        pair = _pair(t)
        if len(pair) not in (1, n):
            raise ValueError(f"a pair of times, or one for each of {n} items, was expected; found {list(pair.shape)}")
        return pair.expand(n, 2)

    def prior(self, shape: Sequence[int], rng: Rng, cond: Cond | Tensor | None = None) -> Tensor:
        """Both signals at time 1."""
        return self.base.prior(shape, rng)

    def grid(self, n: int) -> Tensor:
        raise ValueError(_NO_PATH)

    def joined(self, x: Tensor, y: Tensor) -> Tensor:
        """The state of a pair: the channels of x, then those of y."""
        return torch.cat([x, y], dim=self.axis)

    def part(self, state: Tensor, stream: int) -> Tensor:
        """The channels of x (stream 0) or of y (1). A state with an axis of size 1 in their place stays as it is."""
        if state.shape[self.axis] == 1 and sum(self.sizes) > 1:
            return state
        return state.narrow(self.axis, self.sizes[0] * stream, self.sizes[stream])

    def shape_of(self, shape: Sequence[int], stream: int) -> tuple[int, ...]:
        """The shape of an item of one signal, from that of a pair."""
        own = list(shape)
        own[self.axis] = self.sizes[stream]
        return tuple(own)

    def _spread(self, value: Tensor) -> Tensor:
        """[B, 2] -> a number for each channel, of the rank of the state."""
        each = torch.cat([value[:, k : k + 1].expand(-1, size) for k, size in enumerate(self.sizes)], dim=1)
        return each[:, None] if self.axes == 2 else each.reshape(*each.shape, *(1,) * (self.axes - 1))


_NO_PATH = (
    "a model of two clocks was asked at one time, and it has one for x and one for y: give times [B, 2], or a path, as "
    "in softmix.sampler.along(model, JOINT, n)"
)


def _pair(t: Tensor | float) -> Tensor:
    """Times [B, 2] in float64. Raises ValueError for anything else."""
    if not isinstance(t, Tensor) or t.ndim != 2 or t.shape[1] != 2:
        raise ValueError(_NO_PATH)
    return as_float64(t)


@dataclass(frozen=True)
class Leg:
    """A straight part of a path, from the pair of times `first` to the pair `last`. Some signal moves.

    Its time u is that of the signal that begins at more noise. Of a signal that is held, u is the time of the other.
    """

    first: tuple[float, float]
    last: tuple[float, float]

    @property
    def moving(self) -> tuple[int, ...]:
        """The signals that move: 0 for x, 1 for y."""
        return tuple(k for k in (0, 1) if self.first[k] > self.last[k])

    @property
    def leader(self) -> int:
        """The signal of the time u."""
        return max(self.moving, key=lambda k: self.first[k])

    def times(self, u: Tensor | float) -> Tensor:
        """(t_x, t_y) at the time u of the leg, [1 or B, 2] for u [] or [B]."""
        high, low = self.first[self.leader], self.last[self.leader]
        way = (as_float64(u).reshape(-1) - low) / (high - low)
        # no sum at a signal that is held, and none at the leader: both stay exact
        each = [
            as_float64(u).reshape(-1) if k == self.leader else b + (a - b) * way if a > b else torch.full_like(way, a)
            for k, (a, b) in enumerate(zip(self.first, self.last, strict=True))
        ]
        return torch.stack(each, 1)

    def grid(self, times: Tensor) -> Tensor:
        """A grid from 1 to 0, brought to the times u of the leg."""
        high, low = self.first[self.leader], self.last[self.leader]
        return low + (high - low) * times

    def process(self, clocks: TwoClocks) -> Gaussian:
        """The process of the signals that move, with the time u."""
        alike = len(self.moving) == 1 or (self.first[0] == self.first[1] and self.last[0] == self.last[1])
        return clocks.base if alike else OnLeg(clocks, self)


@dataclass(frozen=True)
class OnLeg(Gaussian):
    """A pair on a leg on which both signals move at different times: alpha and sigma of each signal at its own time.

    Its clock is that of the signal that begins at more noise.
    """

    clocks: TwoClocks
    leg: Leg

    @property
    def per_element(self) -> bool:
        return True

    def alpha(self, t: Tensor | float) -> Tensor:
        return self.clocks.alpha(self.leg.times(t))

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.clocks.sigma(self.leg.times(t))

    def element_logsnr(self, t: Tensor | float) -> Tensor:
        return self.clocks.element_logsnr(self.leg.times(t))

    def logsnr(self, t: Tensor | float) -> Tensor:
        return self.clocks.base.logsnr(t)

    def time(self, logsnr: Tensor | float) -> Tensor:
        return self.clocks.base.time(logsnr)


@dataclass(frozen=True)
class TimePath:
    """A path in the square of (t_x, t_y), straight between its corners: the task of a model of two clocks.

    corners : pairs (t_x, t_y), from the noisy end to the clean end. No time rises along the path.

    Draws of the pair's posterior have the exact law at every corner of every path, for any number of steps. With the
    mean alone this holds for short steps. Draws of x and of y that do not depend on each other are exact only on legs
    on which one of them is held.

    Raises ValueError for fewer than two corners, times outside [0, 1], a time that rises, a leg without a movement, and
    a leg on which both signals move and one of them alone becomes clean.

    Source: Li et al., ICLR 2025; `sample_schedule` of their code.
    """

    corners: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if len(self.corners) < 2 or not all(0 <= t <= 1 for corner in self.corners for t in corner):
            raise ValueError(f"a path needs two corners (t_x, t_y) or more, with times in [0, 1]; found {self.corners}")
        for first, last in pairwise(self.corners):
            if not all(a >= b for a, b in zip(first, last, strict=True)) or first == last:
                raise ValueError(
                    f"along a path times fall, and at least one does on each leg; found {first} and then {last}"
                )
            both = all(a > b for a, b in zip(first, last, strict=True))
            if both and min(last) == 0 < max(last):
                raise ValueError(
                    f"from {first} to {last} both signals move and one of them becomes clean: add a corner, so that "
                    "the other is held or becomes clean with it"
                )

    @property
    def legs(self) -> tuple[Leg, ...]:
        return tuple(Leg(first, last) for first, last in pairwise(self.corners))

    @property
    def start(self) -> tuple[float, float]:
        return self.corners[0]


CONTROL = TimePath(((1.0, 0.0), (0.0, 0.0)))
ESTIMATION = TimePath(((0.0, 1.0), (0.0, 0.0)))
JOINT = TimePath(((1.0, 1.0), (0.0, 0.0)))


def slower(base: Gaussian, ratio: float, t: Tensor | float) -> Tensor:
    """The time at which sigma / alpha is `ratio` times that at t: the time of a condition that is diffused more slowly.

    ratio : sigma_y / sigma_x at alpha = 1, at least 0. At 0 the condition stays clean.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"a condition that is diffused more slowly has a ratio from 0 to 1; found {ratio:g}")
    t = as_float64(t)
    if ratio in (0, 1):
        return ratio * t
    level = torch.tensor(ratio, dtype=t.dtype, device=t.device).log()
    return torch.where(t > 0, base.time(base.logsnr(t) - 2 * level), 0.0)
