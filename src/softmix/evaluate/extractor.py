"""The interface of feature extractors."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Features(ABC):
    """A feature extractor: it maps images or points to rows of float64.

    Two extractors with the same name give the same features.

    name : printed beside every number, for example fashion-mnist-cnn-3f2a91. It ends with the first digits of the
        SHA-256 of the weights.
    accuracy : share of held-out images that a classifier labels correctly; None for other extractors.
    trained_on : the device that trained a classifier, such as "cpu"; "" for other extractors, and if it is not known.
    """

    name: str
    accuracy: float | None = None
    trained_on: str = ""

    @abstractmethod
    def __call__(self, x0: Tensor) -> Tensor:
        """Features [N, F] of x0 [N, ...], float64 on the CPU, without gradient."""

    def classify(self, x0: Tensor) -> Tensor | None:
        """Logits [N, K] in float64, or None if the extractor is not a classifier."""
        return None


def need_images(x0: Tensor) -> Tensor:
    """Return x0, or raise ValueError unless it holds images in [-1, 1]."""
    if x0.ndim != 4 or x0.numel() == 0:
        raise ValueError(f"images must have shape [N, C, H, W] with N >= 1; the shape is {list(x0.shape)}")
    if not (x0.abs() <= 1.001).all():
        raise ValueError(
            f"images must be finite and in [-1, 1]; these range from {float(x0.min()):.4g} to {float(x0.max()):.4g}; "
            "clamp or rescale them first"
        )
    return x0
