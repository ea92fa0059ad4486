"""VICReg: a self-supervised loss of the features of two views of each image."""

from __future__ import annotations

import torch
from torch import Tensor

# for the derivative of the standard deviation of equal features, and the smallest variance in its sum
_TINY = 1e-4


def invariance(first: Tensor, second: Tensor) -> Tensor:
    """VICReg of two views of each item, [B].

        L = 25 s(Z, Z') + 25 (v(Z) + v(Z')) / 2 + c(Z) + c(Z')
        s = mean over items and features of (z - z')^2
        v = mean over features j of max(0, 1 - sd(z_j)),   c = (1 / D) sum over i != j of Cov(z_i, z_j)^2

    first, second : the features Z and Z' of the views, [B, D], B at least 2. Variances and covariances are over the
        batch, with B - 1.

    s makes the features of two views equal, v prevents equal features of all items, and c makes the features differ
    from each other. v and c are of the whole batch; each item gets them as they are. Sums are taken in float32 at
    least. Raises ValueError for a single item.
    Source: Bardes, Ponce & LeCun, "VICReg", ICLR 2022, section 4, with the means and halves of the authors' code.
    """
    if len(first) < 2:
        raise ValueError("VICReg compares the items of a batch, and found one: take a batch of at least 2")
    real = torch.promote_types(first.dtype, torch.float32)
    first, second = first.to(real), second.to(real)
    # products in half precision have too few digits
    with torch.autocast(first.device.type, enabled=False):
        batch = sum(25 * _variance(z) / 2 + _covariance(z) for z in (first, second))
        return 25 * (first - second).square().mean(1) + batch


def _variance(z: Tensor) -> Tensor:
    return (1 - (z.var(0) + _TINY).sqrt()).relu().mean()


def _covariance(z: Tensor) -> Tensor:
    centred = z - z.mean(0)
    squares = (centred.T @ centred / (len(z) - 1)).square()
    return (squares.sum() - squares.diagonal().sum()) / z.shape[1]
