"""The contract, and the record of what a process did."""

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
    """What the process did to a batch: the only source of training targets.

    x0, xt : [B, ...]. t : [B]. z : the noise that was really used, after any pairing; of a process with a frame, in the
    frame. process : whose doing it was. cond : what the denoiser is told beside xt (class labels [B], -1 for "not
    told"), or None.
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

    def take(self, items: Tensor) -> Noised:
        """The record of some of the items."""
        at = items.to(self.t.device)
        return Noised(self.x0[items], self.xt[items], self.t[at], self.z[items], self.process, take(self.cond, items))

    def at(self, t: Tensor | float) -> Noised:
        """The same items with the same noise at another time, one for all or one for each [B].

        Raises TypeError where the process has no `state(x0, t, z, cond)`, as `Gaussian` and `Framed` have.
        """
        state = getattr(self.process, "state", None)
        if state is None:
            raise TypeError(
                f"the same noise at other times was asked for, and {type(self.process).__name__} does not say what its "
                "x_t is for a given z: give it a method state(x0, t, z, cond), or take a Gaussian process"
            )
        # a number would become one of single precision first
        t = t.to(self.t) if isinstance(t, Tensor) else self.t.new_tensor(t)
        return replace(self, xt=state(self.x0, t, self.z, self.cond), t=t.expand(len(self.x0)))


class Process(Protocol):
    """How clean data becomes noise. Times are numbers or tensors of shape [] or [B], in [0, 1]."""

    def noise(self, x0: Tensor, t: Tensor | float, rng: Rng, cond: Cond | Tensor | None = None) -> Noised:
        """A draw of x_t given x_0."""
        ...

    def prior(self, shape: Sequence[int], rng: Rng, cond: Cond | Tensor | None = None) -> Tensor:
        """A draw of x_1 where nothing is known of x_0."""
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
        """log(alpha^2 / sigma^2): falls with t, infinite at t = 0."""
        ...

    def time(self, logsnr: Tensor | float) -> Tensor:
        """The inverse of `logsnr`."""
        ...

    def grid(self, n: int) -> Tensor:
        """The process's own choice of n steps: n + 1 times from 1 down to 0, float64."""
        ...
