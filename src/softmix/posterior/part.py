"""The law of a part of x0, from the law of the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..rng import Rng
from .ability import HasMean, HasVariance, Posterior
from .point import Point

Cut = Callable[[Tensor], Tensor]


def part_of(posterior: Posterior[Any], cut: Cut) -> Posterior:
    """The marginal law of cut(x0), for x0 from a posterior.

    cut : picks some elements of x0 [B, ...]. It is given draws [m, B, ...] too, and a variance with axes of size 1, so
        that it counts axes from the last.

    It has a mean or a variance if the whole has one. A density of the whole gives none of a part.
    """
    if isinstance(posterior, Point):
        return Point(cut(posterior.mean))
    if isinstance(posterior, HasVariance):
        return _WithVariance(posterior, cut)
    return (_WithMean if isinstance(posterior, HasMean) else PartOf)(posterior, cut)


class PartOf(Posterior):
    """The result of `part_of`, for a posterior that is no point."""

    def __init__(self, whole: Posterior[Any], cut: Cut):
        self._whole, self._cut = whole, cut

    def sample(self, rng: Rng) -> Tensor:
        return self._cut(self._whole.sample(rng))

    def draws(self, m: int, rng: Rng) -> Tensor:
        return self._cut(self._whole.draws(m, rng))

    def remedy(self, ability: type[Posterior[Any]]) -> str:
        return self._whole.remedy(ability)


class _WithMean(PartOf, HasMean):
    _whole: HasMean

    @property
    def mean(self) -> Tensor:
        return self._cut(self._whole.mean)


class _WithVariance(_WithMean, HasVariance):
    _whole: HasVariance

    @property
    def var(self) -> Tensor:
        return self._cut(self._whole.var)
