"""Room `data`: arrays that are already arrays, with one rule for what their axes and their numbers mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from softmix.data.memory import room_for
from softmix.data.picture import MODES, Unusable, fit, to_array, to_mode
from softmix.data.report import DataError, Report
from softmix.data.store import Data, choose, make
from softmix.data.values import (
    chunks,
    dark,
    decide,
    from_bits,
    has_pixel_levels,
    range_of,
    said,
    scaled,
    to_pixels,
    vast,
)
from softmix.data.want import Want

_RULE = "images are uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with C = 1 or 3, or 4 with alpha"


def what(array: NDArray[Any]) -> str:
    """Type and shape, for a sentence."""
    return f"{array.dtype} of shape {array.shape}"


def from_array(name: str, array: NDArray[Any], labels: Tensor | None, classes: tuple[str, ...], want: Want) -> Data:
    """An array as a data set; `classes` are names for `labels`.

    Axes. [N, H, W] of uint8 is grey. Of four axes, `want.layout` says which holds the channels; without it the last one
    does if its size is 1 or 3, else the second one if its size is 1, 3 or 4, else the last one if its size is 4 (so
    [N, 3, 64, 3] is channels last). Floats with one or two axes are points, [N] becomes [N, 1]; with three they are
    sequences [N, C, L], unless they are 8-bit pixels in disguise (k / 255 or k), which are grey pictures.

    Numbers. uint8 are pixels. bool, other whole numbers and floats of a picture's axes become pixels by the range that
    `want.values` or `want.bits` names, or that is found (`softmix.data.values`). Floats of other axes, and all floats
    with values "as-is", stay as they are in float32. Items with a value that is not finite are left out.

    The range is that of the whole array, so that a limit changes no item. Raises DataError for all else.
    """
    if array.ndim == 0 or array.size == 0:
        raise DataError(f"{name} holds no items, it is {what(array)}; give an array [N, ...]")
    if labels is not None and len(labels) != len(array):
        raise DataError(f"{name}: there are {len(array)} items but {len(labels)} labels; each item needs one label")
    if array.dtype.kind not in "buif":
        raise DataError(f"{name} is {what(array)}; give uint8 for images, or floats for points and sequences")
    chosen = choose(len(array), want.limit)
    notes: list[str] = []
    if len(chosen) < len(array):
        notes.append(f"limit: {len(chosen)} items were taken, chosen at random from {len(array)}")
    room_for(name, len(chosen) * int(array[:1].size) * (4 if array.dtype.kind == "f" else 1))
    read = _images if _are_images(name, array, want) else _numbers
    values, good = read(name, array, chosen, want, notes)
    skipped = tuple((f"item {i}", "not finite in float32") for i in chosen[~good].tolist())
    labels = None if labels is None else labels[chosen][good]
    return make(name, values, labels, classes, Report(len(values), skipped, notes=tuple(notes)))


def _are_images(name: str, array: NDArray[Any], want: Want) -> bool:
    if array.dtype == np.uint8 or array.dtype.kind == "b":
        return True
    if array.dtype.kind in "iu":
        if array.ndim in (3, 4):
            return True
        raise DataError(f"{name} is {what(array)}; give uint8 for images, or floats for points and sequences")
    if want.values == "as-is":
        return False
    if array.ndim == 4:
        return want.layout is not None or _axis_of_channels(array) is not None
    if array.ndim != 3 or want.layout is not None:
        return False
    found = range_of(name, array)
    if has_pixel_levels(array, found):
        return True
    if want.values is not None or want.size is not None or want.channels is not None:
        raise DataError(
            f"{name} is {what(array)} with {found}, which may be grey pictures or sequences; save pictures as "
            "[N, 1, H, W], or give --layout channels-first for sequences [N, C, L]"
        )
    return False


def _axis_of_channels(array: NDArray[Any]) -> int | None:
    """Which of four axes holds the channels, by its size; None if none can."""
    for axis, sizes in ((3, (1, 3)), (1, (1, 3, 4)), (3, (4,))):
        if array.shape[axis] in sizes:
            return axis
    return None


def _channels_first(name: str, array: NDArray[Any], want: Want, notes: list[str]) -> NDArray[Any]:
    """A view [N, C, H, W] of pictures."""
    if array.ndim == 3:
        want.without(name, "has pictures without an axis of channels", "layout")
        return array[:, None]
    if array.ndim != 4:
        raise DataError(f"{name} is {what(array)}; {_RULE}")
    axis = _axis_of_channels(array) if want.layout is None else {"channels-first": 1, "channels-last": 3}[want.layout]
    if axis is None or array.shape[axis] not in MODES:
        raise DataError(f"{name} is {what(array)}; {_RULE}")
    other = 4 - axis
    if want.layout is None and array.shape[other] in MODES:
        kind, instead = ("last", "first") if axis == 3 else ("first", "last")
        notes.append(
            f"the axes of sizes {array.shape[1]} and {array.shape[3]} could both hold the channels; the {kind} one was "
            f"taken: give --layout channels-{instead} for the other"
        )
    return array if axis == 1 else array.transpose(0, 3, 1, 2)


def _images(name: str, array: NDArray[Any], chosen: Tensor, want: Want, notes: list[str]) -> tuple[Tensor, Tensor]:
    """(uint8 [M, C, H, W], which of the chosen items these are)."""
    array = _channels_first(name, array, want, notes)
    picked, good = _picked(array, chosen)
    pixels = _pixels(name, array, picked, want, notes)
    if pixels.size:
        bits = "" if want.bits else "; if they hold fewer bits, give --bits"
        notes += dark(int(pixels.max()), bits)
    _, had, height, width = pixels.shape
    notes += vast(width, height) if want.size is None else ()
    if want.channels in (None, had) and want.size in (None, height if height == width else None):
        return torch.from_numpy(np.array(pixels, dtype=np.uint8, order="C")), good
    how: list[str] = []
    mode = MODES[want.channels or had]
    try:
        changed = np.stack([to_array(fit(to_mode(_picture(item), mode, how), want.size)) for item in pixels])
    except Unusable as error:
        raise DataError(f"{name}: {error}; ask for a smaller size") from error
    after = "x".join(map(str, changed.shape[1:]))
    notes += [f"converted from {had}x{height}x{width} to {after} (channels, height, width)", *sorted(set(how))]
    return torch.from_numpy(changed), good


def _picked(array: NDArray[Any], chosen: Tensor) -> tuple[NDArray[Any], Tensor]:
    """(the chosen items that are finite in float32, which of the chosen ones these are). Raises nothing."""
    picked = array[chosen.numpy()] if len(chosen) < len(array) else array
    good = np.ones(len(picked), bool)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            for part in chunks(picked):
                small = picked[part].astype(np.float32, copy=False)
                good[part] = np.isfinite(small).reshape(len(small), -1).all(1)
    return (picked if good.all() else picked[good]), torch.from_numpy(good)


def _pixels(name: str, array: NDArray[Any], picked: NDArray[Any], want: Want, notes: list[str]) -> NDArray[np.uint8]:
    """`picked`, items of `array`, as pixels, by the range of all of `array`."""
    if array.dtype.kind == "b":
        want.without(name, "holds true and false, which are white and black", "values", "bits")
        notes.append("true and false became white and black")
        return picked.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint8 and want.values in (None, "0..255") and want.bits is None:
        return picked
    if want.values == "as-is":
        raise DataError(f"{name} is {what(array)}; values as-is are for floats: save them as float32")
    found = range_of(name, array)
    if want.bits is not None:
        notes.append(f"{found} were taken as {want.bits} bits and became pixels 0..255")
        return from_bits(name, picked, found, want.bits)
    values = decide(name, what(array), found, want)
    pixels, change = to_pixels(picked, values)
    notes.append(said(found, values, change))
    return pixels


def _picture(item: NDArray[Any]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(item[0] if len(item) == 1 else item.transpose(1, 2, 0)))


def _numbers(name: str, array: NDArray[Any], chosen: Tensor, want: Want, notes: list[str]) -> tuple[Tensor, Tensor]:
    """(points or sequences in float32, which of the chosen items these are)."""
    want.without(name, "holds points, not images", "size", "channels", "bits")
    if array.ndim < 3:
        want.without(name, "holds points, which have one axis", "layout")
    elif want.layout == "channels-last":
        array = np.moveaxis(array, -1, 1)
    picked, good = _picked(array, chosen)
    if not len(picked):
        raise DataError(f"{name}: points were asked for, but none of {len(chosen)} is finite; give finite numbers")
    found = range_of(name, array)
    values = torch.from_numpy(scaled(np.array(picked, dtype=np.float32, order="C"), found, name, want.values))
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim == 3:
        notes.append(
            f"taken as sequences [N, C, L] with C = {values.shape[1]} and L = {values.shape[2]}, which no network here "
            "trains; save grey pictures as [N, 1, H, W]"
        )
    if values.ndim > 3:
        notes.append(f"taken as numbers that are no pixels, of shape {tuple(values.shape[1:])}, such as latents")
    largest = float(values.abs().max())
    if largest > 10:
        notes.append(f"values reach {largest:.3g}; models expect a spread of about 1, so rescale them")
    return values, good
