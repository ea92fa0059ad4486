"""The loss protocols, and the stage of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from ..deferred import Deferred
from ..denoiser import Denoiser, Network
from ..posterior import Posterior
from ..process import Noised
from ..rng import Rng


@dataclass(frozen=True)
class Stage:
    """The state of training at a step.

    progress : the share of training that is done, from 0 to 1.
    frozen : the frozen module of the loss, made from an earlier state of the network; None before that.
    modules : the network, "model", and the modules of the loss, by name.
    turn : the module to be trained by this loss, "model" or a rival.
    """

    progress: Deferred = Deferred(0.0)  # noqa: RUF009
    frozen: nn.Module | None = None
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    turn: str = "model"


@dataclass(frozen=True)
class Group:
    """The training settings of a module beside the network: AdamW.

    rate : the peak learning rate; it rises and falls with that of the network. None: the learning rate of the network.
    betas : of AdamW.
    weight_decay : of AdamW.
    clip : the largest norm of the gradient.
    rival : True for a module that is trained before the network in each step, by a loss of its own, such as a
        discriminator. False for one that is trained with the network by the same loss.
    """

    rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0
    rival: bool = False

    def __post_init__(self) -> None:
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"the rate of a group is above 0, or None for the rate of the network; found {self.rate}")
        if not (self.clip > 0 and self.weight_decay >= 0 and all(0 <= beta < 1 for beta in self.betas)):
            raise ValueError(
                "a group has a clip above 0, a weight_decay of at least 0 and betas in [0, 1); found "
                f"{self.clip}, {self.weight_decay} and {self.betas}"
            )


class Objective(Protocol):
    """A loss that calls the denoiser itself, at any times and as often as it needs."""

    def ask(self, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
        """One number per item, [B], to be minimised."""
        ...


class NeedsFrozenCopy(Objective, Protocol):
    """An objective with a frozen copy of the network as it is at progress `freeze_at`."""

    @property
    def freeze_at(self) -> float: ...

    def freeze(self, network: Network, x0: Tensor) -> nn.Module:
        """The frozen module.

        network : a copy of the network with averaged weights.
        x0 : some of the data, to measure scales.
        """
        ...


class NeedsModules(Objective, Protocol):
    """An objective with modules of its own, such as a discriminator.

    They are trained and saved in the checkpoints beside the network. Their weights are not averaged.
    """

    @property
    def groups(self) -> Mapping[str, Group]:
        """The training settings of each module, by its name."""
        ...

    def build(self, network: Network) -> Mapping[str, nn.Module]:
        """The modules, by the same names. network : the network with its initial weights."""
        ...


class Loss(Protocol):
    """A loss of a posterior. `proper`: strictly proper for a posterior that is known by its draws."""

    @property
    def proper(self) -> bool: ...

    def __call__(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        """One number per item, [B], to be minimised."""
        ...


def loss_of(loss: Loss | Objective, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage | None = None) -> Tensor:
    """The loss of a denoiser on noised items, [B].

    For an `Objective` it is `ask`; for a `Loss` it is the loss of the posterior at (xt, t, cond).
    """
    if hasattr(loss, "ask"):
        return loss.ask(denoiser, noised, rng, stage or Stage())
    return loss(denoiser(noised.xt, noised.t, noised.cond), noised, rng)
