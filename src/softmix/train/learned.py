"""Learn an encoder of images in a run of its own, for the loss `Align`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data import Source
from ..loss import SavedEncoder
from ..loss.encoder import file_fingerprint
from .config import Config, Optimiser
from .ema import name_of
from .encode import LearnClasses, LearnEncoder
from .loop import training
from .model import RunError, load

# no verb of the command line takes their runs, so that a configuration names them as it names the caller's classes
ENCODER_TASKS = (LearnEncoder, LearnClasses)


def learn_encoder(
    source: Source,
    out: str | Path,
    task: LearnEncoder | LearnClasses | None = None,
    *,
    steps: int = 500,
    batch: int = 128,
    rate: float = 5e-3,
    seed: int = 0,
) -> SavedEncoder:
    """Learn an encoder from these images in the run folder `out`, or continue the run, and return it for `Align`.

    It is a run of `training`: it ends with the same bits after a kill, and the same call on a finished run trains
    nothing.

    source : the images.
    out : the run folder.
    task : `LearnEncoder`, without labels, by default; or `LearnClasses`.
    steps, batch, rate, seed : of the run.

    Raises TrainingError as `training` does, and RunError as `encoder_of` does.
    """
    ease = Optimiser(rate=rate, warmup_share=0.1)
    chosen: Any = LearnEncoder() if task is None else task
    config = Config(chosen, steps=steps, batch=batch, seed=seed, optimiser=ease)
    for _ in training(source, config, out, parts=ENCODER_TASKS):
        pass
    return encoder_of(out)


def encoder_of(folder: str | Path) -> SavedEncoder:
    """The encoder of a run of `learn_encoder`, for `Align`: the file of the averaged weights in the newest checkpoint.

    Raises RunError for another run.
    """
    model = load(folder, parts=ENCODER_TASKS)
    task: Any = model.config.task
    if not isinstance(task, ENCODER_TASKS):
        raise RunError(f"{folder} was trained for {type(task).__name__} and holds no encoder: see learn_encoder")
    file = model.path / "checkpoints" / f"step-{model.step:06d}" / f"{name_of(model.config.ema[0])}.safetensors"
    return SavedEncoder(str(file), file_fingerprint(file.read_bytes()), task.width)
