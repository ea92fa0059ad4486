"""The protocol of timestep schedules: step times, and the timesteps that a model takes at these times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ..denoiser.parameterise import Output
from ..process import Gaussian


class TimestepSchedule(Protocol):
    """The times of a scheduler. `BetaTimesteps` and `FlowTimesteps` implement it.

    process : the noising process of the model's training.
    output : the prediction type of the model.
    train_steps : the number of training timesteps.
    """

    process: Gaussian
    output: Output
    train_steps: int

    def step_times(
        self, n: int | None, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None, mu: float | None
    ) -> tuple[list[float], float]:
        """The falling times of the steps, and the time at which the last step ends.

        Exactly one of the first three is given.

        n : the number of steps.
        timesteps : the model timesteps of the steps.
        sigmas : the noise levels of the steps.
        mu : the dynamic shift of flow matching.
        """
        ...

    def model_timesteps(self, times: Sequence[float]) -> Tensor:
        """The timesteps that the model takes at these times."""
        ...

    def times_of(self, timesteps: Tensor) -> Tensor:
        """The inverse of `model_timesteps`."""
        ...

    def training_timesteps(self) -> Tensor:
        """All model timesteps of the training, from noise to clean."""
        ...

    def sigmas(self, times: Sequence[float]) -> Tensor:
        """The noise levels at these times, as in diffusers' `sigmas`."""
        ...
