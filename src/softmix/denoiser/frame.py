"""A denoiser of a framed process as a denoiser of its base."""

from __future__ import annotations

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
    if isinstance(posterior, Point):
        return Point(process.enter(posterior.mean, 0.0, cond))
    return (_InFrameWithMean if isinstance(posterior, HasMean) else _InFramePosterior)(posterior, process, cond)


class _InFramePosterior(Posterior):
    """The law of enter(x0) for x0 from another posterior."""

    def __init__(self, outside: Posterior, process: Framed, cond: Any):
        self._outside, self._process, self._cond = outside, process, cond

    def _inside(self, x0: Tensor) -> Tensor:
        return self._process.enter(x0, 0.0, self._cond)

    def sample(self, rng: Rng) -> Tensor:
        return self._inside(self._outside.sample(rng))

    def draws(self, m: int, rng: Rng) -> Tensor:
        return torch.stack([self._inside(draw) for draw in self._outside.draws(m, rng)])


class _InFrameWithMean(_InFramePosterior, HasMean):
    @property
    def mean(self) -> Tensor:
        assert isinstance(self._outside, HasMean)
        return self._inside(self._outside.mean)
