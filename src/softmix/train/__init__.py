"""A loop that the caller drives, averages of the weights, checkpoints, run folders."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from ..data import Source
from .config import Config, Optimiser
from .denoise import Denoise, Times
from .ema import Ema
from .halt import StoppedError, asked
from .loop import TrainStep, log_of, training
from .make import TrainingError, build, facts_of, find_device
from .model import Model, RunError, data_of, load, read_run
from .preset import MODELS, preset
from .record import Earlier, Facts, Run, Start
from .rehearse import too_short
from .task import Batch, Task
from .trainer import Trainer
from .world import LostError, join, leave


def train(
    source: Source,
    config: Config,
    out: str | Path,
    say: Callable[[str], None] = tqdm.write,
    shard: bool = False,
    *,
    more: int = 0,
    start: Model | None = None,
    parts: Sequence[type] = (),
) -> Model:
    """Trains to the end, with a progress bar, and gives the model. See `training` for the loop itself.

    Ctrl-C and SIGTERM end it after the step that is being taken, with a checkpoint and StoppedError.
    """
    first = join().first
    # seconds: a file of a hundred thousand bars helps nobody
    every = 0.1 if sys.stderr.isatty() else 30
    # from the first second: a step may take minutes, and is tried before the first is taken
    bar = tqdm(total=config.steps, unit="step", desc=Path(out).name, mininterval=every, disable=not first)

    def told(sentence: str) -> None:
        if first:
            bar.set_postfix_str(sentence)

    with asked() as stop, bar:
        try:
            for step in training(source, config, out, stop, shard, more=more, start=start, say=told, parts=parts):
                if not first:
                    continue
                _shown(bar, step)
                sentence = too_short(step.total, source.is_image) if step.step == 1 and step.total else None
                if sentence:
                    say(sentence)
                for note in step.notes:
                    say(note)
        except LostError as error:
            # at once, while signals are still ours: the launcher is about to end this process
            print(f"\nsoftmix: {error}", file=sys.stderr, flush=True)
            raise
    return load(out, parts=parts)


def _shown(bar: tqdm[None], step: TrainStep) -> None:
    if bar.total != step.total:
        bar.total = step.total
    if bar.n == 0 and step.step > 1:
        bar.initial = bar.n = step.step - 1
    bar.update(step.step - bar.n)
    bar.set_postfix(loss=f"{step.loss:.4f}", images=f"{step.images_per_second:.0f}/s", refresh=False)


__all__ = [
    "MODELS",
    "Batch",
    "Config",
    "Denoise",
    "Earlier",
    "Ema",
    "Facts",
    "LostError",
    "Model",
    "Optimiser",
    "Run",
    "RunError",
    "Start",
    "StoppedError",
    "Task",
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
