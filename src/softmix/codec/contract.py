"""The contract of a codec."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Codec(Protocol):
    """A map from items x0 to latents and back. `softmix.data.Encoded` makes a source of latents with it.

    name        : for messages.
    fingerprint : equal for equal weights.
    scale       : (shift, factor) of latent = (code - shift) * factor, chosen for a standard deviation of about 1. None
        for latents that are not scaled: training on them has to measure it.
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def scale(self) -> tuple[Tensor, Tensor] | None: ...

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the latents of an item of this shape."""

    def encode(self, x0: Tensor) -> Tensor:
        """Latents [B, ...] of items [B, *shape]. The latent of an item does not depend on the other items."""

    def decode(self, latents: Tensor) -> Tensor:
        """Items of latents."""
