"""The command line: `softmix train`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from .card import write_card
from .common import ModelName, UsageError, told_again
from .settings import behind, changed, configuration, items_of, require_length

if TYPE_CHECKING:
    from ..data import Data
    from ..train import Config, Facts, Model

# those of softmix.data, which takes a second to import
ValueRange = Literal["0..1", "-1..1", "0..255", "as-is"]
LayoutName = Literal["channels-first", "channels-last"]
# pixels of a picture that is more than memory holds of a step, whatever the network
_LARGEST = 2048 * 2048


def train(
    data: Positional[str | None] = None,
    /,
    *,
    out: Path,
    model: ModelName | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    more: int | None = None,
    classes: bool = False,
    batch: int | None = None,
    flip: bool = False,
    size: int | None = None,
    channels: int | None = None,
    limit: int | None = None,
    hold_out: float | None = None,
    bits: int | None = None,
    values: ValueRange | None = None,
    layout: LayoutName | None = None,
    beside: str | None = None,
    cache: Path | None = None,
    config: Path | None = None,
    start: Path | None = None,
    set: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="NAME=VALUE ...")] = (),
    seed: int | None = None,
    shard: bool = False,
    dry_run: bool = False,
) -> None:
    """Train a model on your data, or go on training it: the same command continues where it was cut off.

    For example `softmix train photos/ --out runs/photos --size 32 --minutes 60`; then, if that was not enough,
    `softmix train --out runs/photos --more 5000`.

    Args:
        data: a folder or zip of images, an IDX, npy or npz file, CIFAR's folder, a csv, txt or jsonl that lists images;
            or digits, fashion-mnist, toy:NAME. May be left out for a run that exists, and with --config: then those
            that it was trained on.
        out: the run folder: configuration, log, checkpoints, sample grids.
        model: smd (soft mixture, energy score), plain (usual diffusion), published (SMD as published, which
            collapses), mixture (explicit Gaussian mixture), normal (one Gaussian). smd if not said, or what the run
            has that is in --out, --config or --start.
        minutes: how long to train. A few steps, tried before the first, decide the number of steps, for good.
        steps: how many steps to train, instead of minutes. For a run that exists: more than it has makes it longer.
        more: steps to be added to a run that has ended: its rate rises and falls anew.
        classes: tell the model the class of each item, so that it can be asked for one.
        batch: items of a step; images of more than 64 x 64 pixels have fewer by themselves.
        flip: show half of the images mirrored, left for right. Not for digits or writing.
        size: one number: images are brought to so many pixels a side, from the centre square of each.
        channels: 1 (grey), 3 (colour) or 4 (with alpha), instead of what the files have.
        limit: use at most this many items.
        hold_out: a share of the items, such as 0.1, that is not trained on, for `softmix evaluate`.
        bits: of grey images of 16 bits, and arrays of whole numbers: how many their values use, such as 12.
        values: of an array of numbers: their range.
        layout: of an array of images: where its channels are.
        beside: a second folder, zip or array, whose items are what the model is told of those of the first, for
            image to image: pictures of one name are pairs.
        cache: a folder where the data are kept as they were read, for data that are larger than memory or slow to
            read. It is used again while their files are unchanged.
        config: a config.json, or its run folder, to repeat, instead of the model's own settings.
        start: a run whose weights are the start of a new one.
        set: changes to the configuration, such as --set batch=64 loss.m=8 net.width=96. Of a run that goes on
            optimiser.rate, nonfinite, save, show and keep may change.
        seed: of weights, order and noise; 0, or that of --config, if not said.
        shard: of several processes (torchrun -m softmix train ...), each keeps a part of the weights: for networks
            that one device cannot hold.
        dry_run: show the configuration and the size of the model, and train nothing.
    """
    from ..train import join_processes, leave_processes
    from ..train import train as run
    from ..train.checkpoint import newest_step
    from ..train.writable import require_writable

    # all that needs no data comes first: to read them may take minutes
    require_writable(out)
    source = behind(out, model, config, start)
    require_length(steps, minutes, needed=more is None and (source is None or source.role == "start"))
    said = {"size": size, "channels": channels, "limit": limit, "hold_out": hold_out, "bits": bits}
    items = items_of(data, source, said | {"values": values, "layout": layout, "beside": beside, "cache": cache})
    chosen = configuration(source, model, items.shape, set)
    if steps is not None or minutes is not None:
        chosen = replace(chosen, steps=steps, minutes=minutes)
    chosen = changed(chosen, classes=classes or None, flip=flip or None, batch=batch, seed=seed)
    world = join_processes()
    if world.first:
        for line in items.report.lines():
            print(line)
        if not chosen.task.classes and len(items.classes) > 1:
            print(_told_of_classes(items))
        if source is None:
            _require_size(items, size)
    begun = _begun(start, out)
    if dry_run:
        _show(items, chosen, out, more, begun)
        return
    done = newest_step(out / "checkpoints") or 0
    trained = run(items, chosen, out, shard=shard, more=more or 0, start=begun)
    if world.first:
        write_card(trained)
        print(_end(trained, done, out))
        print(f"next: {_next(trained.facts, out)}")
        told_again(items)
    leave_processes()


def _require_size(items: Data, size: int | None) -> None:
    """Raises UsageError for pictures so large that a single one takes all memory, unless that was asked for."""
    if items.is_image and size is None and items.shape[1] * items.shape[2] > _LARGEST:
        raise UsageError(
            f"the pictures are {items.shape[2]}x{items.shape[1]}, and no network here trains on so large ones: "
            "give --size 64, or another side"
        )


def _begun(start: Path | None, out: Path) -> Model | None:
    """The model that lends its weights; None for a run that has begun with them."""
    from ..train import load, read_run
    from ..train.resume import start_folder

    if start is None:
        return None
    if (out / "config.json").is_file() and start_folder(read_run(out), out) == start.absolute().resolve():
        return None
    return load(start)


def _show(items: Data, chosen: Config, out: Path, more: int | None, start: Model | None) -> None:
    from ..config import dumps
    from ..train import build, join_processes
    from ..train.resume import Request, resolve_run

    whole = resolve_run(out, items, chosen, join_processes().size, Request(more or 0, start))
    print(dumps(whole), end="")
    print(f"{sum(p.numel() for p in build(whole).parameters()):,} parameters")


def _told_of_classes(items: Data) -> str:
    some = ", ".join(items.classes[:6]) + (", ..." if len(items.classes) > 6 else "")
    return (
        f"the data have {len(items.classes)} classes ({some}), and the model is not told them. With --classes it is, "
        "and can be asked for one: softmix sample RUN --label"
    )


def _end(model: Model, done: int, out: Path) -> str:
    if model.step > done:
        return f"trained steps {done + 1} to {model.step}; the run is in {out}"
    longer = f"softmix train --out {shlex.quote(str(out))} --more {model.step}"
    return f"nothing was trained: the run in {out} had ended, at step {model.step}. To go on: {longer}"


def _next(facts: Facts, out: Path) -> str:
    """Commands that work from where the user stands."""
    run, kind = shlex.quote(str(out)), "png" if len(facts.shape) == 3 else "npy"
    data = "" if facts.origin else " DATA"
    return f"softmix sample {run} --n 64 --steps 4 --out samples.{kind}    softmix evaluate {run}{data}"
