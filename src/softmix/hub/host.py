"""The room of the hub: softmix samplers as diffusers schedulers, one model evaluation a `step`.

A sampler is a coroutine that asks what is believed of x0; a scheduler is told. Put together: `set_timesteps` lets the
sampler run dry to hear which times it will ask for, and each `step` turns the model's output into the answer that
the sampler waits for. Nothing of a sampler is written again here.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import diffusers
import numpy as np
import torch
from diffusers import ConfigMixin, DDIMScheduler, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from diffusers.utils import BaseOutput
from diffusers.utils.import_utils import DummyObject
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..denoiser.parameterise import Output, affine
from ..posterior import Point, Posterior
from ..process import Table
from ..rng import Rng
from ..sampler import BY_NAME, Ask, Sampler, Statistics, traits

SAYS: dict[str, Output] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


@dataclass
class SoftmixSchedulerOutput(BaseOutput):
    """prev_sample : x at the next time. pred_original_sample : what is believed of x0."""

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None


class Drawn:
    """An Rng's `normal` from torch's generators: one for the batch, or one for each item, or torch's own."""

    def __init__(self, generator: torch.Generator | list[torch.Generator] | None, device: torch.device):
        self.generator, self.device = generator, device

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        return randn_tensor(tuple(shape), generator=self.generator, device=self.device, dtype=dtype)


class SoftmixScheduler(SchedulerMixin, ConfigMixin):
    """A softmix sampler behind the interface of diffusers' schedulers.

        pipe.scheduler = softmix.hub.EVODiffScheduler.from_config(pipe.scheduler.config)

    The configuration has the keys of diffusers' own and their meaning; what is not given is as in DDIMScheduler,
    but for `clip_sample`, which is off: clipping x0 makes the steps that remember earlier ones wrong.

    options : keywords of the sampler, for example {"order": 3} for unipc or {"form": "released"} for evodiff.
    "statistics" of dpm-solver-v3 is the path of a file that `Statistics.save` wrote.
    """

    sampler: ClassVar[str] = "ddim"
    # whose integer times for n steps: those of DDIM (n points) or of diffusers' DPM-Solver (n + 1 with the end)
    spaced_like: ClassVar[str] = "ddim"
    order = 1
    _compatibles: ClassVar[list[str]] = [
        each.name for each in KarrasDiffusionSchedulers if not isinstance(getattr(diffusers, each.name), DummyObject)
    ]

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        prediction_type: str = "epsilon",
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        set_alpha_to_one: bool = True,
        final_sigmas_type: str = "zero",
        lambda_min_clipped: float = -math.inf,
        rescale_betas_zero_snr: bool = False,
        lower_order_final: bool = True,
        use_flow_sigmas: bool = False,
        options: dict[str, Any] | None = None,
    ):
        if prediction_type not in SAYS or use_flow_sigmas:
            how = " with use_flow_sigmas" if use_flow_sigmas else ""
            raise ValueError(
                f"prediction_type {prediction_type!r}{how} was asked for; with betas go {', '.join(SAYS)}. "
                "A flow model is to be taken with softmix.hub.from_diffusers"
            )
        if timestep_spacing not in ("linspace", "leading", "trailing"):
            raise ValueError(
                f"timestep_spacing {timestep_spacing!r} was asked for; there are linspace, leading, trailing"
            )
        # diffusers' own reading of the five keys that make a table
        known = DDIMScheduler(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=trained_betas,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        )
        self.betas, self.alphas, self.alphas_cumprod = known.betas, known.alphas, known.alphas_cumprod
        self.process = Table(self.alphas_cumprod)
        self.chosen = self._chosen(dict(options or {}))
        self.timesteps = known.timesteps
        self.init_noise_sigma = 1.0
        # evaluations for each step, as pipelines count them
        self.order = round(traits(BY_NAME[self.sampler]).evaluations(1000) / 1000)
        self.num_inference_steps: int | None = None
        self._reset()

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """As everywhere in diffusers. Options of another sampler are left behind. Raises ValueError for the
        configuration of a process that is no table of betas."""
        known = dict(config or {})
        betas = {"beta_start", "beta_end", "beta_schedule", "trained_betas"}
        if not betas & {*known, *kwargs} and {"shift", "sigma_data"} & set(known):
            raise ValueError(
                "this configuration has no betas (flow matching, EDM): take the model with softmix.hub.from_diffusers"
            )
        if known.get("options") and "options" not in kwargs:
            kwargs["options"] = {name: each for name, each in known["options"].items() if name in cls._takes()} or None
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    @classmethod
    def _takes(cls) -> list[str]:
        """The options of its sampler."""
        return list(inspect.signature(BY_NAME[cls.sampler]).parameters)[4:]

    def _chosen(self, options: dict[str, Any]) -> Sampler:
        """The sampler with its options. Raises ValueError for one that it has not."""
        found = BY_NAME[self.sampler]
        takes = self._takes()
        wrong = [name for name in options if name not in takes]
        if wrong:
            raise ValueError(f"{self.sampler} has no option {', '.join(wrong)}; it has {', '.join(takes) or 'none'}")
        if isinstance(options.get("statistics"), str):
            options["statistics"] = Statistics.load(options["statistics"])
        if "settles" in takes:
            options.setdefault("settles", self.config.lower_order_final)
        return partial(found, **options) if options else found

    def _reset(self) -> None:
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._forget()

    def _forget(self) -> None:
        self._run: Generator[Ask, Posterior, Tensor] | None = None
        self._last: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        # a coroutine can be neither copied nor pickled; a copy begins anew from where it is
        return self.__dict__ | {"_run": None, "_last": None}

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    @property
    def step_index(self) -> int | None:
        """How many steps have been taken, None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Where in `timesteps` a pipeline says that it begins."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        self._begin_index = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | None = None) -> Tensor:
        """x as it is: the state is the model's own input."""
        return sample

    # times

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[int] | None = None,
    ) -> None:
        """The integer times of `num_inference_steps` steps, or these; everything of a run before is forgotten.

        `timesteps` then has one entry for each evaluation of the model: a sampler that asks twice a step makes
        it twice as long.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("give either num_inference_steps or timesteps")
        places = [int(k) for k in timesteps] if timesteps is not None else self._spaced(int(num_inference_steps or 0))
        steps = len(self.alphas_cumprod)
        if not places or sorted(set(places), reverse=True) != places or places[0] >= steps or places[-1] < 0:
            raise ValueError(f"integer times fall, from {steps - 1} to 0 at most; found {places[:5]} ...")
        # 0 is clean, 1 / steps the level of the first training step
        end = 0.0 if self.config.set_alpha_to_one and self.config.final_sigmas_type == "zero" else 1 / steps
        times = [(k + 1) / steps for k in places]
        self._still = times[-1] <= end
        self._grid = torch.tensor(times + ([] if self._still else [end]), dtype=torch.float64)
        self._asked = self._heard(self._grid) + ([end] if self._still else [])
        self.timesteps = torch.tensor([round(t * steps) - 1 for t in self._asked], dtype=torch.int64, device=device)
        self.num_inference_steps = len(places)
        self._reset()

    def _spaced(self, n: int) -> list[int]:
        """The integer times of n steps, falling, as diffusers' schedulers of this family have them."""
        config, steps = self.config, len(self.alphas_cumprod)
        if not 1 <= n <= steps:
            raise ValueError(f"{n} inference steps were asked for; the model was trained with {steps}")
        last = steps
        dpm = self.spaced_like == "dpm"
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
        else:
            found = np.sort(np.arange(last, 0, -steps / n, dtype=float).round() - 1)
        return [int(k) for k in dict.fromkeys(found[::-1].clip(0, steps - 1).tolist())]

    def _heard(self, grid: Tensor) -> list[float]:
        """The times that the sampler asks for on this grid: it is run on one number that stays 0."""
        nothing = torch.zeros(1, 1)
        run, asked = self.chosen(self.process, nothing, grid, Rng(0, 1)), []
        try:
            ask = next(run)
            while True:
                asked.append(float(ask.t))
                ask = run.send(Point(nothing))
        except StopIteration:
            return asked

    # steps

    def step(
        self,
        model_output: Tensor,
        timestep: int | float | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> SoftmixSchedulerOutput | tuple[Tensor, Tensor]:
        """x at the next time of `timesteps`, given what the model says at `timestep`.

        A sample that is not what the last step gave (a callback has changed it, or one starts in the middle) makes the
        sampler begin there, and forget what it remembered. Where it would need evaluations that `timesteps` has not,
        DDIM's step is taken.
        """
        if self.num_inference_steps is None:
            raise ValueError(
                "Number of inference steps is 'None', you need to run 'set_timesteps' after creating the scheduler"
            )
        if self._step_index is None:
            self._step_index = self._index(timestep) if self._begin_index is None else self._begin_index
        at = min(self._step_index, len(self._asked) - 1)
        t = torch.tensor(self._asked[at], dtype=torch.float64)
        x = sample.float() if sample.dtype in (torch.float16, torch.bfloat16) else sample
        x0 = self._believed(model_output.to(x.dtype), x, t)
        ends = self._still and at == len(self._asked) - 1
        found = x if ends else self._moved(x, x0, sample, at, generator)
        self._step_index += 1
        # what is handed out may be changed in place: the sampler's own x and the one to compare with are others
        previous = found.to(sample.dtype, copy=True)
        self._last = previous.clone()
        return SoftmixSchedulerOutput(previous, x0) if return_dict else (previous, x0)

    def _moved(self, x: Tensor, x0: Tensor, sample: Tensor, at: int, generator: Any) -> Tensor:
        if self._run is None or self._last is None or not torch.equal(sample, self._last):
            here = self._asked[at]
            left = self._grid[self._grid <= here + 1e-12]
            if at and self._heard(left) != self._asked[at : len(self._asked) - self._still]:
                # begun in the middle of a step, or where earlier evaluations are missed
                self._forget()
                after = self._asked[at + 1] if at + 1 < len(self._asked) else float(self._grid[-1])
                return self.process.transfer(x, x0, here, after) if after < here else x
            self._run = self.chosen(self.process, x, left, Drawn(generator, sample.device))  # type: ignore[arg-type]
            next(self._run)
        try:
            return self._run.send(Point(x0)).x
        except StopIteration as end:
            self._run = None
            return end.value

    def _believed(self, said: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """What is believed of x0; of a model that says a variance too, the first half of its channels counts."""
        if said.shape[1] == 2 * x.shape[1]:
            said = said.chunk(2, 1)[0]
        if self.config.prediction_type == "epsilon" and self.process.alpha(t) == 0:
            raise ValueError(
                "an estimate of the noise says nothing of the image where there is no signal (zero terminal SNR): such "
                "models say v_prediction, or begin later"
            )
        a, b = affine(SAYS[self.config.prediction_type], self.process.alpha(t), self.process.sigma(t))
        x0 = float(a) * x + float(b) * said
        if self.config.thresholding:
            size = x0.abs().flatten(1).float().quantile(self.config.dynamic_thresholding_ratio, dim=1)
            size = size.clamp(1, self.config.sample_max_value).to(x0).reshape(-1, *[1] * (x0.ndim - 1))
            return x0.clamp(-size, size) / size
        if self.config.clip_sample:
            return x0.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        return x0

    def _index(self, timestep: int | float | Tensor) -> int:
        """Where in `timesteps`: of a time that is there twice the second, which begins a step; of none the last."""
        hits = (self.timesteps == torch.as_tensor(timestep, device=self.timesteps.device)).nonzero()[:, 0].tolist()
        return (hits[1] if len(hits) > 1 else hits[0]) if hits else len(self.timesteps) - 1

    # training scripts and img2img

    def _levels(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.alphas_cumprod.to(like.device)[timesteps.to(like.device).flatten()]
        kept = kept.reshape(-1, *[1] * (like.ndim - 1))
        # in half precision the first levels have no noise
        return kept.sqrt().to(like), (1 - kept).sqrt().to(like)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x0 + sigma z at these integer times, [1] or [B]."""
        alpha, sigma = self._levels(original_samples, timesteps)
        return alpha * original_samples + sigma * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha z - sigma x0: what a model of v_prediction is trained on."""
        alpha, sigma = self._levels(sample, timesteps)
        return alpha * noise - sigma * sample
