"""The random numbers of a batch of items."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from . import cpu, cuda, plain


def _computed(name: str, keys: Tensor, *arguments: object) -> Tensor:
    """The result of a function of plain.py, by the fastest form for the device."""
    # a compiler and a tensor without data need plain torch operations
    only_plain = type(keys) is not Tensor or torch.compiler.is_compiling()
    if keys.is_cuda and not only_plain:
        return cuda.computed(name, keys, *arguments)
    file = cpu if keys.device.type == "cpu" and not only_plain else plain
    return cast(Tensor, getattr(file, name)(keys, *arguments))


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
        self.device = torch.device(device)
        numbers = torch.arange(items, device=self.device) if isinstance(items, int) else torch.as_tensor(items)
        numbers = numbers.to(device=self.device, dtype=torch.int64)
        self._key = _computed("item_keys", numbers, _word(seed, role))
        self.draws = 0

    def __len__(self) -> int:
        return len(self._key)

    def child(self, role: str) -> Rng:
        """The stream of another role. It does not depend on the draws of this one."""
        return self._with(_computed("child_keys", self._key, _word(role)), 0)

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
        return self._drawn("words", shape)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        """Numbers in (0, 1), never 0 or 1 in float64 (2^52 equally likely cell centres)."""
        return self._drawn("uniforms", shape, dtype or torch.get_default_dtype())

    def normal(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        """Independent N(0, 1) numbers. They are computed in float32, or in float64 for this dtype, and rounded."""
        return self._drawn("normals", shape, dtype or torch.get_default_dtype())

    def _drawn(self, name: str, shape: Sequence[int], *dtype: torch.dtype) -> Tensor:
        """The next draw, by a function of plain.py."""
        if not shape or shape[0] != len(self):
            raise ValueError(
                f"this Rng serves {len(self)} items, but noise of shape {tuple(shape)} was asked for; "
                f"its first size must be {len(self)}"
            )
        self.draws += 1
        word, count = _word("draw", self.draws), math.prod(shape[1:])
        return _computed(name, self._key, word, count, *dtype).reshape(tuple(shape))

    def integers(self, high: int, shape: Sequence[int]) -> Tensor:
        """Integers 0 .. high-1, int64 (for high up to 2^32, with a bias below 2^-31)."""
        if not 0 < high <= 1 << 32:
            raise ValueError(f"integers below {high} were asked for; give 1 to 2^32")
        return (plain.shifted(self.bits(shape), 33) * high) >> 31


def permutation(seed: int, count: int, role: str, device: torch.device | str = "cpu") -> Tensor:
    """A random order of 0 .. count-1, a function of (seed, role) alone. It is the same on every device."""
    return Rng(seed, 1, role, device).bits((1, count))[0].argsort(stable=True)
