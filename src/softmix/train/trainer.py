"""The state of a run in memory, and one step of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data import Source
from ..rng import Rng
from . import checkpoint
from .ema import Ema
from .examples import index_of
from .make import TrainingError, build, compiled, find_device, restored, some
from .memory import MemoryLackError, is_lack
from .optimise import Optimisers
from .record import Run, rate
from .task import Batch
from .team import Team
from .world import ALONE, World, shared_like, whole


class Trainer:
    """The state of a run in memory: its modules, their optimisers, the averages, and the counter `step`."""

    def __init__(
        self, run: Run, source: Source, out: Path, world: World = ALONE, shard: bool = False, own: Sequence[type] = ()
    ):
        # own : the caller's classes, which config.json may name
        self.run, self.source, self.out, self.world, self.own = run, source, out, world, own
        self.task, self.device = run.config.task, find_device()
        _require(run)
        self.modules: nn.ModuleDict = build(run).to(self.device)
        self.total, self.step, self.saved, self.attempt = run.facts.steps, 0, -1, 0
        self.frozen: nn.Module | None = None
        # whose loss was asked for last
        self.turn = "model"
        self.optimisers = Optimisers(self.modules, run.config.optimiser, self.task.groups())
        # before all that holds on to the weights, which it may divide
        self.team = Team(self, shard) if world.size > 1 else None
        self.optimisers.begin()
        self.ema = Ema(self.model, run.config.ema)
        self._pool: ThreadPoolExecutor | None = None
        if run.config.compile:
            compiled(self.model)

    @property
    def model(self) -> nn.Module:
        """What the run makes."""
        return self.modules["model"]

    @property
    def progress(self) -> float:
        """The share that is done of the length that the run was given at first; 0 until it is known."""
        end = self.run.facts.ends[0] if self.run.facts.ends else self.total
        return min(self.step / end, 1.0) if end else 0.0

    def batch(self, items: Tensor, turn: str = "model") -> Batch:
        """The training examples with these numbers, counted from the start of the run."""
        seed = self.run.config.seed
        rng = Rng(seed, items, f"train.{self.attempt}", self.device)
        index = index_of(seed, len(self.source), items)
        return Batch(items, index, rng, seed, self.attempt, self.progress, self.frozen, turn)

    def losses(self, items: Tensor, turn: str = "model") -> Tensor:
        """The loss of each of these examples: [len(items)]."""
        half = self.run.facts.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext():
            losses = self.task.losses(self.modules, self.source, self.batch(items, turn))
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
        """Takes these weights for those that the seed gives, and for the averages."""
        _load(self.model, weights)
        self.ema = Ema(self.model, self.run.config.ema)

    def advance(self, rate: float | None = None) -> tuple[float, float]:
        """One step: the model's mean loss over the batch and the norm of its gradient. No update if one is not finite.

        Raises MemoryLackError, with nothing changed, where memory does not suffice for the loss or its gradient.
        rate : in place of the run's own; with 0 the weights stay as they are, bit for bit.
        """
        rate = self.rate() if rate is None else rate
        total = norm = 0.0
        with self.optimisers.as_they_were() as undo:
            for turn in self.optimisers.turns:
                self.turn = turn
                total, norm = self._gradients(turn)
                if not (math.isfinite(total) and math.isfinite(norm)):
                    undo()
                    return total, norm
                self.optimisers.step(turn, rate, self.run.peak(self.step))
        self.step += 1
        self.ema.update(self.step)
        return total, norm

    def _gradients(self, turn: str) -> tuple[float, float]:
        lack = ""
        try:
            freeze_at = self.task.freeze_at
            if self.frozen is None and freeze_at is not None and self.progress >= freeze_at:
                self.frozen = self.freeze()
            total = self._backward(turn)
            return total, self.optimisers.clip(turn)
        except (RuntimeError, MemoryError) as error:
            if not is_lack(error):
                raise
            lack = " ".join(str(error).split())
        # here, where nothing holds on any more to what was computed
        self.optimisers.clear()
        raise MemoryLackError(lack)

    def _backward(self, turn: str) -> float:
        """The loss of the next batch, whose gradient is then in the parameters of those whose turn it is."""
        batch, lanes, parts = self.run.config.batch, self.run.facts.lanes, self.run.parts(self.step)
        items = torch.arange(self.step * batch, (self.step + 1) * batch)
        if self.team is not None:
            return self.team.backward(items, parts * lanes, turn)
        pieces = items.chunk(parts * lanes)
        total = 0.0
        for start in range(0, len(pieces), lanes):
            for loss, gradient in self._together(pieces[start : start + lanes], turn):
                total += loss
                self.optimisers.add(turn, gradient)
        return total

    def freeze(self) -> nn.Module:
        """What the task keeps of the model, with the averaged weights."""
        model = self.averaged()
        data = some(self.source, 512, first=self.run.facts.shown == "first").to(self.device)
        return self.task.freeze(model, data).requires_grad_(False).eval()

    def averaged(self) -> nn.Module:
        """A copy of the model with the averaged weights."""
        model = build(self.run)["model"].to(self.device).eval()
        self.ema.copy_to(model, self.run.config.ema[0])
        return model

    def _together(self, pieces: Sequence[Tensor], turn: str) -> list[tuple[float, Sequence[Tensor | None]]]:
        """Loss and gradient of each piece of a batch, on a core each.

        Small images keep one core busy and not several: an operation is over before the cores have agreed to
        share it. With a piece each they need not agree. The sums are taken in the order of the pieces, so
        the bits do not depend on which is done first.
        """
        if len(pieces) == 1:
            return [self._gradient(pieces[0], turn)]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(len(pieces), initializer=torch.set_num_threads, initargs=(1,))
        return list(self._pool.map(lambda piece: self._gradient(piece, turn), pieces))

    def _gradient(self, piece: Tensor, turn: str) -> tuple[float, Sequence[Tensor | None]]:
        loss = self.losses(piece, turn).sum() / self.run.config.batch
        return float(loss.detach()), torch.autograd.grad(loss, self.optimisers.parameters(turn), allow_unused=True)

    def save(self) -> None:
        """A checkpoint of this step, unless there is one."""
        if self.saved == self.step:
            return
        tensors = {name: module.state_dict() for name, module in self.modules.items()}
        tensors |= {**self.optimisers.state(), **self.ema.state()}
        if self.frozen is not None:
            tensors["kept"] = self.frozen.state_dict()
        with self.world.listening():
            tensors = {entry: {name: whole(each) for name, each in group.items()} for entry, group in tensors.items()}
        if self.world.first:
            state = {"step": self.step, "attempt": self.attempt, "total": self.total}
            checkpoint.save(self.out / "checkpoints", self.step, tensors, state, self.run.config.keep)
        self.world.broadcast("saved")
        self.saved = self.step

    def load(self) -> list[str]:
        """Goes to the newest whole checkpoint, if there is one; sentences about damaged ones."""
        found = checkpoint.latest(self.out / "checkpoints")
        if found is None:
            return []
        try:
            for name, module in self.modules.items():
                _load(module, found.tensors[name])
            self.optimisers.load(found.tensors)
        except (KeyError, RuntimeError) as error:
            raise TrainingError(
                f"{found.path} does not hold what this configuration builds ({' '.join(str(error).split())}); it holds "
                f"{', '.join(found.tensors)}: go on with the classes that the run began with, or name another folder"
            ) from error
        self.ema.load(found.tensors)
        frozen = found.tensors.get("kept")
        self.frozen = None if frozen is None else restored(self.run, frozen).to(self.device)
        self.step, self.attempt = int(str(found.state["step"])), int(str(found.state["attempt"]))
        self.saved = self.step
        if self.total is None and found.state["total"] is not None:
            self.total = int(str(found.state["total"]))
        return found.damaged


def _require(run: Run) -> None:
    """Raises ValueError for what a task says of itself and the run does not go with."""
    task, parts = run.config.task, run.config.optimiser.accumulate
    if task.freeze_at is not None and not 0 <= task.freeze_at < 1:
        raise ValueError(f"freeze_at is a share of the run, at least 0 and below 1, or None; found {task.freeze_at}")
    if task.whole and parts > 1:
        raise ValueError(
            f"the loss compares the items of a batch, which is never divided, and optimiser.accumulate is {parts}: "
            "leave it at 1, and take a smaller batch if memory does not suffice"
        )


def _load(module: nn.Module, weights: dict[str, Tensor]) -> None:
    held = module.state_dict()
    module.load_state_dict({name: shared_like(tensor, held[name]) for name, tensor in weights.items()})
