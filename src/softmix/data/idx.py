"""Room `data`: the IDX format of the MNIST family, read and written, plain or gzipped.

A file is 00 00, a byte for the type, a byte for the number of axes, each size as a big-endian
32-bit number, then the values, big-endian, last axis fastest (Y. LeCun's page of MNIST).
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from softmix.data.report import DataError, printable

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_BYTES = 1 << 34
_CHUNK = 1 << 20


def read(path: Path) -> NDArray[Any]:
    """The array in an IDX file, in the machine's byte order; gzip is recognised by its first bytes.

    Raises DataError that names the file if it cannot be opened, its header is not IDX, or it holds fewer or
    more values than the header promises. Memory is bounded by what the file really holds, never by its header.
    """
    name = printable(str(path))
    try:
        with path.open("rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            # GzipFile is an IO[bytes] in all that is used here, but its stub does not say so.
            stream: Any = gzip.GzipFile(fileobj=plain) if zipped else plain
            return _parse(stream, name)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} cannot be read as an IDX file ({error}); fetch it again") from error


def _parse(stream: IO[bytes], name: str) -> NDArray[Any]:
    dtype, shape = _header(stream, name)
    expected = math.prod(shape) * dtype.itemsize
    if expected > MAX_BYTES:
        raise DataError(f"{name}: its header promises {expected} bytes, above the limit of {MAX_BYTES}; cut it up")
    body = bytearray()
    # In chunks: a single read(expected) would reserve whatever a forged header promises.
    while len(body) <= expected and (chunk := stream.read(min(_CHUNK, expected + 1 - len(body)))):
        body += chunk
    if len(body) != expected:
        found = f"only {len(body)}" if len(body) < expected else "more"
        promise = f"its header promises {expected} bytes, shape {shape}"
        raise DataError(f"{name}: {promise}, but it holds {found}; fetch it again")
    return np.frombuffer(body, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _header(stream: IO[bytes], name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or magic[3] == 0:
        start = magic.hex(" ") or "(none)"
        raise DataError(f"{name} is no IDX file: it begins with the bytes {start}; name an IDX file")
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{name}: the file ends within its IDX header; fetch it again")
    shape = struct.unpack(f">{magic[3]}I", sizes)
    if 0 in shape:
        raise DataError(f"{name} holds no values, its shape is {shape}; name a file with items in it")
    return np.dtype(TYPES[magic[2]]), shape


def write(path: Path, array: NDArray[Any]) -> None:
    """Writes an IDX file, gzipped if the name ends in .gz; equal arrays give equal bytes.

    Raises ValueError for a type that IDX lacks.
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
