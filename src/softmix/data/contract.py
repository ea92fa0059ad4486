"""The contract of a source, that is, of anything that a run can learn from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from ..cond import Cond, CondSpec
from ..rng import Rng


@runtime_checkable
class Source(Protocol):
    """Items x0, each with what a denoiser may be told of it.

    name : for sentences. fingerprint : equal for equal content, so that a run knows whether it goes on with the same.
    shape : of one item: (C, H, W) of images, (D,) of points, (L, D) of sequences, (C, D, H, W) of volumes, (L,) or
        (H, W) of tokens.
    is_image : whether the items are pictures [C, H, W] in [-1, 1], which can be shown, and mirrored.
    cond : the conditions that every batch has.
    len() : the number of items; 0 of a source that has none (`Target`).
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
        """(x0 [B, *shape], float32, or int64 of tokens; its condition, None if there is none).

        index : int64 [B], the numbers of the items. rng : serves B items, and is not advanced; whatever is random is a
        function of it, item by item, so that a batch of k is k batches of one.
        """
