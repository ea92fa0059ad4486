"""Large images are averaged to a smaller size before a feature extractor sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data import Data
from ..memory import in_batches
from .extractor import Features, need_images

# Above this size an extractor takes time and memory for detail that it cannot use.
LARGEST = 64
BATCH = 256
T = TypeVar("T")


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
    return torch.cat(in_batches(lambda low, high: downsample(data.x0(index[low:high])), len(index), BATCH, "image"))


class DownsampledFeatures(Features):
    """An extractor for large images: it downsamples them and calls an extractor that was fitted to the small ones.

    inner : the extractor of the small images.
    shape : (C, H, W) of the large images.
    """

    def __init__(self, inner: Features, shape: tuple[int, ...]):
        self.inner, self.shape, self.accuracy, self.trained_on = inner, shape, inner.accuracy, inner.trained_on
        self.size = downsampled_size(*shape[1:])
        self.name = f"at-{self.size[0]}x{self.size[1]}-{inner.name}"

    def __call__(self, x0: Tensor) -> Tensor:
        return torch.cat(self._each(x0, self.inner))

    def classify(self, x0: Tensor) -> Tensor | None:
        parts = [logits for logits in self._each(x0, self.inner.classify) if logits is not None]
        return torch.cat(parts) if parts else None

    def _each(self, x0: Tensor, measure: Callable[[Tensor], T]) -> list[T]:
        """The results of `measure` for batches of small images."""
        if tuple(need_images(x0).shape[1:]) != self.shape:
            raise ValueError(
                f"{self.name} was fitted to images of shape {list(self.shape)}; these have shape {list(x0.shape[1:])}"
            )
        return in_batches(lambda low, high: measure(downsample(x0[low:high].cpu().float())), len(x0), BATCH, "image")
