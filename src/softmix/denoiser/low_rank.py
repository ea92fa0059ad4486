"""The denoiser of a mixture of low-rank Gaussians, with bases that are given or learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..cond import Cond, CondError
from ..posterior import FullMixture
from ..process import Gaussian
from ..shape import column


class LowRankMixture(nn.Module):
    """The posterior for x0 ~ sum_k w_k N(mu_k, U_k U_k^T) with orthonormal U_k of rank d:

        means        mu_k + alpha / (alpha^2 + sigma^2) U_k U_k^T r_k,    r_k = x_t - alpha mu_k
        weights      w_k exp(-(|r_k|^2 - alpha^2 / (alpha^2 + sigma^2) |U_k^T r_k|^2) / (2 sigma^2))
        covariances  sigma^2 / (alpha^2 + sigma^2) U_k U_k^T

    The only parameters are the bases. With one component the squared error is least at the principal components of the
    data. With several it is least at the best clustering into subspaces.

    components, rank : K and d.
    shape : of an item, with D elements.
    means : mu, [K, D], fixed; by default 0: then subtract the mean of the data first.
    weights : w, [K], fixed; by default equal.
    hard : the component of the largest weight alone, as in the paper's theorem.
    seed : of the first bases, which are random.

    Raises ValueError for a rank above D, for means and weights of other shapes, and for a process with a schedule of
    each element; CondError for a condition.
    When to choose: to find subspaces by denoising, and to test what a denoiser knows of them.
    Source: Wang et al., "Diffusion models learn low-dimensional distributions via subspace clustering", 2024.
    """

    def __init__(
        self,
        process: Gaussian,
        components: int,
        rank: int,
        shape: tuple[int, ...],
        means: Tensor | None = None,
        weights: Tensor | None = None,
        hard: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        size = math.prod(shape)
        if not 1 <= rank <= size or components < 1:
            raise ValueError(
                f"{components} bases of rank {rank} were asked for, in {size} dimensions: take ranks from 1 to {size}"
            )
        for name, part, wanted in (("means", means, (components, size)), ("weights", weights, (components,))):
            if part is not None and tuple(part.shape) != wanted:
                raise ValueError(f"{name} of shape {list(wanted)} were expected; found {list(part.shape)}")
        if process.per_element:
            raise ValueError(
                f"LowRankMixture needs one alpha for all elements, and {type(process).__name__} has several"
            )
        self.process, self.shape, self.hard = process, shape, hard
        self.means: Tensor
        self.log_weights: Tensor
        self.register_buffer("means", torch.zeros(components, size) if means is None else means)
        self.register_buffer("log_weights", torch.zeros(components) if weights is None else weights.log())
        # on the CPU, so that a seed has the same bases on every device
        generator = torch.Generator("cpu").manual_seed(seed)
        self.free = nn.Parameter(torch.randn(components, size, rank, generator=generator, device="cpu"))

    @property
    def bases(self) -> Tensor:
        """U, [K, D, d], orthonormal: the first factor of the parameters' QR."""
        return torch.linalg.qr(self.free)[0]

    def forward(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> FullMixture:
        if cond is not None:
            raise CondError("a condition was given to LowRankMixture, which knows none: train one for each class")
        alpha, sigma = (column(part(t), xt).reshape(-1, 1, 1) for part in (self.process.alpha, self.process.sigma))
        bases = self.bases.to(xt)
        log_weights, means = answers(
            xt.flatten(1), alpha, sigma, bases, self.means.to(xt), self.log_weights.to(xt), self.hard
        )
        scale = sigma / (alpha**2 + sigma**2).sqrt()
        square = torch.cat([bases, bases.new_zeros(*bases.shape[:2], bases.shape[1] - bases.shape[2])], 2)
        return FullMixture(log_weights, means, scale[..., None] * square, tuple(xt.shape[1:]))


def answers(
    x: Tensor, alpha: Tensor, sigma: Tensor, bases: Tensor, means: Tensor, log_weights: Tensor, hard: bool = False
) -> tuple[Tensor, Tensor]:
    """The log weights [B, K] and the means [B, K, D] of `LowRankMixture`.

    x : [B, D]. alpha, sigma : [B or 1, 1, 1]. bases : [K, D, d], orthonormal. means : [K, D]. log_weights : [K].
    """
    total = alpha**2 + sigma**2
    off = x[:, None] - alpha * means
    inside = torch.einsum("bkd,kde->bke", off, bases)
    distance = (off.square().sum(2) - (alpha**2 / total)[..., 0] * inside.square().sum(2)) / (2 * sigma**2)[..., 0]
    # all ranks are equal, so all determinants are
    found = log_weights - distance
    if hard:
        found = torch.where(found == found.amax(1, keepdim=True), 0.0, -torch.inf)
    return found, means + alpha / total * torch.einsum("bke,kde->bkd", inside, bases)
