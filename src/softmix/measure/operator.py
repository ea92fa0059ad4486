"""The operator A of a measurement y = A(x0) + n: any function, a linear one, and one with a known decomposition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from .krylov import as_ridge, conjugate_gradients

# singular values below this share of the largest one are taken for 0: they are not, but for rounding
_LOST = 1e-6


class Operator(ABC):
    """A in y = A(x0) + n: x0 [B, *shape] -> A(x0) [B, *measured].

    Subclasses set `shape`, of an item x0, and `measured`, of an item y; and `items`, if they hold something for each
    item of a batch. They compute where x0 is, in its dtype, float32 or float64, and are differentiable in x0. An
    operator does not change: another mask is another operator.
    """

    shape: tuple[int, ...]
    measured: tuple[int, ...]
    # the number of items that masks, one for each item, serve; None for any number
    items: int | None = None

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
        return y if self._on_the_grid(y) else None

    def constant(self, name: str, x: Tensor) -> Tensor:
        """The attribute `name`, a tensor, on the device of x and in its precision; whole numbers keep their dtype.

        Each is converted once, so that a matrix is not copied to a GPU for each batch. A copy of the operator begins
        without the converted ones.
        """
        real = x.real.dtype if x.is_complex() else x.dtype
        kept: dict[Any, Tensor] = self.__dict__.setdefault("_converted", {})
        key = (name, x.device, real)
        found = kept.get(key)
        if found is None:
            value: Tensor = getattr(self, name)
            dtype = real.to_complex() if value.is_complex() else real if value.is_floating_point() else value.dtype
            found = value.to(x.device, dtype)
            # a graph of derivatives, and a tensor of inference mode, serve only the call that made them
            if not found.requires_grad and not found.is_inference():
                kept[key] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_converted"}

    def check(self, x: Tensor, shape: tuple[int, ...], what: str) -> None:
        """Raise unless x is [B, *shape] of real numbers, with as many items as the operator serves.

        Raises TypeError for a dtype other than float32 and float64, and ValueError for a shape.
        """
        name = type(self).__name__
        if x.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"{name}: {what} of float32 or float64 was expected, and found {x.dtype}: convert it, or give a "
                "complex number as two channels"
            )
        if tuple(x.shape[1:]) != shape:
            raise ValueError(
                f"{name}: {what} of shape [B, {', '.join(map(str, shape))}] was expected, and found {list(x.shape)}"
            )
        if self.items not in (None, len(x)):
            raise ValueError(
                f"{name} holds a mask or a map for each of {self.items} items, and {what} has {len(x)}: give all of "
                "them in one batch, or an operator for all items"
            )

    def _on_the_grid(self, y: Tensor) -> bool:
        """Whether y has the height and width of x0."""
        return len(self.shape) == 3 and y.ndim == 4 and tuple(y.shape[2:]) == self.shape[1:]


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
        below, unless it is on an accelerator, and RuntimeError if the iterations do not suffice.
        """
        self.check(b, self.shape, "b")
        factor = as_ridge(ridge, b)
        return conjugate_gradients(lambda x: self.normal(x) + factor * x, b, self.iterations)

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
        return Composed(self, inner) if isinstance(inner, LinearOperator) else NotImplemented


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
        return self.constant("singular", x)

    def __call__(self, x0: Tensor) -> Tensor:
        self.check(x0, self.shape, "x0")
        return self.back_measured(self.s_like(x0) * self.into(x0))

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.measured, "y")
        return self.back(self.s_like(y) * self.into_measured(y))

    def normal(self, x: Tensor) -> Tensor:
        self.check(x, self.shape, "x")
        return self.back(self.s_like(x).square() * self.into(x))

    def solve(self, b: Tensor, ridge: float | Tensor) -> Tensor:
        self.check(b, self.shape, "b")
        c = self.into(b)
        return self.back(c / (self.s_like(b).square() + as_ridge(ridge, c)))

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A^+ y. Singular values below 1e-6 of the largest one count as 0."""
        self.check(y, self.measured, "y")
        s = self.s_like(y)
        known = s > s.amax() * _LOST
        return self.back(torch.where(known, 1 / torch.where(known, s, 1), 0) * self.into_measured(y))


class Composed(LinearOperator):
    """outer(inner(x0)), for linear operators; `outer @ inner` makes it.

    Its equations are solved by conjugate gradients. Raises ValueError if the result of the inner one does not fit the
    outer one, or if both serve a number of items, and the numbers differ.
    """

    def __init__(self, outer: LinearOperator, inner: LinearOperator):
        if outer.shape != inner.measured:
            raise ValueError(
                f"{type(outer).__name__} measures items {list(outer.shape)}, and {type(inner).__name__} gives "
                f"{list(inner.measured)}"
            )
        counts = {each.items for each in (outer, inner)} - {None}
        if len(counts) > 1:
            raise ValueError(f"one operator serves {outer.items} items, and the other one {inner.items}")
        self.outer, self.inner = outer, inner
        self.shape, self.measured = inner.shape, outer.measured
        self.items = next(iter(counts), None)

    @property
    def seen(self) -> Tensor | None:
        return self.outer.seen

    def __call__(self, x0: Tensor) -> Tensor:
        return self.outer(self.inner(x0))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))

    def picture(self, y: Tensor) -> Tensor | None:
        """The picture that the inner operator makes of the picture, or of A^+ y, of the outer one."""
        if len(self.shape) != 3:
            return None
        middle = self.outer.picture(y)
        if middle is None or tuple(middle.shape[1:]) != self.inner.measured:
            middle = self.outer.pseudo_inverse(y)
        return self.inner.picture(middle)
