"""The base class of posteriors, their abilities, and `need`, which checks for an ability."""

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

# the type of x0: a tensor, or for `Joint` a mapping of names to tensors
X = TypeVar("X", default=Tensor)
# a function of two estimates of x0, as guidance uses
Combine = Callable[[Tensor, Tensor], Tensor]


class Posterior(ABC, Generic[X]):
    """The law of x0 given x_t, one for each item of a batch: q(x0 | x_t), shape [B, ...].

    remedies : for each ability that this kind of posterior lacks, a sentence with advice.
    """

    remedies: ClassVar[Mapping[type[Posterior[Any]], str]] = MappingProxyType({})

    @abstractmethod
    def sample(self, rng: Rng) -> X:
        """One sample of x0 for each item, [B, ...]."""

    def draws(self, m: int, rng: Rng) -> X:
        """m independent samples of x0 for each item, [m, B, ...]."""
        # this works for tensors; a posterior over mappings overrides it
        return torch.stack([self.sample(rng) for _ in range(m)])  # type: ignore[misc, return-value]

    def combined(self, other: Posterior[Any], combine: Combine) -> Posterior[X] | None:
        """The posterior that `combine`, a function of two estimates, makes of this one and another.

        Returns None if only the two means can be combined.
        """
        return None

    def remedy(self, ability: type[Posterior[Any]]) -> str:
        """Advice for a missing ability; "" if there is none."""
        known = ChainMap(dict(self.remedies), _GENERAL)
        return next((known[kind] for kind in ability.__mro__ if kind in known), "")


class HasMean(Posterior[X]):
    """A posterior with a mean E[x0 | x_t] that needs no sampling."""

    @property
    @abstractmethod
    def mean(self) -> X:
        """E[x0 | x_t], [B, ...]."""


class HasVariance(HasMean[X]):
    """A posterior with a variance for each element of x0."""

    @property
    @abstractmethod
    def var(self) -> X:
        """Var[x0_i | x_t], broadcastable to [B, ...]."""


class HasNoise(HasMean[X]):
    """A posterior with the mean of the latent noise, for a process in which x_t and x0 do not decide it."""

    @property
    @abstractmethod
    def noise(self) -> X:
        """E[z | x_t], [B, ...]. The score of x_t is -E[z | x_t] / gamma."""


class HasDensity(Posterior[X]):
    """A posterior with a density. For an x0 with finitely many values it is the probability."""

    @abstractmethod
    def log_prob(self, x0: X) -> Tensor:
        """log q(x0 | x_t) in nats, one number per item, [B]."""


Ability = TypeVar("Ability", bound=Posterior[Any])

SPREAD = "Use a Normal or Mixture head, or an exact denoiser."

# the advice for kinds of posterior without remedies of their own
_GENERAL: dict[type[Posterior[Any]], str] = {
    HasMean: "Use a head with a mean, or choose a sampler that draws, such as `softmix.sampler.ancestral`.",
    HasVariance: SPREAD,
    HasNoise: "Train a NoiseHead by the loss MeanAndNoise, or choose the sampler `softmix.sampler.ancestral`, which "
    "needs draws of x0 alone.",
    HasDensity: "Use a Normal or Mixture head.",
}

_WORDS: dict[type[Posterior[Any]], str] = {
    HasMean: "a mean",
    HasVariance: "a variance",
    HasNoise: "the mean of the latent noise",
    HasDensity: "a density",
}


def need(posterior: Posterior[Any], ability: type[Ability], who: str) -> Ability:
    """Check that a posterior has an ability, and return it.

    who : the name of the caller, for the error.

    Raises TypeError with the caller, the missing ability, the kind of posterior, and advice.
    """
    if isinstance(posterior, ability):
        return posterior
    lacks = _WORDS.get(ability, ability.__name__)
    problem = f"{who} needs {lacks} of the posterior, and {type(posterior).__name__} has none."
    raise TypeError(f"{problem} {posterior.remedy(ability)}".strip())
