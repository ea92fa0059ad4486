"""The numbers of `Rng` on a CPU, in blocks that fit into its cache.

The bits are those of plain.py. numpy computes all operations with an exactly rounded result: a call of numpy costs
less than one of torch, and its logical shift is one operation. torch computes the logarithm, root, sine and cosine,
since those of numpy have other last bits. Many numbers are left to plain.py if torch may use several threads.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import plain
from .plain import GAMMA, MUL_1, MUL_2, TURN, child_keys, item_keys

__all__ = ["child_keys", "item_keys", "normals", "uniforms", "words"]

Words = NDArray[np.int64]

# words of a block: few enough for a cache, and many enough that calls of numpy cost little
BLOCK = 1 << 16
_UPPER = 1 if sys.byteorder == "little" else 0
_SHIFTS = {by: np.uint64(by) for by in (30, 27, 31)}


def _mix(words: Words, spare: Words) -> None:
    """`plain.mix_` for arrays of numpy. spare : an array of the same shape."""
    unsigned, shifted = words.view(np.uint64), spare.view(np.uint64)
    for by, factor in ((30, MUL_1), (27, MUL_2), (31, 1)):
        np.right_shift(unsigned, _SHIFTS[by], shifted)
        np.bitwise_xor(words, spare, words)
        if factor != 1:
            np.multiply(words, factor, words)


class _Scratch(threading.local):
    """Memory of a block, which each thread uses again: new memory costs more than the operations on it."""

    def __init__(self) -> None:
        self.words = np.empty((2, BLOCK), np.int64)
        self.reals = np.empty((4, BLOCK), np.float32)


_scratch = _Scratch()


class _Block(NamedTuple):
    """Some words of some items: rows, columns, and words [rows, columns], which the next block overwrites."""

    rows: slice
    columns: slice
    words: Words


def _blocks(keys: Tensor, draw: int, count: int) -> Iterator[_Block]:
    """The words of a draw, in blocks."""
    items = len(keys)
    start = np.add(keys.numpy(), draw)
    _mix(start, np.empty_like(start))
    steps = np.arange(1, count + 1, dtype=np.int64)
    np.multiply(steps, GAMMA, steps)
    height, width = min(items, max(1, BLOCK // count)), min(count, BLOCK)
    for row in range(0, items, height):
        rows = slice(row, min(row + height, items))
        for column in range(0, count, width):
            columns = slice(column, min(column + width, count))
            shape = (rows.stop - row, columns.stop - column)
            words, spare = (part[: shape[0] * shape[1]].reshape(shape) for part in _scratch.words)
            np.add(start[rows, None], steps[columns], words)
            _mix(words, spare)
            yield _Block(rows, columns, words)


def _left_to_torch(total: int) -> bool:
    """Whether there is nothing to do for numpy, or torch is faster with its threads."""
    return not total or (total > BLOCK and torch.get_num_threads() > 2)


def words(keys: Tensor, draw: int, count: int) -> Tensor:
    """See `plain.words`."""
    if _left_to_torch(len(keys) * count):
        return plain.words(keys, draw, count)
    out = np.empty((len(keys), count), np.int64)
    for block in _blocks(keys, draw, count):
        out[block.rows, block.columns] = block.words
    return torch.from_numpy(out)


def uniforms(keys: Tensor, draw: int, count: int, dtype: torch.dtype) -> Tensor:
    """See `plain.uniforms`."""
    return plain.cell_centres(words(keys, draw, count), dtype)


def normals(keys: Tensor, draw: int, count: int, dtype: torch.dtype) -> Tensor:
    """See `plain.normals`."""
    half = (count + 1) // 2
    if _left_to_torch(len(keys) * half):
        return plain.normals(keys, draw, count, dtype)
    real = np.float64 if plain.working_dtype(dtype) == torch.float64 else np.float32
    out = np.empty((len(keys), count), real)
    # an odd number of values has no sine of the last word
    cosines, sines = out[:, :half], out[:, half:]
    scratch = _scratch.reals if real == np.float32 else np.empty((4, BLOCK), real)
    for rows, columns, words in _blocks(keys, draw, half):
        height, width = words.shape
        halves = scratch[:2].reshape(-1)[: 2 * words.size].reshape(height, 2 * width)
        radius, angle = (row[: words.size].reshape(height, width) for row in scratch[2:])
        np.copyto(halves, words.view(np.uint32), casting="unsafe")
        np.add(halves[:, _UPPER::2], 0.5, radius)
        np.multiply(halves[:, 1 - _UPPER :: 2], TURN, angle)
        np.multiply(radius, 2.0**-32, radius)
        torch.from_numpy(radius).log_().mul_(-2).sqrt_()
        turned = torch.from_numpy(angle)
        np.multiply(radius, turned.cos().numpy(), cosines[rows, columns])
        below = sines[rows, columns]
        turned.sin_()
        np.multiply(radius[:, : below.shape[1]], angle[:, : below.shape[1]], below)
    return torch.from_numpy(out).to(dtype)
