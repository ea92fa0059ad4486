"""The abilities, and `need`, which turns a missing one into a sentence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor
from typing_extensions import TypeVar

from ..rng import Rng

X = TypeVar("X", default=Tensor)  # what x0 is: a tensor, or for `Joint` a mapping of names to tensors
Combine = Callable[[Tensor, Tensor], Tensor]


class Posterior(ABC, Generic[X]):
    """A belief about x0, one for each item of a batch: q(x0 | x_t), shape [B, ...].

    remedies : for each ability that this kind of belief lacks, a sentence that says what to do instead.
    """

    remedies: ClassVar[Mapping[type[Posterior[Any]], str]] = MappingProxyType({})

    @abstractmethod
    def sample(self, rng: Rng) -> X:
        """One draw of x0 for each item, [B, ...]."""

    def draws(self, m: int, rng: Rng) -> X:
        """m independent draws for each item, [m, B, ...]."""
        # of tensors; a belief about anything else draws in its own way
        return torch.stack([self.sample(rng) for _ in range(m)])  # type: ignore[misc, return-value]

    def combined(self, other: Posterior[Any], combine: Combine) -> Posterior[X] | None:
        """What a rule of two estimates makes of this belief and of another; None where it can only join their means."""
        return None

    def remedy(self, ability: type[Posterior[Any]]) -> str:
        """What to do where this belief is asked for an ability that it lacks; "" if nothing is known."""
        known = ChainMap(dict(self.remedies), _GENERAL)
        return next((known[kind] for kind in ability.__mro__ if kind in known), "")


class HasMean(Posterior[X]):
    """A posterior whose mean E[x0 | x_t] is known without drawing."""

    @property
    @abstractmethod
    def mean(self) -> X:
        """E[x0 | x_t], [B, ...]."""


class HasVariance(HasMean[X]):
    """A posterior whose variance is known for each element of x0."""

    @property
    @abstractmethod
    def var(self) -> X:
        """Var[x0_i | x_t], broadcastable to [B, ...]."""


class HasDensity(Posterior[X]):
    """A posterior whose density can be evaluated; where x0 takes one of finitely many values, its probability."""

    @abstractmethod
    def log_prob(self, x0: X) -> Tensor:
        """log q(x0 | x_t) in nats, one number per item, [B]."""


Ability = TypeVar("Ability", bound=Posterior[Any])

SPREAD = "Use a Normal or Mixture head, or an exact denoiser."

# for kinds of belief that say nothing themselves
_GENERAL: dict[type[Posterior[Any]], str] = {
    HasMean: "Use a head with a mean, or choose a sampler that draws, such as `softmix.sampler.ancestral`.",
    HasVariance: SPREAD,
    HasDensity: "Use a Normal or Mixture head.",
}


def need(posterior: Posterior[Any], ability: type[Ability], who: str) -> Ability:
    """The posterior itself if it has the ability.

    Raises TypeError, naming `who` asked, what was found, and what to do instead.
    """
    if isinstance(posterior, ability):
        return posterior
    lacks = {HasMean: "a mean", HasVariance: "a variance", HasDensity: "a density"}.get(ability, ability.__name__)
    found = f"{who} needs {lacks} of the posterior, and {type(posterior).__name__} has none."
    raise TypeError(f"{found} {posterior.remedy(ability)}".strip())
