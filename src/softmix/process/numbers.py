"""Times and coefficients as plain numbers, and a sum that needs no new memory.

A sampler takes one time for the whole batch. Its coefficients are then numbers of Python: an operation on a tensor of
one element costs as much as one on a small batch, and on a GPU it is a launch or a wait.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .gaussian import Gaussian


def as_float64(t: Tensor | float) -> Tensor:
    """t in float64, or float32 on a device without it.

    In float32 sigma^2 would round to 1, and alpha(1) to 0.
    """
    if not isinstance(t, Tensor):
        return torch.tensor(t, dtype=torch.float64)
    return t.to(torch.float32 if t.device.type == "mps" else torch.float64)


def is_number(t: Tensor | float) -> bool:
    """Whether t is one time for the whole batch."""
    return not isinstance(t, Tensor) or t.ndim == 0


@lru_cache(maxsize=4096)
def bridge_numbers(process: Gaussian, t: float, s: float, eta: float) -> tuple[float, float, float] | None:
    """The coefficients of the bridge as numbers, or None for a schedule per element.

    Cached: a sampler needs the same few again and again, and a dozen operations on tensors of one element take longer
    than the step itself. Arrays are not cached, since thousands of them would fill the memory.
    """
    if process.per_element:
        return None
    of_x0, of_xt, of_noise = process.shares(t, s, eta)
    return float(of_x0), float(of_xt), float(of_noise)


@lru_cache(maxsize=4096)
def level_numbers(process: Gaussian, t: float) -> tuple[float, float] | None:
    """alpha and sigma at one time as numbers, or None for a schedule per element. Cached as `bridge_numbers` is."""
    if process.per_element:
        return None
    alpha, sigma = process.levels(t)
    return float(alpha), float(sigma)


@lru_cache(maxsize=256)
def has_axes(process: Gaussian) -> bool:
    return any(part(0.5).ndim > 0 for part in (process.alpha, process.sigma))


def plus(x: Tensor, other: Tensor, share: float) -> Tensor:
    """x + share other, in the memory of x if no derivative is computed. x : a tensor that nobody else has."""
    if torch.is_grad_enabled() or x.dtype != other.dtype or x.shape != other.shape:
        return torch.add(x, other, alpha=share)
    return x.add_(other, alpha=share)


def time_of(clock: Callable[[Tensor], Tensor], level: Tensor) -> Tensor:
    """The t in [0, 1] with clock(t) = level, for a clock that falls; by bisection, to the last digits."""
    low, high = torch.zeros_like(level), torch.ones_like(level)
    for _ in range(60):
        middle = (low + high) / 2
        above = clock(middle) > level
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (low + high) / 2
