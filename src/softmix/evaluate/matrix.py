"""Check the input of a distance and turn it into a matrix of numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def as_flat(x: Tensor, name: str, least: int = 1) -> Tensor:
    """Reshape x [N, ...] to [N, F] on the CPU, with the same dtype. Raises ValueError for fewer than `least` items."""
    if x.ndim < 2 or x[0:1].numel() == 0:
        raise ValueError(f"{name} must have shape [N, ...], with numbers in each item; its shape is {list(x.shape)}")
    if len(x) < least:
        raise ValueError(f"{name} holds {len(x)} items, and at least {least} are needed; give more")
    return x.detach().reshape(len(x), -1).cpu()


def as_matrix(x: Tensor, name: str, least: int = 1) -> Tensor:
    """Return x [N, ...] as a finite float64 matrix [N, F] on the CPU.

    name : names the set in an error.
    least : the smallest number of items.

    Raises ValueError for fewer than `least` items, and for a value that is not finite. One such item would make a
    whole distance NaN, and nobody could tell which item it was.
    """
    return need_finite(as_flat(x, name, least).to(torch.float64), name)


def need_finite(matrix: Tensor, name: str, first: int = 0) -> Tensor:
    """Return the matrix, or raise ValueError with the number of the first bad row; rows are counted from `first`."""
    bad = ~matrix.isfinite().all(1)
    if bad.any():
        raise ValueError(
            f"item {first + int(bad.int().argmax())} of {name} has a value that is not finite, "
            f"as have {int(bad.sum())} of {len(bad)} items here; remove them first"
        )
    return matrix


def need_same_width(a: Tensor, b: Tensor, names: str) -> None:
    """Raise ValueError unless both matrices have the same number of columns."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{names} have {a.shape[1]} and {b.shape[1]} numbers per item; "
            "both must come from the same extractor or have the same shape per item"
        )


def at_least_one(chunk: int) -> int:
    """Return the number of items in a chunk, or raise ValueError if it is below 1."""
    if chunk < 1:
        raise ValueError(f"a chunk of {chunk} items was asked for; give at least 1")
    return chunk


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances [N, M] between the rows of a [N, F] and b [M, F].

    They are computed from differences and not from |a|^2 + |b|^2 - 2ab. So equal rows have distance exactly 0, and an
    entry does not depend on its chunk.
    """
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
