"""Softmix models as folders that diffusers loads."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
from diffusers import (
    ConfigMixin,
    ConsistencyModelPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DiffusionPipeline,
    ImagePipelineOutput,
    ModelMixin,
)
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from ..config import to_json
from ..posterior import HasMean, need
from ..process import VP, Gaussian, Table, unframed
from ..rng import Rng
from ..sampler import BY_NAME, sample
from ..train import Model, Run, build
from ..train.record import run_of
from .reading import HubError, reading

TRAIN_STEPS = 1000


class SoftmixModel(ModelMixin, ConfigMixin):
    """A softmix network in the place of a UNet2DModel: it says v at the integer times of a discrete chain.

    `denoiser` is the denoiser itself, with all that it believes; the call gives the mean alone. In half precision its
    weights stay in float32 and its products are rounded (autocast).
    """

    _mixed: torch.dtype | None = None

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Any:
        """As everywhere in diffusers, but built at once: soft heads look at their net while they are made."""
        mixed = options.pop("torch_dtype", options.pop("dtype", None))
        found = super().from_pretrained(*args, **(options | {"low_cpu_mem_usage": False}))
        model = found[0] if isinstance(found, tuple) else found
        if mixed is not None:
            model.to(mixed)
        return found

    def to(self, *args: Any, **options: Any) -> Any:
        """A dtype of 16 bits is for `precision`; the weights stay."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **options)
        if dtype is not None:
            self._mixed = dtype if dtype in (torch.float16, torch.bfloat16) else None
        wanted = {"device": device, "dtype": None if self._mixed else dtype}
        wanted = {name: each for name, each in wanted.items() if each is not None}
        return super().to(**wanted) if wanted else self

    def precision(self, device: torch.device) -> torch.autocast:
        """What its network is to be run in."""
        return torch.autocast(device.type, self._mixed or torch.bfloat16, enabled=self._mixed is not None)

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int,
        out_channels: int,
        run: dict[str, Any],
        step: int,
        num_class_embeds: int | None = None,
    ):
        super().__init__()
        self._run = run_of(run)
        self.network = build(self._run)["model"]
        self.table = Table.of_betas(betas_of(unframed(self._run.config.task.process, "a folder for diffusers")))

    @property
    def denoiser(self) -> Any:
        """The softmix denoiser."""
        return self._run.config.task.result(self.network, self._run.facts, self.config.step)

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """v = alpha z - sigma x0 of the posterior's mean at integer time `timestep`. class_labels [B]: a number that
        is no class, or None, is "not told"."""
        t = ((torch.as_tensor(timestep, dtype=torch.float64) + 1) / TRAIN_STEPS).to(sample.device)
        if class_labels is not None:
            classes = self.config.num_class_embeds or 0
            class_labels = torch.where((class_labels >= 0) & (class_labels < classes), class_labels, -1)
        x = sample.float()
        with self.precision(x.device):
            x0 = need(self.denoiser(x, t, class_labels), HasMean, "an exported model").mean.float()
        shape = (-1, *[1] * (x.ndim - 1))
        alpha, sigma = (part(t).to(x).reshape(shape) for part in (self.table.alpha, self.table.sigma))
        said = ((alpha * x - x0) / sigma).to(sample.dtype)
        return UNet2DOutput(sample=said) if return_dict else (said,)


class SoftmixPipeline(DiffusionPipeline):
    """Pictures of an exported softmix model by a softmix sampler, draws and all.

        pipe = SoftmixPipeline.from_pretrained(folder)
        pipe(batch_size=16, num_inference_steps=4).images

    `DiffusionPipeline.from_pretrained` finds it by name once softmix.hub is imported.
    """

    def __init__(self, unet: SoftmixModel, scheduler: Any):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 4,
        sampler: str | None = None,
        seed: int = 0,
        class_labels: Tensor | list[int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Image k depends on the seed and k alone; a generator makes the seed, and a list of them, one an image, each
        image's own. sampler : a name of softmix's; by default the one that suits the model. Another scheduler in the
        place of the exported one takes the steps itself, from means. class_labels : [n]. output_type : "pil", "np"
        [n, H, W, C] in [0, 1], or "pt" [n, C, H, W] in [-1, 1]."""
        if sampler is not None and sampler not in BY_NAME:
            raise HubError(f"the sampler {sampler!r} was asked for; there are {', '.join(BY_NAME)}")
        classes = self.unet.config.num_class_embeds or 0
        labels = torch.as_tensor(class_labels) if class_labels is not None else None
        if labels is not None and not (len(labels) == batch_size and (labels < classes).all()):
            raise HubError(f"{batch_size} labels below {classes} were expected; found {labels.tolist()[:8]}")
        draw = self._drawn_by(sampler)
        with self.unet.precision(self.device):
            if isinstance(generator, list):
                if len(generator) != batch_size:
                    raise HubError(f"{len(generator)} generators were given for {batch_size} images")
                x = torch.cat(
                    [
                        draw(1, num_inference_steps, _seed(each), labels if labels is None else labels[k : k + 1])
                        for k, each in enumerate(generator)
                    ]
                )
            else:
                x = draw(batch_size, num_inference_steps, seed if generator is None else _seed(generator), labels)
        images: Any = x.float()
        if output_type != "pt":
            images = (images / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).numpy()
            images = self.numpy_to_pil(images) if output_type == "pil" else images
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _drawn_by(self, sampler: str | None) -> Draw:
        """n, steps, seed, labels -> [n, C, H, W], by a sampler of softmix or by the scheduler that was put in."""
        if _keys(self.scheduler) == _keys(scheduler_of(self.unet.network.process)):
            denoiser = self.unet.denoiser
            chosen = self.unet._run.config.task.suited(denoiser) if sampler is None else BY_NAME[sampler]
            return lambda n, steps, seed, labels: sample(
                denoiser, n, steps, sampler=chosen, seed=seed, cond=labels, device=self.device
            )
        if sampler is not None:
            raise HubError(
                f"the sampler {sampler!r} was asked for, and {type(self.scheduler).__name__} is in the place of the "
                "exported scheduler: leave one of them away"
            )
        if not isinstance(reading(self.scheduler).process, Table):
            raise HubError(
                f"{type(self.scheduler).__name__} is for another process: this model was trained on betas. Make one "
                "from_config(pipe.scheduler.config)"
            )
        return self._stepped

    def _stepped(self, n: int, steps: int, seed: int, labels: Tensor | None) -> Tensor:
        """diffusers' own loop. The noise of item k at its start is the seed's; later noise is one generator's."""
        scheduler, config = self.scheduler, self.unet.config
        shape = (n, config.in_channels, config.sample_size, config.sample_size)
        scheduler.set_timesteps(steps, device=self.device)
        x = Rng(seed, range(n), "sample", self.device).child("prior").normal(shape) * scheduler.init_noise_sigma
        more = {}
        if "generator" in inspect.signature(scheduler.step).parameters:
            more["generator"] = torch.Generator(self.device).manual_seed(seed)
        told = labels.to(self.device) if labels is not None else None
        for t in self.progress_bar(scheduler.timesteps):
            said = self.unet(scheduler.scale_model_input(x, t), t, told).sample
            x = scheduler.step(said, t, x, **more).prev_sample
        return x


Draw = Callable[[int, int, int, Tensor | None], Tensor]


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (1,), generator=generator, device=generator.device))


def _keys(scheduler: Any) -> tuple[str, dict[str, Any]]:
    """What a scheduler is: its class, and its configuration but for who wrote it."""
    kept = {name: each for name, each in scheduler.config.items() if not name.startswith("_")}
    return type(scheduler).__name__, kept


# folders name the room, whatever its files are called
SoftmixModel.__module__ = SoftmixPipeline.__module__ = "softmix.hub"
# DiffusionPipeline.from_pretrained looks a pipeline's name up here
diffusers.SoftmixPipeline = SoftmixPipeline


def betas_of(process: Gaussian, steps: int = TRAIN_STEPS) -> Tensor:
    """The betas, float32 [steps], of a chain whose integer time k stands at t = (k + 1) / steps."""
    kept = process.alpha(torch.arange(steps + 1, dtype=torch.float64) / steps) ** 2
    return (1 - kept[1:] / kept[:-1]).float()


def scheduler_of(process: Gaussian) -> DDIMScheduler:
    """The scheduler that a folder is written with."""
    return DDIMScheduler(
        trained_betas=betas_of(process).tolist(),
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )


def export(model: Model, folder: str | Path) -> Path:
    """Writes a folder that `DiffusionPipeline.from_pretrained(folder)` loads, with softmix and diffusers installed.

    A model that knows a mean alone becomes a DDPMPipeline (with classes a ConsistencyModelPipeline, the one that
    hands labels on) with a DDIMScheduler, which any other scheduler may replace. A soft mixture becomes a
    `SoftmixPipeline`, as what diffusers passes around has no place for draws: import softmix.hub before loading.
    Raises HubError for points, and for processes that no table of betas can say.
    """
    shape, process = model.facts.shape, model.process
    if len(shape) != 3 or shape[1] != shape[2]:
        raise HubError(f"pipelines show square images; this model makes items of shape {list(shape)}")
    if not isinstance(process, VP):
        raise HubError(f"a folder for diffusers holds betas, which {process} has not: train with VP")
    config = model.config
    classes = model.facts.cond_spec.classes
    run = cast(dict[str, Any], to_json(Run(config, model.facts)))
    unet = SoftmixModel(shape[1], shape[0], shape[0], run, model.step, classes or None)
    unet.network.load_state_dict(model.network.state_dict())
    scheduler = scheduler_of(process)
    soft = type(config.task.head).__name__ not in ("PointHead", "NormalHead")
    kind: Any = SoftmixPipeline if soft else ConsistencyModelPipeline if classes else DDPMPipeline
    kind(unet.eval(), scheduler).save_pretrained(str(folder))
    return Path(folder)
