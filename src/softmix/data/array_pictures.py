"""Arrays of pictures, as pixels uint8 [N, C, H, W]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .array_range import (
    bits_to_pixels,
    choose_range,
    dark_warning,
    find_range,
    range_note,
    require_bits,
    size_warning,
    to_pixels,
)
from .conversion import Conversion, describe
from .picture import MODES, Unusable, fit, to_array, to_mode
from .report import DataError
from .request import Request

_RULE = "images are uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with C = 1 or 3, or 4 with alpha"
_Change = Callable[[NDArray[Any]], NDArray[Any]]


def pictures(name: str, array: NDArray[Any], request: Request, notes: list[str]) -> Conversion:
    """Items of [N, H, W], [N, H, W, C] or [N, C, H, W] become pixels [C, H, W], resized if a size was asked for."""
    axis = _axis(name, array, request, notes)
    shape = array.shape[1:] if axis is None else (array.shape[axis], *(array.shape[i] for i in (1, 2, 3) if i != axis))
    channels, height, width = shape if axis is not None else (1, *shape)
    request.require_few_pixels(name, width, height)
    levels, about = _pixels(name, array, request, notes)
    requested = request.channels or channels
    same = requested == channels and request.size in (None, height if height == width else None)
    highest: list[int] = []
    how: set[str] = set()
    after: list[tuple[int, ...]] = []

    def change(part: NDArray[Any]) -> NDArray[Any]:
        pixels = levels(part[:, None] if axis is None else np.moveaxis(part, axis, 1))
        highest.append(int(pixels.max()))
        if same:
            return pixels
        resized = _resized(name, pixels, MODES[requested], request.size, how)
        after.append(resized.shape[1:])
        return resized

    def notes_after() -> list[str]:
        bits = "" if request.bits else "; if they hold fewer bits, give --bits"
        lines = [
            *about(),
            *dark_warning(max(highest), bits),
            *(size_warning(width, height) if request.size is None else ()),
        ]
        if after:
            to = "x".join(map(str, after[0]))
            lines += [f"converted from {channels}x{height}x{width} to {to} (channels, height, width)", *sorted(how)]
        return lines

    return Conversion("pictures", change, notes_after)


def axis_of_channels(array: NDArray[Any]) -> int | None:
    """The axis of the channels among four axes, by its size; None if no axis fits."""
    for axis, sizes in ((3, (1, 3)), (1, (1, 3, 4)), (3, (4,))):
        if array.shape[axis] in sizes:
            return axis
    return None


def _axis(name: str, array: NDArray[Any], request: Request, notes: list[str]) -> int | None:
    """The axis of the channels of pictures; None for grey pictures without such an axis."""
    if array.ndim == 3:
        request.refuse_options(name, "has pictures without an axis of channels", "layout")
        return None
    if array.ndim != 4:
        raise DataError(f"{name} is {describe(array)}; {_RULE}")
    axis = (
        axis_of_channels(array) if request.layout is None else {"channels-first": 1, "channels-last": 3}[request.layout]
    )
    if axis is None or array.shape[axis] not in MODES:
        raise DataError(f"{name} is {describe(array)}; {_RULE}")
    other = 4 - axis
    if request.layout is None and array.shape[other] in MODES:
        kind, instead = ("last", "first") if axis == 3 else ("first", "last")
        notes.append(
            f"the axes of sizes {array.shape[1]} and {array.shape[3]} could both hold the channels; the {kind} one was "
            f"taken: give --layout channels-{instead} for the other"
        )
    return axis


def _pixels(
    name: str, array: NDArray[Any], request: Request, notes: list[str]
) -> tuple[_Change, Callable[[], list[str]]]:
    """Return (items of `array` -> pixels, by the range of the whole array; notes for the report afterwards)."""
    if array.dtype.kind == "b":
        request.refuse_options(name, "holds true and false, which are white and black", "values", "bits")
        notes.append("true and false became white and black")
        return lambda part: part.astype(np.uint8) * np.uint8(255), list
    if array.dtype == np.uint8 and request.values in (None, "0..255") and request.bits is None:
        return lambda part: part, list
    if request.values == "as-is":
        raise DataError(f"{name} is {describe(array)}; values as-is are for floats: save them as float32")
    found = find_range(name, array)
    if request.bits is not None:
        bits = require_bits(name, found, request.bits)
        notes.append(f"{found} were taken as {bits} bits and became pixels 0..255")
        return lambda part: bits_to_pixels(part, bits), list
    values = choose_range(name, describe(array), found, request)
    moved = [0.0]

    def change(part: NDArray[Any]) -> NDArray[Any]:
        pixels, by = to_pixels(part, values)
        moved.append(by)
        return pixels

    return change, lambda: [range_note(found, values, max(moved))]


def _resized(name: str, pixels: NDArray[np.uint8], mode: str, size: int | None, how: set[str]) -> NDArray[np.uint8]:
    changes: list[str] = []
    try:
        resized = np.stack([to_array(fit(to_mode(_picture(item), mode, changes), size)) for item in pixels])
    except Unusable as error:
        raise DataError(f"{name}: {error}; ask for a smaller size") from error
    how.update(changes)
    return resized


def _picture(item: NDArray[Any]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(item[0] if len(item) == 1 else item.transpose(1, 2, 0)))
