"""How a reader changes the items of an array, piece by piece, into what a data set keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Conversion:
    """change : items of the array, as they are stored -> items as they are kept. said : notes, after all were changed.

    kind : what the items are, for sentences.
    """

    kind: str
    convert: Callable[[NDArray[Any]], NDArray[Any]]
    notes: Callable[[], Sequence[str]] = tuple


def describe(array: NDArray[Any]) -> str:
    """Type and shape, for a sentence."""
    return f"{array.dtype} of shape {array.shape}"
