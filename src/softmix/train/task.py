"""A task says what is trained. The trainer, the loop and checkpoints know no more of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..cond import UNCONDITIONED, CondSpec
from ..data import Source
from ..loss import Group
from ..rng import Rng

if TYPE_CHECKING:
    from .record import Facts


@dataclass(frozen=True)
class Batch:
    """A part of the examples of one step.

    items : the numbers of the examples, counted from the start of the run. index : which items of the source they are.
    rng : the stream of each example, on the device where the loss is computed. seed, attempt : of the run, and how
    often it was rolled back. progress : the share of the run that is done. kept : what the task has kept of an
    earlier state of its model (`Task.keep`). turn : the module whose loss is wanted, of those that take turns.
    """

    items: Tensor
    index: Tensor
    rng: Rng
    seed: int = 0
    attempt: int = 0
    progress: float = 0.0
    frozen: nn.Module | None = None
    turn: str = "model"

    @property
    def device(self) -> torch.device:
        return self.rng.device


class Task(ABC):
    """What is trained, as a frozen dataclass in config.json.

    A task of your own has `build`, `losses` and `made`, and trains, continues after a kill and is loaded like those
    that come with softmix: `training(source, Config(MyTask()), out, parts=(MyTask,))`.
    """

    # settings that decide the weights and what they mean: a run can begin with those of another where these are equal
    model_settings: ClassVar[tuple[str, ...]] = ()

    @property
    def whole(self) -> bool:
        """Whether the loss compares the items of a batch, which is then never divided."""
        return False

    @property
    def freeze_at(self) -> float | None:
        """The share of the run after which something is kept of the model, in a second stage; None: never."""
        return None

    def cond_spec(self, source: Source) -> CondSpec:
        """Which of the conditions that a source offers the model is told. Raises ValueError for a source that this
        task cannot learn from."""
        return UNCONDITIONED

    @abstractmethod
    def build(self, facts: Facts) -> nn.ModuleDict:
        """The modules: "model" is what the run makes and averages; others, such as a discriminator, stand beside it."""

    def groups(self) -> Mapping[str, Group]:
        """How the modules beside "model" are trained, by their names."""
        return {}

    @abstractmethod
    def losses(self, modules: nn.ModuleDict, source: Source, batch: Batch) -> Tensor:
        """One number for each example, [B], to be made small by the module whose turn it is."""

    def freeze(self, model: nn.Module, x0: Tensor) -> nn.Module:
        """What is kept of a copy of the averaged model at `keeps`; x0 : some of the data."""
        raise TypeError(f"{type(self).__name__} keeps nothing of its model")

    @abstractmethod
    def made(self, model: nn.Module, facts: Facts, step: int) -> Any:
        """What a run has made by this step: a denoiser, a codec, a sampler."""

    def tried(self, made: Any, device: torch.device) -> None:  # noqa: B027
        """Uses what would be made once, for nothing: raises whatever is wrong with the parts."""

    def picture(self, made: Any, source: Source, seed: int, device: torch.device) -> Tensor | None:
        """Images [N, C, H, W] in [-1, 1] that show how far the run is, or None if it makes no images."""
        return None

    def said(self, batch: Batch) -> str:
        """What a reader should know of these examples when their loss was not finite."""
        return f"{len(batch.items)} examples"
