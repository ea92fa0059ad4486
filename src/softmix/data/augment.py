"""Items mirrored left for right, with the image that they are conditioned on."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..cond import Cond
from ..rng import Rng
from ..shape import column


def mirrored(x0: Tensor, cond: Cond | None, rng: Rng) -> tuple[Tensor, Cond | None]:
    """(x0, cond), each item [C, H, W] with its image condition mirrored along its width with a chance of one half.

    Labels, values and context stay as they are. Raises ValueError for items that have no width.
    """
    if x0.ndim != 4:
        raise ValueError(f"images [B, C, H, W] can be mirrored; found the shape {list(x0.shape)}")
    turned = rng.uniform((len(x0),)) < 0.5
    x0 = _where(turned, x0)
    if cond is None or cond.image is None:
        return x0, cond
    return x0, replace(cond, image=_where(turned, cond.image))


def _where(turned: Tensor, x: Tensor) -> Tensor:
    return torch.where(column(turned, x).bool(), x.flip(-1), x)
