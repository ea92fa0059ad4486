"""Volumes of smoothly deformed digits: each subject is a digit that turns, moves and grows from slice to slice."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from ..data import Data, Report, load
from ..data.store import make
from ..rng import Rng

NAME = "digits, deformed from slice to slice"


def deformed(images: Tensor, size: int, depth: int, rng: Rng) -> Tensor:
    """A volume of each image, [B, 1, depth, size, size] in [-1, 1]; black outside.

    images : [B, 1, H, W].
    rng : one stream for each image. Angle, shift, size and brightness are a cosine of z each, with a period of one to
        two volumes.
    """
    z = torch.arange(depth, device=images.device) / depth
    half, phase = 1 + rng.uniform((len(images), 5)), 2 * math.pi * rng.uniform((len(images), 5))
    wave = (2 * math.pi * z / half[..., None] + phase[..., None]).cos().to(images)
    angle, right, down, growth, light = wave.unbind(1)
    angle, growth = 0.5 * angle, 1 + 0.15 * growth
    cosine, sine = growth * angle.cos(), growth * angle.sin()
    rows = [torch.stack([cosine, -sine, 0.2 * right], -1), torch.stack([sine, cosine, 0.2 * down], -1)]
    places = affine_grid(torch.stack(rows, -2).flatten(0, 1), [len(images) * depth, 1, size, size], align_corners=False)
    # 0 is black while the image is moved
    moved = grid_sample((images + 1).repeat_interleave(depth, 0), places, align_corners=False)
    shade = 0.85 + 0.15 * light
    return (moved.reshape(len(images), 1, depth, size, size) * shade[:, None, :, None, None] - 1).clamp(-1, 1)


@lru_cache(maxsize=4)
def volumes(split: str, size: int, depth: int) -> Tensor:
    """All subjects of a split of the digits. No subject is in both splits."""
    images = load("digits", split=split).x0()
    return deformed(images, size, depth, Rng(0, len(images), f"phantoms, {split}"))


def slices(size: int, depth: int) -> Data:
    """The slices of the training subjects as images."""
    x0 = volumes("train", size, depth).movedim(2, 1).flatten(0, 1).contiguous()
    return make(NAME, x0, None, (), Report(read=len(x0)))
