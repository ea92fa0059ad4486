"""A condition of several parts, as keyword arguments of a model call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Keywords:
    """Keyword arguments of a model call, one row an item: the condition of a model that takes more than one.

        Keywords(encoder_hidden_states=embeddings, pooled_projections=pooled, guidance=3.5)

    Tensors are [n, ...], also inside dictionaries and lists. Any other value, a tuple of tensors too, is the same for
    every item. `sample` and `guided` slice, move and repeat it like a tensor of labels. `channels` [n, c, ...] is no
    argument of the call: it is concatenated to x, for a model with an image, a mask or a frame beside x.

    arguments : the keyword arguments by name.

    Raises ValueError for tensors with different numbers of rows.
    """

    def __init__(self, **arguments: Any):
        lengths = [(name, len(tensor)) for name, tensor in _tensors(arguments)]
        if len({length for _, length in lengths}) > 1:
            rows = ", ".join(f"{name} {length}" for name, length in lengths)
            raise ValueError(f"one row an item was expected in each keyword; found {rows} rows")
        self.arguments = arguments
        self._length = lengths[0][1] if lengths else 1

    def __repr__(self) -> str:
        return f"Keywords({', '.join(self.arguments)}; {len(self)} rows)"

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: slice | Tensor) -> Keywords:
        return self._map(lambda tensor: tensor[rows])

    # the name that softmix.cond.Cond uses
    take = __getitem__

    def to(self, where: Any, *more: Any, **options: Any) -> Keywords:
        """A copy on another device. `where` may be other `Keywords`: then their device."""
        place = where.device if isinstance(where, Keywords) else where
        return self._map(lambda tensor: tensor.to(place, *more, **options))

    @property
    def device(self) -> torch.device:
        """The device of the first tensor."""
        return next((tensor.device for _, tensor in _tensors(self.arguments)), torch.device("cpu"))

    def expand_as(self, other: Keywords | Tensor) -> Keywords:
        """One row repeated, once for each row of `other`."""
        return self._map(lambda tensor: tensor.expand(len(other), *tensor.shape[1:]))

    def is_floating_point(self) -> bool:
        """True: no class label stands for "unconditional", so that guidance needs `unconditional`."""
        return True

    def _map(self, change: Callable[[Tensor], Tensor]) -> Keywords:
        return Keywords(**_map_tensors(self.arguments, change))


def _map_tensors(arguments: dict[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {name: _map_value(value, change) for name, value in arguments.items()}


def _map_value(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, dict):
        return _map_tensors(value, change)
    if isinstance(value, list):
        return [_map_value(item, change) for item in value]
    return change(value) if _has_rows(value) else value


def _tensors(arguments: dict[str, Any]) -> list[tuple[str, Tensor]]:
    """The tensors with rows, each with the name of its keyword."""
    named: list[tuple[str, Tensor]] = []
    for name, value in arguments.items():
        if isinstance(value, dict):
            named += _tensors(value)
        elif isinstance(value, list):
            named += [(name, item) for item in value if _has_rows(item)]
        elif _has_rows(value):
            named.append((name, value))
    return named


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def move_arguments(arguments: dict[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The arguments with tensors on `device`, floating-point tensors in `dtype`."""
    return _map_tensors(arguments, lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else None))
