"""The contract of a task: the part of a run that knows its modules and its loss. Trainer and checkpoints do not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..cond import UNCONDITIONED, Cond, CondSpec
from ..data import Source
from ..deferred import Deferred
from ..loss import Group
from ..rng import Rng
from .examples import source_rng

if TYPE_CHECKING:
    from .feed import StagedItems
    from .record import Facts


def demand(holds: bool, sentence: str) -> None:
    """Raises ValueError with the sentence unless `holds`."""
    if not holds:
        raise ValueError(sentence)


@dataclass(frozen=True)
class Batch:
    """Some of the training examples of one step.

    items : numbers of the examples, counted from the start of the run, [B]. In a step they are on the device of the
        loss (on mps, which has no float64, on the CPU).
    index : the item of the source of each example, [B].
    rng : the random stream of each example, on the device of the loss.
    seed : the seed of the run.
    attempt : the number of rollbacks so far.
    progress : the finished share of the run, in [0, 1].
    frozen : the task's frozen copy of its model (`Task.freeze`), or None.
    turn : the module to be trained, if several take turns.
    staged : the items of data that are too large for the device, if they were brought there before the step; see
        `read`.
    """

    items: Tensor
    index: Tensor
    rng: Rng
    seed: int = 0
    attempt: int = 0
    progress: Deferred = Deferred(0.0)  # noqa: RUF009
    frozen: nn.Module | None = None
    turn: str = "model"
    staged: StagedItems | None = None

    @property
    def device(self) -> torch.device:
        return self.rng.device

    def read(self, source: Source) -> tuple[Tensor, Cond | None]:
        """x0 and the conditions of these examples, on the device of the loss.

        It does not wait for the device. `source.batch(index, rng)` waits if the data are too large for the device.
        """
        rng = source_rng(self.rng)
        x0, cond = source.batch(self.index, rng) if self.staged is None else self.staged.batch(rng)
        return x0.to(self.device), None if cond is None else cond.to(self.device)


class Task(ABC):
    """The subject of a run: its modules, its loss and its result. A frozen dataclass in config.json.

    A task of your own needs `build`, `losses` and `result`. It then trains, resumes after a kill and is loaded like
    the tasks of softmix: `training(source, Config(MyTask()), out, parts=(MyTask,))`.
    """

    # the fields that decide the shapes and the meaning of the weights; a run can start from another with equal ones
    model_settings: ClassVar[tuple[str, ...]] = ()

    @property
    def whole(self) -> bool:
        """True for a loss that compares the items of a batch. Such a batch is never divided."""
        return False

    @property
    def together(self) -> bool:
        """True for a loss that learns more from a batch in one piece. A new run divides its batch among processes, and
        where the memory is too small, and not among the threads of a CPU."""
        return self.whole

    @property
    def freeze_at(self) -> float | None:
        """The share of the run after which a copy of the model is frozen, for a second stage. None: never."""
        return None

    def phase(self, progress: float) -> Hashable:
        """The part of `Batch.progress` that the losses depend on, for example a number of noise levels.

        On a CUDA card a step is recorded once and replayed. A number that the host computes from the progress is
        frozen in the recording. Two steps with equal phases may share one. None: the losses do not use the progress, or
        their steps are not to be recorded.
        """
        return None

    def cond_spec(self, source: Source) -> CondSpec:
        """The conditions of the model, out of those that a source offers.

        Raises ValueError for a source that does not suit this task.
        """
        return UNCONDITIONED

    @abstractmethod
    def build(self, facts: Facts) -> nn.ModuleDict:
        """The modules. "model" is averaged and gives the result; others, such as a discriminator, help to train it."""

    def groups(self) -> Mapping[str, Group]:
        """The optimiser settings of the modules other than "model", by name."""
        return {}

    @abstractmethod
    def losses(self, modules: nn.ModuleDict, source: Source, batch: Batch) -> Tensor:
        """The loss of each example, [B]. The module of `batch.turn` is trained to reduce it."""

    def freeze(self, model: nn.Module, x0: Tensor) -> nn.Module:
        """Make the frozen copy for the second stage, from a copy of the averaged model, at `freeze_at`.

        x0 : some items of the data, [N, *shape].
        """
        raise TypeError(f"{type(self).__name__} freezes no copy of its model")

    @abstractmethod
    def result(self, model: nn.Module, facts: Facts, step: int) -> Any:
        """The result of the run at this step, for example a denoiser, a codec or a sampler."""

    def check(self, result: Any, device: torch.device) -> None:  # noqa: B027
        """Use the result of an untrained model once. Raises any error if the parts do not fit each other."""

    def picture(self, result: Any, source: Source, seed: int, device: torch.device) -> Tensor | None:
        """Images [N, C, H, W] in [-1, 1] that show the progress of the run. None for a task without images."""
        return None

    def describe(self, batch: Batch) -> str:
        """A few words about these examples, for the message of a loss that is not finite."""
        return f"{len(batch.items)} examples"
