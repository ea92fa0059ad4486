"""Pictures of what a run has made so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..data import to_uint8
from ..picture import enlarge, save_png, tile, to_image
from .ema import name_of
from .memory import is_lack

if TYPE_CHECKING:
    from .trainer import Trainer


def show(trainer: Trainer) -> str:
    """Writes a grid of what the averaged model makes. A sentence if memory does not suffice for it."""
    try:
        images = picture(trainer)
    except (RuntimeError, MemoryError) as error:
        if not is_lack(error):
            raise
        return f"memory does not suffice for a picture of step {trainer.step}; there is none"
    if images is None or not trainer.world.first:
        return ""
    config = trainer.run.config
    save_png(
        trainer.out / "samples" / f"step-{trainer.step:06d}.png",
        enlarge(to_image(tile(to_uint8(images.cpu())))),
        {"step": trainer.step, "steps": 4, "seed": config.seed, "weights": name_of(config.ema[0])},
    )
    return ""


def picture(trainer: Trainer) -> Tensor | None:
    """What the task shows of the averaged model; None without images, and on all processes but the first."""
    if not trainer.source.is_image:
        return None
    # every process has a part of the weights, or may have
    model = trainer.averaged()
    if not trainer.world.first:
        return None
    made = trainer.task.made(model, trainer.run.facts, trainer.step)
    return trainer.task.picture(made, trainer.source, trainer.run.config.seed, trainer.device)
