"""Random horizontal flips, and random views of an image for self-supervised learning."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..cond import Cond
from ..rng import Rng
from ..shape import column


def mirrored(x0: Tensor, cond: Cond | None, rng: Rng) -> tuple[Tensor, Cond | None]:
    """Flip each image left to right with probability 1/2, together with its image condition.

    x0 : [B, C, H, W].
    cond : labels, values and context stay as they are.
    rng : serves B items.
    Returns (x0, cond). Raises ValueError for items that have no width.
    """
    if x0.ndim != 4:
        raise ValueError(f"images [B, C, H, W] can be mirrored; found the shape {list(x0.shape)}")
    flipped = rng.uniform((len(x0),)) < 0.5
    x0 = _flip(flipped, x0)
    if cond is None or cond.image is None:
        return x0, cond
    return x0, replace(cond, image=_flip(flipped, cond.image))


def random_view(x0: Tensor, rng: Rng) -> Tensor:
    """Another view of each image: moved, scaled, turned, with another contrast and brightness, a square erased, noisy.

    The shift is up to 10 % of a side, the scale from 0.8 to 1.2, the angle up to 10 degrees, the factor of contrast
    from 0.7 to 1.3, the change of brightness up to 0.2, the side of the erased square a third of the image, and the
    standard deviation of the noise up to 0.2. No view is mirrored, since writing has a direction.

    x0 : [B, C, H, W] in [-1, 1].
    rng : serves B items.
    Returns [B, C, H, W]. Values may lie beyond [-1, 1].
    """
    u = rng.uniform((len(x0), 9), x0.dtype).to(x0.device)
    spread = 2 * u - 1
    angle, scale = math.radians(10) * spread[:, 0], 1 + 0.2 * spread[:, 1]
    # affine_grid takes a map from the places of the result to those of the image
    cos, sin = angle.cos() / scale, angle.sin() / scale
    places = torch.stack([cos, -sin, 0.2 * spread[:, 2], sin, cos, 0.2 * spread[:, 3]], 1).reshape(-1, 2, 3)
    grid = nn.functional.affine_grid(places, list(x0.shape), align_corners=False)
    moved = nn.functional.grid_sample(x0, grid, padding_mode="border", align_corners=False)
    changed = moved * column(1 + 0.3 * spread[:, 4], x0) + column(0.2 * spread[:, 5], x0)
    erased = torch.where(_square(x0, u[:, 6], u[:, 7]), torch.zeros_like(x0), changed)
    return erased + column(0.2 * u[:, 8], x0) * rng.normal(x0.shape, x0.dtype).to(x0.device)


def _square(x: Tensor, row: Tensor, at: Tensor) -> Tensor:
    """Whether each pixel is in a square of a third of the image, booleans [B, 1, H, W].

    row, at : its centre, in [0, 1].
    """
    height, width = x.shape[-2:]
    rows = (torch.arange(height, device=x.device) + 0.5) / height
    columns = (torch.arange(width, device=x.device) + 0.5) / width
    inside = [(places - centre[:, None]).abs() < 1 / 6 for places, centre in ((rows, row), (columns, at))]
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def _flip(chosen: Tensor, x: Tensor) -> Tensor:
    return torch.where(column(chosen, x).bool(), x.flip(-1), x)
