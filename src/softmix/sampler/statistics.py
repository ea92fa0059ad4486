"""The coefficients that DPM-Solver-v3 needs of a model, and their file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Statistics:
    """The coefficients l, s, b of a model for DPM-Solver-v3, over the clock log(alpha / sigma).

    clock : rising values of log(alpha / sigma), [N], float64.
    l, s, b : at these values, [N, *shape] with a number for each element of x0, or [N, 1, ...].

    Between the values of `clock` they are linear. Before the first l is 1. After the last it stays constant. Outside s
    and b are 0. (s is an exponent: extrapolated from a logsnr of -9 to -20, at which a grid may begin, it is e to the
    tenth.) `softmix.info.fit_statistics` measures them.
    """

    clock: Tensor
    l: Tensor  # noqa: E741
    s: Tensor
    b: Tensor

    def at(self, clock: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """l, s and b at these values of the clock, each [n, ...], on the device of the statistics."""
        clock = clock.to(self.clock.device)
        inside = clock.clamp(float(self.clock[0]), float(self.clock[-1]))
        upper = torch.searchsorted(self.clock, inside).clamp(1, len(self.clock) - 1)
        low, high = self.clock[upper - 1], self.clock[upper]
        share = ((inside - low) / (high - low)).reshape(-1, *[1] * (self.l.ndim - 1))
        l, s, b = (torch.lerp(part[upper - 1], part[upper], share) for part in (self.l, self.s, self.b))  # noqa: E741
        shape = (-1, *[1] * (self.l.ndim - 1))
        before = (clock < self.clock[0] - 1e-9).reshape(shape)
        known = ~before & (clock <= self.clock[-1] + 1e-9).reshape(shape)
        return torch.where(before, 1.0, l), torch.where(known, s, 0.0), torch.where(known, b, 0.0)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file."""
        save_file({name: getattr(self, name).contiguous() for name in ("clock", "l", "s", "b")}, str(path))

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Read a file that `save` wrote."""
        return cls(**load_file(str(path)))
