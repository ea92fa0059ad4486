"""The room of training: a loop that the caller drives, averages of the weights, checkpoints, run folders."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from ..data import Data
from .config import MODELS, Config, Facts, Optimiser, Run, Times, preset
from .ema import Ema
from .halt import StoppedError, asked
from .loop import TrainStep, log_of, training
from .model import Model, RunError, data_of, load, read_run
from .trainer import Trainer, TrainingError, build, facts_of, find_device
from .world import LostError, join, leave


def train(
    data: Data, config: Config, out: str | Path, say: Callable[[str], None] = tqdm.write, shard: bool = False
) -> Model:
    """Trains to the end, with a progress bar, and gives the model. See `training` for the loop itself.

    Ctrl-C and SIGTERM end it after the step that is being taken, with a checkpoint and StoppedError.
    """
    first, bar = join().first, None
    with asked() as stop:
        try:
            for step in training(data, config, out, stop, shard):
                if not first:
                    continue
                if bar is None:
                    # seconds: a file of a hundred thousand bars helps nobody
                    every = 0.1 if sys.stderr.isatty() else 30
                    start = step.step - 1
                    bar = tqdm(total=step.total, initial=start, unit="step", desc=Path(out).name, mininterval=every)
                for note in step.notes:
                    say(note)
                if bar.total != step.total:
                    bar.total = step.total
                bar.update(1)
                bar.set_postfix(loss=f"{step.loss:.4f}", images=f"{step.images_per_second:.0f}/s", refresh=False)
        except LostError as error:
            # at once, while signals are still ours: the launcher is about to end this process
            print(f"\nsoftmix: {error}", file=sys.stderr, flush=True)
            raise
    if bar is not None:
        bar.close()
    return load(out)


__all__ = [
    "MODELS",
    "Config",
    "Ema",
    "Facts",
    "LostError",
    "Model",
    "Optimiser",
    "Run",
    "RunError",
    "StoppedError",
    "Times",
    "TrainStep",
    "Trainer",
    "TrainingError",
    "build",
    "data_of",
    "facts_of",
    "find_device",
    "join",
    "leave",
    "load",
    "log_of",
    "preset",
    "read_run",
    "train",
    "training",
]
