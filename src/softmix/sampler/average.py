"""Averages over a step, of the polynomial through what is known at some times.

A time is told by log(alpha / sigma), a `Level`: a number, or for a process of arrays one for each element of x. Every
equation here holds for both.
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
    """log(alpha / sigma) at each of these times: numbers, or arrays of x's rank, [1, ...]."""
    levels = process.element_logsnr(times).detach().cpu() / 2
    return list(levels.tolist() if levels.ndim == 1 else levels[:, None].numpy())


def endless(h: Level) -> bool:
    """Whether a step goes to t = 0, where the clock is infinite for every element."""
    return math.isinf(h) if isinstance(h, float) else bool(np.isinf(h).any())


def ready(share: Level, value: Tensor) -> Tensor | float:
    """A share as what multiplies `value`."""
    return float(share) if np.ndim(share) == 0 else column(torch.from_numpy(np.asarray(share)), value)


def averaged(values: Sequence[Tensor], nodes: Sequence[Level], end: Level, rate: float = 1.0) -> Tensor:
    """The average of the polynomial through `values` at `nodes` over [0, end], weighted by e^(rate u); the last value
    where the step has no end, and where there is only one."""
    if len(values) == 1 or endless(end):
        return values[-1]
    found = weights(tuple(nodes), end, rate)
    return cast(Tensor, sum(ready(weight, value) * value for weight, value in zip(found, values, strict=True)))


def weights(nodes: tuple[Level, ...], end: Level, rate: float = 1.0) -> tuple[Level, ...]:
    """int_0^end e^(rate u) l_k(u) du / int_0^end e^(rate u) du for the Lagrange polynomials l_k of these nodes."""
    return _kept(nodes, end, rate) if isinstance(end, float) else _weights(nodes, end, rate)


@lru_cache(maxsize=4096)
def _kept(nodes: tuple[float, ...], end: float, rate: float) -> tuple[float, ...]:
    """Numbers, which a sampler asks for again and again. Arrays are not kept."""
    return tuple(float(weight) for weight in _weights(nodes, end, rate))


@lru_cache
def _gauss() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places and shares of Gauss' and Legendre's rule on [-1, 1]."""
    return np.polynomial.legendre.leggauss(24)


def _weights(nodes: Sequence[Level], end: Level, rate: float) -> tuple[Level, ...]:
    places, shares = _gauss()
    u = np.multiply.outer(places + 1, end) / 2
    shares = shares.reshape(-1, *(1,) * np.ndim(end)) * np.exp(rate * (u - end))
    lines = [math.prod((u - b) / (a - b) for j, b in enumerate(nodes) if j != k) for k, a in enumerate(nodes)]
    return tuple((shares * line).sum(0) / shares.sum(0) for line in lines)
