"""The posterior over a finite data set."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor

from ..precision import without_autocast
from ..rng import Rng
from .ability import HasDensity, HasVariance
from .mixture import draw_index


class Empirical(HasVariance):
    """x0 is one of N known items, with weights of its own for each item of the batch.

    log_weights : [B, N], need not be normalised.
    points : the known items, [N, ...].

    This is the exact optimum of denoising on that data set. A model that equals it has memorised the data.
    When to choose: as the exact answer for a finite data set.
    """

    remedies = MappingProxyType(
        {
            HasDensity: "Points without a width have no density. Take a Mixture with the points as its means and a "
            "variance of your choice, or the exact denoiser of a law that has a density."
        }
    )

    def __init__(self, log_weights: Tensor, points: Tensor):
        self._log_weights, self._points = log_weights.log_softmax(1), points

    @property
    def log_weights(self) -> Tensor:
        return self._log_weights

    def _average(self, values: Tensor) -> Tensor:
        # autocast would round the average of data
        with without_autocast(values.device):
            return (self._log_weights.exp() @ values.flatten(1)).reshape(-1, *values.shape[1:])

    @property
    def mean(self) -> Tensor:
        return self._average(self._points)

    @property
    def var(self) -> Tensor:
        return (self._average(self._points**2) - self.mean**2).clamp(min=0)

    def sample(self, rng: Rng) -> Tensor:
        return torch.index_select(self._points, 0, draw_index(self._log_weights, rng)[:, 0])
