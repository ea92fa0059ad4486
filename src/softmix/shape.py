"""Ground floor: the one place where a number per item meets a tensor of items."""

from __future__ import annotations

import torch
from torch import Tensor


def column(value: Tensor | float, x: Tensor) -> Tensor:
    """`value`, a number or one number per item, in x's dtype and device, ready to multiply x.

    Where x holds integers, as tokens do, the numbers keep their own type: as an integer a share of 0.3 would be 0.
    A tensor of shape [B] becomes [B, 1, ..., 1] with as many axes as x, so that it can never be
    mistaken for a row of pixels when B equals a width or a number of channels.
    """
    real = x.is_floating_point() or x.is_complex()
    value = torch.as_tensor(value).to(device=x.device, dtype=x.dtype if real else None)
    if value.ndim == 0:
        return value
    if value.ndim != 1 or value.shape[0] != x.shape[0]:
        raise ValueError(
            f"one number per item was expected, shape [{x.shape[0]}], but the shape is {list(value.shape)}"
        )
    return value.reshape(-1, *(1,) * (x.ndim - 1))
