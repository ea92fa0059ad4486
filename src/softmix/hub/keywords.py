"""Conditions of several parts, as the keywords of a model's call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Keywords:
    """Keywords of a model's call, a row an item: what `cond` is for models that take more than one condition.

        Keywords(encoder_hidden_states=embeddings, pooled_projections=pooled, guidance=3.5)

    Tensors are [n, ...], in dictionaries and lists as well; anything else, a tuple of tensors too, is the same for
    every item. It is cut, moved and repeated like the tensor of labels that it stands for, so that `sample` and
    `guided` take it. `channels` [n, c, ...] is no keyword of the call: it is joined to x, for models that see a
    picture, a mask or a frame beside it. Raises ValueError where tensors differ in n.
    """

    def __init__(self, **told: Any):
        lengths = [(name, len(each)) for name, each in _tensors(told)]
        if len({length for _, length in lengths}) > 1:
            found = ", ".join(f"{name} {length}" for name, length in lengths)
            raise ValueError(f"one row an item was expected in each keyword; found {found} rows")
        self.told = told
        self._length = lengths[0][1] if lengths else 1

    def __repr__(self) -> str:
        return f"Keywords({', '.join(self.told)}; {len(self)} rows)"

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: slice | Tensor) -> Keywords:
        return self._each(lambda part: part[rows])

    # as conditions have it
    take = __getitem__

    def to(self, where: Any, *more: Any, **options: Any) -> Keywords:
        """On another device; of other keywords, on theirs."""
        place = where.device if isinstance(where, Keywords) else where
        return self._each(lambda part: part.to(place, *more, **options))

    @property
    def device(self) -> torch.device:
        return next((part.device for _, part in _tensors(self.told)), torch.device("cpu"))

    def expand_as(self, other: Keywords | Tensor) -> Keywords:
        """One row repeated, once for each of the other's."""
        return self._each(lambda part: part.expand(len(other), *part.shape[1:]))

    def is_floating_point(self) -> bool:
        """No class says what stands for none."""
        return True

    def _each(self, change: Callable[[Tensor], Tensor]) -> Keywords:
        return Keywords(**_changed(self.told, change))


def _changed(told: dict[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {name: _part(each, change) for name, each in told.items()}


def _part(each: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(each, dict):
        return _changed(each, change)
    if isinstance(each, list):
        return [_part(one, change) for one in each]
    return change(each) if _is_rows(each) else each


def _tensors(told: dict[str, Any]) -> list[tuple[str, Tensor]]:
    """By the name of their keyword."""
    found: list[tuple[str, Tensor]] = []
    for name, each in told.items():
        if isinstance(each, dict):
            found += _tensors(each)
        elif isinstance(each, list):
            found += [(name, one) for one in each if _is_rows(one)]
        elif _is_rows(each):
            found.append((name, each))
    return found


def _is_rows(each: Any) -> bool:
    return isinstance(each, Tensor) and each.ndim > 0


def moved(told: dict[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Tensors on the model's device, what is no integer in its dtype."""
    return _changed(told, lambda part: part.to(device, dtype if part.is_floating_point() else None))
