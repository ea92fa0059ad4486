"""The command line: `softmix train`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from .common import ModelName, UsageError, load_data, uses

if TYPE_CHECKING:
    from ..train import Config, Model


def train(
    data: Positional[str],
    /,
    out: Path,
    model: ModelName = "smd",
    minutes: float | None = None,
    steps: int | None = None,
    config: Path | None = None,
    set: tuple[str, ...] = (),
    size: int | None = None,
    limit: int | None = None,
    seed: int | None = None,
    shard: bool = False,
    dry_run: bool = False,
) -> None:
    """Train a model on your data, or go on training it: the same command continues where it was cut off.

    Args:
        data: digits, fashion-mnist, toy:NAME, a folder or zip of images, an IDX or npy file.
        out: the run folder: configuration, log, checkpoints, sample grids.
        model: smd (soft mixture, energy score), plain (usual diffusion), published (SMD as published, which
            collapses), mixture (explicit Gaussian mixture), normal (one Gaussian).
        minutes: how long to train. The speed of the first steps decides the number of steps, for good.
        steps: how many steps to train, instead of minutes.
        config: a config.json to repeat, instead of the model's own settings.
        set: changes to the configuration, such as --set batch=64 loss.m=8 net.width=96.
        size: side that images are brought to, if they differ.
        limit: use at most this many items.
        seed: of weights, order and noise; 0, or that of --config, if not said.
        shard: of several processes (torchrun -m softmix train ...), each keeps a part of the weights: for networks
            that one device cannot hold.
        dry_run: show the configuration and the size of the model, and train nothing.
    """
    from ..config import dumps
    from ..train import Run, build, facts_of, join, leave
    from ..train import train as run

    items = load_data(data, size=size, limit=limit)
    chosen = _configuration(config, model, items.shape, set)
    if config is None or steps is not None or minutes is not None:
        if (steps is None) == (minutes is None):
            raise UsageError("say how long to train: --minutes 20, or --steps 5000, one of the two")
        if min(1 if steps is None else steps, 1 if minutes is None else minutes) <= 0:
            raise UsageError(f"{steps or minutes or 0} was asked for; training takes at least 1 step, or some minutes")
        chosen = replace(chosen, steps=steps, minutes=minutes)
    chosen = replace(chosen, seed=chosen.seed if seed is None else seed)
    world = join()
    if world.first:
        for line in items.report.lines():
            print(line)
    if dry_run:
        whole = Run(chosen, facts_of(items, chosen, world.size))
        print(dumps(whole), end="")
        print(f"{sum(p.numel() for p in build(whole).parameters()):,} parameters")
        return
    trained = run(items, chosen, out, shard=shard)
    if world.first:
        _card(trained)
        print(f"trained {trained.step} steps; the run is in {out}")
        print(f"next: softmix sample {out} --n 64 --steps 4 --out samples.png    softmix evaluate {out}")
    leave()


def _configuration(config: Path | None, model: ModelName, shape: tuple[int, ...], changes: tuple[str, ...]) -> Config:
    """The run's configuration: from a file or a preset, with changes."""
    from ..config import from_json, to_json
    from ..train import Config, preset
    from ..train.model import read_run

    chosen = (
        read_run(config.parent).config if config is not None and config.name == "config.json" else preset(model, shape)
    )
    if config is not None and config.name != "config.json":
        raise UsageError(f"{config} was given as a configuration: give the config.json of a run folder")
    tree: Any = to_json(chosen)
    # another kind of part has settings of its own: first the kinds, which drop those of the kind before
    for change in sorted(changes, key=lambda change: not change.partition("=")[0].endswith(".kind")):
        path, _, text = change.partition("=")
        _set(tree, path.split("."), text, change)
    return from_json(Config, tree)


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


def _card(model: Model) -> None:
    """README.md of the run folder."""
    from ..recipe import PAPERS

    facts, config = model.facts, model.config
    lines = [
        f"# {model.path.name}",
        "",
        f"A diffusion model trained with softmix {facts.version} on {facts.data}: {facts.count} items of shape "
        f"{tuple(facts.shape)}, fingerprint {facts.fingerprint}.",
        "",
        f"- network: `{config.net}`",
        f"- posterior head: `{config.head}`",
        f"- loss: `{config.loss}`",
        f"- process: `{config.process}`",
        f"- {model.step} steps of {config.batch} items, seed {config.seed}, {facts.precision}",
        "",
        "Repeat it with `softmix train DATA --config config.json --out NEW`. Sample with `softmix sample`.",
        "",
        "```bibtex",
        *(module.PAPER.bibtex() for module in PAPERS.values() if uses(config, module.PAPER.name)),
        "```",
        "",
    ]
    (model.path / "README.md").write_text("\n".join(lines))
