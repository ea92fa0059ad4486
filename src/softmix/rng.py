"""Ground floor: randomness as a pure function, without hidden state.

Every random number of softmix is a function of (seed, role, item, draw, position). So item k of a batch of n has the
same numbers as in a batch of one, on any device, with any batch size, number of workers or number of processes. A
resumed run needs only a counter.

The bits are SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), written
with tensor operations. Normal numbers are by Box and Muller.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MUL_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MUL_2 = 0x94D049BB133111EB - (1 << 64)


def _shift(bits: Tensor, by: int) -> Tensor:
    # int64 shifts in torch are arithmetic; the mix needs the logical shift
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """The finaliser of SplitMix64: a bijection of 64-bit words that scrambles every bit."""
    bits = (bits ^ _shift(bits, 30)) * _MUL_1
    bits = (bits ^ _shift(bits, 27)) * _MUL_2
    return bits ^ _shift(bits, 31)


def _word(*parts: object) -> int:
    """A signed 64-bit word that depends on every part."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


class Rng:
    """The random numbers of a batch of numbered items.

    Parameters
    ----------
    seed : the seed of the run, any integer.
    items : the number of items in the batch, which are then numbered from 0; or the number of each item. With the
        global number of a training example, or of an image to be sampled, its noise does not depend on its batch.
    role : the purpose of the noise. Two roles never share a number.
    device : the device of the tensors.

    Only a call of `bits`, `normal`, `uniform` or `integers` advances the counter `draws`.
    """

    def __init__(
        self, seed: int, items: int | Sequence[int] | Tensor, role: str = "", device: torch.device | str = "cpu"
    ):
        numbers = torch.arange(items) if isinstance(items, int) else torch.as_tensor(items)
        self.device = torch.device(device)
        numbers = numbers.to(device=self.device, dtype=torch.int64)
        self._key = _mix(_mix(numbers * _GAMMA) ^ _word(seed, role))
        self.draws = 0

    def __len__(self) -> int:
        return len(self._key)

    def child(self, role: str) -> Rng:
        """The stream of another role. It does not depend on the draws of this one."""
        return self._with(_mix(self._key ^ _word(role)), 0)

    def take(self, index: slice | Tensor) -> Rng:
        """The same stream, at the same draw, for some of the items."""
        return self._with(self._key[index], self.draws)

    def to(self, device: torch.device | str) -> Rng:
        """The same stream, at the same draw, on another device."""
        other = self._with(self._key.to(device), self.draws)
        other.device = torch.device(device)
        return other

    def _with(self, key: Tensor, draws: int) -> Rng:
        other = object.__new__(Rng)
        other.device, other._key, other.draws = self.device, key, draws
        return other

    def bits(self, shape: Sequence[int]) -> Tensor:
        """Uniform 64-bit words, int64, of the given shape; shape[0] must be the number of items."""
        if not shape or shape[0] != len(self):
            raise ValueError(
                f"this Rng serves {len(self)} items, but noise of shape {tuple(shape)} was asked for; "
                f"its first size must be {len(self)}"
            )
        self.draws += 1
        start = _mix(self._key + _word("draw", self.draws))
        count = math.prod(shape[1:])
        steps = torch.arange(1, count + 1, device=self.device) * _GAMMA
        return _mix(start[:, None] + steps).reshape(tuple(shape))

    def uniform(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        """Numbers in (0, 1), never 0 or 1 in float64 (2^52 equally likely cell centres)."""
        value = (_shift(self.bits(shape), 12).to(self._real) + 0.5) * 2.0**-52
        return value.to(dtype or torch.get_default_dtype())

    def normal(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        """Independent N(0, 1) numbers."""
        dtype, count = dtype or torch.get_default_dtype(), math.prod(shape[1:])
        # Box and Muller's rule, in the precision asked for: sines of float64 would take most of a step on a CPU
        real = self._real if dtype == torch.float64 else torch.float32
        bits = self.bits((shape[0], (count + 1) // 2))
        radius = ((_shift(bits, 32).to(real) + 0.5) * 2.0**-32).log_().mul_(-2).sqrt_()
        angle = (bits & 0xFFFFFFFF).to(real).mul_(2 * math.pi * 2.0**-32)
        value = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]
        return value.reshape(tuple(shape)).to(dtype)

    def integers(self, high: int, shape: Sequence[int]) -> Tensor:
        """Integers 0 .. high-1, int64 (for high up to 2^32, with a bias below 2^-31)."""
        if not 0 < high <= 1 << 32:
            raise ValueError(f"integers below {high} were asked for; give 1 to 2^32")
        return (_shift(self.bits(shape), 33) * high) >> 31

    @property
    def _real(self) -> torch.dtype:
        return torch.float32 if self.device.type == "mps" else torch.float64


def permutation(seed: int, count: int, role: str, device: torch.device | str = "cpu") -> Tensor:
    """A random order of 0 .. count-1, a function of (seed, role) alone. It is the same on every device."""
    return Rng(seed, 1, role, device).bits((1, count))[0].argsort(stable=True)
