"""Exact denoisers in closed form. The tests compare everything else with them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cond import Cond
from ..posterior import Empirical, FullMixture
from ..process import Gaussian
from ..shape import column


def _per_item(value: Tensor, x: Tensor) -> Tensor:
    """A number, or one per item, as [1 or B]."""
    return value.to(x).reshape(-1)


class ExactMixture:
    """The posterior for x0 ~ sum_k w_k N(mu_k, S_k): again a mixture, with full covariances.

    With S_k = U diag(l) U^T:

        weights      w_k N(x_t; alpha mu_k, alpha^2 S_k + sigma^2 I)
        means        mu_k + U diag(alpha l / (alpha^2 l + sigma^2)) U^T (x_t - alpha mu_k)
        covariances  U diag(l sigma^2 / (alpha^2 l + sigma^2)) U^T

    For a schedule per element, with A = diag(alpha), R = diag(sigma^2) and a root S_k = L L^T, the eigenvectors of L^T
    A R^-1 A L = V diag(m) V^T are computed at each time. F = L V diag(1 + m)^(-1/2) is a root of the covariance, and
    the means are mu_k + F F^T A R^-1 (x_t - A mu_k). For scalar schedules this is the same law, and the eigenvectors of
    S_k serve all times.

    weights : [K].
    means : [K, D].
    covariances : [K, D, D].

    Items may have any shape with D elements.
    When to choose: as the exact answer for a known mixture, in tests and as a control.
    """

    def __init__(self, process: Gaussian, weights: Tensor, means: Tensor, covariances: Tensor):
        self.process = process
        self.log_weights = weights.log()
        self.means = means
        eigenvalues, self.vectors = torch.linalg.eigh(covariances)
        self.eigenvalues = eigenvalues.clamp(min=0)

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> FullMixture:
        if self.process.per_element:
            return self._by_element(xt, t)
        alpha, sigma = (
            _per_item(self.process.alpha(t), xt)[:, None, None],
            _per_item(self.process.sigma(t), xt)[:, None, None],
        )
        means, vectors, spread = self.means.to(xt), self.vectors.to(xt), self.eigenvalues.to(xt)
        total = alpha**2 * spread + sigma**2
        offset = torch.einsum("bkd,kde->bke", xt.flatten(1)[:, None] - alpha * means, vectors)
        log_weights = self.log_weights.to(xt) - 0.5 * (offset**2 / total + total.log()).sum(-1)
        centres = means + torch.einsum("bke,kde->bkd", alpha * spread / total * offset, vectors)
        factors = vectors * (sigma**2 * spread / total).sqrt()[..., None, :]
        return FullMixture(log_weights, centres, factors, tuple(xt.shape[1:]))

    def _by_element(self, xt: Tensor, t: Tensor | float) -> FullMixture:
        alpha, sigma = (_by_item(part(t), xt)[:, None] for part in (self.process.alpha, self.process.sigma))
        means, weights = self.means.to(alpha), self.log_weights.to(alpha)
        root = (self.vectors * self.eigenvalues.sqrt()[:, None, :]).to(alpha)
        scaled = (alpha / sigma)[..., None] * root
        gains, vectors = torch.linalg.eigh(scaled.mT @ scaled)
        gains = gains.clamp(min=0)
        factors = root @ (vectors / (1 + gains).sqrt()[..., None, :])
        residual = (xt.flatten(1).to(alpha)[:, None] - alpha * means) / sigma
        projected = torch.einsum("bkde,bkd->bke", factors, alpha / sigma * residual)
        centres = means + torch.einsum("bkde,bke->bkd", factors, projected)
        distance = residual.square().sum(-1) - projected.square().sum(-1) + torch.log1p(gains).sum(-1)
        log_weights, centres, factors = (part.to(xt) for part in (weights - distance / 2, centres, factors))
        return FullMixture(log_weights, centres, factors, tuple(xt.shape[1:]))


def _by_item(value: Tensor, x: Tensor) -> Tensor:
    """An array of the rank of x, a number, or one number per item, as [1 or B, D]; float64."""
    value = value.to(x.device)
    value = value.reshape(-1, *(1,) * (x.ndim - 1)) if value.ndim < 2 else value
    return value.expand(-1, *x.shape[1:]).flatten(1)


def wiener(process: Gaussian, mean: Tensor, covariance: Tensor) -> ExactMixture:
    """The posterior for x0 ~ N(mean, covariance): the best linear denoiser for any data with these moments.

    mean : [D].
    covariance : [D, D].
    """
    return ExactMixture(process, mean.new_ones(1), mean[None], covariance[None])


def gaussian_flow(
    process: Gaussian,
    mean: Tensor,
    variances: Tensor,
    vectors: Tensor,
    x: Tensor,
    t: Tensor | float,
    s: Tensor | float,
) -> Tensor:
    """The map of the probability-flow ODE from time t to time s for x0 ~ N(m, U diag(l) U^T).

        x_s = alpha_s m + U diag(psi) U^T (x_t - alpha_t m)
        psi^2 = (alpha_s^2 l + sigma_s^2) / (alpha_t^2 l + sigma_t^2)

    mean : m, [D].
    variances : l, [D].
    vectors : U, [D, D].
    x : [B, D]. All are float64.
    """
    before, after = (process.alpha(time) ** 2 * variances + process.sigma(time) ** 2 for time in (t, s))
    turned = (x - process.alpha(t) * mean) @ vectors * (after / before).sqrt()
    return process.alpha(s) * mean + turned @ vectors.mT


class ExactData:
    """The posterior for x0 uniform over a finite data set y [N, ...]: weights N(x_t; alpha y_i, sigma^2 I).

    This is the exact optimum of squared error on that set. A network that reached it would copy the data.
    When to choose: to see how far a model has memorised its data.
    """

    def __init__(self, process: Gaussian, points: Tensor):
        self.process, self.points = process, points

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Empirical:
        points = self.points.to(xt)
        alpha, sigma = (column(part(t), xt).reshape(-1, 1) for part in (self.process.alpha, self.process.sigma))
        x, y = xt.flatten(1), points.flatten(1)
        # ||x - alpha y||^2 without ||x||^2, which is the same for all weights
        distance = alpha**2 * (y**2).sum(1) - 2 * alpha * (x @ y.T)
        return Empirical(-distance / (2 * sigma**2), points)
