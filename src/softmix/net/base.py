"""The base class of nets, and the side inputs of their blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal, overload

import torch
from torch import Tensor, nn

from ..cond import Cond, CondError, CondSpec, Part, as_cond
from .embedding import Embedding, with_given
from .kernels import is_plain, joined, on_cpu

State = tuple[Tensor, ...]
Where = Literal["all", "decoder", "head"]
Hidden = dict[int | str, Tensor]


@dataclass(frozen=True, eq=False)
class SideInputs:
    """The inputs of every block beside the state. `Net.side` makes a new record for each call.

    emb : the embedding of noise level, labels and real numbers, [B, E].
    logsnr : [B].
    context : tokens to attend to, [B, 1 + L, D]; None for a net without a context.
    mask : [B, 1 + L], False for tokens to be ignored; None if all are used.
    image : the image of the condition and a channel that marks the given places, [B, C' + 1, *size], for `Net.start`
        only.
    wanted : the numbers of the blocks with states to be stored in `hidden`.
    hidden : by number, the first tensor of the state after a block.
    extra : by name, outputs of blocks for a loss, such as a balance of experts: side.put("balance", tensor).
    modulation : scale and shift of the block that runs, [B, parts * width], if `Net.run` has computed them for several
        blocks together. `Modulation.of` reads it.
    angles : of rotary positions, [places, d / 2], if the net has computed them for all blocks.

    Records made by `with_emb` and `repeat` share the two dictionaries.
    """

    emb: Tensor
    logsnr: Tensor
    context: Tensor | None = None
    mask: Tensor | None = None
    image: Tensor | None = None
    wanted: frozenset[int] = frozenset()
    hidden: dict[int, Tensor] = field(default_factory=dict)
    extra: dict[str, list[Tensor]] = field(default_factory=dict)
    modulation: Tensor | None = None
    angles: Tensor | None = None

    def with_emb(self, emb: Tensor) -> SideInputs:
        return replace(self, emb=emb)

    def put(self, name: str, value: Tensor) -> None:
        """Store an output of a block for a loss."""
        self.extra.setdefault(name, []).append(value)

    def repeat(self, m: int) -> SideInputs:
        """For m draws of each item, draw by draw: [B, ...] -> [m B, ...]."""
        emb, logsnr = repeat((self.emb, self.logsnr), m)
        context, mask, image = (
            None if part is None else repeat((part,), m)[0] for part in (self.context, self.mask, self.image)
        )
        return replace(self, emb=emb, logsnr=logsnr, context=context, mask=mask, image=image)

    def split(self, sizes: Sequence[int]) -> tuple[SideInputs, ...]:
        """For consecutive groups of items of these sizes: [B, ...] -> [size, ...] each."""
        names = [name for name in ("emb", "logsnr", "context", "mask", "image") if getattr(self, name) is not None]
        parts = zip(*(getattr(self, name).split(list(sizes)) for name in names), strict=True)
        return tuple(replace(self, **dict(zip(names, part, strict=True))) for part in parts)


class Net(nn.Module):
    """A stem, blocks and an output layer: x [B, C, ...] -> [B, C_out, ...].

    Attributes:

    time : the embedding.
    body : the list of blocks.
    splits : for each block at which a latent may enter, the number of blocks before it.
    width : the channels of the state at the first and last block.
    embed_width : the width of the embedding.
    channel_axis : of x: 1, or 2 for sequences [B, L, C].
    stride : the places of x that one place of the coarsest level covers, along an axis. The net takes other sides too,
        and works best on multiples of it, as in training.
    parts : the parts of a condition that the net supports. By default those that enter through `time`.
    """

    time: Embedding
    body: nn.ModuleList
    splits: dict[Where, int]
    width: int
    embed_width: int
    channel_axis: int = 1
    stride: int = 1
    parts: tuple[Part, ...] = ("label", "value")

    @property
    def cond(self) -> CondSpec:
        """The conditions of the net."""
        return self.time.cond

    def stem(self, x: Tensor) -> State:
        """The first layer: from x, with the channels of an image condition after its own, to the state."""
        raise NotImplementedError

    def out(self, state: State, side: SideInputs, size: tuple[int, ...]) -> Tensor:
        """The last layer: from the state to [B, C_out, *size]."""
        raise NotImplementedError

    def size(self, x: Tensor) -> tuple[int, ...]:
        """The shape of x without batch and channels."""
        return tuple(length for axis, length in enumerate(x.shape) if axis not in (0, self.channel_axis))

    def side(
        self, x: Tensor, logsnr: Tensor, cond: Cond | Tensor | None = None, hidden: Sequence[int | str] = ()
    ) -> SideInputs:
        """The side inputs of the blocks. Only the shape of x is used.

        cond : the condition of each item, or of one for all. A tensor is a tensor of labels.
        hidden : see `forward`.

        Raises CondError for a condition that the net does not support, or of another batch size.
        """
        time, spec, given = self.time, self.cond, self._given(x, cond)
        emb = time(logsnr, given)
        context, mask = (None, None) if time.context is None else time.context(given.context, given.mask, logsnr)
        image = with_given(given.image, x, spec.image, self.channel_axis) if spec.image else None
        return SideInputs(emb, logsnr, context, mask, image, frozenset(map(self._number, hidden)))

    def _given(self, x: Tensor, cond: Cond | Tensor | None) -> Cond:
        """The condition of each item, checked."""
        given = as_cond(cond)
        if given is None:
            return Cond()
        self.cond.check(given, self.size(x), self.channel_axis)
        if not given.parts or len(given) == len(x):
            return given
        if len(given) != 1:
            raise CondError(f"a condition of {len(given)} items was given for {len(x)}; give one row an item")
        return given.expand(len(x))

    def start(self, x: Tensor, side: SideInputs) -> State:
        """The stem, applied to x and the image of the condition if there is one."""
        return self.stem(x if side.image is None else torch.cat([x, side.image], dim=self.channel_axis))

    def run(self, state: State, side: SideInputs, start: int, stop: int) -> State:
        """Run blocks start .. stop - 1."""
        # a slice of a ModuleList would be a new module at every call
        blocks = list(islice(self.body, start, stop))
        together = _modulations(blocks, side.emb)
        for number, block in enumerate(blocks, start):
            state = block(state, replace(side, modulation=together[block]) if block in together else side)
            if number in side.wanted:
                side.hidden[number] = state[0]
        return state

    def state_shape(self, shape: Sequence[int], stop: int) -> torch.Size:
        """The shape of the first tensor of the state after `stop` blocks, for one item.

        shape : of the item.
        """
        with torch.no_grad():
            weight = next(self.parameters())
            x = weight.new_zeros(1, *shape)
            side = self.side(x, x.new_zeros(1))
            return self.run(self.start(x, side), side, 0, stop)[0].shape[1:]

    def through(self, x: Tensor, side: SideInputs) -> Tensor:
        """The whole net, for given side inputs."""
        return self.out(self.run(self.start(x, side), side, 0, len(self.body)), side, self.size(x))

    @overload
    def forward(self, x: Tensor, logsnr: Tensor, cond: Cond | Tensor | None = None, hidden: None = None) -> Tensor: ...
    @overload
    def forward(
        self, x: Tensor, logsnr: Tensor, cond: Cond | Tensor | None = None, *, hidden: Sequence[int | str]
    ) -> tuple[Tensor, Hidden]: ...

    def forward(
        self,
        x: Tensor,
        logsnr: Tensor,
        cond: Cond | Tensor | None = None,
        hidden: Sequence[int | str] | None = None,
    ) -> Tensor | tuple[Tensor, Hidden]:
        """The output [B, C_out, ...]; with `hidden` also the hidden states of these blocks, by the given names.

        hidden : numbers of blocks, negative ones from the end, or their names "body.0", ... A hidden state is the first
            tensor of the state after the block, in the layout of the net. `places` turns any into [B, C, places].

        The net stores nothing, so that several threads may run it at the same time. Raises ValueError for unknown
        blocks.
        """
        side = self.side(x, logsnr, cond, hidden or ())
        out = self.through(x, side)
        return out if hidden is None else (out, {each: side.hidden[self._number(each)] for each in hidden})

    def _number(self, block: int | str) -> int:
        """The number of a block by its number or name."""
        name = block.removeprefix("body.") if isinstance(block, str) else str(block)
        number = int(name) if name.removeprefix("-").isdecimal() else len(self.body)
        if not -len(self.body) <= number < len(self.body):
            raise ValueError(f"block {block!r} was asked for; there are body.0 to body.{len(self.body) - 1}")
        return number % len(self.body)


class Modulation(nn.Module):
    """emb [B, E] -> `parts` tensors [B, width], for a scale and a shift of each channel."""

    def __init__(self, embed_width: int, width: int, parts: int, gain: float = 0.5):
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(embed_width, parts * width)
        with torch.no_grad():
            self.linear.weight.mul_(gain)
            self.linear.bias.zero_()

    def forward(self, emb: Tensor) -> tuple[Tensor, ...]:
        return self.linear(nn.functional.silu(emb)).chunk(self.parts, dim=1)

    def of(self, side: SideInputs) -> tuple[Tensor, ...]:
        """The parts for a block: those that `Net.run` has computed, or else those of the embedding."""
        return self(side.emb) if side.modulation is None else side.modulation.chunk(self.parts, dim=1)


def _modulations(blocks: Sequence[nn.Module], emb: Tensor) -> dict[nn.Module, Tensor]:
    """The modulations of blocks by one matrix product, for the blocks that have a plain `modulation`.

    Empty on a CPU. There a product of its own for each block is as fast, and copies no weights.
    """
    if on_cpu(emb):
        return {}
    # a loop: torch.compile breaks the graph at an assignment inside a comprehension
    layers: dict[nn.Module, nn.Linear] = {}
    for block in blocks:
        layer = _plain_modulation(block)
        if layer is not None:
            layers[block] = layer
    if len(layers) < 2:
        return {}
    return dict(zip(layers, joined(list(layers.values()), nn.functional.silu(emb)), strict=True))


def _plain_modulation(block: nn.Module) -> nn.Linear | None:
    """The linear layer of the modulation of a block, if both are as softmix made them."""
    modulation = getattr(block, "modulation", None)
    return modulation.linear if type(modulation) is Modulation and is_plain(modulation.linear) else None


def repeat(state: State, m: int) -> State:
    """Each tensor m times, draw by draw: [B, ...] -> [m B, ...]. A tensor with its channels last keeps this layout."""
    return tuple(_repeated(x, m) for x in state)


def _repeated(x: Tensor, m: int) -> Tensor:
    # `reshape` of channels last would copy to channels first, and every convolution would then copy it back
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    h = x.permute(0, 2, 3, 1) if last else x
    h = h.expand(m, *h.shape).reshape(m * h.shape[0], *h.shape[1:])
    return h.permute(0, 3, 1, 2) if last else h


def places(h: Tensor) -> Tensor:
    """The first tensor of a state as [B, C, places], from the map of an image, tokens, or a point (one place)."""
    return h[:, :, None] if h.ndim == 2 else h.transpose(1, 2) if h.ndim == 3 else h.flatten(2)


def at_least_one(**sizes: int) -> None:
    """Raises ValueError for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is at least 1; found {size}")
