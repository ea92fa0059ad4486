"""The operators of deepinv physics."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..rng import Rng
from .operator import LinearOperator, Operator

# the share by which <A x, y> and <x, A^T y> may differ, for physics in float32
_ROUNDING = 1e-4


class PhysicsOperator(Operator):
    """A(x0) of a deepinv physics, in its own precision.

    physics : an object with the method A.
    shape : of an item.
    light : the physics measures light: it sees (1 + x0) / 2, and A(x0) is 2 of its measurement, less 1.

    Raises TypeError for a measurement of several parts, or of complex numbers.
    """

    def __init__(self, physics: Any, shape: Sequence[int], light: bool = False):
        self.physics, self.shape, self.light = physics, tuple(shape), light
        self._copies: dict[torch.device, Any] = {}
        with torch.no_grad():
            clean = physics.A(_as_physics(physics, probe(physics, self.shape)))
        if not isinstance(clean, Tensor) or clean.is_complex():
            found = "complex numbers" if isinstance(clean, Tensor) else f"a {type(clean).__name__}"
            raise TypeError(
                f"{type(physics).__name__} measures {found}, and one tensor of real numbers is needed: take one part, "
                "or two channels for complex numbers"
            )
        self.measured = tuple(clean.shape[1:])

    def __call__(self, x0: Tensor) -> Tensor:
        self.check(x0, self.shape, "x0")
        return 2 * self._called("A", (1 + x0) / 2) - 1 if self.light else self._called("A", x0)

    def _called(self, method: str, x: Tensor) -> Tensor:
        """A method of the physics, on the device of x."""
        found: Tensor = getattr(self._on(x.device), method)(_as_physics(self.physics, x))
        return found.to(x.dtype)

    def _on(self, device: torch.device) -> Any:
        own, _ = _place(self.physics)
        if own in (None, device):
            return self.physics
        if device not in self._copies:
            # deepinv copies a physics with generators by a method of its own
            copied = self.physics.clone() if hasattr(self.physics, "clone") else copy.deepcopy(self.physics)
            self._copies[device] = copied.to(device)
        return self._copies[device]


class LinearPhysicsOperator(PhysicsOperator, LinearOperator):
    """A of a linear deepinv physics, which has A_adjoint and A_dagger too.

    Raises ValueError if A_adjoint is not the adjoint of A.
    """

    def __init__(self, physics: Any, shape: Sequence[int]):
        super().__init__(physics, shape)
        with torch.no_grad():
            x = probe(physics, self.shape)
            clean = self(x)
            y = probe(physics, self.measured)
            left, right = float((clean * y).sum()), float((x * self.adjoint(y)).sum())
        scale = float(clean.norm() * y.norm())
        if abs(left - right) > _ROUNDING * scale:
            raise ValueError(
                f"A_adjoint of {type(physics).__name__} is not the adjoint of A: <A x, y> and <x, A^T y> differ by a "
                f"share of {abs(left - right) / scale:.1e}. Take an exact one, such as that by automatic derivatives"
            )
        # a linear function of a random x is exactly 0 only if it is 0 for every x
        self._seen = None if bool((clean != 0).all()) else (clean != 0).double()

    @property
    def seen(self) -> Tensor | None:
        return self._seen

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.measured, "y")
        return self._called("A_adjoint", y)

    def picture(self, y: Tensor) -> Tensor | None:
        """A^T y if y is on the grid of x0, else A_dagger(y)."""
        if len(self.shape) != 3:
            return None
        return self.adjoint(y) if self._on_the_grid(y) else self._called("A_dagger", y)


def probe(physics: Any, shape: Sequence[int]) -> Tensor:
    """A fixed random item [1, *shape] in (0, 1), on the device of the physics."""
    device, _ = _place(physics)
    return Rng(0, 1, "deepinv").uniform((1, *shape), torch.float64).to(device or "cpu")


def _as_physics(physics: Any, x: Tensor) -> Tensor:
    """x in the precision of a physics."""
    _, dtype = _place(physics)
    return x if dtype is None else x.to(dtype)


def _place(physics: Any) -> tuple[torch.device | None, torch.dtype | None]:
    """The device and the precision of the tensors of a physics, without those of its noise; None without any."""
    if not isinstance(physics, torch.nn.Module):
        return None, None
    for name, each in chain(physics.named_parameters(), physics.named_buffers()):
        if not name.startswith("noise_model") and (each.is_floating_point() or each.is_complex()):
            return each.device, each.real.dtype if each.is_complex() else each.dtype
    return None, None
