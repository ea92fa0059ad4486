"""One of several denoisers for each noise level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..cond import Cond
from ..posterior import Posterior
from ..process import one_clock
from .contract import Denoiser
from .tuned import require_untuned
from .wrap import Wrapped


class PerLevel(Wrapped):
    """The denoiser that is named for the nearest of given noise levels.

    denoisers : on one process, and for items of one shape.
    logsnr : rising levels [N].
    which : the number of the denoiser for each level, [N].

    The attributes are those of the first denoiser. One time for a whole batch, or times of one denoiser; else a call
    raises ValueError. Raises ValueError for processes that differ, for flow maps, and for levels that do not rise or
    do not fit.
    Source: the ensembles of Kong, Brekelmans & Ver Steeg, "Information-theoretic diffusion", ICLR 2023.
    When to choose: for likelihoods, where each noise level counts by itself; `softmix.info.best_per_level` fits it.
    """

    def __init__(self, denoisers: Sequence[Denoiser], logsnr: Tensor, which: Tensor):
        if len({repr(each.process) for each in denoisers}) != 1:
            found = ", ".join(repr(each.process) for each in denoisers)
            raise ValueError(f"denoisers of one process were expected; found {found or 'none'}")
        if logsnr.shape != which.shape or logsnr.ndim != 1 or not len(logsnr) or not (logsnr.diff() > 0).all():
            raise ValueError(f"rising levels, each with a denoiser, were expected; found {logsnr.tolist()[:5]}")
        if not ((which >= 0) & (which < len(denoisers))).all():
            raise ValueError(f"numbers of {len(denoisers)} denoisers were expected; found {which.tolist()}")
        for each in denoisers:
            require_untuned(each, "an ensemble")
            if getattr(each, "two_times", False):
                raise ValueError("denoisers of one time were expected, and one of them is a flow map of two")
        super().__init__(denoisers[0], self._ask)
        self.denoisers = tuple(denoisers)
        self.logsnr, self.which = logsnr.double().cpu(), which.long().cpu()
        self._edges = (self.logsnr[1:] + self.logsnr[:-1]) / 2

    def _ask(self, inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None) -> Posterior:
        level = one_clock(self.process, "an ensemble").logsnr(t).double().cpu()
        chosen = self.which[torch.bucketize(level, self._edges)].unique()
        if len(chosen) != 1:
            raise ValueError("an ensemble needs one time for the whole batch")
        return self.denoisers[int(chosen)](xt, t, cond)
