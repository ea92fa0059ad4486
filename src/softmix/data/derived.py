"""What sources that are made of another source have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..cond import Cond, CondSpec, Part
from ..rng import Rng
from .contract import Source
from .report import DataError
from .store import choose

# So many items are tried when a source is made, to see what a function gives.
PROBE = 8
# What rounding may change in an item that is computed in another batch.
_SLACK = 1e-3


def condition_part(x0: tuple[int, ...], other: tuple[int, ...], who: str) -> Part:
    """The part of a condition that an item of shape `other` is, beside x0: the image of images and volumes, the value
    of points, the context of sequences. Raises DataError for others, and for an image that is not on x0's grid."""
    if len(x0) in (3, 4) and len(other) == len(x0):
        if other[1:] != x0[1:]:
            raise DataError(
                f"{who}: the condition has the size {list(other[1:])}, and x0 has {list(x0[1:])}; bring both to one "
                "size, for example with --size"
            )
        return "image"
    if len(other) == 1 and len(x0) in (1, 2, 3, 4):
        return "value"
    if len(other) == 2 and len(x0) in (1, 2, 3, 4):
        return "context"
    raise DataError(f"{who}: items of shape {list(other)} cannot be a condition for items of shape {list(x0)}")


def with_condition(cond: CondSpec, part: Part, shape: tuple[int, ...], who: str) -> CondSpec:
    """The specification with a part for items of this shape. Raises DataError if there is one already."""
    if part in cond.parts:
        raise DataError(f"{who}: there is {part} among the conditions already ({cond}); a source has one of each")
    size = shape[1] if part == "context" else shape[0]
    if part == "image":
        return replace(cond, image=size)
    return replace(cond, values=size) if part == "value" else replace(cond, context=size)


def with_part(cond: Cond | None, part: Part, tensor: Tensor) -> Cond:
    """The condition with a part."""
    return replace(cond or Cond(), **{part: tensor})


def probe_items(source: Source) -> tuple[Tensor, Rng]:
    """(the numbers of a few items, a fixed choice; the stream for them)."""
    index = choose(len(source), PROBE)
    return index, Rng(0, index, "softmix.data.probe")


def require_itemwise(change: Callable[[Tensor, Rng], Tensor], x0: Tensor, rng: Rng, who: str) -> Tensor:
    """What `change` gives for a batch. Raises DataError if it gives an item something else in a batch of its own, or
    is not finite, or not a tensor of as many items.

    rng : at the draw at which `change` is to begin.
    """
    whole = change(x0, _again(rng))
    if not isinstance(whole, Tensor) or whole.ndim < 2 or len(whole) != len(x0) or not whole.is_floating_point():
        found = f"{whole.dtype} of shape {list(whole.shape)}" if isinstance(whole, Tensor) else type(whole).__name__
        raise DataError(f"{who} gave {found} for {len(x0)} items; give a tensor of floats with an item for each")
    if not torch.isfinite(whole).all():
        raise DataError(f"{who} gave values that are not finite for {_bad(whole)} of {len(x0)} items; give finite ones")
    for i in range(len(x0)):
        here = slice(i, i + 1)
        one = change(x0[here], _again(rng.take(here)))
        if one.shape != whole[here].shape or not torch.allclose(one, whole[here], rtol=_SLACK, atol=_SLACK):
            raise DataError(
                f"{who} gives an item another result in a batch of its own; draw from the rng that it is given, and "
                "let no item depend on others"
            )
    return whole


def _again(rng: Rng) -> Rng:
    """The same stream at the same draw, whatever the other one draws."""
    return rng.take(slice(None))


def _bad(values: Tensor) -> int:
    return int((~torch.isfinite(values)).flatten(1).any(1).sum())


def require_finite(values: Tensor, index: Tensor, who: str) -> Tensor:
    """`values`. Raises DataError that names the items with one that is not finite."""
    good = torch.isfinite(values).flatten(1).all(1)
    if not good.all():
        named = ", ".join(map(str, index[~good.to(index.device)].tolist()[:5]))
        raise DataError(f"{who} gave values that are not finite for the items {named}; give finite ones")
    return values


def value_fingerprint(values: Tensor) -> str:
    """A text that tells values [N, ...] from others: their inner products with eight fixed directions, in 3 decimals.

    For what is computed: its last bits depend on the machine, and a hash of them would too.
    """
    flat = values.detach().double().cpu().flatten()
    fixed = Rng(0, 8, "softmix.data.projections").normal((8, len(flat)), torch.float64)
    found = fixed @ flat / max(len(flat), 1) ** 0.5
    return ",".join(f"{value:.3f}" for value in (found + 0.0).tolist())


def text_fingerprint(*parts: Any) -> str:
    """A fingerprint of texts: 16 hexadecimal digits of their SHA-256."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:16]


def part_name(what: object) -> str:
    """The name of a part that was handed in: its own, or that of its function or class."""
    own = getattr(what, "name", None)
    return own if isinstance(own, str) and own else str(getattr(what, "__name__", type(what).__name__))


def class_names(source: Source) -> tuple[str, ...]:
    """The names of the classes of a source, () if it has none."""
    return tuple(getattr(source, "classes", ()))
