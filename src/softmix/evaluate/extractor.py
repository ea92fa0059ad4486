"""What a feature extractor is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Features(ABC):
    """Images or points in, rows of float64 out. Two extractors of one name give the same features.

    name : what to print beside every number, as fashion-mnist-cnn-3f2a91; its end is the beginning of the
        SHA-256 of the weights.
    accuracy : share of held-out images that a classifier names rightly, or None for the others.
    """

    name: str
    accuracy: float | None = None

    @abstractmethod
    def __call__(self, x0: Tensor) -> Tensor:
        """Features [N, F] of x0 [N, ...], float64 on the CPU, without gradient."""

    def classify(self, x0: Tensor) -> Tensor | None:
        """Logits [N, K] in float64, or None if the extractor knows no classes."""
        return None


def need_images(x0: Tensor) -> Tensor:
    """x0 itself, or a ValueError unless it holds images in [-1, 1]."""
    if x0.ndim != 4 or x0.numel() == 0:
        raise ValueError(f"images must have shape [N, C, H, W] with N >= 1; the shape is {list(x0.shape)}")
    if not (x0.abs() <= 1.001).all():
        raise ValueError(
            f"images must be finite and in [-1, 1]; these run from {float(x0.min()):.4g} to {float(x0.max()):.4g}; "
            "clamp or rescale them first"
        )
    return x0
