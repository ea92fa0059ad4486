"""Averages over a step of the polynomial through values that are known at some times.

A time is given by its clock log(alpha / sigma), a `Level`: a number, or an array with a number for each element of x,
for a process with an alpha for each element. Every equation here holds for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..process import Gaussian
from ..shape import column

Level = float | NDArray[np.float64]


def clock_of(process: Gaussian, times: Tensor) -> list[Level]:
    """log(alpha / sigma) at each time: numbers, or arrays of the rank of x, [1, ...]."""
    levels = process.element_logsnr(times).detach().cpu() / 2
    return list(levels.tolist() if levels.ndim == 1 else levels[:, None].numpy())


def is_infinite(h: Level) -> bool:
    """Whether a step goes to t = 0: there the clock is infinite for every element."""
    return math.isinf(h) if isinstance(h, float) else bool(np.isinf(h).any())


def as_factor(share: Level, value: Tensor) -> Tensor | float:
    """A share in the form that multiplies `value`."""
    return float(share) if np.ndim(share) == 0 else column(torch.from_numpy(np.asarray(share)), value)


def averaged(values: Sequence[Tensor], nodes: Sequence[Level], end: Level, rate: float = 1.0) -> Tensor:
    """The average over [0, end] of the polynomial through `values` at `nodes`, with the weight e^(rate u).

    For one value, and for an infinite step, it is the last value.
    """
    if len(values) == 1 or is_infinite(end):
        return values[-1]
    shares = weights(tuple(nodes), end, rate)
    return cast(Tensor, sum(as_factor(share, value) * value for share, value in zip(shares, values, strict=True)))


def weights(nodes: tuple[Level, ...], end: Level, rate: float = 1.0) -> tuple[Level, ...]:
    """int_0^end e^(rate u) l_k(u) du / int_0^end e^(rate u) du for the Lagrange polynomials l_k of these nodes."""
    return _cached_weights(nodes, end, rate) if isinstance(end, float) else _weights(nodes, end, rate)


@lru_cache(maxsize=4096)
def _cached_weights(nodes: tuple[float, ...], end: float, rate: float) -> tuple[float, ...]:
    """The weights of numbers, which a sampler needs again in every batch. Those of arrays are not cached."""
    return tuple(float(weight) for weight in _weights(nodes, end, rate))


@lru_cache
def _gauss() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of the Gauss-Legendre rule on [-1, 1]."""
    return np.polynomial.legendre.leggauss(24)


def _weights(nodes: Sequence[Level], end: Level, rate: float) -> tuple[Level, ...]:
    places, shares = _gauss()
    u = np.multiply.outer(places + 1, end) / 2
    shares = shares.reshape(-1, *(1,) * np.ndim(end)) * np.exp(rate * (u - end))
    lines = [math.prod((u - b) / (a - b) for j, b in enumerate(nodes) if j != k) for k, a in enumerate(nodes)]
    return tuple((shares * line).sum(0) / shares.sum(0) for line in lines)
