"""`softmix sample`: draw images from a trained model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from .common import (
    INT64,
    MAX_AVERAGE,
    MAX_STEPS,
    Precision,
    UsageError,
    class_number,
    drawn_classes,
    interrupted,
    load_for_sampling,
    option,
    require_positive,
    require_real,
    require_whole,
)
from .guidance_interval import Interval, require_interval, require_steps_inside
from .recipes import arguments_of, model_of
from .sample_beside import images_beside
from .sample_diffusers import is_diffusers_folder, sample_diffusers
from .samples import TEXTS, draw, draw_joint, require_finite, require_form, require_place, write, write_text
from .verb import Verb

if TYPE_CHECKING:
    from torch import Tensor

    from ..sampler import Sampler
    from ..train import Model


@dataclass(frozen=True, kw_only=True)
class Sample(Verb):
    """Draw images from a trained model.

    For example `softmix sample fashion --out fashion.png --n 64 --steps 4`.
    """

    run: Positional[Path]
    """A run folder, a model that comes with softmix (fashion, fashion-classes), or a folder that diffusers wrote."""
    out: Path
    """A .png, .jpg or .webp (a grid), a .npy (uint8 images, or float points), a .npz (the same, key arr_0), a .txt
    (text, of a model of text), or a folder (single PNGs; a folder with pictures gets new ones with free numbers)."""
    n: int = 64
    """The number of images."""
    steps: int = 4
    """Steps of the sampler, at least 1. A step takes one evaluation of the network; a few samplers take more."""
    sampler: str | None = None
    """A name from docs/choose-a-sampler.md, such as adams, ancestral, ddim, unipc, evodiff. By default the one that
    suits the model: ancestral for tokens (unmask keeps the most confident ones); soft-adams for a soft mixture of
    images, ancestral for other models that draw, adams for a plain model, renoise for consistency, ddim for meanflow
    and imm."""
    eta: float | None = None
    """The share of fresh noise of ancestral and ddim, from 0 to 1. By default 0 for ddim and for soft mixtures, else
    1."""
    grid: str | None = None
    """The times of the steps: uniform, uniform-logsnr, few, after-draw, karras or trailing, see
    docs/choose-a-sampler.md. By default those that suit the sampler."""
    seed: int = 0
    """Seed of the noise. Image k depends on the seed and k alone."""
    label: Annotated[str | int | None, arg(metavar="NAME")] = None
    """A class by its name or number, for a model trained with classes. By default the classes take turns; a joint model
    draws them."""
    beside: Path | None = None
    """The image condition of a model trained with --beside: a picture, or a folder of pictures, which take turns by
    name."""
    guidance: float = 1.0
    """Scale of classifier-free guidance; 1 is none."""
    interval: Interval | None = None
    """Guide only between these two logsnr, the smaller one (more noise) first."""
    weights: str | None = None
    """The weights: model, or an average such as ema-0.100."""
    average: int = 0
    """Take the mean of this many draws, for samplers that need a mean."""
    first: int = 0
    """Number of the first image: --first 10 --n 1 is the eleventh image of a longer run."""
    precision: Precision = "fp32"
    """Precision of the network. bf16 is several times as fast on machines that have it, and rounds more coarsely. fp16
    is for GPUs without bf16. tf32 lets a GPU round the products of fp32 coarsely; fp32 does not."""
    prompt: str | None = None
    """A text that describes the picture, for a folder of diffusers with text encoders."""
    dry_run: bool = False
    """Show the recipe of the samples, and draw nothing."""

    def __call__(self) -> None:
        self._require_valid()
        if is_diffusers_folder(self.run):
            for name, value in self.given("weights", "average", "beside").items():
                raise UsageError(
                    f"{option(name)} {value} was asked for; {self.run} is a folder of diffusers, without this option"
                )
            sample_diffusers(self)
            return
        if self.prompt is not None:
            raise UsageError("--prompt was given; it goes with a folder of diffusers that has text encoders")
        self._sample()

    def _require_valid(self) -> None:
        """Raise UsageError for wrong options, as far as they show without the model."""
        require_positive(n=self.n)
        require_whole(1, MAX_STEPS, steps=self.steps)
        require_whole(0, MAX_AVERAGE, average=self.average)
        require_whole(0, INT64 - self.n, first=self.first)
        require_real(guidance=self.guidance)
        require_interval(self.interval, self.guidance)
        require_place(self.out, self.n, self.first)

    def _sample(self) -> None:
        from ..cond import Cond
        from ..train import find_device

        model, denoiser, sampler = load_for_sampling(
            self.run, self.sampler, self.eta, self.weights, self.average, self.grid
        )
        require_form(self.out, self.n, model.facts.shape, model.facts.is_text)
        label = class_number(model, self.label, "label")
        labels = self._labels(model, label)
        images = images_beside(self.beside, model, self.n, self.first)
        cond = labels if images is None else Cond(labels, images)
        denoiser = self._guided(model, denoiser, sampler)
        recipe = self._recipe(model, sampler, label)
        if images is not None:
            recipe["beside"] = self.beside.name if self.beside is not None else ""
        if self.dry_run:
            print(json.dumps(recipe, indent=2))
            return
        device = find_device()
        model.denoiser.to(device)
        with interrupted(f"stopped; {self.out} was not written"):
            if hasattr(denoiser, "joint"):
                x, labels = draw_joint(self, denoiser, sampler, device)
            else:
                x = draw(self, denoiser, sampler, cond, device)
            x = require_finite(x, self.out)
            if self.out.suffix.lower() in TEXTS:
                self._write_text(x.cpu(), model)
            else:
                write(x.cpu(), self.out, recipe, labels)
        print(f"wrote {self.out}")

    def _write_text(self, x: Tensor, model: Model) -> None:
        """Write the texts, and show the first one."""
        from ..data import to_text

        texts = to_text(x, model.facts.alphabet)
        write_text(texts, self.out)
        print(texts[0])

    def _labels(self, model: Model, label: int | None) -> Tensor | None:
        """[n]: one class for all images, or all classes in turn by the number of the image."""
        import torch

        if not model.denoiser.classes:
            return None
        if label is not None:
            return torch.full((self.n,), label)
        return (torch.arange(self.n) + self.first) % model.denoiser.classes

    def _guided(self, model: Model, denoiser: Any, sampler: Sampler) -> Any:
        """The denoiser with classifier-free guidance, if asked."""
        from ..denoiser import guided, within
        from ..train import SampleTarget

        if drawn_classes(model) and self.label is not None:
            return self._with_label(model, denoiser, sampler)
        if self.guidance == 1:
            return denoiser
        if hasattr(denoiser, "joint"):
            raise UsageError(
                f"--guidance was asked for, and {model.path} draws its labels: name one with --label, and --guidance "
                "strengthens it"
            )
        if isinstance(model.config.task, SampleTarget):
            raise UsageError(f"--guidance was asked for, and {model.path} samples a density without conditions")
        if model.config.denoise.drop == 0:
            raise UsageError(
                f"--guidance was asked for, and {model.path} was trained with drop = 0: it knows no answer without its "
                "condition, from which to lead away. Train with --set drop=0.1"
            )
        if not model.denoiser.classes and self.beside is None:
            raise UsageError(
                f"--guidance needs classes (softmix train ... --classes) or an image condition (--beside), and "
                f"{model.path} has no classes"
            )
        if self.interval is None:
            return guided(self.guidance)(denoiser)
        require_steps_inside(self.interval, sampler, model.process, model.facts.shape, self.steps)
        return within(*self.interval, guided(self.guidance))(denoiser)

    def _with_label(self, model: Model, denoiser: Any, sampler: Sampler) -> Any:
        """The denoiser of a model that draws labels, for a given one."""
        from ..denoiser import within
        from ..measure import guided_by_label

        label = class_number(model, self.label, "label")
        assert label is not None
        if self.interval is not None:
            require_steps_inside(self.interval, sampler, model.process, model.facts.shape, self.steps)
        # at more noise the errors of the network are enlarged
        return within(*(self.interval or (-6.0, float("inf"))), guided_by_label(label, self.guidance))(denoiser)

    def _recipe(self, model: Model, sampler: Sampler, label: int | None) -> dict[str, Any]:
        """All that `softmix repeat` needs to make the samples again."""
        from ..sampler import label as label_of

        return {
            **model_of(model),
            "data": model.facts.data,
            "fingerprint": model.facts.fingerprint,
            "sampler": label_of(sampler),
            "arguments": arguments_of(self, label=label, weights=model.weights),
        }
