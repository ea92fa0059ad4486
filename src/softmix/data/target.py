"""A target density, known up to its constant, of which there are no items."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..cond import Cond, CondSpec
from ..rng import Rng
from .derived import part_name, text_fingerprint
from .report import DataError

_POINTS = 16


class Target:
    """A law that can be evaluated and not drawn from: log p(x) + constant. A `Source` of no items.

    shape : of one item. log_density : x [B, *shape] -> [B], in nats. name : by default that of the function.

    `batch` refuses: a run on a target learns from what it draws itself. Its fingerprint is that of the density at a few
    fixed points, in four decimals, and of its name.
    Raises DataError if the density is not one finite number or -inf for each of these points.
    """

    is_image = False
    cond = CondSpec()

    def __init__(self, shape: tuple[int, ...], log_density: Callable[[Tensor], Tensor], name: str = ""):
        self.shape, self.log_density = tuple(shape), log_density
        self.name = name or f"target {part_name(log_density)}"
        if not self.shape or min(self.shape) < 1:
            raise DataError(f"{self.name}: items of shape {self.shape} were asked for; give sizes of 1 or more")
        with torch.no_grad():
            found = log_density(Rng(0, _POINTS, "softmix.data.target").normal((_POINTS, *self.shape)))
        if not isinstance(found, Tensor) or found.shape != (_POINTS,):
            said = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise DataError(f"{self.name}: log_density gave {said} for {_POINTS} points; give one number for each")
        if bool((found.isnan() | (found == math.inf)).any()):
            raise DataError(f"{self.name}: log_density is not a number, or infinite, at a point drawn from N(0, 1)")
        values = ",".join(f"{value:.4f}" for value in (found.double() + 0.0).tolist())
        self.fingerprint = text_fingerprint("target", self.name, self.shape, values)

    def __len__(self) -> int:
        return 0

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        raise DataError(
            f"{len(index)} items of {self.name} were asked for, and a target density has none; train by a task that "
            "draws its own, or sample with the density's own sampler"
        )
