"""`softmix check`: verify a run folder, or show the data that training would read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from .common import UsageError, load_data, option, repeat_warnings
from .verb import Verb

if TYPE_CHECKING:
    from ..data import Data


@dataclass(frozen=True, kw_only=True)
class Check(Verb):
    """Verify a run folder (every file of every checkpoint), or show the data that training would read (and every file
    that is left out, with a reason). The options for data are those of `softmix.data.load`.

    For example `softmix check runs/photos`, or `softmix check photos/ --size 32`.
    """

    what: Positional[str]
    """A run folder, or anything that `softmix train` takes as data."""
    size: int | None = None
    """One number: pictures are brought to so many pixels a side, from the centre square of each."""
    channels: int | None = None
    """1 for grey, 3 for colour, 4 for colour with transparency."""
    limit: int | None = None
    """Use at most this many items."""
    bits: int | None = None
    """Number of bits that 16-bit grey pictures, or whole numbers of an array, hold, such as 12."""
    values: Literal["0..1", "-1..1", "0..255", "as-is"] | None = None
    """Range of a float array."""
    layout: Literal["channels-first", "channels-last"] | None = None
    """The axis of the channels of an array."""
    hold_out: float = 0.0
    """The share that is held out, of data without a test split."""
    tokens: Literal["characters", "bytes"] | int | None = None
    """Read a text as characters or bytes, or an array of whole numbers as so many tokens."""
    length: int | None = None
    """Number of tokens of a text in an item."""
    spacing: tuple[float, float, float] | None = None
    """Size of a voxel of volumes, dz dy dx."""
    beside: str | None = None
    """Data that are the condition of these: of folders of pictures, those with the same names of files."""
    cache: Path | None = None
    """The folder that `softmix train --cache` was given: every byte of the copy in it is verified."""

    def __call__(self) -> None:
        from ..data.entries import is_run_folder

        options = self.given(*(field.name for field in fields(self) if field.name != "what"))
        folder = Path(self.what)
        # A run with a damaged config.json still has its checkpoints.
        damaged = (folder / "config.json").is_file() and (folder / "checkpoints").is_dir()
        if not (is_run_folder(self.what) or damaged):
            _check_data(self.what, options)
        elif options:
            named = ", ".join(map(option, options))
            raise UsageError(f"{self.what} is a run folder, and {named} is for data; leave it out, or name the data")
        else:
            _check_run(self.what)


def _check_data(source: str, options: dict[str, Any]) -> None:
    from ..data import NoSplitError, Paired
    from .train import LARGEST

    items: Any = load_data(source, max_pixels=LARGEST, **options)
    both: tuple[Any, ...] = (items.first, items.second) if isinstance(items, Paired) else (items,)
    first = both[0]
    kind = f"pairs of {first.kind}" if len(both) > 1 else first.kind
    print(f"{source}: {len(items)} {kind} of shape {items.shape}, fingerprint {items.fingerprint}")
    for line in (*items.report.lines(), *map(_range, both), *_classes(first)):
        print(line)
    if len(both) > 1:
        print(f"told beside x_t: {items.cond}")
    if "cache" in options:
        for each in both:
            print(_verify_cache(each, options["cache"]))
    try:
        test = load_data(source, split="test", **options)
    except NoSplitError:
        print("no test split: --hold-out 0.1 keeps a tenth apart for `softmix evaluate`")
        repeat_warnings(items)
        return
    print(f"test split: {len(test)} items")
    if test.shape != items.shape:
        raise UsageError(f"items of the test split are {test.shape}, those of training {items.shape}: give --size")
    repeat_warnings(items)


def _verify_cache(items: Data, cache: Path) -> str:
    """A sentence if the copy in the cache has the fingerprint of the data. Raises UsageError for a damaged one."""
    from ..data.store import make

    copy = make(items.name, items.values, items.labels, items.classes, items.report, like=items)
    if copy.fingerprint != items.fingerprint:
        raise UsageError(f"the copy of {items.name} in {cache} is damaged: remove it, and it is built again")
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


def _check_run(run: str) -> None:
    from ..train import read_run
    from ..train.checkpoint import faults

    read_run(run)
    files = faults(Path(run) / "checkpoints")
    for file, fault in files.items():
        print(f"{'DAMAGED' if fault else 'ok     '} {file} {fault}".rstrip())
    bad = sum(map(bool, files.values()))
    if bad:
        raise UsageError(
            f"{bad} of {len(files)} files are damaged; "
            "the newest whole checkpoint is taken when the run is loaded or continued"
        )
    print(f"{run}: {len(files)} files, all whole" if files else f"{run}: no checkpoint yet")
