"""Ground floor: a number for each item beside a tensor of items, and means over the cells of a coarse grid."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def column(value: Tensor | float, x: Tensor) -> Tensor:
    """Reshape `value` to multiply x, on the device of x.

    value : a number, a number for each item [B], or an array of the rank of x, such as [1, C, 1, 1] for a number for
        each channel. Shape [B] becomes [B, 1, ..., 1] with as many axes as x, so that B is never taken for a width or
        a number of channels. An array keeps its shape.
    x : [B, ...].

    The result has the dtype of x. If x holds integers, as tokens do, the value keeps its own dtype: as an integer a
    share of 0.3 would be 0.

    Raises ValueError for any other shape.
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
    """Whether `value` has the rank of x, and each of its sizes is 1 or that of x."""
    return value.ndim == x.ndim and all(have in (1, size) for have, size in zip(value.shape, x.shape, strict=True))


def take(cond: T, items: Tensor | slice) -> T:
    """The conditions of some items: a tensor is indexed by its first axis, a record by its `take`; None stays None."""
    if isinstance(cond, Tensor):
        index = items.to(cond.device) if isinstance(items, Tensor) else items
        return cond[index]  # type: ignore[return-value]
    return cond if cond is None else cond.take(items)  # type: ignore[attr-defined, no-any-return]


def cell_shares(size: int, cells: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The share of each place in the mean of each cell, [cells, size], as in adaptive average pooling.

    Cell c has the places from floor(c size / cells) to ceil((c + 1) size / cells) - 1. A product with this matrix has a
    deterministic derivative on a GPU, which the pooling of torch has not.
    """
    place, cell = torch.arange(size, device=device), torch.arange(cells, device=device)[:, None]
    inside = (place >= cell * size // cells) & (place * cells < (cell + 1) * size)
    return inside.to(dtype) / inside.sum(1, keepdim=True)
