"""Room `data`: the protocol of what a run learns from."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from softmix.cond import Cond, CondSpec
from softmix.rng import Rng


class Source(Protocol):
    """Items by number, and what is known of each."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def is_image(self) -> bool: ...

    @property
    def cond(self) -> CondSpec: ...

    def __len__(self) -> int: ...

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]: ...
