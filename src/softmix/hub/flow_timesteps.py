"""Timestep spacing of a model that was trained by flow matching."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..denoiser.parameterise import Output
from ..process import Flow, Gaussian
from .sigma_spacing import sigma_spacing_of, without_final_zero


class FlowTimesteps:
    """The step times of flow matching, as a `TimestepSchedule`: x_t = (1 - t) x0 + t z.

    t is diffusers' sigma. The model takes t times the number of training steps. Times that fall evenly from 1 (see
    `step_times`) are shifted towards noise,

        t -> shift t / (1 + (shift - 1) t)
        t -> m / (m + 1/t - 1),  m = e^mu ("exponential") or mu ("linear"),     with use_dynamic_shifting

    The pipeline computes mu from the size of its image. Then the times are stretched so that the last is
    `shift_terminal`. Last, use_karras_sigmas and its like space them anew between the first and the last.

    config : the configuration of the scheduler.
    family : "ddim" or "dpm", see `step_times`.

    Source: Esser et al., "Scaling rectified flow transformers", 2024, section 5.3.2; diffusers' FlowMatchEuler.
    """

    output: Output = "flow"

    def __init__(self, config: Any, family: str):
        self.config, self.train_steps = config, int(config.num_train_timesteps)
        self.to_the_last = family == "ddim" and config.shift is not None
        self.process: Gaussian = Flow(end=0.0)
        self.sigma_spacing = sigma_spacing_of(config)
        if config.time_shift_type not in ("exponential", "linear"):
            raise ValueError(
                f"time_shift_type {config.time_shift_type!r} was asked for; there are exponential and linear"
            )
        if self.sigma_spacing is not None and config.shift is None:
            raise ValueError(
                "use_flow_sigmas takes no use_karras_sigmas or the like here: give shift=... in the place of flow_shift"
            )

    def step_times(
        self, n: int | None, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None, mu: float | None
    ) -> tuple[list[float], float]:
        """See `TimestepSchedule`.

        The DDIM family takes n times from 1 to 1 / train_steps, both included, as FlowMatchEuler. The DPM-Solver
        family, and use_flow_sigmas, take the first n of n + 1 such times, as UniPC. There the step to 1 / train_steps
        would be so much longer in log(alpha / sigma) than the steps before it (4 after 0.6, for 8 steps with shift 3)
        that means are extrapolated too far.

        timesteps : model timesteps, not shifted.
        sigmas : times before the shift.
        mu : the dynamic shift.
        """
        if timesteps is not None:
            falling = torch.tensor([float(k) / self.train_steps for k in timesteps], dtype=torch.float64)
        else:
            even = self._even(int(n or 0)) if sigmas is None else without_final_zero([float(each) for each in sigmas])
            falling = self._stretched(self._shifted(torch.as_tensor(even, dtype=torch.float64), mu))
            if self.sigma_spacing is not None:
                falling = self.sigma_spacing(float(falling[0]), float(falling[-1]), len(falling))
        times: list[float] = falling.tolist()
        if not times or not (falling.diff() < 0).all() or not 0 < times[-1] <= times[0] <= 1 + 1e-6:
            raise ValueError(f"times of flow matching fall, from 1 and above 0; found {times[:5]} ...")
        times = [min(t, 1.0) for t in times]
        return times, 0.0 if self.config.final_sigmas_type == "zero" else times[-1]

    def _even(self, n: int) -> Tensor:
        if n < 1:
            raise ValueError(f"{n} inference steps were asked for; a sampler needs at least 1")
        first, last = 1.0, 1 / self.train_steps
        if not self.to_the_last:
            return torch.linspace(first, last, n + 1, dtype=torch.float64)[:-1]
        if not self.config.use_dynamic_shifting:
            # diffusers takes the ends from shifted times, and shifts them again
            first, last = (_shift_to_noise(t, self.config.shift) for t in (first, last))
        return torch.linspace(first, last, n, dtype=torch.float64)

    def _shifted(self, t: Tensor, mu: float | None) -> Tensor:
        if not self.config.use_dynamic_shifting:
            return _shift_to_noise(t, self._static_shift())
        if mu is None:
            raise ValueError("mu must be given to set_timesteps: use_dynamic_shifting takes the shift from it")
        m = math.exp(mu) if self.config.time_shift_type == "exponential" else mu
        return m / (m + 1 / t - 1)

    def _static_shift(self) -> float:
        return float(self.config.flow_shift if self.config.shift is None else self.config.shift)

    def _stretched(self, t: Tensor) -> Tensor:
        last = self.config.shift_terminal
        return 1 - (1 - t) * (1 - last) / (1 - t[-1]) if last else t

    def model_timesteps(self, times: Sequence[float]) -> Tensor:
        """t train_steps."""
        return (torch.tensor(times, dtype=torch.float64) * self.train_steps).float()

    def times_of(self, timesteps: Tensor) -> Tensor:
        """t = timestep / train_steps."""
        return timesteps.double() / self.train_steps

    def training_timesteps(self) -> Tensor:
        """train_steps even times from 1, shifted, as model timesteps."""
        even = torch.arange(self.train_steps, 0, -1, dtype=torch.float64) / self.train_steps
        dynamic = self.config.use_dynamic_shifting
        return self.model_timesteps((even if dynamic else _shift_to_noise(even, self._static_shift())).tolist())

    def sigmas(self, times: Sequence[float]) -> Tensor:
        """t itself."""
        return torch.tensor(times, dtype=torch.float64).float()


def _shift_to_noise(t: Any, shift: float) -> Any:
    return shift * t / (1 + (shift - 1) * t)
