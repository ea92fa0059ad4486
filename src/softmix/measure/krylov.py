"""Linear equations without a matrix, by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..precision import without_autocast
from ..shape import column

# an item is solved when its residual is below this share of the right side, per number format
_ACCURACY = {torch.float64: 1e-10, torch.float32: 1e-5}
# and it has failed when it is above this multiple of that share after all iterations
_FAILED = 1e3
# a question to an accelerator waits for it, so that it is asked once in so many iterations
_ASK = 16


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, strict: bool = True) -> Tensor:
    """x with M x = b for a symmetric, positive semidefinite M, by the method of conjugate gradients from x = 0.

    product : M x of x [B, ...], item by item.
    b : [B, ...], float32 or float64; in the range of M. Then x is in the range of M too.
    strict : raise RuntimeError for an item with a residual above 1e-2 of |b| in float32, or 1e-7 in float64, after all
        iterations. False takes what is found.

    An item is solved at 1e-5 of |b| in float32, and at 1e-10 in float64. The steps of an item do not depend on the
    other items. An item that is solved stays, and an item of b that is not finite gives NaN. The result is
    differentiable, through every iteration.
    Source: Hestenes & Stiefel, "Methods of conjugate gradients for solving linear systems", 1952, section 3.
    """
    with without_autocast(b.device):
        x, left, way = torch.zeros_like(b), b, b
        size = start = _dot(b, b)
        enough = start.detach() * _ACCURACY[b.dtype] ** 2
        for number in range(iterations):
            going = size > enough
            if (b.device.type == "cpu" or number % _ASK == 0) and not bool(going.any()):
                break
            turned = product(way)
            curve = _dot(way, turned)
            step = torch.where(going & (curve > 0), size / curve.where(curve > 0, 1), 0)
            x, left = x + step * way, left - step * turned
            new = torch.where(going, _dot(left, left), size)
            way = left + torch.where(going, new / size.where(size > 0, 1), 0) * way
            size = new
        if strict:
            _require_solved(size / start.where(start > 0, 1), start, _ACCURACY[b.dtype], iterations)
        return torch.where(start.isfinite(), x, torch.nan)


def as_ridge(ridge: float | Tensor, like: Tensor) -> Tensor:
    """The ridge as a factor of items. Raises ValueError for 0 or below, if it is a number or on a CPU."""
    value = ridge if isinstance(ridge, Tensor) else torch.tensor(ridge, dtype=torch.float64)
    if value.device.type == "cpu" and not bool((value > 0).all()):
        raise ValueError(f"a ridge above 0 is needed, and found {ridge}: for 0 use pseudo_inverse")
    return column(value, like.real if like.is_complex() else like)


def _require_solved(left: Tensor, start: Tensor, accuracy: float, iterations: int) -> None:
    """left : the square of the share of b that is left, of each item."""
    failed = start.isfinite() & ~(left <= (_FAILED * accuracy) ** 2)
    if bool(failed.any()):
        raise RuntimeError(
            f"{iterations} iterations of conjugate gradients did not solve the equations of A for {int(failed.sum())} "
            f"of {failed.numel()} items: a share of {float(left[failed].amax().sqrt()):.1e} is left. Use a larger "
            "ridge, or an operator that is better conditioned"
        )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The scalar product of each item, [B, 1, ..., 1]."""
    return (a * b).flatten(1).sum(1).reshape(-1, *(1,) * (a.ndim - 1))
