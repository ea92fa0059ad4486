"""A softmix run as a folder that `DiffusionPipeline.from_pretrained` loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from diffusers import ConsistencyModelPipeline, DDPMPipeline

from ..config import to_json
from ..denoiser import has_fixed_steps
from ..process import VP
from ..train import Model, Run
from .errors import HubError
from .softmix_model import SoftmixModel
from .softmix_pipeline import SoftmixPipeline, exported_scheduler


def export(model: Model, folder: str | Path) -> Path:
    """Write a folder that `DiffusionPipeline.from_pretrained(folder)` loads, with softmix and diffusers installed.

    A model of the mean alone becomes a DDPMPipeline with a DDIMScheduler; any other scheduler may replace it. With
    classes it becomes a ConsistencyModelPipeline, the one of diffusers that passes class labels to a UNet. A soft
    mixture becomes a `SoftmixPipeline`, as a diffusers scheduler has no place for draws: import softmix.hub before
    loading. Class names go along as `id2label`, in the configuration of the UNet and of a `SoftmixPipeline`.

    Raises HubError for items that are no square images, for a model of the steps of one grid, for one of several
    modalities, and for a process that a table of betas cannot express.
    """
    if has_fixed_steps(model.denoiser):
        raise HubError(
            f"a folder for diffusers is sampled by any scheduler, and {model.path} holds a model for the steps of one "
            "grid: export the run that it was tuned from, or a run with another loss"
        )
    if hasattr(model.denoiser, "joint"):
        raise HubError(
            f"a pipeline of diffusers ends with x, and {model.path} holds a model of several modalities, whose x is "
            "decoded: export a run of x alone"
        )
    shape, process = model.facts.shape, model.process
    if len(shape) != 3 or shape[1] != shape[2]:
        raise HubError(f"pipelines of diffusers make square images; this model makes items of shape {list(shape)}")
    if not isinstance(process, VP):
        raise HubError(f"a folder for diffusers holds a table of betas, and {process} has none: train with VP")
    config = model.config
    classes = model.facts.cond_spec.classes
    run = cast(dict[str, Any], to_json(Run(config, model.facts)))
    unet = SoftmixModel(shape[1], shape[0], shape[0], run, model.step, classes or None)
    unet.network.load_state_dict(model.network.state_dict())
    scheduler = exported_scheduler(process)
    soft = type(config.denoise.head).__name__ not in ("PointHead", "NormalHead")
    pipeline_class: Any = SoftmixPipeline if soft else ConsistencyModelPipeline if classes else DDPMPipeline
    pipeline_class(unet.eval(), scheduler).save_pretrained(str(folder))
    return Path(folder)
