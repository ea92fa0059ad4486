"""Combines two posteriors over the same x0, as guidance does."""

from __future__ import annotations

from typing import Any

from .ability import Combine, HasMean, Posterior, need
from .point import Point


def combined(first: Posterior[Any], second: Posterior[Any], combine: Combine, who: str) -> Posterior[Any]:
    """Combine two posteriors by a function of two estimates of x0.

    The first posterior decides what is combined: draws with the same latent, log-probabilities, or parts. For all other
    posteriors `combine` is applied to the two means, and the result is a `Point`.

    Raises TypeError, with the name `who`, if there are no means either.
    """
    whole = first.combined(second, combine)
    if whole is not None:
        return whole
    return Point(combine(need(first, HasMean, who).mean, need(second, HasMean, who).mean))
