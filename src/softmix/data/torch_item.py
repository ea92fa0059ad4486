"""`Item`: one item of a torch Dataset, as x0 and its conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .picture import MODES
from .report import DataError

_KNOWN = ("x0", "label", "image", "value", "context")


@dataclass(frozen=True, eq=False)
class Item:
    """x0 and the conditions of one item."""

    x0: Tensor
    label: int | None = None
    image: Tensor | None = None
    value: Tensor | None = None
    context: Tensor | None = None

    @property
    def pixels(self) -> bool:
        """Whether x0 is uint8."""
        return self.x0.dtype == torch.uint8

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """x0 and the conditions that are tensors, by name."""
        for name in ("x0", "image", "value", "context"):
            tensor = getattr(self, name)
            if tensor is not None:
                yield name, tensor


def parse_item(item: Any, who: str) -> Item:
    """Read an item of a Dataset: x0, (x0, label), or a dict by name.

    who : the item, for messages.
    Raises DataError for all other items.
    """
    if isinstance(item, Mapping):
        return _named({str(key): value for key, value in item.items()}, who)
    if isinstance(item, tuple | list):
        if len(item) == 1:
            return Item(_x0(item[0], who))
        if len(item) == 2:
            return Item(_x0(item[0], who), _label(item[1], who))
        raise DataError(f"{who} is a tuple of {len(item)}; give x0, (x0, label), or a dict by name")
    return Item(_x0(item, who))


def _named(item: dict[str, Any], who: str) -> Item:
    if "x0" not in item and "image" in item:
        item["x0"] = item.pop("image")
    unknown = [key for key in item if key not in _KNOWN]
    if unknown or "x0" not in item:
        raise DataError(f"{who} has {', '.join(item) or 'nothing'}; give x0, and any of {', '.join(_KNOWN[1:])}")
    image, value, context = (item.get(key) for key in ("image", "value", "context"))
    return Item(
        _x0(item["x0"], who),
        None if item.get("label") is None else _label(item["label"], who),
        None if image is None else _x0(image, who),
        None if value is None else _real(value, 1, f"{who}, value"),
        None if context is None else _real(context, 2, f"{who}, context"),
    )


def _label(label: Any, who: str) -> int:
    number = np.asarray(label)
    if number.size == 1 and number.dtype.kind in "iub":
        return int(number.reshape(()))
    raise DataError(f"{who}: the label {label!r} is not a whole number; give the number of its class")


def _real(value: Any, axes: int, who: str) -> Tensor:
    tensor = torch.as_tensor(value)
    if tensor.ndim == 0 and axes == 1:
        tensor = tensor[None]
    if tensor.ndim != axes:
        raise DataError(f"{who} has the shape {list(tensor.shape)}; give {axes} axes")
    return tensor.float()


def _x0(x0: Any, who: str) -> Tensor:
    if isinstance(x0, Image.Image):
        mode = x0.mode if x0.mode in MODES.values() else "L" if x0.mode == "1" else "RGB"
        x0 = np.asarray(x0.convert(mode))
    if isinstance(x0, np.ndarray):
        if x0.ndim == 2 and x0.dtype == np.uint8:
            x0 = x0[None]
        elif x0.ndim == 3 and x0.shape[2] in MODES:
            x0 = x0.transpose(2, 0, 1)
        x0 = torch.from_numpy(np.array(x0, order="C"))
    if not isinstance(x0, Tensor):
        raise DataError(f"{who} is a {type(x0).__name__}; give a tensor, an array or a picture, or a dict by name")
    if x0.dtype == torch.uint8 or x0.is_floating_point():
        x0 = x0 if x0.ndim else x0[None]
        return x0 if x0.dtype == torch.uint8 else x0.float()
    raise DataError(f"{who} is {x0.dtype}; give floats, or uint8 for pixels")
