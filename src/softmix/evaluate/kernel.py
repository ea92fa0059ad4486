"""The polynomial-kernel distance between two sets of features, with its standard error."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..loss import CubicKernel
from ..memory import in_batches
from ..rng import permutation
from .matrix import as_matrix, need_same_width

_kernel = CubicKernel()


class KernelDistance(NamedTuple):
    """An estimate of the squared kernel distance, and the standard error of that estimate."""

    value: float
    standard_error: float


def kernel_distance(a: Tensor, b: Tensor, rng_seed: int, subsets: int = 20, size: int | None = None) -> KernelDistance:
    """Unbiased squared maximum mean discrepancy with the cubic kernel k(x, y) = (x.y / F + 1)^3.

    Both sets are shuffled and cut into `subsets` blocks of `size` items. No item is in two blocks. Each pair of
    blocks gives the unbiased estimate

        mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j)

    The result is the mean of these estimates and its standard error. No item is used twice, so the blocks are
    independent and the error is correct. The subsets of the usual KID overlap, and their error is too small.

    Parameters
    ----------
    a, b : features [N, F] and [M, F], two independent samples. For a set against itself the result is
        below 0 by about 2/N of the kernel's spread, because items are compared with themselves.
    rng_seed : decides the blocks, nothing else.
    subsets : number of blocks, at least 2. More blocks give a more precise standard error, and a larger one.
    size : items per block, at least 2; None for as many as both sets allow. Memory is near 32 size^2 bytes, or less:
        if it is too small, the sums are computed row by row.

    The value has no floor: for two samples of one law it is 0 on average, so half of the values are below 0.
    Negative values are not clamped.

    Raises ValueError if the sets are too small for the blocks.

    Source: Binkowski et al., arXiv 1801.01401 (kernel, unbiased estimate); Zaremba, Gretton & Blaschko,
    arXiv 1307.1954 (blocks). Choose it if counts are small or differ.
    """
    a, b = as_matrix(a, "the first feature set"), as_matrix(b, "the second feature set")
    need_same_width(a, b, "the feature sets")
    size = _block_size(min(len(a), len(b)), subsets, size)
    blocks_a, blocks_b = _blocks(a, rng_seed, "a", subsets, size), _blocks(b, rng_seed, "b", subsets, size)
    values = torch.stack([_unbiased(x, y) for x, y in zip(blocks_a, blocks_b, strict=True)])
    return KernelDistance(float(values.mean()), float(values.std() / math.sqrt(subsets)))


def _block_size(count: int, subsets: int, size: int | None) -> int:
    if subsets < 2:
        raise ValueError(f"{subsets} subsets were asked for; a standard error needs at least 2")
    size = count // subsets if size is None else size
    if size < 2 or subsets * size > count:
        need = max(size, 2)
        raise ValueError(
            f"{subsets} subsets of {need} items, none used twice, need {subsets * need} items, "
            f"but the smaller set has {count}; ask for fewer or smaller subsets"
        )
    return size


def _blocks(x: Tensor, seed: int, role: str, subsets: int, size: int) -> Tensor:
    order = permutation(seed, len(x), f"kernel distance {role}")[: subsets * size]
    return x[order].reshape(subsets, size, -1)


def _unbiased(x: Tensor, y: Tensor) -> Tensor:
    (xx, same_x), (yy, same_y), (xy, _) = _sums(x, x), _sums(y, y), _sums(x, y)
    n = len(x)
    return (xx - same_x) / (n * (n - 1)) + (yy - same_y) / (n * (n - 1)) - 2 * (xy / n**2)


def _sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of k(x_i, y_j) over all pairs and over i = j, in fewer rows at once if the memory is too small."""

    def sums(low: int, high: int) -> Tensor:
        gram = _kernel(x[low:high], y)
        return torch.stack([gram.sum(), gram[:, low:high].trace()])

    every, same = torch.stack(in_batches(sums, len(x), len(x), "row")).sum(0)
    return every, same
