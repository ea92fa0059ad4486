"""The times of a scheduler whose model was trained on a table of betas."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import diffusers
import numpy as np
import torch
from torch import Tensor

from ..denoiser.parameterise import Output
from ..process import Gaussian, Table
from .sigmas import chosen_spread

SAYS: dict[str, Output] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SPACINGS = ("linspace", "leading", "trailing")
LOG = logging.getLogger(__name__)


class Schedule(Protocol):
    """What a configuration says of time. process : how its model's data become noise. output : what its model says.
    steps : how many steps the model was trained with."""

    process: Gaussian
    output: Output
    steps: int

    def places(
        self, n: int | None, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None, mu: float | None
    ) -> tuple[list[float], float]:
        """The times of the steps, falling, and the time at which the last of them ends."""
        ...

    def told(self, times: Sequence[float]) -> Tensor:
        """What the model is told at these times."""
        ...

    def times(self, told: Tensor) -> Tensor:
        """The time of what a model is told."""
        ...

    def whole(self) -> Tensor:
        """What the model was told in training, from noise to clean."""
        ...

    def levels(self, times: Sequence[float]) -> Tensor:
        """The noise at these times as diffusers' `sigmas` have it."""
        ...


class Betas:
    """The times of a table of betas: integer times, or noise levels that lie as diffusers' use_..._sigmas say.

    like : whose integer times for n steps, those of DDIM (n points) or of diffusers' DPM-Solver (n + 1 with the end).
    """

    def __init__(self, config: Any, like: str):
        self.known = _table(config)
        self.table = Table(self.known.alphas_cumprod)
        self.process: Gaussian = self.table
        self.output = SAYS[config.prediction_type]
        self.steps = self.table.steps
        self.config, self.like = config, like
        self.spread = chosen_spread(config)
        self._between = False
        if config.timestep_spacing not in SPACINGS:
            raise ValueError(
                f"timestep_spacing {config.timestep_spacing!r} was asked for; there are {', '.join(SPACINGS)}"
            )
        limits = [name for name in ("sigma_min", "sigma_max") if config.get(name) is not None]
        if limits and self.spread is None:
            raise ValueError(
                f"{' and '.join(limits)} would change nothing: they are the ends of use_karras_sigmas, "
                "use_exponential_sigmas or use_beta_sigmas, of which none was asked for"
            )

    def places(
        self, n: int | None, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None, mu: float | None
    ) -> tuple[list[float], float]:
        if mu is not None:
            raise ValueError(f"mu = {mu} shifts the times of flow matching; a table of betas has none")
        self._between = self.spread is not None or sigmas is not None
        # 0 is clean, 1 / steps the level of the first training step
        end = 0.0 if self.config.final_sigmas_type == "zero" else 1 / self.steps
        if sigmas is not None:
            return self._at(falling([float(each) for each in sigmas])), end
        if timesteps is not None:
            if self.spread is not None:
                raise ValueError("timesteps were given, and use_..._sigmas choose them too: switch the latter off")
            return self._checked([int(k) for k in timesteps]), end
        if self.spread is None:
            return self._checked(self._spaced(int(n or 0))), end
        if not 1 <= int(n or 0) <= self.steps:
            raise ValueError(f"{n} inference steps were asked for; the model was trained with {self.steps}")
        high, low = float(self.table.ratio[-1]), float(self.table.ratio[1])
        ends = [self.config.get(name) for name in ("sigma_max", "sigma_min")]
        high, low = (own if own is not None else known for own, known in zip(ends, (high, low), strict=True))
        return self._at(self.spread(high, low, int(n or 0)).tolist()), end

    def told(self, times: Sequence[float]) -> Tensor:
        if not self._between:
            return torch.tensor([round(t * self.steps) - 1 for t in times], dtype=torch.int64)
        # diffusers' own reading of a level between two integer times: on the line in log(sigma / alpha)
        logs = self.table.ratio[1:].log().numpy()
        asked = -np.array([float(self.process.logsnr(t)) for t in times]) / 2
        return torch.from_numpy(np.interp(asked, logs, np.arange(self.steps)).round()).long()

    def times(self, told: Tensor) -> Tensor:
        return (told.double() + 1) / self.steps

    def whole(self) -> Tensor:
        return torch.arange(self.steps).flip(0)

    def levels(self, times: Sequence[float]) -> Tensor:
        t = torch.tensor(times, dtype=torch.float64)
        return torch.where(t > 0, (-self.process.logsnr(t) / 2).exp(), 0.0).float()

    def _at(self, ratios: list[float]) -> list[float]:
        """The times of these values of sigma / alpha."""
        most = float(self.table.ratio[-1])
        if not ratios or ratios[0] > most * (1 + 1e-4):
            raise ValueError(f"noise levels sigma / alpha fall, from {most:.4g} at most; found {ratios[:5]} ...")
        ratio = torch.tensor(ratios, dtype=torch.float64).clamp(max=most)
        found: list[float] = self.process.time(-2 * ratio.log()).tolist()
        # on an integer time to the last digit
        near = [round(t * self.steps) for t in found]
        return [k / self.steps if abs(t * self.steps - k) < 1e-6 else t for t, k in zip(found, near, strict=True)]

    def _checked(self, places: list[int]) -> list[float]:
        if not places or not _falls(places) or places[0] >= self.steps or places[-1] < 0:
            raise ValueError(f"integer times fall, from {self.steps - 1} to 0 at most; found {places[:5]} ...")
        return [(k + 1) / self.steps for k in places]

    def _spaced(self, n: int) -> list[int]:
        """The integer times of n steps, falling, as diffusers' schedulers of this family have them."""
        config, steps = self.config, self.steps
        if not 1 <= n <= steps:
            raise ValueError(f"{n} inference steps were asked for; the model was trained with {steps}")
        last = steps
        dpm = self.like == "dpm"
        if dpm and math.isfinite(config.lambda_min_clipped):
            clock = (self.process.logsnr((torch.arange(steps) + 1.0) / steps) / 2).flip(0)
            last = steps - int(torch.searchsorted(clock, config.lambda_min_clipped))
        found: Any
        if config.timestep_spacing == "linspace":
            points = np.linspace(0, last - 1, n + 1)[1:] if dpm else np.linspace(0, last - 1, n)
            found = points.round()
        elif config.timestep_spacing == "leading":
            found = (np.arange(n + 1) * (last // (n + 1)))[1:] if dpm else np.arange(n) * (last // n)
            found = found + config.steps_offset
            _warn_of_a_late_start(found[-1], last, n)
        else:
            found = np.sort(np.arange(last, 0, -steps / n, dtype=float).round() - 1)
        return [int(k) for k in dict.fromkeys(found[::-1].clip(0, steps - 1).tolist())]


def _warn_of_a_late_start(first: int, last: int, n: int) -> None:
    """Leading steps are whole numbers: of 1000 // 251 = 3 times 250 the noisiest quarter is never seen."""
    if first < 0.9 * last and first < last - 1 - 2 * last / (n + 1):
        LOG.warning(
            "timestep_spacing 'leading' begins %d steps at the time %d of %d, with noise that is not all noise; "
            "take 'linspace' or 'trailing', or fewer steps",
            *(n, first, last),
        )


def _table(config: Any) -> Any:
    """diffusers' own reading of the keys that make a table."""
    named = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    keys = {name: config[name] for name in (*named, "rescale_betas_zero_snr")}
    if config.get("snr_shift_scale") is None:
        return diffusers.DDIMScheduler(**keys)
    return diffusers.CogVideoXDDIMScheduler(**keys, snr_shift_scale=config.snr_shift_scale)


def _falls(values: Sequence[float]) -> bool:
    return all(a > b for a, b in pairwise(values))


def falling(sigmas: list[float]) -> list[float]:
    """Without a 0 at the end, which is the end of the last step. Raises ValueError where they do not fall."""
    found = sigmas[:-1] if len(sigmas) > 1 and sigmas[-1] == 0 else sigmas
    if not found or not _falls(found) or found[-1] <= 0:
        raise ValueError(f"sigmas fall and stay above 0, but for the last; found {sigmas[:5]} ...")
    return found
