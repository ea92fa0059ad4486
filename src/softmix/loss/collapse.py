"""Where a mixture can matter at all."""

from __future__ import annotations

from torch import Tensor

from ..process import Process


def mixture_gain(process: Process, grid: Tensor, spread: Tensor) -> Tensor:
    """dSNR * lambda_max for each step of a falling grid [n + 1] of times: [n].

    dSNR = snr(s) - snr(t) for the step from t to s, infinite for a step to t = 0; spread [n]: the largest
    eigenvalue of Cov[x0 | x_t] at the step's start, averaged over x_t.
    """
    snr = process.logsnr(grid).exp()
    return (snr[1:] - snr[:-1]) * spread.to(snr)


def mixture_learnable(process: Process, grid: Tensor, spread: Tensor, k: int) -> Tensor:
    """Where (k - 1) dSNR lambda_max > 1, booleans [n]: the steps at which k components can be learned.

    At the collapsed point of the k-draw bound, draws m + d f_j with covariance F of f change the bound by
    (d^2 / 2 v) [(1 - 1/k) tr(F C) / v - tr F]; it grows along the first eigenvector of C = v (1 + dSNR C_t)
    just if this holds. k = 1, the published loss, never does.
    """
    return (k - 1) * mixture_gain(process, grid, spread) > 1
