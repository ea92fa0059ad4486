"""The protocol of a source: anything that a run can learn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..cond import Cond, CondSpec
from ..rng import Rng


@runtime_checkable
class Source(Protocol):
    """Items x0, each with its condition.

    name : a name for messages.
    fingerprint : a hash of the content. A run compares it to see that it continues on the same data.
    shape : of one item. (C, H, W) of images, (D,) of points, (L, D) of sequences, (C, D, H, W) of volumes, (L,) or
        (H, W) of tokens.
    is_image : whether the items are pictures [C, H, W] in [-1, 1]. Such items can be shown and mirrored.
    cond : the conditions that every batch has.
    len() : the number of items. A `Target` has 0.
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def is_image(self) -> bool: ...
    @property
    def cond(self) -> CondSpec: ...

    def __len__(self) -> int: ...

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        """Return (x0, condition) for some items.

        index : the numbers of the items, int64 [B].
        rng : serves B items and is not advanced. Every random value is a function of it, item by item, so that a batch
            of k equals k batches of one.
        Returns x0 [B, *shape], float32, or int64 for tokens; and the condition, or None if there is none.
        """


@runtime_checkable
class Stored(Source, Protocol):
    """A source that shows its stored tensors. Training on an accelerator then keeps them on the device.

    Without this method a source works too: each batch is read on the host, and copied. A source may also have the
    attribute `reads_alone`: if it is True, its batches are never read in another thread, because its items draw from
    the global generators of torch, numpy or random.
    """

    def with_storage(self, change: Callable[[Tensor], Tensor]) -> Source | None:
        """The same source with `change` applied to each stored tensor [N, ...], always in the same order.

        `change` moves a tensor to a device, or takes some of its rows. With these, `batch` makes the same items on the
        device of the tensors, and item k is row k. Returns None if a part of the source shows no tensors.
        """
