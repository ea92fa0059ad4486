"""The room of training: the state of a run in memory, and one step of it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ..data import Data, to_uint8
from ..denoiser import Network, Staged
from ..loss import Eyes, FeatureEnergy, Keeper, Stage, score
from ..picture import enlarge, save_png, tile, to_image
from ..process import Noised
from ..rng import Rng, permutation
from ..sampler import sample
from ..version import __version__
from . import checkpoint
from .config import Config, Facts, Run, Times, suited
from .ema import Ema, name_of
from .team import Team
from .world import ALONE, World, shared_like, whole

_GOLDEN = 0.6180339887498949


class TrainingError(RuntimeError):
    """Training that cannot begin or go on; the sentence says why and what to do."""


def build(run: Run) -> Network:
    """The network of a run, with the weights that its seed gives. The caller's random state is left alone."""
    config, facts = run.config, run.facts
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        classes = len(facts.class_names) if config.classes else 0
        return Network(config.process, config.net, config.head, facts.shape, classes, config.output, facts.data_sd)


def assembled(run: Run, network: Network, step: int, kept: nn.Module | None) -> Network | Staged:
    """The denoiser that a run has made by this step: its network, beside what the loss has kept of it if need be."""
    loss = run.config.loss
    if not isinstance(loss, FeatureEnergy) or step <= loss.share * (run.facts.steps or math.inf):
        return network
    return Staged(network, kept.network if loss.mean == 0 and isinstance(kept, Eyes) else network, loss.until)


def restored(run: Run, tensors: dict[str, Tensor]) -> nn.Module:
    """What the loss has kept, from a checkpoint."""
    some = torch.zeros(2, *run.facts.shape)
    kept = cast(Keeper, run.config.loss).keep(build(run), some)
    kept.load_state_dict(tensors)
    return kept.requires_grad_(False).eval()


def find_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return (
        torch.accelerator.current_accelerator() or torch.device("cpu")
        if torch.accelerator.is_available()
        else torch.device("cpu")
    )


def facts_of(data: Data, config: Config, processes: int = 1) -> Facts:
    """What a run finds of its data and machine, and how many processes it begins with."""
    x0 = data.x0(slice(0, 10000))
    if config.classes and data.labels is None:
        raise TrainingError(f"training with classes was asked for, but {data.name} has no labels; leave `classes` off")
    bf16 = find_device().type == "cuda" or torch.cpu._is_amx_tile_supported()
    precision = config.precision if config.precision != "auto" else "bf16" if bf16 else "fp32"
    lanes = torch.get_num_threads() * processes if find_device().type == "cpu" and data.is_image else 1
    return Facts(
        data.name,
        data.fingerprint,
        len(data),
        data.shape,
        data.classes if config.classes else (),
        float(x0.std().item()),
        precision,
        config.steps,
        __version__,
        lanes,
        data.origin,
    )


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
        self._parameters = list(self.network.parameters())
        self._pool: ThreadPoolExecutor | None = None
        if run.config.compile:
            self.network.net.run = torch.compile(self.network.net.run, dynamic=False)  # type: ignore[method-assign]

    def item_loss(self, items: Tensor) -> Tensor:
        """The loss of each of these items, numbered from the start of the run: [len(items)]."""
        noised, rng = self.noised(items)
        half = self.run.facts.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext():
            return score(self.loss, self.network, noised, rng, Stage(self._progress, self.kept))

    def noised(self, items: Tensor) -> tuple[Noised, Rng]:
        """The training examples with these numbers, and the stream that the loss draws from."""
        config = self.run.config
        rng = Rng(config.seed, items, f"train.{self.attempt}", self.device)
        index = self._index(items)
        x0 = self.data.x0(index).to(self.device)
        cond = None
        if config.classes and self.data.labels is not None:
            told = rng.child("drop").uniform((len(items),)) >= config.drop
            cond = torch.where(told, self.data.labels[index].to(self.device), -1)
        t = times(config, items, self.attempt)
        return config.process.noise(x0, t, rng.child("noise"), cond), rng.child("loss")

    def _index(self, items: Tensor) -> Tensor:
        """Which example each item is: a new order of the whole set in every epoch."""
        epochs, places = items // len(self.data), items % len(self.data)
        index = torch.empty_like(items)
        for epoch in epochs.unique().tolist():
            here = epochs == epoch
            index[here] = _order(self.run.config.seed, len(self.data), epoch)[places[here]]
        return index

    def rate(self) -> float:
        """The learning rate of the step after `step`."""
        settings = self.run.config.optimiser
        step, total = self.step, self.total
        keeps = getattr(self.loss, "keeps", None)
        if total is not None and keeps is not None:
            # two trainings, one after the other: each warms up and comes to rest
            first = math.ceil(keeps * total)
            step, total = (step, first) if step < first else (step - first, total - first)
        rate = settings.rate * min(1.0, (step + 1) / max(settings.warmup, 1))
        if total is not None and settings.decay > 0:
            rate *= min(1.0, (total - step) / max(total * settings.decay, 1))
        return rate

    def try_out(self) -> None:
        """The loss of two items, its gradient, and a sample, for nothing: raises whatever is wrong with the parts.

        Of several processes each tries an item.
        """
        if self.team is not None:
            self.team.backward(torch.arange(self.world.size), self.world.size)
            self.optimiser.zero_grad(set_to_none=True)
            return
        torch.autograd.grad(self.item_loss(torch.arange(2)).sum(), self._parameters, allow_unused=True)
        label = torch.zeros(1, dtype=torch.long) if self.network.classes else None
        sample(self.network, 1, 1, sampler=suited(self.run.config), cond=label, device=self.device)

    def advance(self) -> tuple[float, float]:
        """One step: the mean loss of the batch and the norm of its gradient. No update if either is not finite."""
        settings = self.run.config.optimiser
        if self.kept is None and self._progress >= getattr(self.loss, "keeps", math.inf):
            self.kept = self._keep()
        total = self._backward()
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)))
        if torch.isfinite(torch.tensor([total, norm])).all():
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate()
            self.optimiser.step()
            self.step += 1
            self.ema.update(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        return total, norm

    def seconds_later(self) -> float:
        """How long a step takes once the loss has kept what it keeps: three are computed and none is taken."""
        self.kept = self._keep()
        self._backward()
        began = time.perf_counter()
        for _ in range(3):
            self._backward()
        self.optimiser.zero_grad(set_to_none=True)
        self.kept = None
        return (time.perf_counter() - began) / 3

    def _backward(self) -> float:
        """The loss of the next batch, whose gradient is then in the parameters."""
        config, lanes = self.run.config, self.run.facts.lanes
        items = torch.arange(self.step * config.batch, (self.step + 1) * config.batch)
        if self.team is not None:
            return self.team.backward(items, config.optimiser.accumulate * lanes)
        pieces = items.chunk(config.optimiser.accumulate * lanes)
        total = 0.0
        for start in range(0, len(pieces), lanes):
            for loss, gradient in self._together(pieces[start : start + lanes]):
                total += loss
                self._add(gradient)
        return total

    @property
    def _progress(self) -> float:
        """The share of training that is done; 0 until its length is known."""
        return self.step / self.total if self.total else 0.0

    def _keep(self) -> nn.Module:
        """What the loss keeps of the network, with the averaged weights."""
        network = build(self.run).to(self.device)
        self.ema.copy_to(network, self.run.config.ema[0])
        some = self.data.x0(slice(0, 512)).to(self.device)
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
        return float(loss.detach()), torch.autograd.grad(loss, self._parameters, allow_unused=True)

    def _add(self, gradient: Sequence[Tensor | None]) -> None:
        for parameter, part in zip(self._parameters, gradient, strict=True):
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
        total = found.state["total"]
        self.total = int(str(total)) if total is not None else self.run.facts.steps
        return found.damaged

    def show(self) -> None:
        """A grid of samples, from the averaged weights, at 4 steps."""
        if not self.data.is_image:
            return
        network = build(self.run).to(self.device).eval()
        self.ema.copy_to(network, self.run.config.ema[0])
        if not self.world.first:
            return
        shown = assembled(self.run, network, self.step, self.kept)
        labels = torch.arange(16) % shown.classes if shown.classes else None
        way, seed = suited(self.run.config, shown), self.run.config.seed
        images = sample(shown, 16, 4, sampler=way, seed=seed, cond=labels, device=self.device)
        path = self.out / "samples" / f"step-{self.step:06d}.png"
        save_png(
            path,
            enlarge(to_image(tile(to_uint8(images.cpu())))),
            {"step": self.step, "steps": 4, "seed": self.run.config.seed, "weights": name_of(self.run.config.ema[0])},
        )


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """A moment of the optimiser in memory as its parameter is: the fused step pairs the two by place in memory, and
    a file has lost that a weight of a convolution is stored channels last."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter).copy_(shared_like(value, parameter))


@lru_cache(maxsize=4)
def _order(seed: int, count: int, epoch: int) -> Tensor:
    """The order in which an epoch goes through the data."""
    return permutation(seed, count, f"epoch.{epoch}")


def times(config: Config, items: Tensor, attempt: int) -> Tensor:
    """The times of these items, float64 [len(items)]: a golden-ratio sequence, even over any stretch."""
    start = float(Rng(config.seed, 1, f"times.{attempt}").uniform((1,), torch.float64))
    u = (start + items.double() * _GOLDEN) % 1.0
    chosen: Times = config.times
    if chosen.by == "t":
        return chosen.low + (1 - chosen.low) * u
    low, high = chosen.logsnr
    if chosen.by == "normal":
        # the ends of the sequence would be infinite
        logsnr = low + high * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))
        return config.process.time(logsnr.clamp(min=float(config.process.logsnr(1.0)))).clamp(max=1.0)
    return config.process.time(low + (high - low) * u).clamp(max=1.0)
