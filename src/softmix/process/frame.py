"""Frames: changes of variables that turn a process into a plain Gaussian one.

Many processes are a Gaussian process after a shift by a function of the condition, or in another basis. Such a process
defines y = enter(x_t, t, cond) and its inverse `leave`. In the frame, y_t = alpha(t) y_0 + sigma(t) z. Everything else
follows, and every sampler works: the driver enters the frame, runs the sampler on `base`, and leaves the frame for each
call of the denoiser and at the end.
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
from .gaussian import Gaussian
from .noised import Noised, Process
from .numbers import is_number


class Framed(ABC):
    """A process that is the Gaussian process `base` in another frame.

    base : the process in the frame.
    keeps_x0 : whether the frame leaves clean items unchanged. Then a posterior of x0 is the same in the frame.
        Otherwise its mean and its samples are mapped into the frame.
    """

    base: Gaussian
    keeps_x0: ClassVar[bool] = False

    @abstractmethod
    def enter(self, x: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Tensor:
        """y, the state in the frame, from the state x [B, ...] at time t."""

    @abstractmethod
    def leave(self, y: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Tensor:
        """x from the state y in the frame: the inverse of `enter`."""

    def noise(self, x0: Tensor, t: Tensor | float, rng: Rng, cond: Cond | Tensor | None = None) -> Noised:
        """x_t = leave(alpha(t) enter(x_0) + sigma(t) z). The z of the record is the noise in the frame."""
        inside = self.base.noise(self.enter(x0, 0.0, cond), t, rng)
        return Noised(x0, self.leave(inside.xt, inside.t, cond), inside.t, inside.z, self, cond)

    def state(self, x0: Tensor, t: Tensor | float, z: Tensor, cond: Cond | Tensor | None = None) -> Tensor:
        """x_t for a given z, the noise in the frame."""
        return self.leave(self.base.state(self.enter(x0, 0.0, cond), t, z), t, cond)

    def prior(self, shape: Sequence[int], rng: Rng, cond: Cond | Tensor | None = None) -> Tensor:
        """x_1 = leave(y_1) with y_1 from the prior of the base."""
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
        """The step of the base from y_t to y_s in the frame: q(x_s | x_t, x_0) for eta = 1."""
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

    A subclass defines `base`, `k` and `u`. k(0) must be 0, so that clean items stay unchanged.
    """

    keeps_x0: ClassVar[bool] = True

    @abstractmethod
    def k(self, t: Tensor | float) -> Tensor:
        """The size of the shift at t: of the shape of t, or an array of the rank of x; 0 at t = 0."""

    @abstractmethod
    def u(self, cond: Any) -> Tensor:
        """The shift for a condition, of the rank of x: [B, ...], or with sizes of 1. cond may be None."""

    def enter(self, x: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Tensor:
        return x - self._offset(x, t, cond)

    def leave(self, y: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Tensor:
        return y + self._offset(y, t, cond)

    def _offset(self, x: Tensor, t: Tensor | float, cond: Any) -> Tensor:
        share, u = self.k(t), self.u(cond).to(x)
        if is_number(t) and float(t) == 0 and (share != 0).any():
            raise ValueError(
                f"the shift of {type(self).__name__} is k(0) = {share.flatten()[:4].tolist()} at t = 0, and there x is "
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
    """A framed process with a fixed condition, for a part that receives a process and no condition."""

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
    """Check that a process is Gaussian and has no frame, and return it.

    who : the name of the caller, for the error. It uses x_t = alpha x_0 + sigma z directly.

    Raises TypeError with the process found and advice.
    """
    if isinstance(process, Framed):
        raise TypeError(
            f"{who} uses x_t = alpha x0 + sigma z, and this holds for {type(process).__name__} in its frame only: "
            "give softmix.denoiser.in_frame(denoiser), or a process without a frame"
        )
    if not isinstance(process, Gaussian):
        raise TypeError(f"{who} needs a Gaussian process, and found {type(process).__name__}: take VP, VE or Flow")
    return process


def clock_of(process: Process, who: str) -> Gaussian:
    """Check that a process has one clock for all elements and clean items as they are, and return it, or the base of
    its frame. For parts that use times alone, and states through `Noised`.

    Else TypeError.
    """
    inside = process.base if isinstance(process, Framed) and process.keeps_x0 else process
    return one_clock(inside, who)


def one_clock(process: Process, who: str) -> Gaussian:
    """Check that a process is Gaussian, has no frame, and has one alpha and one sigma for all elements.

    Else TypeError.
    """
    gaussian = unframed(process, who)
    if gaussian.per_element:
        raise TypeError(
            f"{who} needs one alpha and one sigma for all elements, and {type(gaussian).__name__} has a number for "
            "each: give a process with numbers for alpha and sigma"
        )
    return gaussian
