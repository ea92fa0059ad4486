"""The contract of a net, and what its blocks are told beside the state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal, overload

import torch
from torch import Tensor, nn

from ..cond import Cond, CondError, CondSpec, Part, as_cond
from .embedding import Embedding, with_given

State = tuple[Tensor, ...]
Where = Literal["all", "decoder", "head"]
Hidden = dict[int | str, Tensor]


@dataclass(frozen=True, eq=False)
class SideInputs:
    """What every block receives beside the state, made by `Net.side` anew for each call.

    emb : [B, E], the embedding of noise level, labels and real numbers.
    logsnr : [B].
    context, mask : tokens [B, 1 + L, D] to attend to and [B, 1 + L], False where there is none; None for a net without
        a context, and no mask where all are there.
    image : [B, C' + 1, *size], the image of the condition and where it is given; for `Net.start` alone.
    wanted : the numbers of the blocks whose states are kept in `hidden`.
    hidden : by number, the first tensor of the state as a block leaves it.
    extra : by name, what blocks put there for a loss, such as a balance of experts: side.put("balance", tensor).

    The two dictionaries are shared by all records that are made of one by `with_emb` and `repeat`.
    """

    emb: Tensor
    logsnr: Tensor
    context: Tensor | None = None
    mask: Tensor | None = None
    image: Tensor | None = None
    wanted: frozenset[int] = frozenset()
    hidden: dict[int, Tensor] = field(default_factory=dict)
    extra: dict[str, list[Tensor]] = field(default_factory=dict)

    def with_emb(self, emb: Tensor) -> SideInputs:
        return replace(self, emb=emb)

    def put(self, name: str, value: Tensor) -> None:
        """Leaves an output of a block beside the state."""
        self.extra.setdefault(name, []).append(value)

    def repeat(self, m: int) -> SideInputs:
        """For m draws of each item, draw by draw: [B, ...] -> [m B, ...]."""
        emb, logsnr = repeat((self.emb, self.logsnr), m)
        context, mask, image = (
            None if part is None else repeat((part,), m)[0] for part in (self.context, self.mask, self.image)
        )
        return replace(self, emb=emb, logsnr=logsnr, context=context, mask=mask, image=image)


class Net(nn.Module):
    """A stem, blocks and an output layer: x [B, C, ...] -> [B, C_out, ...].

    Attributes: `time`, the embedding; `body`, the list of blocks; `splits`, for each place where a latent
    may enter, the number of blocks that come before it; `width`, the channels of the state where it enters and leaves;
    `channel_axis`, of x: 1, or 2 for sequences [B, L, C]; `parts`, the parts of a condition that it can be built for:
    those that enter by `time`, unless a net says more
    """

    time: Embedding
    body: nn.ModuleList
    splits: dict[Where, int]
    width: int
    embed_width: int
    channel_axis: int = 1
    parts: tuple[Part, ...] = ("label", "value")

    @property
    def cond(self) -> CondSpec:
        """The conditions that the net was built for."""
        return self.time.cond

    def stem(self, x: Tensor) -> State:
        """The first layer: x, with the channels of an image condition after its own, to the state."""
        raise NotImplementedError

    def out(self, state: State, side: SideInputs, size: tuple[int, ...]) -> Tensor:
        """The last layer: the state to [B, C_out, *size]."""
        raise NotImplementedError

    def size(self, x: Tensor) -> tuple[int, ...]:
        """x's shape without items and channels."""
        return tuple(length for axis, length in enumerate(x.shape) if axis not in (0, self.channel_axis))

    def side(
        self, x: Tensor, logsnr: Tensor, cond: Cond | Tensor | None = None, hidden: Sequence[int | str] = ()
    ) -> SideInputs:
        """What the blocks are told beside x. Of x only the shape is used.

        cond : of each item, or of one for all; a tensor is one of labels. Raises CondError for a condition that the net
        was not built for, or of another number of items. hidden : see `forward`.
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
        """The stem, of x and the image of the condition if the net has one."""
        return self.stem(x if side.image is None else torch.cat([x, side.image], dim=self.channel_axis))

    def run(self, state: State, side: SideInputs, start: int, stop: int) -> State:
        """Blocks start .. stop - 1."""
        # a slice of a ModuleList would be a new module at every call
        for number, block in enumerate(islice(self.body, start, stop), start):
            state = block(state, side)
            if number in side.wanted:
                side.hidden[number] = state[0]
        return state

    def through(self, x: Tensor, side: SideInputs) -> Tensor:
        """The whole net, for what `side` has made."""
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
        """[B, C_out, ...]; with `hidden` also the hidden states of these blocks, by the names that were asked for.

        hidden : numbers of blocks, negative ones from the end, or their names "body.0", ... A hidden state is the first
        tensor of the state as the block leaves it, in the net's own layout; `places` gives [B, C, places] of any.
        Nothing is stored in the net: threads may run it at the same time. Raises ValueError for blocks that it has not.
        """
        side = self.side(x, logsnr, cond, hidden or ())
        out = self.through(x, side)
        return out if hidden is None else (out, {each: side.hidden[self._number(each)] for each in hidden})

    def _number(self, block: int | str) -> int:
        """The number of a block that is asked for."""
        name = block.removeprefix("body.") if isinstance(block, str) else str(block)
        number = int(name) if name.removeprefix("-").isdecimal() else len(self.body)
        if not -len(self.body) <= number < len(self.body):
            raise ValueError(f"block {block!r} was asked for; there are body.0 to body.{len(self.body) - 1}")
        return number % len(self.body)


class Modulation(nn.Module):
    """emb [B, E] -> `parts` tensors [B, width, 1, ...] or [B, 1, width], as the state needs them."""

    def __init__(self, embed_width: int, width: int, parts: int, gain: float = 0.5):
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(embed_width, parts * width)
        with torch.no_grad():
            self.linear.weight.mul_(gain)
            self.linear.bias.zero_()

    def forward(self, emb: Tensor) -> tuple[Tensor, ...]:
        return self.linear(nn.functional.silu(emb)).chunk(self.parts, dim=1)


def repeat(state: State, m: int) -> State:
    """Each tensor m times, draw by draw: [B, ...] -> [m B, ...]."""
    return tuple(x.expand(m, *x.shape).reshape(m * x.shape[0], *x.shape[1:]) for x in state)


def places(h: Tensor) -> Tensor:
    """The first tensor of a state as [B, C, places]: of an image's map, of tokens, or of a point (one place)."""
    return h[:, :, None] if h.ndim == 2 else h.transpose(1, 2) if h.ndim == 3 else h.flatten(2)


def at_least_one(**sizes: int) -> None:
    """Raises ValueError for a size of a net that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is at least 1; found {size}")
