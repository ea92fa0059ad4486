"""The room of training: the loop, as a generator that the caller drives.

    for step in training(data, config, "runs/x"):
        ...

All randomness is a function of (seed, number of the item, role) and all else is in the checkpoint, so the
same call continues a run that was cut off and ends with the same bits as one left alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..version import __version__
from ..config import ConfigError, dumps, loads
from ..data import Data, to_uint8
from ..denoiser import Network
from ..picture import enlarge, save_png, tile, to_image
from ..process import Noised
from ..rng import Rng, permutation
from ..sampler import sample
from . import checkpoint
from .config import Config, Facts, Run, Times
from .ema import Ema, name_of

_CALIBRATE = (5, 25)
_GOLDEN = 0.6180339887498949


class TrainingError(RuntimeError):
    """Training that cannot begin or go on; the sentence says why and what to do."""


@dataclass(frozen=True)
class TrainStep:
    """What one step did. step counts from 1; total is None until it is known; loss and norm are from before
    the update; notes are sentences for the reader."""

    step: int
    total: int | None
    loss: float
    norm: float
    rate: float
    images_per_second: float
    notes: tuple[str, ...] = ()


def build(run: Run) -> Network:
    """The network of a run, with the weights that its seed gives. The caller's random state is left alone."""
    config, facts = run.config, run.facts
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        classes = len(facts.class_names) if config.classes else 0
        return Network(config.process, config.net, config.head, facts.shape, classes, config.output, facts.data_sd)


def find_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator() or torch.device("cpu") if torch.accelerator.is_available() else torch.device("cpu")


def facts_of(data: Data, config: Config) -> Facts:
    """What a run finds of its data and machine."""
    x0 = data.x0(slice(0, 10000))
    if config.classes and data.labels is None:
        raise TrainingError(f"training with classes was asked for, but {data.name} has no labels; leave `classes` off")
    bf16 = find_device().type == "cuda" or torch.cpu._is_amx_tile_supported()
    precision = config.precision if config.precision != "auto" else "bf16" if bf16 else "fp32"
    return Facts(data.name, data.fingerprint, len(data), data.shape, data.classes if config.classes else (), float(x0.std().item()), precision, config.steps, __version__)


def settle(out: Path, data: Data, config: Config) -> Run:
    """The run that lives in `out`: a new one, or the one found there if it is the same."""
    place = out / "config.json"
    if config.steps is None and config.minutes is None:
        raise TrainingError("how long to train was not said: give steps or minutes")
    asked = Run(config, facts_of(data, config))
    if not place.exists():
        if out.exists() and any(out.iterdir()):
            raise TrainingError(f"{out} is not empty and holds no run of softmix: name another folder")
        out.mkdir(parents=True, exist_ok=True)
        place.write_text(dumps(asked))
        return asked
    try:
        found = loads(Run, place.read_text())
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{place} cannot be read: {error}") from error
    if found.config != config:
        other = [name for name in Config.__dataclass_fields__ if getattr(found.config, name) != getattr(config, name)]
        raise TrainingError(f"{out} holds a run with another {', '.join(other)}: name another folder, or repeat the settings in {place}")
    if found.facts.fingerprint != asked.facts.fingerprint:
        raise TrainingError(f"{out} holds a run on other data ({found.facts.data}, {found.facts.fingerprint}): name another folder")
    return found


class Trainer:
    """The state of a run in memory: network, loss, optimiser, averages, and the counter `step`."""

    def __init__(self, run: Run, data: Data, out: Path):
        self.run, self.data, self.out = run, data, out
        self.device = find_device()
        self.network = build(run).to(self.device)
        self.loss = run.config.loss
        settings = run.config.optimiser
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=settings.rate, betas=settings.betas, weight_decay=settings.weight_decay, fused=True)
        self.ema = Ema(self.network, run.config.ema)
        self.step = 0
        self.attempt = 0
        self.total = run.facts.steps
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        if run.config.compile:
            self.network.net.run = torch.compile(self.network.net.run, dynamic=False)  # type: ignore[method-assign]

    def item_loss(self, items: Tensor) -> Tensor:
        """The loss of each of these items, numbered from the start of the run: [len(items)]."""
        noised, rng = self.noised(items)
        half = self.run.facts.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext():
            return self.loss(self.network(noised.xt, noised.t, noised.cond), noised, rng)

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
            if self._order[0] != epoch:
                self._order = (epoch, permutation(self.run.config.seed, len(self.data), f"epoch.{epoch}"))
            here = epochs == epoch
            index[here] = self._order[1][places[here]]
        return index

    def rate(self) -> float:
        """The learning rate of the step after `step`."""
        settings = self.run.config.optimiser
        rate = settings.rate * min(1.0, (self.step + 1) / max(settings.warmup, 1))
        if self.total is not None and settings.decay > 0:
            rate *= min(1.0, (self.total - self.step) / max(self.total * settings.decay, 1))
        return rate

    def advance(self) -> tuple[float, float]:
        """One step: the mean loss of the batch and the norm of its gradient. No update if either is not finite."""
        config = self.run.config
        settings = config.optimiser
        items = torch.arange(self.step * config.batch, (self.step + 1) * config.batch)
        total = 0.0
        for part in items.chunk(settings.accumulate):
            loss = self.item_loss(part).sum() / config.batch
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip))
        if torch.isfinite(torch.tensor([total, norm])).all():
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate()
            self.optimiser.step()
            self.step += 1
            self.ema.update(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        return total, norm

    def save(self) -> None:
        """A checkpoint of this step."""
        moments = {}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                moments[f"{key}/{name}"] = value
        tensors = {"model": self.network.state_dict(), "optimizer": moments, **self.ema.state()}
        state = {"step": self.step, "attempt": self.attempt, "total": self.total}
        checkpoint.save(self.out / "checkpoints", self.step, tensors, state, self.run.config.keep)

    def load(self) -> list[str]:
        """Goes to the newest whole checkpoint, if there is one; sentences about damaged ones."""
        found = checkpoint.latest(self.out / "checkpoints")
        if found is None:
            return []
        self.network.load_state_dict(found.tensors["model"])
        self.optimiser.state.clear()
        for name, parameter in self.network.named_parameters():
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}/{name}" in found.tensors["optimizer"]]
            saved = {key: found.tensors["optimizer"][f"{key}/{name}"] for key in keys}
            if saved:
                self.optimiser.state[parameter] = {key: value.to(self.device) for key, value in saved.items()}
        self.ema.load(found.tensors)
        self.step, self.attempt = int(str(found.state["step"])), int(str(found.state["attempt"]))
        total = found.state["total"]
        self.total = int(str(total)) if total is not None else None
        return found.damaged

    def show(self) -> None:
        """A grid of samples, from the averaged weights, at 4 steps."""
        if not self.data.is_image:
            return
        shown = build(self.run).to(self.device).eval()
        self.ema.copy_to(shown, self.run.config.ema[0])
        labels = torch.arange(16) % shown.classes if shown.classes else None
        images = sample(shown, 16, 4, seed=self.run.config.seed, cond=labels, device=self.device)
        path = self.out / "samples" / f"step-{self.step:06d}.png"
        save_png(path, enlarge(to_image(tile(to_uint8(images.cpu())))), {"step": self.step, "steps": 4, "seed": self.run.config.seed, "weights": name_of(self.run.config.ema[0])})


def times(config: Config, items: Tensor, attempt: int) -> Tensor:
    """The times of these items, float64 [len(items)]: a golden-ratio sequence, even over any stretch."""
    start = float(Rng(config.seed, 1, f"times.{attempt}").uniform((1,), torch.float64))
    u = (start + items.double() * _GOLDEN) % 1.0
    chosen: Times = config.times
    if chosen.by == "t":
        return chosen.low + (1 - chosen.low) * u
    low, high = chosen.logsnr
    return config.process.time(low + (high - low) * u).clamp(max=1.0)


def training(data: Data, config: Config, out: str | Path) -> Iterator[TrainStep]:
    """Trains, or goes on training, the run in folder `out`, yielding after every step.

    Raises TrainingError, before anything is written, if the folder holds another run, and when the loss is
    not finite under the policy "stop".
    """
    out = Path(out)
    run = settle(out, data, config)
    trainer = Trainer(run, data, out)
    notes = tuple(trainer.load())
    if trainer.step == 0:
        # so that there is always something to roll back to
        trainer.save()
    clock, began = time.perf_counter(), trainer.step
    failures = 0
    while trainer.total is None or trainer.step < trainer.total:
        before = trainer.step
        loss, norm = trainer.advance()
        if trainer.step == before:
            failures += 1
            notes += (_failed(trainer, loss, norm, failures),)
            continue
        failures = 0
        now = time.perf_counter()
        if trainer.step - began == _CALIBRATE[0]:
            clock = now
        done = trainer.step - began - _CALIBRATE[0]
        speed = done * config.batch / (now - clock) if done > 0 else 0.0
        if trainer.total is None and done >= _CALIBRATE[1] - _CALIBRATE[0]:
            notes += (_fix_total(trainer, speed),)
        report = TrainStep(trainer.step, trainer.total, loss, norm, trainer.rate(), speed, notes)
        _record(trainer, report)
        notes = ()
        yield report


def _fix_total(trainer: Trainer, speed: float) -> str:
    """From the speed so far, how many steps fit into the minutes asked for; written down for good."""
    config = trainer.run.config
    assert config.minutes is not None
    # a twentieth is left for checkpoints and pictures
    trainer.total = max(trainer.step + 1, int(0.95 * config.minutes * 60 * speed / config.batch))
    trainer.run = replace(trainer.run, facts=replace(trainer.run.facts, steps=trainer.total))
    aside = trainer.out / "config.json.tmp"
    aside.write_text(dumps(trainer.run))
    aside.rename(trainer.out / "config.json")
    return f"{speed:.0f} images a second: {trainer.total} steps in {config.minutes:g} minutes"


def _record(trainer: Trainer, step: TrainStep) -> None:
    """Log, pictures and checkpoints, as they fall due."""
    config, tenth = trainer.run.config, max((trainer.total or 10**9) // 10, 1)
    last = step.step == trainer.total
    if step.step % 10 == 0 or last or step.notes:
        line = {"step": step.step, "loss": step.loss, "norm": step.norm, "rate": step.rate, "images_per_second": round(step.images_per_second, 1)}
        _log(trainer, line | ({"notes": list(step.notes)} if step.notes else {}))
    if last or step.step % (config.show or tenth) == 0:
        trainer.show()
    if last or step.step % (config.save or tenth) == 0:
        trainer.save()


def _log(trainer: Trainer, line: dict[str, object]) -> None:
    with open(trainer.out / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _failed(trainer: Trainer, loss: float, norm: float, failures: int) -> str:
    """What happens after a loss or gradient that is not finite, and a sentence about it."""
    policy, first = trainer.run.config.nonfinite, trainer.step * trainer.run.config.batch
    items = torch.arange(first, first + trainer.run.config.batch)
    t = times(trainer.run.config, items, trainer.attempt)
    worst = {name: float(p.detach().abs().max()) for name, p in trainer.network.named_parameters()}
    name = max(worst, key=lambda key: worst[key] if worst[key] == worst[key] else float("inf"))
    what = (
        f"step {trainer.step + 1}: loss {loss}, gradient norm {norm}; items {first} to {first + len(items) - 1}, "
        f"t from {float(t.min()):.4f} to {float(t.max()):.4f}; largest weight {worst[name]:.3g} in {name}"
    )
    _log(trainer, {"step": trainer.step + 1, "nonfinite": what, "policy": policy})
    if policy == "stop" or failures >= 10:
        raise TrainingError(f"{what}. Nothing of it was kept. The checkpoint before is in {trainer.out / 'checkpoints'}; lower the rate, or choose nonfinite skip or rollback.")
    if policy == "rollback":
        attempt = trainer.attempt + 1
        trainer.load()
        trainer.attempt = attempt
        return f"{what}; rolled back to step {trainer.step}, with other draws from here"
    trainer.step += 1
    return f"{what}; this step was skipped"
