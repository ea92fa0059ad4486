"""The training image nearest to each generated one, and whether that is too near."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .matrix import finite, flat, same_width, spans


class Nearest(NamedTuple):
    """Distance [N] (float64) to the nearest training image, and that image's number [N] (int64)."""

    distance: Tensor
    train_index: Tensor


class Memorisation(NamedTuple):
    """How near generated images lie to the training set, against real images that were not trained on.

    generated, held_out : median distance to the nearest training image, root mean square in units of x0.
    ratio : generated / held_out; below 1, samples are nearer to the training set than unseen data are.
    copied : share of samples as near as the nearest 1 % of unseen images: 0.01 by chance. Medians cannot
        see that one sample in ten is a copy; this does.
    """

    generated: float
    held_out: float
    ratio: float
    copied: float


def nearest(fake: Tensor, train: Tensor, chunk: int = 2048) -> Nearest:
    """The nearest training image by root mean square difference, sqrt(mean over values of (fake - train)^2).

    Parameters
    ----------
    fake, train : images [N, C, H, W] and [M, C, H, W] (or anything of equal width per item), N, M >= 1.
    chunk : how many images of each set are compared at once: memory stays near 8 chunk (chunk + 2 C H W)
        bytes. The result does not depend on it, but for the last bit.

    Distances are in units of x0, so 0 is a copy and 2 is black against white; a copy is at exactly 0. Of
    several equally near images, one is named. Raises ValueError for sets of different widths, an empty
    set, or values that are not finite.

    Pixel distance finds copies and near copies; it does not see a shifted or mirrored one.
    """
    fake, train = flat(fake, "the generated set"), flat(train, "the training set")
    same_width(fake, train, "the generated and the training set")
    parts = list(spans(len(fake), chunk))
    index = torch.cat([_indices(_doubles(fake, part, "the generated set"), train, chunk) for part in parts])
    # Ranking uses the quick expansion of the square, which is off by rounding; the distance does not.
    apart = (fake[part].double() - train[index[part]].double() for part in parts)
    return Nearest(torch.cat([difference.square().mean(1).sqrt() for difference in apart]), index)


def memorisation(fake: Tensor, train: Tensor, held_out: Tensor, chunk: int = 2048) -> Memorisation:
    """Median distance to the training set of generated images, against that of unseen real images.

    Shapes and errors are those of `nearest`; `held_out` must share no image with `train`, or the
    yardstick is 0 and a ValueError says so. A ratio well above 1 means blur or images off the data, not
    virtue. The comparison with unseen data follows Meehan, Chaudhuri & Dasgupta, arXiv 2004.05675, in the
    plainest form that can be read off a table.
    """
    return compared(nearest(fake, train, chunk).distance, nearest(held_out, train, chunk).distance)


def compared(ours: Tensor, unseen: Tensor) -> Memorisation:
    """`memorisation` from distances that are known already: of generated images [N] and of unseen ones [M]."""
    generated, yardstick = float(ours.quantile(0.5)), float(unseen.quantile(0.5))
    if yardstick == 0:
        raise ValueError(
            "half of the held-out images are exact copies of training images, so they say nothing about memorising; "
            "give images that were not trained on"
        )
    copied = float((ours <= unseen.quantile(0.01)).double().mean())
    return Memorisation(generated, yardstick, generated / yardstick, copied)


def _doubles(x: Tensor, part: slice, what: str) -> Tensor:
    # A whole training set in float64 may not fit in memory; a chunk does.
    return finite(x[part].to(torch.float64), what, part.start)


def _indices(fake: Tensor, train: Tensor, chunk: int) -> Tensor:
    best = torch.full((len(fake),), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(fake), dtype=torch.int64)
    for part in spans(len(train), chunk):
        block = _doubles(train, part, "the training set")
        # |fake|^2 is the same for every training image, so it can be left out of the ranking.
        score, place = (block.square().sum(1) - 2 * fake @ block.T).min(1)
        nearer = score < best
        best, index = torch.where(nearer, score, best), torch.where(nearer, place + part.start, index)
    return index
