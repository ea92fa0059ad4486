"""The room of posteriors: a batch of which some items are believed in one way and some in another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..rng import Rng
from .ability import HasMean, Posterior


class Parted(HasMean):
    """`parts`: pairs of (numbers of items [k], their posterior), which together hold every item once.

    A soft mixture that is a point at low noise answers so when a batch has both kinds of noise level; a loss
    may judge each part by its own rule. mean : computes the mean of the whole batch at once.
    """

    def __init__(self, parts: Sequence[tuple[Tensor, Posterior]], mean: Callable[[], Tensor]):
        self.parts = parts
        self._compute: Callable[[], Tensor] = mean
        self._mean: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        if self._mean is None:
            self._mean = self._compute()
        return self._mean

    def sample(self, rng: Rng) -> Tensor:
        return self.draws(1, rng)[0]

    def draws(self, m: int, rng: Rng) -> Tensor:
        """m draws for each item, [m, B, ...]; those of a point are all alike."""
        drawn = [posterior.draws(m, rng.take(items)) for items, posterior in self.parts]
        order = torch.cat([items for items, _ in self.parts]).argsort()
        return torch.cat(drawn, dim=1)[:, order]
