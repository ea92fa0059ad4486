"""`SoftmixScheduler`: a softmix sampler as a diffusers scheduler, one model evaluation a `step`.

A softmix sampler is a coroutine that asks for the posterior of x0. A diffusers scheduler is given one model output at a
time. `set_timesteps` finds the times of the sampler's evaluations by a trial run. `step` turns a model output into the
mean that the sampler waits for. The samplers themselves stay in the room `sampler`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..denoiser.parameterise import affine
from ..sampler import Sampler, traits
from .sampler_run import (
    TIME_TOLERANCE,
    EvaluationPlan,
    NeutralMean,
    SamplerRun,
    neutral_for_means,
    plan_evaluations,
    starts_inside_a_step,
    step_times_among,
)
from .scheduler_config import ConfiguredScheduler


@dataclass
class SoftmixSchedulerOutput(BaseOutput):
    """The result of `step`.

    prev_sample : x at the next time.
    pred_original_sample : the mean of x0.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None


class GeneratorNoise:
    """An Rng's `normal` from torch generators: one for the batch, one for each item, or torch's global one (None)."""

    def __init__(self, generator: torch.Generator | list[torch.Generator] | None, device: torch.device):
        self.generator, self.device = generator, device

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal noise."""
        return randn_tensor(tuple(shape), generator=self.generator, device=self.device, dtype=dtype)


class SoftmixScheduler(ConfiguredScheduler):
    """A softmix sampler with the interface of diffusers' schedulers. Each sampler has a subclass of its own.

        pipe.scheduler = softmix.hub.EVODiffScheduler.from_config(pipe.scheduler.config)

    The configuration has the keys of diffusers' schedulers, with their meaning. Defaults are those of diffusers'
    scheduler of the same family: `timestep_spacing` is "linspace" for DPM-Solver and its like, "leading" for DDIM and
    its like; `final_sigmas_type` is "zero", except for DDIM and its like with set_alpha_to_one=False. Only
    `clip_sample` is off: clipping x0 makes multistep methods wrong.

    shift, use_flow_sigmas : for a model trained by flow matching, with times as FlowMatchEuler's or as UniPC's (see
        `FlowTimesteps`). Pipelines read base_shift to max_image_seq_len.
    snr_shift_scale : the table of CogVideoX.
    options : keywords of the sampler, for example {"order": 3} for unipc.
    """

    _planned: tuple[tuple[list[float], float], EvaluationPlan] | None = None

    def _sampler_for(self, n: int, clean: bool) -> Sampler:
        """The sampler for n steps. clean : whether the last step ends at t = 0."""
        return self.sampler_function

    def _neutral_mean(self) -> NeutralMean:
        """The mean for which the sampler stores zero in its history."""
        return neutral_for_means(self.process)

    def _trial_shape(self) -> tuple[int, ...]:
        """The shape of one item for a trial run of the sampler."""
        return (1,)

    def _reset(self) -> None:
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._drop_run()

    def _drop_run(self) -> None:
        self._run: SamplerRun | None = None
        self._last: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        # a coroutine can be neither copied nor pickled: a copy starts a new run at its current step
        return self.__dict__ | {"_run": None, "_last": None}

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    @property
    def step_index(self) -> int | None:
        """The number of steps taken, None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The index in `timesteps` at which the pipeline begins."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Set the index in `timesteps` at which the pipeline begins (img2img)."""
        self._begin_index = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | None = None) -> Tensor:
        """x unchanged: the state of softmix is the model's own input."""
        return sample

    # times

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Choose the times of the steps, and forget the run before.

        Afterwards `timesteps` has one entry for each model evaluation. A sampler with two evaluations a step makes it
        twice as long.

        num_inference_steps : the number of steps.
        device : the device of `timesteps`.
        timesteps : the model timestep of each step, or those of each evaluation, as `timesteps` itself holds them.
        sigmas : noise levels, sigma / alpha or flow matching's t before its shift, with or without a final 0.
        mu : the dynamic shift of flow matching.
        """
        given = [each for each in (timesteps, sigmas) if each is not None]
        count = len(given[0]) if given else None
        if len(given) == 2 or (not given and num_inference_steps is None):
            raise ValueError("give either num_inference_steps or timesteps or sigmas")
        if given and num_inference_steps not in (None, count) and not (sigmas is not None and sigmas[-1] == 0):
            raise ValueError(f"{count} times were given for {num_inference_steps} steps: give one of them")
        if not self._plan_from_evaluations(timesteps, device):
            self._plan(*self.schedule.step_times(num_inference_steps, timesteps, sigmas, mu), device)
        self._reset()

    def _plan(self, times: list[float], end: float, device: Any) -> None:
        """Plan steps at these times; the last one ends at `end`. The last time may be `end`: then no step follows."""
        self._stops_at_last = times[-1] <= end
        self._grid = torch.tensor(times + ([] if self._stops_at_last else [end]), dtype=torch.float64)
        self._active = self._sampler_for(len(times), end == 0)
        # pipelines set the same times for each image
        if self._planned is None or self._planned[0] != (times, end):
            self._planned = (times, end), self._plan_on(self._grid)
        self._evaluations = self._planned[1]
        self._evaluation_times = self._evaluations.times + ([end] if self._stops_at_last else [])
        self.timesteps = self.schedule.model_timesteps(self._evaluation_times).to(device)
        self.sigmas = self.schedule.sigmas([*self._evaluation_times, end])
        self.num_inference_steps = len(times)

    def _plan_on(self, grid: Tensor) -> EvaluationPlan:
        if len(grid) < 2:
            return EvaluationPlan([], [])
        return plan_evaluations(self._active, self.process, grid, self._neutral_mean(), self._trial_shape())

    def _plan_from_evaluations(self, timesteps: Sequence[float] | None, device: Any) -> bool:
        """Plan the steps that have exactly these evaluations. Returns False if there are none."""
        if timesteps is None or len(timesteps) < 2:
            return False
        evaluations = self.schedule.times_of(torch.as_tensor([float(k) for k in timesteps])).tolist()
        counts = traits(self.sampler_function).evaluations
        for n in range(1, len(timesteps)):
            if len(timesteps) not in (counts(n), counts(n + 1) - 1):
                continue
            self._active = self.sampler_function
            times = step_times_among(
                evaluations, n, lambda times: self._plan_on(torch.tensor([*times, 0.0], dtype=torch.float64)).times
            )
            if times is not None:
                steps = self.schedule.model_timesteps(times).tolist()
                self._plan(*self.schedule.step_times(None, steps, None, None), device)
                if self.timesteps.tolist() == [float(k) for k in timesteps]:
                    return True
        return False

    # steps

    def step(
        self,
        model_output: Tensor,
        timestep: int | float | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> SoftmixSchedulerOutput | tuple[Tensor, Tensor]:
        """x at the next entry of `timesteps`.

        model_output : the output at `timestep`, [B, C, ...]; with a variance, 2 C channels.
        timestep : the model timestep of the output.
        sample : x_t. A pipeline or a callback may have changed it since the last step: the sampler goes on from it
            and keeps its history, see `SamplerRun`.
        generator : the source of fresh noise.

        A run that starts in the middle starts there as from noise. An evaluation of a step that began before the start
        will not come; the mean before it takes its place.
        """
        if self.num_inference_steps is None:
            raise ValueError(
                "Number of inference steps is 'None', you need to run 'set_timesteps' after creating the scheduler"
            )
        if self._step_index is None:
            self._step_index = self._index(timestep) if self._begin_index is None else self._begin_index
        at = min(self._step_index, len(self._evaluation_times) - 1)
        t = torch.tensor(self._evaluation_times[at], dtype=torch.float64)
        x = sample.float() if sample.dtype in (torch.float16, torch.bfloat16) else sample
        x0 = self._predict_x0(model_output.to(x.dtype), x, t)
        ends = self._stops_at_last and at == len(self._evaluation_times) - 1
        following = x if ends else self._advance(x, x0, sample, at, generator)
        self._step_index += 1
        # a pipeline may change the result in place, so the sampler's own x and the one to compare with are copies
        previous = following.to(sample.dtype, copy=True)
        self._last = previous.clone()
        return SoftmixSchedulerOutput(previous, x0) if return_dict else (previous, x0)

    def _advance(self, x: Tensor, x0: Tensor, sample: Tensor, at: int, generator: Any) -> Tensor:
        if self._run is None or self._run.ended or self._last is None:
            self._run = self._start(x, at, GeneratorNoise(generator, sample.device))
            if self._run is None:
                return x
        elif not torch.equal(sample, self._last):
            self._run.shift(x - self._last.to(x))
        return self._run.advance(x0)

    def _start(self, x: Tensor, at: int, rng: GeneratorNoise) -> SamplerRun | None:
        """A run from evaluation number `at`, None if the next evaluation begins a step, or no step is left."""
        grid, plan = self._grid, self._evaluations
        if at:
            grid = self._remaining_grid(at)
            plan = self._plan_on(grid)
        coming = self._evaluation_times[at : len(self._evaluation_times) - self._stops_at_last]
        if len(grid) < 2 or starts_inside_a_step(plan, coming):
            return None
        return SamplerRun(self._active, self.process, x, grid, rng, self._neutral_mean(), plan, coming)

    def _remaining_grid(self, at: int) -> Tensor:
        """The grid from evaluation number `at` on. Inside a step, its other evaluations become times of steps too."""
        here = self._evaluation_times[at]
        later = self._grid[self._grid < here - TIME_TOLERANCE]
        if bool((self._grid - here).abs().min() < TIME_TOLERANCE):
            return torch.cat([later.new_tensor([here]), later])
        inner = [t for t in self._evaluation_times[at:] if not len(later) or t > float(later[0]) + TIME_TOLERANCE]
        return torch.cat([later.new_tensor(list(dict.fromkeys(inner))), later])

    def _predict_x0(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The mean of x0. Of 2 C channels the first half is the prediction, the second half a variance."""
        if output.shape[1] == 2 * x.shape[1]:
            output = output.chunk(2, 1)[0]
        if self.config.prediction_type == "epsilon" and self.process.alpha(t) == 0:
            raise ValueError(
                "epsilon prediction cannot give the image at zero terminal SNR, where x_t has no signal: such models "
                "have prediction_type v_prediction, or begin later"
            )
        a, b = affine(self.schedule.output, self.process.alpha(t), self.process.sigma(t))
        x0 = float(a) * x + float(b) * output
        if self.config.thresholding:
            size = x0.abs().flatten(1).float().quantile(self.config.dynamic_thresholding_ratio, dim=1)
            size = size.clamp(1, self.config.sample_max_value).to(x0).reshape(-1, *[1] * (x0.ndim - 1))
            return x0.clamp(-size, size) / size
        if self.config.clip_sample:
            return x0.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        return x0

    def _index(self, timestep: int | float | Tensor) -> int:
        """The index of a timestep: of a pair the second, which begins a step; the last index for an unknown one."""
        hits = (self.timesteps == torch.as_tensor(timestep, device=self.timesteps.device)).nonzero()[:, 0].tolist()
        return (hits[1] if len(hits) > 1 else hits[0]) if hits else len(self.timesteps) - 1

    # training scripts and img2img

    def _noise_levels(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at model timesteps, in the dtype and rank of `like`."""
        steps = torch.as_tensor(timesteps).to(like.device).flatten()
        times = self.schedule.times_of(steps)
        if self._begin_index is not None or self._step_index is not None:
            # inside a run the exact time, of which the model timestep is a rounding
            known = self.timesteps.to(steps.device)
            for i, each in enumerate(steps):
                hits = (known == each).nonzero()[:, 0]
                if len(hits):
                    times[i] = self._evaluation_times[int(hits[0])]
        # computed in float64: in half precision the first levels have no noise
        alpha, sigma = (part(times).to(like) for part in (self.process.alpha, self.process.sigma))
        shape = (-1, *[1] * (like.ndim - 1))
        return alpha.reshape(shape), sigma.reshape(shape)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x0 + sigma z at model timesteps [1] or [B]."""
        alpha, sigma = self._noise_levels(original_samples, timesteps)
        return alpha * original_samples + sigma * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise` under the name that flow matching pipelines use."""
        return self.add_noise(sample, noise, timestep)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha z - sigma x0, the training target of v-prediction."""
        alpha, sigma = self._noise_levels(sample, timesteps)
        return alpha * noise - sigma * sample
