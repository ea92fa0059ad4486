"""Ground floor: a number of a record that is computed when it is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Number = float | Callable[[], float]


class Deferred:
    """A field of a dataclass for a number, or for a function that returns it.

    The function runs when the field is read. So a record of a training step can hold a loss that is still being
    computed on an accelerator, and a reader of the field can be noticed.

    default : the number of a record that is made without one; None if it must be given.
    """

    def __init__(self, default: float | None = None):
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, record: object, owner: type | None = None) -> float:
        if record is None:
            # a dataclass asks its class for the default of a field
            if self._default is None:
                raise AttributeError(self._name)
            return self._default
        return _read(record.__dict__[self._name])

    def __set__(self, record: object, value: Number) -> None:
        record.__dict__[self._name] = value


def unread(record: object, name: str) -> Any:
    """The content of a deferred field, without reading it: the number, or the function."""
    return record.__dict__[name]


def _read(value: Number) -> float:
    return value() if callable(value) else value
