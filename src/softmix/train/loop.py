"""The room of training: the loop, as a generator that the caller drives.

    for step in training(data, config, "runs/x"):
        ...

All randomness is a function of (seed, number of the item, role) and all else is in the checkpoint, so the
same call continues a run that was cut off and ends with the same bits as one left alone. So does its log: what
depends on the clock is in a file of its own, speed.jsonl.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ..config import ConfigError, dumps, loads
from ..data import Data
from .config import Config, Run
from .halt import StoppedError
from .trainer import Trainer, TrainingError, facts_of, times
from .world import LostError, World, join, whole

_CALIBRATE = (5, 25)
_LOG, _SPEED, _LOCK = "log.jsonl", "speed.jsonl", ".lock"
_OURS = ("config.json.tmp", _LOCK)


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


def settle(out: Path, data: Data, config: Config, processes: int = 1) -> Run:
    """The run that lives in `out`, or the one that would be made there; nothing is written.

    Raises TrainingError if the folder holds something else.
    """
    place = out / "config.json"
    if config.steps is None and config.minutes is None:
        raise TrainingError("how long to train was not said: give steps or minutes")
    facts = facts_of(data, config, processes)
    asked = Run(config, replace(facts, origin=facts.origin.kept_in(out)) if facts.origin else facts)
    if not place.exists():
        if out.exists() and not out.is_dir():
            raise TrainingError(f"{out} is a file: name a folder for the run")
        if out.exists() and any(path.name not in _OURS for path in out.iterdir()):
            raise TrainingError(f"{out} is not empty and holds no run of softmix: name another folder")
        return asked
    try:
        found = loads(Run, place.read_text())
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{place} cannot be read: {error}") from error
    if found.config != config:
        other = [name for name in Config.__dataclass_fields__ if getattr(found.config, name) != getattr(config, name)]
        raise TrainingError(
            f"{out} holds a run with another {', '.join(other)}: name another folder, or repeat the settings in {place}"
        )
    if found.facts.fingerprint != asked.facts.fingerprint:
        raise TrainingError(
            f"{out} holds a run on other data ({found.facts.data}, {found.facts.fingerprint}): name another folder"
        )
    return found


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """One process at a time trains the run in `out`. The lock is the operating system's: it ends with the process."""
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise TrainingError(
            f"{out} is being trained by another process: wait for its end or stop it, or name another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def training(
    data: Data, config: Config, out: str | Path, stop: Callable[[], int] = lambda: 0, shard: bool = False
) -> Generator[TrainStep, None, None]:
    """Trains, or goes on training, the run in folder `out`, yielding after every step.

    A caller that leaves the loop, or an error of its own, leaves a checkpoint of the last step behind.

    Parameters
    ----------
    stop : asked after every step; a number other than 0 ends the loop with StoppedError, after a checkpoint.
    shard : of several processes (torchrun), each keeps a part of the weights (FSDP2), and not all of them (DDP).

    Raises TrainingError, before anything is written, if the folder holds another run or another process trains it,
    and when the loss is not finite under the policy "stop"; LostError if another process of the run has ended.
    """
    out, world = Path(out), join()
    if shard and world.size == 1:
        raise TrainingError("shard divides the weights among processes, and there is one: start it with torchrun")
    run = loads(Run, world.told(dumps(settle(out, data, config, world.size))))
    trainer = _able(run, data, out, world, shard)
    with alone(out) if world.first else nullcontext():
        # again, since another process may have made or continued it in the meantime
        now = settle(out, data, config, world.size) if world.first else run
        if world.first and not (out / "config.json").exists():
            _write(out / "config.json", dumps(now))
        now = loads(Run, world.told(dumps(now)))
        if now != run:
            trainer = Trainer(now, data, out, world, shard)
        notes = tuple(trainer.load())
        if world.first:
            _forget(out, trainer.step)
        if trainer.step == 0:
            # so that there is always something to roll back to
            trainer.save()
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


def _able(run: Run, data: Data, out: Path, world: World, shard: bool) -> Trainer:
    """A trainer that has shown that it can compute a loss and its gradient."""
    try:
        trainer = Trainer(run, data, out, world, shard)
        trainer.try_out()
    except LostError:
        raise
    except Exception as error:  # parts that do not fit each other fail in any way they like
        told = " ".join(str(error).split()) or type(error).__name__
        raise TrainingError(
            f"this configuration cannot be trained on {data.name}, items {data.shape}: {told}"
        ) from error
    return trainer


def _steps(trainer: Trainer, notes: tuple[str, ...], stop: Callable[[], int]) -> Iterator[TrainStep]:
    config, world = trainer.run.config, trainer.world
    clock, began = time.perf_counter(), trainer.step
    failures = 0
    while trainer.total is None or trainer.step < trainer.total:
        before = trainer.step
        loss, norm = trainer.advance()
        if trainer.step == before:
            failures += 1
            notes += (_failed(trainer, loss, norm, failures),)
            continue
        failures = 0
        now = time.perf_counter()
        if trainer.step - began == _CALIBRATE[0]:
            clock = now
        done = trainer.step - began - _CALIBRATE[0]
        speed = done * config.batch / (now - clock) if done > 0 else 0.0
        if trainer.total is None and done >= _CALIBRATE[1] - _CALIBRATE[0]:
            notes += (_fix_total(trainer, speed),)
        report = TrainStep(trainer.step, trainer.total, loss, norm, trainer.rate(), speed, notes)
        _record(trainer, report)
        notes = ()
        yield report
        number = stop()
        # all processes stop after the same step
        numbers, some = world.total([number, bool(number)])
        if some and trainer.step != trainer.total:
            trainer.save()
            length = f" of {trainer.total}" if trainer.total else ""
            sentence = f"stopped after step {trainer.step}{length}, and saved: the same command goes on from there"
            raise StoppedError(sentence, round(numbers / some))


def _fix_total(trainer: Trainer, speed: float) -> str:
    """From the speed so far, how many steps fit into the minutes asked for; written down for good."""
    config = trainer.run.config
    assert config.minutes is not None
    first = config.batch / speed
    keeps = getattr(trainer.loss, "keeps", 1.0)
    later = trainer.seconds_later() if keeps < 1 else first
    # a twentieth is left for checkpoints and pictures
    seconds = 0.95 * 60 * config.minutes
    total = max(trainer.step + 1, int(seconds / (keeps * first + (1 - keeps) * later)))
    trainer.total = int(trainer.world.told(str(total)))
    trainer.run = replace(trainer.run, facts=replace(trainer.run.facts, steps=trainer.total))
    if trainer.world.first:
        _write(trainer.out / "config.json", dumps(trainer.run))
    return f"{speed:.0f} images a second: {trainer.total} steps in {config.minutes:g} minutes"


def _write(place: Path, text: str) -> None:
    """Writes a small file so that it is the old one or the new one at every instant."""
    aside = place.with_name(place.name + ".tmp")
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(place)


def log_of(run: Path, name: str = _LOG) -> list[dict[str, Any]]:
    """The lines of a run's log, without what is no line of it: the last may be cut off, and a file may be damaged."""
    if not (run / name).exists():
        return []
    found = []
    for line in (run / name).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            found.append(value)
    return found


def _forget(out: Path, step: int) -> None:
    """Drops the lines of steps that will be taken again."""
    for name in (_LOG, _SPEED):
        if (out / name).exists():
            lines = [json.dumps(line) for line in log_of(out, name) if line["step"] <= step]
            _write(out / name, "".join(line + "\n" for line in lines))


def _record(trainer: Trainer, step: TrainStep) -> None:
    """Log, pictures and checkpoints, as they fall due."""
    config, tenth = trainer.run.config, max((trainer.total or 10**9) // 10, 1)
    last = step.step == trainer.total
    if step.step % 10 == 0 or last or step.notes:
        line = {"step": step.step, "loss": step.loss, "norm": step.norm, "rate": step.rate}
        _log(trainer, _LOG, line | ({"notes": list(step.notes)} if step.notes else {}))
        if step.images_per_second:
            _log(trainer, _SPEED, {"step": step.step, "images_per_second": round(step.images_per_second, 1)})
    if last or step.step % (config.show or tenth) == 0:
        trainer.show()
    if last or step.step % (config.save or tenth) == 0:
        trainer.save()


def _log(trainer: Trainer, name: str, line: dict[str, object]) -> None:
    if not trainer.world.first:
        return
    with open(trainer.out / name, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _failed(trainer: Trainer, loss: float, norm: float, failures: int) -> str:
    """What happens after a loss or gradient that is not finite, and a sentence about it."""
    policy, first = trainer.run.config.nonfinite, trainer.step * trainer.run.config.batch
    items = torch.arange(first, first + trainer.run.config.batch)
    t = times(trainer.run.config, items, trainer.attempt)
    worst = {name: float(whole(p.detach()).abs().max()) for name, p in trainer.network.named_parameters()}
    name = max(worst, key=lambda key: worst[key] if worst[key] == worst[key] else float("inf"))
    what = (
        f"step {trainer.step + 1}: loss {loss}, gradient norm {norm}; items {first} to {first + len(items) - 1}, "
        f"t from {float(t.min()):.4f} to {float(t.max()):.4f}; largest weight {worst[name]:.3g} in {name}"
    )
    _log(trainer, _LOG, {"step": trainer.step + 1, "nonfinite": what, "policy": policy})
    if policy == "stop" or failures >= 10:
        raise TrainingError(
            f"{what}. Nothing of it was kept. The checkpoint before is in {trainer.out / 'checkpoints'}; "
            "lower the rate, or choose nonfinite skip or rollback."
        )
    if policy == "rollback":
        attempt = trainer.attempt + 1
        trainer.load()
        trainer.attempt = attempt
        return f"{what}; rolled back to step {trainer.step}, with other draws from here"
    trainer.step += 1
    return f"{what}; this step was skipped"
