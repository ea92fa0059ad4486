"""`Paired`: items of one source, with those of another source as their condition."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ..cond import Cond
from ..rng import Rng
from .contract import Source
from .derived import (
    class_names,
    condition_part,
    reads_alone,
    text_fingerprint,
    with_condition,
    with_part,
    with_storage,
)
from .origin import Origin
from .report import DataError, Report
from .storage import MEMORY, Storage
from .store import Data, divided


class Paired:
    """x0 from `first`, and the items of `second` with the same numbers as its condition. A `Source`, for image-to-
    image models.

    The items of `second` become a part of the condition: images and volumes of the same size the image, points [K] the
    value, sequences [L, D] the context. Conditions of `first`, such as labels, stay; those of `second` are not used.
    `load(a, beside=b)` pairs the pictures of two folders by file name.

    report : the items that were left out. By default it says that these are pairs by number.
    origin : the call of `load` that gave the pairs.
    Raises DataError if the numbers of items differ, if the shapes do not fit, or if `first` has such a condition
    already.
    """

    def __init__(self, first: Source, second: Source, report: Report | None = None, origin: Origin | None = None):
        self.first, self.second, self.origin = first, second, origin
        self.name = f"{first.name} with {second.name}"
        if len(first) != len(second):
            raise DataError(f"{self.name}: there are {len(first)} items and {len(second)}; each needs one partner")
        if getattr(second, "vocabulary", 0):
            raise DataError(
                f"{self.name}: tokens cannot be a condition; bring them to real numbers [L, D], for a context"
            )
        self._part = condition_part(first.shape, second.shape, self.name)
        self.cond = with_condition(first.cond, self._part, second.shape, self.name)
        self.shape, self.is_image, self.classes = first.shape, first.is_image, class_names(first)
        self.fingerprint = text_fingerprint("pairs", first.fingerprint, second.fingerprint)
        self.report = report or self._by_number()
        self.reads_alone = reads_alone(first, second)

    def _by_number(self) -> Report:
        notes = [f"pairs of {self.first.name} and {self.second.name}, by their numbers"]
        if self.second.cond.parts:
            notes.append(f"not used: {self.second.cond} of {self.second.name}")
        return Report(len(self), notes=tuple(notes))

    def __len__(self) -> int:
        return len(self.first)

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        """Return (x0 of `first`, its condition with the items of `second`)."""
        x0, cond = self.first.batch(index, rng.child("first"))
        other, _ = self.second.batch(index, rng.child("second"))
        return x0, with_part(cond, self._part, other.to(x0.device))

    def with_storage(self, change: Callable[[Tensor], Tensor]) -> Paired | None:
        """The same pairs with the stored tensors of both sources changed; None if one shows none."""
        first, second = with_storage(self.first, change), with_storage(self.second, change)
        if first is None or second is None:
            return None
        result = copy.copy(self)
        result.first, result.second = first, second
        return result

    def take(self, index: Tensor, note: str, storage: Storage = MEMORY) -> Paired:
        """The pairs at `index` (int64 [M]). Raises DataError if one source is not a `Data`."""
        if not (isinstance(self.first, Data) and isinstance(self.second, Data)):
            raise DataError(f"{self.name}: a part of it was asked for; take the part of both sources, then pair them")
        report = replace(self.report, read=len(index), notes=(*self.report.notes, note))
        return Paired(self.first.take(index, note, storage), self.second.take(index, note, storage), report)

    def split(self, held_out: float, seed: int) -> tuple[Paired, Paired]:
        """Return (training part, held-out part) as `Data.split` of `first` does. Partners stay together."""
        labels = getattr(self.first, "labels", None)
        train, out = divided(self.name, labels, len(self), held_out, seed)
        return self.take(*train), self.take(*out)


def clean_items(source: Data | Paired) -> Data:
    """The clean items of pairs; data stay as they are. Raises DataError for pairs whose first source is no `Data`."""
    first = source.first if isinstance(source, Paired) else source
    if not isinstance(first, Data):
        raise DataError(f"{source.name}: its clean items are asked for, and {first.name} does not show them as a whole")
    return first
