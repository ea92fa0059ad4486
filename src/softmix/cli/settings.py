"""The command line: from what was said to the configuration of a run and to its data."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import ModelName, UsageError, load_data

if TYPE_CHECKING:
    from ..data import Data
    from ..train import Config, Run


@dataclass(frozen=True)
class Behind:
    """The run whose settings stand behind a command, for what it does not say. role : config, out or start."""

    folder: Path
    run: Run
    role: str


def behind(out: Path, model: ModelName | None, config: Path | None, start: Path | None) -> Behind | None:
    """The run that was named by --config; or that lives in `out`; or that lends its weights. None if there is none, or
    a model was named, whose own settings then stand."""
    from ..train import read_run

    if config is not None:
        folder = config if config.is_dir() else config.parent
        if not config.is_dir() and config.name != "config.json":
            raise UsageError(f"{config} was given as a configuration: give the config.json of a run folder")
        return Behind(folder, read_run(folder), "config")
    if model is not None:
        return None
    if (out / "config.json").is_file():
        return Behind(out, read_run(out), "out")
    return Behind(start, read_run(start), "start") if start is not None else None


def items_of(data: str | None, source: Behind | None, said: dict[str, Any]) -> Data:
    """The data, read as was said (keywords of `load`), and for the rest as they were read for the run behind."""
    from ..train.model import reading

    said = {name: value for name, value in said.items() if value is not None}
    if source is None:
        if data is None:
            raise UsageError("no data were named: softmix train DATA --out RUN, with digits, a folder of pictures, ...")
        return load_data(data, **said)
    place, kept = reading(source.folder, source.run.facts)
    if source.role == "start":
        # what the network was made for, and not how many items there were
        kept = {name: kept.get(name) for name in ("size", "channels")}
        if data is None:
            raise UsageError(f"no data were named, on which to go on from the weights of {source.folder}")
    if data is not None and source.run.facts.origin is None:
        # a run of 0.1 did not keep how its data were read
        kept = {}
    added = {name: value for name, value in kept.items() if name not in said and value not in (None, 0.0, "train")}
    if added:
        print(f"read as for {source.folder}: {', '.join(f'{name} {value}' for name, value in added.items())}")
    if data is not None:
        return load_data(data, **(added | said))
    from ..data import DataError

    try:
        return load_data(place, **(added | said))
    except DataError as error:
        raise UsageError(
            f"the data that {source.folder} was trained on cannot be read: {error}. If they are elsewhere now, say "
            "where: softmix train DATA ..."
        ) from None


def configuration(
    source: Behind | None, model: ModelName | None, shape: tuple[int, ...], changes: tuple[tuple[str, ...], ...]
) -> Config:
    """The run's configuration: from a run or a preset, with the changes of each --set."""
    from ..config import from_json, to_json
    from ..train import Config, preset

    if source is None:
        chosen = preset(model or "smd", shape)
    else:
        chosen, facts = source.run.config, source.run.facts
        if source.role == "config" and facts.first_end is not None:
            # minutes became steps on the machine of that run
            chosen = replace(chosen, steps=facts.first_end, minutes=None)
        if source.role == "start":
            chosen = replace(chosen, steps=None, minutes=None)
    tree: Any = to_json(chosen)
    # another kind of part has settings of its own: first the kinds, which drop those of the kind before
    flat = [change for group in changes for change in group]
    for change in sorted(flat, key=lambda change: not change.partition("=")[0].endswith(".kind")):
        path, _, text = change.partition("=")
        keys = path.split(".")
        # the settings of the task need not say so: net.width is task.net.width
        _set(tree["task"] if keys[0] in tree["task"] and keys[0] != "kind" else tree, keys, text, change)
    return from_json(Config, tree)


def changed(config: Config, **values: Any) -> Config:
    """The configuration with these values, where they are not None. Raises UsageError for one that it refuses."""
    try:
        return config.but(**{name: value for name, value in values.items() if value is not None})
    except ValueError as error:
        raise UsageError(str(error)) from error


def require_length(steps: int | None, minutes: float | None, needed: bool) -> None:
    """Raises UsageError unless steps or minutes say how long to train, or neither where it is known."""
    from ..train import Config

    if (steps is not None and minutes is not None) or (needed and steps is None and minutes is None):
        raise UsageError("say how long to train: --minutes 20, or --steps 5000, one of the two")
    changed(Config(), steps=steps, minutes=minutes)


def _set(tree: dict[str, Any], path: list[str], text: str, change: str) -> None:
    for key in path[:-1]:
        tree = tree[key] if isinstance(tree, dict) and isinstance(tree.get(key), dict) else {}
    if path[-1] == "kind" and tree.get("kind") not in (None, text):
        tree.clear()
        tree["kind"] = text
        return
    # of a part whose kind has changed from_json knows the settings, and names them if this is none of them
    if path[-1] not in tree and "kind" not in tree:
        raise UsageError(f"--set {change}: there is no {'.'.join(path)} in the configuration; see --dry-run")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(value, dict) and isinstance(tree[path[-1]], dict):
        value = {**value}
    tree[path[-1]] = value
