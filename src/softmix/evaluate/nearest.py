"""The nearest training image of each sample, and a measure of memorisation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..memory import in_batches
from .matrix import as_flat, at_least_one, need_finite, need_same_width


class Nearest(NamedTuple):
    """Distance [N] (float64) to the nearest training image, and the index of that image [N] (int64)."""

    distance: Tensor
    train_index: Tensor


class Memorisation(NamedTuple):
    """Distances of samples to the training set, relative to those of real images that were not trained on.

    generated : median distance of the samples to the nearest training image, root mean square in units of x0.
    held_out : the same for held-out real images.
    ratio : generated / held_out; below 1, samples are nearer to the training set than unseen data are.
    copied : share of samples as near as the nearest 1 % of unseen images: 0.01 by chance. If one sample in ten is a
        copy, this share shows it, and a median does not.
    """

    generated: float
    held_out: float
    ratio: float
    copied: float


def nearest(fake: Tensor, train: Tensor, chunk: int = 2048) -> Nearest:
    """Find the nearest training image by root mean square difference, sqrt(mean over values of (fake - train)^2).

    Parameters
    ----------
    fake, train : images [N, C, H, W] and [M, C, H, W] (or any items of equal width), N, M >= 1.
    chunk : images of each set compared at once: memory stays near 8 chunk (chunk + 2 C H W) bytes. It is halved if the
        memory is too small. The result depends on it in the last bit only.

    Distances are in units of x0: 2 is black against white, and a copy has distance exactly 0. If several images are
    equally near, one of them is returned.

    Raises ValueError for sets of different widths, an empty set, and values that are not finite.

    Pixel distance finds copies and near copies. It does not find shifted or mirrored copies.
    """
    fake, train = as_flat(fake, "the generated set"), as_flat(train, "the training set")
    need_same_width(fake, train, "the generated and the training set")

    def found(low: int, high: int) -> Nearest:
        part = _doubles(fake, low, high, "the generated set")
        index = _indices(part, train, chunk)
        # The ranking expands the square, which is fast but rounds; the distance is computed from differences.
        return Nearest((part - train[index].double()).square().mean(1).sqrt(), index)

    distance, index = zip(*in_batches(found, len(fake), at_least_one(chunk), "image"), strict=True)
    return Nearest(torch.cat(distance), torch.cat(index))


def memorisation(fake: Tensor, train: Tensor, held_out: Tensor, chunk: int = 2048) -> Memorisation:
    """Compare the median distance of generated images to the training set with that of unseen real images.

    Shapes and errors are those of `nearest`. Also raises ValueError if half of `held_out` are copies of training
    images, because their median distance is then 0. A ratio well above 1 means blur or images off the data; it is not
    a merit.

    Source: Meehan, Chaudhuri & Dasgupta, arXiv 2004.05675 (the comparison with unseen data), in its simplest form.
    """
    return memorisation_of(nearest(fake, train, chunk).distance, nearest(held_out, train, chunk).distance)


def memorisation_of(ours: Tensor, unseen: Tensor) -> Memorisation:
    """`memorisation` from the distances to the training set: those of generated images [N] and of unseen ones [M]."""
    generated, held_out = float(ours.quantile(0.5)), float(unseen.quantile(0.5))
    if held_out == 0:
        raise ValueError(
            "half of the held-out images are exact copies of training images, so they say nothing about memorising; "
            "give images that were not trained on"
        )
    copied = float((ours <= unseen.quantile(0.01)).double().mean())
    return Memorisation(generated, held_out, generated / held_out, copied)


def _doubles(x: Tensor, low: int, high: int, name: str) -> Tensor:
    # A whole training set in float64 may not fit into memory; a chunk fits.
    return need_finite(x[low:high].to(torch.float64), name, low)


def _indices(fake: Tensor, train: Tensor, chunk: int) -> Tensor:
    best = torch.full((len(fake),), torch.inf, dtype=torch.float64, device=fake.device)
    index = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)

    def compare(low: int, high: int) -> None:
        block = _doubles(train, low, high, "the training set")
        # |fake|^2 is the same for every training image, so the ranking does not need it.
        value, position = (block.square().sum(1) - 2 * fake @ block.T).min(1)
        nearer = value < best
        torch.where(nearer, value, best, out=best)
        torch.where(nearer, position + low, index, out=index)

    in_batches(compare, len(train), chunk, "image")
    return index
