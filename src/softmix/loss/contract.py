"""The room of losses: the contract."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..posterior import Posterior
from ..process import Noised
from ..rng import Rng


class Loss(Protocol):
    """A scoring rule. `proper`: strictly proper for a posterior that is only drawn from."""

    @property
    def proper(self) -> bool: ...

    def __call__(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        """One number per item, [B], to be made small."""
        ...
