"""Arrays saved by numpy: a .npy file with labels next to it, and an .npz archive of several arrays."""

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
    """The array in a .npy file, read by `from_array`, with its labels.

    Labels are in NAME_labels.npy, NAME-labels.npy or labels.npy in the same folder: whole numbers from 0, or names.
    Raises DataError.
    """
    name, array = printable(path.stem), mapped(path)
    labels_path = labels_file(path)
    if labels_path is None or array.ndim == 0:
        return from_array(name, array, None, (), request)
    labels, classes = labels_from_array(f"{name}, {printable(labels_path.name)}", mapped(labels_path), len(array))
    return from_array(name, array, labels, classes, request)


def mapped(path: Path) -> NDArray[Any]:
    """The array of a file, mapped into memory. Raises DataError."""
    name = printable(str(path))
    try:
        # The product of a forged shape may exceed 64 bits.
        with np.errstate(over="ignore"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    # numpy parses the header as Python text. A damaged one raises nearly any error (TokenError, TypeError ...).
    except Exception as error:
        message = f"{name} cannot be read as a .npy array without pickle ({error}); save it again with np.save"
        raise DataError(message) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{name} is an archive of arrays, not one array; call it .npz, or save the one you mean")
    return array


def from_npz(path: Path, request: Request) -> Data:
    """The images or points in an .npz archive, with their labels.

    The array is called images, x, data, samples or arr_0, or is the only one. Its labels are called labels, y,
    targets or arr_1, one for each item. Names such as x_train, train_images, y_test make splits.
    Raises DataError.
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
    """Return (labels and class names, or None; a note if an array was not used)."""
    label_key = _key(members, _LABELS, part)
    if label_key is None or label_key == key:
        return None, ""
    array = _member(path, archive, members[label_key])
    # In files of samples arr_1 has the labels; in other files it is any second array.
    if label_key == "arr_1" and (array.shape != (items,) or array.dtype.kind not in "iu"):
        return None, f"arr_1 was not used as labels: it is {describe(array)}, not {items} labels"
    return labels_from_array(f"{printable(path.stem)}, {printable(label_key)}", array, items), ""


def _key(members: dict[str, Any], names: tuple[str, ...], split: str) -> str | None:
    """The member with one of `names`; for a split, with a name of the split before or after it."""
    words = [word for word, meant in SPLIT_NAMES.items() if meant == split]
    requested = [f"{word}_{n}" for n in names for word in words] + [f"{n}_{word}" for n in names for word in words]
    lower = {key.lower(): key for key in members}
    return next((lower[key] for key in (requested if split else names) if key in lower), None)


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """One array of the archive. Its header is checked against the size of the member."""
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
    # Both zipfile and numpy may raise nearly any error on a damaged file.
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
