"""The item of the data, and the random stream, of each training example of a run."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..rng import Rng, permutation


def example_rng(seed: int, items: Tensor, attempt: int, device: torch.device | str = "cpu") -> Rng:
    """The random stream of each training example.

    items : numbers of the examples, counted from the start of the run, [B].
    attempt : the number of rollbacks so far.
    """
    return Rng(seed, items, f"train.{attempt}", device)


def source_rng(rng: Rng) -> Rng:
    """The part of the stream of examples that their source draws from."""
    return rng.child("source")


def item_index(seed: int, count: int, items: Tensor) -> Tensor:
    """The data item of each training example: each epoch is a new random order of all `count` items.

    items : numbers of the examples, counted from the start of the run, [B], on the CPU.
    Returns int64 [B] in 0 .. count-1.
    When to choose: on the CPU. On an accelerator the epochs would be read from the device; take `ItemOrder`.
    """
    epochs, places = items // count, items % count
    index = torch.empty_like(items)
    for epoch in epochs.unique().tolist():
        here = epochs == epoch
        index[here] = _order(seed, count, epoch)[places[here]]
    return index


@lru_cache(maxsize=4)
def _order(seed: int, count: int, epoch: int) -> Tensor:
    return _order_on(seed, count, epoch, "cpu")


def _order_on(seed: int, count: int, epoch: int, device: torch.device | str) -> Tensor:
    return permutation(seed, count, f"epoch.{epoch}", device)


class ItemOrder:
    """`item_index` on an accelerator: the same numbers, from a table on the device that the host never reads.

        index = table[items mod (rows count)]

    The table has the orders of `rows` epochs, that of epoch e in row e mod rows: as many as a batch can touch.
    `prepare` replaces a row in place when an epoch begins, so that a captured graph finds it at the same address.

    seed : the seed of the run.
    count : the number of data items.
    batch : the batch size.
    """

    def __init__(self, seed: int, count: int, batch: int, device: torch.device):
        self._seed, self._count, self._rows = seed, count, -(-(batch - 1) // count) + 1
        self._epochs: list[int | None] = [None] * self._rows
        self._table = torch.zeros(self._rows * count, dtype=torch.int64, device=device)

    def prepare(self, first: int, last: int) -> None:
        """Make the table right for the examples first .. last, at most a batch. The device is not waited for."""
        for epoch in range(first // self._count, last // self._count + 1):
            row = epoch % self._rows
            if self._epochs[row] != epoch:
                place = self._table[row * self._count : (row + 1) * self._count]
                place.copy_(_order_on(self._seed, self._count, epoch, place.device))
                self._epochs[row] = epoch

    def index(self, items: Tensor) -> Tensor:
        """The data item of each example, int64 [B]. The examples are those of the last `prepare`."""
        return self._table[items % len(self._table)]
