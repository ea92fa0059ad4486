"""Room `data`: the one door, `load`: a name or a path goes in, a data set comes out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from softmix.data.array import from_idx, from_idx_folder, from_npy, is_idx_folder
from softmix.data.named import digits, fashion_mnist, toy
from softmix.data.origin import Layout, Origin, Values
from softmix.data.pictures import from_folder, from_zip
from softmix.data.report import ALIASES, DataError, Want, printable
from softmix.data.store import Data
from softmix.data.toys import TOYS

_NAMED = {"digits": digits, "fashion-mnist": fashion_mnist}
_IDX_NAME = re.compile(r"(\.idx|ubyte)(\.gz)?$|idx\d?.*\.gz$")
_KINDS = "a folder of pictures, a .zip, IDX or .npy file"


def load(
    source: str | Path,
    *,
    split: str = "train",
    size: int | None = None,
    channels: int | None = None,
    limit: int | None = None,
    bits: int | None = None,
    values: Values | None = None,
    layout: Layout | None = None,
    hold_out: float = 0.0,
) -> Data:
    """The data set that `source` names.

    source : `digits`, `fashion-mnist`, `toy:NAME`, or a path (write ./digits for a folder of that name):
        a folder of pictures, or of MNIST's IDX files; a .zip of pictures, which is never extracted; an .idx,
        -ubyte or -ubyte.gz file; a .npy array (uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] are images;
        floats [N, ...] are points or sequences). Pickles are never loaded.
    split : "train" or "test". A folder or zip has both if it has subfolders of these names; a single array has
        none, and is "train" as a whole.
    size : pictures become size x size (the centre square, by Lanczos' filter). None keeps the commonest size of a
        folder and skips all others.
    channels : 1 or 3. None is 1 if all pictures are stored as grey, else 3.
    limit : at most so many items, a fixed random choice among those there are.

    The label of a picture is the subfolder that it lies in, at the top, if most pictures lie in one; a folder that
    holds them all is passed through. A bad file is listed in `report` with its reason and does not stop the rest.
    Raises DataError, and nothing else, if the request makes no sense or nothing is left.
    """
    want = Want(ALIASES.get(split, split), size, channels, limit, bits, values, layout, hold_out)
    found = _held_out(source, want) if hold_out else _found(source, want)
    named = isinstance(source, str) and (source in _NAMED or source.startswith("toy:"))
    place = str(source) if named else str(Path(source).expanduser().absolute())
    return replace(found, origin=Origin(place, split, size, channels, limit, bits, values, layout, hold_out))


def _held_out(source: str | Path, want: Want) -> Data:
    """One part of a source that has no test split of its own. Raises DataError if it has one."""
    try:
        _found(source, replace(want, split="test", hold_out=0.0, limit=1))
    except DataError:
        kept, out = _found(source, replace(want, split="train", hold_out=0.0)).split(want.hold_out, 0)
        return kept if want.split == "train" else out
    raise DataError(
        f"{printable(str(source))}: a share of {want.hold_out} was to be held out, but it has a test split of its own; "
        "leave the share out"
    )


def _found(source: str | Path, want: Want) -> Data:
    if isinstance(source, str) and source in _NAMED:
        return _NAMED[source](want)
    if isinstance(source, str) and source.startswith("toy:"):
        return toy(source.removeprefix("toy:"), want)
    path = _path(source)
    if path.is_dir() and is_idx_folder(path):
        return from_idx_folder(printable(path.resolve().name), path, (), want)
    if path.is_dir():
        return from_folder(path, want)
    return _from_file(path, want)


def _path(source: str | Path) -> Path:
    known = f"digits, fashion-mnist, {', '.join(f'toy:{name}' for name in TOYS)}, or the path of {_KINDS}"
    shown = printable(str(source))
    try:
        path = Path(source).expanduser()
        if str(source) and path.exists():
            return path
    # expanduser raises RuntimeError for an unknown ~name; exists raises for a NUL byte or a closed folder.
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{shown} cannot be read ({error}); give {known}") from error
    raise DataError(f"the data '{shown}' were asked for, but there is no such name or path; give {known}")


def _from_file(path: Path, want: Want) -> Data:
    name, shown = path.name.lower(), printable(str(path))
    if not path.is_file():
        raise DataError(f"{shown} is neither a file nor a folder; give {_KINDS}")
    if name.endswith(".zip"):
        return from_zip(path, want)
    if want.split != "train":
        raise DataError(
            f"{shown}: its {want.split} split was asked for, but one file has none; load it and call .split()"
        )
    if name.endswith(".npy"):
        return from_npy(path, want)
    if _IDX_NAME.search(name):
        return from_idx(path, want)
    raise DataError(f"{shown} is a file of no kind that can be loaded; give {_KINDS}")
