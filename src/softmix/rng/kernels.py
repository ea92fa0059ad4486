"""The numbers of `Rng` by Triton, one kernel launch for each call.

The functions and the integers are those of plain.py. Normal numbers differ from the CPU in the last bits: the
logarithm, sine and cosine of the card are not those of the CPU. This file needs triton; cuda.py decides about its
use. A kernel reads no value on the host, so it can be part of a CUDA graph.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

from . import plain

_GAMMA = tl.constexpr(plain.GAMMA)
_MUL_1 = tl.constexpr(plain.MUL_1)
_MUL_2 = tl.constexpr(plain.MUL_2)
_LOW = tl.constexpr(plain.LOW)
_TURN = tl.constexpr(plain.TURN)
_CELL_32 = tl.constexpr(2.0**-32)
_CELL_52 = tl.constexpr(2.0**-52)
# words of one program
BLOCK = 512


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _mix(bits: tl.tensor) -> tl.tensor:
    # the shift of a signed integer is arithmetic, and the mask makes it logical
    bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * _MUL_1
    bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * _MUL_2
    return bits ^ ((bits >> 31) & 0x1FFFFFFFF)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _word(keys: tl.tensor, draw: tl.tensor, item: tl.tensor, k: tl.tensor, inside: tl.tensor) -> tl.tensor:
    start = _mix(tl.load(keys + item, mask=inside, other=0) + draw)
    return _mix(start + (k + 1) * _GAMMA)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _store(place: tl.tensor, value: tl.tensor, inside: tl.tensor, BF16: tl.constexpr) -> None:
    if BF16:
        # the upper half of float32, rounded to nearest even; the interpreter of Triton would cut it off
        bits = value.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        tl.store(place, bits.to(tl.int16), mask=inside)
    else:
        tl.store(place, value, mask=inside)


@triton.jit(do_not_specialize=["word", "n"])  # type: ignore[untyped-decorator,unused-ignore]
def _keys_kernel(
    source: tl.tensor, out: tl.tensor, word: tl.tensor, n: tl.tensor, NUMBERS: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    keys = tl.load(source + at, mask=inside, other=0)
    if NUMBERS:
        keys = _mix(keys * _GAMMA)
    tl.store(out + at, _mix(keys ^ word), mask=inside)


@triton.jit(do_not_specialize=["draw", "n", "count"])  # type: ignore[untyped-decorator,unused-ignore]
def _words_kernel(
    keys: tl.tensor, out: tl.tensor, draw: tl.tensor, n: tl.tensor, count: tl.tensor, BLOCK: tl.constexpr
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    item = at // count
    tl.store(out + at, _word(keys, draw, item, at - item * count, inside), mask=inside)


@triton.jit(do_not_specialize=["draw", "n", "count"])  # type: ignore[untyped-decorator,unused-ignore]
def _uniforms_kernel(
    keys: tl.tensor,
    out: tl.tensor,
    draw: tl.tensor,
    n: tl.tensor,
    count: tl.tensor,
    FLOAT64: tl.constexpr,
    BF16: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    item = at // count
    bits = _word(keys, draw, item, at - item * count, inside)
    value = (((bits >> 12) & 0xFFFFFFFFFFFFF).to(tl.float64) + 0.5) * _CELL_52
    if FLOAT64:
        tl.store(out + at, value, mask=inside)
    else:
        # torch too rounds float64 to float32 on the way to half precision
        _store(out + at, value.to(tl.float32), inside, BF16)


@triton.jit(do_not_specialize=["draw", "n", "half", "count"])  # type: ignore[untyped-decorator,unused-ignore]
def _normals_kernel(
    keys: tl.tensor,
    out: tl.tensor,
    draw: tl.tensor,
    n: tl.tensor,
    half: tl.tensor,
    count: tl.tensor,
    BF16: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    item = at // half
    k = at - item * half
    bits = _word(keys, draw, item, k, inside)
    radius = tl.sqrt_rn(-2.0 * tl.log((((bits >> 32) & _LOW).to(tl.float32) + 0.5) * _CELL_32))
    angle = (bits & _LOW).to(tl.float32) * _TURN
    place = out + item * count + k
    _store(place, radius * tl.cos(angle), inside, BF16)
    # an odd number of values has no sine of the last word
    _store(place + half, radius * tl.sin(angle), inside & (k + half < count), BF16)


def _launch(kernel: Any, n: int, keys: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run a kernel over n words, on the card that holds the keys. An empty grid is an error for CUDA."""
    if n:
        with torch.cuda.device(keys.device) if keys.is_cuda else nullcontext():
            kernel[(triton.cdiv(n, BLOCK),)](keys, *arguments, BLOCK=BLOCK, **constants)


def item_keys(numbers: Tensor, word: int) -> Tensor:
    """See `plain.item_keys`."""
    numbers = numbers.contiguous()
    out = torch.empty_like(numbers)
    _launch(_keys_kernel, len(numbers), numbers, out, word, len(numbers), NUMBERS=True)
    return out


def child_keys(keys: Tensor, word: int) -> Tensor:
    """See `plain.child_keys`."""
    keys = keys.contiguous()
    out = torch.empty_like(keys)
    _launch(_keys_kernel, len(keys), keys, out, word, len(keys), NUMBERS=False)
    return out


def words(keys: Tensor, draw: int, count: int) -> Tensor:
    """See `plain.words`."""
    out = torch.empty(len(keys), count, dtype=torch.int64, device=keys.device)
    _launch(_words_kernel, out.numel(), keys.contiguous(), out, draw, out.numel(), count)
    return out


def _raw(out: Tensor) -> Tensor:
    """The tensor as the kernels store to it: bfloat16 as 16-bit integers."""
    return out.view(torch.int16) if out.dtype == torch.bfloat16 else out


def uniforms(keys: Tensor, draw: int, count: int, dtype: torch.dtype) -> Tensor:
    """See `plain.uniforms`. The values are equal, bit for bit."""
    out = torch.empty(len(keys), count, dtype=dtype, device=keys.device)
    types = {"FLOAT64": dtype == torch.float64, "BF16": dtype == torch.bfloat16}
    _launch(_uniforms_kernel, out.numel(), keys.contiguous(), _raw(out), draw, out.numel(), count, **types)
    return out


def normals(keys: Tensor, draw: int, count: int, dtype: torch.dtype) -> Tensor:
    """See `plain.normals`. torch computes float64, which is rare on a card: Triton has constants of float32."""
    if dtype == torch.float64:
        return plain.normals(keys, draw, count, dtype)
    out = torch.empty(len(keys), count, dtype=dtype, device=keys.device)
    half = (count + 1) // 2
    n = len(keys) * half
    _launch(_normals_kernel, n, keys.contiguous(), _raw(out), draw, n, half, count, BF16=dtype == torch.bfloat16)
    return out
