"""The noise level at which sampling may start, from the bound on log p."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cond import Cond
from ..posterior import HasMean, need
from ..process import one_clock
from ..rng import Rng
from ..shape import take

if TYPE_CHECKING:
    from ..denoiser import Denoiser


def where_to_start(
    denoiser: Denoiser,
    start: Denoiser,
    x0: Tensor,
    rng: Rng,
    logsnr: Tensor,
    cond: Cond | Tensor | None = None,
    batch: int = 256,
) -> Tensor:
    """The gain of a start at each noise level, in nats of the bound on log p.

        gain(a) = 1/2 int_a^last (mse_start - mse_denoiser) d snr

    The model begins at logsnr a with a law of x_a. `start` is the denoiser of this law. The gain is relative to a start
    at the last logsnr. The part of the error that no denoiser can avoid cancels in the difference. The best diffusion
    time is the maximum of the gain: above it the network is the better denoiser, below it `start` is.

    denoiser : the model.
    start : the denoiser of the law at the start. For N(m, C) take `wiener`; for pure noise of a VP process, alpha x.
    x0 : held-out data, [B, ...].
    rng : the noise, one stream for each item.
    logsnr : rising log-SNRs, [N].
    cond : the conditions of the items, [B].
    batch : the number of items in one evaluation.

    Returns the gains, [N], float64. The last is 0.
    Raises TypeError for a process with an alpha for each element.
    When to choose: before you sample with `sample(..., start=..., at=...)`, to find `at`.
    Source: Franzese et al., "How much is enough?", Entropy 2023, for the trade-off; the integral is the I-MMSE
    relation.
    """
    process = one_clock(denoiser.process, "where_to_start")
    differences = []
    for level in logsnr.tolist():
        t, total = float(process.time(level)), 0.0
        for low in range(0, len(x0), batch):
            rows = slice(low, low + batch)
            xt = process.noise(x0[rows], t, rng.take(rows)).xt
            given = take(cond, rows)
            with torch.no_grad():
                means = [need(each(xt, t, given), HasMean, "where_to_start").mean for each in (start, denoiser)]
            errors = [(mean - x0[rows]).double().square().sum() for mean in means]
            total += float(errors[0] - errors[1])
        differences.append(total / len(x0))
    # d snr = snr d logsnr
    integrand = torch.tensor(differences, dtype=torch.float64, device=logsnr.device) * logsnr.double().exp() / 2
    integral = torch.cumulative_trapezoid(integrand, logsnr.double())
    return integral[-1] - torch.cat([integral.new_zeros(1), integral])
