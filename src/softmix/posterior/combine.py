"""What a rule makes of two beliefs in the same x0, as guidance does."""

from __future__ import annotations

from typing import Any

from .ability import Combine, HasMean, Posterior, need
from .point import Point


def combined(first: Posterior[Any], second: Posterior[Any], combine: Combine, who: str) -> Posterior[Any]:
    """What both have in common to join, as the first says: draws with the same latent, log-probabilities, parts; of any
    others the means, as a `Point`. Raises TypeError, in the name of `who`, where there are none."""
    found = first.combined(second, combine)
    if found is not None:
        return found
    return Point(combine(need(first, HasMean, who).mean, need(second, HasMean, who).mean))
