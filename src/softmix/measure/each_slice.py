"""A 2-D operator for each slice of a volume, and the norm of an operator."""

from __future__ import annotations

import torch
from torch import Tensor

from ..rng import Rng
from .operator import DecomposedOperator, LinearOperator

# of the power method; the norm is then right to about one percent, from below
_ROUNDS = 60


class EachSlice(LinearOperator):
    """y_d = A x0_d: one operator on images, for each of the D slices of a volume [C, D, H, W].

    inner : A, on items [C, H, W].
    depth : D, at least 1.

    y is [B, D, *measured of A]. An operator that differs between slices acts on the whole volume: a `Mask` with shape
    (C, D, H, W) is one. Raises ValueError for an operator on other items, for a mask for each item, and for no slices.
    """

    def __init__(self, inner: LinearOperator, depth: int):
        if len(inner.shape) != 3 or depth < 1:
            raise ValueError(
                f"an operator on images [C, H, W] and at least one slice were expected, and found items "
                f"{list(inner.shape)} and {depth} slices"
            )
        if inner.seen is not None and inner.seen.ndim > len(inner.measured) and len(inner.seen) > 1:
            raise ValueError(
                f"the operator of the slices has a mask for each of {len(inner.seen)} items: give one mask for all "
                "slices, or a Mask of the volume, with shape (C, D, H, W)"
            )
        self.inner, self.depth = inner, depth
        channels, height, width = inner.shape
        self.shape, self.measured = (channels, depth, height, width), (depth, *inner.measured)

    @property
    def seen(self) -> Tensor | None:
        found = self.inner.seen
        return None if found is None else found.reshape(1, 1, *found.shape[-len(self.inner.measured) :])

    def __call__(self, x0: Tensor) -> Tensor:
        self.check(x0, self.shape, "x0")
        return self.inner(to_slices(x0)).unflatten(0, (len(x0), self.depth))

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.measured, "y")
        return from_slices(self.inner.adjoint(y.flatten(0, 1)), self.depth)

    def normal(self, x: Tensor) -> Tensor:
        return from_slices(self.inner.normal(to_slices(x)), self.depth)

    def solve(self, b: Tensor, ridge: float | Tensor) -> Tensor:
        self.check(b, self.shape, "b")
        each = ridge.repeat_interleave(self.depth) if isinstance(ridge, Tensor) and ridge.ndim == 1 else ridge
        return from_slices(self.inner.solve(to_slices(b), each), self.depth)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        self.check(y, self.measured, "y")
        return from_slices(self.inner.pseudo_inverse(y.flatten(0, 1)), self.depth)


def to_slices(x: Tensor) -> Tensor:
    """The slices of volumes, [B, C, D, H, W] -> [B D, C, H, W]; those of one volume stay together."""
    return x.movedim(2, 1).flatten(0, 1)


def from_slices(x: Tensor, depth: int) -> Tensor:
    """The inverse of `to_slices`: [B D, C, H, W] -> [B, C, D, H, W]."""
    return x.unflatten(0, (-1, depth)).movedim(1, 2)


def spectral_norm(operator: LinearOperator, device: torch.device | str = "cpu") -> Tensor:
    """|A|, the largest singular value, as a tensor without axes.

    Exact for a `DecomposedOperator`. For another one by the power method, from below and to about one percent.
    """
    if isinstance(operator, EachSlice):
        return spectral_norm(operator.inner, device)
    if isinstance(operator, DecomposedOperator):
        return operator.singular.amax().to(device)
    x = Rng(0, 1, "spectral norm", device).normal((1, *operator.shape))
    size = x.norm()
    for _ in range(_ROUNDS):
        x = operator.normal(x / size.clamp(min=torch.finfo(x.dtype).tiny))
        size = x.norm()
    return size.sqrt()
