"""Trial steps before a run begins. They show whether the parts fit each other and into memory, and measure the speed.

The weights do not change, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch

from ..memory import NotEnoughMemoryError, is_memory_error
from .make import TrainingError
from .memory import fits_in, free_memory, saved_for_backward
from .optimise import buffers_of, restore_buffers
from .pictures import picture
from .record import Run
from .trainer import Trainer

# the largest share of the minutes, and the most steps, to measure the speed of one stage
_SHARE, _STEPS = 0.02, 25
# no trial of a step that is likely to take a larger share of the minutes
_LONG = 0.1
# items to estimate a step from, before its trial
_FEW = 4
# assumed speed of hashing, writing and syncing a checkpoint, bytes a second
_DISK = 1e8
# pictures and checkpoints of a run, by default (`Config.save`, `Config.show`)
_TENTHS = 10

Say = Callable[[str], None]


def check_parts(trainer: Trainer) -> None:
    """Compute the loss of two items, its gradient, and a sample. Raises any error if the parts do not fit each other.

    Each of several processes tries one item, and no sample.
    """
    with _restored_buffers(trainer), _uncompiled(trainer):
        _check(trainer)


@contextmanager
def _uncompiled(trainer: Trainer) -> Iterator[None]:
    """Run compiled parts as they are: two items are a kind of input of their own, which no step has."""
    # a stance begins when it is made
    with torch.compiler.set_stance("force_eager") if trainer.run.config.compile else nullcontext():
        yield


def _check(trainer: Trainer) -> None:
    if trainer.parallel is not None:
        for turn in trainer.optimisers.turns:
            trainer.parallel.backward(torch.arange(trainer.processes.size, device="cpu"), trainer.processes.size, turn)
            trainer.optimisers.clear_gradients()
        return
    for turn in trainer.optimisers.turns:
        loss = trainer.losses(torch.arange(2, device="cpu"), turn)
        torch.autograd.grad(loss.sum(), trainer.optimisers.parameters(turn), allow_unused=True)
    result = trainer.task.result(trainer.model, trainer.run.facts, 0)
    trainer.task.check(result, trainer.device)


def trial_run(trainer: Trainer, say: Say) -> Run:
    """Try a whole step of each stage of a run that has not begun.

    The weights of the trainer do not change. Its moments are cleared.

    say : receives a sentence about each trial and its result.

    Returns the run, with more parts for each batch if the memory is too small for the parts in its configuration, and
    with the number of steps that fit into its minutes, if it has minutes.
    Raises TrainingError if the memory is too small for one item at a time.
    """
    with _restored_buffers(trainer):
        return _trial_run(trainer, say)


@contextmanager
def _restored_buffers(trainer: Trainer) -> Iterator[None]:
    before, scale = buffers_of(trainer.modules), trainer.scale
    yield
    restore_buffers(trainer.modules, before)
    trainer.scale = scale


def _trial_run(trainer: Trainer, say: Say) -> Run:
    began, step, minutes = time.perf_counter(), trainer.step, trainer.run.config.minutes
    freeze_at = 1.0 if trainer.task.freeze_at is None else trainer.task.freeze_at
    stages = [False, True] if freeze_at < 1 else [False]
    took = []
    for later in stages:
        say("a step is tried" + (", of the second stage" if later else ""))
        trainer.frozen = trainer.freeze() if later else None
        guess, timed = _plan(trainer, say), trainer.total is None and minutes is not None
        if minutes is not None and timed and guess > _LONG * 60 * minutes:
            # the first items include one-time work, which is no part of a step
            guess = _likely(trainer)
        if minutes is not None and timed and guess > _LONG * 60 * minutes:
            # its trial would take too much of the minutes
            took.append(guess)
        else:
            first = _fits(trainer, say)
            if minutes is not None and timed:
                took.append(_seconds(trainer, first, 60 * minutes * _SHARE))
        if timed:
            say(f"a step takes {took[-1]:.3g} s")
        # a trial that was not taken has gone back to its step
        trainer.settle()
        trainer.step = step
    if took:
        mean = freeze_at * took[0] + (1 - freeze_at) * took[-1]
        extra = _picture_and_checkpoint(trainer)
        left = 60 * minutes - (time.perf_counter() - began) if minutes is not None else 0.0
        total = max(step + 1, _steps_in(left, mean, extra, trainer.run))
        trainer.total = int(trainer.processes.broadcast(str(total)))
        trainer.run = replace(trainer.run, facts=replace(trainer.run.facts, steps=trainer.total))
        speed = trainer.run.config.batch / mean
        say(f"{speed:.3g} items a second: {trainer.total:,} steps in {minutes:g} minutes")
    trainer.frozen = None
    trainer.optimisers.clear_moments()
    return trainer.run


def too_short(total: int, is_image: bool) -> str | None:
    """A warning for a run with too few steps for a useful model. None for a longer run."""
    least, noun = (1000, "images") if is_image else (300, "points")
    if total >= least:
        return None
    return (
        f"{total} steps are few: a model of {noun} is not good before some {3 * least:,} of them (for 28x28 grey "
        "images, or two dimensions; larger ones take more)"
    )


def halved(run: Run, step: int) -> Run | None:
    """The run with twice as many parts of a batch after step `step`. None if a part is one item for each lane."""
    batch, lanes, now = run.config.batch, run.facts.lanes, run.parts(step)
    if -(-batch // (now * lanes)) == 1 or run.config.task.whole:
        return None
    before = tuple(part for part in run.facts.parts if part[0] < step)
    return replace(run, facts=replace(run.facts, parts=(*before, (step, 2 * now))))


def halve_parts(trainer: Trainer, error: NotEnoughMemoryError) -> str:
    """Halve the parts of a batch, after the memory was too small for one. Returns a sentence about it.

    Raises TrainingError if a part cannot be halved.
    """
    several = trainer.processes.size > 1
    run = None if several else halved(trainer.run, trainer.step)
    if run is None:
        parts = f"in more parts (--set optimiser.accumulate={2 * trainer.run.parts(trainer.step)}), " if several else ""
        if trainer.task.whole:
            parts = f"with a smaller batch (its loss compares all {trainer.run.config.batch} items), "
        raise memory_error(f"step {trainer.step + 1}", trainer.run.facts.shape, error, parts)
    trainer.run = run
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()
    return _parted(trainer)


def memory_error(subject: str, shape: tuple[int, ...], error: BaseException, before: str = "") -> TrainingError:
    """The error for a step that does not fit into memory in any number of parts.

    subject : the work that failed, for example "step 3".
    before : advice to be tried first.
    """
    reason = " ".join(str(error).split()) or type(error).__name__
    return TrainingError(
        f"the memory is too small for {subject} with items of shape {shape} ({reason}): train {before}with a smaller "
        "network (--set net.width=N), smaller items (--size), or on a machine with more memory"
    )


def _parted(trainer: Trainer) -> str:
    batch, parts = trainer.run.config.batch, trainer.run.parts(trainer.step)
    warning = (
        ""
        if not trainer.task.together
        else "; its loss compares the items of a part with each other, now fewer of them"
    )
    return (
        f"the memory is too small for {-(-2 * batch // parts)} items at once: from step {trainer.step + 1} on a batch "
        f"of {batch} is computed in {parts} parts, one after another, with the same result up to rounding{warning}"
    )


def _fits(trainer: Trainer, say: Say) -> float:
    """Try a whole step, in more parts if the memory is too small. Returns its seconds."""
    while True:
        began = time.perf_counter()
        try:
            trainer.advance(0.0)
        except NotEnoughMemoryError as error:
            say(halve_parts(trainer, error))
            continue
        trainer.wait()
        return time.perf_counter() - began


def _plan(trainer: Trainer, say: Say) -> float:
    """On a CPU, halve the parts of a batch until a part is likely to fit into the free memory.

    A few items give the estimate. On a CPU a process that takes too much is killed, without an error to catch.
    Returns the seconds that a step is likely to take; 0 on other devices.
    """
    # the memory of a compiled network is up to its compiler, and that of a shard to FSDP
    if trainer.device.type != "cpu" or trainer.parallel is not None or trainer.run.config.compile:
        return 0.0
    free = free_memory()
    count, parameters = min(_FEW, trainer.run.config.batch), trainer.optimisers.parameters()
    try:
        began = time.perf_counter()
        loss, held = saved_for_backward(lambda: trainer.losses(torch.arange(count, device="cpu")).sum(), parameters)
        torch.autograd.grad(loss, parameters, allow_unused=True)
        took = (time.perf_counter() - began) / count
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        # the trial of the step will raise it again
        return 0.0
    before = trainer.run
    while not fits_in(held / count * _at_once(trainer.run, trainer.step), free):
        smaller = halved(trainer.run, trainer.step)
        if smaller is None:
            break
        trainer.run = smaller
    if trainer.run != before:
        say(_parted(trainer))
    return took * trainer.run.config.batch / trainer.run.facts.lanes


def _likely(trainer: Trainer) -> float:
    """The seconds that a step is likely to take, estimated from a few items after the first ones."""
    count = min(_FEW, trainer.run.config.batch)
    began = time.perf_counter()
    torch.autograd.grad(
        trainer.losses(torch.arange(count, device="cpu")).sum(), trainer.optimisers.parameters(), allow_unused=True
    )
    return (time.perf_counter() - began) / count * trainer.run.config.batch / trainer.run.facts.lanes


def _at_once(run: Run, step: int) -> int:
    """The number of items in memory at the same time."""
    lanes = run.facts.lanes
    return lanes * -(-run.config.batch // (run.parts(step) * lanes))


def _seconds(trainer: Trainer, first: float, limit: float) -> float:
    """The mean seconds of a step, over the steps that fit into `limit` seconds.

    first : seconds of the first step, which includes one-time work; it counts only if it alone exceeds the limit.
    """
    took = [first] if first >= limit else []
    if not took:
        _record_step(trainer)
    while _more(trainer, took, limit):
        began = time.perf_counter()
        trainer.advance(0.0)
        trainer.wait()
        took.append(time.perf_counter() - began)
    return sum(took) / len(took)


def _record_step(trainer: Trainer) -> None:
    """Take steps until they are recorded, if they will be: the steps before are no measure of the later ones."""
    step = trainer.device_step
    for _ in range(_STEPS):
        if step is None or step.recorded.settled:
            return
        trainer.advance(0.0)
    trainer.wait()


def _more(trainer: Trainer, took: list[float], limit: float) -> bool:
    """Whether to measure another step. The first process decides for all."""
    wanted = not took or (sum(took) < limit and len(took) < _STEPS)
    return trainer.processes.broadcast("more" if wanted else "enough") == "more"


def _picture_and_checkpoint(trainer: Trainer) -> tuple[float, float]:
    """The seconds that a picture and a checkpoint are likely to take."""
    began = time.perf_counter()
    _picture(trainer)
    drawing = time.perf_counter() - began
    weights = sum(p.numel() * p.element_size() for p in trainer.modules.parameters())
    # the weights, two moments of each, and the averages
    return drawing, 0.02 + weights * (3 + len(trainer.run.config.ema)) / _DISK


def _picture(trainer: Trainer) -> None:
    try:
        picture(trainer)
    except (RuntimeError, MemoryError) as error:
        # a run goes on without pictures
        if not is_memory_error(error):
            raise


def _steps_in(seconds: float, step: float, extra: tuple[float, float], run: Run) -> int:
    """The number of steps, with their pictures and checkpoints, that fit into the seconds."""
    each = step + sum(cost / every for cost, every in zip(extra, _distances(run), strict=True) if every)
    tenths = sum(cost for cost, every in zip(extra, _distances(run), strict=True) if not every)
    # a hundredth is left for other work; below ten steps each has its picture and its checkpoint
    steps = (0.99 * seconds - _TENTHS * tenths) / each
    return int(steps if steps >= _TENTHS else 0.99 * seconds / (each + tenths))


def _distances(run: Run) -> tuple[int, int]:
    return run.config.show, run.config.save
