"""Before a run begins, its steps are tried: do its parts fit each other and into memory, and how
long does a step take? Nothing of it stays: the weights are, bit for bit, what they were."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from .make import TrainingError
from .memory import MemoryLackError, enough, free_memory, held_by, is_lack
from .optimise import buffers_of, restore_buffers
from .pictures import picture
from .record import Run
from .trainer import Trainer

# the share of the minutes, and the steps, that measuring the speed of each stage may take
_SHARE, _STEPS = 0.02, 25
# a step that is likely to take a larger share of the minutes than this is not tried
_LONG = 0.1
# items that a step is judged by before it is tried
_FEW = 4
# bytes a second at which a checkpoint is taken to be hashed, written and synced
_DISK = 1e8
# pictures and checkpoints of a run, if their distance was not said (`Config.save`, `Config.show`)
_TENTHS = 10

Say = Callable[[str], None]


def try_out(trainer: Trainer) -> None:
    """The loss of two items, its gradient, and a sample, for nothing: raises whatever is wrong with the parts.

    Of several processes each tries an item.
    """
    with _buffers_kept(trainer):
        _tried(trainer)


def _tried(trainer: Trainer) -> None:
    if trainer.team is not None:
        for turn in trainer.optimisers.turns:
            trainer.team.backward(torch.arange(trainer.world.size), trainer.world.size, turn)
            trainer.optimisers.clear()
        return
    for turn in trainer.optimisers.turns:
        loss = trainer.losses(torch.arange(2), turn)
        torch.autograd.grad(loss.sum(), trainer.optimisers.parameters(turn), allow_unused=True)
    made = trainer.task.made(trainer.model, trainer.run.facts, 0)
    trainer.task.tried(made, trainer.device)


def rehearse(trainer: Trainer, say: Say) -> Run:
    """Tries a whole step of each stage of a run that has not begun. Gives the run with what was found: the parts that
    its batch is computed in, if memory does not suffice for those asked for, and the number of steps that fit into the
    minutes, if it was given minutes.

    say : told what is being done and what was found. The weights of the trainer are left as they are; its moments are
    not. Raises TrainingError if memory does not suffice for one item at a time.
    """
    with _buffers_kept(trainer):
        return _rehearsed(trainer, say)


@contextmanager
def _buffers_kept(trainer: Trainer) -> Iterator[None]:
    before = buffers_of(trainer.modules)
    yield
    restore_buffers(trainer.modules, before)


def _rehearsed(trainer: Trainer, say: Say) -> Run:
    began, step, minutes = time.perf_counter(), trainer.step, trainer.run.config.minutes
    freeze_at = 1.0 if trainer.task.freeze_at is None else trainer.task.freeze_at
    stages = [False, True] if freeze_at < 1 else [False]
    took = []
    for later in stages:
        say("a step is tried" + (", of the second stage" if later else ""))
        trainer.frozen = trainer.freeze() if later else None
        guess, timed = _plan(trainer, say), trainer.total is None and minutes is not None
        if minutes is not None and timed and guess > _LONG * 60 * minutes:
            # in the first items much is made ready, which is no part of a step
            guess = _likely(trainer)
        if minutes is not None and timed and guess > _LONG * 60 * minutes:
            # to try it would take a good part of the minutes
            took.append(guess)
        else:
            first = _fits(trainer, say)
            if minutes is not None and timed:
                took.append(_seconds(trainer, first, 60 * minutes * _SHARE))
        if timed:
            say(f"a step takes {took[-1]:.3g} s")
        trainer.step = step
    if took:
        mean = freeze_at * took[0] + (1 - freeze_at) * took[-1]
        extra = _beside(trainer)
        left = 60 * minutes - (time.perf_counter() - began) if minutes is not None else 0.0
        total = max(step + 1, _steps_in(left, mean, extra, trainer.run))
        trainer.total = int(trainer.world.broadcast(str(total)))
        trainer.run = replace(trainer.run, facts=replace(trainer.run.facts, steps=trainer.total))
        speed = trainer.run.config.batch / mean
        say(f"{speed:.3g} items a second: {trainer.total:,} steps in {minutes:g} minutes")
    trainer.frozen = None
    trainer.optimisers.forget()
    return trainer.run


def too_short(total: int, is_image: bool) -> str | None:
    """A sentence about a run that is too short to be any good; None for one that is not."""
    least, what = (1000, "images") if is_image else (300, "points")
    if total >= least:
        return None
    return (
        f"{total} steps are few: a model of {what} is not good before some {3 * least:,} of them (for 28x28 grey "
        "images, or two dimensions; larger ones take more)"
    )


def fewer(run: Run, step: int) -> Run | None:
    """The run with each part of a batch halved from the step after `step` on; None if a part is one item for a lane."""
    batch, lanes, now = run.config.batch, run.facts.lanes, run.parts(step)
    if -(-batch // (now * lanes)) == 1 or run.config.task.whole:
        return None
    before = tuple(one for one in run.facts.parts if one[0] < step)
    return replace(run, facts=replace(run.facts, parts=(*before, (step, 2 * now))))


def lack(trainer: Trainer, error: MemoryLackError) -> str:
    """Halves the parts of a batch, for which memory did not suffice, and gives a sentence about it.

    Raises TrainingError where that cannot be.
    """
    several = trainer.world.size > 1
    run = None if several else fewer(trainer.run, trainer.step)
    if run is None:
        parts = f"in more parts (--set optimiser.accumulate={2 * trainer.run.parts(trainer.step)}), " if several else ""
        if trainer.task.whole:
            parts = f"with a smaller batch (its loss compares all {trainer.run.config.batch} items), "
        raise no_room(f"step {trainer.step + 1}", trainer.run.facts.shape, error, parts)
    trainer.run = run
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()
    return _parted(trainer)


def no_room(what: str, shape: tuple[int, ...], error: BaseException, before: str = "") -> TrainingError:
    """The sentence for a step that does not fit into memory in any number of parts."""
    told = " ".join(str(error).split()) or type(error).__name__
    return TrainingError(
        f"memory does not suffice for {what} with items of shape {shape} ({told}): train {before}with a smaller "
        "network (--set net.width=N), smaller items (--size), or on a machine with more memory"
    )


def _parted(trainer: Trainer) -> str:
    batch, parts = trainer.run.config.batch, trainer.run.parts(trainer.step)
    alike = (
        ""
        if trainer.task.freeze_at is None
        else "; its loss compares the items of a part with each other, now fewer of them"
    )
    return (
        f"memory does not suffice for {-(-2 * batch // parts)} items at once: from step {trainer.step + 1} on a batch "
        f"of {batch} is computed in {parts} parts, one after another, with the same result up to rounding{alike}"
    )


def _fits(trainer: Trainer, say: Say) -> float:
    """Tries a whole step, in more parts if need be, and gives the seconds that it took."""
    while True:
        began = time.perf_counter()
        try:
            trainer.advance(0.0)
        except MemoryLackError as error:
            say(lack(trainer, error))
            continue
        return time.perf_counter() - began


def _plan(trainer: Trainer, say: Say) -> float:
    """On a CPU, where a process that takes too much is killed without an error: halves the parts of a batch until what
    they are likely to take is there, judged by a few items. The seconds that a step is likely to take, 0 elsewhere."""
    # of a compiled network autograd holds what its compiler decides
    if trainer.device.type != "cpu" or trainer.team is not None or trainer.run.config.compile:
        return 0.0
    free = free_memory()
    count, parameters = min(_FEW, trainer.run.config.batch), trainer.optimisers.parameters()
    try:
        began = time.perf_counter()
        loss, held = held_by(lambda: trainer.losses(torch.arange(count)).sum(), parameters)
        torch.autograd.grad(loss, parameters, allow_unused=True)
        took = (time.perf_counter() - began) / count
    except (RuntimeError, MemoryError) as error:
        if not is_lack(error):
            raise
        # then the step itself will say so
        return 0.0
    before = trainer.run
    while not enough(held / count * _at_once(trainer.run, trainer.step), free):
        smaller = fewer(trainer.run, trainer.step)
        if smaller is None:
            break
        trainer.run = smaller
    if trainer.run != before:
        say(_parted(trainer))
    return took * trainer.run.config.batch / trainer.run.facts.lanes


def _likely(trainer: Trainer) -> float:
    """The seconds that a step is likely to take, judged by a few items, after others were seen."""
    count = min(_FEW, trainer.run.config.batch)
    began = time.perf_counter()
    torch.autograd.grad(trainer.losses(torch.arange(count)).sum(), trainer.optimisers.parameters(), allow_unused=True)
    return (time.perf_counter() - began) / count * trainer.run.config.batch / trainer.run.facts.lanes


def _at_once(run: Run, step: int) -> int:
    """How many items are in memory at the same time."""
    lanes = run.facts.lanes
    return lanes * -(-run.config.batch // (run.parts(step) * lanes))


def _seconds(trainer: Trainer, first: float, limit: float) -> float:
    """How long a step takes: the mean of as many as fit into `limit` seconds, or of one that alone takes longer.

    first : how long the first took, in which much is made ready.
    """
    took = [first] if first >= limit else []
    while _more(trainer, took, limit):
        began = time.perf_counter()
        trainer.advance(0.0)
        took.append(time.perf_counter() - began)
    return sum(took) / len(took)


def _more(trainer: Trainer, took: list[float], limit: float) -> bool:
    """Whether another step is measured; the first process decides for all."""
    wanted = not took or (sum(took) < limit and len(took) < _STEPS)
    return trainer.world.broadcast("more" if wanted else "enough") == "more"


def _beside(trainer: Trainer) -> tuple[float, float]:
    """Seconds that a picture and a checkpoint are likely to take."""
    began = time.perf_counter()
    _picture(trainer)
    seen = time.perf_counter() - began
    weights = sum(p.numel() * p.element_size() for p in trainer.modules.parameters())
    # the weights, two moments of each, and the averages
    return seen, 0.02 + weights * (3 + len(trainer.run.config.ema)) / _DISK


def _picture(trainer: Trainer) -> None:
    try:
        picture(trainer)
    except (RuntimeError, MemoryError) as error:
        # a run goes on without pictures
        if not is_lack(error):
            raise


def _steps_in(seconds: float, step: float, extra: tuple[float, float], run: Run) -> int:
    """How many steps, with the pictures and checkpoints that fall due, fit into the seconds."""
    each = step + sum(cost / every for cost, every in zip(extra, _distances(run), strict=True) if every)
    tenths = sum(cost for cost, every in zip(extra, _distances(run), strict=True) if not every)
    # a hundredth is left for the rest; of fewer than ten steps each has its picture and its checkpoint
    found = (0.99 * seconds - _TENTHS * tenths) / each
    return int(found if found >= _TENTHS else 0.99 * seconds / (each + tenths))


def _distances(run: Run) -> tuple[int, int]:
    return run.config.show, run.config.save
