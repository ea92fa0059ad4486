"""Room `data`: arrays that are already arrays, from .npy and IDX files, with one rule for what their axes mean."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from softmix.data import idx
from softmix.data.picture import Unusable, fit, to_array
from softmix.data.report import DataError, Report, Want, printable
from softmix.data.store import Data, choose, make

_SPLITS = {"train": ("train",), "test": ("t10k", "test")}


def from_npy(path: Path, want: Want) -> Data:
    """The array in a .npy file, by the rule of `from_array`. Never unpickles. Raises DataError."""
    name = printable(str(path))
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    # numpy parses the header as Python text: a damaged one raises nearly everything (TokenError, TypeError ...).
    except Exception as error:
        message = f"{name} cannot be read as a .npy array without pickle ({error}); save it again with np.save"
        raise DataError(message) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{name} is an archive of arrays, not one array; save the one you mean with np.save")
    return from_array(printable(path.stem), array, None, (), want)


def from_idx(path: Path, want: Want) -> Data:
    """The array in an IDX file, with the labels of the file beside it if MNIST's rule names one. Raises DataError."""
    array = idx.read(path)
    beside = path.with_name(re.sub(r"images([-.])idx3", r"labels\1idx1", path.name))
    labels = _read_labels(beside) if beside != path and os.path.isfile(beside) else None
    name = printable(re.sub(r"(\.idx|[-.]ubyte|\.gz)+$", "", path.name))
    return from_array(name, array, labels, (), want)


def _idx_file(root: Path, kind: str, split: str) -> Path | None:
    axes = 3 if kind == "images" else 1
    paths = (
        root / f"{start}-{kind}{dot}idx{axes}-ubyte{end}"
        for start in _SPLITS[split]
        for dot in ("-", ".")
        for end in ("", ".gz")
    )
    # Unlike Path.is_file, isfile says no, and raises nothing, for a folder that may not be searched.
    return next((path for path in paths if os.path.isfile(path)), None)


def is_idx_folder(root: Path) -> bool:
    """Whether a folder holds images named by MNIST's rule: {train,t10k,test}-images-idx3-ubyte[.gz]."""
    return any(_idx_file(root, "images", split) for split in _SPLITS)


def from_idx_folder(name: str, root: Path, classes: tuple[str, ...], want: Want) -> Data:
    """One split of a folder of IDX files; labels if their file is there. Raises DataError."""
    images, labels = _idx_file(root, "images", want.split), _idx_file(root, "labels", want.split)
    if images is None:
        raise DataError(
            f"{name}: its {want.split} split was asked for, but {printable(str(root))} holds no "
            f"{_SPLITS[want.split][0]}-images-idx3-ubyte.gz; put it there"
        )
    numbers = _read_labels(labels) if labels else None
    return from_array(name, idx.read(images), numbers, classes, want)


def _read_labels(path: Path) -> Tensor:
    array = idx.read(path)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.min() < 0:
        raise DataError(
            f"{printable(str(path))}: labels must be whole numbers from 0, shape (N,), "
            f"but it is {_what(array)} with least value {array.min()}; fetch it again"
        )
    return torch.from_numpy(array.astype(np.int64))


def _what(array: NDArray[Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"


def from_array(name: str, array: NDArray[Any], labels: Tensor | None, classes: tuple[str, ...], want: Want) -> Data:
    """An array as a data set.

    uint8 are images: [N, H, W] is grey; with four axes, the last one holds the channels if its size is 1 or 3,
    else the second one does if its size is 1 or 3 (so [N, 3, 64, 3] is channels last). Floats are points or
    sequences, [N, ...], taken as they are; [N] becomes [N, 1], and items that are not finite are left out.
    Without names, the classes are called by their numbers. Raises DataError for all else.
    """
    if array.ndim == 0 or array.size == 0:
        raise DataError(f"{name} holds no items, it is {_what(array)}; give an array [N, ...]")
    if labels is not None:
        classes = _named_classes(name, len(array), labels, classes)
    chosen = choose(len(array), want.limit)
    notes: list[str] = []
    if len(chosen) < len(array):
        notes.append(f"limit: {len(chosen)} items were taken, chosen at random from {len(array)}")
        labels = None if labels is None else labels[chosen]
    picked = array[chosen.numpy()] if len(chosen) < len(array) else array
    if array.dtype == np.uint8:
        values = _images(name, picked, want, notes)
        return make(name, values, labels, classes, Report(len(values), notes=tuple(notes)))
    if array.dtype.kind == "f":
        want.points_only(name)
        values, good = _points(name, picked, notes)
        skipped = tuple((f"item {i}", "not finite in float32") for i in chosen[~good].tolist())
        labels = None if labels is None else labels[good]
        return make(name, values, labels, classes, Report(len(values), skipped, notes=tuple(notes)))
    raise DataError(f"{name} is {_what(array)}; give uint8 for images, or floats for points and sequences")


def _named_classes(name: str, items: int, labels: Tensor, classes: tuple[str, ...]) -> tuple[str, ...]:
    if len(labels) != items:
        raise DataError(f"{name}: there are {items} items but {len(labels)} labels; each item needs one label")
    largest = int(labels.max())
    if not classes:
        return tuple(str(i) for i in range(largest + 1))
    if largest >= len(classes):
        raise DataError(f"{name}: a label is {largest}, but there are {len(classes)} classes; fetch it again")
    return classes


def _images(name: str, array: NDArray[Any], want: Want, notes: list[str]) -> Tensor:
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    elif array.ndim != 4 or array.shape[1] not in (1, 3):
        rule = "images are uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with C = 1 or 3"
        raise DataError(f"{name} is {_what(array)}; {rule}")
    _, had, height, width = array.shape
    if want.channels in (None, had) and want.size in (None, height if height == width else None):
        return torch.from_numpy(np.array(array, dtype=np.uint8, order="C"))
    mode = {1: "L", 3: "RGB"}[want.channels or had]
    try:
        changed = np.stack([to_array(fit(_picture(item).convert(mode), want.size)) for item in array])
    except Unusable as error:
        raise DataError(f"{name}: {error}; ask for a smaller size") from error
    after = "x".join(map(str, changed.shape[1:]))
    notes.append(f"converted from {had}x{height}x{width} to {after} (channels, height, width)")
    return torch.from_numpy(changed)


def _picture(item: NDArray[Any]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(item[0] if len(item) == 1 else item.transpose(1, 2, 0)))


def _points(name: str, array: NDArray[Any], notes: list[str]) -> tuple[Tensor, Tensor]:
    """(the finite items as float32, which of all items these are)."""
    with np.errstate(over="ignore"):
        values = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
    if values.ndim == 1:
        values = values[:, None]
    good = torch.isfinite(values).flatten(1).all(1)
    if not good.any():
        raise DataError(f"{name}: points were asked for, but none of {len(values)} is finite; give finite numbers")
    values = values[good]
    largest = float(values.abs().max())
    if largest > 10:
        notes.append(f"values reach {largest:.3g}; models expect a spread of about 1, so rescale them")
    return values, good
