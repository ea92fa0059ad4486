"""Where the values of a data set are put while they are read: in memory, or elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .limits import require_memory

T = TypeVar("T")


class Storage(Protocol):
    """Gives the arrays that the readers of this room write into."""

    def require_space(self, name: str, need: int) -> None:
        """Raises DataError if `need` bytes are more than there is room for."""

    def empty(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array to be written into. Raises DataError if there is no room for it."""

    def take(self, name: str, values: NDArray[Any], index: NDArray[np.int64]) -> NDArray[Any]:
        """`values[index]`, in this place."""

    def progress(self, items: Sequence[T], what: str) -> Iterable[T]:
        """The items one after another, perhaps with a bar that shows how many are done."""


class MemoryStorage:
    """In memory, without a bar."""

    def require_space(self, name: str, need: int) -> None:
        require_memory(name, need)

    def empty(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        require_memory(name, _bytes(shape, dtype))
        return np.empty(shape, dtype)

    def take(self, name: str, values: NDArray[Any], index: NDArray[np.int64]) -> NDArray[Any]:
        require_memory(name, _bytes((len(index), *values.shape[1:]), values.dtype))
        return values[index]

    def progress(self, items: Sequence[T], what: str) -> Iterable[T]:
        return items


def _bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return int(np.prod([int(n) for n in shape], dtype=object)) * np.dtype(dtype).itemsize


MEMORY = MemoryStorage()
