"""Posteriors that are known by their draws, as in Soft Mixture Denoising.

The trunk of a network runs once. `head` then turns each latent eta ~ N(0, I) into a draw of x0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..rng import Rng
from .ability import SPREAD, Combine, HasDensity, HasMean, HasVariance, Posterior

Head = Callable[[Tensor], Tensor]
# from the sizes of consecutive groups of items to the posterior of each group
Split = Callable[[Sequence[int]], "tuple[Implicit, ...]"]


class Implicit(Posterior):
    """x0 = head(eta), eta ~ N(0, I): a continuous ("soft") mixture indexed by the latent.

    head : maps latents [m, B, *latent_shape] to draws [m, B, ...], after one evaluation of the trunk.
    items : the batch size B.
    latent_shape : of one latent.
    like : a tensor with the dtype and device of the draws.
    parts : a function for `split`. Without it a group runs `head` on the whole batch.

    When to choose: for four evaluations and fewer.
    Source: Li, van Breugel & van der Schaar, "Soft mixture denoising", ICLR 2024, section 4.
    """

    remedies = MappingProxyType(
        {
            HasMean: "Wrap the denoiser in `softmix.denoiser.averaged(n)` (--average n), which takes the mean of n "
            "draws, give the model a mean head, or choose a sampler that draws, such as `softmix.sampler.ancestral`.",
            HasVariance: f"Estimate it from draws, `posterior.draws(m, rng).var(0)`. {SPREAD}",
            HasDensity: "Use a Normal or Mixture head: a posterior that is known by its draws has no density; "
            "train it with the energy score instead.",
        }
    )

    def __init__(self, head: Head, items: int, latent_shape: tuple[int, ...], like: Tensor, parts: Split | None = None):
        self.head, self._items, self._latent_shape, self._like = head, items, latent_shape, like
        self._parts = parts

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self._latent_shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the draws and of the latents."""
        return self._like.dtype

    def latents(self, m: int, rng: Rng) -> Tensor:
        """m latents for each item, [m, B, *latent_shape]."""
        eta = rng.normal((self._items, m, *self._latent_shape), self._like.dtype).to(self._like.device)
        return eta.transpose(0, 1)

    def draws(self, m: int, rng: Rng) -> Tensor:
        return self.head(self.latents(m, rng))

    def sample(self, rng: Rng) -> Tensor:
        return self.draws(1, rng)[0]

    def split(self, sizes: Sequence[int]) -> tuple[Implicit, ...]:
        """The posteriors of consecutive groups of items, after one evaluation of the trunk for all of them.

        sizes : the number of items of each group.

        Raises ValueError for sizes with another sum than the batch size.
        """
        if sum(sizes) != self._items:
            raise ValueError(
                f"a posterior of {self._items} items was to be split into {list(sizes)}; give sizes with this sum"
            )
        if self._parts is not None:
            return self._parts(sizes)
        starts = [sum(sizes[:k]) for k in range(len(sizes))]
        return tuple(self._group(start, start + size) for start, size in zip(starts, sizes, strict=True))

    def _group(self, start: int, stop: int) -> Implicit:
        return Implicit(self._head_of(start, stop), stop - start, self._latent_shape, self._like)

    def _head_of(self, start: int, stop: int) -> Head:
        """The head of items start .. stop - 1. The other items of the batch get latents of zeros."""

        def head(eta: Tensor) -> Tensor:
            before = eta.new_zeros(len(eta), start, *self._latent_shape)
            after = eta.new_zeros(len(eta), self._items - stop, *self._latent_shape)
            return self.head(torch.cat([before, eta, after], dim=1))[:, start:stop]

        return head

    def combined(self, other: Posterior[Any], combine: Combine) -> Implicit | None:
        """combine(draw, draw of the other) with the same latent in both, and the same of the means if both have one."""
        if not isinstance(other, Implicit):
            return None
        head: Head = lambda eta: combine(self.head(eta), other.head(eta))  # noqa: E731
        if isinstance(self, ImplicitMean) and isinstance(other, ImplicitMean):
            mine, theirs = self, other
            return ImplicitMean(
                head, self._items, self._latent_shape, self._like, lambda: combine(mine.mean, theirs.mean)
            )
        return Implicit(head, self._items, self._latent_shape, self._like)

    def averaged(self, latents: Tensor) -> ImplicitMean:
        """The same posterior with a mean: the average of head over the given latents [n, *latent_shape]."""
        eta = latents.to(self._like)[:, None].expand(len(latents), self._items, *self._latent_shape)
        return ImplicitMean(self.head, self._items, self._latent_shape, self._like, lambda: self.head(eta).mean(0))


class ImplicitMean(Implicit, HasMean):
    """An implicit posterior with a mean, from a mean head or from an average of draws.

    mean : a function that computes the mean. It runs at the first use; then the result is stored.

    When to choose: if samplers or losses need a mean beside the draws.
    """

    def __init__(
        self,
        head: Head,
        items: int,
        latent_shape: tuple[int, ...],
        like: Tensor,
        mean: Callable[[], Tensor],
        parts: Split | None = None,
    ):
        super().__init__(head, items, latent_shape, like, parts)
        self._compute: Callable[[], Tensor] = mean
        self._mean: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        if self._mean is None:
            self._mean = self._compute()
        return self._mean

    def _group(self, start: int, stop: int) -> ImplicitMean:
        head = self._head_of(start, stop)
        return ImplicitMean(head, stop - start, self._latent_shape, self._like, lambda: self.mean[start:stop])


def spread(draws: Tensor) -> Tensor:
    """The unbiased trace of the covariance of m draws [m, B, ...], one number per item, [B]."""
    if len(draws) < 2:
        raise ValueError("the spread of fewer than two draws is not defined: give at least two")
    return torch.var(draws, dim=0, unbiased=True).flatten(1).sum(1)
