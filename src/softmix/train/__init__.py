"""The room of training: a loop that the caller drives, averages of the weights, checkpoints, run folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from ..data import Data
from .config import MODELS, Config, Facts, Optimiser, Run, Times, preset
from .ema import Ema
from .loop import TrainStep, training
from .model import Model, RunError, load, read_run
from .trainer import Trainer, TrainingError, build, facts_of, find_device


def train(data: Data, config: Config, out: str | Path, say: Callable[[str], None] = tqdm.write) -> Model:
    """Trains to the end, with a progress bar, and gives the model. See `training` for the loop itself."""
    bar: tqdm[None] | None = None
    for step in training(data, config, out):
        if bar is None:
            bar = tqdm(total=step.total, initial=step.step - 1, unit="step", dynamic_ncols=True, desc=Path(out).name)
        for note in step.notes:
            say(note)
        if bar.total != step.total:
            bar.total = step.total
        bar.update(1)
        bar.set_postfix(loss=f"{step.loss:.4f}", images=f"{step.images_per_second:.0f}/s", refresh=False)
    if bar is not None:
        bar.close()
    return load(out)


__all__ = [
    "MODELS",
    "Config",
    "Ema",
    "Facts",
    "Model",
    "Optimiser",
    "Run",
    "RunError",
    "Times",
    "TrainStep",
    "Trainer",
    "TrainingError",
    "build",
    "facts_of",
    "find_device",
    "load",
    "preset",
    "read_run",
    "train",
    "training",
]
