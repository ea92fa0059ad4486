"""Class labels from arrays of numbers or names."""

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

# ImageNet has 21,841 classes. Without a limit, one damaged number would make millions of classes.
MAX_CLASSES = 1 << 16


def labels_from_array(name: str, array: NDArray[Any], items: int) -> tuple[Tensor, tuple[str, ...]]:
    """Class labels from an array.

    name : the array, for messages.
    array : [N] or [N, 1]. Whole numbers from 0, or names, which are sorted.
    items : the number of items N.
    Returns (int64 [N], class names). The name of a number is its digits.
    Raises DataError if the array has another type or length.
    """
    described = f"{array.dtype} of shape {array.shape}"
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{name}: labels must be one number or name per item, shape (N,), but they are {described}")
    if len(array) != items:
        raise DataError(f"{name}: there are {items} items but {len(array)} labels; each item needs one label")
    if array.dtype.kind == "U":
        return labels_from_names(array.tolist())
    if array.dtype.kind == "S":
        return labels_from_names([text.decode("utf-8", "replace") for text in array.tolist()])
    if array.dtype.kind == "f" and bool((array == np.rint(array)).all()) and float(np.abs(array).max()) < 2**53:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iub":
        raise DataError(f"{name}: labels must be whole numbers from 0 or names, but they are {described}")
    numbers = array.astype(np.int64)
    least, largest = int(numbers.min()), int(numbers.max())
    if least < 0 or largest >= MAX_CLASSES:
        raise DataError(
            f"{name}: labels must be whole numbers from 0 to {MAX_CLASSES - 1}, but they run from {least} to {largest}"
        )
    return torch.from_numpy(numbers), tuple(str(i) for i in range(largest + 1))


def labels_from_names(names: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Return (int64 [N], class names) from one name per item. If all names are whole numbers, they keep their value."""
    if all(text.isascii() and text.isdigit() and len(text) < 6 for text in names):
        return labels_from_array("labels", np.array([int(text) for text in names], np.int64), len(names))
    classes = sorted(set(names))
    number = {text: i for i, text in enumerate(classes)}
    return torch.tensor([number[text] for text in names], device="cpu"), tuple(map(printable, classes))


def known_classes(name: str, labels: Tensor, classes: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    """The class names `known` in advance, or else `classes`. Raises DataError if a label has no known name."""
    if not known:
        return classes
    if len(labels) and int(labels.max()) >= len(known):
        raise DataError(
            f"{name}: a label is {int(labels.max())}, but there are {len(known)} classes; fetch the labels again"
        )
    return known


def labels_file(path: Path) -> Path | None:
    """The first existing labels file of an array NAME.npy: NAME_labels.npy, NAME-labels.npy or labels.npy."""
    names = (f"{path.stem}_labels.npy", f"{path.stem}-labels.npy", "labels.npy")
    # isfile returns False for a folder without permission; Path.is_file raises.
    return next((p for p in map(path.with_name, names) if p != path and os.path.isfile(p)), None)
