"""One net of two streams: a net for each signal of a pair, which exchange by attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from ..cond import UNCONDITIONED, Cond, CondSpec
from .attention import CrossAttention
from .base import Net, SideInputs, State, places
from .dit import DiTSpec
from .kernels import normed
from .mlp import MLPSpec
from .sequence import SequenceSpec
from .unet import UNetSpec


@dataclass(frozen=True)
class TwoStreamsSpec:
    """The settings of a `TwoStreams`.

    net : the net of each stream.
    first : the channels of the first signal; 0 for half of the channels.
    exchange : "both", or one direction: "to first" lets the first stream read the second, "to second" the other way.
        "none" for two separate nets.

    When to choose: for `TwoClocks`. A DiT knows the place of each token, and suits signals on one grid.
    Source: Li et al., "A simple approach to unifying diffusion-based conditional generation", ICLR 2025.
    """

    net: MLPSpec | UNetSpec | DiTSpec | SequenceSpec = field(default_factory=DiTSpec)
    first: int = 0
    exchange: Literal["both", "to first", "to second", "none"] = "both"
    cites: ClassVar[tuple[str, ...]] = ("unicon",)

    def __post_init__(self) -> None:
        if self.first < 0:
            raise ValueError(f"the first signal has 1 channel or more, or 0 for half of all; found {self.first}")

    @property
    def axes(self) -> str:
        return self.net.axes

    def build(self, channels: int, out_channels: int, cond: CondSpec = UNCONDITIONED) -> TwoStreams:
        return TwoStreams(self, channels, out_channels, cond)


class TwoStreams(Net):
    """z = (x, y) [B, C_x + C_y, ...] -> the outputs of a net for x and of one for y, one after the other.

    After each block the streams exchange: h_x + W attention(h_x to norm(h_y)), and the same for y. W begins at 0, so
    that at first these are two separate nets. (The paper has one frozen net with adapters for both streams, and W mixes
    both results; here each stream has weights and a W of its own.) Each tensor of the state holds the channels of both
    streams, and so does the embedding: a latent of a soft mixture enters both, and its draws are draws of the pair.

    logsnr may have a column for each stream, [B, 2]. Both streams receive the condition.

    Raises ValueError for an output that is no whole multiple of the input: heads with numbers for the whole item, such
    as `MixtureHead` and `NormalHead("item")`, have no stream.
    """

    parts = ("label", "value")

    def __init__(self, spec: TwoStreamsSpec, channels: int, out_channels: int, cond: CondSpec = UNCONDITIONED):
        super().__init__()
        first = spec.first or channels // 2
        if not 0 < first < channels or (not spec.first and channels % 2):
            raise ValueError(
                f"two streams share {channels} channels, of which the first has {spec.first or 'half'}: give `first`, "
                "from 1 to one less than all"
            )
        if out_channels % channels:
            raise ValueError(
                f"two streams of {channels} channels were asked for {out_channels} outputs, and each stream has a "
                'whole multiple of its own: take PointHead, SoftHead or NormalHead("element")'
            )
        self.sizes = (first, channels - first)
        times = out_channels // channels
        self.streams = nn.ModuleList(spec.net.build(size, times * size, cond) for size in self.sizes)
        each = self._nets[0]
        self.body = nn.ModuleList(
            _PairOfBlocks(pair[0], pair[1], width, spec.exchange)
            for *pair, width in zip(*(net.body for net in self._nets), _widths(each, first, spec.axes), strict=True)
        )
        self.splits, self.channel_axis = each.splits, each.channel_axis
        self.width, self.embed_width = 2 * each.width, 2 * each.embed_width
        # the blocks stand in `body`
        for net in self._nets:
            net.body = nn.ModuleList()

    @property
    def _nets(self) -> tuple[Net, Net]:
        first, second = self.streams
        return cast(Net, first), cast(Net, second)

    @property
    def cond(self) -> CondSpec:
        return self._nets[0].cond

    def side(
        self, x: Tensor, logsnr: Tensor, cond: Cond | Tensor | None = None, hidden: Sequence[int | str] = ()
    ) -> SideInputs:
        """logsnr : [B], or [B, 2] for a level of each stream."""
        levels = (logsnr, logsnr) if logsnr.ndim == 1 else logsnr.unbind(1)
        embs = [
            net.side(part, level, cond).emb for net, part, level in zip(self._nets, self._split(x), levels, strict=True)
        ]
        return SideInputs(torch.cat(embs, 1), logsnr, wanted=frozenset(map(self._number, hidden)))

    def stem(self, x: Tensor) -> State:
        return _joined([net.stem(part) for net, part in zip(self._nets, self._split(x), strict=True)])

    def out(self, state: State, side: SideInputs, size: tuple[int, ...]) -> Tensor:
        axis, embs = self.channel_axis, side.emb.chunk(2, 1)
        outs = [
            net.out(own, side.with_emb(emb), size).unflatten(axis, (-1, channels))
            for net, own, emb, channels in zip(self._nets, _halves(state), embs, self.sizes, strict=True)
        ]
        return torch.cat(outs, axis + 1).flatten(axis, axis + 1)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(list(self.sizes), dim=self.channel_axis)


class _PairOfBlocks(nn.Module):
    """A block of each stream, and the exchange after them."""

    def __init__(self, first: nn.Module, second: nn.Module, width: int, exchange: str):
        super().__init__()
        self.first, self.second = first, second
        self.to_first = _Reads(width) if exchange in ("both", "to first") else None
        self.to_second = _Reads(width) if exchange in ("both", "to second") else None

    def forward(self, state: State, side: SideInputs) -> State:
        embs = side.emb.chunk(2, 1)
        (h, *rest), (k, *more) = (
            block(own, side.with_emb(emb))
            for block, own, emb in zip((self.first, self.second), _halves(state), embs, strict=True)
        )
        heard = h if self.to_first is None else self.to_first(h, k)
        other = k if self.to_second is None else self.to_second(k, h)
        return _joined([(heard, *rest), (other, *more)])


class _Reads(nn.Module):
    """h + W attention(h to norm(other)), W = 0 at first, for two states of one shape."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.cross = nn.LayerNorm(width), CrossAttention(width, width)
        nn.init.zeros_(self.cross.join.weight)
        nn.init.zeros_(self.cross.join.bias)

    def forward(self, h: Tensor, other: Tensor) -> Tensor:
        own, read = (places(each).transpose(1, 2) for each in (h, other))
        read = self.cross(own, normed(read, self.norm))
        return read if h.ndim == 3 else read.transpose(1, 2).reshape(h.shape)


def _axis(h: Tensor) -> int:
    """The axis of the channels in a tensor of a state: maps have them first, points and tokens last."""
    return 1 if h.ndim == 4 else -1


def _halves(state: State) -> tuple[State, State]:
    pairs = [h.chunk(2, _axis(h)) for h in state]
    return tuple(first for first, _ in pairs), tuple(second for _, second in pairs)


def _joined(states: Sequence[State]) -> State:
    return tuple(torch.cat(pair, _axis(pair[0])) for pair in zip(*states, strict=True))


def _widths(net: Net, channels: int, axes: str) -> list[int]:
    """The channels of the state after each block, from a run on zeros."""
    shape = {"D": (channels,), "LC": (4, channels), "CHW": (channels, 32, 32)}[axes]
    with torch.no_grad():
        x = next(net.parameters()).new_zeros(1, *shape)
        side = net.side(x, x.new_zeros(1), hidden=range(len(net.body)))
        net.run(net.start(x, side), side, 0, len(net.body))
    return [places(side.hidden[k]).shape[1] for k in range(len(net.body))]
