"""The room of networks: a residual MLP with Fourier features, for points in any dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .base import Embedding, Modulation, Net, State, at_least_one


@dataclass(frozen=True)
class MLPSpec:
    """width : neurons. depth : residual blocks. frequencies : Fourier features per coordinate, at periods
    8, 8/2, 8/3, ... of the data's unit; 0 for none."""

    width: int = 128
    depth: int = 4
    frequencies: int = 16

    def __post_init__(self) -> None:
        at_least_one(width=self.width, depth=self.depth)

    def build(self, channels: int, out_channels: int, classes: int = 0) -> MLP:
        return MLP(self, channels, out_channels, classes)


class _Block(nn.Module):
    """h + W2 silu(scale * norm(W1 h) + shift)."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.norm = nn.Linear(width, width), nn.LayerNorm(width, elementwise_affine=False)
        self.second, self.modulation = nn.Linear(width, width), Modulation(width, width, 2)

    def forward(self, state: State, emb: Tensor) -> State:
        (h,) = state
        scale, shift = self.modulation(emb)
        return (h + self.second(nn.functional.silu(self.norm(self.first(h)) * (1 + scale) + shift)),)


class MLP(Net):
    """x [B, D] -> [B, D_out]."""

    freqs: Tensor

    def __init__(self, spec: MLPSpec, channels: int, out_channels: int, classes: int = 0):
        super().__init__()
        self.width = self.embed_width = spec.width
        self.time = Embedding(spec.width, classes)
        self.register_buffer("freqs", torch.arange(1, spec.frequencies + 1) * (2 * math.pi / 8))
        self.enter = nn.Linear(channels * (1 + 2 * spec.frequencies), spec.width)
        self.body = nn.ModuleList(_Block(spec.width) for _ in range(spec.depth))
        self.leave = nn.Linear(spec.width, out_channels)
        self.splits = {"all": 0, "decoder": spec.depth // 2, "head": max(spec.depth - 1, 0)}

    def stem(self, x: Tensor) -> State:
        phase = (x[..., None] * self.freqs).flatten(1)
        return (self.enter(torch.cat([x, phase.sin(), phase.cos()], dim=1)),)

    def out(self, state: State, emb: Tensor, size: tuple[int, ...]) -> Tensor:
        leave: Tensor = self.leave(nn.functional.silu(state[0]))
        return leave
