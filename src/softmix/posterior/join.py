"""What a rule makes of two beliefs in the same x0, as guidance does."""

from __future__ import annotations

from typing import Any

from .ability import HasMean, Join, Posterior, need
from .point import Point


def joined(first: Posterior[Any], second: Posterior[Any], join: Join, who: str) -> Posterior[Any]:
    """What both have in common to join, as the first says: draws with the same latent, log-probabilities, parts; of any
    others the means, as a `Point`. Raises TypeError, in the name of `who`, where there are none."""
    found = first.joined(second, join)
    if found is not None:
        return found
    return Point(join(need(first, HasMean, who).mean, need(second, HasMean, who).mean))
