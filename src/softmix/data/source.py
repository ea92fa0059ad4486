"""Room `data`: the one door, `load`: a name or a path goes in, a data set comes out."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from softmix.data.cifar import from_cifar, kind_of
from softmix.data.manifest import KINDS as LISTS
from softmix.data.mnist import from_idx, from_idx_folder, is_idx_folder
from softmix.data.named import digits, fashion_mnist, toy
from softmix.data.npy import from_npy, from_npz
from softmix.data.origin import Layout, Origin, Values
from softmix.data.pictures import from_folder, from_list, from_zip
from softmix.data.report import DataError, printable
from softmix.data.store import Data
from softmix.data.toys import TOYS
from softmix.data.want import ALIASES, Want

_NAMED = {"digits": digits, "fashion-mnist": fashion_mnist}
_IDX_NAME = re.compile(r"(\.idx|ubyte)(\.gz)?$|idx\d?.*\.gz$")
_KINDS = "a folder of pictures, a .zip, .npy, .npz or IDX file, or a .csv, .txt or .jsonl that lists pictures"


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
        a folder or .zip of pictures; a csv, tsv, txt or jsonl that lists pictures; a folder of MNIST's IDX files or of
        CIFAR's python files; an .idx, -ubyte or -ubyte.gz file; a .npy or .npz array (`softmix.data.array` says how its
        axes and numbers are read). No archive is extracted and nothing is unpickled.
    split : "train", "test" or "val" (also "valid", "validation"). A folder, zip or list has those that its subfolders,
        or a column, are called by; "test" is "val" where there is no test. A single array has none.
    size : pictures become size x size (the centre square, by Lanczos' filter). None keeps the commonest size, if at
        least nine tenths of the pictures have it; the train split decides it for all.
    channels : 1, 3, or 4 with transparency. None is 1 if all pictures of the train split are stored as grey, else 3; of
        an array, as many as it has.
    limit : at most so many items, a fixed random choice among those there are.
    bits : of 16-bit grey pictures and arrays of whole numbers, how many are in use: 12 makes 4095 white.
    values : the range of a float array: "0..1", "-1..1" or "0..255" become pixels of pictures, and points or sequences
        in [-1, 1]; "as-is" keeps floats as they are. None: pictures by what is found, all else as it is.
    layout : which axis of an array holds the channels, "channels-first" or "channels-last". None: by their sizes.
    hold_out : of a source without a test split, this share of the items that `limit` leaves is its test split, by
        `Data.split(hold_out, seed=0)`.

    The label of a picture is the subfolder that it lies in, at the top, if most pictures lie in one; a folder that
    holds them all is passed through. dataset.json (EDM), the columns of a list and NAME_labels.npy or labels.npy beside
    a .npy give labels too. A bad file is listed in `report` with its reason and does not stop the rest. An option that
    a source has no use for is refused. Raises DataError, and nothing else, if the request makes no sense or nothing is
    left.
    """
    want = Want(ALIASES.get(split, split), size, channels, limit, bits, values, layout, hold_out)
    named = isinstance(source, str) and (source in _NAMED or source.startswith("toy:")) and "/" not in source
    found = _from_name(str(source), want) if named else _from_path(_path(source), want)
    if hold_out:
        kept, out = found.split(hold_out, 0)
        found = kept if want.split == "train" else out
    place = str(source) if named else str(Path(source).expanduser().absolute())
    return replace(found, origin=Origin(place, split, size, channels, limit, bits, values, layout, hold_out))


def _from_name(name: str, want: Want) -> Data:
    want.part(name, ("train", "test"), "name one of these")
    if name in _NAMED:
        want.without(name, "holds pictures, whose pixels are known", "bits", "values", "layout")
        found = _NAMED[name](want)
    else:
        found = toy(name.removeprefix("toy:"), want)
    if os.path.exists(name):
        note = f"what lies at ./{name} was passed over, since softmix knows the name {name}; write ./{name} for it"
        return found.noted(note)
    return found


def _from_path(path: Path, want: Want) -> Data:
    if not path.is_dir():
        return _from_file(path, want)
    if is_idx_folder(path):
        return from_idx_folder(printable(path.resolve().name), path, (), want)
    return from_cifar(path, want) if kind_of(path) else from_folder(path, want)


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
    if name.endswith(".npz"):
        return from_npz(path, want)
    if name.endswith(LISTS):
        return from_list(path, want)
    read = from_npy if name.endswith(".npy") else from_idx if _IDX_NAME.search(name) else None
    if read is None:
        raise DataError(f"{shown} is a file of no kind that can be loaded; give {_KINDS}")
    want.part(shown, (), "load it and call .split(), or give a share to hold out")
    return read(path, want)
