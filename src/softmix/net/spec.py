"""The shapes of items that each net takes."""

from __future__ import annotations

from .dit import DiTSpec
from .mlp import MLPSpec
from .sequence import SequenceSpec
from .unet import UNetSpec

# by the axes of an item: C channels, D coordinates, H and W pixels, L places of a sequence
SPECS = (MLPSpec, UNetSpec, DiTSpec, SequenceSpec)
KINDS = {"D": "points [D]", "CHW": "images [C, H, W]", "LC": "sequences [L, D]", "L": "tokens [L]"}


def channels_of(spec: object, shape: tuple[int, ...]) -> tuple[int, int]:
    """The number of channels of an item of this shape, and their axis in the item, for the net of this specification.

    A specification lists the axes of its items by `axes`, a letter for each axis. Without `axes` the first axis holds
    the channels. Raises ValueError for items that the net cannot take.
    """
    axes = getattr(spec, "axes", None)
    asked = f"{type(spec).__name__} was asked for, for items of shape {tuple(shape)}"
    if not shape or min(shape) < 1:
        raise ValueError(f"{asked}: an item has at least one number")
    if axes is None:
        return shape[0], 0
    if len(axes) != len(shape):
        others = [each.__name__ for each in SPECS if len(each.axes) == len(shape)]
        use = f"use {' or '.join(others)}" if others else f"the nets are for {', '.join(KINDS.values())}: reshape them"
        raise ValueError(f"{asked}, and takes {KINDS.get(axes, f'items of {len(axes)} axes')}: {use}")
    at = next((k for k, letter in enumerate(axes) if letter in "CD"), 0)
    return shape[at], at
