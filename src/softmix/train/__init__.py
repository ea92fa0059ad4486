"""Training: runs that resume after a kill with the same bits.

Its main parts: `training`, the loop that the caller drives; `train`, the same with a progress bar; `Config` and
`preset`; the contract `Task`, and the tasks `Denoise`, `DenoisePair` (two signals), `DenoiseModalities` (an item and
its label together), `SampleTarget` (a density without data), `LearnEncoder` and `LearnClasses` (an encoder of images,
by `learn_encoder`); `Curriculum`, an order of the noise levels; `Ema`, averages of the weights; `checkpoint`; `load`
for a trained model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from ..data import Source
from ..deferred import unread
from .by_process import PROCESS_NAMES, ProcessName, with_process
from .config import Config, Optimiser
from .curriculum import Curriculum
from .denoise import Denoise
from .ema import Ema
from .encode import LearnClasses, LearnEncoder
from .learned import encoder_of, learn_encoder
from .loop import TrainStep, log_of, training
from .make import TrainingError, build, facts_of, find_device
from .modalities import DenoiseModalities
from .model import Model, RunError, data_of, load, read_run
from .noise_times import Times, least_time
from .pair import DenoisePair
from .preset import JOINT_MODELS, MODELS, TOKEN_MODELS, TuningName, preset, preset_for_target, tuning
from .processes import LostProcessError, join_processes, leave_processes
from .record import EarlierSettings, Facts, Run, StartingRun
from .sample_target import SampleTarget, TargetError, TargetSampler
from .signals import StoppedError, stop_signal
from .task import Batch, Task
from .trainer import Trainer
from .trial import too_short


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
    """Train a run to its end, with a progress bar. The parameters are those of `training`.

    Ctrl-C and SIGTERM stop it after the present step, with a checkpoint and StoppedError.

    say : receives the notes of the steps, one sentence each.
    Returns the trained model.
    """
    first = join_processes().first
    # seconds between updates: a log file needs few bars
    every = 0.1 if sys.stderr.isatty() else 30
    # shown before the trial steps, which may take minutes
    bar = tqdm(total=config.steps, unit="step", desc=Path(out).name, mininterval=every, disable=not first)

    def show(sentence: str) -> None:
        if first:
            bar.set_postfix_str(sentence)

    with stop_signal() as stop, bar:
        try:
            for step in training(source, config, out, stop, shard, more=more, start=start, say=show, parts=parts):
                if not first:
                    continue
                _update(bar, step)
                sentence = too_short(step.total, source.is_image) if step.step == 1 and step.total else None
                if sentence:
                    say(sentence)
                for note in step.notes:
                    say(note)
        except LostProcessError as error:
            # printed at once: the launcher is about to end this process
            print(f"\nsoftmix: {error}", file=sys.stderr, flush=True)
            raise
    return load(out, parts=parts)


def _update(bar: tqdm[None], step: TrainStep) -> None:
    if bar.total != step.total:
        bar.total = step.total
    if bar.n == 0 and step.step > 1:
        bar.initial = bar.n = step.step - 1
    shown = bar.update(step.step - bar.n)
    if callable(unread(step, "loss")) and not shown:
        # to read the loss of each step would be to wait for the device
        return
    bar.set_postfix(loss=f"{step.loss:.4f}", images=f"{step.images_per_second:.0f}/s", refresh=False)


__all__ = [
    "JOINT_MODELS",
    "MODELS",
    "PROCESS_NAMES",
    "TOKEN_MODELS",
    "Batch",
    "Config",
    "Curriculum",
    "Denoise",
    "DenoiseModalities",
    "DenoisePair",
    "EarlierSettings",
    "Ema",
    "Facts",
    "LearnClasses",
    "LearnEncoder",
    "LostProcessError",
    "Model",
    "Optimiser",
    "ProcessName",
    "Run",
    "RunError",
    "SampleTarget",
    "StartingRun",
    "StoppedError",
    "TargetError",
    "TargetSampler",
    "Task",
    "Times",
    "TrainStep",
    "Trainer",
    "TrainingError",
    "TuningName",
    "build",
    "data_of",
    "encoder_of",
    "facts_of",
    "find_device",
    "join_processes",
    "learn_encoder",
    "least_time",
    "leave_processes",
    "load",
    "log_of",
    "preset",
    "preset_for_target",
    "read_run",
    "train",
    "training",
    "tuning",
    "with_process",
]
