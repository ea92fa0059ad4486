"""`Target`: a density without items, known up to its constant."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..cond import Cond, CondSpec
from ..rng import Rng
from .derived import part_name, text_fingerprint
from .origin import Origin
from .report import DataError

_POINTS = 16


class Target:
    """A distribution with a known log p(x) + constant that cannot be sampled directly. A `Source` of no items.

    shape : of one item.
    log_density : x [B, *shape] -> [B], in nats.
    name : by default the name of the function.
    origin : "target:NAME" for a target that softmix knows, so that a run finds it again.

    `batch` raises DataError: a run on a target learns from its own samples. The fingerprint is made of the name, and
    of the density at a few fixed points in four decimals.
    Raises DataError if the density at these points is NaN or +inf, or not one number for each.
    """

    is_image = False
    cond = CondSpec()

    def __init__(
        self,
        shape: tuple[int, ...],
        log_density: Callable[[Tensor], Tensor],
        name: str = "",
        origin: Origin | None = None,
    ):
        self.shape, self.log_density, self.origin = tuple(shape), log_density, origin
        self.name = name or f"target {part_name(log_density)}"
        if not self.shape or min(self.shape) < 1:
            raise DataError(f"{self.name}: items of shape {self.shape} were asked for; give sizes of 1 or more")
        with torch.no_grad():
            values = log_density(Rng(0, _POINTS, "softmix.data.target").normal((_POINTS, *self.shape), torch.float64))
        if not isinstance(values, Tensor) or values.shape != (_POINTS,):
            given = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise DataError(f"{self.name}: log_density gave {given} for {_POINTS} points; give one number for each")
        if bool((values.isnan() | (values == math.inf)).any()):
            raise DataError(f"{self.name}: log_density is not a number, or infinite, at a point drawn from N(0, 1)")
        shown = ",".join(f"{value:.5g}" for value in (values.double() + 0.0).tolist())
        self.fingerprint = text_fingerprint("target", self.name, self.shape, shown)

    def __len__(self) -> int:
        return 0

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        raise DataError(
            f"{len(index)} items of {self.name} were asked for, and a target density has none; train with a "
            "task that makes its own samples, or sample with the density's own sampler"
        )
