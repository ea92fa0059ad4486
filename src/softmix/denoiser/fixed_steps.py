"""A denoiser for the steps of one grid."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..cond import Cond, CondSpec
from ..posterior import Posterior
from .network import Network

# a time of the grid may be off by this, for example after a conversion to float32
_ROUNDING = 1e-5


class StepsError(ValueError):
    """A model was asked for times that it was not trained at."""


class FixedSteps(nn.Module):
    """A network that was trained at the times of a grid, for its steps alone.

    network : the network.
    times : the falling times of the grid, [steps + 1].

    Raises StepsError, a ValueError, for any other time. Two of its steps at once are no step of the training: samplers
    then warn.
    When to choose: `SIDDM` makes it.
    """

    def __init__(self, network: Network, times: Tensor):
        super().__init__()
        self.network, self.times = network, tuple(times.tolist())
        self.process, self.shape, self.classes = network.process, network.shape, network.classes

    @property
    def steps(self) -> int:
        """The number of steps of its grid."""
        return len(self.times) - 1

    @property
    def cond(self) -> CondSpec:
        """The conditions of the network."""
        return self.network.cond

    @property
    def stride(self) -> int:
        """That of the network."""
        return self.network.stride

    def check_grid(self, grid: Tensor) -> None:
        """Warns of falling times with a step over a time of the training. Raises StepsError for another time."""
        times = grid.tolist()
        self._check(times, self.times)
        within = [time for time in self.times if times[-1] - _ROUNDING < time < times[0] + _ROUNDING]
        if len(within) > len(times):
            warnings.warn(
                f"the times {listed(times)} were asked for, and this model learned the steps between "
                f"{listed(within)}: its draws of a longer step were compared with no data. Take {self.steps} "
                "steps",
                stacklevel=2,
            )

    def forward(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Posterior:
        # no step asks at the last time
        self._check(torch.as_tensor(t).flatten().unique().tolist(), self.times[:-1])
        posterior: Posterior = self.network(xt, t, cond)
        return posterior

    def _check(self, times: Sequence[float], known: Sequence[float]) -> None:
        away = [time for time in times if not any(is_near(time, each) for each in known)]
        if away:
            raise self._refusal(away)

    def _refusal(self, times: Sequence[float]) -> StepsError:
        return StepsError(
            f"the times {listed(times)} were asked for, and this model knows {listed(self.times)} alone: take "
            f"{self.steps} steps, and the grid `uniform`"
        )


def has_fixed_steps(denoiser: object) -> bool:
    """Whether a denoiser is made for the steps of one grid, or is a wrap of such a one."""
    while not isinstance(denoiser, FixedSteps):
        if not hasattr(denoiser, "inner"):
            return False
        denoiser = denoiser.inner
    return True


def is_near(time: float, known: float) -> bool:
    """Whether two times are equal up to rounding."""
    return abs(time - known) <= _ROUNDING


def listed(times: Sequence[float]) -> str:
    """Times for a sentence."""
    return ", ".join(f"{time:.3g}" for time in times)
