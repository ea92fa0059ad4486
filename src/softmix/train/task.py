"""The room of training: a task says what is trained. The trainer, the loop and checkpoints know no more of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ..cond import CondSpec
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
    kept: nn.Module | None = None
    turn: str = "model"

    @property
    def device(self) -> torch.device:
        return self.rng.device


class Task(Protocol):
    """What is trained, as a frozen dataclass in config.json.

    A task of your own trains, continues after a kill and is loaded like those that come with softmix:
    `training(source, Config(task=MyTask()), out, parts=(MyTask,))`.
    """

    @property
    def whole(self) -> bool:
        """Whether the loss compares the items of a batch, which is then never divided."""
        ...

    @property
    def keeps(self) -> float | None:
        """The share of the run after which something is kept of the model, in a second stage; None: never."""
        ...

    def told(self, source: Source) -> CondSpec:
        """Which of the conditions that a source offers the model is told. Raises ValueError for a source that this
        task cannot learn from."""
        ...

    def build(self, facts: Facts) -> nn.ModuleDict:
        """The modules: "model" is what the run makes and averages; others, such as a discriminator, stand beside it."""
        ...

    def groups(self) -> Mapping[str, Group]:
        """How the modules beside "model" are trained, by their names."""
        ...

    def losses(self, modules: nn.ModuleDict, source: Source, batch: Batch) -> Tensor:
        """One number for each example, [B], to be made small by the module whose turn it is."""
        ...

    def keep(self, model: nn.Module, x0: Tensor) -> nn.Module:
        """What is kept of a copy of the averaged model at `keeps`; x0 : some of the data."""
        ...

    def made(self, model: nn.Module, facts: Facts, step: int) -> Any:
        """What a run has made by this step: a denoiser, a codec, a sampler."""
        ...

    def tried(self, made: Any, device: torch.device) -> None:
        """Uses what would be made once, for nothing: raises whatever is wrong with the parts."""
        ...

    def picture(self, made: Any, source: Source, seed: int, device: torch.device) -> Tensor | None:
        """Images [16, C, H, W] in [-1, 1] that show how far the run is, or None if it makes no images."""
        ...

    def said(self, batch: Batch) -> str:
        """What a reader should know of these examples when their loss was not finite."""
        ...
