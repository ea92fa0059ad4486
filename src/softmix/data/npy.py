"""Arrays that numpy has saved: a .npy file with labels beside it, and an .npz archive of several."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .array import from_array
from .conversion import describe
from .entries import open_zip
from .labels import labels_file, labels_from_array
from .limits import require_memory, unpacked_limit
from .report import DataError, printable
from .request import SPLIT_NAMES, Request
from .store import Data

_IMAGES = ("images", "image", "x", "data", "arr_0", "samples", "imgs")
_LABELS = ("labels", "label", "y", "targets", "target", "arr_1")


def from_npy(path: Path, request: Request) -> Data:
    """The array in a .npy file, by the rule of `from_array`, and the labels beside it. Raises DataError.

    Labels are in NAME_labels.npy, NAME-labels.npy or labels.npy in the same folder: whole numbers from 0, or names.
    """
    name, array = printable(path.stem), _mapped(path)
    place = labels_file(path)
    if place is None or array.ndim == 0:
        return from_array(name, array, None, (), request)
    labels, classes = labels_from_array(f"{name}, {printable(place.name)}", _mapped(place), len(array))
    return from_array(name, array, labels, classes, request)


def _mapped(path: Path) -> NDArray[Any]:
    name = printable(str(path))
    try:
        # A forged shape may be a product beyond 64 bits.
        with np.errstate(over="ignore"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    # numpy parses the header as Python text: a damaged one raises nearly everything (TokenError, TypeError ...).
    except Exception as error:
        message = f"{name} cannot be read as a .npy array without pickle ({error}); save it again with np.save"
        raise DataError(message) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{name} is an archive of arrays, not one array; call it .npz, or save the one you mean")
    return array


def from_npz(path: Path, request: Request) -> Data:
    """The images or points in an .npz archive, and their labels. Raises DataError.

    The array is called images, x, data, samples or arr_0, or is the only one; its labels are called labels, y, targets
    or arr_1, if there are as many. Names such as x_train, train_images, y_test make splits.
    """
    name = printable(path.stem)
    with open_zip(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        splits = {split for split in ("train", "test", "val") if _key(members, _IMAGES, split)}
        part = request.split_of(name, sorted(splits, key=["train", "test", "val"].index), "give a share to hold out")
        key = _key(members, _IMAGES, part or "")
        if key is None and not splits and len(members) == 1:
            key = next(iter(members))
        if key is None:
            keys = printable(", ".join(members)) or "nothing"
            raise DataError(f"{name} holds {keys}; call the array that is meant images, and its labels labels")
        array = _member(path, archive, members[key])
        labels, note = _labels_of(path, archive, members, key, part or "", len(array))
    numbers, classes = labels or (None, ())
    result = from_array(name, array, numbers, classes, request)
    return result.with_note(note) if note else result


def _labels_of(
    path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], key: str, part: str, items: int
) -> tuple[tuple[Tensor, tuple[str, ...]] | None, str]:
    """(labels and class names, or None; a note if something was passed over)."""
    label_key = _key(members, _LABELS, part)
    if label_key is None or label_key == key:
        return None, ""
    found = _member(path, archive, members[label_key])
    # arr_1 is the place of the labels in files of samples, but any second array lies there.
    if label_key == "arr_1" and (found.shape != (items,) or found.dtype.kind not in "iu"):
        return None, f"arr_1 was passed over: it is {describe(found)}, not {items} labels"
    return labels_from_array(f"{printable(path.stem)}, {printable(label_key)}", found, items), ""


def _key(members: dict[str, Any], names: tuple[str, ...], split: str) -> str | None:
    """The member called by one of `names`, with what people call `split` before or behind it."""
    words = [word for word, meant in SPLIT_NAMES.items() if meant == split]
    requested = [f"{word}_{n}" for n in names for word in words] + [f"{n}_{word}" for n in names for word in words]
    lower = {key.lower(): key for key in members}
    return next((lower[key] for key in (requested if split else names) if key in lower), None)


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """One array of the archive; its header is believed as far as the member can hold what it promises."""
    name = f"{printable(path.name)}, {printable(info.filename)}"
    try:
        with archive.open(info) as stream:
            shape, fortran, dtype = _header(stream)
            if dtype.hasobject:
                raise DataError(f"{name} holds Python objects, which are never unpickled; save numbers")
            need = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
            if len(shape) > 32 or need > info.file_size or need > unpacked_limit(info.compress_size):
                raise DataError(f"{name}: its header promises {need} bytes, more than it can hold; save it again")
            require_memory(name, need)
            body = stream.read(need)
    except DataError:
        raise
    # zipfile checks little before it unpacks, and numpy parses the header as Python text.
    except Exception as error:
        raise DataError(f"{name} cannot be read as an array without pickle ({error}); save it again") from error
    if len(body) < need:
        raise DataError(f"{name}: its header promises {need} bytes, but it holds {len(body)}; save it again")
    array = np.frombuffer(body, dtype=dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    read: dict[tuple[int, int], Callable[..., Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(stream)
    if version not in read:
        raise DataError(f"an array of format {version}; save it again with np.savez")
    shape, fortran, dtype = read[version](stream)
    return shape, fortran, dtype
