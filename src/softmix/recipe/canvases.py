"""Canvases of two pictures side by side, with a label for each half: data with information in known places."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cond import Cond, CondSpec
from ..data import Data, DataError
from ..data.derived import text_fingerprint
from ..rng import Rng

LEFT, RIGHT, KIND = "left", "right", "kind"
# the values of the label `kind`
INDEPENDENT, COPY = 0, 1


class Canvases:
    """A picture of `data` on the left, and on the right a copy of it or another one that is drawn at random. A
    `Source`.

    The labels are the classes of the left and of the right picture, and the kind: 0 for an independent right picture,
    1 for a copy. Within the kind 0 the halves are independent, and so are their labels; within the kind 1 both labels
    say the same.

    data : images with labels.
    copies : the share of copies, in [0, 1].

    Raises DataError for data that are no images with labels, and for another share.
    """

    def __init__(self, data: Data, copies: float = 0.5):
        if not (data.is_image and data.cond.classes):
            raise DataError(f"{data.name} holds {data.kind}; canvases are made of images with labels")
        if not 0 <= copies <= 1:
            raise DataError(f"copies is a share from 0 to 1; found {copies}")
        channels, height, width = data.shape
        self.data, self.copies, self.classes = data, copies, data.classes
        self.name = f"canvases of {data.name}"
        self.shape, self.is_image = (channels, height, 2 * width), True
        self.cond = CondSpec(((LEFT, data.cond.classes), (RIGHT, data.cond.classes), (KIND, 2)))
        self.fingerprint = text_fingerprint("canvases", data.fingerprint, copies)

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond]:
        """Return (x0 [B, C, H, 2 W], the labels left, right and kind, [B, 3])."""
        assert self.data.labels is not None
        other = rng.child("other").integers(len(self.data), (len(index),)).to(index.device)
        copied = (rng.child("kind").uniform((len(index),)) < self.copies).to(index.device)
        other = torch.where(copied, index, other)
        labels = torch.stack([self.data.labels[index], self.data.labels[other], copied.long()], 1)
        return torch.cat([self.data.x0(index), self.data.x0(other)], 3), Cond(label=labels)
