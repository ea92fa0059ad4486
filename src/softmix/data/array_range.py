"""The range of the numbers of an array, and the conversion to pixels 0..255 or to [-1, 1].

A file does not say whether 1 is white or nearly black. If only one range fits the numbers, it is taken, and the report
says so. Otherwise the array is refused, with the options that name a range.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .origin import Values
from .report import DataError, WarningNote
from .request import Request

# (lowest, highest) value of each range.
ENDS: dict[Values, tuple[float, float]] = {"0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0), "0..255": (0.0, 255.0)}
# A filter may reach half a level beyond an end. Values further out are in another range.
_SLACK = 0.5 / 255
# A smaller change of a value, in levels, is the rounding of float arithmetic.
_EXACT = 0.01
_CHUNK = 1 << 22
# A set with no larger pixel is probably an error: an eighth of 255.
DARK = 31
# Larger pictures, in pixels, are seldom trained on without resizing.
LARGE = 256 * 256


@dataclass(frozen=True)
class Range:
    """The range of the finite values of an array.

    low, high : the least and the largest value.
    whole : whether all values are whole numbers.
    """

    low: float
    high: float
    whole: bool

    def __str__(self) -> str:
        return f"{'whole numbers' if self.whole else 'values'} from {self.low:.6g} to {self.high:.6g}"


def chunks(array: NDArray[Any], items: int | None = None) -> Iterator[slice]:
    """Slices of the first axis of about 4 million values each, so that a mapped file is never whole in memory.

    items : the number of items of this size; by default those of the array.
    """
    step = max(1, _CHUNK // max(1, array[:1].size))
    return (slice(at, at + step) for at in range(0, len(array) if items is None else items, step))


def find_range(name: str, array: NDArray[Any]) -> Range:
    """The range of all finite values of an array. Raises DataError if none is finite."""
    low, high, whole = np.inf, -np.inf, True
    for part in chunks(array):
        values = array[part]
        values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            whole = whole and bool((values == np.rint(values)).all())
    if low > high:
        raise DataError(f"{name}: none of {len(array)} items is finite; give finite numbers")
    return Range(low, high, whole)


def _fits(found: Range, values: Values) -> bool:
    low, high = ENDS[values]
    slack = (high - low) * _SLACK
    return low - slack <= found.low and found.high <= high + slack


def choose_range(name: str, what: str, found: Range, request: Request) -> Values:
    """Choose the range of the numbers of pictures.

    name, what : the array and its type, for messages.
    found : the range of its values.
    Raises DataError if no single range fits, or if the values do not fit the range that was asked for.
    """
    if request.values == "as-is":
        return "as-is"
    if request.values is not None:
        if not _fits(found, request.values):
            raise DataError(
                f"{name}: values {request.values} were asked for, but {found} were found; clip or rescale them, or "
                "name the range that they are in"
            )
        return request.values
    if _fits(found, "0..1") and found.high > 0 and (not found.whole or found.high == 1):
        return "0..1"
    # A filter leaves values slightly below 0 in a range 0..1.
    if _fits(found, "-1..1") and found.low <= -0.5 and not found.whole:
        return "-1..1"
    if _fits(found, "0..255") and found.high >= 128:
        return "0..255"
    raise DataError(f"{name} is {what} with {found}; the value of white is not known: {_remedies(found)}")


def _remedies(found: Range) -> str:
    fitting = " or ".join(f"--values {values}" for values in ENDS if _fits(found, values))
    bits = f"--bits {bits_for(found.high)}" if found.whole and found.low >= 0 and 1 <= found.high < 1 << 16 else ""
    clip = "clip them to 0..1" if -0.5 < found.low < 0 and found.high < 1.5 and not found.whole else ""
    give = ", or ".join(part for part in (fitting, bits) if part)
    ways = ", or ".join(part for part in (clip, f"give {give}" if give else "") if part) or "rescale them to 0..1"
    return f"{ways}; --values as-is takes floats as numbers that are no pixels, such as latents"


def bits_for(high: float) -> int:
    """The number of bits of the whole number `high`, at least 1."""
    return max(1, int(high).bit_length())


def require_bits(name: str, found: Range, bits: int) -> int:
    """Return `bits`. Raises DataError if a number needs more bits or is negative."""
    if not found.whole or found.low < 0 or found.high >= 1 << bits:
        raise DataError(
            f"{name}: {bits} bits were asked for, which hold whole numbers from 0 to {(1 << bits) - 1}, "
            f"but {found} were found; give the bits that hold them"
        )
    return bits


def bits_to_pixels(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Pixels round(255 v / (2^bits - 1)) of whole numbers v from 0 to 2^bits - 1."""
    return np.rint(values.astype(np.float64) * (255 / ((1 << bits) - 1))).astype(np.uint8)


def to_pixels(array: NDArray[Any], values: Values) -> tuple[NDArray[np.uint8], float]:
    """Pixels round(255 (v - low) / (high - low)) of finite values v.

    Returns (pixels, the largest change by rounding, in levels).
    """
    low, high = ENDS[values]
    levels = ((array.astype(np.float64) - low) * (255 / (high - low))).clip(0, 255)
    nearest = np.rint(levels)
    return nearest.astype(np.uint8), float(np.abs(levels - nearest).max())


def range_note(found: Range, values: Values, change: float) -> str:
    """A note for the report on the result of `choose_range` and `to_pixels`."""
    note = f"{found} were taken as pictures in {values} and became pixels 0..255"
    if change < _EXACT:
        return f"{note}, exactly"
    return f"{note}, rounded to 8 bits (by {change:.2f} of a level at most)"


def has_pixel_levels(array: NDArray[Any], found: Range) -> bool:
    """Whether floats are 8-bit pixels: k / 255 or k for whole k from 0 to 255, some of them above 127."""
    if found.low < 0 or not (found.high <= 1 or (found.high <= 255 and found.whole)):
        return False
    scale = 255.0 if found.high <= 1 else 1.0
    if found.high * scale < 128 or (found.whole and found.high <= 1):
        return False
    for part in chunks(array):
        levels = array[part].astype(np.float64) * scale
        levels = levels[np.isfinite(levels)]
        if not bool((np.abs(levels - np.rint(levels)) < _EXACT).all()):
            return False
    return True


def dark_warning(high: int, remedy: str) -> tuple[str, ...]:
    """A warning if the largest pixel of a set is so low that all pictures are nearly black."""
    if high > DARK:
        return ()
    return (WarningNote(f"all pictures are nearly black: the largest pixel is {high} of 255{remedy}"),)


def size_warning(width: int, height: int) -> tuple[str, ...]:
    """A warning if pictures that are not resized are larger than usual for training."""
    if width * height <= LARGE:
        return ()
    return (
        WarningNote(
            f"no size was asked for, so pictures stay as large as they are, {width}x{height}; few machines have the "
            "memory and the time for a model of these: give --size 64, or another side"
        ),
    )


def to_model_units(array: NDArray[np.float32], found: Range, name: str, values: Values | None) -> NDArray[np.float32]:
    """Points or sequences in [-1, 1], from the range that was asked for; unchanged without one."""
    if values is None or values == "as-is":
        return array
    if not _fits(found, values):
        raise DataError(f"{name}: values {values} were asked for, but {found} were found; rescale them yourself")
    low, high = ENDS[values]
    result: NDArray[np.float32] = ((array - low) * (2 / (high - low)) - 1).astype(np.float32)
    return result
