"""A U-Net for images of any size and number of channels.

The stem folds `patch` x `patch` pixels into channels, so that the convolutions have fewer places with more channels
each. On a CPU the time is then spent in large matrix products and not in memory access.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from ..cond import PARTS, UNCONDITIONED, CondSpec
from .attention import Attention, CrossAttention, heads_for
from .base import Modulation, Net, SideInputs, State, at_least_one
from .embedding import Embedding, image_channels
from .kernels import modulated_silu, normed, normed_silu


@dataclass(frozen=True)
class UNetSpec:
    """The settings of a `UNet`.

    width : channels at the finest level.
    mults : the width of each level as a multiple of `width`; each level halves the side.
    depth : residual blocks for each level and direction.
    patch : the side of the square of pixels that the stem folds.
    attention : whether the coarsest level has self-attention.
    """

    axes: ClassVar[str] = "CHW"
    width: int = 64
    mults: tuple[int, ...] = (1, 2)
    depth: int = 2
    patch: int = 2
    attention: bool = True
    cites: ClassVar[tuple[str, ...]] = ("unet",)

    def __post_init__(self) -> None:
        at_least_one(width=self.width, depth=self.depth, patch=self.patch, levels=len(self.mults))
        at_least_one(**{f"mults[{k}]": mult for k, mult in enumerate(self.mults)})

    def build(self, channels: int, out_channels: int, cond: CondSpec = UNCONDITIONED) -> UNet:
        return UNet(self, channels, out_channels, cond)


def last(h: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H, W, C], a view."""
    return h.permute(0, 2, 3, 1)


def first(h: Tensor) -> Tensor:
    """[B, H, W, C] -> [B, C, H, W], a view."""
    return h.permute(0, 3, 1, 2)


def _doubled(h: Tensor, height: int, width: int) -> Tensor:
    """Nearest neighbour: each place of h [B, C, H, W] as 2 x 2 places, cropped to the given sides, by one copy.

    The channels stay last in memory, also those of the gradient.
    """
    batch, channels, high, wide = h.shape
    places = last(h)[:, :, None, :, None].expand(batch, high, 2, wide, 2, channels)
    return first(places.reshape(batch, 2 * high, 2 * wide, channels)[:, :height, :width])


def _folded(x: Tensor, patch: int) -> Tensor:
    """pixel_unshuffle by one copy, to channels last in memory: [B, C, p H, p W] -> [B, p p C, H, W]."""
    return first(rearrange(x, "b c (y p) (x q) -> b y x (c p q)", p=patch, q=patch).contiguous())


def _unfolded(h: Tensor, patch: int) -> Tensor:
    """pixel_shuffle by one copy, from channels last in memory: [B, p p C, H, W] -> [B, C, p H, p W]."""
    return rearrange(last(h), "b y x (c p q) -> b c (y p) (x q)", p=patch, q=patch)


class _Norm(nn.Module):
    """Normalises over the channels of each place.

    On a CPU it is many times faster than group norm, above all in bf16. For a state with its channels last, it is a
    layer norm over the last axis of a view, without a copy.
    """

    def __init__(self, width: int, affine: bool = True):
        super().__init__()
        self.inner = nn.LayerNorm(width, elementwise_affine=affine)

    def forward(self, h: Tensor) -> Tensor:
        return first(normed(last(h), self.inner))

    def silu(self, h: Tensor) -> Tensor:
        """silu(norm(h))."""
        return first(normed_silu(last(h), self.inner))

    def modulated_silu(self, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """silu(norm(h) * (1 + scale) + shift), for scale and shift [B, width]."""
        return first(modulated_silu(last(h), self.inner, scale, shift))


class _Res(nn.Module):
    """Two 3x3 convolutions, modulated between them, around a residual."""

    def __init__(self, before: int, after: int, embed_width: int):
        super().__init__()
        self.norm_1, self.conv_1 = _Norm(before), nn.Conv2d(before, after, 3, padding=1)
        self.norm_2, self.conv_2 = _Norm(after, affine=False), nn.Conv2d(after, after, 3, padding=1)
        self.modulation = Modulation(embed_width, after, 2)
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, h: Tensor, side: SideInputs) -> Tensor:
        scale, shift = self.modulation.of(side)
        inner = self.conv_1(self.norm_1.silu(h))
        inner = self.conv_2(self.norm_2.modulated_silu(inner, scale, shift))
        return self.skip(h) + inner


class _Residual(nn.Module):
    """The base of blocks with one residual block `res`."""

    res: _Res

    @property
    def modulation(self) -> Modulation:
        """The modulation of the block, for `Net.run`."""
        return self.res.modulation


class _SelfAttention(nn.Module):
    """Self-attention over the places of a level, heads of 32 channels."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.qkv, self.join = _Norm(width), nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        self.attention = Attention(heads_for(width))

    def forward(self, h: Tensor) -> Tensor:
        qkv = rearrange(self.qkv(self.norm(h)), "b c y x -> b (y x) c")
        mixed = self.attention(*qkv.chunk(3, dim=-1))
        joined: Tensor = self.join(rearrange(mixed, "b (y x) c -> b c y x", y=h.shape[-2]))
        return h + joined


class _Encode(_Residual):
    """A residual block that stores its output for the skip connection, after an optional halving of the side."""

    def __init__(self, before: int, after: int, embed_width: int, halve: bool):
        super().__init__()
        self.halve = nn.Conv2d(before, before, 3, stride=2, padding=1) if halve else nn.Identity()
        self.res = _Res(before, after, embed_width)

    def forward(self, state: State, side: SideInputs) -> State:
        h = self.res(self.halve(state[0]), side)
        return (h, h, *state[1:])


class _Middle(_Residual):
    """A residual block at the coarsest level, with optional self-attention, then attention to the context."""

    def __init__(self, width: int, embed_width: int, attention: bool, context: int):
        super().__init__()
        self.res = _Res(width, width, embed_width)
        self.attention = _SelfAttention(width) if attention else nn.Identity()
        self.cross = CrossAttention(width, context) if context else None

    def forward(self, state: State, side: SideInputs) -> State:
        h = self.attention(self.res(state[0], side))
        return (_attend_to_context(self.cross, h, side), *state[1:])


class _Decode(_Residual):
    """A residual block that takes a skip connection, after an optional doubling of the side.

    context : the width of the tokens to attend to, 0 for none.
    """

    def __init__(self, before: int, skip: int, after: int, embed_width: int, context: int):
        super().__init__()
        self.res = _Res(before + skip, after, embed_width)
        self.cross = CrossAttention(after, context) if context else None

    def forward(self, state: State, side: SideInputs) -> State:
        h, left, *rest = state
        if h.shape[-2:] != left.shape[-2:]:
            h = _doubled(h, left.shape[-2], left.shape[-1])
        h = self.res(torch.cat([h, left], dim=1), side)
        return (_attend_to_context(self.cross, h, side), *rest)


class _Head(_Residual):
    """The last residual block, on the finest level: a light head may modulate it alone."""

    def __init__(self, before: int, after: int, embed_width: int):
        super().__init__()
        self.res = _Res(before, after, embed_width)

    def forward(self, state: State, side: SideInputs) -> State:
        return (self.res(state[0], side),)


def _attend_to_context(cross: CrossAttention | None, h: Tensor, side: SideInputs) -> Tensor:
    """h after attention to the tokens of the context, if there are any."""
    if cross is None or side.context is None:
        return h
    tokens = cross(rearrange(h, "b c y x -> b (y x) c"), side.context, side.mask)
    return rearrange(tokens, "b (y x) c -> b c y x", y=h.shape[-2])


class UNet(Net):
    """x [B, C, H, W] -> [B, C_out, H, W]. Sides that `patch` does not divide are padded, and the output is cropped.

    The coarsest level attends to the context: the middle block and the decoder blocks of this level.
    """

    parts = PARTS

    def __init__(self, spec: UNetSpec, channels: int, out_channels: int, cond: CondSpec = UNCONDITIONED):
        super().__init__()
        self.patch, self.width, self.embed_width = spec.patch, spec.width, 4 * spec.width
        self.stride = spec.patch * 2 ** (len(spec.mults) - 1)
        self.time = Embedding(self.embed_width, cond)
        self.enter = nn.Conv2d((channels + image_channels(cond)) * spec.patch**2, spec.width, 3, padding=1)
        widths = [spec.width * mult for mult in spec.mults]
        self.body = nn.ModuleList()
        skips, before = [], spec.width
        for level, width in enumerate(widths):
            for i in range(spec.depth):
                self.body.append(_Encode(before, width, self.embed_width, halve=level > 0 and i == 0))
                skips.append(width)
                before = width
        self.body.append(_Middle(before, self.embed_width, spec.attention, cond.context))
        decoder = len(self.body)
        for up, width in enumerate(reversed(widths)):
            context = cond.context if up == 0 else 0
            for _ in range(spec.depth):
                self.body.append(_Decode(before, skips.pop(), width, self.embed_width, context))
                before = width
        self.body.append(_Head(before, spec.width, self.embed_width))
        self.splits = {"all": 0, "decoder": decoder, "head": len(self.body) - 1}
        self.norm = _Norm(spec.width)
        self.leave = nn.Conv2d(spec.width, out_channels * spec.patch**2, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def stem(self, x: Tensor) -> State:
        high, wide = (-x.shape[-2]) % self.patch, (-x.shape[-1]) % self.patch
        if high or wide:
            x = nn.functional.pad(x, (0, wide, 0, high), mode="replicate")
        return (self.enter(_folded(x, self.patch)),)

    def out(self, state: State, side: SideInputs, size: tuple[int, ...]) -> Tensor:
        return _unfolded(self.leave(self.norm.silu(state[0])), self.patch)[..., : size[0], : size[1]]
