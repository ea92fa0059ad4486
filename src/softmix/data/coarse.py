"""`Coarse`: smaller images, for the networks of a multi-scale model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..cond import Cond
from ..rng import Rng
from .contract import Source
from .derived import class_names, reads_alone, text_fingerprint, with_storage
from .report import DataError


class Coarse:
    """The images of `data`, each the mean of its squares of 2^levels x 2^levels pixels. A `Source`.

    It is the coarse Haar band divided by 2^levels, so that values stay in [-1, 1]. An image in the condition becomes
    smaller in the same way; other conditions stay.

    levels : the number of times that the images are halved.

    Raises DataError for items that are no images, and for a side that 2^levels does not divide.
    Choose `load(..., size=)` for images of any smaller size, rounded to 8 bits.
    """

    def __init__(self, data: Source, levels: int):
        if not data.is_image or len(data.shape) != 3:
            raise DataError(f"{data.name} holds items of shape {data.shape}; only images have a coarse form")
        channels, *sides = data.shape
        if levels < 0 or any(side % 2**levels for side in sides):
            raise DataError(
                f"{data.name}: the images are {' x '.join(map(str, sides))}, and cannot be halved {levels} times; take "
                "fewer levels, or load them in another size"
            )
        self.data, self.side, self.reads_alone = data, 2**levels, reads_alone(data)
        self.name = f"{data.name}, {self.side} x {self.side} pixels in one"
        self.shape = (channels, *(side // self.side for side in sides))
        self.is_image, self.cond, self.classes = True, data.cond, class_names(data)
        self.fingerprint = text_fingerprint("coarse", data.fingerprint, levels)

    def __len__(self) -> int:
        return len(self.data)

    def with_storage(self, change: Callable[[Tensor], Tensor]) -> Coarse | None:
        """The same source with the stored tensors of `data` changed; None if it shows none."""
        data = with_storage(self.data, change)
        if data is None:
            return None
        result = copy.copy(self)
        result.data = data
        return result

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        """Return (x0, its condition), on the device of `data`."""
        x0, cond = self.data.batch(index, rng)
        if cond is not None and cond.image is not None:
            cond = replace(cond, image=avg_pool2d(cond.image, self.side))
        return avg_pool2d(x0, self.side), cond
