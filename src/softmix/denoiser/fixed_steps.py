"""A denoiser for the steps of one grid."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from ..cond import Cond, CondSpec
from ..posterior import Posterior
from .network import Network

# a time of a float32 grid may be off by this
_ROUNDING = 1e-6


class StepsError(ValueError):
    """A model was asked for times that it was not trained at."""


class FixedSteps(nn.Module):
    """A network that was trained at the times of a grid, for its steps alone.

    network : the network.
    steps : of the grid `process.grid(steps)`.

    Raises StepsError, a ValueError, for any other time. Two of its steps at once are no step of the training: samplers
    then warn.
    When to choose: `SIDDM` makes it.
    """

    def __init__(self, network: Network, steps: int):
        super().__init__()
        self.network, self.steps = network, steps
        self.process, self.shape, self.classes = network.process, network.shape, network.classes
        self.times: list[float] = network.process.grid(steps).tolist()

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
        self._check(times)
        within = [time for time in self.times if times[-1] - _ROUNDING < time < times[0] + _ROUNDING]
        if len(within) > len(times):
            warnings.warn(
                f"the times {self._listed(times)} were asked for, and this model learned the steps between "
                f"{self._listed(within)}: its draws of a longer step were compared with no data. Take {self.steps} "
                "steps",
                stacklevel=2,
            )

    def forward(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Posterior:
        self._check(torch.as_tensor(t).flatten().unique().tolist())
        posterior: Posterior = self.network(xt, t, cond)
        return posterior

    def _check(self, times: list[float]) -> None:
        if any(min(abs(time - known) for known in self.times) > _ROUNDING for time in times):
            raise StepsError(
                f"the times {self._listed(times)} were asked for, and this model knows "
                f"{self._listed(self.times)} alone: take {self.steps} steps, and the grid `uniform`"
            )

    @staticmethod
    def _listed(times: list[float]) -> str:
        return ", ".join(f"{time:.3g}" for time in times)
