"""The numbers of `Rng` by plain torch operations. They work on every device.

All functions take the key of each item, int64 [n], and the word of a draw, and return [n, count] numbers. The same
functions, faster on their device, are in cpu.py and kernels.py.

The bits are SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
MUL_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
MUL_2 = 0x94D049BB133111EB - (1 << 64)
LOW = 0xFFFFFFFF
# the angle of one unit of a 32-bit number
TURN = 2 * math.pi * 2.0**-32


def shifted(bits: Tensor, by: int) -> Tensor:
    """The logical shift to the right. The shift of torch for int64 is arithmetic."""
    return (bits >> by).bitwise_and_((1 << (64 - by)) - 1)


def mix_(bits: Tensor) -> Tensor:
    """The finaliser of SplitMix64, in place: a bijection of 64-bit words that scrambles every bit."""
    bits.bitwise_xor_(shifted(bits, 30)).mul_(MUL_1)
    bits.bitwise_xor_(shifted(bits, 27)).mul_(MUL_2)
    return bits.bitwise_xor_(shifted(bits, 31))


def item_keys(numbers: Tensor, word: int) -> Tensor:
    """The keys of items with these numbers, int64 [n]."""
    return mix_(mix_(numbers * GAMMA).bitwise_xor_(word))


def child_keys(keys: Tensor, word: int) -> Tensor:
    """The keys of another role of the same items."""
    return mix_(keys ^ word)


def words(keys: Tensor, draw: int, count: int) -> Tensor:
    """Uniform 64-bit words: step k of SplitMix64 from the start of this draw, k = 1 .. count. int64."""
    start = mix_(keys + draw)
    steps = torch.arange(1, count + 1, device=keys.device) * GAMMA
    return mix_(start[:, None] + steps)


def cell_centres(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """The upper 52 bits of words as numbers in (0, 1): (k + 1/2) 2^-52."""
    real = torch.float32 if bits.device.type == "mps" else torch.float64
    return shifted(bits, 12).to(real).add_(0.5).mul_(2.0**-52).to(dtype)


def uniforms(keys: Tensor, draw: int, count: int, dtype: torch.dtype) -> Tensor:
    """Uniform numbers in (0, 1)."""
    return cell_centres(words(keys, draw, count), dtype)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which normal numbers are computed: sines in float64 would take most of a step on a CPU."""
    return dtype if dtype == torch.float64 else torch.float32


def normals(keys: Tensor, draw: int, count: int, dtype: torch.dtype) -> Tensor:
    """Normal numbers by Box and Muller. From word k, with its upper half h and its lower half l:

    r = sqrt(-2 log((h + 1/2) 2^-32)),   a = 2 pi 2^-32 l
    value k = r cos(a),   value ceil(count / 2) + k = r sin(a)
    """
    real, half = working_dtype(dtype), (count + 1) // 2
    bits = words(keys, draw, half)
    radius = shifted(bits, 32).to(real).add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = bits.bitwise_and_(LOW).to(real).mul_(TURN)
    # an odd number of values has no sine of the last word
    return torch.cat([radius * angle.cos(), (radius * angle.sin())[:, : count - half]], dim=1).to(dtype)
