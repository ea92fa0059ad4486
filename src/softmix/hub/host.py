"""Softmix samplers as diffusers schedulers, one model evaluation a `step`.

A sampler is a coroutine that asks what is believed of x0; a scheduler is told. Put together: `set_timesteps` lets the
sampler run dry to hear which times it will ask for, and each `step` turns the model's output into the answer that
the sampler waits for. Nothing of a sampler is written again here.
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
from .configured import Configured
from .hosted import NEAR, Heard, Hosted, Nothing, heard, no_mean, steps_of, waits
from .spacing import SAYS as SAYS


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


class SoftmixScheduler(Configured):
    """A softmix sampler behind the interface of diffusers' schedulers.

        pipe.scheduler = softmix.hub.EVODiffScheduler.from_config(pipe.scheduler.config)

    The configuration has the keys of diffusers' own and their meaning. What is not given is as in diffusers' scheduler
    of the same family: `timestep_spacing` "linspace" for what is like DPM-Solver, "leading" for what is like DDIM;
    `final_sigmas_type` "zero", but for what is like DDIM and has set_alpha_to_one=False. Only `clip_sample` is off:
    clipping x0 makes the steps that remember earlier ones wrong.

    shift, use_flow_sigmas : the model was trained by flow matching, with times as FlowMatchEuler's or as UniPC's (see
    `Flows`); base_shift to max_image_seq_len are read by pipelines. snr_shift_scale : CogVideoX's table.
    options : keywords of the sampler, for example {"order": 3} for unipc.
    """

    _known: tuple[tuple[list[float], float], Heard] | None = None

    def _for_steps(self, n: int, clean: bool) -> Sampler:
        """The sampler for n steps, the last of which ends at t = 0 (`clean`) or before."""
        return self.chosen

    def _nothing(self) -> Nothing:
        """What leaves nothing to be remembered."""
        return no_mean(self.process)

    def _items(self) -> tuple[int, ...]:
        """A shape of items that the sampler can be tried on."""
        return (1,)

    def _reset(self) -> None:
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._forget()

    def _forget(self) -> None:
        self._run: Hosted | None = None
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
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """The times of `num_inference_steps` steps, or these; everything of a run before is forgotten.

        `timesteps` then has one entry for each evaluation of the model: a sampler that asks twice a step makes it twice
        as long. timesteps : what the model is told at each step, or, as they were found here, at each evaluation.
        sigmas : noise levels, sigma / alpha or flow matching's t before its shift; a 0 at the end may be there or not.
        mu : the dynamic shift of flow matching.
        """
        given = [each for each in (timesteps, sigmas) if each is not None]
        count = len(given[0]) if given else None
        if len(given) == 2 or (not given and num_inference_steps is None):
            raise ValueError("give either num_inference_steps or timesteps or sigmas")
        if given and num_inference_steps not in (None, count) and not (sigmas is not None and sigmas[-1] == 0):
            raise ValueError(f"{count} times were given for {num_inference_steps} steps: give one of them")
        known = self._as_found(timesteps, device)
        if not known:
            self._plan(*self.schedule.places(num_inference_steps, timesteps, sigmas, mu), device)
        self._reset()

    def _plan(self, times: list[float], end: float, device: Any) -> None:
        self._still = times[-1] <= end
        self._grid = torch.tensor(times + ([] if self._still else [end]), dtype=torch.float64)
        self._active = self._for_steps(len(times), end == 0)
        # pipelines set the same times for every image
        if self._known is None or self._known[0] != (times, end):
            self._known = (times, end), self._listen(self._grid)
        self._heard = self._known[1]
        self._asked = self._heard.times + ([end] if self._still else [])
        self.timesteps = self.schedule.told(self._asked).to(device)
        self.sigmas = self.schedule.levels([*self._asked, end])
        self.num_inference_steps = len(times)

    def _listen(self, grid: Tensor) -> Heard:
        if len(grid) < 2:
            return Heard([], [])
        return heard(self._active, self.process, grid, self._nothing(), self._items())

    def _as_found(self, told: Sequence[float] | None, device: Any) -> bool:
        """Plans the steps whose evaluations these are, all of them, if there are such."""
        if told is None or len(told) < 2:
            return False
        asked = self.schedule.times(torch.as_tensor([float(k) for k in told])).tolist()
        counts = traits(self.chosen).evaluations
        for n in range(1, len(told)):
            if len(told) not in (counts(n), counts(n + 1) - 1):
                continue
            self._active = self.chosen
            found = steps_of(
                asked, n, lambda times: self._listen(torch.tensor([*times, 0.0], dtype=torch.float64)).times
            )
            if found is not None:
                places = self.schedule.told(found).tolist()
                self._plan(*self.schedule.places(None, places, None, None), device)
                if self.timesteps.tolist() == [float(k) for k in told]:
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
        """x at the next time of `timesteps`, given what the model says at `timestep`.

        A sample that is not what the last step gave (a pipeline or a callback has changed it) is gone on from with all
        that the sampler remembers, see `Hosted`. One starts in the middle as from noise; a question for which no
        evaluation will come, since its step began before, is answered by the belief before it.
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
        found = x if ends else self._advanced(x, x0, sample, at, generator)
        self._step_index += 1
        # what is handed out may be changed in place: the sampler's own x and the one to compare with are others
        previous = found.to(sample.dtype, copy=True)
        self._last = previous.clone()
        return SoftmixSchedulerOutput(previous, x0) if return_dict else (previous, x0)

    def _advanced(self, x: Tensor, x0: Tensor, sample: Tensor, at: int, generator: Any) -> Tensor:
        if self._run is None or self._run.ended or self._last is None:
            self._run = self._begun(x, at, Drawn(generator, sample.device))
            if self._run is None:
                return x
        elif not torch.equal(sample, self._last):
            self._run.move(x - self._last.to(x))
        return self._run.answer(x0)

    def _begun(self, x: Tensor, at: int, rng: Drawn) -> Hosted | None:
        """A run from the time of that evaluation, None where a step begins with the next one, or none does."""
        grid, plan = self._grid, self._heard
        if at:
            grid = self._left(at)
            plan = self._listen(grid)
        ahead = self._asked[at : len(self._asked) - self._still]
        if len(grid) < 2 or waits(plan, ahead):
            return None
        return Hosted(self._active, self.process, x, grid, rng, self._nothing(), plan, ahead)

    def _left(self, at: int) -> Tensor:
        """The grid from the time of that evaluation on. In the middle of a step, the times of its other evaluations are
        times of steps too."""
        here = self._asked[at]
        later = self._grid[self._grid < here - NEAR]
        if bool((self._grid - here).abs().min() < NEAR):
            return torch.cat([later.new_tensor([here]), later])
        inner = [t for t in self._asked[at:] if not len(later) or t > float(later[0]) + NEAR]
        return torch.cat([later.new_tensor(list(dict.fromkeys(inner))), later])

    def _believed(self, said: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """What is believed of x0; of a model that says a variance too, the first half of its channels counts."""
        if said.shape[1] == 2 * x.shape[1]:
            said = said.chunk(2, 1)[0]
        if self.config.prediction_type == "epsilon" and self.process.alpha(t) == 0:
            raise ValueError(
                "an estimate of the noise says nothing of the image where there is no signal (zero terminal SNR): such "
                "models say v_prediction, or begin later"
            )
        a, b = affine(self.schedule.output, self.process.alpha(t), self.process.sigma(t))
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
        told = torch.as_tensor(timesteps).to(like.device).flatten()
        times = self.schedule.times(told)
        if self._begin_index is not None or self._step_index is not None:
            # of a run the exact time, which the model is told rounded
            known = self.timesteps.to(told.device)
            for i, each in enumerate(told):
                hits = (known == each).nonzero()[:, 0]
                if len(hits):
                    times[i] = self._asked[int(hits[0])]
        # in half precision the first levels have no noise
        alpha, sigma = (part(times).to(like) for part in (self.process.alpha, self.process.sigma))
        shape = (-1, *[1] * (like.ndim - 1))
        return alpha.reshape(shape), sigma.reshape(shape)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x0 + sigma z at these timesteps, [1] or [B]."""
        alpha, sigma = self._levels(original_samples, timesteps)
        return alpha * original_samples + sigma * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise`, as pipelines of flow matching call it."""
        return self.add_noise(sample, noise, timestep)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha z - sigma x0: what a model of v_prediction is trained on."""
        alpha, sigma = self._levels(sample, timesteps)
        return alpha * noise - sigma * sample
