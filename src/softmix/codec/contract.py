"""The contract of a codec."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Codec(Protocol):
    """Items x0 to latents and back. `softmix.data.Encoded` makes a source of the latents of another source.

    name : for sentences. fingerprint : equal for equal weights.
    scale : (shift, factor) that latents are brought to a standard deviation of about 1 by; None if they come as they
        are, and whoever trains on them has to measure it.
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
        """Latents [B, ...] of items [B, *shape]; those of an item do not depend on the others."""

    def decode(self, latents: Tensor) -> Tensor:
        """Items of latents."""
