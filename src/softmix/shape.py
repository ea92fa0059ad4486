"""Ground floor: the one place where a number per item, or per element, meets a tensor of items."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def column(value: Tensor | float, x: Tensor) -> Tensor:
    """`value`, a number, one number per item or an array of x's rank, in x's dtype and device, ready to multiply x.

    Where x holds integers, as tokens do, the numbers keep their own type: as an integer a share of 0.3 would be 0.
    A tensor of shape [B] becomes [B, 1, ..., 1] with as many axes as x, so that it can never be
    mistaken for a row of pixels when B equals a width or a number of channels. An array of x's rank, such as
    [1, C, 1, 1] for a number per channel, keeps its shape.
    """
    real = x.is_floating_point() or x.is_complex()
    value = torch.as_tensor(value).to(device=x.device, dtype=x.dtype if real else None)
    if value.ndim == 0:
        return value
    if value.ndim == 1 and value.shape[0] == x.shape[0]:
        return value.reshape(-1, *(1,) * (x.ndim - 1))
    if value.ndim > 1 and fits(value, x):
        return value
    raise ValueError(
        f"one number per item was expected, shape [{x.shape[0]}], or an array that multiplies {list(x.shape)}, such as "
        f"{[1, *x.shape[1:]]}; but the shape is {list(value.shape)}"
    )


def fits(value: Tensor, x: Tensor) -> bool:
    """Whether `value` has x's rank and each of its sizes is 1 or x's."""
    return value.ndim == x.ndim and all(have in (1, size) for have, size in zip(value.shape, x.shape, strict=True))


def take(cond: T, items: Tensor | slice) -> T:
    """The conditions of some items: of a tensor by its first axis, of a record by its own `take`; None stays None."""
    if isinstance(cond, Tensor):
        where = items.to(cond.device) if isinstance(items, Tensor) else items
        return cond[where]  # type: ignore[return-value]
    return cond if cond is None else cond.take(items)  # type: ignore[attr-defined, no-any-return]
