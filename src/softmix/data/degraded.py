"""`Degraded`: items with a measurement of themselves as their condition, for restoration."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from ..cond import Cond
from ..rng import Rng
from .contract import Source
from .derived import (
    checked_x0,
    class_names,
    condition_part,
    part_name,
    probe_items,
    reads_alone,
    require_itemwise,
    text_fingerprint,
    value_fingerprint,
    with_condition,
    with_part,
    with_storage,
)
from .report import DataError


class Degraded:
    """x0 from `data`, and y = measurement(x0, rng) as its condition, computed for each batch. A `Source`.

    measurement : x0 [B, *shape], rng -> a float tensor with one item each: an image [B, C', *size] on the grid of x0
        (enlarge smaller ones), a value [B, K], or a context [B, L, D]. All randomness must come from rng, which
        serves B items, so that a measurement does not depend on the batch. Each epoch has new noise.

    The measurement is tried on a few items at construction. The fingerprint is `measurement.fingerprint` if it
    exists, else the results of this trial in three decimals.

    Raises DataError if the results have another form, are not finite, or depend on the batch.
    Choose `Paired` for measurements that an instrument made and that are stored.
    """

    def __init__(self, data: Source, measurement: Callable[[Tensor, Rng], Tensor]):
        self.data, self.measurement, self.reads_alone = data, measurement, reads_alone(data)
        name = part_name(measurement)
        self.name, who = f"{data.name}, measured by {name}", f"the measurement {name}"
        if not len(data):
            raise DataError(f"{data.name} has no items, of which {who} could be taken")
        index, rng = probe_items(data)
        x0, _ = data.batch(index, rng.child("x0"))
        y = require_itemwise(self._measured, x0, rng.child("measurement"), who)
        self._size = tuple(y.shape[1:])
        self._part = condition_part(data.shape, self._size, who)
        self.cond = with_condition(data.cond, self._part, self._size, who)
        self.shape, self.is_image, self.classes = data.shape, data.is_image, class_names(data)
        own = getattr(measurement, "fingerprint", None)
        content = own if isinstance(own, str) else value_fingerprint(y)
        self.fingerprint = text_fingerprint("measured", data.fingerprint, self._size, content)

    @torch.no_grad()
    def _measured(self, x0: Tensor, rng: Rng) -> Tensor:
        # A measurement may change its argument in place.
        return self.measurement(x0.clone(), rng)

    def __len__(self) -> int:
        return len(self.data)

    def with_storage(self, change: Callable[[Tensor], Tensor]) -> Degraded | None:
        """The same source with the stored tensors of `data` changed; None if it shows none."""
        data = with_storage(self.data, change)
        if data is None:
            return None
        result = copy.copy(self)
        result.data = data
        return result

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        """Return (x0, its condition with the measurement). They are on the device of `data`."""
        x0, cond = self.data.batch(index, rng.child("x0"))
        y = self._measured(x0, rng.child("measurement").to(x0.device))
        if tuple(y.shape) != (len(x0), *self._size):
            raise DataError(f"{self.name}: {list(y.shape)} was measured, and before {list(self._size)} of each item")
        x0 = checked_x0(x0, y, index, self.name)
        return x0, with_part(cond, self._part, y.to(x0.device, torch.float32))
