"""The item of the data of each training example of a run."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..rng import permutation


def item_index(seed: int, count: int, items: Tensor) -> Tensor:
    """The data item of each training example: each epoch is a new random order of all `count` items.

    items : numbers of the examples, counted from the start of the run, [B].
    Returns int64 [B] in 0 .. count-1.
    """
    epochs, places = items // count, items % count
    index = torch.empty_like(items)
    for epoch in epochs.unique().tolist():
        here = epochs == epoch
        index[here] = _order(seed, count, epoch)[places[here]]
    return index


@lru_cache(maxsize=4)
def _order(seed: int, count: int, epoch: int) -> Tensor:
    return permutation(seed, count, f"epoch.{epoch}")
