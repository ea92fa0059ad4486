"""Which run a folder holds or would hold, and what may change while it goes on."""

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
from .place import require_writable
from .record import Earlier, Facts, Run, Start, read

OURS = ("config.json.tmp", ".lock")
# what a run may change while it goes on, beside the rate of its optimiser
_FREE = ("nonfinite", "save", "show", "keep")


@dataclass(frozen=True)
class Wish:
    """What a call of `training` asks for beside its configuration.

    more : steps to be added to a run that has ended. start : a trained model whose weights the run begins with. parts :
    classes of the caller's own that the configuration has.
    """

    more: int = 0
    start: Model | None = None
    parts: tuple[type, ...] = ()


def settle(out: Path, source: Source, config: Config, processes: int = 1, wish: Wish | None = None) -> Run:
    """The run that lives in `out`, with the changes asked for, or the one that would be made there; nothing is written.

    Raises TrainingError if the folder holds something else or cannot be written, and for changes that cannot be.
    """
    wish, place = wish or Wish(), out / "config.json"
    require_writable(out)
    if wish.more < 0:
        raise TrainingError(f"{wish.more} more steps were asked for; give at least 1")
    if wish.more and not place.exists():
        raise TrainingError(
            f"{wish.more} more steps were asked for, and {out} holds no run: train one first, with steps or minutes"
        )
    if config.steps is None and config.minutes is None:
        raise TrainingError("how long to train was not said: give steps or minutes")
    facts = facts_of(source, config, processes)
    if facts.origin:
        facts = replace(facts, origin=facts.origin.relative_to_folder(out))
    if not place.exists():
        _require_free(out)
        return _started(Run(config, facts), out, wish.start) if wish.start else Run(config, facts)
    try:
        found = read(place.read_text(encoding="utf-8"), wish.parts)
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{place} cannot be read: {error}") from error
    if found.facts.fingerprint != facts.fingerprint:
        raise TrainingError(
            f"{out} holds a run on other data ({found.facts.data}, {found.facts.fingerprint}; asked for were "
            f"{facts.data}, {facts.fingerprint}): name another folder, or the data that it was trained on"
        )
    _require_same_start(found, out, wish.start)
    # the data may have moved
    found = replace(found, facts=replace(found.facts, origin=facts.origin or found.facts.origin))
    found = _changed(found, config, out)
    if found.facts.cond_spec != facts.cond_spec:
        raise TrainingError(
            f"{out} holds a run with the conditions {found.facts.cond_spec}, and {source.name} offers "
            f"{facts.cond_spec}: name another folder, or the data that it was trained on"
        )
    return _lengthened(found, config, out, wish.more)


def noted(before: Run, now: Run, step: int) -> tuple[Run, tuple[str, ...]]:
    """The run with what held up to this step written down, if settings that decide its numbers have changed; and a
    sentence for each change."""
    old, new = before.config, now.config
    notes = []
    if (old.optimiser.rate, old.nonfinite) != (new.optimiser.rate, new.nonfinite):
        kept = tuple(one for one in now.earlier if one.until < step)
        now = replace(now, earlier=(*kept, Earlier(step, old.optimiser.rate, old.nonfinite)) if step else kept)
    pairs = [("optimiser.rate", old.optimiser.rate, new.optimiser.rate)]
    pairs += [(name, getattr(old, name), getattr(new, name)) for name in _FREE]
    notes += [f"from step {step + 1} on {name} is {b}; before it was {a}" for name, a, b in pairs if a != b]
    if before.facts.ends != now.facts.ends:
        notes.append(
            f"the run goes on to step {now.facts.steps}; from step {now.facts.ends[-1] + 1} on its rate rises and "
            "falls as in a run of its own"
        )
    return now, tuple(notes)


def _require_free(out: Path) -> None:
    if out.exists() and any(path.name not in OURS for path in out.iterdir()):
        raise TrainingError(f"{out} is not empty and holds no run of softmix: name another folder")


def _started(run: Run, out: Path, start: Model) -> Run:
    """A new run that begins with the weights of another, if they fit."""
    config, theirs = run.config, start.config
    parts = dict.fromkeys(name for task in (config.task, theirs.task) for name in getattr(task, "model_settings", ()))
    pairs = [(name, getattr(config.task, name, None), getattr(theirs.task, name, None)) for name in parts]
    pairs.append(("task", type(config.task).__name__, type(theirs.task).__name__))
    pairs.append(("shape of an item", run.facts.shape, start.facts.shape))
    pairs.append(("conditions", str(run.facts.cond_spec), str(start.facts.cond_spec)))
    apart = "; ".join(f"{name}: {ours} here, {other} there" for name, ours, other in pairs if ours != other)
    if apart:
        raise TrainingError(
            f"the weights of {start.path} were to be the start, and they do not fit: {apart}. Begin with the same "
            "settings (--config its config.json), or without --start"
        )
    kept = Start(_kept_in(start.path, out), start.weights, start.step, start.fingerprint)
    # the network scales what it is given and says by it
    return replace(run, facts=replace(run.facts, start=kept, data_sd=start.facts.data_sd))


def require_same_weights(model: nn.Module, start: Model) -> None:
    """Raises TrainingError unless a model has the weights of another, by their names and sizes."""
    ours, theirs = ({k: v.shape for k, v in each.state_dict().items()} for each in (model, start.network))
    other = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if other:
        raise TrainingError(
            f"the weights of {start.path} were to be the start, and they do not fit: {', '.join(other[:3])} "
            f"{'is' if len(other) == 1 else 'are'} of another size, or only in one of the two. Begin with the same "
            "settings (--config its config.json), or without --start"
        )


def _kept_in(path: Path, out: Path) -> str:
    return Origin(str(path.absolute())).relative_to_folder(out).source


def start_of(run: Run, out: Path) -> Path | None:
    """The folder of the run whose weights this one in `out` began with."""
    kept = run.facts.start
    return None if kept is None else Path(os.path.normpath(out.absolute() / kept.run))


def _require_same_start(found: Run, out: Path, start: Model | None) -> None:
    before = start_of(found, out)
    if start is not None and before != Path(os.path.normpath(start.path.absolute())):
        began = f"the weights of {before}" if before else "weights of its own"
        raise TrainingError(f"{out} holds a run that began with {began}, not with those of {start.path}")


def _changed(found: Run, config: Config, out: Path) -> Run:
    """The run with the settings that may change as they are asked for; its length is another matter."""
    free = {name: getattr(config, name) for name in _FREE}
    optimiser = replace(found.config.optimiser, rate=config.optimiser.rate)
    wanted = replace(found.config, **free, optimiser=optimiser)
    same = replace(config, steps=wanted.steps, minutes=wanted.minutes)
    if same != wanted:
        other = _apart(wanted, same)
        if "task" in other and type(wanted.task) is type(same.task):
            other = [*_apart(wanted.task, same.task), *(name for name in other if name != "task")]
        raise TrainingError(
            f"{out} holds a run with another {', '.join(other)}: name another folder, or repeat the settings in "
            f"{out / 'config.json'} (`softmix train --out {out}` goes on with them). While a run goes on only "
            f"optimiser.rate, {', '.join(_FREE)} may change, and it may be made longer"
        )
    return replace(found, config=wanted)


def _apart(one: Any, other: Any) -> list[str]:
    """The fields of two dataclasses of one class that differ."""
    return [field.name for field in fields(one) if getattr(one, field.name) != getattr(other, field.name)]


def _lengthened(found: Run, config: Config, out: Path, more: int) -> Run:
    facts = found.facts
    asked = (config.steps, config.minutes)
    if facts.steps is None:
        if more or asked != (found.config.steps, found.config.minutes):
            raise TrainingError(
                f"{out} holds a run of {found.config.minutes} minutes that has not begun: finish it first"
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


def _longer(found: Run, steps: int) -> Run:
    facts = found.facts
    assert facts.steps is not None
    return replace(found, facts=replace(facts, ends=(*facts.ends, facts.steps), steps=steps))


def _is_next(found: Run, out: Path, more: int) -> bool:
    """Whether so many more steps are to be added, or are those that the run is about to take already."""
    facts, done = found.facts, checkpoint.newest(out / "checkpoints")
    if done == facts.steps:
        return True
    if facts.steps is not None and facts.ends and facts.steps - facts.ends[-1] == more:
        return False
    raise TrainingError(
        f"{out} has done {done or 0} of {facts.steps} steps, and {more} more were asked for: let it end first, by the "
        f"same command without --more, or say the whole length, --steps {(facts.steps or 0) + more}"
    )


__all__ = ["OURS", "Facts", "Wish", "noted", "settle", "start_of"]
