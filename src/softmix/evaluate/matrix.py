"""What every distance does first, turning what it was given into checked rows of numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def flat(x: Tensor, what: str, least: int = 1) -> Tensor:
    """`x` of shape [N, ...] as [N, F] on the CPU, its dtype kept; ValueError for fewer than `least` items."""
    if x.ndim < 2 or x[0:1].numel() == 0:
        raise ValueError(f"{what} must have shape [N, ...], with numbers in each item; its shape is {list(x.shape)}")
    if len(x) < least:
        raise ValueError(f"{what} holds {len(x)} items, and at least {least} are needed; give more")
    return x.detach().reshape(len(x), -1).cpu()


def rows(x: Tensor, what: str, least: int = 1) -> Tensor:
    """`x` of shape [N, ...] as a finite float64 matrix [N, F] on the CPU.

    ValueError for fewer than `least` items, and for a value that is not finite: one such item would
    turn a whole distance into NaN without saying which item it was.
    """
    return finite(flat(x, what, least).to(torch.float64), what)


def finite(matrix: Tensor, what: str, first: int = 0) -> Tensor:
    """The matrix itself, or a ValueError that names the first bad row; rows are numbered from `first`."""
    bad = ~matrix.isfinite().all(1)
    if bad.any():
        raise ValueError(
            f"item {first + int(bad.int().argmax())} of {what} has a value that is not finite, "
            f"as have {int(bad.sum())} of {len(bad)} items here; remove them first"
        )
    return matrix


def same_width(a: Tensor, b: Tensor, names: str) -> None:
    """ValueError unless both matrices have equally many columns."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{names} have {a.shape[1]} and {b.shape[1]} numbers per item; "
            "both must come from the same extractor or have the same shape per item"
        )


def spans(count: int, chunk: int) -> Iterator[slice]:
    """0 .. count-1 in slices of at most `chunk`."""
    if chunk < 1:
        raise ValueError(f"a chunk of {chunk} items was asked for; give at least 1")
    return (slice(start, min(start + chunk, count)) for start in range(0, count, chunk))


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances [N, M] between the rows of a [N, F] and b [M, F].

    Taken from the differences, not from |a|^2 + |b|^2 - 2ab: equal rows are then at exactly 0, and an
    entry does not depend on which chunk it was computed in.
    """
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
