"""The fixed point of regularisation by denoising (RED-diff) for one Gaussian, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from ..process import Gaussian
from .observed import ObservedProblem


def denoising_pull(covariance: Tensor, process: Gaussian, times: Tensor, weights: Tensor) -> Tensor:
    """K, [D, D], so that for x0 ~ N(m, C) the expected gradient of the regulariser at mu is K (mu - m):

        E_eps[eps_hat - eps] = alpha sigma (alpha^2 C + sigma^2 I)^-1 (mu - m)
        K = mean_t w_t alpha sigma (alpha^2 C + sigma^2 I)^-1

    covariance : C, float64.
    times : [T]; for a law of random times, a fine even grid of its quantiles.
    weights : w_t, [T].
    """
    spread, vectors = torch.linalg.eigh(covariance)
    alpha, sigma = (part(times).to(spread) for part in (process.alpha, process.sigma))
    each = (weights.to(spread) * alpha * sigma)[:, None] / (alpha[:, None] ** 2 * spread + sigma[:, None] ** 2)
    return (vectors * each.mean(0)) @ vectors.mT


def denoising_fixed_point(problem: ObservedProblem, y: Tensor, pull: Tensor, means: bool) -> Tensor:
    """The mu at which the expected gradient of RED-diff is 0, [B, *shape], for a law of one Gaussian N(m, C):

        sums   (A^T A / sd^2 + K) mu = A^T y / sd^2 + K m
        means  (A^T A / M + K / D) mu = A^T y / M + K m / D,   for M measured and D elements

    pull : K of `denoising_pull`.
    means : of the losses; else their sums, with the misfit in nats.

    It is the posterior mean for every y if and only if K is in the place of the inverse covariance: K = C^-1 for sums,
    and K = (D sd^2 / M) C^-1 for means. For C = s^2 I a factor of the weights does this. For other C no weights do,
    except in the limit of little noise. Raises ValueError for a mixture.
    """
    law = problem.problem.law
    if len(law.weights) != 1:
        raise ValueError(f"the fixed point of {problem.name} has no closed form: take a law of one Gaussian")
    matrix = problem.matrix.to(y)
    of_y = 1 / len(matrix) if means else 1 / problem.sd**2
    of_x = 1 / law.dim if means else 1.0
    left = of_y * matrix.mT @ matrix + of_x * pull.to(y)
    right = of_y * y @ matrix + of_x * (pull.to(y) @ law.mean.to(y))
    return torch.linalg.solve(left, right.mT).mT.reshape(len(y), *problem.shape)
