"""`Storage`: the arrays that readers write values into, in memory or on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .limits import require_memory

T = TypeVar("T")


class Storage(Protocol):
    """Allocates the arrays of a data set while it is read."""

    def require_space(self, name: str, need: int) -> None:
        """Raises DataError if fewer than `need` bytes are free."""

    def empty(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Allocate an array to write into. Raises DataError if there is no space for it."""

    def take(self, name: str, values: NDArray[Any], index: NDArray[np.int64]) -> NDArray[Any]:
        """Copy `values[index]` into this storage."""

    def progress(self, items: Sequence[T], what: str) -> Iterable[T]:
        """Iterate over items; a storage may show a progress bar."""


class MemoryStorage:
    """Arrays in memory, without a progress bar."""

    def require_space(self, name: str, need: int) -> None:
        require_memory(name, need)

    def empty(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        require_memory(name, byte_count(shape, dtype))
        return np.empty(shape, dtype)

    def take(self, name: str, values: NDArray[Any], index: NDArray[np.int64]) -> NDArray[Any]:
        require_memory(name, byte_count((len(index), *values.shape[1:]), values.dtype))
        return values[index]

    def progress(self, items: Sequence[T], what: str) -> Iterable[T]:
        return items


def byte_count(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    """The size of an array in bytes, exact for any shape."""
    return int(np.prod([int(n) for n in shape], dtype=object)) * np.dtype(dtype).itemsize


MEMORY = MemoryStorage()
