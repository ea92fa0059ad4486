"""Few steps on images: every loss, head and sampler on one network and one number of training images.

A `Training` is a configuration with its ways to sample. `arms` makes it arms of the frame: one arm for each way. All
trainings of a seed see the same images in the same order, with the same noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from .. import training
from ..data import load
from ..denoiser import Denoiser, PointHead
from ..denoiser.modalities import ITEM
from ..evaluate.reference import ReferenceSet, features_for
from ..loss import Square
from ..net import NetSpec, UNetSpec
from ..process import Framed, Gaussian
from ..sampler import sample, sample_modalities, traits
from ..train import Config, find_device, log_of, preset
from ..train import load as load_run
from .contest import steps_for
from .frame import Arms, Progress, Results, Trained, arm, full_rows
from .paper import Role, VerdictRow
from .trainings import COUNTS, TRAININGS, Sampling, Training, device_of

# the batch size of the trainings, unless another is given
BATCH = 64
# the source, the side of an image, and the network of each data set
DATA_SETS: dict[str, tuple[str, int, NetSpec]] = {
    "digits": ("digits", 8, UNetSpec(width=32, depth=1, patch=1)),
    "fashion14": ("fashion-mnist", 14, UNetSpec(width=48, depth=1, patch=2)),
    "fashion28": ("fashion-mnist", 28, UNetSpec(width=64, depth=1, patch=2)),
    "photographs16": ("photographs", 16, UNetSpec(width=48, depth=1, patch=2)),
    "photographs32": ("photographs", 32, UNetSpec(width=64, depth=1, patch=2)),
}
REAL = "real images"
Find = Callable[[str], Training]


def few_steps(name: str) -> Training:
    """A row of the table of few steps."""
    return TRAININGS[name]


def base(
    shape: tuple[int, ...], net: NetSpec, images: int, seed: int, batch: int = BATCH, compile: bool = False
) -> Config:
    """The plain configuration."""
    steps = images // batch
    # ten checkpoints, so that a training that is cut off loses little
    config = preset("plain", shape).but(net=net, batch=batch, steps=steps, seed=seed, show=steps, compile=compile)
    assert isinstance(config.denoise.head, PointHead) and isinstance(config.denoise.loss, Square)
    return config


def by(name: str, way: str) -> str:
    """The name of an arm: a training and its way to sample."""
    return f"{name} by {way}"


def folder(out: Path, data: str, images: int, batch: int = BATCH, compile: bool = False) -> Path:
    """The folder of all runs on one data set with one number of training images and one batch size, compiled or not."""
    return out / (f"{data}-{images}" + (f"-batch{batch}" if batch != BATCH else "") + ("-compiled" if compile else ""))


def arms(
    name: str,
    data: str,
    out: Path,
    images: int,
    n: int,
    seeds: int = 3,
    batch: int = BATCH,
    counts: Sequence[int] = COUNTS,
    compile: bool = False,
    find: Find = few_steps,
) -> Arms:
    """A training as arms of the frame: one for each way to sample it, and one for the training itself.

    find   : from a name to its training, a function at the top of a file, because it goes to other processes. By
        default the table of few steps.
    images : the number of training images (with repetition).
    n      : the number of samples for each measurement.
    batch  : the batch size of the training. Choose a large one on a GPU.
    counts : the numbers of evaluations to measure.
    compile : train with torch.compile. Numbers then differ by rounding. Choose it on a GPU.

    The run of each seed stays in a folder below `folder(out, data, images)`: an interrupted training continues.
    """
    trained = find(name)
    roles = {name: trained.role} | {by(name, way.name): trained.role for way in trained.ways}
    measure = partial(train_and_measure, name, data, out, find=find)
    # a default is left out of the settings, so that numbers saved without it are found
    settings: dict[str, Any] = {"images": images, "n": n}
    settings |= {"batch": batch} if batch != BATCH else {}
    settings |= {"counts": tuple(counts)} if tuple(counts) != COUNTS else {}
    settings |= {"compile": True} if compile else {}
    return Arms(roles, measure, f"{data}, {name}", full=settings, seeds=seeds)


def real_images(data: str, out: Path, n: int) -> Arms:
    """The floor: the distance of n training images from all of them, and the nearest neighbours of unseen images."""
    # "even" parts these numbers from those of earlier versions, which left out the last items of some sets
    return arm(REAL, "floor", partial(_floor, data, out), data, full={"n": n, "chosen": "even"}, seeds=1)


def training_folder(
    out: Path, name: str, data: str, images: int, seed: int, batch: int = BATCH, compile: bool = False
) -> Path:
    """The folder of one training."""
    readable = "".join(c if c.isalnum() else "-" for c in name).strip("-")
    return folder(out, data, images, batch, compile) / f"{readable}-{seed}"


def reference(data: str, out: Path) -> ReferenceSet:
    """The training images and the held-out images, with features that are cached in out/cache."""
    source, size, _ = DATA_SETS[data]
    train, held_out = load(source, size=size), load(source, size=size, split="test")
    return ReferenceSet(train, held_out, features_for(train, out / "cache"))


def train_and_measure(
    name: str,
    data: str,
    out: Path,
    seed: int,
    images: int,
    n: int,
    batch: int = BATCH,
    counts: Sequence[int] = COUNTS,
    compile: bool = False,
    find: Find = few_steps,
) -> Results:
    """Train one configuration, or continue its training, and measure every way to sample it, on the GPU if there is
    one.

    Returns values by (arm, metric@evaluations), and the seconds and parameters of the training. Lines of progress go to
    log.txt in its folder.
    """
    at, trained = training_folder(out, name, data, images, seed, batch, compile), find(name)
    known = reference(data, out)
    results: dict[tuple[str, str], float] = {}
    with logged(at):
        shape = known.train.shape
        seen = round(images * trained.longer)
        config = trained.change(base(shape, DATA_SETS[data][2], seen, seed, batch, compile), shape)
        for step in training(trained.source(known.train), config, at / "run"):
            if step.step % 250 == 0:
                speed = f"{step.images_per_second:,.0f} images/s"
                print(f"{name}: step {step.step} of {step.total}, loss {step.loss:.4f}, {speed}", flush=True)
        denoiser = load_run(at / "run").denoiser.to(find_device())
        for way in trained.ways:
            for count in way.within(counts):
                values = _measured(way, count, denoiser, known, seed, n)
                results |= {(by(name, way.name), f"{metric}@{count}"): value for metric, value in values.items()}
                print(f"{name}, {way.name}, {count}: {values['frechet']:.2f}", flush=True)
    results[name, "training seconds"] = training_seconds(at / "run", config.batch)
    results[name, "parameters"] = sum(p.numel() for p in denoiser.parameters())
    return results


@contextmanager
def logged(at: Path) -> Iterator[None]:
    """Output goes to log.txt of the folder."""
    at.mkdir(parents=True, exist_ok=True)
    with open(at / "log.txt", "a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        yield


def _floor(data: str, out: Path, seed: int, n: int, chosen: str = "even") -> Mapping[str, float]:
    known = reference(data, out)
    train = known.train
    values = known.compare(train.x0(_spread_out(len(train), n)))
    # unseen real images: an honest model's samples are as near to the training set as these
    return values | {"nearest": float(known.held_out_nearest.quantile(0.5)), "copied": 0.01}


def _spread_out(count: int, n: int) -> torch.Tensor:
    """n of `count` items at equal distances, from everywhere: data may be in the order of their classes."""
    n = min(n, count)
    return torch.arange(n, device="cpu") * count // n


def training_seconds(run: Path, batch: int) -> float:
    """The duration of a training, from its log: the sum over interruptions."""
    lines = log_of(run, "speed.jsonl")
    steps = [later["step"] - earlier["step"] for earlier, later in pairwise([{"step": 0}, *lines])]
    return sum(count * batch / line["images_per_second"] for count, line in zip(steps, lines, strict=True))


def _measured(
    way: Sampling, count: int, plain: Denoiser, known: ReferenceSet, seed: int, n: int
) -> Mapping[str, float]:
    """One way to sample at one number of evaluations."""
    steps, process = steps_for(way.sampler, count), plain.process
    assert isinstance(process, Gaussian | Framed)
    # a process with a frame has the clock of its base
    grid = (way.grid or traits(way.sampler).grid)(process.base if isinstance(process, Framed) else process, steps)
    denoiser = way.wrap(plain, known.train, grid)
    device, began = device_of(plain), time.perf_counter()
    # a GPU is not busy with few items; the samples do not depend on the batch
    batch = 256 if device.type == "cpu" else 2048
    classes = getattr(plain, "classes", 0)
    labels = torch.arange(n, device="cpu") % classes if classes else None
    cond = None if labels is None else labels.to(device)
    settings: dict[str, Any] = {"sampler": way.sampler, "seed": seed, "grid": grid, "batch": batch, "device": device}
    if hasattr(denoiser, "joint"):
        # the labels are drawn with the images
        parts = sample_modalities(denoiser, n, steps, **settings)
        x = parts.pop(ITEM)
        labels = next((part.cpu() for part in parts.values() if not part.is_floating_point()), None)
    else:
        x = sample(denoiser, n, steps, cond=cond, **settings)
    # the distances are computed on the CPU
    x = x.clamp(-1, 1).cpu()
    seconds = time.perf_counter() - began
    values = known.compare(x) | {"seconds": seconds}
    logits = None if labels is None else known.features.classify(x)
    if labels is not None and logits is not None:
        # the share of samples that the classifier takes for their class, which was asked for or drawn
        values["accuracy"] = float(logits.argmax(1).eq(labels).double().mean())
    return values


def best(
    rows: Sequence[VerdictRow], name: str, count: int, metric: str = "frechet", least: str = "frechet"
) -> VerdictRow:
    """A metric of the best way to sample a training: the one with the smallest mean of `least` at this count."""
    start = by(name, "")
    own = [row for row in rows if row.name.startswith(start)]
    chosen = min((row for row in own if row.metric == f"{least}@{count}"), key=lambda row: row.value)
    return next(row for row in own if row.name == chosen.name and row.metric == f"{metric}@{count}")


def best_rows(
    names: Sequence[str],
    find: Find,
    counts: Sequence[int],
    metrics: Sequence[str],
    out: Path,
    progress: Progress,
    data: str = "fashion14",
    images: int = 60_000,
    n: int = 1000,
) -> list[VerdictRow]:
    """Train each of these rows with three seeds, and take the best way to sample it at each count. And the floor.

    metrics : that of the best way; "frechet" decides.
    """
    each = [arms(name, data, out, images, n, counts=counts, find=find) for name in names]
    measured = full_rows([*each, real_images(data, out, n)], progress, folder(out, data, images))
    real = next(row for row in measured if row.name == REAL and row.metric == "frechet")
    kept = [replace(best(measured, name, k, metric), name=name) for metric in metrics for name in names for k in counts]
    return [*kept, replace(real, metric=f"frechet@{counts[0]}")]


def trained(
    title: str, rows: Mapping[str, Training], find: Find, counts: Sequence[int], metrics: Sequence[str] = ("frechet",)
) -> Trained:
    """Trainings on Fashion-MNIST, 14 x 14, as a part of a study.

    title : the name of the data in the table.
    rows  : the trainings by name, as `find` gives them.
    """
    roles: dict[str, Role] = {name: each.role for name, each in rows.items()} | {REAL: "floor"}
    return Trained(title, roles, partial(best_rows, tuple(rows), find, counts, metrics))
