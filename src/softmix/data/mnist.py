"""IDX files named as in MNIST: images, and labels in a second file."""

from __future__ import annotations

import os
import re
from pathlib import Path

from torch import Tensor

from . import idx
from .array import from_array
from .conversion import describe
from .labels import known_classes, labels_from_array
from .report import DataError, printable
from .request import Request
from .store import Data

_NAMES = {"train": ("train",), "test": ("t10k", "test")}


def from_idx(path: Path, request: Request) -> Data:
    """The array in an IDX file, with the labels in a second file of MNIST's naming rule. Raises DataError."""
    name = printable(re.sub(r"(\.idx|[-.]ubyte|\.gz)+$", "", path.name))
    return _labelled(name, path, labels_beside(path), (), request)


def labels_beside(path: Path) -> Path | None:
    """The labels file that belongs to an images file by MNIST's naming rule, if it exists."""
    found = path.with_name(re.sub(r"images([-.])idx3", r"labels\1idx1", path.name))
    return found if found != path and os.path.isfile(found) else None


def _idx_file(root: Path, kind: str, split: str) -> Path | None:
    axes = 3 if kind == "images" else 1
    paths = (
        root / f"{start}-{kind}{dot}idx{axes}-ubyte{end}"
        for start in _NAMES[split]
        for dot in ("-", ".")
        for end in ("", ".gz")
    )
    # isfile returns False for a folder without permission; Path.is_file raises.
    return next((path for path in paths if os.path.isfile(path)), None)


def is_idx_folder(root: Path) -> bool:
    """Whether a folder has images named by MNIST's rule: {train,t10k,test}-images-idx3-ubyte[.gz]."""
    return any(_idx_file(root, "images", split) for split in _NAMES)


def from_idx_folder(name: str, root: Path, classes: tuple[str, ...], request: Request) -> Data:
    """One split of a folder of IDX files, with labels if their file exists. Raises DataError."""
    has = [split for split in _NAMES if _idx_file(root, "images", split)]
    missing = _NAMES.get(request.split, ("train",))[0]
    part = request.split_of(
        name, has, f"put {missing}-images-idx3-ubyte.gz into {printable(str(root))}, or give a share to hold out"
    )
    images = _idx_file(root, "images", part or "train")
    # `split_of` returns one of `has`, or None for a folder with the train split only.
    assert images is not None
    return _labelled(name, images, _idx_file(root, "labels", part or "train"), classes, request)


def _labelled(name: str, images: Path, labels: Path | None, classes: tuple[str, ...], request: Request) -> Data:
    array = idx.read(images)
    numbers: Tensor | None = None
    if labels is not None:
        shape = idx.shape_of(labels)
        # The shape is checked before reading: a forged labels file may be larger than all images.
        if shape != array.shape[:1]:
            raise DataError(
                f"{name}: there are {len(array)} items but {shape[0]} labels; each item needs one label, but "
                f"{printable(str(labels))} is of shape {shape}"
            )
        values = idx.read(labels)
        if values.dtype.kind not in "iu":
            raise DataError(
                f"{printable(str(labels))}: labels must be whole numbers from 0, but it is {describe(values)}"
            )
        numbers, found = labels_from_array(printable(str(labels)), values, len(array))
        classes = known_classes(name, numbers, found, classes)
    return from_array(name, array, numbers, classes if numbers is not None else (), request)
