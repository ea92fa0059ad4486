"""Compare a call of `training` with the run in its folder: start the run, resume it, change it, or refuse."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..config import ConfigError
from ..data import Source
from ..data.origin import Origin
from . import checkpoint
from .config import Config
from .make import TrainingError, facts_of
from .model import Model
from .record import EarlierSettings, Facts, Run, StartingRun, read
from .writable import require_writable

OWN_FILES = ("config.json.tmp", ".lock")
# settings that may change when a run is resumed, beside optimiser.rate
_FREE = ("nonfinite", "save", "show", "keep", "graph")


@dataclass(frozen=True)
class ResumeRequest:
    """The arguments of a call of `training` beside its configuration.

    more : steps to be added to a finished run.
    start : a trained model that gives the initial weights.
    parts : classes of the caller in the configuration.
    """

    more: int = 0
    start: Model | None = None
    parts: tuple[type, ...] = ()


def resolve_run(
    out: Path, source: Source, config: Config, processes: int = 1, request: ResumeRequest | None = None
) -> Run:
    """The run in the folder `out` with the changes of this call, or a new run. Writes nothing.

    processes : the number of processes.

    Raises TrainingError for a folder with other content, a folder that cannot be written, and a change that is not
    allowed.
    """
    request, place = request or ResumeRequest(), out / "config.json"
    require_writable(out)
    if request.more < 0:
        raise TrainingError(f"{request.more} more steps were asked for; give at least 1")
    if request.more and not place.exists():
        raise TrainingError(
            f"{request.more} more steps were asked for, and {out} holds no run: train one first, with steps or minutes"
        )
    if config.steps is None and config.minutes is None:
        raise TrainingError("the length of the run is missing: give steps or minutes")
    facts = facts_of(source, config, processes)
    if facts.origin:
        facts = replace(facts, origin=facts.origin.relative_to_folder(out))
    if not place.exists():
        _require_free(out)
        return _started(Run(config, facts), out, request.start) if request.start else Run(config, facts)
    try:
        found = read(place.read_text(encoding="utf-8"), request.parts)
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{place} cannot be read: {error}") from error
    if found.facts.fingerprint != facts.fingerprint:
        raise TrainingError(
            f"{out} holds a run on other data ({found.facts.data}, {found.facts.fingerprint}; asked for were "
            f"{facts.data}, {facts.fingerprint}): name another folder, or the data that it was trained on"
        )
    _require_same_start(found, out, request.start)
    # the data may have moved
    found = replace(found, facts=replace(found.facts, origin=facts.origin or found.facts.origin))
    found = _changed(found, config, out)
    if found.facts.cond_spec != facts.cond_spec:
        raise TrainingError(
            f"{out} holds a run with the conditions {found.facts.cond_spec}, and {source.name} offers "
            f"{facts.cond_spec}: name another folder, or the data that it was trained on"
        )
    return _lengthened(found, config, out, request.more)


def record_changes(before: Run, now: Run, step: int) -> tuple[Run, tuple[str, ...]]:
    """Record a change of settings that decide the numbers of a run, in `Run.earlier`.

    before, now : the run in config.json, and the run of this call.
    step : the step of the last checkpoint; the change holds from the next.
    Returns the run, and a sentence for each change.
    """
    old, new = before.config, now.config
    notes = []
    if (old.optimiser.rate, old.nonfinite) != (new.optimiser.rate, new.nonfinite):
        past = tuple(each for each in now.earlier if each.until < step)
        now = replace(now, earlier=(*past, EarlierSettings(step, old.optimiser.rate, old.nonfinite)) if step else past)
    pairs = [("optimiser.rate", old.optimiser.rate, new.optimiser.rate)]
    pairs += [(name, getattr(old, name), getattr(new, name)) for name in _FREE]
    notes += [f"from step {step + 1} on {name} is {b}; before it was {a}" for name, a, b in pairs if a != b]
    if before.facts.ends != now.facts.ends:
        notes.append(
            f"the run continues to step {now.facts.steps}; from step {now.facts.ends[-1] + 1} on its rate rises and "
            "falls as in a run of its own"
        )
    return now, tuple(notes)


def _require_free(out: Path) -> None:
    if out.exists() and any(path.name not in OWN_FILES for path in out.iterdir()):
        raise TrainingError(f"{out} is not empty and holds no run of softmix: name another folder")


def _started(run: Run, out: Path, start: Model) -> Run:
    """A new run with the initial weights of another. Raises TrainingError if they do not fit."""
    config, theirs = run.config, start.config
    parts = dict.fromkeys(name for task in (config.task, theirs.task) for name in getattr(task, "model_settings", ()))
    pairs = [(name, getattr(config.task, name, None), getattr(theirs.task, name, None)) for name in parts]
    pairs.append(("task", type(config.task).__name__, type(theirs.task).__name__))
    pairs.append(("shape of an item", run.facts.shape, start.facts.shape))
    pairs.append(
        ("symbols", (run.facts.vocabulary, run.facts.alphabet), (start.facts.vocabulary, start.facts.alphabet))
    )
    pairs.append(("conditions", str(run.facts.cond_spec), str(start.facts.cond_spec)))
    differences = "; ".join(f"{name}: {own} here, {other} there" for name, own, other in pairs if own != other)
    if differences:
        raise TrainingError(
            f"the weights of {start.path} were to be the start, and they do not fit: {differences}. Begin with the "
            "same settings (--config its config.json), or without --start"
        )
    starting = StartingRun(_relative(start.path, out), start.weights, start.step, start.fingerprint)
    # the network scales its input and output by data_sd
    return replace(run, facts=replace(run.facts, start=starting, data_sd=start.facts.data_sd))


def require_same_weights(model: nn.Module, start: Model) -> None:
    """Raises TrainingError if the weights of two models differ in names or sizes."""
    ours, theirs = ({k: v.shape for k, v in each.state_dict().items()} for each in (model, start.network))
    other = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if other:
        raise TrainingError(
            f"the weights of {start.path} were to be the start, and they do not fit: {', '.join(other[:3])} "
            f"{'is' if len(other) == 1 else 'are'} of another size, or only in one of the two. Begin with the same "
            "settings (--config its config.json), or without --start"
        )


def _relative(path: Path, out: Path) -> str:
    return Origin(str(path.absolute())).relative_to_folder(out).source


def start_folder(run: Run, out: Path) -> Path | None:
    """The folder of the run that gave the initial weights of the run in `out`. None without one."""
    start = run.facts.start
    return None if start is None else Path(os.path.normpath(out.absolute() / start.run))


def _require_same_start(found: Run, out: Path, start: Model | None) -> None:
    before = start_folder(found, out)
    if start is not None and before != Path(os.path.normpath(start.path.absolute())):
        began = f"the weights of {before}" if before else "weights of its own"
        raise TrainingError(f"{out} holds a run that began with {began}, not with those of {start.path}")


def _changed(found: Run, config: Config, out: Path) -> Run:
    """The run with changed settings, apart from its length. Raises TrainingError for settings that may not change."""
    free = {name: getattr(config, name) for name in _FREE}
    optimiser = replace(found.config.optimiser, rate=config.optimiser.rate)
    wanted = replace(found.config, **free, optimiser=optimiser)
    same = replace(config, steps=wanted.steps, minutes=wanted.minutes)
    if same != wanted:
        other = _different(wanted, same)
        if "task" in other and type(wanted.task) is type(same.task):
            other = [*_different(wanted.task, same.task), *(name for name in other if name != "task")]
        raise TrainingError(
            f"{out} holds a run with another {', '.join(other)}: name another folder, or repeat the settings in "
            f"{out / 'config.json'} (`softmix train --out {out}` continues with them). In a resumed run only "
            f"optimiser.rate, {', '.join(_FREE)} may change, and it may be made longer"
        )
    return replace(found, config=wanted)


def _different(one: Any, other: Any) -> list[str]:
    """The fields of two dataclasses of one class that differ."""
    return [field.name for field in fields(one) if getattr(one, field.name) != getattr(other, field.name)]


def _lengthened(found: Run, config: Config, out: Path, more: int) -> Run:
    facts = found.facts
    asked = (config.steps, config.minutes)
    if facts.steps is None:
        if more or asked != (found.config.steps, found.config.minutes):
            raise TrainingError(
                f"{out} holds a run of {found.config.minutes} minutes that has not begun: complete it first"
            )
        return found
    if more:
        return _longer(found, facts.steps + more) if _is_next(found, out, more) else found
    if asked == (found.config.steps, found.config.minutes) or config.steps == facts.steps:
        return found
    if config.steps is None or config.steps < facts.steps:
        wanted = f"{config.minutes:g} minutes" if config.steps is None else f"{config.steps} steps"
        raise TrainingError(
            f"{out} holds a run of {facts.steps} steps, and {wanted} were asked for. A run can be made longer, by more "
            "steps (--more STEPS), and not shorter: name another folder"
        )
    return _longer(found, config.steps)


def _longer(run: Run, steps: int) -> Run:
    facts = run.facts
    assert facts.steps is not None
    return replace(run, facts=replace(facts, ends=(*facts.ends, facts.steps), steps=steps))


def _is_next(found: Run, out: Path, more: int) -> bool:
    """True for steps to be added. False if an earlier call has added them, and the run has not finished them."""
    facts, done = found.facts, checkpoint.newest_step(out / "checkpoints")
    if done == facts.steps:
        return True
    if facts.steps is not None and facts.ends and facts.steps - facts.ends[-1] == more:
        return False
    raise TrainingError(
        f"{out} has done {done or 0} of {facts.steps} steps, and {more} more were asked for: complete it first, by the "
        f"same command without --more, or give the whole length, --steps {(facts.steps or 0) + more}"
    )


__all__ = ["OWN_FILES", "Facts", "ResumeRequest", "record_changes", "resolve_run", "start_folder"]
