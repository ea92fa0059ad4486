"""Large images are averaged to a smaller size before a feature extractor sees them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data import Data
from .extractor import Features, need_images
from .matrix import slices

# Above this size an extractor takes time and memory for detail that it cannot use.
LARGEST = 64
BATCH = 256


def downsampled_size(height: int, width: int) -> tuple[int, int]:
    """Divide each side by the smallest integer that brings it to at most 64, and round up."""
    first, second = (-(-side // -(-side // LARGEST)) for side in (height, width))
    return first, second


def downsample(x0: Tensor) -> Tensor:
    """Average images [N, C, H, W] down to `downsampled_size`; images up to 64 x 64 stay the same."""
    size = downsampled_size(x0.shape[-2], x0.shape[-1])
    return x0 if size == tuple(x0.shape[-2:]) else F.adaptive_avg_pool2d(x0, size)


def downsampled_items(data: Data, index: Tensor) -> Tensor:
    """Downsample items of a data set batch by batch, so that the full-size images never all stand in memory."""
    return torch.cat([downsample(data.x0(index[part])) for part in slices(len(index), BATCH)])


class DownsampledFeatures(Features):
    """An extractor for large images: it downsamples them and calls an extractor that was fitted to the small ones.

    inner : the extractor of the small images.
    shape : (C, H, W) of the large images.
    """

    def __init__(self, inner: Features, shape: tuple[int, ...]):
        self.inner, self.shape, self.accuracy = inner, shape, inner.accuracy
        self.size = downsampled_size(*shape[1:])
        self.name = f"at-{self.size[0]}x{self.size[1]}-{inner.name}"

    def __call__(self, x0: Tensor) -> Tensor:
        return torch.cat([self.inner(part) for part in self._small(x0)])

    def classify(self, x0: Tensor) -> Tensor | None:
        parts = [logits for part in self._small(x0) if (logits := self.inner.classify(part)) is not None]
        return torch.cat(parts) if parts else None

    def _small(self, x0: Tensor) -> Iterator[Tensor]:
        if tuple(need_images(x0).shape[1:]) != self.shape:
            raise ValueError(
                f"{self.name} was fitted to images of shape {list(self.shape)}; these have shape {list(x0.shape[1:])}"
            )
        return (downsample(x0[part].cpu().float()) for part in slices(len(x0), BATCH))
