"""Helpers of the sources that are made from another source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..cond import Cond, CondSpec, Part
from ..rng import Rng
from ..shape import column
from .contract import Source
from .report import DataError
from .store import choose

# The number of items that a function is tried on when a source is made.
PROBE = 8
# The largest change by rounding if an item is computed in another batch.
_SLACK = 1e-3


def condition_part(x0: tuple[int, ...], other: tuple[int, ...], who: str) -> Part:
    """The part of a condition for items of shape `other` next to items of shape `x0`.

    It is the image of images and volumes, the value of points, and the context of sequences.
    Raises DataError for other shapes, and for an image that is not on the grid of x0.
    """
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
    """The specification with one more part, for items of this shape. Raises DataError if it has this part already."""
    if part in cond.parts:
        raise DataError(f"{who}: the condition has the part {part} already ({cond}); a source has at most one of each")
    size = shape[1] if part == "context" else shape[0]
    if part == "image":
        return replace(cond, image=size)
    return replace(cond, values=size) if part == "value" else replace(cond, context=size)


def with_part(cond: Cond | None, part: Part, tensor: Tensor) -> Cond:
    """The condition with one more part."""
    return replace(cond or Cond(), **{part: tensor})


def probe_items(source: Source) -> tuple[Tensor, Rng]:
    """Return (the numbers of a few items, a fixed choice; the random stream for them)."""
    index = choose(len(source), PROBE)
    return index, Rng(0, index, "softmix.data.probe")


def require_itemwise(change: Callable[[Tensor, Rng], Tensor], x0: Tensor, rng: Rng, who: str) -> Tensor:
    """Apply `change` to a batch, and check that the result of an item does not depend on the batch.

    change : (x0, rng) -> a float tensor with one item each.
    rng : the stream at the draw that `change` begins with.
    who : the function, for messages.
    Raises DataError if an item alone has another result, if results are not finite, or if their number differs.
    """
    whole = change(x0, _again(rng))
    if not isinstance(whole, Tensor) or whole.ndim < 2 or len(whole) != len(x0) or not whole.is_floating_point():
        given = f"{whole.dtype} of shape {list(whole.shape)}" if isinstance(whole, Tensor) else type(whole).__name__
        raise DataError(f"{who} gave {given} for {len(x0)} items; give a tensor of floats with an item for each")
    if not torch.isfinite(whole).all():
        raise DataError(f"{who} gave values that are not finite for {_bad(whole)} of {len(x0)} items; give finite ones")
    for i in range(len(x0)):
        here = slice(i, i + 1)
        one = change(x0[here], _again(rng.take(here)))
        if one.shape != whole[here].shape or not torch.allclose(one, whole[here], rtol=_SLACK, atol=_SLACK):
            raise DataError(
                f"{who} gives an item another result in a batch of its own; draw from its rng, and "
                "let no item depend on others"
            )
    return whole


def _again(rng: Rng) -> Rng:
    """A copy of the stream at the same draw."""
    return rng.take(slice(None))


def _bad(values: Tensor) -> int:
    return int((~torch.isfinite(values)).flatten(1).any(1).sum())


def with_storage(source: Source, change: Callable[[Tensor], Tensor]) -> Source | None:
    """The source with its stored tensors changed (`contract.Stored`). None if it shows none."""
    method = getattr(source, "with_storage", None)
    changed: Source | None = None if method is None else method(change)
    return changed


def reads_alone(*sources: Source) -> bool:
    """Whether one of these sources must not be read in another thread (`contract.Stored`)."""
    return any(getattr(source, "reads_alone", False) for source in sources)


def reading_waits(device: torch.device) -> bool:
    """Whether reading a number of a tensor on this device waits for the work of the device."""
    return device.type != "cpu"


def checked_x0(x0: Tensor, values: Tensor, index: Tensor, who: str) -> Tensor:
    """x0, after a check that the values computed from it are finite.

    On a CPU it raises DataError as `require_finite` does. On an accelerator this would wait for the device in each
    batch. There x0 becomes NaN for these items, so that no loss is finite.
    """
    if not (reading_waits(values.device) and x0.is_floating_point()):
        require_finite(values, index, who)
        return x0
    good = torch.isfinite(values).flatten(1).all(1)
    return torch.where(column(good, x0).bool(), x0, torch.nan)


def require_finite(values: Tensor, index: Tensor, who: str) -> Tensor:
    """Return `values`. Raises DataError with the numbers of items that have a value that is not finite."""
    good = torch.isfinite(values).flatten(1).all(1)
    if not good.all():
        named = ", ".join(map(str, index[~good.to(index.device)].tolist()[:5]))
        raise DataError(f"{who} gave values that are not finite for the items {named}; give finite ones")
    return values


def value_fingerprint(values: Tensor) -> str:
    """A fingerprint of computed values [N, ...]: inner products with eight fixed directions, in 3 decimals.

    The last bits of computed values depend on the machine, and so would their hash.
    """
    flat = values.detach().double().cpu().flatten()
    fixed = Rng(0, 8, "softmix.data.projections").normal((8, len(flat)), torch.float64)
    products = fixed @ flat / max(len(flat), 1) ** 0.5
    return ",".join(f"{value:.3f}" for value in (products + 0.0).tolist())


def text_fingerprint(*parts: Any) -> str:
    """A fingerprint of texts: 16 hex digits of their SHA-256."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:16]


def part_name(part: object) -> str:
    """The name of an object: its attribute `name`, or the name of the function or class."""
    own = getattr(part, "name", None)
    return own if isinstance(own, str) and own else str(getattr(part, "__name__", type(part).__name__))


def class_names(source: Source) -> tuple[str, ...]:
    """The names of the classes of a source; () if it has none."""
    return tuple(getattr(source, "classes", ()))
