"""Random streams for several parts of each item."""

from __future__ import annotations

from ..rng import Rng


def streams_of_parts(rng: Rng, count: int, role: str, parts_first: bool = False) -> Rng:
    """A stream for each of `count` parts of each of B items: B count streams, in the order (item, part).

    parts_first : the order (part, item).

    The streams of an item depend on its own stream alone. Each call takes the next draw of `rng`.
    """
    numbers = rng.bits((len(rng), count))
    return Rng(0, (numbers.T if parts_first else numbers).flatten(), role, rng.device)
