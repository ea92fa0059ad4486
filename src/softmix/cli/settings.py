"""The configuration of a run and its data, from the options of `softmix train`."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .common import ModelName, ProcessName, TuningName, UsageError, is_target, load_data, option

if TYPE_CHECKING:
    from ..data import Data, Source, Target
    from ..train import Config, Run


# the model of a process, if --model is not given: a mean restores well after a short training, draws need a long one
_MODELS: dict[ProcessName | None, ModelName] = {"rddm": "plain", "resfusion": "plain"}


@dataclass(frozen=True)
class BaseRun:
    """The run that gives the settings which the command does not give.

    role : "config" for --config, "out" for the run that continues, "start" for the run of the first weights.
    """

    folder: Path
    run: Run
    role: Literal["config", "out", "start"]


def base_run(
    out: Path, model: ModelName | TuningName | None, config: Path | None, start: Path | None
) -> BaseRun | None:
    """The run of --config, else the run in `out`, else the run of --start; None if there is none.

    None also with --model: then the settings of the model count. But mmd changes those of the run of --start.
    """
    from ..loss import ChainMMD
    from ..train import read_run

    given = None if config is None else _of_config(config)
    # `configuration` refuses a run with another loss
    tunes = given is None or isinstance(getattr(given.run.config.task, "loss", None), ChainMMD)
    if model == "mmd" and tunes and start is None and not (out / "config.json").is_file():
        raise UsageError("mmd tunes a trained model: name its run, --start RUN")
    if given is not None:
        return given
    if model is not None and model != "mmd":
        return None
    if (out / "config.json").is_file():
        return BaseRun(out, read_run(out), "out")
    return BaseRun(start, read_run(start), "start") if start is not None else None


def _of_config(config: Path) -> BaseRun:
    """The run of --config, a folder or its config.json."""
    from ..train import read_run

    folder = config if config.is_dir() else config.parent
    if not config.is_dir() and config.name != "config.json":
        raise UsageError(f"{config} was given as a configuration: give the config.json of a run folder")
    return BaseRun(folder, read_run(folder), "config")


def items_of(data: str | None, base: BaseRun | None, options: dict[str, Any]) -> Data | Target:
    """The data, read with these options (keywords of `load`), or the target density target:NAME. Options that are None
    are those of the base run."""
    from ..train.model import reading

    options = {name: value for name, value in options.items() if value is not None}
    name = data if data is not None or base is None else reading(base.folder, base.run.facts)[0]
    if name is not None and is_target(name):
        return _target(name, options)
    if base is None:
        if data is None:
            raise UsageError("no data were named: softmix train DATA --out RUN, with digits, a folder of pictures, ...")
        return load_data(data, **options)
    place, earlier = reading(base.folder, base.run.facts)
    if base.role == "start":
        # The network decides size and channels. The number of items may differ.
        earlier = {name: earlier.get(name) for name in ("size", "channels", "tokens", "length")}
        if data is None:
            raise UsageError(f"no data were named, on which to go on from the weights of {base.folder}")
    if data is not None and base.run.facts.origin is None:
        # A run of 0.1 has no record of how its data were read.
        earlier = {}
    added = {
        name: value for name, value in earlier.items() if name not in options and value not in (None, 0.0, "train")
    }
    if added:
        print(f"read as for {base.folder}: {', '.join(f'{name} {value}' for name, value in added.items())}")
    if data is not None:
        return load_data(data, **(added | options))
    from ..data import DataError

    try:
        return load_data(place, **(added | options))
    except DataError as error:
        raise UsageError(
            f"the data that {base.folder} was trained on cannot be read: {error}. If they are elsewhere now, say "
            "where: softmix train DATA ..."
        ) from None


def _target(name: str, options: dict[str, Any]) -> Target:
    """The density of this name. Raises UsageError for an option of data with items."""
    from ..oracle import known_target

    given = [option(each) for each in options if each != "max_pixels"]
    if given:
        raise UsageError(f"{', '.join(given)} was asked for, and {name} is a density without items: leave it out")
    return known_target(name)


def configuration(
    base: BaseRun | None,
    model: ModelName | TuningName | None,
    items: Source,
    changes: tuple[tuple[str, ...], ...],
    process: ProcessName | None = None,
) -> Config:
    """The configuration of the run: that of the base run or of a preset, with a process and each --set. The preset is
    `model`; by default smd, plain for rddm and resfusion, masked for tokens, and that of `SampleTarget` for a density.
    """
    from ..config import from_json, to_json
    from ..data import Target
    from ..loss import ChainMMD
    from ..train import Config, preset, preset_for_target, tuning, with_process

    if isinstance(items, Target) and model is not None:
        raise UsageError(f"--model {model} learns from items, and {items.name} has none: leave it out")
    if base is None and isinstance(items, Target):
        config = preset_for_target()
    elif base is None:
        # `base_run` refuses mmd without a run
        assert model != "mmd"
        usual: ModelName = "masked" if getattr(items, "vocabulary", 0) else _MODELS.get(process, "smd")
        config = preset(model or usual, items.shape, items.cond)
    else:
        config, facts = base.run.config, base.run.facts
        if base.role == "config" and facts.first_end is not None:
            # The machine of that run has turned minutes into steps.
            config = replace(config, steps=facts.first_end, minutes=None)
        if base.role == "start":
            config = replace(config, steps=None, minutes=None)
            if model == "mmd":
                config = tuning(model, config, items.shape)
        elif model == "mmd" and not isinstance(getattr(config.task, "loss", None), ChainMMD):
            raise UsageError(f"{base.folder} was not trained by mmd: name another folder with --out, and --start")
    if process is not None:
        config = with_process(config, process, items)
    tree: Any = to_json(config)
    # First the kinds: another kind of part has settings of its own, and drops those of the kind before.
    flat = [change for group in changes for change in group]
    for change in sorted(flat, key=lambda change: not change.partition("=")[0].endswith(".kind")):
        path, _, text = change.partition("=")
        keys = path.split(".")
        # net.width is short for task.net.width
        _set(tree["task"] if keys[0] in tree["task"] and keys[0] != "kind" else tree, keys, text, change)
    return from_json(Config, tree)


def with_values(config: Config, **values: Any) -> Config:
    """The configuration with those of the values that are not None. Raises UsageError for a value that it refuses, and
    for a setting that its task does not have."""
    given = {name: value for name, value in values.items() if value is not None}
    known = {field.name for part in (config, config.task) for field in fields(part)}
    for name in given:
        if name not in known:
            raise UsageError(
                f"{option(name)} was asked for, and {type(config.task).__name__} has no such setting: leave it out"
            )
    try:
        return config.but(**given)
    except ValueError as error:
        raise UsageError(str(error)) from error


def require_length(steps: int | None, minutes: float | None, needed: bool) -> None:
    """Raise UsageError for steps and minutes together, for neither if one is needed, and for a wrong number."""
    from ..train import Config

    if (steps is not None and minutes is not None) or (needed and steps is None and minutes is None):
        raise UsageError("say how long to train: --minutes 20, or --steps 5000, one of the two")
    with_values(Config(), steps=steps, minutes=minutes)


def _set(tree: dict[str, Any], path: list[str], text: str, change: str) -> None:
    """Change one value in the JSON of a configuration, in place. path : its keys. text : the value, JSON or a word."""
    for key in path[:-1]:
        tree = tree[key] if isinstance(tree, dict) and isinstance(tree.get(key), dict) else {}
    if path[-1] == "kind" and tree.get("kind") not in (None, text):
        tree.clear()
        tree["kind"] = text
        return
    # `from_json` knows the settings of a part with a new kind, and refuses others by name.
    if path[-1] not in tree and "kind" not in tree:
        raise UsageError(f"--set {change}: there is no {'.'.join(path)} in the configuration; see --dry-run")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    tree[path[-1]] = value
