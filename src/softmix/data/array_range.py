"""The range that an array's numbers are in, and the way from there to pixels 0..255 or to [-1, 1].

A file does not say whether 1 is white or nearly black. What is found decides where only one range fits it, the report
says what was decided, and everything else is refused with the options that settle it.
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
# A filter may reach half a level beyond an end; what lies further out is in another range.
_SLACK = 0.5 / 255
# A change of a value by less than this share of a level is the rounding of float arithmetic.
_EXACT = 0.01
_CHUNK = 1 << 22
# The largest pixel of a set that can hardly be meant: an eighth of 255.
DARK = 31
# Pixels of a picture, above which a model is seldom trained of it as it is.
LARGE = 256 * 256


@dataclass(frozen=True)
class Range:
    """The least and largest finite value, and whether all finite ones are whole numbers."""

    low: float
    high: float
    whole: bool

    def __str__(self) -> str:
        return f"{'whole numbers' if self.whole else 'values'} from {self.low:.6g} to {self.high:.6g}"


def chunks(array: NDArray[Any], items: int | None = None) -> Iterator[slice]:
    """Slices of the first axis, each of about 4 million values, so that a mapped file is never whole in memory.

    items : how many items of this size are meant, by default all of the array's.
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
    """The range that the numbers of pictures are in. Raises DataError if it cannot be told, or is not as was asked."""
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
    # A little below 0 is what a filter leaves of 0..1.
    if _fits(found, "-1..1") and found.low <= -0.5 and not found.whole:
        return "-1..1"
    if _fits(found, "0..255") and found.high >= 128:
        return "0..255"
    raise DataError(f"{name} is {what} with {found}; which of these is white cannot be told: {_offer(found)}")


def _offer(found: Range) -> str:
    fitting = " or ".join(f"--values {values}" for values in ENDS if _fits(found, values))
    bits = f"--bits {bits_for(found.high)}" if found.whole and found.low >= 0 and 1 <= found.high < 1 << 16 else ""
    clip = "clip them to 0..1" if -0.5 < found.low < 0 and found.high < 1.5 and not found.whole else ""
    give = ", or ".join(part for part in (fitting, bits) if part)
    ways = ", or ".join(part for part in (clip, f"give {give}" if give else "") if part) or "rescale them to 0..1"
    return f"{ways}; --values as-is takes floats as numbers that are no pixels, such as latents"


def bits_for(high: float) -> int:
    """How many bits the whole number `high` needs, at least 1."""
    return max(1, int(high).bit_length())


def require_bits(name: str, found: Range, bits: int) -> int:
    """`bits`. Raises DataError if a number needs more of them, or is below 0."""
    if not found.whole or found.low < 0 or found.high >= 1 << bits:
        raise DataError(
            f"{name}: {bits} bits were asked for, which hold whole numbers from 0 to {(1 << bits) - 1}, "
            f"but {found} were found; give the bits that hold them"
        )
    return bits


def bits_to_pixels(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Pixels round(255 v / (2^bits - 1)) of whole numbers v within 0 and 2^bits - 1."""
    return np.rint(values.astype(np.float64) * (255 / ((1 << bits) - 1))).astype(np.uint8)


def to_pixels(array: NDArray[Any], values: Values) -> tuple[NDArray[np.uint8], float]:
    """(pixels round(255 (v - low) / (high - low)), the largest change by rounding in levels); all values finite."""
    low, high = ENDS[values]
    levels = ((array.astype(np.float64) - low) * (255 / (high - low))).clip(0, 255)
    nearest = np.rint(levels)
    return nearest.astype(np.uint8), float(np.abs(levels - nearest).max())


def range_note(found: Range, values: Values, change: float) -> str:
    """What `decide` and `to_pixels` did, as a note for the report."""
    note = f"{found} were taken as pictures in {values} and became pixels 0..255"
    if change < _EXACT:
        return f"{note}, exactly"
    return f"{note}, rounded to 8 bits (by {change:.2f} of a level at most)"


def has_pixel_levels(array: NDArray[Any], found: Range) -> bool:
    """Whether floats are pixels in disguise: k / 255 or k for whole k from 0 to 255, some above half of that."""
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
    """A warning if `high`, the largest pixel of a set, is so low that all are nearly black."""
    if high > DARK:
        return ()
    return (WarningNote(f"all pictures are nearly black: the largest pixel is {high} of 255{remedy}"),)


def size_warning(width: int, height: int) -> tuple[str, ...]:
    """A warning if pictures that no size was asked of are larger than models are trained of as they are."""
    if width * height <= LARGE:
        return ()
    return (
        WarningNote(
            f"no size was asked for, so pictures stay as large as they are, {width}x{height}; few machines have the "
            "memory and the time for a model of these: give --size 64, or another side"
        ),
    )


def to_model_units(array: NDArray[np.float32], found: Range, name: str, values: Values | None) -> NDArray[np.float32]:
    """Points or sequences in [-1, 1], from the range that was asked for; without one, as they are."""
    if values is None or values == "as-is":
        return array
    if not _fits(found, values):
        raise DataError(f"{name}: values {values} were asked for, but {found} were found; rescale them yourself")
    low, high = ENDS[values]
    result: NDArray[np.float32] = ((array - low) * (2 / (high - low)) - 1).astype(np.float32)
    return result
