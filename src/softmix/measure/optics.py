"""Blurs, smaller images, parts of images and grey images, as linear operators with a closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..shape import cell_shares
from .linear import Channels, Separable, image_shape


def blur(sd: float, shape: Sequence[int]) -> Separable:
    """A Gaussian blur with a standard deviation in pixels; at the border the weights are divided by their sum.

    shape : (C, H, W) of an item.
    """
    if not sd > 0:
        raise ValueError(f"a blur with sd = {sd} was asked for; give one above 0")
    channels, *sizes = image_shape(shape)

    def weights(size: int) -> Tensor:
        place = torch.arange(size, dtype=torch.float64, device="cpu")
        found = (-((place[:, None] - place) ** 2) / (2 * sd**2)).exp()
        return found / found.sum(1, keepdim=True)

    return Separable(weights(sizes[0]), weights(sizes[1]), channels)


def smaller(factor: int, shape: Sequence[int]) -> Separable:
    """The means of cells of factor x factor pixels, the measurement of super-resolution.

    shape : (C, H, W) of an item. If a size is not divisible, cells have about that many pixels, as in adaptive pooling.
    Raises ValueError for a factor below 2, or above a size.
    """
    channels, *sizes = image_shape(shape)
    if not 2 <= factor <= min(sizes):
        raise ValueError(f"cells of {factor} pixels were asked for, in images of {sizes}; give 2 to {min(sizes)}")
    rows, columns = (cell_shares(size, round(size / factor), torch.device("cpu"), torch.float64) for size in sizes)
    return Separable(rows, columns, channels)


def crop(top: int, left: int, height: int, width: int, shape: Sequence[int]) -> Separable:
    """A part of an image. shape : (C, H, W) of an item. Raises ValueError for a part that is not inside."""
    channels, *sizes = image_shape(shape)
    if not (0 <= top < top + height <= sizes[0] and 0 <= left < left + width <= sizes[1]):
        raise ValueError(f"the part {top}:{top + height}, {left}:{left + width} is not inside an image of {sizes}")
    rows, columns = (torch.eye(size, dtype=torch.float64, device="cpu") for size in sizes)
    return Separable(rows[top : top + height], columns[left : left + width], channels)


def grey(shape: Sequence[int]) -> Channels:
    """Brightness of red, green and blue, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), [3, H, W] -> [1, H, W]."""
    channels, height, width = image_shape(shape)
    if channels != 3:
        raise ValueError(f"grey is made of 3 channels, and items {list(shape)} have {channels}")
    return Channels(torch.tensor([[0.299, 0.587, 0.114]], dtype=torch.float64, device="cpu"), (height, width))
