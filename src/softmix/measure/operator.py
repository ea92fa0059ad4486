"""The operator A of a measurement y = A(x0) + n: any function, a linear one, and one with a known decomposition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ..precision import without_autocast

# a solution is found when its residual is below this share of the right side, per number format
_ACCURACY = {torch.float64: 1e-10, torch.float32: 1e-5}


class Operator(ABC):
    """A in y = A(x0) + n: x0 [B, *shape] -> A(x0) [B, *measured].

    Subclasses set `shape`, of an item x0, and `measured`, of an item y. They compute where x0 is, in its dtype, and are
    differentiable in x0.
    """

    shape: tuple[int, ...]
    measured: tuple[int, ...]

    @abstractmethod
    def __call__(self, x0: Tensor) -> Tensor:
        """A(x0), [B, *measured]."""

    @property
    def seen(self) -> Tensor | None:
        """1 for the elements of y that exist and 0 for the others, which fill its shape; broadcastable to y.

        None if all of them exist.
        """
        return None

    def picture(self, y: Tensor) -> Tensor | None:
        """y as an image on the grid of x0, [B, C', H, W], to look at and as a condition; None if there is none."""
        return y if len(self.shape) == 3 and y.ndim == 4 and tuple(y.shape[2:]) == self.shape[1:] else None

    def check(self, x: Tensor, shape: tuple[int, ...], what: str) -> None:
        """Raise ValueError unless x is [B, *shape]."""
        if tuple(x.shape[1:]) != shape:
            raise ValueError(
                f"{type(self).__name__}: {what} of shape [B, {', '.join(map(str, shape))}] was expected, and found "
                f"{list(x.shape)}"
            )


class LinearOperator(Operator):
    """A linear A, with its adjoint: <A x, y> = <x, A^T y> for the real scalar product.

    Complex numbers have two real channels, so that A^T is the adjoint for them too.
    """

    # the most iterations of a solution by conjugate gradients
    iterations: ClassVar[int] = 500

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, [B, *shape], of y [B, *measured]."""

    def normal(self, x: Tensor) -> Tensor:
        """A^T A x."""
        return self.adjoint(self(x))

    def solve(self, b: Tensor, ridge: float | Tensor) -> Tensor:
        """(A^T A + ridge I)^-1 b, [B, *shape].

        ridge : above 0; a number, or one for each item [B].

        By conjugate gradients here; a `DecomposedOperator` has a closed form. Raises ValueError for a ridge of 0 or
        below, and RuntimeError if the iterations do not suffice.
        """
        return conjugate_gradients(lambda x: self.normal(x) + _ridge(ridge, b) * x, b, self.iterations)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A^+ y, [B, *shape]: of all x with the least |y - A x| the one with the least |x|.

        By conjugate gradients here; a `DecomposedOperator` has a closed form.
        """
        return conjugate_gradients(self.normal, self.adjoint(y), self.iterations)

    def picture(self, y: Tensor) -> Tensor | None:
        """y itself if it has the size of x0; else A^+ y, if x0 is an image."""
        own = super().picture(y)
        return own if own is not None or len(self.shape) != 3 else self.pseudo_inverse(y)

    def __matmul__(self, inner: LinearOperator) -> LinearOperator:
        """This operator after another one."""
        return Composed(self, inner)


class DecomposedOperator(LinearOperator):
    """A = U diag(s) V^T with known parts: every function of A^T A has a closed form.

    Subclasses give V^T by `into` and V by `back`, U^T by `into_measured` and U by `back_measured`, and s by
    `singular`. V is orthogonal, and the coefficients c = V^T x have as many elements as x. They may be complex, as
    those of a Fourier transform of a real x.
    """

    @property
    @abstractmethod
    def singular(self) -> Tensor:
        """s >= 0, broadcastable to the coefficients."""

    @abstractmethod
    def into(self, x: Tensor) -> Tensor:
        """c = V^T x."""

    @abstractmethod
    def back(self, c: Tensor) -> Tensor:
        """x = V c."""

    @abstractmethod
    def into_measured(self, y: Tensor) -> Tensor:
        """U^T y, on the grid of c. Where s = 0 it may have any finite value."""

    @abstractmethod
    def back_measured(self, c: Tensor) -> Tensor:
        """U c, [B, *measured], of c that is 0 where s = 0."""

    def s_like(self, x: Tensor) -> Tensor:
        """s on the device of x, in its real dtype."""
        return self.singular.to(x.device, x.real.dtype if x.is_complex() else x.dtype)

    def __call__(self, x0: Tensor) -> Tensor:
        self.check(x0, self.shape, "x0")
        return self.back_measured(self.s_like(x0) * self.into(x0))

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.measured, "y")
        return self.back(self.s_like(y) * self.into_measured(y))

    def normal(self, x: Tensor) -> Tensor:
        return self.back(self.s_like(x).square() * self.into(x))

    def solve(self, b: Tensor, ridge: float | Tensor) -> Tensor:
        self.check(b, self.shape, "b")
        c = self.into(b)
        return self.back(c / (self.s_like(b).square() + _ridge(ridge, c)))

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        self.check(y, self.measured, "y")
        s = self.s_like(y)
        # what is not measured, but for rounding
        known = s > s.amax() * 1e-6
        return self.back(torch.where(known, 1 / torch.where(known, s, 1), 0) * self.into_measured(y))


class Composed(LinearOperator):
    """outer(inner(x0)), for linear operators; `outer @ inner` makes it.

    Raises ValueError if the result of the inner one does not fit the outer one, or has elements that do not exist.
    """

    def __init__(self, outer: LinearOperator, inner: LinearOperator):
        if outer.shape != inner.measured:
            raise ValueError(
                f"{type(outer).__name__} measures items {list(outer.shape)}, and {type(inner).__name__} gives "
                f"{list(inner.measured)}"
            )
        self.outer, self.inner = outer, inner
        self.shape, self.measured = inner.shape, outer.measured

    @property
    def seen(self) -> Tensor | None:
        return self.outer.seen

    def __call__(self, x0: Tensor) -> Tensor:
        return self.outer(self.inner(x0))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, strict: bool = True) -> Tensor:
    """x with M x = b for a symmetric, positive semidefinite M, by the method of conjugate gradients from x = 0.

    product : M x of x [B, ...], item by item.
    b : [B, ...]; in the range of M.
    strict : raise RuntimeError for an item whose residual is not small after all iterations. False takes what is found.

    The steps of an item do not depend on the other items. An item that is done stays.
    Source: Hestenes & Stiefel 1952.
    """
    with without_autocast(b.device):
        x, left, way = torch.zeros_like(b), b, b
        size = _dot(left, left)
        enough = size * _ACCURACY.get(b.dtype, 1e-5) ** 2
        for _ in range(iterations):
            going = size > enough
            # a question to an accelerator waits for it, so that it is asked on a CPU alone
            if b.device.type == "cpu" and not bool(going.any()):
                return x
            turned = product(way)
            curve = _dot(way, turned)
            step = torch.where(going & (curve > 0), size / curve.where(curve > 0, 1), 0)
            x, left = x + step * way, left - step * turned
            new = torch.where(going, _dot(left, left), size)
            way = left + torch.where(going, new / size.where(size > 0, 1), 0) * way
            size = new
        if strict and bool((size > 1e6 * enough).any()):
            raise RuntimeError(
                f"{iterations} iterations of conjugate gradients did not solve the equations of A: a share of "
                f"{float((size / _dot(b, b)).amax().sqrt()):.1e} is left. Use a larger ridge, or an operator that is "
                "better conditioned"
            )
        return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The scalar product of each item, [B, 1, ..., 1]."""
    return (a * b).flatten(1).sum(1).reshape(-1, *(1,) * (a.ndim - 1))


def _ridge(ridge: float | Tensor, like: Tensor) -> Tensor:
    """The ridge as a factor of items. Raises ValueError for 0 or below."""
    value = torch.as_tensor(ridge, dtype=like.real.dtype if like.is_complex() else like.dtype, device=like.device)
    if value.device.type == "cpu" and not bool((value > 0).all()):
        raise ValueError(f"a ridge above 0 is needed, and found {ridge}: for 0 use pseudo_inverse")
    return value.reshape(-1, *(1,) * (like.ndim - 1)) if value.ndim == 1 else value
