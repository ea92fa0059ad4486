"""The diffusers pipeline for an exported soft mixture."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput
from torch import Tensor

from ..process import Gaussian, Table
from ..rng import Rng
from ..sampler import BY_NAME, sample
from .class_labels import class_index
from .errors import HubError
from .model_conventions import conventions_of
from .softmix_model import SoftmixModel, betas_of

# n, steps, seed, labels -> images [n, C, H, W]
SampleImages = Callable[[int, int, int, Tensor | None], Tensor]


def exported_scheduler(process: Gaussian) -> DDIMScheduler:
    """The scheduler that `export` writes: DDIM on the betas of the process, with v-prediction."""
    return DDIMScheduler(
        trained_betas=betas_of(process).tolist(),
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )


class SoftmixPipeline(DiffusionPipeline):
    """Images of an exported softmix model by a softmix sampler, with draws from the whole posterior.

        pipe = SoftmixPipeline.from_pretrained(folder)
        pipe(batch_size=16, num_inference_steps=4).images
        pipe(batch_size=2, class_labels=["cat", "dog"]).images

    `DiffusionPipeline.from_pretrained` finds this class by name after `import softmix.hub`.

    id2label : class names by number as in `DiTPipeline`; by default those of the model. `labels` is the inverse.
    """

    def __init__(self, unet: SoftmixModel, scheduler: Any, id2label: dict[str, str] | None = None):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        id2label = id2label or unet.config.get("id2label")
        if id2label:
            self.register_to_config(id2label=id2label)
        self.labels = {name: int(k) for k, name in (id2label or {}).items()}

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 4,
        sampler: str | None = None,
        seed: int = 0,
        class_labels: Tensor | Sequence[int | str] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Sample images. Image k depends on the seed and k alone.

        sampler : the name of a softmix sampler; by default the one that suits the model. If the exported scheduler is
            replaced, the new scheduler takes the steps, from posterior means.
        seed : the seed of the noise.
        class_labels : [n] numbers or names of classes.
        generator : draws the seed; a list of generators, one an image, gives each image its own seed.
        output_type : "pil", "np" [n, H, W, C] in [0, 1], or "pt" [n, C, H, W] in [-1, 1].

        Raises HubError for an unknown sampler or class, and for a scheduler of another process.
        """
        if sampler is not None and sampler not in BY_NAME:
            raise HubError(f"the sampler {sampler!r} was asked for; there are {', '.join(BY_NAME)}")
        labels = self._label_numbers(class_labels, batch_size)
        sample_images = self._image_sampler(sampler)
        with self.unet.precision(self.device):
            if isinstance(generator, list):
                if len(generator) != batch_size:
                    raise HubError(f"{len(generator)} generators were given for {batch_size} images")
                x = torch.cat(
                    [
                        sample_images(
                            1, num_inference_steps, _seed(each), labels if labels is None else labels[k : k + 1]
                        )
                        for k, each in enumerate(generator)
                    ]
                )
            else:
                drawn = seed if generator is None else _seed(generator)
                x = sample_images(batch_size, num_inference_steps, drawn, labels)
        images: Any = x.float()
        if output_type != "pt":
            images = (images / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).numpy()
            images = self.numpy_to_pil(images) if output_type == "pil" else images
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _label_numbers(self, class_labels: Tensor | Sequence[int | str] | None, n: int) -> Tensor | None:
        """Class labels [n] as numbers."""
        if class_labels is None:
            return None
        if not isinstance(class_labels, Tensor):
            names = tuple(self.labels)
            numbers = [
                class_index(names, each, "this model") if isinstance(each, str) else each for each in class_labels
            ]
            class_labels = torch.as_tensor(numbers)
        classes = self.unet.config.num_class_embeds or 0
        if not (len(class_labels) == n and (class_labels < classes).all()):
            raise HubError(f"{n} labels below {classes} were expected; found {class_labels.tolist()[:8]}")
        return class_labels

    def _image_sampler(self, sampler: str | None) -> SampleImages:
        """A softmix sampler, or the steps of the scheduler that replaced the exported one."""
        if _identity(self.scheduler) == _identity(exported_scheduler(self.unet.network.process)):
            denoiser = self.unet.denoiser
            chosen = self.unet._run.config.task.suited(denoiser) if sampler is None else BY_NAME[sampler]
            precision = self.unet.precision_name
            return lambda n, steps, seed, labels: sample(
                denoiser, n, steps, sampler=chosen, seed=seed, cond=labels, device=self.device, precision=precision
            )
        if sampler is not None:
            raise HubError(
                f"the sampler {sampler!r} was asked for, and {type(self.scheduler).__name__} is in the place of the "
                "exported scheduler: give only one of them"
            )
        if not isinstance(conventions_of(self.scheduler).process, Table):
            raise HubError(
                f"{type(self.scheduler).__name__} is for another process: this model was trained on betas. Make one "
                "from_config(pipe.scheduler.config)"
            )
        return self._scheduler_loop

    def _scheduler_loop(self, n: int, steps: int, seed: int, labels: Tensor | None) -> Tensor:
        """diffusers' own loop. The first noise of item k follows from seed and k, later noise from one generator."""
        scheduler, config = self.scheduler, self.unet.config
        shape = (n, config.in_channels, config.sample_size, config.sample_size)
        scheduler.set_timesteps(steps, device=self.device)
        x = Rng(seed, range(n), "sample", self.device).child("prior").normal(shape) * scheduler.init_noise_sigma
        more = {}
        if "generator" in inspect.signature(scheduler.step).parameters:
            more["generator"] = torch.Generator(self.device).manual_seed(seed)
        class_labels = labels.to(self.device) if labels is not None else None
        for t in self.progress_bar(scheduler.timesteps):
            output = self.unet(scheduler.scale_model_input(x, t), t, class_labels).sample
            x = scheduler.step(output, t, x, **more).prev_sample
        return x


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (1,), generator=generator, device=generator.device))


def _identity(scheduler: Any) -> tuple[str, dict[str, Any]]:
    """The class of a scheduler and its configuration, without the keys about its file."""
    config = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    return type(scheduler).__name__, config


# a saved pipeline names the module of its classes: the room, not the file
SoftmixPipeline.__module__ = "softmix.hub"
# DiffusionPipeline.from_pretrained looks the name of a pipeline up in diffusers
diffusers.SoftmixPipeline = SoftmixPipeline
