"""The other item of a pair, which a condition brings to a process."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..cond import Cond, CondError, CondSpec


def other_item(cond: Any, who: str) -> Tensor:
    """The image of the condition, or its value for items of one axis, [B, ...].

    who : the process, for the error.

    Raises ValueError for a condition with neither.
    """
    other = (cond.image if cond.image is not None else cond.value) if isinstance(cond, Cond) else None
    if other is None:
        raise ValueError(
            f"{who} leads to the other item of a pair, and the condition has neither an image nor a value: give pairs, "
            "such as Cond(image=x_in)"
        )
    return other


def require_pair(cond: CondSpec, shape: tuple[int, ...], name: str, who: str) -> None:
    """Raises CondError for data without another item of the shape of x0: an image, or numbers for items of one axis.

    name : of the data.
    who : the process.
    """
    offered = cond.values if len(shape) == 1 else cond.image
    wanted = shape[-1] if len(shape) == 2 else shape[0]
    if offered != wanted:
        kind = "numbers" if len(shape) == 1 else "channels of an image"
        raise CondError(
            f"{who} leads from x0 to the other item of a pair, with {wanted} {kind} as x0 has, and {name} has "
            f"{offered or 'no'} of them: give pairs, as in `load(clean, beside=degraded)`, "
            "`Degraded(data, measurement)` or `softmix train CLEAN --pairs DEGRADED`"
        )
