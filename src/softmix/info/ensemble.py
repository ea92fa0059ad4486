"""The best of several denoisers at each noise level."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cond import Cond
from ..denoiser import PerLevel
from ..rng import Rng
from .density import errors_at, mean_of, require_process

if TYPE_CHECKING:
    from ..denoiser import Denoiser


def best_per_level(
    denoisers: Sequence[Denoiser],
    x0: Tensor,
    rng: Rng,
    logsnr: Sequence[float],
    cond: Cond | Tensor | None = None,
    batch: int = 256,
) -> PerLevel:
    """At each noise level the denoiser with the least error, the mean over items with the same noise for all.

    denoisers : on one process.
    x0 : other items than those of the likelihood, which would otherwise be too low.
    logsnr : rising levels. Between them the nearest one counts.

    Raises as `PerLevel` and `density` do.
    When to choose: a likelihood by errors is a sum over noise levels, and each denoiser may be the best at some.
    """
    if not denoisers:
        raise ValueError("an ensemble was asked for, and no denoiser was given")
    process = require_process(denoisers[0], "an ensemble")
    levels = torch.tensor(list(logsnr), dtype=torch.float64, device="cpu")
    errors = errors_at(process, [partial(mean_of, each) for each in denoisers], x0, rng, logsnr, cond, batch)
    return PerLevel(denoisers, levels, errors.argmin(0))
