"""Samples with importance weights, and the numbers that the weights give: log Z, its bound, the effective size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..posterior.normal import gaussian_log_prob
from ..rng import Rng

LogDensity = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class WeightedSamples:
    """Samples of a density gamma / Z with weights of E[w] = Z.

    x : [N, *shape].
    log_weight : log w, in nats, float64 [N].
    calls : gradients of log gamma, or evaluations of a denoiser, that each sample has cost. A value without a gradient
        counts as one.
    """

    x: Tensor
    log_weight: Tensor
    calls: int

    def __len__(self) -> int:
        return len(self.x)

    @property
    def elbo(self) -> float:
        """E[log w] <= log Z, the evidence lower bound. -inf if a weight is 0."""
        return float(self.log_weight.mean())

    @property
    def log_z(self) -> float:
        """log of the mean weight. The mean weight is right on average, so that its log is low on average."""
        return float(log_mean(self.log_weight))

    @property
    def effective_size(self) -> float:
        """(sum w)^2 / sum w^2, from 1 to N. It does not see a mode that no sample has found."""
        w = self.log_weight
        return float((2 * w.logsumexp(0) - (2 * w).logsumexp(0)).exp())

    @property
    def probability(self) -> Tensor:
        """The weights, divided by their sum, float64 [N]."""
        return self.log_weight.softmax(0)

    @property
    def mean(self) -> Tensor:
        """The weighted mean of x, float64 [*shape]."""
        return torch.tensordot(self.probability, self.x.double(), 1)

    @property
    def var(self) -> Tensor:
        """The weighted variance of each element of x, float64 [*shape]."""
        return torch.tensordot(self.probability, (self.x.double() - self.mean).square(), 1)

    def log_z_of_parts(self, parts: int) -> Tensor:
        """The estimate of log Z from each of so many equal parts of the samples, float64 [parts].

        Their standard deviation is the error of an estimate from N / parts samples.
        Raises ValueError unless each part has at least one sample, and as many as the others.
        """
        if not 1 <= parts <= len(self) or len(self) % parts:
            raise ValueError(f"{len(self)} samples were to be divided into {parts} equal parts")
        return log_mean(self.log_weight.reshape(parts, -1))

    def resampled(self, n: int, rng: Rng) -> Tensor:
        """n draws of x with probabilities proportional to the weights, [n, *shape]."""
        edges = self.probability.cumsum(0)
        pick = torch.searchsorted(edges, rng.uniform((n,), torch.float64) * edges[-1])
        return self.x[pick.clamp(max=len(self) - 1)]


def log_mean(log_weight: Tensor) -> Tensor:
    """log of the mean of exp(log_weight) over the last axis."""
    return log_weight.logsumexp(-1) - math.log(log_weight.shape[-1])


def log_normal(x: Tensor, scale: float) -> Tensor:
    """log N(x; 0, scale^2 I), [B]."""
    return gaussian_log_prob(x, torch.zeros_like(x), torch.full_like(x, scale**2), x.ndim - 1)


def importance_samples(
    log_density: LogDensity,
    shape: tuple[int, ...],
    n: int,
    rng: Rng,
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
) -> WeightedSamples:
    """x ~ N(0, scale^2 I) with the weight gamma(x) / N(x; 0, scale^2 I).

    log_density : log gamma, [B, *shape] -> [B].
    rng : serves n items.

    When to choose: as the least that any other sampler must beat. It is the sampler of a control u = 0.
    """
    x = scale * rng.normal((n, *shape), dtype)
    with torch.no_grad():
        return WeightedSamples(x, (log_density(x) - log_normal(x, scale)).double(), 1)
