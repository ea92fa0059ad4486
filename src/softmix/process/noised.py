"""The process protocol, and the record of a noised batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from ..cond import Cond
from ..rng import Rng
from ..shape import take


@dataclass(frozen=True)
class Noised:
    """A noised batch: the source of all training targets.

    x0 : the clean items, [B, ...].
    xt : the noised items, [B, ...].
    t : the times, [B].
    z : the noise in xt, after any pairing. For a process with a frame, the noise in the frame.
    process : the process that made xt.
    cond : the condition for the denoiser, a `Cond` or class labels [B] (-1: not given), or None.
    """

    x0: Tensor
    xt: Tensor
    t: Tensor
    z: Tensor
    process: Process
    cond: Cond | Tensor | None = None

    @property
    def logsnr(self) -> Tensor:
        """log(alpha^2 / sigma^2) at t, [B]."""
        return self.process.logsnr(self.t)

    def take(self, items: Tensor | slice) -> Noised:
        """The record of some of the items."""
        at = items.to(self.t.device) if isinstance(items, Tensor) else items
        return Noised(self.x0[items], self.xt[items], self.t[at], self.z[items], self.process, take(self.cond, items))

    def at(self, t: Tensor | float) -> Noised:
        """The same items with the same noise at another time.

        t : one time for all, or one for each, [B].

        Raises TypeError if the process has no method `state(x0, t, z, cond)`. `Gaussian` and `Framed` have it.
        """
        state = getattr(self.process, "state", None)
        if state is None:
            raise TypeError(
                f"the same noise at other times was asked for, and {type(self.process).__name__} has no formula of x_t "
                "for a given z: give it a method state(x0, t, z, cond), or take a Gaussian process"
            )
        # torch.as_tensor would make a number float32
        t = t.to(self.t) if isinstance(t, Tensor) else self.t.new_tensor(t)
        return replace(self, xt=state(self.x0, t, self.z, self.cond), t=t.expand(len(self.x0)))


class Process(Protocol):
    """How clean data becomes noise. Times are numbers or tensors of shape [] or [B], in [0, 1]."""

    def noise(self, x0: Tensor, t: Tensor | float, rng: Rng, cond: Cond | Tensor | None = None) -> Noised:
        """A draw of x_t given x_0."""
        ...

    def prior(self, shape: Sequence[int], rng: Rng, cond: Cond | Tensor | None = None) -> Tensor:
        """A draw of x_1 without knowledge of x_0."""
        ...

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
        """A draw of q(x_s | x_t, x_0) for s < t."""
        ...

    def logsnr(self, t: Tensor | float) -> Tensor:
        """log(alpha^2 / sigma^2). It falls with t and is infinite at t = 0."""
        ...

    def time(self, logsnr: Tensor | float) -> Tensor:
        """The inverse of `logsnr`."""
        ...

    def grid(self, n: int) -> Tensor:
        """The default grid of the process for n steps: n + 1 times from 1 down to 0, float64."""
        ...
