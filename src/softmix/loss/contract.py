"""The room of losses: the contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from ..denoiser import Denoiser, Network
from ..posterior import Posterior
from ..process import Noised
from ..rng import Rng


@dataclass(frozen=True)
class Stage:
    """Where training stands. progress : the share that is done. kept : the module that the loss has kept of an
    earlier state of the network, or None before that."""

    progress: float = 0.0
    kept: nn.Module | None = None


class Objective(Protocol):
    """A loss that asks the denoiser itself, where, when and as often as it needs."""

    def ask(self, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
        """One number per item, [B], to be made small."""
        ...


class Keeper(Objective, Protocol):
    """An objective that keeps something of the network as it is at progress `keeps`: a frozen module."""

    @property
    def keeps(self) -> float: ...

    def keep(self, network: Network, x0: Tensor) -> nn.Module:
        """What is kept of a copy of the network's averaged weights; x0 : some of the data, to measure scales."""
        ...


class Loss(Protocol):
    """A scoring rule. `proper`: strictly proper for a posterior that is only drawn from."""

    @property
    def proper(self) -> bool: ...

    def __call__(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        """One number per item, [B], to be made small."""
        ...


def score(loss: Loss | Objective, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage | None = None) -> Tensor:
    """The loss of a denoiser on noised items, [B]: of its posterior there, or of all that the loss asks for."""
    if hasattr(loss, "ask"):
        return loss.ask(denoiser, noised, rng, stage or Stage())
    return loss(denoiser(noised.xt, noised.t, noised.cond), noised, rng)
