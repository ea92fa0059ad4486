"""`DiskStorage`: arrays in files on disk that are mapped and need no memory."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor
from tqdm import tqdm

from .array_range import chunks
from .report import DataError, printable
from .storage import byte_count

T = TypeVar("T")
# The size of the header of a .npy file. It is written last, when the number of items is known.
HEAD = 128


def header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The first 128 bytes of a .npy file of format 1.0."""
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {tuple(map(int, shape))}, }}"
    if len(text) > HEAD - 11:
        raise DataError(f"an array of shape {shape} has too many axes for a cache; load it without one")
    return b"\x93NUMPY\x01\x00" + (HEAD - 10).to_bytes(2, "little") + text.ljust(HEAD - 11).encode() + b"\n"


class DiskStorage:
    """A `Storage` in the folder of a cache that is being built.

    Raises DataError if the disk has no space.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._made: list[tuple[NDArray[Any], Path]] = []

    def require_space(self, name: str, need: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise DataError(
                f"{name} needs {need / 2**30:.1f} GiB in {printable(str(self.folder.parent))}, and {free / 2**30:.1f} "
                "GiB are free there; name another folder as cache, or give a smaller size, or a limit"
            )

    def empty(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        need = byte_count(shape, dtype)
        self.require_space(name, need)
        path = self.folder / f"array{len(self._made)}.npy"
        try:
            with path.open("xb") as file:
                _reserve(file.fileno(), HEAD + need)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise DataError(
                    f"{name} needs {need / 2**30:.1f} GiB, and {path.parent} has too little space; name another folder"
                ) from error
            raise
        array: NDArray[Any] = np.memmap(path, dtype, "r+", offset=HEAD, shape=shape)
        self._made.append((array, path))
        return array

    def take(self, name: str, values: NDArray[Any], index: NDArray[np.int64]) -> NDArray[Any]:
        result = self.empty(name, (len(index), *values.shape[1:]), values.dtype)
        for part in self.progress(list(chunks(values, len(index))), "parts"):
            result[part] = values[index[part]]
        return result

    def progress(self, items: Sequence[T], what: str) -> Iterable[T]:
        shown: Iterable[T] = tqdm(items, desc=f"cache: {what}", leave=False, disable=None)
        return shown

    def finish(self, name: str, values: Tensor, file: str) -> tuple[int, ...]:
        """Write the values of a data set as a complete, synced .npy file.

        values : an array of this storage, or values from memory.
        file : the name of the file.
        Returns the shape of the values.
        """
        array, path = self._of(name, values)
        shape = (len(values), *array.shape[1:])
        array.flush()  # type: ignore[attr-defined]
        with path.open("r+b") as opened:
            opened.truncate(HEAD + int(np.prod(shape)) * array.dtype.itemsize)
            opened.write(header(array.dtype, shape))
            opened.flush()
            os.fsync(opened.fileno())
        path.rename(self.folder / file)
        return shape

    def clear(self) -> None:
        """Remove the arrays that were not finished."""
        for _, path in self._made:
            path.unlink(missing_ok=True)

    def _of(self, name: str, values: Tensor) -> tuple[NDArray[Any], Path]:
        """The array of this storage that begins with `values`. Values from memory are written first."""
        plain = values.detach().cpu().contiguous()
        for array, path in self._made:
            if array.ctypes.data == plain.data_ptr():
                return array, path
        copied = self.empty(name, tuple(plain.shape), plain.numpy().dtype)
        for part in chunks(copied):
            copied[part] = plain[part].numpy()
        return self._made[-1]


def _reserve(handle: int, size: int) -> None:
    """Reserve space on the disk: writing into a mapped file without space ends the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.truncate(handle, size)


def mapped(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The values of a .npy file as a tensor that is read from disk on use.

    Changes of the tensor are not written to the file.
    """
    with path.open("rb") as file:
        if sys.platform == "win32":
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        else:
            # No memory is reserved for changes: the data may be larger than memory.
            unreserved = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
            rights = mmap.PROT_READ | mmap.PROT_WRITE
            whole = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE | unreserved, rights)
    return torch.frombuffer(whole, dtype=dtype, count=int(np.prod(shape)), offset=HEAD).reshape(shape)
