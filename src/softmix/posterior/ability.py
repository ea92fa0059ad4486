"""The room of posteriors: the abilities, and `need`, which turns a missing one into a sentence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

import torch
from torch import Tensor

from ..rng import Rng


class Posterior(ABC):
    """A belief about x0, one for each item of a batch: q(x0 | x_t), shape [B, ...]."""

    @abstractmethod
    def sample(self, rng: Rng) -> Tensor:
        """One draw of x0 for each item, [B, ...]."""

    def draws(self, m: int, rng: Rng) -> Tensor:
        """m independent draws for each item, [m, B, ...]."""
        return torch.stack([self.sample(rng) for _ in range(m)])


class HasMean(Posterior):
    """A posterior whose mean E[x0 | x_t] is known without drawing."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """E[x0 | x_t], [B, ...]."""


class HasVariance(HasMean):
    """A posterior whose variance is known for each element of x0."""

    @property
    @abstractmethod
    def var(self) -> Tensor:
        """Var[x0_i | x_t], broadcastable to [B, ...]."""


class HasDensity(Posterior):
    """A posterior whose density can be evaluated."""

    @abstractmethod
    def log_prob(self, x0: Tensor) -> Tensor:
        """log q(x0 | x_t) in nats, one number per item, [B]."""


Ability = TypeVar("Ability", bound=Posterior)

_REMEDY: dict[type, str] = {
    HasMean: "Wrap the denoiser in `softmix.denoiser.averaged(n)` (--average n), which takes the mean of n draws, "
    "give the model a mean head, or choose a sampler that draws, such as `softmix.sampler.ancestral`.",
    HasVariance: "Use a Normal or Mixture head, or an exact denoiser.",
    HasDensity: "Use a Normal or Mixture head: a posterior that is only drawn from has no density; "
    "train it with the energy score instead.",
}


def need(posterior: Posterior, ability: type[Ability], who: str) -> Ability:
    """The posterior itself if it has the ability.

    Raises TypeError, naming `who` asked, what was found, and what to do instead.
    """
    if isinstance(posterior, ability):
        return posterior
    remedy = next((_REMEDY[kind] for kind in ability.__mro__ if kind in _REMEDY), "")
    lacks = {HasMean: "a mean", HasVariance: "a variance", HasDensity: "a density"}.get(ability, ability.__name__)
    raise TypeError(f"{who} needs {lacks} of the posterior, and {type(posterior).__name__} has none. {remedy}".strip())
