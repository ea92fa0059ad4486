"""The loss scale of half precision with five bits of exponent (fp16)."""

from __future__ import annotations

from dataclasses import dataclass

_FIRST, _LARGEST = 2.0**16, 2.0**24
# steps without an overflow before the scale doubles
_STEPS = 2000


@dataclass(frozen=True)
class LossScale:
    """A factor of the loss, so that small gradients do not become 0 in fp16. The gradient is divided by it again.

        scale(k) = base 2^floor((k - since) / 2000),  at most 2^24

    for the step after step k. An overflow at this step sets base = scale(k) / 2, at least 1, and since = k. The scale
    is a power of two, so that the two factors cancel exactly. It is a function of the step: no counter is stored.

    base : the scale after the last overflow.
    since : the step of the last overflow.

    Source: Micikevicius et al., "Mixed precision training", ICLR 2018, section 3.2.
    """

    base: float = _FIRST
    since: int = 0

    def at(self, step: int) -> float:
        """The scale of the step after `step`."""
        return min(self.base * 2.0 ** min((step - self.since) // _STEPS, 64), _LARGEST)

    def halved(self, step: int) -> LossScale | None:
        """The scale after an overflow in the step after `step`. None if it is 1, and cannot be halved."""
        now = self.at(step)
        return LossScale(now / 2, step) if now > 1 else None
