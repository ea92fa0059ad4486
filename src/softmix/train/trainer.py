"""The state of a run in memory, and its next step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ..config import JSON
from ..data import Source
from ..deferred import Number
from ..memory import NotEnoughMemoryError, is_memory_error
from . import checkpoint
from .device_step import DeviceStep, Failure, device_step
from .ema import Ema
from .examples import example_rng
from .feed import feed_for
from .lanes import Lanes
from .make import (
    TrainingError,
    build,
    compile_blocks,
    compile_net,
    find_device,
    require_fits,
    restore_frozen,
    some_items,
)
from .optimise import Optimisers
from .parallel import ParallelBatch
from .processes import SINGLE_PROCESS, Processes, gathered, load_weights
from .record import Run, rate
from .scale import LossScale
from .task import Batch

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
Result = TypeVar("Result")


class Trainer:
    """The modules of a run, their optimisers, the averages of the weights, and the counter `step`.

    run : the configuration and the facts.
    source : the training data.
    out : the run folder.
    processes : the processes of the run, as torchrun starts them.
    shard : divide the weights among the processes (FSDP2).
    own : the caller's classes that config.json may name.
    """

    def __init__(
        self,
        run: Run,
        source: Source,
        out: Path,
        processes: Processes = SINGLE_PROCESS,
        shard: bool = False,
        own: Sequence[type] = (),
    ):
        self.run, self.source, self.out, self.processes, self.own = run, source, out, processes, own
        self.task, self.device = run.config.task, find_device()
        require_fits(run)
        self.modules: nn.ModuleDict = build(run).to(self.device)
        self.feed = feed_for(source, run.config.seed, run.config.batch, self.device)
        self.total, self.step, self.saved, self.attempt = run.facts.steps, 0, -1, 0
        self.frozen: nn.Module | None = None
        # the module of the last loss
        self.turn = "model"
        self.scale = LossScale() if run.facts.precision == "fp16" else None
        # whether a loss has read `Batch.progress`
        self.progress_was_read = self._told = False
        self._failure: Failure | None = None
        self.device_step: DeviceStep | None = None
        self.optimisers = Optimisers(self.modules, run.config.optimiser, self.task.groups())
        # FSDP2 replaces the weights, so this comes before all parts that hold them
        self.parallel = ParallelBatch(self, shard) if processes.size > 1 else None
        self.optimisers.begin()
        self._lanes = Lanes(self.optimisers)
        self.ema = Ema(self.model, run.config.ema)
        self.device_step = device_step(self)
        if run.config.compile:
            compile_blocks(self.model)

    @property
    def model(self) -> nn.Module:
        """The module that the run is for. Sampling takes its averaged weights."""
        return self.modules["model"]

    @property
    def progress(self) -> float:
        """The finished share of the first length of the run, in [0, 1]; 0 until the length is known."""
        end = self.run.facts.ends[0] if self.run.facts.ends else self.total
        return min(self.step / end, 1.0) if end else 0.0

    def batch(self, items: Tensor, turn: str = "model") -> Batch:
        """The training examples with these numbers, counted from the start of the run."""
        seed, staged = self.run.config.seed, self.feed.staged(items)
        # a recorded step finds the index of its items in memory of its own
        index = None if self.device_step is None else self.device_step.index_of(items)
        index = self.feed.index(items) if index is None else index
        items = self.feed.placed(items)
        rng = example_rng(seed, items, self.attempt, self.device)
        return Batch(items, index, rng, seed, self.attempt, self._read_progress, self.frozen, turn, staged)

    def _read_progress(self) -> float:
        self.progress_was_read = True
        return self.progress

    def losses(self, items: Tensor, turn: str = "model") -> Tensor:
        """The loss of each of these examples: [len(items)]."""
        half = _HALF.get(self.run.facts.precision)
        with nullcontext() if half is None else torch.autocast(self.device.type, half):
            losses = self.task.losses(self.modules, self.feed.source, self.batch(items, turn))
        if losses.shape != items.shape:
            raise ValueError(
                f"a loss gives one number for each item, here {list(items.shape)}; found the shape {list(losses.shape)}"
            )
        # sums in half precision have too few digits
        return losses.to(torch.promote_types(losses.dtype, torch.float32))

    def rate(self) -> float:
        """The learning rate of the step after `step`."""
        return rate(self.run, self.step, self.total, self.task.freeze_at)

    def begin_from(self, weights: dict[str, Tensor]) -> None:
        """Replace the initial weights, and the averages, by these weights."""
        load_weights(self.model, weights)
        self.ema = Ema(self.model, self.run.config.ema)

    def advance(self, rate: float | None = None) -> tuple[Number, Number]:
        """Take one step. Without a finite loss and gradient no weight changes, and `step` stays.

        On an accelerator the step is sent, and not awaited. `step` rises at once, and the two results are functions
        that wait for the step. `settle` then goes back to the first step that was not taken.

        rate : learning rate, by default the run's own. With 0 the weights stay the same, bit for bit.

        Returns the mean loss of the model over the batch, and the norm of its gradient.
        Raises NotEnoughMemoryError, with nothing changed, if the loss or its gradient does not fit into memory.
        """
        rate, before, self._failure = self.rate() if rate is None else rate, self.step, None
        self._within_memory(self._freeze_if_due)
        if self._failure is not None or self.step != before:
            return self._failure or (math.nan, math.nan)
        if self.device_step is not None:
            step = self.device_step
            return self._within_memory(lambda: step.advance(self, rate))
        while True:
            total, norm = self._take(rate)
            if math.isfinite(total) and math.isfinite(norm):
                return total, norm
            self._failure = self._unless_overflow(Failure(total, norm))
            if self._failure is not None:
                return total, norm

    def settle(self) -> Failure | None:
        """Wait for all steps. If one was not taken, go back to it, and return its loss and its norm once."""
        failure, self._failure = self._failure, None
        if failure is None and self.device_step is not None:
            failure = self.device_step.settle(self)
            failure = None if failure is None else self._unless_overflow(failure)
        return failure

    def _unless_overflow(self, failure: Failure) -> Failure | None:
        """The failure. None if the gradient alone overflowed in fp16: the loss scale is halved for another try."""
        if self.scale is None or not math.isfinite(failure.loss):
            return failure
        smaller = self.scale.halved(self.step)
        if smaller is None:
            return failure
        self.scale = smaller
        return None

    def _take(self, rate: float) -> tuple[float, float]:
        """Take one step, decided by the host."""
        self.feed.prepare(self.step, self.attempt, self.places())
        total = norm = 0.0
        with self.optimisers.undoable() as undo:
            for turn in self.optimisers.turns:
                self.turn = turn
                total, norm = self._within_memory(lambda turn=turn: self._gradients(turn))  # type: ignore[misc]
                if not (math.isfinite(total) and math.isfinite(norm)):
                    undo()
                    return total, norm
                self.optimisers.step(turn, rate, self.run.peak(self.step))
        self.step += 1
        self.ema.update(self.step)
        return total, norm

    def _freeze_if_due(self) -> None:
        """Make the frozen copy of the second stage, at its step."""
        freeze_at = self.task.freeze_at
        if self.frozen is not None or freeze_at is None or self.progress < freeze_at:
            return
        # all steps before must be certain; if one was not taken this step is not the next
        before, self._failure = self.step, self.settle()
        if self._failure is None and self.step == before:
            self.frozen = self.freeze()

    def _within_memory(self, work: Callable[[], Result]) -> Result:
        """The result of the work. Raises NotEnoughMemoryError, without a gradient left, if the memory is too small."""
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_memory_error(error):
                raise
            sentence = " ".join(str(error).split())
        # outside the except block, so that the traceback no longer holds the activations
        self.optimisers.clear_gradients()
        raise NotEnoughMemoryError(sentence)

    def _gradients(self, turn: str) -> tuple[float, float]:
        """The loss and the gradient norm of the next batch, with its clipped gradient in the parameters."""
        total = self._backward(turn)
        return total, self.optimisers.clip(turn)

    def _backward(self, turn: str) -> float:
        """The loss of the next batch, with its gradient in the parameters."""
        batch, lanes = self.run.config.batch, self.run.facts.lanes
        items = torch.arange(self.step * batch, (self.step + 1) * batch, device=self.feed.numbers)
        pieces = self.run.parts(self.step) * lanes
        scale = None if self.scale is None else self.scale.at(self.step)
        if self.parallel is not None:
            total = self.parallel.backward(items, pieces, turn, scale)
        else:
            total = self._lanes.backward(self.losses, items, pieces, lanes, turn, scale)
        if scale is not None:
            self.optimisers.unscale(turn, scale)
        return total

    def gradients_unread(self, items: Tensor, scale: Tensor | None) -> Tensor:
        """Add the gradient of these items, times a scale, to the parameters of the model. The mean loss is not read."""
        pieces = self.run.parts(self.step) * self.run.facts.lanes
        if self.parallel is not None:
            return self.parallel.backward_unread(items, pieces, "model", scale)
        return self._lanes.backward_unread(self.losses, items, pieces, "model", scale)

    def take_notes(self) -> tuple[str, ...]:
        """Sentences for the reader about this process, each once. They are no part of the log of the run."""
        reason = "" if self.device_step is None else self.device_step.recorded.reason
        if not reason or self._told:
            return ()
        self._told = True
        return (f"each step is sent kernel by kernel, and not as a CUDA graph, which would be faster: {reason}",)

    def wait(self) -> None:
        """Wait until the device has done all its work, to measure time."""
        if self.device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize()

    def places(self) -> Tensor | None:
        """The places in a batch that this process computes. None: all."""
        if self.parallel is None:
            return None
        pieces = self.run.parts(self.step) * self.run.facts.lanes
        return torch.cat(self.parallel.share(torch.arange(self.run.config.batch), pieces))

    def freeze(self) -> nn.Module:
        """The task's frozen copy of the model, with the averaged weights."""
        model = self.averaged()
        data = some_items(self.feed.source, 512, first=self.run.facts.shown == "first").to(self.device)
        return self._compiled(self.task.freeze(model, data).requires_grad_(False).eval())

    def _compiled(self, frozen: nn.Module) -> nn.Module:
        """The frozen copy, its network compiled in place if the configuration says so."""
        if self.run.config.compile:
            compile_net(frozen)
        return frozen

    def averaged(self) -> nn.Module:
        """A copy of the model with the averaged weights."""
        model = build(self.run)["model"].to(self.device).eval()
        self.ema.copy_to(model, self.run.config.ema[0])
        return model

    def save(self) -> None:
        """Write a checkpoint of this step, unless it has been written."""
        # after a step that was not taken this is a checkpoint of the step before, and the step will fail again
        self.settle()
        if self.saved == self.step:
            return
        tensors = {name: module.state_dict() for name, module in self.modules.items()}
        tensors |= {**self.optimisers.state(), **self.ema.state()}
        if self.frozen is not None:
            tensors["kept"] = self.frozen.state_dict()
        with self.processes.communication():
            tensors = {name: {key: gathered(each) for key, each in group.items()} for name, group in tensors.items()}
        if self.processes.first:
            state: dict[str, JSON] = {"step": self.step, "attempt": self.attempt, "total": self.total}
            if self.scale is not None:
                state["scale"] = [self.scale.base, self.scale.since]
            checkpoint.save(self.out / "checkpoints", self.step, tensors, state, self.run.config.keep)
        self.processes.broadcast("saved")
        self.saved = self.step

    def load(self) -> list[str]:
        """Go to the newest whole checkpoint, if there is one. Returns a sentence for each damaged one."""
        latest = checkpoint.latest(self.out / "checkpoints")
        if latest is None:
            return []
        try:
            for name, module in self.modules.items():
                load_weights(module, latest.tensors[name])
            self.optimisers.load(latest.tensors)
        except (KeyError, RuntimeError) as error:
            raise TrainingError(
                f"{latest.path} does not fit this configuration ({' '.join(str(error).split())}); it holds "
                f"{', '.join(latest.tensors)}: continue with the classes that the run began with, or name another "
                "folder"
            ) from error
        self.ema.load(latest.tensors)
        frozen = latest.tensors.get("kept")
        self.frozen = None if frozen is None else self._compiled(restore_frozen(self.run, frozen).to(self.device))
        self.step, self.attempt = int(str(latest.state["step"])), int(str(latest.state["attempt"]))
        self.saved = self.step
        if self.scale is not None:
            base, since = cast(list[float], latest.state["scale"])
            self.scale = LossScale(float(base), int(since))
        if self.total is None and latest.state["total"] is not None:
            self.total = int(str(latest.state["total"]))
        return latest.damaged
