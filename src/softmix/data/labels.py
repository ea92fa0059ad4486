"""Numbers or names that stand for the class of each item, checked before anything is made of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .report import DataError, printable

# ImageNet in full has 21,841. A damaged number would otherwise make a class of every number below it.
MAX_CLASSES = 1 << 16


def labels_from_array(name: str, array: NDArray[Any], items: int) -> tuple[Tensor, tuple[str, ...]]:
    """(int64 [N], class names) from an array: whole numbers from 0, called by their number, or names, sorted.

    Raises DataError if there is not one label for each of `items`, or it is neither.
    """
    found = f"{array.dtype} of shape {array.shape}"
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{name}: labels must be one number or name per item, shape (N,), but they are {found}")
    if len(array) != items:
        raise DataError(f"{name}: there are {items} items but {len(array)} labels; each item needs one label")
    if array.dtype.kind == "U":
        return labels_from_names(array.tolist())
    if array.dtype.kind == "S":
        return labels_from_names([text.decode("utf-8", "replace") for text in array.tolist()])
    if array.dtype.kind == "f" and bool((array == np.rint(array)).all()) and float(np.abs(array).max()) < 2**53:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iub":
        raise DataError(f"{name}: labels must be whole numbers from 0 or names, but they are {found}")
    numbers = array.astype(np.int64)
    least, largest = int(numbers.min()), int(numbers.max())
    if least < 0 or largest >= MAX_CLASSES:
        raise DataError(
            f"{name}: labels must be whole numbers from 0 to {MAX_CLASSES - 1}, but they run from {least} to {largest}"
        )
    return torch.from_numpy(numbers), tuple(str(i) for i in range(largest + 1))


def labels_from_names(names: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """(int64 [N], class names) from one name per item; names that are all whole numbers from 0 keep their number."""
    if all(text.isascii() and text.isdigit() and len(text) < 6 for text in names):
        return labels_from_array("labels", np.array([int(text) for text in names], np.int64), len(names))
    classes = sorted(set(names))
    number = {text: i for i, text in enumerate(classes)}
    return torch.tensor([number[text] for text in names]), tuple(map(printable, classes))


def known_classes(name: str, labels: Tensor, classes: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    """The class names that are `known` beforehand, if there are enough of them; else `classes`. Raises DataError."""
    if not known:
        return classes
    if len(labels) and int(labels.max()) >= len(known):
        raise DataError(
            f"{name}: a label is {int(labels.max())}, but there are {len(known)} classes; fetch the labels again"
        )
    return known


def labels_file(path: Path) -> Path | None:
    """The labels beside an array NAME.npy: NAME_labels.npy, NAME-labels.npy or labels.npy, the first that is there."""
    names = (f"{path.stem}_labels.npy", f"{path.stem}-labels.npy", "labels.npy")
    # Unlike Path.is_file, isfile says no, and raises nothing, for a folder that may not be searched.
    return next((p for p in map(path.with_name, names) if p != path and os.path.isfile(p)), None)
