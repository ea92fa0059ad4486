"""Arrays without pictures: points, sequences, volumes and tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .array_range import chunks, dark_warning, find_range, to_model_units
from .conversion import Conversion, describe
from .report import DataError
from .request import Request


def numbers(name: str, array: NDArray[Any], request: Request, notes: list[str]) -> Conversion:
    """Floats become float32 points [D], sequences [L, D], or [C, ...] with more axes; scaled if a range was asked
    for.
    """
    request.refuse_options(name, "holds points, not images", "size", "channels", "bits")
    if array.ndim < 3:
        request.refuse_options(name, "holds points, which have one axis", "layout")
    # Sequences keep their channels last, all else first.
    axes = {"channels-first": (1, -1)} if array.ndim == 3 else {"channels-last": (-1, 1)}
    moved = axes.get(request.layout or "")
    bounds = find_range(name, array)
    reach = [0.0]

    def change(part: NDArray[Any]) -> NDArray[Any]:
        part = part if moved is None else np.moveaxis(part, *moved)
        values = to_model_units(np.array(part, dtype=np.float32, order="C"), bounds, name, request.values)
        reach.append(float(np.abs(values).max()))
        return values[:, None] if values.ndim == 1 else values

    def notes_after() -> list[str]:
        lines = _meaning(array, moved, request)
        if max(reach) > 10:
            lines.append(f"values reach {max(reach):.3g}; models expect a spread of about 1, so rescale them")
        return lines

    return Conversion("points", change, notes_after)


def _meaning(array: NDArray[Any], moved: tuple[int, int] | None, request: Request) -> list[str]:
    """Notes on the meaning of the axes of an array with more than two."""
    shape = np.moveaxis(array[:1], *moved).shape[1:] if moved else array.shape[1:]
    if array.ndim == 3:
        other = "" if request.layout else "; give --layout channels-first if it is [N, D, L]"
        return [
            f"taken as sequences [N, L, D] with L = {shape[0]} and D = {shape[1]}{other}; save grey pictures as "
            "[N, 1, H, W]"
        ]
    if array.ndim == 5:
        return [f"taken as volumes [N, C, D, H, W] of shape {shape}"]
    return [f"taken as numbers that are no pixels, of shape {shape}, such as latents"] if array.ndim > 3 else []


def volumes(name: str, array: NDArray[Any], request: Request, notes: list[str]) -> Conversion:
    """uint8 [N, C, D, H, W], or in another layout, stay 0..255. True and false become 255 and 0."""
    request.refuse_options(name, "holds volumes, which are taken as they are", "size", "channels", "bits")
    if array.dtype not in (np.uint8, np.bool_) or request.values not in (None, "0..255"):
        raise DataError(f"{name} is {describe(array)}; volumes [N, C, D, H, W] are uint8 of 0..255, or floats")
    factor = np.uint8(255 if array.dtype.kind == "b" else 1)
    highest: list[int] = []

    def change(part: NDArray[Any]) -> NDArray[Any]:
        part = np.moveaxis(part, -1, 1) if request.layout == "channels-last" else part
        pixels = part.astype(np.uint8, order="C") * factor
        highest.append(int(pixels.max()))
        return pixels

    shape = (array.shape[-1], *array.shape[1:-1]) if request.layout == "channels-last" else array.shape[1:]
    notes.append(f"taken as volumes [N, C, D, H, W] of shape {shape}")
    return Conversion("volumes", change, lambda: dark_warning(max(highest), ""))


def tokens(name: str, array: NDArray[Any], request: Request, notes: list[str]) -> Conversion:
    """Whole numbers [N, L] or [N, H, W] from 0 to below the size of the vocabulary, stored in int32."""
    request.refuse_options(name, "holds tokens", "size", "channels", "bits", "values", "layout", "length")
    vocabulary = request.tokens
    assert isinstance(vocabulary, int)
    if array.dtype.kind not in "iu" or array.ndim not in (2, 3):
        raise DataError(f"{name} is {describe(array)}; tokens are whole numbers [N, L] or [N, H, W]")
    low, high = _ends(array)
    if low < 0 or high >= vocabulary:
        raise DataError(
            f"{name}: {vocabulary} tokens were asked for, numbers from 0 to {vocabulary - 1}, but they run from {low} "
            f"to {high}; give --tokens {high + 1}, or more"
            if low >= 0
            else f"{name}: tokens are numbers from 0, but they run from {low} to {high}; count them from 0"
        )
    notes.append(f"taken as tokens of shape {array.shape[1:]}, numbers from {low} to {high} of {vocabulary} tokens")
    return Conversion("tokens", lambda part: part.astype(np.int32))


def _ends(array: NDArray[Any]) -> tuple[int, int]:
    ends = [(int(array[part].min()), int(array[part].max())) for part in chunks(array)]
    return min(low for low, _ in ends), max(high for _, high in ends)
