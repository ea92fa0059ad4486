"""A transformer for tokens, one of which may be a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..cond import UNCONDITIONED, CondSpec, Part
from .base import State, at_least_one
from .sequence import SequenceNet, SequenceSpec


@dataclass(frozen=True)
class TokenSpec:
    """The settings of a `TokenNet`.

    width : of the state at a place.
    depth : the number of blocks.
    heads : of attention. 0 for heads of 32 channels, or of the next larger size that divides the width.

    When to choose: for items [L] of tokens, with the process `Masked`. For numbers [L, D] take `SequenceSpec`.
    """

    axes: ClassVar[str] = "L"
    # for tokens, and no numbers
    tokens: ClassVar[bool] = True

    width: int = 128
    depth: int = 4
    heads: int = 0

    def __post_init__(self) -> None:
        at_least_one(width=self.width, depth=self.depth)

    def build(self, channels: int, out_channels: int, cond: CondSpec = UNCONDITIONED) -> TokenNet:
        """channels : the number of symbols K, without the mask."""
        return TokenNet(self, channels, out_channels, cond)


class TokenNet(SequenceNet):
    """Tokens [B, L], integers 0 .. K with the mask K, to numbers [B, L, D_out]: a `SequenceNet` of embeddings.

        h_l = E[x_l] + P [sin(l f), cos(l f)],   f = 10000^(-i / 32), i = 0 .. 31

    The blocks know distances by rotary positions. The second part tells them the place itself: without it a sequence of
    masks alone would have one answer at all places, and x_1 could have no law of its own.

    symbols : K.
    """

    parts: tuple[Part, ...] = ("label", "value", "context")

    def __init__(self, spec: TokenSpec, symbols: int, out_channels: int, cond: CondSpec = UNCONDITIONED):
        super().__init__(SequenceSpec(spec.width, spec.depth, spec.heads), 1, out_channels, cond)
        self.symbols = symbols
        self.enter = nn.Embedding(symbols + 1, spec.width)  # type: ignore[assignment]
        self.place = nn.Linear(2 * _WAVES, spec.width, bias=False)

    def stem(self, x: Tensor) -> State:
        features = place_features(x.shape[1], self.place.weight)
        return (self.enter(x) + self.place(features),)


_WAVES = 32


def place_features(places: int, like: Tensor) -> Tensor:
    """[sin(l f), cos(l f)] for the places l = 0, 1, ... and 32 frequencies, [places, 64].

    Source: Vaswani et al., "Attention is all you need", 2017, section 3.5.
    """
    freqs = 10000.0 ** (-torch.arange(_WAVES, device=like.device, dtype=torch.float32) / _WAVES)
    angles = torch.arange(places, device=like.device)[:, None] * freqs
    return torch.cat([angles.sin(), angles.cos()], 1).to(like.dtype)
