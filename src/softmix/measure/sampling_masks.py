"""Masks of frequencies and sensitivities of coils for magnetic resonance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..rng import Rng


def random_columns(width: int, acceleration: float, centre: float, rng: Rng) -> Tensor:
    """A mask of columns for each item of rng: the middle ones and random others, [B, 1, 1, W], 1 for a column seen.

    width : W. The zero frequency is at W // 2.
    acceleration : exactly round(W / acceleration) columns are seen, at least those of the middle.
    centre : the share of W that is fully seen in the middle; round(centre W) columns.
    rng : an rng of one item gives one mask for all items.

    Raises ValueError for an acceleration below 1, and a centre outside [0, 1].
    When to choose: as a benchmark; fastMRI has a centre of 0.08 at acceleration 4, and 0.04 at 8.
    Source: Zbontar et al., "fastMRI: an open dataset and benchmarks for accelerated MRI", 2018, section 4.
    """
    middle = _middle(width, acceleration, centre, rng.device)
    count = max(round(width / acceleration), int(middle.sum()))
    # the middle comes first in the order of a random number for each column
    order = (rng.uniform((len(rng), width)) - middle).argsort(1)
    mask = torch.zeros(len(rng), width, device=rng.device).scatter_(1, order[:, :count], 1)
    return mask[:, None, None]


def uniform_columns(width: int, acceleration: int, centre: float, offset: int = 0) -> Tensor:
    """A mask of every a-th column and of the middle ones, [1, 1, W], 1 for a column seen.

    width : W. The zero frequency is at W // 2.
    acceleration : a. With the middle, more than W / a columns are seen.
    centre : the share of W that is fully seen in the middle; round(centre W) columns.
    offset : of the columns W // 2 + offset + k a.

    Raises ValueError for an acceleration below 1, and a centre outside [0, 1].
    When to choose: scanners that take every a-th line; the aliases of an image are then a few sharp copies of it.
    """
    if acceleration != int(acceleration):
        raise ValueError(f"every a-th column was asked for, with a = {acceleration}; give a whole number")
    middle = _middle(width, acceleration, centre, torch.device("cpu"))
    place = torch.arange(width, device="cpu") - width // 2 - offset
    return torch.maximum((place % acceleration == 0).to(middle), middle)[None, None]


def radial_lines(size: tuple[int, int], count: int) -> Tensor:
    """A mask of the pixels next to `count` lines through the zero frequency, at even angles, [1, H, W].

    size : (H, W). The zero frequency is at [H // 2, W // 2].

    Raises ValueError for less than one line.
    When to choose: a simple stand-in for radial acquisition, on the grid of the transform.
    """
    if count < 1:
        raise ValueError(f"{count} lines were asked for; give at least 1")
    mask = torch.zeros(size, device="cpu")
    for number in range(count):
        angle = math.pi * number / count
        down, right = math.sin(angle), math.cos(angle)
        # one pixel for each step along the longer direction
        far = max(abs(down), abs(right))
        step = torch.arange(-max(size), max(size) + 1, device="cpu") / far
        row, column = (size[0] // 2 + (step * down).round()).long(), (size[1] // 2 + (step * right).round()).long()
        inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
        mask[row[inside], column[inside]] = 1
    return mask[None]


def coil_maps(count: int, size: tuple[int, int]) -> Tensor:
    """Smooth complex sensitivities of coils on a circle around the image, [count, H, W], complex128.

        S_j proportional to exp(-d_j^2 / 2) exp(i a_j)

    with d_j, the distance to coil j in units of the image's longer side, and a_j, the direction to it. The squares sum
    to 1 at each pixel.

    Raises ValueError for less than one coil.
    When to choose: to try `MultiCoilFourier` without a scanner; measured maps come from a calibration.
    """
    if count < 1:
        raise ValueError(f"{count} coils were asked for; give at least 1")
    across = [torch.arange(n, dtype=torch.float64, device="cpu") - (n - 1) / 2 for n in size]
    row, column = across[0][:, None] / max(size), across[1] / max(size)
    turn = 2 * math.pi * torch.arange(count, dtype=torch.float64, device="cpu")[:, None, None] / count
    down, right = turn.sin() * 0.75 - row, turn.cos() * 0.75 - column
    maps = torch.polar((-(down**2 + right**2) / 2).exp(), torch.atan2(down, right))
    return maps / maps.abs().square().sum(0).sqrt()


def _middle(width: int, acceleration: float, centre: float, device: torch.device) -> Tensor:
    """1 for the columns of the middle, [W]; an odd number of them is even about the zero frequency."""
    if not (acceleration >= 1 and 0 <= centre <= 1):
        raise ValueError(
            f"acceleration = {acceleration} and centre = {centre} were given; give an acceleration of 1 or more, and "
            "the share of the columns that is fully seen, from 0 to 1"
        )
    count = round(centre * width)
    place, start = torch.arange(width, device=device), width // 2 - count // 2
    return ((place >= start) & (place < start + count)).to(torch.get_default_dtype())
