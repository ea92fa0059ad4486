"""The command line: `softmix check`: is a run folder whole, and what would training take of these data?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from .common import UsageError, load_data, told_again

if TYPE_CHECKING:
    from ..data import Data


def check(
    what: Positional[str],
    /,
    size: int | None = None,
    channels: int | None = None,
    limit: int | None = None,
    bits: int | None = None,
    values: Literal["0..1", "-1..1", "0..255", "as-is"] | None = None,
    layout: Literal["channels-first", "channels-last"] | None = None,
    hold_out: float = 0.0,
    tokens: Literal["characters", "bytes"] | int | None = None,
    length: int | None = None,
    spacing: tuple[float, float, float] | None = None,
    beside: str | None = None,
    cache: Path | None = None,
) -> None:
    """Verify a run folder (every file of every checkpoint), or show what training would take of data (every file that
    is left out, with a reason). The options for data are those of `softmix.data.load`.

    Args:
        what: a run folder, or anything that `softmix train` takes as data.
        size: one number: pictures are brought to so many pixels a side, from the centre square of each.
        channels: 1 for grey, 3 for colour, 4 for colour with transparency.
        limit: use at most this many items.
        bits: how many bits 16-bit grey pictures, or whole numbers of an array, hold, such as 12.
        values: the range of a float array.
        layout: which axis of an array holds the channels.
        hold_out: the share that is held out, of data without a test split.
        tokens: read a text as characters or bytes, or an array of whole numbers as so many tokens.
        length: how many tokens of a text make an item.
        spacing: the size of a voxel of volumes, dz dy dx.
        beside: data that are the condition of these: of folders of pictures, those with the same names of files.
        cache: the folder given to `softmix train` as such: every byte of what is kept there is verified.
    """
    options = {
        "size": size,
        "channels": channels,
        "limit": limit,
        "bits": bits,
        "values": values,
        "layout": layout,
        "hold_out": hold_out or None,
        "tokens": tokens,
        "length": length,
        "spacing": spacing,
        "beside": beside,
        "cache": cache,
    }
    given = {name: value for name, value in options.items() if value is not None}
    from ..data.entries import is_run_folder

    # a run whose config.json is damaged still has its checkpoints
    if not (is_run_folder(what) or ((Path(what) / "config.json").is_file() and (Path(what) / "checkpoints").is_dir())):
        _data(what, given)
    elif given:
        named = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"{what} is a run folder, and {named} is for data; leave it out, or name the data")
    else:
        _run(what)


def _data(what: str, options: dict[str, Any]) -> None:
    from ..data import NoSplitError, Paired
    from .fit import _LARGEST

    items: Any = load_data(what, max_pixels=_LARGEST, **options)
    both: tuple[Any, ...] = (items.first, items.second) if isinstance(items, Paired) else (items,)
    first = both[0]
    kind = f"pairs of {first.kind}" if len(both) > 1 else first.kind
    print(f"{what}: {len(items)} {kind} of shape {items.shape}, fingerprint {items.fingerprint}")
    for line in (*items.report.lines(), *map(_range, both), *_classes(first)):
        print(line)
    if len(both) > 1:
        print(f"told beside x_t: {items.cond}")
    if "cache" in options:
        for each in both:
            print(_verified(each, options["cache"]))
    try:
        test = load_data(what, split="test", **options)
    except NoSplitError:
        print("no test split: --hold-out 0.1 keeps a tenth apart for `softmix evaluate`")
        told_again(items)
        return
    print(f"test split: {len(test)} items")
    if test.shape != items.shape:
        raise UsageError(f"items of the test split are {test.shape}, those of training {items.shape}: give --size")
    told_again(items)


def _verified(items: Data, cache: Path) -> str:
    from ..data.store import make

    if make(items.name, items.values, items.labels, items.classes, items.report, like=items).fingerprint != (
        items.fingerprint
    ):
        raise UsageError(f"what {cache} keeps of {items.name} is damaged: remove it, and it is built again")
    return f"every byte of the cache in {cache} is as it was written"


def _range(items: Data) -> str:
    low, high = items.values.min().item(), items.values.max().item()
    if items.kind == "tokens":
        return f"tokens from {low} to {high} of {items.vocabulary}"
    if not items.values.is_floating_point():
        return f"pixels from {low} to {high} of 0 to 255"
    sd = float(items.values.std(correction=0))
    return f"values from {low:.4g} to {high:.4g}, standard deviation {sd:.3g}"


def _classes(items: Data) -> list[str]:
    if items.labels is None:
        return ["no labels"]
    counts = items.labels.bincount(minlength=len(items.classes)).tolist()
    named = [f"{name} ({count})" for name, count in zip(items.classes, counts, strict=True)]
    shown = ", ".join(named[:20]) + (f" and {len(named) - 20} more" if len(named) > 20 else "")
    return [f"{len(named)} classes: {shown}", "`softmix train --classes` learns them, to sample a class by its name"]


def _run(what: str) -> None:
    from ..train import read_run
    from ..train.checkpoint import faults

    read_run(what)
    found = faults(Path(what) / "checkpoints")
    for file, fault in found.items():
        print(f"{'DAMAGED' if fault else 'ok     '} {file} {fault}".rstrip())
    bad = sum(map(bool, found.values()))
    if bad:
        raise UsageError(
            f"{bad} of {len(found)} files are damaged; "
            "the newest whole checkpoint is taken when the run is loaded or continued"
        )
    print(f"{what}: {len(found)} files, all whole" if found else f"{what}: no checkpoint yet")
