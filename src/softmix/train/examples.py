"""Which item of the data each example of a run is."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..rng import permutation


def index_of(seed: int, count: int, items: Tensor) -> Tensor:
    """Which of `count` items each example is: a new order of the whole set in every epoch."""
    epochs, places = items // count, items % count
    index = torch.empty_like(items)
    for epoch in epochs.unique().tolist():
        here = epochs == epoch
        index[here] = _order(seed, count, epoch)[places[here]]
    return index


@lru_cache(maxsize=4)
def _order(seed: int, count: int, epoch: int) -> Tensor:
    """The order in which an epoch goes through the data."""
    return permutation(seed, count, f"epoch.{epoch}")
