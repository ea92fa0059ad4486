"""Gradient checkpointing: the backward pass evaluates a denoiser again, and memory holds no inner states of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..cond import Cond
from ..posterior import HasMean, Posterior, need
from ..rng import Rng
from .contract import Denoiser
from .wrap import Wrapped


def recomputed(denoiser: Denoiser) -> Denoiser:
    """A denoiser with the same answers, from which the backward pass starts anew at x_t.

    Its posteriors hold x_t alone. The mean and a draw are computed when they are read, and once more in the backward
    pass, with the same random numbers. Reading both costs two evaluations.

    When to choose: for a gradient through several steps of a sampler. The memory is that of one evaluation and an x_t
    for each step; the time is that of one more forward pass.
    Source: Chen et al., "Training deep nets with sublinear memory cost", 2016.
    """
    return Wrapped(denoiser, _Recomputed)


class _Recomputed(HasMean):
    """The posterior of a denoiser at x_t, evaluated when it is read."""

    def __init__(self, denoiser: Denoiser, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None):
        self._evaluated: Callable[[Tensor], Posterior] = lambda x: denoiser(x, t, cond)
        self._xt = xt

    @property
    def mean(self) -> Tensor:
        return self._read(lambda posterior: need(posterior, HasMean, "recomputed").mean)

    def sample(self, rng: Rng) -> Tensor:
        before, after = rng.take(slice(None)), []

        def drawn(posterior: Posterior) -> Tensor:
            # the second evaluation needs the numbers of the first
            stream = before.take(slice(None))
            x0 = posterior.sample(stream)
            after.append(stream.draws)
            return x0

        x0 = self._read(drawn)
        rng.draws = after[0]
        return x0

    def _read(self, read: Callable[[Posterior], Tensor]) -> Tensor:
        # random numbers of torch itself are not used, and to store their state would wait for a device
        value = checkpoint(lambda x: read(self._evaluated(x)), self._xt, use_reentrant=False, preserve_rng_state=False)
        return cast(Tensor, value)
