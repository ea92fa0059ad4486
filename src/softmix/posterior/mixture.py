"""Gaussian mixtures: one choice of component per item or per pixel, and mixtures with full covariances."""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import without_autocast
from ..rng import Rng
from .ability import HasDensity, HasVariance
from .normal import factor_log_prob, gaussian_log_prob

# the weights of up to so many values are rounded to 2^-30, those of more values to 2^-52
_FEW = 1024


def draw_index(log_weights: Tensor, rng: Rng) -> Tensor:
    """Sample an index of axis 1 by its log-weight, by inversion of the cumulative weights.

        C_k = sum_{j <= k} w_j,   the index is the first k with u < C_k,   u uniform in (0, 1)

    log_weights : [B, K, ...], need not be normalised. Returns indices [B, 1, ...].

    The weights are rounded to integers, w_j = round(2^30 p_j), and for float64 or many values round(2^52 p_j). The sums
    are then exact. So the same weights and the same u give the same index on every device, in any order of the sum, and
    a value of weight 0 is never drawn. If the weights of two devices differ by rounding, with cumulative sums C and C',
    then

        P(other index) <= E |index - index'| = sum_{k < K} |C_k - C'_k|
    """
    p = log_weights.to(torch.promote_types(log_weights.dtype, torch.float32)).softmax(1)
    few = p.shape[1] <= _FEW and p.dtype == torch.float32
    whole = torch.int32 if few else torch.int64
    edges = p.mul(2.0**30 if few else 2.0**52).round_().to(whole).cumsum(1, dtype=whole)
    real = torch.float32 if rng.device.type == "mps" else torch.float64
    u = rng.uniform((len(p), 1, *p.shape[2:]), real).to(p.device)
    below = (u.mul_(edges[:, -1:]).to(whole) >= edges).sum(1, keepdim=True, dtype=whole)
    # in float32, u may be 1
    return below.clamp_(max=p.shape[1] - 1).long()


class Mixture(HasVariance, HasDensity):
    """x0 | x_t ~ sum_k w_k N(mean_k, var_k), with independent elements inside a component.

    log_weights : [B, K] for one choice per item; [B, K, 1, H, W] for one per pixel, shared by the channels; or
        [B, K, L, 1] for one per place of a sequence [B, L, C]. An axis of size 1 shares the choice. Any normalisation.
    means : [B, K, ...].
    var : broadcastable to means.

    When to choose: for points and small signals with clear modes, and for images if a density is needed.
    Source of the mixture per pixel: GMFlow, Chen et al. 2025.
    """

    def __init__(self, log_weights: Tensor, means: Tensor, var: Tensor):
        if log_weights.ndim not in (2, means.ndim) or log_weights.shape[:2] != means.shape[:2]:
            raise ValueError(
                f"weights of shape {list(log_weights.shape)} do not fit means of shape {list(means.shape)}: "
                "give shape [B, K], or [B, K, 1, H, W] for a mixture per pixel"
            )
        self._per_pixel = log_weights.ndim == means.ndim > 2
        self._log_weights = log_weights.log_softmax(1)
        self._means, self._var = means, var.expand_as(means)

    @property
    def log_weights(self) -> Tensor:
        return self._log_weights

    @property
    def means(self) -> Tensor:
        return self._means

    def _weights(self) -> Tensor:
        weights = self._log_weights.exp()
        return weights.reshape(*weights.shape, *(1,) * (self._means.ndim - weights.ndim))

    @property
    def mean(self) -> Tensor:
        return (self._weights() * self._means).sum(1)

    @property
    def var(self) -> Tensor:
        return (self._weights() * (self._var + (self._means - self.mean[:, None]) ** 2)).sum(1)

    def sample(self, rng: Rng) -> Tensor:
        choice = draw_index(self._log_weights, rng)
        choice = choice.reshape(*choice.shape, *(1,) * (self._means.ndim - choice.ndim))
        index = choice.expand(len(choice), 1, *self._means.shape[2:])
        mean, var = self._means.gather(1, index)[:, 0], self._var.gather(1, index)[:, 0]
        return mean + var.sqrt() * rng.normal(mean.shape, mean.dtype).to(mean.device)

    def log_prob(self, x0: Tensor) -> Tensor:
        if not self._per_pixel:
            each = gaussian_log_prob(x0[:, None], self._means, self._var, x0.ndim - 1)
            return torch.logsumexp(self._log_weights + each, 1)
        each = -0.5 * ((x0[:, None] - self._means) ** 2 / self._var + (2 * torch.pi * self._var).log())
        shared = [axis for axis in range(2, each.ndim) if self._log_weights.shape[axis] == 1]
        each = each.sum(shared, keepdim=True) if shared else each
        return torch.logsumexp(self._log_weights + each, 1).flatten(1).sum(1)

    def blurred(self, var: Tensor) -> Mixture:
        """The law of x0 + N(0, var I). var : one number per item, [B]."""
        return Mixture(
            self._log_weights, self._means, self._var + var.to(self._var).reshape(-1, *(1,) * (self._means.ndim - 1))
        )


class FullMixture(HasVariance, HasDensity):
    """x0 | x_t ~ sum_k w_k N(mean_k, L_k L_k^T), for points and flattened signals.

    It is the exact posterior of a Gaussian mixture.

    log_weights : [B, K], need not be normalised.
    means : [B, K, D].
    factors : L_k, any square root of the covariance, [B or 1, K, D, D].
    shape : the shape of one item, with D elements.

    When to choose: as the exact answer for a known law.
    """

    def __init__(self, log_weights: Tensor, means: Tensor, factors: Tensor, shape: tuple[int, ...]):
        self._log_weights, self._means, self._factors, self._shape = log_weights.log_softmax(1), means, factors, shape

    @property
    def log_weights(self) -> Tensor:
        return self._log_weights

    @property
    def mean(self) -> Tensor:
        return (self._log_weights.exp()[..., None] * self._means).sum(1).reshape(-1, *self._shape)

    @property
    def var(self) -> Tensor:
        own = (self._factors**2).sum(-1)
        mean = self.mean.flatten(1)
        return (
            (self._log_weights.exp()[..., None] * (own + (self._means - mean[:, None]) ** 2))
            .sum(1)
            .reshape(-1, *self._shape)
        )

    @property
    def covariance(self) -> Tensor:
        """Cov[x0 | x_t], [B, D, D]."""
        weights = self._log_weights.exp()
        centred = self._means - self.mean.flatten(1)[:, None]
        factors = self._factors.expand(*weights.shape, -1, -1)
        with without_autocast(centred.device):
            own = torch.einsum("bk,bkde,bkfe->bdf", weights, factors, factors)
            return own + torch.einsum("bk,bkd,bkf->bdf", weights, centred, centred)

    def sample(self, rng: Rng) -> Tensor:
        choice = draw_index(self._log_weights, rng)[:, 0]
        item = torch.arange(len(choice), device=choice.device)
        mean = self._means[item, choice]
        factor = self._factors[item if len(self._factors) > 1 else 0, choice]
        z = rng.normal(mean.shape, mean.dtype).to(mean.device)
        with without_autocast(mean.device):
            return (mean + torch.einsum("bde,be->bd", factor, z)).reshape(-1, *self._shape)

    def log_prob(self, x0: Tensor) -> Tensor:
        each = factor_log_prob(x0.flatten(1)[:, None].expand_as(self._means), self._means, self._factors)
        return torch.logsumexp(self._log_weights + each, 1)

    def blurred(self, var: Tensor) -> FullMixture:
        """The law of x0 + N(0, var I). var : one number per item, [B]."""
        factors = self._factors
        with without_autocast(factors.device):
            own = factors @ factors.mT
            added = var.to(own).reshape(-1, 1, 1, 1) * torch.eye(own.shape[-1], dtype=own.dtype, device=own.device)
            return FullMixture(self._log_weights, self._means, torch.linalg.cholesky(own + added), self._shape)
