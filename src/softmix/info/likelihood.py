"""The log density of a model along its probability-flow ODE."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cond import Cond
from ..denoiser.tuned import require_untuned
from ..posterior.normal import gaussian_log_prob
from ..process import Process, one_clock
from ..rng import Rng
from ..sampler import velocity

if TYPE_CHECKING:
    from ..denoiser import Denoiser


def log_density(
    denoiser: Denoiser,
    x0: Tensor,
    grid: Tensor,
    last: Callable[[Tensor], Tensor] | None = None,
    probes: tuple[int, Rng] | None = None,
    cond: Cond | Tensor | None = None,
) -> Tensor:
    """log p(x_0) of the probability-flow ODE of a model, in nats, [B].

        dx / dt = b(t, x),   log p_0(x_0) = log p_1(x_1) + int_0^1 div b(t, x_t) dt

    in the four stages of Runge and Kutta's rule. It is the density of `ddim` and other ODE samplers in many steps, and
    not that of a sampler with fresh noise.

    denoiser : a model with a posterior mean, on a Gaussian process with one alpha and one sigma, or on an `Interpolant`
        (with a `NoiseHead`, or c = 0).
    x0 : [B, ...]; take float64 for an exact denoiser.
    grid : rising times [n + 1] inside (0, 1). x0 is taken as the state at the first one, and `last` is the law at the
        last one. Four evaluations in each step.
    last : log p at the last time, from [B, ...] to [B]. By default N(0, sigma^2 I) for a Gaussian process; an
        `Interpolant` needs one.
    probes : (m, rng) for Hutchinson's estimate of the divergence, with m signs for each element, which stay the same
        over the whole path. rng : one stream for each item. By default the divergence is exact, with D derivatives.
    cond : the conditions of the items.

    Raises ValueError for a grid that does not rise inside (0, 1), and for an Interpolant without `last`; TunedError for
    a `TunedDenoiser`.
    Source: Chen et al., "Neural ordinary differential equations", 2018; Grathwohl et al., "FFJORD", 2019; for
    interpolants Albergo, Boffi & Vanden-Eijnden, 2023, section 2.
    When to choose: to compare two models of the same kind by the likelihood of held-out items in few dimensions.
    """
    require_untuned(denoiser, "log_density")
    if grid.ndim != 1 or len(grid) < 2 or not (grid.diff() > 0).all() or not (grid[0] > 0 and grid[-1] < 1):
        raise ValueError(f"the density needs times that rise inside (0, 1); found {grid.tolist()[:5]}")
    end = last or _of_noise(denoiser.process, float(grid[-1]))
    signs = None
    if probes is not None:
        count, rng = probes
        signs = (2 * rng.integers(2, (len(x0), count, *x0.shape[1:])).to(x0) - 1).transpose(0, 1)

    def both(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            state = x.detach().requires_grad_()
            b = velocity(denoiser.process, state, t, denoiser(state, t, cond))
            return b.detach(), _divergence(b, state, signs)

    x, total = x0, x0.new_zeros(len(x0))
    for t, s in pairwise(grid.tolist()):
        h = s - t
        first = both(x, t)
        second = both(x + h / 2 * first[0], t + h / 2)
        third = both(x + h / 2 * second[0], t + h / 2)
        fourth = both(x + h * third[0], s)
        stages = zip((1, 2, 2, 1), (first, second, third, fourth), strict=True)
        for share, (b, divergence) in stages:
            x, total = x + share * h / 6 * b, total + share * h / 6 * divergence
    return end(x) + total


def _divergence(b: Tensor, x: Tensor, signs: Tensor | None) -> Tensor:
    """sum_i d b_i / d x_i for each item, [B]; with signs [m, B, ...] the mean of v . (db/dx)^T v."""
    if signs is not None:
        each = [(torch.autograd.grad(b, x, v, retain_graph=True)[0] * v).flatten(1).sum(1) for v in signs]
        return torch.stack(each).mean(0)
    flat = b.flatten(1)
    total = x.new_zeros(len(x))
    for i in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True)
        total = total + row.flatten(1)[:, i]
    return total


def _of_noise(process: Process, t: float) -> Callable[[Tensor], Tensor]:
    """log N(x; 0, sigma^2 I)."""
    if not hasattr(process, "sigma"):
        raise ValueError(
            f"the law at the last time is not noise for {type(process).__name__}: give its log density as `last`"
        )
    var = float(one_clock(process, "log_density").sigma(t)) ** 2
    return lambda x: gaussian_log_prob(x, torch.zeros_like(x), torch.full_like(x, var), x.ndim - 1)
