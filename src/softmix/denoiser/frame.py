"""A denoiser of a framed process as a denoiser of its base, and the other way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..posterior import HasMean, Point, Posterior
from ..process import Framed, Gaussian
from ..rng import Rng
from .contract import Denoiser
from .wrap import Wrapped


def in_frame(denoiser: Denoiser) -> Denoiser:
    """The same denoiser in the frame: it takes states in the frame, and returns posteriors of x0 in the frame.

    Its process is the plain process `base`. For methods that use x_t = alpha x0 + sigma z directly: inversions, codes,
    statistics. `drive` and `sample` need no such wrap. A denoiser of a process without a frame is returned unchanged.
    """
    return InFrame(denoiser) if isinstance(denoiser.process, Framed) else denoiser


class InFrame(Wrapped):
    """The result of `in_frame`."""

    def __init__(self, inner: Denoiser):
        super().__init__(inner, self._answer)

    @property
    def process(self) -> Gaussian:
        framed = self.inner.process
        assert isinstance(framed, Framed)
        return framed.base

    def _answer(self, inner: Denoiser, y: Tensor, t: Tensor | float, cond: Any) -> Posterior:
        framed = self.inner.process
        assert isinstance(framed, Framed)
        return posterior_in_frame(inner(framed.leave(y, t, cond), t, cond), framed, cond)


def posterior_in_frame(posterior: Posterior, process: Framed, cond: Any) -> Posterior:
    """The law of enter(x0) for x0 from a posterior. It is the same posterior if the frame leaves clean items unchanged.

    Otherwise the samples, and the mean if there is one, are mapped into the frame. Variances and densities by element
    do not survive an orthogonal change of basis, so these abilities are dropped.
    """
    if process.keeps_x0:
        return posterior
    return mapped(posterior, lambda x0: process.enter(x0, 0.0, cond))


def from_frame(denoiser: Denoiser, process: Framed) -> Denoiser:
    """The denoiser of a framed process from one of its base: the inverse of `in_frame`.

    denoiser : takes states in the frame, and returns posteriors of x0 in the frame.
    process : its base is the process of the denoiser.

    When to choose: for a closed form that is known in the frame, such as that of a mixture in a basis.
    """
    return _FromFrame(denoiser, process)


class _FromFrame(Wrapped):
    def __init__(self, inner: Denoiser, process: Framed):
        super().__init__(inner, self._answer)
        self._framed = process

    @property
    def process(self) -> Framed:
        return self._framed

    def _answer(self, inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Any) -> Posterior:
        answer = inner(self._framed.enter(xt, t, cond), t, cond)
        return answer if self._framed.keeps_x0 else mapped(answer, lambda x0: self._framed.leave(x0, 0.0, cond))


def mapped(posterior: Posterior, change: Callable[[Tensor], Tensor]) -> Posterior:
    """The law of change(x0) for x0 from a posterior: its samples, and its mean if there is one.

    change : a linear function, or one plus a constant, on x0 [B, ...].
    """
    if isinstance(posterior, Point):
        return Point(change(posterior.mean))
    return (_MappedWithMean if isinstance(posterior, HasMean) else _Mapped)(posterior, change)


class _Mapped(Posterior):
    def __init__(self, outside: Posterior, change: Callable[[Tensor], Tensor]):
        self._outside, self._change = outside, change

    def sample(self, rng: Rng) -> Tensor:
        return self._change(self._outside.sample(rng))

    def draws(self, m: int, rng: Rng) -> Tensor:
        return torch.stack([self._change(draw) for draw in self._outside.draws(m, rng)])


class _MappedWithMean(_Mapped, HasMean):
    @property
    def mean(self) -> Tensor:
        assert isinstance(self._outside, HasMean)
        return self._change(self._outside.mean)
