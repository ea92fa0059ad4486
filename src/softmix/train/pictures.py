"""Pictures of the progress of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..data import to_uint8
from ..memory import is_memory_error
from ..picture import enlarge, save_png, tile, to_image
from .ema import name_of

if TYPE_CHECKING:
    from .trainer import Trainer


def save_picture(trainer: Trainer) -> str:
    """Write a grid of images of the averaged model to samples/. Returns a sentence if the memory is too small."""
    try:
        images = picture(trainer)
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        return f"the memory is too small for a picture of step {trainer.step}; there is none"
    if images is None or not trainer.processes.first:
        return ""
    config = trainer.run.config
    save_png(
        trainer.out / "samples" / f"step-{trainer.step:06d}.png",
        enlarge(to_image(tile(to_uint8(images.cpu())))),
        {"step": trainer.step, "steps": 4, "seed": config.seed, "weights": name_of(config.ema[0])},
    )
    return ""


def picture(trainer: Trainer) -> Tensor | None:
    """Images of the averaged model, by its task. None without images, and in all processes but the first."""
    if not trainer.source.is_image:
        return None
    # every process must take part: each may have a part of the weights
    model = trainer.averaged()
    if not trainer.processes.first:
        return None
    result = trainer.task.result(model, trainer.run.facts, trainer.step)
    return trainer.task.picture(result, trainer.source, trainer.run.config.seed, trainer.device)
