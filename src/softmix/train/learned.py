"""The encoder of a finished run, for the loss `Align`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..loss import SavedEncoder
from ..loss.encoder import file_fingerprint
from .ema import name_of
from .encode import LearnClasses, LearnEncoder
from .model import RunError, load


def encoder_of(folder: str | Path) -> SavedEncoder:
    """The encoder of a finished run of `LearnEncoder` or `LearnClasses`, for `Align`.

    It names the file of the averaged weights in the newest checkpoint. Raises RunError for another run.
    """
    model = load(folder)
    task: Any = model.config.task
    if not isinstance(task, LearnEncoder | LearnClasses):
        raise RunError(f"{folder} was trained for {type(task).__name__} and holds no encoder: train LearnEncoder")
    file = model.path / "checkpoints" / f"step-{model.step:06d}" / f"{name_of(model.config.ema[0])}.safetensors"
    return SavedEncoder(str(file), file_fingerprint(file.read_bytes()), task.width)
