"""The loop, as a generator that the caller drives.

    for step in training(data, config, "runs/x"):
        ...

All randomness is a function of (seed, number of the item, role) and all else is in the checkpoint, so the
same call continues a run that was cut off and ends with the same bits as one left alone. So does its log: what
depends on the clock is in a file of its own, speed.jsonl.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from ..config import dumps, loads
from ..data import Source
from .config import Config
from .halt import StoppedError
from .log import LOG, SPEED, add, forget, log_of, write
from .make import TrainingError
from .memory import MemoryLackError, is_lack
from .model import Model, RunError
from .model import load as load_model
from .pictures import show
from .record import Run, read
from .rehearse import Say, lack, no_room, rehearse, try_out
from .settle import Wish, noted, require_same_weights, settle, start_of
from .trainer import Trainer
from .world import LostError, World, join, whole

_WARM = 5
# failures in a row after which a run gives up
_TRIES = 10


@dataclass(frozen=True)
class TrainStep:
    """What one step did. step counts from 1; total is None until it is known; loss and norm are from before
    the update; notes are sentences for the reader."""

    step: int
    total: int | None
    loss: float
    norm: float
    rate: float
    images_per_second: float
    notes: tuple[str, ...] = ()


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """One process at a time trains the run in `out`. The lock is the operating system's: it ends with the process."""
    lock = FileLock(out / ".lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout):
            raise _taken(out) from None
        raise TrainingError(f"{out} cannot be the folder of a run: {error}; name another folder") from error
    try:
        yield
    finally:
        lock.release()


def _taken(out: Path) -> TrainingError:
    return TrainingError(
        f"{out} is being trained by another process: wait for its end or stop it, or name another folder"
    )


def training(
    source: Source,
    config: Config,
    out: str | Path,
    stop: Callable[[], int] = lambda: 0,
    shard: bool = False,
    *,
    more: int = 0,
    start: Model | None = None,
    say: Say = lambda sentence: None,
    parts: Sequence[type] = (),
) -> Generator[TrainStep, None, None]:
    """Trains, or goes on training, the run in folder `out`, yielding after every step.

    A caller that leaves the loop, or an error of its own, leaves a checkpoint of the last step behind. A run that has
    ended yields nothing. While it goes on, its rate, nonfinite, save, show and keep may change, and `config.steps` may
    be more than it was: from there on the rate rises and falls as in a run of its own. What changed, and when, is in
    config.json.

    Parameters
    ----------
    stop : asked after every step; a number other than 0 ends the loop with StoppedError, after a checkpoint.
    shard : of several processes (torchrun), each keeps a part of the weights (FSDP2), and not all of them (DDP).
    more : steps to be added to a run that has ended; the same call, cut off, goes on and adds no others.
    start : a model whose weights, averaged unless it was loaded with others, the run begins with.
    say : told, before the first step of a new run, what is tried and what was found: its speed, the memory.
    parts : classes of your own that the configuration has: a task, a loss, a network (docs/extend.md).

    Raises TrainingError, before anything is written, if the folder holds another run or cannot be written, if memory
    does not suffice or another process trains it, and when the loss is not finite under the policy "stop"; LostError
    if another process of the run has ended.
    """
    if isinstance(source, str | Path):
        raise TrainingError(f"{source} was given as the data, and is a name: give softmix.data.load({str(source)!r})")
    out, world, wish = Path(out), join(), Wish(more, start, tuple(parts))
    if shard and world.size == 1:
        raise TrainingError("shard divides the weights among processes, and there is one: start it with torchrun")

    def heard(sentence: str) -> None:
        say(sentence)
        if world.size == 1 and stop():
            raise StoppedError("stopped before the first step, and nothing was written", stop())

    def heard_by(run: Run) -> Run:
        """The run as the first process has it."""
        return loads(Run, world.broadcast(dumps(run, parts)), parts)

    run = heard_by(settle(out, source, config, world.size, wish))
    new = world.broadcast("new" if not (out / "config.json").exists() else "old") == "new"
    trainer = _able(run, source, out, world, shard, wish.parts)
    if new:
        if start is not None:
            require_same_weights(trainer.model, start)
        with _sentence(source):
            run = heard_by(rehearse(trainer, heard))
    with alone(out) if world.first else nullcontext():
        now = run
        if world.first and (not new or (out / "config.json").exists()):
            # again, since another process may have made or continued it in the meantime
            now = settle(out, source, config, world.size, wish)
        now = heard_by(now)
        if now != run:
            trainer = Trainer(now, source, out, world, shard, wish.parts)
        notes = _ready(trainer, wish, heard, heard_by)
        try:
            yield from _steps(trainer, notes, stop)
        except GeneratorExit:
            if world.size == 1:
                # of several processes the others may be elsewhere
                trainer.save()
            raise
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "the disk is full: free some space" if full else f"{error}: put that right"
            raise TrainingError(
                f"{out} could not be written after step {trainer.step}: {why}, and run the same command again. "
                f"It goes on from the checkpoint of step {trainer.saved}"
            ) from error


def _ready(trainer: Trainer, wish: Wish, say: Say, heard_by: Callable[[Run], Run]) -> tuple[str, ...]:
    """Brings a trainer to where its run stands, and writes down what has changed. Sentences about it."""
    out, world, place = trainer.out, trainer.world, trainer.out / "config.json"
    before = read(place.read_text(encoding="utf-8"), wish.parts) if world.first and place.exists() else trainer.run
    if world.first and not place.exists():
        write(place, dumps(trainer.run, wish.parts))
    notes = trainer.load()
    if trainer.total is None:
        # of 0.1, which set its length while it trained, and was stopped before
        rehearse(trainer, say)
        trainer.load()
    if trainer.saved < 0 and trainer.run.facts.start:
        trainer.begin_from(_weights(trainer, wish.start))
    run, changes = noted(before, trainer.run, trainer.step)
    trainer.run = heard_by(run)
    if world.first:
        if trainer.run != before:
            write(place, dumps(trainer.run, wish.parts))
        forget(out, trainer.step)
    if trainer.step == 0:
        # so that there is always something to roll back to
        trainer.save()
    return (*notes, *changes)


def _weights(trainer: Trainer, start: Model | None) -> dict[str, torch.Tensor]:
    """The weights that the run begins with; they must be those that it was made for."""
    kept, place = trainer.run.facts.start, start_of(trainer.run, trainer.out)
    assert kept is not None
    try:
        found = start if start is not None else load_model(place or kept.run, kept.weights, trainer.own)
    except RunError as error:
        raise TrainingError(f"{trainer.out} begins with the weights of {place}: {error}") from error
    if found.fingerprint != kept.fingerprint:
        raise TrainingError(
            f"{trainer.out} was to begin with the weights {kept.fingerprint} of {place} (step {kept.step}), which has "
            f"{found.fingerprint} (step {found.step}) now: name another folder"
        )
    return found.network.state_dict()


def _able(run: Run, source: Source, out: Path, world: World, shard: bool, own: tuple[type, ...]) -> Trainer:
    """A trainer that has shown that it can compute a loss and its gradient."""
    with _sentence(source):
        trainer = Trainer(run, source, out, world, shard, own)
        try_out(trainer)
    return trainer


@contextmanager
def _sentence(source: Source) -> Iterator[None]:
    """Makes a sentence of the error of parts that do not go with each other, or with the data."""
    try:
        yield
    except (LostError, TrainingError):
        raise
    except Exception as error:  # parts that do not fit each other fail in any way they like
        if is_lack(error):
            raise no_room("two items", source.shape, error) from error
        told = " ".join(str(error).split()) or type(error).__name__
        raise TrainingError(
            f"this configuration cannot be trained on {source.name}, items {source.shape}: {told}"
        ) from error


def _steps(trainer: Trainer, notes: tuple[str, ...], stop: Callable[[], int]) -> Iterator[TrainStep]:
    config, world = trainer.run.config, trainer.world
    clock, began = time.perf_counter(), trainer.step
    failures, worst = 0, -1
    while trainer.total is None or trainer.step < trainer.total:
        before = trainer.step
        try:
            loss, norm = trainer.advance()
        except MemoryLackError as error:
            notes += (_in_more_parts(trainer, error),)
            continue
        if trainer.step == before:
            failures, worst = failures + 1, max(worst, before)
            notes += (_failed(trainer, loss, norm, failures),)
            continue
        # after a rollback the steps before the one that failed are no sign that it will not fail again
        failures = failures if trainer.step <= worst else 0
        now = time.perf_counter()
        if trainer.step - began == _WARM:
            clock = now
        done = trainer.step - began - _WARM
        speed = done * config.batch / (now - clock) if done > 0 else 0.0
        report = TrainStep(trainer.step, trainer.total, loss, norm, trainer.rate(), speed, notes)
        without = _record(trainer, report)
        yield report if not without else replace(report, notes=(*notes, without))
        notes = ()
        number = stop()
        # all processes stop after the same step
        numbers, some = world.total([number, bool(number)])
        if some and trainer.step != trainer.total:
            trainer.save()
            length = f" of {trainer.total}" if trainer.total else ""
            sentence = f"stopped after step {trainer.step}{length}, and saved: the same command goes on from there"
            raise StoppedError(sentence, round(numbers / some))
    # the last step may have been skipped
    trainer.save()


def _in_more_parts(trainer: Trainer, error: MemoryLackError) -> str:
    """Halves the parts of a batch from here on, in config.json too, so that a run that is continued does the same."""
    sentence = lack(trainer, error)
    if trainer.world.first:
        write(trainer.out / "config.json", dumps(trainer.run, trainer.own))
    return sentence


def _record(trainer: Trainer, step: TrainStep) -> str:
    """Log, pictures and checkpoints, as they fall due. A sentence about a picture that could not be made."""
    config, tenth = trainer.run.config, max((trainer.total or 10**9) // 10, 1)
    last, without = step.step == trainer.total, ""
    if step.step % 10 == 0 or last or step.notes:
        line = {"step": step.step, "loss": step.loss, "norm": step.norm, "rate": step.rate}
        _log(trainer, LOG, line | ({"notes": list(step.notes)} if step.notes else {}))
        if step.images_per_second:
            _log(trainer, SPEED, {"step": step.step, "images_per_second": round(step.images_per_second, 1)})
    if last or step.step % (config.show or tenth) == 0:
        without = show(trainer)
    if last or step.step % (config.save or tenth) == 0:
        trainer.save()
    return without


def _log(trainer: Trainer, name: str, line: dict[str, object]) -> None:
    if trainer.world.first:
        add(trainer.out, name, line)


def _failed(trainer: Trainer, loss: float, norm: float, failures: int) -> str:
    """What happens after a loss or gradient that is not finite, and a sentence about it."""
    policy, first = trainer.run.nonfinite(trainer.step), trainer.step * trainer.run.config.batch
    items = torch.arange(first, first + trainer.run.config.batch)
    module = trainer.modules[trainer.turn]
    worst = {name: float(whole(p.detach()).abs().max()) for name, p in module.named_parameters()}
    name = max(worst, key=lambda key: worst[key] if worst[key] == worst[key] else float("inf"))
    of = "" if trainer.turn == "model" else f" of {trainer.turn}"
    what = (
        f"step {trainer.step + 1}: loss {loss}{of}, gradient norm {norm}; items {first} to {first + len(items) - 1}, "
        f"{trainer.task.said(trainer.batch(items))}; largest weight {worst[name]:.3g} in {name}"
    )
    _log(trainer, LOG, {"step": trainer.step + 1, "nonfinite": what, "policy": policy})
    if policy == "stop" or failures >= _TRIES:
        raise TrainingError(f"{what}. Nothing of it was kept{_advice(trainer, policy)}")
    if policy == "rollback":
        attempt = trainer.attempt + 1
        trainer.load()
        trainer.attempt = attempt
        return f"{what}; rolled back to step {trainer.step}, with other draws from here"
    trainer.step += 1
    return f"{what}; this step was skipped"


def _advice(trainer: Trainer, policy: str) -> str:
    """What can be done about a loss that is not finite: all of it is taken by a run that goes on."""
    lower = f"--set optimiser.rate={trainer.run.peak(trainer.step) / 3:.1g}"
    goes_on = f"; the run goes on from step {trainer.saved} if you add one of these to the same command: {lower}"
    if policy != "stop":
        return f", and {_TRIES} tries with nonfinite = {policy} did not help{goes_on.replace('one of these', 'this')}"
    return f"{goes_on}, or --set nonfinite=rollback (other draws), or --set nonfinite=skip (without this step)"


__all__ = ["TrainStep", "alone", "log_of", "training"]
