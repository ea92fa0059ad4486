"""A diffusion transformer on patches, for images of any size and number of channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from ..cond import PARTS, UNCONDITIONED, CondSpec
from .base import Net, SideInputs, State, at_least_one
from .embedding import Embedding, image_channels
from .kernels import normed
from .tokens import TokenBlock, checked_heads


@dataclass(frozen=True)
class DiTSpec:
    """The settings of a `DiT`.

    width : of a token.
    depth : the number of blocks.
    patch : the side of the square of pixels in a token.
    heads : of attention. 0 for heads of 32 channels, or of the next larger size that divides the width.

    Source: Peebles & Xie, "Scalable diffusion models with transformers", ICCV 2023.
    """

    axes: ClassVar[str] = "CHW"
    width: int = 192
    depth: int = 6
    patch: int = 4
    heads: int = 0
    cites: ClassVar[tuple[str, ...]] = ("dit",)

    def __post_init__(self) -> None:
        at_least_one(width=self.width, depth=self.depth, patch=self.patch)

    def build(self, channels: int, out_channels: int, cond: CondSpec = UNCONDITIONED) -> DiT:
        return DiT(self, channels, out_channels, cond)


def _positions(height: int, wide: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of row and column, [height * wide, width]. Computed for each size."""
    freqs = torch.exp(-math.log(1000.0) * torch.arange(width // 4, device=like.device) / (width // 4))
    phase = torch.arange(max(height, wide), device=like.device)[:, None] * freqs
    waves = torch.cat([phase.sin(), phase.cos()], -1).to(like.dtype)
    row = waves[:height, None].expand(height, wide, -1)
    column = waves[None, :wide].expand(height, wide, -1)
    return torch.cat([row, column], -1).flatten(0, 1)


class DiT(Net):
    """x [B, C, H, W] -> [B, C_out, H, W]. Sides that `patch` does not divide are padded, and the output is cropped.

    Every block attends to the context.
    """

    parts = PARTS

    def __init__(self, spec: DiTSpec, channels: int, out_channels: int, cond: CondSpec = UNCONDITIONED):
        super().__init__()
        if spec.width % 4:
            raise ValueError(f"a DiT of width {spec.width} was asked for; the width must be a multiple of 4")
        heads = checked_heads("a DiT", spec.width, spec.heads)
        self.patch, self.width, self.embed_width = spec.patch, spec.width, spec.width
        self.stride = spec.patch
        self.time = Embedding(self.embed_width, cond)
        self.enter = nn.Linear((channels + image_channels(cond)) * spec.patch**2, spec.width)
        self.body = nn.ModuleList(
            TokenBlock(spec.width, self.embed_width, heads, cond.context) for _ in range(spec.depth)
        )
        self.splits = {"all": 0, "decoder": spec.depth // 2, "head": max(spec.depth - 1, 0)}
        self.norm = nn.LayerNorm(spec.width, elementwise_affine=False)
        self.leave = nn.Linear(spec.width, out_channels * spec.patch**2)

    def stem(self, x: Tensor) -> State:
        high, wide = (-x.shape[-2]) % self.patch, (-x.shape[-1]) % self.patch
        if high or wide:
            x = nn.functional.pad(x, (0, wide, 0, high), mode="replicate")
        pixels = nn.functional.pixel_unshuffle(x, self.patch)
        tokens = self.enter(rearrange(pixels, "b c y x -> b (y x) c"))
        return (tokens + _positions(pixels.shape[-2], pixels.shape[-1], self.width, tokens),)

    def out(self, state: State, side: SideInputs, size: tuple[int, ...]) -> Tensor:
        tokens = self.leave(normed(state[0], self.norm))
        pixels = rearrange(tokens, "b (y x) c -> b c y x", y=-(-size[0] // self.patch))
        return nn.functional.pixel_shuffle(pixels, self.patch)[..., : size[0], : size[1]]
