"""The variational bound of a chain of steps on the likelihood of whole numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cond import Cond
from ..posterior import HasMean, need
from ..process import Gaussian
from ..rng import Rng
from .density import Nats, as_nats, by_repeats, offset_of, require_process
from .discrete import Grid

if TYPE_CHECKING:
    from ..denoiser import Denoiser


def variational(
    denoiser: Denoiser,
    x0: Tensor,
    rng: Rng,
    times: Tensor,
    grid: Grid | None = None,
    draws: int = 16,
    repeats: int = 2,
    cond: Cond | Tensor | None = None,
    batch: int = 256,
) -> Nats:
    """The variational bound on -log P(x_0) of the chain with the variance of q(x_s | x_t, x_0), in nats:

        KL( q(x_T | x_0) || N(0, sigma_T^2) )
        + sum_steps (1 / 2) (snr_s - snr_t) E|x_0 - m(x_t)|^2
        - E log P(x_0 | x_1),   P(x_0 | x_1) in proportion to exp(-snr_1 (x_1 / alpha - x_0)^2 / 2) on the grid

    times : falling times of the chain [T + 1], inside (0, 1]. The last one is the time of x_1.
    draws : steps of the chain that stand for all, evenly spread over logsnr, others in each repeat.
    repeats : at least 2, for the standard error.
    grid : of the values, by default that of 8 bits. x0, rng, cond, batch : as in `discrete`.

    With more steps the bound falls, towards the continuous one.

    Raises as `discrete` does, and ValueError for times that do not fall inside (0, 1].
    Sources: Ho, Jain & Abbeel, NeurIPS 2020, eq. 5; Kingma et al., "Variational diffusion models", NeurIPS 2021.
    When to choose: to compare with published bits per dimension; beside `discrete`, on the same model.
    """
    process, known = require_process(denoiser, "variational"), grid or Grid()
    require_falling(times)
    if draws < 1 or repeats < 2:
        raise ValueError(f"take at least one draw and two repeats; found {draws} and {repeats}")

    def one(repeat: int, items: Tensor, own: Rng, given: Cond | Tensor | None) -> Tensor:
        chosen = _steps(process, times, draws, offset_of(repeat))
        return _of_batch(denoiser, process, items, own, times, known, chosen, given)

    totals = by_repeats(x0, rng, repeats, cond, batch, one)
    ends = tuple(float(process.logsnr(t)) for t in (times[0], times[-1]))
    return as_nats(totals, (ends[0], ends[1]), x0, (0.0, 0.0))


def _steps(process: Gaussian, times: Tensor, draws: int, offset: float) -> list[tuple[int, float]]:
    """Numbers of steps, and the steps that each stands for: even in logsnr, where the errors change slowly. All of them
    once if there are no more."""
    steps = len(times) - 1
    if draws >= steps:
        return [(k, 1.0) for k in range(steps)]
    share = process.logsnr(times).diff()
    edges = share.cumsum(0) / share.sum()
    places = (torch.arange(draws, dtype=edges.dtype, device=edges.device) + offset) / draws
    chosen = torch.searchsorted(edges, places).clamp(max=steps - 1)
    return [(int(k), float(share.sum() / share[k]) / draws) for k in chosen]


def _of_batch(
    denoiser: Denoiser,
    process: Gaussian,
    x0: Tensor,
    rng: Rng,
    times: Tensor,
    grid: Grid,
    chosen: Sequence[tuple[int, float]],
    cond: Cond | Tensor | None,
) -> Tensor:
    """One estimate of the bound of each item, [b]. chosen : steps, and how many each stands for."""
    total = _prior(process, x0, times[0])
    for j, (k, count) in enumerate(chosen):
        t, s = float(times[k]), float(times[k + 1])
        noised = process.noise(x0, t, rng.child(f"noise {j}"), cond)
        with torch.no_grad():
            mean = need(denoiser(noised.xt, noised.t, cond), HasMean, "variational").mean
        error = (mean.double() - x0.double()).square().flatten(1).sum(1)
        gain = float(process.logsnr(s).exp() - process.logsnr(t).exp())
        total = total + count * gain * error / 2
    noised = process.noise(x0, float(times[-1]), rng.child("decoder"))
    return total + decoded(process, x0, noised.xt, times[-1], grid)


def _prior(process: Gaussian, x0: Tensor, t: Tensor) -> Tensor:
    """KL( N(alpha x0, sigma^2) || N(0, sigma_prior^2) ) at the first time, for the prior of the process, [b]."""
    alpha, sigma = (float(part) for part in process.levels(t))
    prior = float(process.sigma(1.0))
    ratio = (sigma / prior) ** 2
    size = (alpha * x0.double() / prior).square()
    return (size + ratio - 1 - math.log(ratio)).flatten(1).sum(1) / 2


def require_falling(times: Tensor) -> None:
    """Raises ValueError for times that are not those of a chain."""
    if times.ndim != 1 or len(times) < 2 or not (times.diff() < 0).all() or not (times[-1] > 0 and times[0] <= 1):
        raise ValueError(f"the chain needs times that fall inside (0, 1]; found {times.tolist()[:5]}")


def decoded(process: Gaussian, x0: Tensor, xt: Tensor, t: Tensor, grid: Grid) -> Tensor:
    """-log P(x0 | x_t) of each item, [b]."""
    y = xt.double() / float(process.alpha(t))
    snr = float(process.logsnr(t).exp())
    values = grid.low + grid.step * torch.arange(grid.count, dtype=torch.float64, device=x0.device)
    total = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    own = grid.nearest(x0.double()).long()
    # one channel or row at a time, because every element has a logit for each value
    for part, number in zip(y.flatten(1).split(64, 1), own.flatten(1).split(64, 1), strict=True):
        logits = -snr * (part[..., None] - values).square() / 2
        total -= logits.log_softmax(-1).gather(-1, number[..., None]).squeeze(-1).sum(1)
    return total
