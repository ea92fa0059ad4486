"""`Unpaired`: items of one source, each with an item of another source that is drawn at random."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cond import Cond
from ..rng import Rng
from .contract import Source
from .derived import class_names, condition_part, reads_alone, text_fingerprint, with_condition, with_part
from .report import DataError


class Unpaired:
    """x0 from `first`, and with it a random item of `second` as its condition, another one in each epoch. A `Source`.

    x0 and the other item are independent of each other. Conditions of `first`, such as labels, stay; those of `second`
    are not used. The random numbers of an item come from its rng, so that it does not depend on its batch.

    Raises DataError for an empty `second`, for tokens, and if the shapes do not fit.
    When to choose: to translate one data set to another by an `Interpolant`, without pairs. `Paired` has pairs.
    """

    def __init__(self, first: Source, second: Source):
        self.first, self.second = first, second
        self.name = f"{first.name} with random items of {second.name}"
        if not len(second):
            raise DataError(f"{self.name}: {second.name} has no items")
        if getattr(second, "vocabulary", 0):
            raise DataError(
                f"{self.name}: tokens cannot be a condition; bring them to real numbers [L, D], for a context"
            )
        self._part = condition_part(first.shape, second.shape, self.name)
        self.cond = with_condition(first.cond, self._part, second.shape, self.name)
        self.shape, self.is_image, self.classes = first.shape, first.is_image, class_names(first)
        self.fingerprint = text_fingerprint("unpaired", first.fingerprint, second.fingerprint)
        self.reads_alone = reads_alone(first, second)

    def __len__(self) -> int:
        return len(self.first)

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        """Return (x0 of `first`, its condition with a random item of `second`)."""
        x0, cond = self.first.batch(index, rng.child("first"))
        chosen = rng.child("partner").integers(len(self.second), (len(index),)).to(index.device, torch.int64)
        other, _ = self.second.batch(chosen, rng.child("second"))
        return x0, with_part(cond, self._part, other.to(x0.device))
