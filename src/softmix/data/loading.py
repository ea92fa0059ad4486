"""`load`: a data set from a name or a path."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack, overload

from .builtin import digits, fashion_mnist, toy
from .cache import load_through_cache
from .cifar import from_cifar, kind_of
from .load_pairs import as_paired, load_array_pairs, load_picture_pairs
from .mnist import from_idx, from_idx_folder, is_idx_folder
from .npy import from_npy, from_npz
from .origin import Layout, Origin, Tokens, Values
from .paired import Paired
from .photographs import photographs
from .picture_folder import from_folder, from_list, from_zip
from .picture_list import LIST_SUFFIXES
from .report import DataError, printable
from .request import SPLIT_NAMES, Request
from .storage import MEMORY, Storage
from .store import Data, divided
from .text import from_text
from .toys import TOYS

_NAMED = {"digits": digits, "fashion-mnist": fashion_mnist, "photographs": photographs}
_IDX_NAME = re.compile(r"(\.idx|ubyte)(\.gz)?$|idx\d?.*\.gz$")
_KINDS = "a folder of pictures, a .zip, .npy, .npz or IDX file, or a .csv, .txt or .jsonl that lists pictures"


class _Options(TypedDict, total=False):
    """The keywords of `load` without `beside`."""

    split: str
    size: int | None
    channels: int | None
    limit: int | None
    bits: int | None
    values: Values | None
    layout: Layout | None
    hold_out: float
    tokens: Tokens | None
    length: int | None
    spacing: tuple[float, float, float] | None
    max_pixels: int | None
    cache: str | Path | None


@overload
def load(source: str | Path, *, beside: None = None, **options: Unpack[_Options]) -> Data: ...
@overload
def load(source: str | Path, *, beside: str | Path, **options: Unpack[_Options]) -> Paired: ...
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
    tokens: Tokens | None = None,
    length: int | None = None,
    spacing: tuple[float, float, float] | None = None,
    beside: str | Path | None = None,
    max_pixels: int | None = None,
    cache: str | Path | None = None,
) -> Data | Paired:
    """Load a data set from a name or a path.

    source : one of these.
        A name: `digits`, `fashion-mnist`, `photographs` or `toy:NAME`. Write ./digits for a folder of that name.
        A folder or .zip of pictures.
        A .csv, .tsv, .txt or .jsonl file that lists pictures.
        A folder of MNIST's IDX files or of CIFAR's python files.
        An .idx, -ubyte or -ubyte.gz file.
        A .npy or .npz array. `softmix.data.array` gives the rules for its axes and numbers.
        No archive is extracted and nothing is unpickled.
    split : "train", "test" or "val" (also "valid", "validation"). Subfolders of these names are the splits of a folder
        or zip; a column called split gives those of a list. "test" is "val" if there is no test split. A single array
        has no splits.
    size : pixels. Pictures become size x size: the centre square, resized by Lanczos' filter. None keeps the commonest
        size, if at least nine tenths of the pictures have it. The train split decides the size of every split.
    channels : 1, 3, or 4 with transparency. None is 1 if all pictures of the train split are stored as grey, else 3.
        None keeps the channels of an array.
    limit : the largest number of items. A fixed random choice is taken.
    bits : the number of bits in use, for 16-bit grey pictures and arrays of whole numbers. With 12, 4095 is white.
    values : the range of a float array. "0..1", "-1..1" and "0..255" give pixels of pictures, and points or sequences
        in [-1, 1]. "as-is" keeps floats as they are. None finds the range of pictures and keeps all else as it is.
    layout : the axis of the channels in an array, "channels-first" or "channels-last". None decides by the sizes of the
        axes for pictures, takes the last axis of sequences and the first of volumes.
    hold_out : a share of the items. It is the test split of a source that has none, by `Data.split(hold_out, seed=0)`.
        It is taken after `limit`.
    tokens : "characters" or "bytes" reads a file as text, in items of `length` tokens. A number reads an array of whole
        numbers as tokens; it is the size of the vocabulary.
    length : the number of tokens of an item of text.
    spacing : (dz, dy, dx), the size of a voxel of volumes, in a unit of your choice. It is stored and changes no value.
    beside : a second source. Its items are the condition of the first's, in a `Paired`. Pictures of folders and zip
        archives are paired by file name, all else by number. The options hold for both. The classes are those of the
        first.
    max_pixels : the largest width x height of pictures that are not resized. The headers decide: larger pictures are
        refused before any is decoded. None has no such limit.
    cache : a folder for a copy of the data in mapped files, which need no memory. Use it for data that are larger than
        memory, or slow to read. The copy is used again while the files of the source keep their sizes and times of
        change, and is rebuilt otherwise.

    Labels. The label of a picture is its subfolder at the top, if most pictures lie in one. A folder that holds all
    pictures is no label. These give labels too: dataset.json (EDM), the columns of a list, and NAME_labels.npy or
    labels.npy next to a .npy file.

    A bad file is listed in `report` with its reason, and the other files are read.

    Raises DataError, and nothing else, if an option makes no sense, if the source has no use for an option, or if no
    item is left.
    """
    request = Request(
        split=SPLIT_NAMES.get(split, split),
        size=size,
        channels=channels,
        limit=limit,
        bits=bits,
        values=values,
        layout=layout,
        hold_out=hold_out,
        tokens=tokens,
        length=length,
        spacing=spacing,
        max_pixels=max_pixels,
    )
    for each in (source, source if beside is None else beside):
        _check_path(each)
    origin = Origin(
        _name_or_path(source),
        split,
        size,
        channels,
        limit,
        bits,
        values,
        layout,
        hold_out,
        tokens,
        length,
        spacing,
        None if beside is None else _name_or_path(beside),
        None if cache is None else _absolute(cache),
    )
    _check_cache(origin)
    by_name = beside is not None and all(map(_has_pictures, (source, beside)))

    def read(storage: Storage) -> tuple[Data, ...]:
        stored = replace(request, storage=storage)
        if beside is None:
            sets: tuple[Data, ...] = (_load_one(source, stored),)
        elif by_name:
            sets = load_picture_pairs(_path(source), _path(beside), stored)
        else:
            unlimited = replace(stored, limit=None)
            sets = load_array_pairs(_load_one(source, unlimited), _load_one(beside, unlimited), stored)
        return _hold_out(sets, stored) if hold_out else sets

    sets = read(MEMORY) if origin.cache is None else load_through_cache(Path(origin.cache), origin, read)
    for data in sets:
        # A cache may have been built without the limit.
        if data.is_image:
            request.require_few_pixels(data.name, data.shape[2], data.shape[1])
    return replace(sets[0], origin=origin) if beside is None else as_paired(sets, by_name, origin)


def _is_name(source: str | Path) -> bool:
    return isinstance(source, str) and (source in _NAMED or source.startswith("toy:")) and "/" not in source


def _name_or_path(source: str | Path) -> str:
    return str(source) if _is_name(source) else _absolute(source)


def _absolute(path: str | Path) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    # An unknown ~name.
    except RuntimeError as error:
        raise DataError(f"{printable(str(path))} is no path ({error}); name a folder or a file") from error


def _check_path(source: str | Path) -> None:
    """Raises DataError if a source is a path that does not exist."""
    if not _is_name(source):
        _path(source)


def _check_cache(origin: Origin) -> None:
    """Raises DataError for a cache folder inside of the data."""
    for source in filter(None, (origin.source, origin.beside)):
        if (
            origin.cache
            and os.path.isdir(source)
            and Path(origin.cache).resolve().is_relative_to(Path(source).resolve())
        ):
            raise DataError(f"the cache {origin.cache} lies within the data, {source}; name a folder outside of them")


def _load_one(source: str | Path, request: Request) -> Data:
    return _from_name(str(source), request) if _is_name(source) else _from_path(_path(source), request)


def _hold_out(sets: tuple[Data, ...], request: Request) -> tuple[Data, ...]:
    """The train part or the held-out part of the sets, by the split of the request. Partners stay together."""
    first = sets[0]
    chosen = divided(first.name, first.labels, len(first), request.hold_out, 0)[0 if request.split == "train" else 1]
    return tuple(each.take(*chosen, request.storage) for each in sets)


def _has_pictures(source: str | Path) -> bool:
    """Whether a source is a folder or a zip archive with one file per picture."""
    if _is_name(source):
        return False
    path = _path(source)
    if path.is_dir():
        return not (is_idx_folder(path) or kind_of(path))
    return path.name.lower().endswith(".zip")


def _from_name(name: str, request: Request) -> Data:
    request.split_of(name, ("train", "test"), "name one of these")
    if name in _NAMED:
        request.refuse_options(
            name, "holds pictures with known pixel values", "bits", "values", "layout", "tokens", "length", "spacing"
        )
        found = _NAMED[name](request)
    else:
        found = toy(name.removeprefix("toy:"), request)
    if os.path.exists(name):
        note = f"./{name} was not read, since {name} is a data set of softmix; write ./{name} to read it"
        return found.with_note(note)
    return found


def _from_path(path: Path, request: Request) -> Data:
    if request.length is not None:
        return _from_text(path, request)
    if not path.is_dir():
        return _from_file(path, request)
    if is_idx_folder(path):
        return from_idx_folder(printable(path.resolve().name), path, (), request)
    return from_cifar(path, request) if kind_of(path) else from_folder(path, request)


def _from_text(path: Path, request: Request) -> Data:
    shown = printable(str(path))
    if not path.is_file():
        raise DataError(f"{shown} was to be read as {request.tokens}, and is no file; name a file of text")
    request.split_of(shown, (), "load it and call .split(), or give a share to hold out")
    return from_text(path, request)


def _path(source: str | Path) -> Path:
    known = f"digits, fashion-mnist, photographs, {', '.join(f'toy:{name}' for name in TOYS)}, or the path of {_KINDS}"
    shown = printable(str(source))
    try:
        path = Path(source).expanduser()
        if str(source) and path.exists():
            return path
    # expanduser raises RuntimeError for an unknown ~name; exists raises for a NUL byte or a closed folder.
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{shown} cannot be read ({error}); give {known}") from error
    raise DataError(f"the data '{shown}' were asked for, but there is no such name or path; give {known}")


def _from_file(path: Path, request: Request) -> Data:
    name, shown = path.name.lower(), printable(str(path))
    if not path.is_file():
        raise DataError(f"{shown} is neither a file nor a folder; give {_KINDS}")
    if name.endswith(".zip"):
        return from_zip(path, request)
    if name.endswith(".npz"):
        return from_npz(path, request)
    if name.endswith(LIST_SUFFIXES):
        return from_list(path, request)
    read = from_npy if name.endswith(".npy") else from_idx if _IDX_NAME.search(name) else None
    if read is None:
        raise DataError(f"{shown} is a file of no kind that can be loaded; give {_KINDS}")
    request.split_of(shown, (), "load it and call .split(), or give a share to hold out")
    return read(path, request)
