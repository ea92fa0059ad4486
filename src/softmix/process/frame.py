"""Frames, in which the states of a process are those of a plain Gaussian one.

Many processes are a Gaussian process seen from elsewhere: shifted by something that depends on the condition, or turned
into another basis. Such a process says how to enter the frame, y = enter(x_t, t, cond), and how to leave it; in the
frame y_t = alpha(t) y_0 + sigma(t) z. What a process does follows from that, and so does every sampler: a driver
enters the frame, runs the sampler on `base`, and leaves the frame for each question to the denoiser and at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..cond import Cond
from ..rng import Rng
from ..shape import column, fits
from .gaussian import Gaussian, is_number
from .noised import Noised, Process


class Framed(ABC):
    """A process whose states are those of the Gaussian process `base`, seen from outside its frame.

    base : the process in the frame. keeps_x0 : whether a clean item is the same in the frame. Then a belief about it
    is the same too; else its mean and its draws are taken into the frame.
    """

    base: Gaussian
    keeps_x0: ClassVar[bool] = False

    @abstractmethod
    def enter(self, x: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Tensor:
        """y, the state in the frame, of a state x [B, ...] at t."""

    @abstractmethod
    def leave(self, y: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Tensor:
        """x of a state y in the frame: the inverse of `enter`."""

    def noise(self, x0: Tensor, t: Tensor | float, rng: Rng, cond: Cond | Tensor | None = None) -> Noised:
        """x_t = leave(alpha(t) enter(x_0) + sigma(t) z). The record's z is that of the frame."""
        inside = self.base.noise(self.enter(x0, 0.0, cond), t, rng)
        return Noised(x0, self.leave(inside.xt, inside.t, cond), inside.t, inside.z, self, cond)

    def state(self, x0: Tensor, t: Tensor | float, z: Tensor, cond: Cond | Tensor | None = None) -> Tensor:
        """x_t for a given z, the noise in the frame."""
        return self.leave(self.base.state(self.enter(x0, 0.0, cond), t, z), t, cond)

    def prior(self, shape: Sequence[int], rng: Rng, cond: Cond | Tensor | None = None) -> Tensor:
        """x_1 = leave(y_1), y_1 the base's noise."""
        return self.leave(self.base.prior(shape, rng), 1.0, cond)

    def bridge(
        self,
        xt: Tensor,
        x0: Tensor,
        t: Tensor | float,
        s: Tensor | float,
        rng: Rng,
        cond: Cond | Tensor | None = None,
        eta: float = 1.0,
    ) -> Tensor:
        """The base's step between the frame's y_t and y_s: q(x_s | x_t, x_0) for eta = 1."""
        inside = (self.enter(xt, t, cond), self.enter(x0, 0.0, cond))
        return self.leave(self.base.bridge(*inside, t, s, rng, eta=eta), s, cond)

    def logsnr(self, t: Tensor | float) -> Tensor:
        return self.base.logsnr(t)

    def time(self, logsnr: Tensor | float) -> Tensor:
        return self.base.time(logsnr)

    def grid(self, n: int) -> Tensor:
        return self.base.grid(n)


class Shifted(Framed):
    """x_t = alpha(t) x_0 + k(t) u(cond) + sigma(t) z: the frame is y = x - k(t) u(cond).

    The author of a process gives `base`, `k` and `u`. k(0) must be 0, so that a clean item stays what it is.
    """

    keeps_x0: ClassVar[bool] = True

    @abstractmethod
    def k(self, t: Tensor | float) -> Tensor:
        """How much of the shift there is at t: of the shape of t, or an array of x's rank; 0 at t = 0."""

    @abstractmethod
    def u(self, cond: Any) -> Tensor:
        """Where the condition shifts to, of x's rank: [B, ...], or with sizes of 1. cond may be None."""

    def enter(self, x: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Tensor:
        return x - self._offset(x, t, cond)

    def leave(self, y: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Tensor:
        return y + self._offset(y, t, cond)

    def _offset(self, x: Tensor, t: Tensor | float, cond: Any) -> Tensor:
        share, u = self.k(t), self.u(cond).to(x)
        if is_number(t) and float(t) == 0 and (share != 0).any():
            raise ValueError(
                f"the shift of {type(self).__name__} is k(0) = {share.flatten()[:4].tolist()} at t = 0, where x is "
                "the clean item: give a k(t) with k(0) = 0"
            )
        if not fits(u, x):
            raise ValueError(
                f"{type(self).__name__} shifts states of shape {list(x.shape)} by u(cond) of shape {list(u.shape)}: it "
                "needs the same rank, and for each size the state's or 1"
            )
        return column(share, x) * u


@dataclass(frozen=True, eq=False)
class FixedCondition(Framed):
    """A framed process whose condition is known, for a part that is handed a process alone, as a start is."""

    process: Framed
    cond: Any

    @property
    def base(self) -> Gaussian:  # type: ignore[override]
        return self.process.base

    @property
    def keeps_x0(self) -> bool:  # type: ignore[override]
        return self.process.keeps_x0

    def enter(self, x: Tensor, t: Tensor | float, cond: Any = None) -> Tensor:
        return self.process.enter(x, t, self.cond if cond is None else cond)

    def leave(self, y: Tensor, t: Tensor | float, cond: Any = None) -> Tensor:
        return self.process.leave(y, t, self.cond if cond is None else cond)


def unframed(process: Process, who: str) -> Gaussian:
    """The process itself if it is a Gaussian one without a frame.

    Raises TypeError, naming `who` reckons with x_t = alpha x_0 + sigma z itself, what was found, and what to do.
    """
    if isinstance(process, Framed):
        raise TypeError(
            f"{who} reckons with x_t = alpha x0 + sigma z, and the states of {type(process).__name__} are so in their "
            "frame only: give softmix.denoiser.in_frame(denoiser), whose states are those in the frame, or a process "
            "without a frame"
        )
    if not isinstance(process, Gaussian):
        raise TypeError(f"{who} needs a Gaussian process, and found {type(process).__name__}: take VP, VE or Flow")
    return process


def one_clock(process: Process, who: str) -> Gaussian:
    """The process itself if it is a Gaussian one without a frame whose alpha and sigma are numbers; else TypeError."""
    found = unframed(process, who)
    if found.per_element:
        raise TypeError(
            f"{who} reckons with one alpha and one sigma for all elements, and {type(found).__name__} has a number for "
            "each: give a process whose alpha and sigma are numbers"
        )
    return found
