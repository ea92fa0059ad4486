"""A transformer for sequences of any length, channels last."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from ..cond import PARTS, UNCONDITIONED, CondSpec
from .attention import angles_of
from .base import Net, SideInputs, State, at_least_one
from .embedding import Embedding, image_channels
from .kernels import normed
from .tokens import TokenBlock, checked_heads


@dataclass(frozen=True)
class SequenceSpec:
    """The settings of a `SequenceNet`.

    width : of the state at a place.
    depth : the number of blocks.
    heads : of attention. 0 for heads of 32 channels, or of the next larger size that divides the width.

    When to choose: for items [L, D] with an order: time series, motion, embeddings of text. For images, and for items
    without an order, choose another net.
    """

    axes: ClassVar[str] = "LC"

    width: int = 128
    depth: int = 4
    heads: int = 0

    def __post_init__(self) -> None:
        at_least_one(width=self.width, depth=self.depth)

    def build(self, channels: int, out_channels: int, cond: CondSpec = UNCONDITIONED) -> SequenceNet:
        return SequenceNet(self, channels, out_channels, cond)


class SequenceNet(Net):
    """x [B, L, D] -> [B, L, D_out], for any L. An image condition is a sequence of the same length, [B, L, C'].

    The blocks are those of `DiT`, with a token for each place and rotary positions (Su et al. 2021). Attention between
    two places depends on their distance and not on the length of the sequence.
    """

    channel_axis = 2
    parts = PARTS

    def __init__(self, spec: SequenceSpec, channels: int, out_channels: int, cond: CondSpec = UNCONDITIONED):
        super().__init__()
        heads = checked_heads("a sequence net", spec.width, spec.heads)
        if spec.width // heads % 2:
            raise ValueError(
                f"{heads} heads of {spec.width // heads} channels were asked for in a sequence net; rotary positions "
                "turn pairs of channels: give a width that is a multiple of twice the heads"
            )
        self.width, self.embed_width, self.heads = spec.width, spec.width, heads
        self.time = Embedding(self.embed_width, cond)
        self.enter = nn.Linear(channels + image_channels(cond), spec.width)
        self.body = nn.ModuleList(
            TokenBlock(spec.width, self.embed_width, heads, cond.context, rotary=True) for _ in range(spec.depth)
        )
        self.splits = {"all": 0, "decoder": spec.depth // 2, "head": max(spec.depth - 1, 0)}
        self.norm = nn.LayerNorm(spec.width, elementwise_affine=False)
        self.leave = nn.Linear(spec.width, out_channels)

    def stem(self, x: Tensor) -> State:
        return (self.enter(x),)

    def run(self, state: State, side: SideInputs, start: int, stop: int) -> State:
        """Run blocks start .. stop - 1. The angles of the positions are computed once."""
        angles = angles_of(state[0].shape[1], self.width // self.heads, state[0])
        return super().run(state, replace(side, angles=angles), start, stop)

    def out(self, state: State, side: SideInputs, size: tuple[int, ...]) -> Tensor:
        leave: Tensor = self.leave(normed(state[0], self.norm))
        return leave
