"""`Conversion`: how the items of an array become the stored items of a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Conversion:
    """A conversion that is applied to an array piece by piece.

    kind : the kind of the items, for messages.
    convert : items of the array -> items of the data set.
    notes : notes for the report, after all items were converted.
    """

    kind: str
    convert: Callable[[NDArray[Any]], NDArray[Any]]
    notes: Callable[[], Sequence[str]] = tuple


def describe(array: NDArray[Any]) -> str:
    """Type and shape of an array, for a message."""
    return f"{array.dtype} of shape {array.shape}"
