"""A Gaussian process in another basis, and the bases of cosines and of Haar."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cond import Cond
from ..precision import without_autocast
from .frame import Framed
from .gaussian import Gaussian


@dataclass(frozen=True, eq=False)
class InBasis(Framed):
    """y = T x with an orthogonal T: `base` adds noise to the coordinates of x in a basis.

    With one alpha and one sigma for all elements nothing changes, since white noise is white in every basis. With
    `PerElement` each frequency has a schedule of its own.

    base : the process of the coordinates.
    axes : an orthogonal matrix [n, n] for each of the last axes of x; its rows are the basis. For images [B, C, H, W]
        use (cosine(H), cosine(W)), for points [B, D] one matrix [D, D].

    Raises ValueError for a matrix that is not orthogonal.
    """

    base: Gaussian
    axes: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        if not self.axes:
            raise ValueError("a basis needs an orthogonal matrix for at least one axis of x, such as (cosine(n),)")
        for turn in self.axes:
            square = turn.ndim == 2 and turn.shape[0] == turn.shape[1]
            if (
                not square
                or float((turn @ turn.mT - torch.eye(len(turn), dtype=turn.dtype, device=turn.device)).abs().max())
                > 1e-4
            ):
                raise ValueError(
                    f"a basis is an orthogonal matrix [n, n] for each of the last axes of x; one of shape "
                    f"{list(turn.shape)} is not orthogonal: its rows must have length 1 and be at right angles, as in "
                    "`cosine(n)`"
                )

    def enter(self, x: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Tensor:
        return self._turned(x, [turn.mT for turn in self.axes])

    def leave(self, y: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Tensor:
        return self._turned(y, list(self.axes))

    def _turned(self, x: Tensor, turns: list[Tensor]) -> Tensor:
        sizes = tuple(len(turn) for turn in turns)
        if len(sizes) >= x.ndim or tuple(x.shape[-len(sizes) :]) != sizes:
            raise ValueError(
                f"a basis for axes of sizes {list(sizes)} was given, and the items have shape {list(x.shape[1:])}"
            )
        for axis, turn in zip(range(-len(turns), 0), turns, strict=True):
            # a state stays in its own precision
            with without_autocast(x.device):
                x = (x.movedim(axis, -1) @ turn.to(x)).movedim(-1, axis)
        return x


def cosine(n: int) -> Tensor:
    """The discrete cosine transform of type II as an orthogonal matrix, from low to high frequency; float64.

    Row k is sqrt(2 / n) cos(pi k (i + 1/2) / n); the first row is 1 / sqrt(n).
    """
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    rows = math.sqrt(2 / n) * (math.pi * k * (i + 0.5) / n).cos()
    return torch.cat([rows[:1] / math.sqrt(2), rows[1:]])


def haar(n: int, levels: int) -> Tensor:
    """The Haar transform of one axis as an orthogonal matrix, from coarse to fine; float64.

    Rows: n / 2^levels means of 2^levels neighbours, times sqrt(2^levels); then for each level from the coarsest on the
    differences of neighbouring means, (first - second) / sqrt(2) of those with length 1. `band_of` names the bands of
    images, for which `NonUniform` has a transform of both axes.

    n : the size of the axis, divisible by 2^levels.

    Raises ValueError for another size.
    """
    if levels < 0 or n < 1 or n % 2**levels:
        raise ValueError(f"{levels} Haar levels halve an axis {levels} times, and its size is {n}: take fewer levels")
    rows = torch.eye(n, dtype=torch.float64, device="cpu")
    for level in range(levels):
        first, second = rows[: n >> level].unflatten(0, (-1, 2)).unbind(1)
        rows = torch.cat([(first + second) / math.sqrt(2), (first - second) / math.sqrt(2), rows[n >> level :]])
    return rows
