"""A training step that no host waits for: the device itself decides whether the step is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..deferred import Number
from .optimise import buffers_of
from .recording import RecordedWork, Recorder, record_cuda_graph, undeclared

if TYPE_CHECKING:
    from .trainer import Trainer


class Failure(NamedTuple):
    """The loss and the gradient norm of a step that was not taken, because one of them is not finite."""

    loss: float
    norm: float


class StepNumbers:
    """The loss and the gradient norm of one step, read from the device when one of them is asked for."""

    def __init__(self, numbers: Tensor):
        self._numbers: Tensor | None = numbers
        self._values: list[float] = []

    def loss(self) -> float:
        return self._read()[0]

    def norm(self) -> float:
        return self._read()[1]

    def _read(self) -> list[float]:
        if self._numbers is not None:
            self._values, self._numbers = self._numbers.tolist(), None
        return self._values


class DeviceStep:
    """The steps of a run on an accelerator.

    The host sends work and reads nothing. So a flag decides on the device: it is 1 from the first step on with a loss
    or a gradient that is not finite, and then weights, moments, averages and buffers stay the same. The host takes all
    steps for taken until `settle` reads the flag. If it is set, the host goes back to the failed step. The weights are
    then the same, bit for bit, as if the host had read each loss.

    Before each step the host writes the numbers that change into tensors of the device: the items, the learning rates,
    the shares of the averages, the loss scale. All other work can be recorded once, as a CUDA graph.

    recorder : makes the recording; None for none.
    """

    def __init__(self, trainer: Trainer, recorder: Recorder | None):
        device, batch = trainer.device, trainer.run.config.batch
        # as in torch's fused step: on a card it reads a float32, on the CPU a float64
        real = torch.float64 if device.type == "cpu" else torch.float32
        self.items = torch.zeros(batch, dtype=torch.int64, device=device)
        self.index = torch.zeros_like(self.items)
        self._rates = {
            name: torch.zeros((), dtype=real, device=device) for name in trainer.optimisers.rates("model", 0.0, 1.0)
        }
        self._shares = torch.zeros(len(trainer.ema.widths), dtype=torch.float64, device=device)
        self._scale = None if trainer.scale is None else torch.ones((), device=device)
        self._failed = torch.zeros((), device=device)
        # loss and norm of the last step, or of the failed one
        self._numbers = torch.zeros(2, dtype=torch.float64, device=device)
        self._taken = torch.zeros((), dtype=torch.float64, device=device)
        self._base = self._sent = 0
        # no other thread may allocate memory while a step is recorded
        self.recorded = RecordedWork(recorder, trainer.feed.settle)

    def advance(self, trainer: Trainer, rate: float) -> tuple[Number, Number]:
        """Send one step. Returns its loss and its norm, which are read from the device when they are asked for."""
        if not self._sent:
            self._base = trainer.step
        self._write(trainer, rate)
        phase = trainer.task.phase(trainer.progress)
        self.recorded.run(self._key(trainer, phase), lambda: self._work(trainer))
        if trainer.progress_was_read and phase is None and not self.recorded.settled:
            self.recorded.give_up("its loss depends on the progress of the run")
        self._sent += 1
        trainer.step += 1
        numbers = StepNumbers(self._numbers.clone())
        return numbers.loss, numbers.norm

    def settle(self, trainer: Trainer) -> Failure | None:
        """Wait for the steps sent so far. If one has failed, go back to it, and return its loss and its norm."""
        if not self._sent:
            return None
        loss, norm, taken, failed = torch.cat([self._numbers, self._taken[None], self._failed[None].double()]).tolist()
        self._sent = 0
        self._taken.zero_()
        if not failed:
            return None
        trainer.step = self._base + round(taken)
        self._failed.zero_()
        trainer.optimisers.drop_unused_moments()
        return Failure(loss, norm)

    def index_of(self, items: Tensor) -> Tensor | None:
        """The data items of a piece of the present batch. None for other items."""
        if items.untyped_storage().data_ptr() != self.items.untyped_storage().data_ptr():
            return None
        start = items.storage_offset()
        return self.index[start : start + len(items)]

    def _write(self, trainer: Trainer, rate: float) -> None:
        """Write the numbers of the next step into the tensors of the device, without a copy from memory of the host."""
        step, batch = trainer.step, trainer.run.config.batch
        trainer.feed.prepare(step, trainer.attempt, trainer.places())
        self.items.copy_(torch.arange(step * batch, (step + 1) * batch, device=self.items.device))
        self.index.copy_(trainer.feed.index(self.items))
        for name, own in trainer.optimisers.rates("model", rate, trainer.run.peak(step)).items():
            self._rates[name].fill_(own)
        for place, width in enumerate(trainer.ema.widths):
            self._shares[place].fill_(trainer.ema.share(width, step + 1))
        if self._scale is not None and trainer.scale is not None:
            self._scale.fill_(trainer.scale.at(step))

    def _key(self, trainer: Trainer, phase: object) -> object:
        """Everything of the host that a step depends on, beside the written numbers."""
        parts, attempt = trainer.run.parts(trainer.step), trainer.attempt
        return (
            parts,
            attempt,
            phase,
            trainer.feed.version,
            trainer.frozen,
            trainer.ema,
            trainer.optimisers.generation,
            trainer.run.facts,
        )

    def _work(self, trainer: Trainer) -> None:
        """A step, without a number that the host reads or changes from step to step."""
        optimisers, before = trainer.optimisers, self._failed.clone()
        buffers = _BuffersBefore(trainer)
        try:
            total = trainer.gradients_unread(self.items, self._scale)
            if self._scale is not None:
                optimisers.unscale("model", self._scale)
            norm = optimisers.clip_unread("model")
        except Exception:
            # a recording that fails would leave its gradients, and the next step would add its own to them
            optimisers.clear_gradients()
            raise
        bad = ~(total.isfinite() & norm.isfinite())
        # the memory is taken before the first change, so that an error leaves all as it was
        room = trainer.ema.room()
        self._numbers.copy_(torch.where(before > 0, self._numbers, torch.stack([total, norm])))
        self._failed.copy_(torch.maximum(before, bad.float()))
        optimisers.step_unless(self._failed, "model", self._rates)
        taken = 1 - self._failed.double()
        self._taken.add_(taken)
        buffers.restore_if(self._failed)
        trainer.ema.update_by(self._shares * taken, room)


class _BuffersBefore:
    """The buffers before a step."""

    def __init__(self, trainer: Trainer):
        self._modules, self._copies = trainer.modules, buffers_of(trainer.modules)
        self._versions = {name: buffer._version for name, buffer in trainer.modules.named_buffers()}

    @torch.no_grad()
    def restore_if(self, failed: Tensor) -> None:
        """Restore the changed buffers if `failed` is 1. One that has grown is a table, and stays."""
        for name, buffer in self._modules.named_buffers():
            copy = self._copies.get(name)
            if copy is not None and copy.shape == buffer.shape and buffer._version != self._versions[name]:
                buffer.copy_(torch.where(failed > 0, copy, buffer))


def device_step(trainer: Trainer) -> DeviceStep | None:
    """The steps of a run on an accelerator that decides on its own. None for steps that the host decides.

    The host decides on a CPU, where a read costs nothing; on an accelerator without float64; if rivals take turns; and
    if the weights are divided among processes.
    """
    if trainer.device.type not in ("cuda", "xpu") or len(trainer.optimisers.turns) > 1:
        return None
    if trainer.parallel is not None and trainer.parallel.shard:
        return None
    step = DeviceStep(trainer, record_cuda_graph if trainer.device.type == "cuda" else None)
    reason = _why_not_recorded(trainer)
    if reason is not None:
        step.recorded.give_up(reason)
    return step


def _why_not_recorded(trainer: Trainer) -> str | None:
    """The reason against recording the steps of this run. Empty if no one needs to know it; None without a reason."""
    if trainer.run.config.graph == "off" or trainer.processes.size > 1 or trainer.device.type != "cuda":
        return ""
    name = undeclared(trainer.task)
    if name is not None:
        return f"{name} does not say that it can be recorded, by capturable = True"
    return None
