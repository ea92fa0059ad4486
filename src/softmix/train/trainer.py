"""The room of training: the state of a run in memory, and one step of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ..data import Data, to_uint8
from ..data.store import choose
from ..loss import Keeper, Stage, score
from ..picture import enlarge, save_png, tile, to_image
from ..process import Noised
from ..rng import Rng
from ..sampler import sample
from . import checkpoint
from .config import suited
from .ema import Ema, name_of
from .examples import examples
from .make import assembled, build, find_device, restored
from .memory import MemoryLackError, is_lack
from .record import Run, rate
from .team import Team
from .world import ALONE, World, shared_like, whole


class Trainer:
    """The state of a run in memory: network, loss, optimiser, averages, and the counter `step`."""

    def __init__(self, run: Run, data: Data, out: Path, world: World = ALONE, shard: bool = False):
        self.run, self.data, self.out, self.world = run, data, out, world
        self.device = find_device()
        self.network = build(run).to(self.device)
        self.loss = run.config.loss
        self.total = run.facts.steps
        self.step = 0
        self.saved = -1
        self.attempt = 0
        self.kept: nn.Module | None = None
        # before all that holds on to the weights, which it may divide
        self.team = Team(self, shard) if world.size > 1 else None
        settings = run.config.optimiser
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=settings.rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.ema = Ema(self.network, run.config.ema)
        self.parameters = list(self.network.parameters())
        self._pool: ThreadPoolExecutor | None = None
        if run.config.compile:
            self.network.net.run = torch.compile(self.network.net.run, dynamic=False)  # type: ignore[method-assign]

    def item_loss(self, items: Tensor) -> Tensor:
        """The loss of each of these items, numbered from the start of the run: [len(items)]."""
        noised, rng = self.noised(items)
        half = self.run.facts.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext():
            return score(self.loss, self.network, noised, rng, Stage(self.progress, self.kept))

    def noised(self, items: Tensor) -> tuple[Noised, Rng]:
        """The training examples with these numbers, and the stream that the loss draws from."""
        return examples(self.run.config, self.data, items, self.attempt, self.device)

    def rate(self) -> float:
        """The learning rate of the step after `step`."""
        return rate(self.run, self.step, self.total, self.keeps)

    @property
    def keeps(self) -> float | None:
        """The share of training after which the loss keeps something of the network, None if it never does."""
        return getattr(self.loss, "keeps", None)

    def begin_from(self, weights: dict[str, Tensor]) -> None:
        """Takes these weights for those that the seed gives, and for the averages."""
        held = self.network.state_dict()
        self.network.load_state_dict({k: shared_like(v, held[k]) for k, v in weights.items()})
        self.ema = Ema(self.network, self.run.config.ema)

    def advance(self, rate: float | None = None) -> tuple[float, float]:
        """One step: the mean loss of the batch and the norm of its gradient. No update if either is not finite.

        Raises MemoryLackError, with nothing changed, where memory does not suffice for the loss or its gradient.
        rate : in place of the run's own; with 0 the weights stay as they are, bit for bit.
        """
        total, norm = self._gradients()
        if math.isfinite(total) and math.isfinite(norm):
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate() if rate is None else rate
            self.optimiser.step()
            self.step += 1
            self.ema.update(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        return total, norm

    def _gradients(self) -> tuple[float, float]:
        lack = ""
        try:
            if self.kept is None and self.progress >= (math.inf if self.keeps is None else self.keeps):
                self.kept = self.keep()
            total = self._backward()
            clipped = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.run.config.optimiser.clip)
            return total, float(whole(clipped))
        except (RuntimeError, MemoryError) as error:
            if not is_lack(error):
                raise
            lack = " ".join(str(error).split())
        # here, where nothing holds on any more to what was computed
        self.optimiser.zero_grad(set_to_none=True)
        raise MemoryLackError(lack)

    def _backward(self) -> float:
        """The loss of the next batch, whose gradient is then in the parameters."""
        batch, lanes, parts = self.run.config.batch, self.run.facts.lanes, self.run.parts(self.step)
        items = torch.arange(self.step * batch, (self.step + 1) * batch)
        if self.team is not None:
            return self.team.backward(items, parts * lanes)
        pieces = items.chunk(parts * lanes)
        total = 0.0
        for start in range(0, len(pieces), lanes):
            for loss, gradient in self._together(pieces[start : start + lanes]):
                total += loss
                self._add(gradient)
        return total

    @property
    def progress(self) -> float:
        """The share that is done of the length that the run was given at first; 0 until it is known."""
        end = self.run.facts.ends[0] if self.run.facts.ends else self.total
        return min(self.step / end, 1.0) if end else 0.0

    def keep(self) -> nn.Module:
        """What the loss keeps of the network, with the averaged weights."""
        network = build(self.run).to(self.device)
        self.ema.copy_to(network, self.run.config.ema[0])
        count = len(self.data)
        index = choose(count, 512) if self.run.facts.shown == "chosen" else torch.arange(min(512, count))
        some = self.data.x0(index).to(self.device)
        return cast(Keeper, self.loss).keep(network.eval(), some).requires_grad_(False)

    def _together(self, pieces: Sequence[Tensor]) -> list[tuple[float, Sequence[Tensor | None]]]:
        """Loss and gradient of each piece of a batch, on a core each.

        Small images keep one core busy and not several: an operation is over before the cores have agreed to
        share it. With a piece each they need not agree. The sums are taken in the order of the pieces, so
        the bits do not depend on which is done first.
        """
        if len(pieces) == 1:
            return [self._gradient(pieces[0])]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(len(pieces), initializer=torch.set_num_threads, initargs=(1,))
        return list(self._pool.map(self._gradient, pieces))

    def _gradient(self, piece: Tensor) -> tuple[float, Sequence[Tensor | None]]:
        loss = self.item_loss(piece).sum() / self.run.config.batch
        return float(loss.detach()), torch.autograd.grad(loss, self.parameters, allow_unused=True)

    def _add(self, gradient: Sequence[Tensor | None]) -> None:
        for parameter, part in zip(self.parameters, gradient, strict=True):
            if part is not None:
                parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)

    def save(self) -> None:
        """A checkpoint of this step, unless there is one."""
        if self.saved == self.step:
            return
        moments = {}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                moments[f"{key}/{name}"] = value
        tensors = {"model": self.network.state_dict(), "optimizer": moments, **self.ema.state()}
        if self.kept is not None:
            tensors["kept"] = self.kept.state_dict()
        with self.world.listening():
            tensors = {entry: {name: whole(one) for name, one in group.items()} for entry, group in tensors.items()}
        if self.world.first:
            state = {"step": self.step, "attempt": self.attempt, "total": self.total}
            checkpoint.save(self.out / "checkpoints", self.step, tensors, state, self.run.config.keep)
        self.world.told("saved")
        self.saved = self.step

    def load(self) -> list[str]:
        """Goes to the newest whole checkpoint, if there is one; sentences about damaged ones."""
        found = checkpoint.latest(self.out / "checkpoints")
        if found is None:
            return []
        held = self.network.state_dict()
        self.network.load_state_dict({k: shared_like(v, held[k]) for k, v in found.tensors["model"].items()})
        self.optimiser.state.clear()
        for name, parameter in self.network.named_parameters():
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}/{name}" in found.tensors["optimizer"]]
            saved = {key: found.tensors["optimizer"][f"{key}/{name}"] for key in keys}
            if saved:
                self.optimiser.state[parameter] = {key: _laid_out(value, parameter) for key, value in saved.items()}
        self.ema.load(found.tensors)
        kept = found.tensors.get("kept")
        self.kept = None if kept is None else restored(self.run, kept).to(self.device)
        self.step, self.attempt = int(str(found.state["step"])), int(str(found.state["attempt"]))
        self.saved = self.step
        if self.total is None and found.state["total"] is not None:
            self.total = int(str(found.state["total"]))
        return found.damaged

    def show(self) -> str:
        """A grid of samples, from the averaged weights, at 4 steps. A sentence if memory does not suffice for it."""
        try:
            images = self.picture()
        except (RuntimeError, MemoryError) as error:
            if not is_lack(error):
                raise
            return f"memory does not suffice for a picture of step {self.step}; there is none"
        if images is None or not self.world.first:
            return ""
        path = self.out / "samples" / f"step-{self.step:06d}.png"
        save_png(
            path,
            enlarge(to_image(tile(to_uint8(images.cpu())))),
            {"step": self.step, "steps": 4, "seed": self.run.config.seed, "weights": name_of(self.run.config.ema[0])},
        )
        return ""

    def picture(self) -> Tensor | None:
        """16 samples from the averaged weights, at 4 steps; None for points, and on all processes but the first."""
        if not self.data.is_image:
            return None
        network = build(self.run).to(self.device).eval()
        self.ema.copy_to(network, self.run.config.ema[0])
        if not self.world.first:
            return None
        shown = assembled(self.run, network, self.step, self.kept)
        labels = torch.arange(16) % shown.classes if shown.classes else None
        way, seed = suited(self.run.config, shown), self.run.config.seed
        return sample(shown, 16, 4, sampler=way, seed=seed, cond=labels, device=self.device)


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """A moment of the optimiser in memory as its parameter is: the fused step pairs the two by place in memory, and
    a file has lost that a weight of a convolution is stored channels last."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter).copy_(shared_like(value, parameter))
