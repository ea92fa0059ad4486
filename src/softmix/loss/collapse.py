"""The noise levels at which a mixture can be learned at all."""

from __future__ import annotations

from torch import Tensor

from ..process import Process


def mixture_gain(process: Process, grid: Tensor, spread: Tensor) -> Tensor:
    """dSNR * lambda_max for each step of a falling grid of times, [n].

    grid : n + 1 falling times.
    spread : the largest eigenvalue of Cov[x0 | x_t] at the start of each step, averaged over x_t, [n].

    dSNR = snr(s) - snr(t) for the step from t to s. It is infinite for a step to t = 0.
    """
    snr = process.logsnr(grid).exp()
    return (snr[1:] - snr[:-1]) * spread.to(snr)


def mixture_learnable(process: Process, grid: Tensor, spread: Tensor, k: int) -> Tensor:
    """The steps at which k components can be learned: (k - 1) dSNR lambda_max > 1, booleans [n].

    At the collapsed point of the k-draw bound, draws m + d f_j with covariance F of f change the bound by (d^2 / 2 v)
    [(1 - 1/k) tr(F C) / v - tr F]. It grows along the first eigenvector of C = v (1 + dSNR C_t) if and only if this
    condition holds. For k = 1, the published loss, it never holds.
    """
    return (k - 1) * mixture_gain(process, grid, spread) > 1
