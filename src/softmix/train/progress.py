"""The report of a training step, the writing that is due after it, and two counts: failures, and wishes to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..deferred import Deferred
from .processes import Processes

if TYPE_CHECKING:
    from .trainer import Trainer


@dataclass(frozen=True)
class TrainStep:
    """The report of one step.

    On an accelerator the host does not wait for a step. To read `loss` or `norm` is to wait. A step may be reported
    before the host knows that it was not taken, because a loss was not finite. Its number is then reported again.

    step : its number, from 1.
    total : the length of the run; None until it is known.
    loss, norm : the mean loss, and the norm of its gradient before clipping, before the update.
    rate : learning rate of the next step.
    images_per_second : the speed; 0 in the first steps.
    notes : sentences for the reader.
    """

    step: int
    total: int | None
    loss: Deferred = Deferred()  # noqa: RUF009
    norm: Deferred = Deferred()  # noqa: RUF009
    rate: float  # type: ignore[misc]
    images_per_second: float  # type: ignore[misc]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Due:
    """The writing that is due after a step: a line of the log, a picture, a checkpoint."""

    line: bool
    picture: bool
    checkpoint: bool

    @property
    def any(self) -> bool:
        return self.line or self.picture or self.checkpoint


def writing_due(trainer: Trainer) -> Due:
    """The writing that is due after the last step of a trainer."""
    config, step, tenth = trainer.run.config, trainer.step, max((trainer.total or 10**9) // 10, 1)
    last = step == trainer.total
    picture, checkpoint = (last or step % (every or tenth) == 0 for every in (config.show, config.save))
    return Due(last or step % 10 == 0, picture, checkpoint)


class FailureCount:
    """Failed steps in a row.

    Steps before the last failed one are taken again after a rollback. Their success does not end the row.

    step : the first step of the loop.
    """

    def __init__(self, step: int):
        self.failures, self._worst, self._certain = 0, -1, step

    def succeed(self, step: int) -> None:
        """All steps up to this one are certain to be taken."""
        if step > self._certain and step > self._worst:
            self.failures = 0
        self._certain = step

    def fail(self, step: int) -> None:
        """The step after `step` was not taken."""
        self.succeed(step)
        self.failures, self._worst = self.failures + 1, max(self._worst, step)

    def go_on(self, step: int) -> None:
        """The run continues after `step`: that of a checkpoint, or a skipped one."""
        self._certain = step


class StopRequest:
    """Whether a process wants to stop. All processes stop after the same step.

    With several processes the answer is one step late, so that no process waits for another in each step.

    stop : a number other than 0 if this process wants to stop.
    """

    def __init__(self, processes: Processes, stop: Callable[[], int]):
        self._processes, self._stop = processes, stop
        self._sums: Callable[[], list[float]] | None = None

    def number(self) -> int:
        """The mean number of the processes that want to stop; 0 if none does. Every process calls it in each step."""
        if self._processes.size == 1:
            return self._stop()
        number, earlier = self._stop(), self._sums
        self._sums = self._processes.begin_total([number, bool(number)])
        numbers, stopping = (0.0, 0.0) if earlier is None else earlier()
        return round(numbers / stopping) if stopping else 0

    def end(self) -> None:
        """Wait for the last exchange. Every process calls it before it leaves the loop."""
        if self._sums is not None:
            self._sums()
            self._sums = None
