"""A residual MLP with Fourier features, for points in any dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..cond import UNCONDITIONED, CondError, CondSpec
from .attention import CrossAttention
from .base import Modulation, Net, SideInputs, State, at_least_one
from .embedding import Embedding, waves
from .kernels import modulated_silu


@dataclass(frozen=True)
class MLPSpec:
    """The settings of an `MLP`.

    width : neurons of a layer.
    depth : the number of residual blocks.
    frequencies : Fourier features per coordinate, at periods 8, 8/2, 8/3, ... in units of the data; 0 for none.
    """

    axes: ClassVar[str] = "D"
    width: int = 128
    depth: int = 4
    frequencies: int = 16

    def __post_init__(self) -> None:
        at_least_one(width=self.width, depth=self.depth)

    def build(self, channels: int, out_channels: int, cond: CondSpec = UNCONDITIONED) -> MLP:
        return MLP(self, channels, out_channels, cond)


class _Block(nn.Module):
    """h + W2 silu(scale * norm(W1 h) + shift), then attention of the point to the context, if there is one."""

    def __init__(self, width: int, context: int):
        super().__init__()
        self.first, self.norm = nn.Linear(width, width), nn.LayerNorm(width, elementwise_affine=False)
        self.second, self.modulation = nn.Linear(width, width), Modulation(width, width, 2)
        self.cross = CrossAttention(width, context) if context else None

    def forward(self, state: State, side: SideInputs) -> State:
        (h,) = state
        scale, shift = self.modulation.of(side)
        h = h + self.second(modulated_silu(self.first(h), self.norm, scale, shift))
        if self.cross is not None and side.context is not None:
            h = self.cross(h[:, None], side.context, side.mask)[:, 0]
        return (h,)


class MLP(Net):
    """x [B, D] -> [B, D_out]. A point has no image condition: give its numbers as `value`."""

    freqs: Tensor
    parts = ("label", "value", "context")

    def __init__(self, spec: MLPSpec, channels: int, out_channels: int, cond: CondSpec = UNCONDITIONED):
        super().__init__()
        if cond.image:
            raise CondError(f"an MLP was asked for with {cond}: points have no grid; give the numbers as value")
        self.width = self.embed_width = spec.width
        self.time = Embedding(spec.width, cond)
        self.register_buffer("freqs", torch.arange(1, spec.frequencies + 1) * (2 * math.pi / 8))
        self.enter = nn.Linear(channels * (1 + 2 * spec.frequencies), spec.width)
        self.body = nn.ModuleList(_Block(spec.width, cond.context) for _ in range(spec.depth))
        self.leave = nn.Linear(spec.width, out_channels)
        self.splits = {"all": 0, "decoder": spec.depth // 2, "head": max(spec.depth - 1, 0)}

    def stem(self, x: Tensor) -> State:
        return (self.enter(waves(x, self.freqs)),)

    def out(self, state: State, side: SideInputs, size: tuple[int, ...]) -> Tensor:
        leave: Tensor = self.leave(nn.functional.silu(state[0]))
        return leave
