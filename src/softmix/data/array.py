"""`from_array`: an array as a data set, with one rule for the meaning of its axes and numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .array_numbers import numbers, tokens, volumes
from .array_pictures import axis_of_channels, pictures
from .array_range import chunks, find_range, has_pixel_levels
from .conversion import Conversion, describe
from .report import DataError, Report
from .request import Request
from .store import Data, choose, make

_Reader = Callable[[str, NDArray[Any], Request, list[str]], Conversion]


def from_array(
    name: str, array: NDArray[Any], labels: Tensor | None, classes: tuple[str, ...], request: Request
) -> Data:
    """An array as a data set.

    labels, classes : the labels of the items and the names of their classes.

    Axes. [N, H, W] of uint8 is grey pictures. Of four axes, `request.layout` names the axis of the channels. Without
    it the last axis has the channels if its size is 1 or 3, else the second if its size is 1, 3 or 4, else the last if
    its size is 4; so [N, 3, 64, 3] has its channels last. Five axes are volumes [N, C, D, H, W]. Floats with one or two
    axes are points; [N] becomes [N, 1]. Floats with three axes are sequences [N, L, D], with channels last. If these
    floats are 8-bit pixels (k / 255 or k for whole k), they are grey pictures. `request.layout` also states another
    layout of sequences and volumes.

    Numbers. uint8 are pixels. With the axes of pictures, bool, other whole numbers and floats become pixels. Their
    range is that of `request.values` or `request.bits`, or it is found (`softmix.data.array_range`). Floats with other
    axes, and all floats with values "as-is", stay as they are in float32. Items with a value that is not finite are
    left out. With `request.tokens`, whole numbers [N, L] or [N, H, W] are tokens.

    The range is that of the whole array, so that a limit changes no item. Raises DataError for all other arrays.
    """
    if array.ndim == 0 or array.size == 0:
        raise DataError(f"{name} holds no items, it is {describe(array)}; give an array [N, ...]")
    if labels is not None and len(labels) != len(array):
        raise DataError(f"{name}: there are {len(array)} items but {len(labels)} labels; each item needs one label")
    if array.dtype.kind not in "buif":
        raise DataError(f"{name} is {describe(array)}; give uint8 for images, or floats for points and sequences")
    if array.ndim != 5:
        request.refuse_options(name, f"is {describe(array)} and holds no volumes [N, C, D, H, W]", "spacing")
    chosen = choose(len(array), request.limit)
    notes: list[str] = []
    if len(chosen) < len(array):
        notes.append(f"limit: {len(chosen)} items were taken, chosen at random from {len(array)}")
    request.storage.require_space(name, len(chosen) * int(array[:1].size) * (4 if array.dtype.kind == "f" else 1))
    conversion = _reader(name, array, request)(name, array, request, notes)
    good = _finite(array, chosen)
    values = _values(name, array, chosen[good], conversion, request)
    notes += conversion.notes()
    skipped = tuple((f"item {i}", "not finite in float32") for i in chosen[~good].tolist())
    labels = None if labels is None else labels[chosen][good]
    return make(
        name,
        torch.from_numpy(values),
        labels,
        classes,
        Report(len(values), skipped, notes=tuple(notes)),
        vocabulary=request.tokens if isinstance(request.tokens, int) else 0,
        spacing=request.spacing,
    )


def _reader(name: str, array: NDArray[Any], request: Request) -> _Reader:
    if isinstance(request.tokens, int):
        return tokens
    request.refuse_options(name, f"is {describe(array)}", "tokens", "length")
    if array.ndim == 5 and array.dtype.kind in "ub":
        return volumes
    return pictures if _are_pictures(name, array, request) else numbers


def _are_pictures(name: str, array: NDArray[Any], request: Request) -> bool:
    if array.dtype == np.uint8 or array.dtype.kind == "b":
        return True
    if array.dtype.kind in "iu":
        if array.ndim in (3, 4):
            return True
        raise DataError(f"{name} is {describe(array)}; give uint8 for images, or floats for points and sequences")
    if request.values == "as-is":
        return False
    if array.ndim == 4:
        return request.layout is not None or axis_of_channels(array) is not None
    if array.ndim != 3 or request.layout is not None:
        return False
    found = find_range(name, array)
    if has_pixel_levels(array, found):
        return True
    if request.values is not None or request.size is not None or request.channels is not None:
        raise DataError(
            f"{name} is {describe(array)} with {found}, which may be grey pictures or sequences; save pictures as "
            "[N, 1, H, W], or give --layout channels-last for sequences [N, L, D]"
        )
    return False


def _finite(array: NDArray[Any], chosen: Tensor) -> Tensor:
    """Whether each chosen item is finite in float32."""
    good = torch.ones(len(chosen), dtype=torch.bool, device="cpu")
    if array.dtype.kind == "f":
        index = chosen.numpy()
        with np.errstate(over="ignore"):
            for part in chunks(array, len(chosen)):
                small = array[index[part]].astype(np.float32, copy=False)
                good[part] = torch.from_numpy(np.isfinite(small).reshape(len(small), -1).all(1))
    return good


def _values(name: str, array: NDArray[Any], index: Tensor, conversion: Conversion, request: Request) -> NDArray[Any]:
    """The converted items at `index`. They are converted piece by piece: a mapped file is never whole in memory."""
    if not len(index):
        raise DataError(
            f"{name}: {conversion.kind} were asked for, but none of {len(array)} items is finite; give finite numbers"
        )
    at = index.numpy()
    first = conversion.convert(array[at[:1]])
    values = request.storage.empty(name, (len(at), *first.shape[1:]), first.dtype)
    for part in request.storage.progress(list(chunks(array, len(at))), "parts"):
        values[part] = conversion.convert(array[at[part]])
    return values
