"""The room of training: the loop, as a generator that the caller drives.

    for step in training(data, config, "runs/x"):
        ...

All randomness is a function of (seed, number of the item, role) and all else is in the checkpoint, so the
same call continues a run that was cut off and ends with the same bits as one left alone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..config import ConfigError, dumps, loads
from ..data import Data
from .config import Config, Run
from .trainer import Trainer, TrainingError, facts_of, times

_CALIBRATE = (5, 25)


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


def settle(out: Path, data: Data, config: Config) -> Run:
    """The run that lives in `out`: a new one, or the one found there if it is the same."""
    place = out / "config.json"
    if config.steps is None and config.minutes is None:
        raise TrainingError("how long to train was not said: give steps or minutes")
    asked = Run(config, facts_of(data, config))
    if not place.exists():
        if out.exists() and any(path.name != "config.json.tmp" for path in out.iterdir()):
            raise TrainingError(f"{out} is not empty and holds no run of softmix: name another folder")
        out.mkdir(parents=True, exist_ok=True)
        _write(place, dumps(asked))
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


def training(data: Data, config: Config, out: str | Path) -> Iterator[TrainStep]:
    """Trains, or goes on training, the run in folder `out`, yielding after every step.

    Raises TrainingError, before anything is written, if the folder holds another run, and when the loss is
    not finite under the policy "stop".
    """
    out = Path(out)
    run = settle(out, data, config)
    trainer = Trainer(run, data, out)
    notes = tuple(trainer.load())
    _forget(out / "log.jsonl", trainer.step)
    if trainer.step == 0:
        # so that there is always something to roll back to
        trainer.save()
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


def _fix_total(trainer: Trainer, speed: float) -> str:
    """From the speed so far, how many steps fit into the minutes asked for; written down for good."""
    config = trainer.run.config
    assert config.minutes is not None
    first = config.batch / speed
    keeps = getattr(trainer.loss, "keeps", 1.0)
    later = trainer.seconds_later() if keeps < 1 else first
    # a twentieth is left for checkpoints and pictures
    seconds = 0.95 * 60 * config.minutes
    trainer.total = max(trainer.step + 1, int(seconds / (keeps * first + (1 - keeps) * later)))
    trainer.run = replace(trainer.run, facts=replace(trainer.run.facts, steps=trainer.total))
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


def _forget(log: Path, step: int) -> None:
    """Drops the lines of steps that will be taken again."""
    if log.exists():
        kept = [
            line for line in log.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= step
        ]
        _write(log, "".join(line + "\n" for line in kept))


def _record(trainer: Trainer, step: TrainStep) -> None:
    """Log, pictures and checkpoints, as they fall due."""
    config, tenth = trainer.run.config, max((trainer.total or 10**9) // 10, 1)
    last = step.step == trainer.total
    if step.step % 10 == 0 or last or step.notes:
        line = {
            "step": step.step,
            "loss": step.loss,
            "norm": step.norm,
            "rate": step.rate,
            "images_per_second": round(step.images_per_second, 1),
        }
        _log(trainer, line | ({"notes": list(step.notes)} if step.notes else {}))
    if last or step.step % (config.show or tenth) == 0:
        trainer.show()
    if last or step.step % (config.save or tenth) == 0:
        trainer.save()


def _log(trainer: Trainer, line: dict[str, object]) -> None:
    with open(trainer.out / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _failed(trainer: Trainer, loss: float, norm: float, failures: int) -> str:
    """What happens after a loss or gradient that is not finite, and a sentence about it."""
    policy, first = trainer.run.config.nonfinite, trainer.step * trainer.run.config.batch
    items = torch.arange(first, first + trainer.run.config.batch)
    t = times(trainer.run.config, items, trainer.attempt)
    worst = {name: float(p.detach().abs().max()) for name, p in trainer.network.named_parameters()}
    name = max(worst, key=lambda key: worst[key] if worst[key] == worst[key] else float("inf"))
    what = (
        f"step {trainer.step + 1}: loss {loss}, gradient norm {norm}; items {first} to {first + len(items) - 1}, "
        f"t from {float(t.min()):.4f} to {float(t.max()):.4f}; largest weight {worst[name]:.3g} in {name}"
    )
    _log(trainer, {"step": trainer.step + 1, "nonfinite": what, "policy": policy})
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
