"""Large images made small by averages before a feature extractor sees them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data import Data
from .extractor import Features, need_images
from .matrix import spans

# From here on an extractor would see more detail than it can use, and take memory and time for it.
LARGEST = 64
BATCH = 256


def shrunk_size(height: int, width: int) -> tuple[int, int]:
    """Each side divided by the least whole number that brings it to 64 at most, and rounded up."""
    first, second = (-(-side // -(-side // LARGEST)) for side in (height, width))
    return first, second


def shrink(x0: Tensor) -> Tensor:
    """Images [N, C, H, W] at `shrunk_size`, each value the mean of those it stands for; up to 64 x 64 they stay."""
    size = shrunk_size(x0.shape[-2], x0.shape[-1])
    return x0 if size == tuple(x0.shape[-2:]) else F.adaptive_avg_pool2d(x0, size)


def shrunk_items(data: Data, index: Tensor) -> Tensor:
    """Items of a data set as `shrink` makes them, without all of them being in memory at their full size."""
    return torch.cat([shrink(data.x0(index[part])) for part in spans(len(index), BATCH)])


class Shrunk(Features):
    """An extractor fitted to what `shrink` makes of images of this shape; it is given the images themselves."""

    def __init__(self, inner: Features, shape: tuple[int, ...]):
        self.inner, self.shape, self.accuracy = inner, shape, inner.accuracy
        self.size = shrunk_size(*shape[1:])
        self.name = f"at-{self.size[0]}x{self.size[1]}-{inner.name}"

    def __call__(self, x0: Tensor) -> Tensor:
        return torch.cat([self.inner(part) for part in self._small(x0)])

    def classify(self, x0: Tensor) -> Tensor | None:
        found = [logits for part in self._small(x0) if (logits := self.inner.classify(part)) is not None]
        return torch.cat(found) if found else None

    def _small(self, x0: Tensor) -> Iterator[Tensor]:
        if tuple(need_images(x0).shape[1:]) != self.shape:
            raise ValueError(
                f"{self.name} was fitted to images of shape {list(self.shape)}; these have shape {list(x0.shape[1:])}"
            )
        return (shrink(x0[part].cpu().float()) for part in spans(len(x0), BATCH))
