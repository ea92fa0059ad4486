"""Timestep spacing of a model that was trained on a table of betas."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from ..denoiser.parameterise import Output
from ..process import Gaussian, Table
from .sigma_spacing import is_falling, sigma_spacing_of, without_final_zero

# prediction_type of diffusers -> row of the affine table
PREDICTION_TYPES: dict[str, Output] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SPACINGS = ("linspace", "leading", "trailing")
LOG = logging.getLogger(__name__)


class BetaTimesteps:
    """The step times of a table of betas, as a `TimestepSchedule`.

    The times are integer times of the table, or those of noise levels that diffusers' use_..._sigmas choose.

    config : the configuration of the scheduler.
    family : "ddim" or "dpm": the rule for the integer times of n steps. DDIM takes n points, diffusers' DPM-Solver
        takes n + 1 with the end.
    """

    def __init__(self, config: Any, family: str):
        self.diffusers_table = _diffusers_table(config)
        self.table = Table(self.diffusers_table.alphas_cumprod)
        self.process: Gaussian = self.table
        self.output = PREDICTION_TYPES[config.prediction_type]
        self.train_steps = self.table.steps
        self.config, self.family = config, family
        self.sigma_spacing = sigma_spacing_of(config)
        self._between_integers = False
        if config.timestep_spacing not in SPACINGS:
            raise ValueError(
                f"timestep_spacing {config.timestep_spacing!r} was asked for; there are {', '.join(SPACINGS)}"
            )
        limits = [name for name in ("sigma_min", "sigma_max") if config.get(name) is not None]
        if limits and self.sigma_spacing is None:
            raise ValueError(
                f"{' and '.join(limits)} would change nothing: they are the ends of use_karras_sigmas, "
                "use_exponential_sigmas or use_beta_sigmas, and none of these is set"
            )

    def step_times(
        self, n: int | None, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None, mu: float | None
    ) -> tuple[list[float], float]:
        """See `TimestepSchedule`. timesteps : integer times. sigmas : sigma / alpha. mu : must be None."""
        if mu is not None:
            raise ValueError(f"mu = {mu} shifts the times of flow matching; a table of betas has no shift")
        self._between_integers = self.sigma_spacing is not None or sigmas is not None
        # 0 is clean, 1 / train_steps the level of the first training step
        end = 0.0 if self.config.final_sigmas_type == "zero" else 1 / self.train_steps
        if sigmas is not None:
            return self._times_of_sigmas(without_final_zero([float(each) for each in sigmas])), end
        if timesteps is not None:
            if self.sigma_spacing is not None:
                raise ValueError("timesteps were given, and use_..._sigmas choose them too: switch the latter off")
            return self._times_of_integers([int(k) for k in timesteps]), end
        if self.sigma_spacing is None:
            return self._times_of_integers(self._integer_times(int(n or 0))), end
        self._check_steps(int(n or 0))
        high, low = float(self.table.ratio[-1]), float(self.table.ratio[1])
        ends = [self.config.get(name) for name in ("sigma_max", "sigma_min")]
        high, low = (own if own is not None else known for own, known in zip(ends, (high, low), strict=True))
        return self._times_of_sigmas(self.sigma_spacing(high, low, int(n or 0)).tolist()), end

    def model_timesteps(self, times: Sequence[float]) -> Tensor:
        """The integer times. Between two of them, the nearest one on the line in log(sigma / alpha), as diffusers."""
        if not self._between_integers:
            return torch.tensor([round(t * self.train_steps) - 1 for t in times], dtype=torch.int64)
        logs = self.table.ratio[1:].log().numpy()
        asked = -np.array([float(self.process.logsnr(t)) for t in times]) / 2
        return torch.from_numpy(np.interp(asked, logs, np.arange(self.train_steps)).round()).long()

    def times_of(self, timesteps: Tensor) -> Tensor:
        """t = (k + 1) / train_steps."""
        return (timesteps.double() + 1) / self.train_steps

    def training_timesteps(self) -> Tensor:
        """train_steps - 1 to 0."""
        return torch.arange(self.train_steps).flip(0)

    def sigmas(self, times: Sequence[float]) -> Tensor:
        """sigma / alpha."""
        t = torch.tensor(times, dtype=torch.float64)
        return torch.where(t > 0, (-self.process.logsnr(t) / 2).exp(), 0.0).float()

    def _times_of_sigmas(self, ratios: list[float]) -> list[float]:
        """The times of values of sigma / alpha."""
        most = float(self.table.ratio[-1])
        if not ratios or ratios[0] > most * (1 + 1e-4):
            raise ValueError(f"noise levels sigma / alpha fall, from {most:.4g} at most; found {ratios[:5]} ...")
        ratio = torch.tensor(ratios, dtype=torch.float64).clamp(max=most)
        times: list[float] = self.process.time(-2 * ratio.log()).tolist()
        # exact at integer times
        near = [round(t * self.train_steps) for t in times]
        return [
            k / self.train_steps if abs(t * self.train_steps - k) < 1e-6 else t
            for t, k in zip(times, near, strict=True)
        ]

    def _times_of_integers(self, places: list[int]) -> list[float]:
        if not places or not is_falling(places) or places[0] >= self.train_steps or places[-1] < 0:
            raise ValueError(f"integer times fall, from {self.train_steps - 1} to 0 at most; found {places[:5]} ...")
        return [(k + 1) / self.train_steps for k in places]

    def _check_steps(self, n: int) -> None:
        if not 1 <= n <= self.train_steps:
            raise ValueError(f"{n} inference steps were asked for; the model was trained with {self.train_steps}")

    def _integer_times(self, n: int) -> list[int]:
        """The integer times of n steps, falling, as in diffusers' schedulers of this family."""
        config, steps = self.config, self.train_steps
        self._check_steps(n)
        last = steps
        dpm = self.family == "dpm"
        if dpm and math.isfinite(config.lambda_min_clipped):
            clock = (self.process.logsnr((torch.arange(steps) + 1.0) / steps) / 2).flip(0)
            last = steps - int(torch.searchsorted(clock, config.lambda_min_clipped))
        rising: Any
        if config.timestep_spacing == "linspace":
            points = np.linspace(0, last - 1, n + 1)[1:] if dpm else np.linspace(0, last - 1, n)
            rising = points.round()
        elif config.timestep_spacing == "leading":
            rising = (np.arange(n + 1) * (last // (n + 1)))[1:] if dpm else np.arange(n) * (last // n)
            rising = rising + config.steps_offset
            _warn_of_a_late_start(rising[-1], last, n)
        else:
            rising = np.sort(np.arange(last, 0, -steps / n, dtype=float).round() - 1)
        return [int(k) for k in dict.fromkeys(rising[::-1].clip(0, steps - 1).tolist())]


def _warn_of_a_late_start(first: int, last: int, n: int) -> None:
    """Leading steps have integer length: 250 steps of length 1000 // 251 = 3 leave the noisiest quarter out."""
    if first < 0.9 * last and first < last - 1 - 2 * last / (n + 1):
        LOG.warning(
            "timestep_spacing 'leading' begins %d steps at the time %d of %d, with noise that is not all noise; "
            "take 'linspace' or 'trailing', or fewer steps",
            *(n, first, last),
        )


def _diffusers_table(config: Any) -> Any:
    """A scheduler of diffusers with these betas, so that diffusers itself makes the table."""
    named = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    keys = {name: config[name] for name in (*named, "rescale_betas_zero_snr")}
    if config.get("snr_shift_scale") is None:
        return diffusers.DDIMScheduler(**keys)
    return diffusers.CogVideoXDDIMScheduler(**keys, snr_shift_scale=config.snr_shift_scale)
