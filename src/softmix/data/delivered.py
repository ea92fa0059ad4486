"""Sources that bring each batch from the host to an accelerator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ..cond import Cond
from ..rng import Rng
from .contract import Source
from .derived import with_storage
from .resident import rows


class _Other:
    """The facts of another source; a subclass has its own `batch`."""

    def __init__(self, source: Source):
        self.source = source
        self.name, self.fingerprint, self.shape = source.name, source.fingerprint, source.shape
        self.is_image, self.cond = source.is_image, source.cond

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        # classes, vocabulary, origin and other facts that some sources have
        if name == "source":
            raise AttributeError(name)
        return getattr(self.source, name)


class Delivered(_Other):
    """A source that is read on the host, with its batches on `device`. Each batch waits for the device.

    For sources that show no stored tensors, and for measurements and codecs that only work on the host.
    """

    def __init__(self, source: Source, device: torch.device):
        super().__init__(source)
        self.device = device

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        x0, cond = self.source.batch(index.cpu(), rng.to("cpu"))
        return x0.to(self.device), None if cond is None else cond.to(self.device)


class Gathered(_Other):
    """A source with stored tensors on the host. The rows of a batch are copied to `device`, and become items there.

    For data that are too large for the device. Each batch waits for the device.
    """

    def __init__(self, source: Source, device: torch.device):
        super().__init__(source)
        self.device = device

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        few = rows(self.source, index.cpu())
        there = None if few is None else with_storage(few, lambda tensor: tensor.to(self.device))
        if there is None:
            raise TypeError(f"{self.source.name} shows no stored tensors: take Delivered")
        return there.batch(torch.arange(len(index), device=self.device), rng)


class Read(_Other):
    """A batch that was read from a source, as a source itself: item k is the k-th item of the batch.

    x0, of_items : the batch: the items, and their condition or None.
    """

    def __init__(self, source: Source, x0: Tensor, of_items: Cond | None):
        super().__init__(source)
        self.x0, self.of_items = x0, of_items

    def __len__(self) -> int:
        return len(self.x0)

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        return self.x0[index], None if self.of_items is None else self.of_items.take(index)

    def with_storage(self, change: Callable[[Tensor], Tensor]) -> Read:
        return Read(self.source, change(self.x0), _changed(self.of_items, change))


def _changed(cond: Cond | None, change: Callable[[Tensor], Tensor]) -> Cond | None:
    if cond is None:
        return None
    parts = {field.name: getattr(cond, field.name) for field in fields(cond)}
    return Cond(**{name: change(part) for name, part in parts.items() if part is not None})
