"""The IDX format of MNIST, read and written, plain or gzipped.

A file has two zero bytes, a byte for the type, a byte for the number of axes, each size as a big-endian 32-bit number,
then the values, big-endian, last axis fastest (Y. LeCun's page of MNIST).
"""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .limits import require_memory, unpacked_limit
from .report import DataError, printable

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_BYTES = 1 << 34
MAX_AXES = 8
_CHUNK = 1 << 20


def read(path: Path) -> NDArray[Any]:
    """The array in an IDX file, in the byte order of the machine. gzip is recognised by its first bytes.

    The header is checked before memory is allocated: against the size of the file, the free memory and MAX_BYTES,
    and for gzip against `softmix.data.limits.unpacked_limit`.
    Raises DataError with the name of the file if it cannot be opened, if its header is not IDX or promises too much,
    or if the number of values differs from the header.
    """
    name = printable(str(path))
    with _opened(path, name) as (stream, size, zipped):
        dtype, shape = _header(stream, name)
        expected = math.prod(shape) * dtype.itemsize
        limit = min(MAX_BYTES, unpacked_limit(size)) if zipped else MAX_BYTES
        if expected > limit:
            raise DataError(
                f"{name}: its header promises {expected} bytes, above the limit of {limit} for {size} bytes of file; "
                "cut it up, or unpack it"
            )
        if not zipped and expected != size - stream.tell():
            raise _mismatch(name, expected, shape, size - stream.tell())
        require_memory(name, expected)
        return _body(stream, name, dtype, shape)


def shape_of(path: Path) -> tuple[int, ...]:
    """The shape in the header of an IDX file. Raises DataError as `read` does."""
    name = printable(str(path))
    with _opened(path, name) as (stream, _, _):
        return _header(stream, name)[1]


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[IO[bytes], int, bool]]:
    """Open an IDX file. Returns (the unpacked stream, the size of the file, whether it is packed)."""
    try:
        with path.open("rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            # The type stub of GzipFile is no IO[bytes].
            stream: Any = gzip.GzipFile(fileobj=plain) if zipped else plain
            yield stream, os.fstat(plain.fileno()).st_size, zipped
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} cannot be read as an IDX file ({error}); fetch it again") from error


def _body(stream: IO[bytes], name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    expected = math.prod(shape) * dtype.itemsize
    body = bytearray()
    # A single read(expected) would allocate as much memory as a forged header promises.
    while len(body) <= expected and (chunk := stream.read(min(_CHUNK, expected + 1 - len(body)))):
        body += chunk
    if len(body) != expected:
        raise _mismatch(name, expected, shape, len(body))
    return np.frombuffer(body, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _mismatch(name: str, expected: int, shape: tuple[int, ...], found: int) -> DataError:
    holds = f"only {found}" if found < expected else "more"
    return DataError(
        f"{name}: its header promises {expected} bytes, shape {shape}, but it holds {holds}; fetch it again"
    )


def _header(stream: IO[bytes], name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or magic[3] == 0:
        start = magic.hex(" ") or "(none)"
        raise DataError(f"{name} is not an IDX file: it begins with the bytes {start}; name an IDX file")
    if magic[3] > MAX_AXES:
        raise DataError(f"{name}: its header promises {magic[3]} axes, above the limit of {MAX_AXES}; fetch it again")
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{name}: the file ends within its IDX header; fetch it again")
    shape = struct.unpack(f">{magic[3]}I", sizes)
    if 0 in shape:
        raise DataError(f"{name} holds no values, its shape is {shape}; name a file with items in it")
    return np.dtype(TYPES[magic[2]]), shape


def write(path: Path, array: NDArray[Any]) -> None:
    """Write an IDX file, gzipped if the name ends in .gz. Equal arrays give equal bytes.

    Raises ValueError for a type that IDX does not have.
    """
    codes = {np.dtype(text).newbyteorder("="): code for code, text in TYPES.items()}
    code = codes.get(array.dtype.newbyteorder("="))
    if code is None:
        raise ValueError(f"IDX has no type for {array.dtype}; it has {', '.join(map(str, codes))}")
    buffer = io.BytesIO()
    buffer.write(struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape))
    buffer.write(np.ascontiguousarray(array, dtype=TYPES[code]).tobytes())
    data = buffer.getvalue()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
