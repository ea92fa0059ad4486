"""The contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from ..denoiser import Denoiser, Network
from ..posterior import Posterior
from ..process import Noised
from ..rng import Rng


@dataclass(frozen=True)
class Stage:
    """Where training stands. progress : the share that is done. kept : the module that the loss has kept of an
    earlier state of the network, or None before that. modules : the network, "model", and the modules of the loss, by
    name. turn : the module whose loss is asked for, "model" or a rival."""

    progress: float = 0.0
    frozen: nn.Module | None = None
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    turn: str = "model"


@dataclass(frozen=True)
class Group:
    """How a module that stands beside the network is trained: by AdamW with settings of its own.

    rate : at its peak; it rises and falls as the network's does. None: the network's own. clip : the largest norm of
    its gradient. rival : it is trained before the network in each step, by a loss of its own; otherwise by the same
    loss as the network and with it.
    """

    rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0
    rival: bool = False

    def __post_init__(self) -> None:
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"the rate of a group is above 0, or None for the network's; found {self.rate}")
        if not (self.clip > 0 and self.weight_decay >= 0 and all(0 <= beta < 1 for beta in self.betas)):
            raise ValueError(
                "a group has a clip above 0, a weight_decay of at least 0 and betas in [0, 1); found "
                f"{self.clip}, {self.weight_decay} and {self.betas}"
            )


class Objective(Protocol):
    """A loss that asks the denoiser itself, where, when and as often as it needs."""

    def ask(self, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
        """One number per item, [B], to be made small."""
        ...


class NeedsFrozenCopy(Objective, Protocol):
    """An objective that keeps something of the network as it is at progress `keeps`: a frozen module."""

    @property
    def freeze_at(self) -> float: ...

    def freeze(self, network: Network, x0: Tensor) -> nn.Module:
        """What is kept of a copy of the network's averaged weights; x0 : some of the data, to measure scales."""
        ...


class NeedsModules(Objective, Protocol):
    """An objective with modules of its own, such as a discriminator. They are trained, averaged over nothing, and kept
    in the checkpoints beside the network."""

    @property
    def groups(self) -> Mapping[str, Group]:
        """How each is trained, by its name."""
        ...

    def build(self, network: Network) -> Mapping[str, nn.Module]:
        """The modules, by the same names; network : for what they are beside, with the weights of its start."""
        ...


class Loss(Protocol):
    """A scoring rule. `proper`: strictly proper for a posterior that is only drawn from."""

    @property
    def proper(self) -> bool: ...

    def __call__(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        """One number per item, [B], to be made small."""
        ...


def loss_of(loss: Loss | Objective, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage | None = None) -> Tensor:
    """The loss of a denoiser on noised items, [B]: of its posterior there, or of all that the loss asks for."""
    if hasattr(loss, "ask"):
        return loss.ask(denoiser, noised, rng, stage or Stage())
    return loss(denoiser(noised.xt, noised.t, noised.cond), noised, rng)
