"""The times of a scheduler whose model was trained by flow matching."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..denoiser.parameterise import Output
from ..process import Flow, Gaussian
from .sigmas import chosen_spread
from .spacing import falling


class Flows:
    """x_t = (1 - t) x0 + t z, and t is diffusers' sigma; the model is told t times the number of training steps.

    With t running evenly from 1 (see `places`), the times of n steps are shifted towards noise,

        shift t / (1 + (shift - 1) t), or with dynamic shifting m / (m + 1/t - 1), m = e^mu ("exponential") or mu,

    mu given by the pipeline for the size of its image. Then they are stretched so that the last is `shift_terminal`,
    and last they are laid between their ends as use_karras_sigmas and the like say.
    Source: Esser et al., "Scaling rectified flow transformers", 2024, section 5.3.2; diffusers' FlowMatchEuler.
    """

    output: Output = "flow"

    def __init__(self, config: Any, like: str):
        self.config, self.steps = config, int(config.num_train_timesteps)
        self.to_the_last = like == "ddim" and config.shift is not None
        self.process: Gaussian = Flow(end=0.0)
        self.spread = chosen_spread(config)
        if config.time_shift_type not in ("exponential", "linear"):
            raise ValueError(
                f"time_shift_type {config.time_shift_type!r} was asked for; there are exponential and linear"
            )
        if self.spread is not None and config.shift is None:
            raise ValueError(
                "use_flow_sigmas takes no use_karras_sigmas or the like here: give shift=... in the place of flow_shift"
            )

    def places(
        self, n: int | None, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None, mu: float | None
    ) -> tuple[list[float], float]:
        """For what is like DDIM, between 1 and 1 / steps, both among n times, as FlowMatchEuler's. For what is like
        DPM-Solver, and for use_flow_sigmas, of n + 1 such times the first n, as UniPC's: the step to 1 / steps would be
        so much longer in log(alpha / sigma) than those before it that means are carried on too far (4 after 0.6, of 8
        steps shifted by 3). sigmas : other times to be shifted; timesteps : what the model is told, as it is."""
        if timesteps is not None:
            found = torch.tensor([float(k) / self.steps for k in timesteps], dtype=torch.float64)
        else:
            raw = self._even(int(n or 0)) if sigmas is None else falling([float(each) for each in sigmas])
            found = self._stretched(self._shifted(torch.as_tensor(raw, dtype=torch.float64), mu))
            if self.spread is not None:
                found = self.spread(float(found[0]), float(found[-1]), len(found))
        times: list[float] = found.tolist()
        if not times or not (found.diff() < 0).all() or not 0 < times[-1] <= times[0] <= 1 + 1e-6:
            raise ValueError(f"times of flow matching fall, from 1 and above 0; found {times[:5]} ...")
        times = [min(t, 1.0) for t in times]
        return times, 0.0 if self.config.final_sigmas_type == "zero" else times[-1]

    def _even(self, n: int) -> Tensor:
        if n < 1:
            raise ValueError(f"{n} inference steps were asked for; a sampler needs at least 1")
        first, last = 1.0, 1 / self.steps
        if not self.to_the_last:
            return torch.linspace(first, last, n + 1, dtype=torch.float64)[:-1]
        if not self.config.use_dynamic_shifting:
            # diffusers takes the ends from times that are shifted already, and shifts them again
            first, last = (_towards_noise(t, self.config.shift) for t in (first, last))
        return torch.linspace(first, last, n, dtype=torch.float64)

    def _shifted(self, t: Tensor, mu: float | None) -> Tensor:
        if not self.config.use_dynamic_shifting:
            return _towards_noise(t, self._shift())
        if mu is None:
            raise ValueError("mu must be given to set_timesteps: use_dynamic_shifting takes the shift from it")
        m = math.exp(mu) if self.config.time_shift_type == "exponential" else mu
        return m / (m + 1 / t - 1)

    def _shift(self) -> float:
        return float(self.config.flow_shift if self.config.shift is None else self.config.shift)

    def _stretched(self, t: Tensor) -> Tensor:
        last = self.config.shift_terminal
        return 1 - (1 - t) * (1 - last) / (1 - t[-1]) if last else t

    def told(self, times: Sequence[float]) -> Tensor:
        return (torch.tensor(times, dtype=torch.float64) * self.steps).float()

    def times(self, told: Tensor) -> Tensor:
        return told.double() / self.steps

    def whole(self) -> Tensor:
        even = torch.arange(self.steps, 0, -1, dtype=torch.float64) / self.steps
        return self.told((even if self.config.use_dynamic_shifting else _towards_noise(even, self._shift())).tolist())

    def levels(self, times: Sequence[float]) -> Tensor:
        return torch.tensor(times, dtype=torch.float64).float()


def _towards_noise(t: Any, shift: float) -> Any:
    return shift * t / (1 + (shift - 1) * t)
