"""CIFAR's python folders, read without unpickling.

Their files are pickles of plain dictionaries. `_Reader` knows the few operations of such a file. It makes lists,
numbers and records of calls; it imports nothing and calls nothing.
Source of the files: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

import os
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .array import from_array
from .entries import MAX_BYTES
from .labels import known_classes, labels_from_array
from .report import DataError, printable
from .request import Request
from .store import Data

_FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "cifar-10": {
        "train": tuple(f"data_batch_{k}" for k in range(1, 6)),
        "test": ("test_batch",),
        "meta": ("batches.meta",),
    },
    "cifar-100": {"train": ("train",), "test": ("test",), "meta": ("meta",)},
}
_LABELS = ("labels", "fine_labels")
_CLASSES = ("label_names", "fine_label_names")


@dataclass
class _Call:
    """A record of a call in a pickle.

    function : the name of the function.
    arguments : its arguments.
    state : the state given to its result.
    """

    function: Any
    arguments: Any
    state: Any = None


_LITERALS = frozenset(
    {"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINFLOAT", "FLOAT", "STRING", "BINSTRING", "UNICODE"}
    | {"SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"}
)
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Any] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


class _Reader:
    """A stack machine for the operations of plain pickles. Raises ValueError for other operations."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, content: bytes) -> Any:
        for operation, argument, _ in pickletools.genops(content):
            if operation.name == "STOP":
                return self.stack.pop()
            self._do(operation.name, argument)
        raise ValueError("it ends too early")

    def _do(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name not in ("PROTO", "FRAME"):
            self._combine(name, argument)

    def _combine(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _TUPLES:
            stack.append(tuple(stack.pop() for _ in range(_TUPLES[name]))[::-1])
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name == "LIST":
            stack.append(self._marked())
        elif name == "DICT":
            stack.append(_pairs(self._marked()))
        elif name in ("APPEND", "APPENDS"):
            items = self._marked() if name == "APPENDS" else [stack.pop()]
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._marked() if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            stack[-1].update(_pairs(items))
        elif name == "GLOBAL":
            stack.append(_Call(argument, None))
        elif name == "STACK_GLOBAL":
            last, first = stack.pop(), stack.pop()
            stack.append(_Call(f"{first} {last}", None))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_Call(function.function, arguments))
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        else:
            raise ValueError(f"it holds the operation {name}, which plain data do not need")

    def _marked(self) -> list[Any]:
        at = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items


def _pairs(items: list[Any]) -> dict[str, Any]:
    return {_text(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _bytes(value: Any) -> bytes:
    # Python 3 stores bytes in old pickles as text with a call that encodes it.
    if isinstance(value, _Call) and value.function == "_codecs encode":
        value = value.arguments[0]
    return value.encode("latin-1") if isinstance(value, str) else bytes(value)


def _array(call: Any) -> NDArray[np.uint8]:
    """The uint8 array in a numpy pickle. Raises ValueError or TypeError for other content."""
    if not str(call.function).endswith("multiarray _reconstruct"):
        raise ValueError(f"it holds a {printable(str(call.function))} instead of an array of bytes")
    _, shape, dtype, fortran, content = call.state
    if dtype.function != "numpy dtype" or dtype.arguments[0] not in ("u1", "uint8"):
        raise ValueError("its array is not of bytes")
    return np.frombuffer(_bytes(content), np.uint8).reshape(shape, order="F" if fortran else "C")


def read(path: Path) -> dict[str, Any]:
    """The dictionary in one of CIFAR's files. Arrays are still records of calls. Raises DataError."""
    name = printable(str(path))
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{name} is larger than {MAX_BYTES} bytes; it is none of CIFAR's files")
        content = _Reader().read(path.read_bytes())
    except DataError:
        raise
    # A damaged pickle can raise nearly any error.
    except Exception as error:
        raise DataError(f"{name} cannot be read as one of CIFAR's files ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{name} holds a {type(content).__name__}, not CIFAR's dictionary; fetch it again")
    return content


def kind_of(root: Path) -> str | None:
    """cifar-10 or cifar-100 if a folder has the files of one of them, else None."""
    for kind, files in _FILES.items():
        if all(os.path.isfile(root / parts[0]) for key, parts in files.items() if key != "test"):
            return kind
    return None


def from_cifar(root: Path, request: Request) -> Data:
    """One split of a folder cifar-10-batches-py or cifar-100-python, with the (fine) classes. Raises DataError."""
    kind = kind_of(root) or "cifar-10"
    files = _FILES[kind]
    has = [split for split in ("train", "test") if os.path.isfile(root / files[split][0])]
    part = request.split_of(kind, has, "fetch the missing file, or give a share to hold out")
    batches = [_batch(root / file) for file in files[part or "train"] if os.path.isfile(root / file)]
    images = np.concatenate([pixels for pixels, _ in batches])
    numbers = np.concatenate([labels for _, labels in batches])
    meta = read(root / files["meta"][0])
    known = tuple(printable(_text(text)) for text in next(_under(meta, _CLASSES), ()))
    labels, found = labels_from_array(kind, numbers, len(images))
    data = from_array(kind, images, labels, known_classes(kind, labels, found, known), request)
    missing = [file for file in files[part or "train"] if not os.path.isfile(root / file)]
    return data.with_note(f"{', '.join(missing)} is not there") if missing else data


def _under(tree: dict[str, Any], keys: tuple[str, ...]) -> Iterator[Any]:
    return (tree[key] for key in keys if key in tree)


def _batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """(uint8 [N, 3, 32, 32], labels [N]) of one file. Raises DataError."""
    tree = read(path)
    try:
        pixels = _array(tree["data"]).reshape(-1, 3, 32, 32)
        labels = np.array(next(_under(tree, _LABELS)), dtype=np.int64)
    except Exception as error:
        shown = f"{type(error).__name__}: {error}"
        raise DataError(f"{printable(str(path))} is not one of CIFAR's files ({shown}); fetch it again") from error
    return pixels, labels
