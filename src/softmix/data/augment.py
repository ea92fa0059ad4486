"""Random horizontal flips."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..cond import Cond
from ..rng import Rng
from ..shape import column


def mirrored(x0: Tensor, cond: Cond | None, rng: Rng) -> tuple[Tensor, Cond | None]:
    """Flip each image left to right with probability 1/2, together with its image condition.

    x0 : [B, C, H, W].
    cond : labels, values and context stay as they are.
    rng : serves B items.
    Returns (x0, cond). Raises ValueError for items that have no width.
    """
    if x0.ndim != 4:
        raise ValueError(f"images [B, C, H, W] can be mirrored; found the shape {list(x0.shape)}")
    flipped = rng.uniform((len(x0),)) < 0.5
    x0 = _flip(flipped, x0)
    if cond is None or cond.image is None:
        return x0, cond
    return x0, replace(cond, image=_flip(flipped, cond.image))


def _flip(chosen: Tensor, x: Tensor) -> Tensor:
    return torch.where(column(chosen, x).bool(), x.flip(-1), x)
