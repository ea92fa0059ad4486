"""The room of networks: a diffusion transformer on patches (Peebles & Xie, "Scalable diffusion models
with transformers", ICCV 2023), for images of any size and number of channels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .base import Embedding, Modulation, Net, State, at_least_one, attend, heads_for


@dataclass(frozen=True)
class DiTSpec:
    """width : of a token. depth : blocks. patch : side of a token's pixels. heads : of 64 channels if 0."""

    width: int = 192
    depth: int = 6
    patch: int = 4
    heads: int = 0

    def __post_init__(self) -> None:
        at_least_one(width=self.width, depth=self.depth, patch=self.patch)

    def build(self, channels: int, out_channels: int, classes: int = 0) -> DiT:
        return DiT(self, channels, out_channels, classes)


class _Block(nn.Module):
    """h + W_out [attention(q, k, v), relu(u)] with [q, k, v, u] = W_in y, y = scale * norm(h) + shift.

    Attention and the two-layer MLP side by side (Dehghani et al. 2023): one norm, one modulation and two large
    matrix products a block, which is where a CPU is quick (and its exponentials are not: hence relu).
    """

    def __init__(self, width: int, embed_width: int, heads: int):
        super().__init__()
        self.width, self.heads = width, heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.enter, self.leave = nn.Linear(width, 7 * width), nn.Linear(5 * width, width)
        self.modulation = Modulation(embed_width, width, 2)

    def forward(self, state: State, emb: Tensor) -> State:
        (h,) = state
        batch, tokens, width = h.shape
        scale, shift = (part[:, None] for part in self.modulation(emb))
        qkv, u = self.enter(torch.addcmul(shift, self.norm(h), 1 + scale)).split([3 * width, 4 * width], dim=-1)
        q, k, v = qkv.reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = attend(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        return (h + self.leave(torch.cat([mixed, nn.functional.relu(u)], dim=-1)),)


def _positions(height: int, wide: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of row and column, [height * wide, width]; made anew for any size."""
    freqs = torch.exp(-math.log(1000.0) * torch.arange(width // 4, device=like.device) / (width // 4))
    rows = torch.arange(height, device=like.device)[:, None] * freqs
    columns = torch.arange(wide, device=like.device)[:, None] * freqs
    row = torch.cat([rows.sin(), rows.cos()], -1)[:, None].expand(height, wide, -1)
    column = torch.cat([columns.sin(), columns.cos()], -1)[None].expand(height, wide, -1)
    return torch.cat([row, column], -1).reshape(height * wide, -1).to(like.dtype)


class DiT(Net):
    """x [B, C, H, W] -> [B, C_out, H, W]; sides that `patch` does not divide are padded and cut again."""

    def __init__(self, spec: DiTSpec, channels: int, out_channels: int, classes: int = 0):
        super().__init__()
        if spec.width % 4:
            raise ValueError(f"a DiT of width {spec.width} was asked for; the width must be a multiple of 4")
        heads = spec.heads or heads_for(spec.width)
        if spec.width % heads:
            raise ValueError(
                f"{heads} heads were asked for in a DiT of width {spec.width}; give a number that divides it, or 0"
            )
        self.patch, self.width, self.embed_width = spec.patch, spec.width, spec.width
        self.time = Embedding(self.embed_width, classes)
        self.enter = nn.Linear(channels * spec.patch**2, spec.width)
        self.body = nn.ModuleList(_Block(spec.width, self.embed_width, heads) for _ in range(spec.depth))
        self.splits = {"all": 0, "decoder": spec.depth // 2, "head": max(spec.depth - 1, 0)}
        self.norm = nn.LayerNorm(spec.width, elementwise_affine=False)
        self.leave = nn.Linear(spec.width, out_channels * spec.patch**2)

    def stem(self, x: Tensor) -> State:
        high, wide = (-x.shape[-2]) % self.patch, (-x.shape[-1]) % self.patch
        if high or wide:
            x = nn.functional.pad(x, (0, wide, 0, high), mode="replicate")
        tokens = self.enter(nn.functional.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2))
        return (tokens + _positions(x.shape[-2] // self.patch, x.shape[-1] // self.patch, self.width, tokens),)

    def out(self, state: State, emb: Tensor, size: tuple[int, ...]) -> Tensor:
        tokens = self.leave(self.norm(state[0]))
        height, wide = -(-size[0] // self.patch), -(-size[1] // self.patch)
        grid = tokens.transpose(1, 2).reshape(len(tokens), -1, height, wide)
        return nn.functional.pixel_shuffle(grid, self.patch)[..., : size[0], : size[1]]
