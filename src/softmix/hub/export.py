"""The room of the hub: softmix models as folders that diffusers loads."""

from __future__ import annotations

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

from ..config import from_json, to_json
from ..posterior import HasMean, need
from ..process import VP, Gaussian, Table
from ..sampler import BY_NAME, sample
from ..train import Model, Run, build
from ..train.config import suited
from ..train.trainer import assembled
from .reading import HubError

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
        self._run = from_json(Run, run)
        self.network = build(self._run)
        self.table = Table.of_betas(betas_of(self.network.process))

    @property
    def denoiser(self) -> Any:
        """The softmix denoiser."""
        return assembled(self._run, self.network, self.config.step, None)

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
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Image k depends on the seed and k alone; a generator makes the seed. sampler : a name of softmix's; by
        default the one that suits the model. class_labels : [n]. output_type : "pil", "np" [n, H, W, C] in [0, 1], or
        "pt" [n, C, H, W] in [-1, 1]."""
        denoiser = self.unet.denoiser
        if sampler is not None and sampler not in BY_NAME:
            raise HubError(f"the sampler {sampler!r} was asked for; there are {', '.join(BY_NAME)}")
        chosen = suited(self.unet._run.config, denoiser) if sampler is None else BY_NAME[sampler]
        classes = self.unet.config.num_class_embeds or 0
        labels = torch.as_tensor(class_labels) if class_labels is not None else None
        if labels is not None and not (len(labels) == batch_size and (labels < classes).all()):
            raise HubError(f"{batch_size} labels below {classes} were expected; found {labels.tolist()[:8]}")
        if generator is not None:
            seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        with self.unet.precision(self.device):
            x = sample(
                denoiser, batch_size, num_inference_steps, sampler=chosen, seed=seed, cond=labels, device=self.device
            ).float()
        images: Any = x
        if output_type != "pt":
            images = (x / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).numpy()
            images = self.numpy_to_pil(images) if output_type == "pil" else images
        return ImagePipelineOutput(images=images) if return_dict else (images,)


# folders name the room, whatever its files are called
SoftmixModel.__module__ = SoftmixPipeline.__module__ = "softmix.hub"
# DiffusionPipeline.from_pretrained looks a pipeline's name up here
diffusers.SoftmixPipeline = SoftmixPipeline


def betas_of(process: Gaussian, steps: int = TRAIN_STEPS) -> Tensor:
    """The betas, float32 [steps], of a chain whose integer time k stands at t = (k + 1) / steps."""
    kept = process.alpha(torch.arange(steps + 1, dtype=torch.float64) / steps) ** 2
    return (1 - kept[1:] / kept[:-1]).float()


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
    if getattr(config.loss, "mean", 1) == 0:
        raise HubError("this model believes in a network that it kept: two networks are not exported")
    classes = len(model.facts.class_names) if config.classes else 0
    run = cast(dict[str, Any], to_json(Run(config, model.facts)))
    unet = SoftmixModel(shape[1], shape[0], shape[0], run, model.step, classes or None)
    network = getattr(model.denoiser, "soft", model.denoiser)
    unet.network.load_state_dict(network.state_dict())
    scheduler = DDIMScheduler(
        trained_betas=betas_of(process).tolist(),
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    soft = type(config.head).__name__ not in ("PointHead", "NormalHead")
    kind: Any = SoftmixPipeline if soft else ConsistencyModelPipeline if classes else DDPMPipeline
    kind(unet.eval(), scheduler).save_pretrained(str(folder))
    return Path(folder)
