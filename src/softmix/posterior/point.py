"""The room of posteriors: certainty. What a usual diffusion model believes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..rng import Rng
from .ability import HasMean


class Point(HasMean):
    """All belief at one x0, [B, ...]: the model knows where the mean lies and nothing of the spread.

    mean : the x0, or a function that computes it when it is first asked for.
    """

    def __init__(self, mean: Tensor | Callable[[], Tensor]):
        self._given = mean

    @property
    def mean(self) -> Tensor:
        if not isinstance(self._given, Tensor):
            self._given = self._given()
        return self._given

    def sample(self, rng: Rng) -> Tensor:
        return self.mean

    def draws(self, m: int, rng: Rng) -> Tensor:
        return self.mean.expand(m, *self.mean.shape)
