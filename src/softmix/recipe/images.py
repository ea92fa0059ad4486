"""Few steps on images. Every loss, head and sampler on one network and one budget of images.

A row is a way to train, with the ways to sample it; `compute` trains and measures the rows that are not there yet, and
keeps each in a folder of its own. Every row of a seed sees the same images in the same order, with the same noise.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from .. import training
from ..data import Data, load
from ..data.store import choose
from ..denoiser import (
    Denoiser,
    MixtureHead,
    Network,
    PointHead,
    PublishedSMD,
    SoftHead,
    adjusted,
    averaged,
    mean_only,
)
from ..evaluate.reference import ReferenceSet, features_for
from ..loss import Energy, FeatureEnergy, Importance, Likelihood, PublishedSquare, Square
from ..net import NetSpec, UNetSpec
from ..posterior import Normal, Point, Posterior, need
from ..process import Gaussian, uniform
from ..rng import Rng
from ..sampler import Sampler, adams, ancestral, ddim, dpm_solver_2m, heun, renoise, sample, soft_adams, traits
from ..train import Config, log_of, preset
from ..train import load as load_run
from .contest import steps_for
from .frame import Say, in_processes
from .paper import Role

COUNTS = (1, 2, 4, 8, 16, 32, 64)
SETS: dict[str, tuple[str, int, NetSpec]] = {
    "digits": ("digits", 8, UNetSpec(width=32, depth=1, patch=1)),
    "fashion14": ("fashion-mnist", 14, UNetSpec(width=48, depth=1, patch=2)),
    "fashion28": ("fashion-mnist", 28, UNetSpec(width=64, depth=1, patch=2)),
}
Wrapping = Callable[[Denoiser, Data, torch.Tensor], Denoiser]


def as_it_is(denoiser: Denoiser, data: Data, grid: torch.Tensor) -> Denoiser:
    return denoiser


def best_variance(denoiser: Denoiser, data: Data, grid: torch.Tensor) -> Denoiser:
    """The mean with the best one variance for each step: its mean squared error on 500 training items."""
    x0 = data.x0(choose(len(data), 500))
    means, process = mean_only(denoiser), denoiser.process
    found: dict[float, float] = {}
    for t in grid[:-1].tolist():
        noised = process.noise(x0, t, Rng(0, len(x0), "variance"))
        with torch.no_grad():
            found[t] = float(((need(means(noised.xt, t), Point, "best_variance").mean - x0) ** 2).mean())

    def widened(posterior: Posterior, xt: torch.Tensor, t: torch.Tensor | float) -> Posterior:
        mean = need(posterior, Point, "best_variance").mean
        return Normal(mean, torch.full_like(mean[:, :1], found[float(t)]))

    return adjusted(widened)(means)


def eight(denoiser: Denoiser, data: Data, grid: torch.Tensor) -> Denoiser:
    """The mean of eight draws."""
    return averaged(8)(denoiser)


@dataclass(frozen=True)
class Sampling:
    """A way to sample: a sampler, what is put around the denoiser, the largest count it is measured at, and the
    grid, if it is not the one that the sampler takes by itself."""

    name: str
    sampler: Sampler
    wrap: Wrapping = as_it_is
    most: int = 64
    grid: Callable[[Gaussian, int], torch.Tensor] | None = None


@dataclass(frozen=True)
class Row:
    """A training: its part in the argument, what it changes of the plain one, the ways to sample it, and how many
    times the images it sees."""

    role: Role
    change: Callable[[Config, tuple[int, ...]], Config]
    ways: tuple[Sampling, ...]
    longer: float = 1.0


def change(**values: object) -> Callable[[Config, tuple[int, ...]], Config]:
    return lambda config, shape: config.but(**values)


def wider(config: Config, shape: tuple[int, ...]) -> Config:
    """Plain, with a width that gives it the parameters of the soft mixture."""
    aim = _parameters(config.but(head=SoftHead()), shape)
    net = config.task.net
    assert isinstance(net, UNetSpec)
    width = min(range(net.width, 3 * net.width, 4), key=lambda w: abs(_parameters(_width(config, w), shape) - aim))
    return _width(config, width)


def _width(config: Config, width: int) -> Config:
    return config.but(net=replace(config.task.net, width=width))


def _parameters(config: Config, shape: tuple[int, ...]) -> int:
    task = config.task
    network = Network(task.process, task.net, task.head, shape)
    return sum(p.numel() for p in network.parameters())


def as_preset(name: str) -> Callable[[Config, tuple[int, ...]], Config]:
    """All that a preset says, on the table's own net and budget."""

    def make(config: Config, shape: tuple[int, ...]) -> Config:
        kept = {key: getattr(config, key) for key in ("steps", "batch", "seed", "show", "save", "precision")}
        return preset(name, shape).but(net=config.task.net, **kept)  # type: ignore[arg-type]

    return make


def near(process: Gaussian, n: int) -> torch.Tensor:
    """t = 1, then even steps of logsnr from -5, which stands for t = 1, to 4, then t = 0: a second grid of few steps
    for plain models, so that they are not judged by one alone."""
    inner = process.time(torch.linspace(-5, 4, n, dtype=torch.float64))
    return torch.cat([inner.new_ones(1), inner[1:], inner.new_zeros(1)])


DRAW = Sampling("draws, eta 0", partial(ancestral, eta=0.0), most=16)
FEW = (Sampling("ddim", ddim), Sampling("dpm-solver-2m", dpm_solver_2m, most=16), Sampling("adams", adams, most=16))
SOLVERS = (
    *FEW,
    Sampling("dpm-solver-2m, uniform t", dpm_solver_2m, most=16, grid=uniform),
    Sampling("dpm-solver-2m, logsnr -5 to 4", dpm_solver_2m, most=16, grid=near),
    Sampling("adams, uniform t", adams, most=16, grid=uniform),
    Sampling("adams, logsnr -5 to 4", adams, most=16, grid=near),
    Sampling("heun", heun, most=16),
    Sampling("ancestral", ancestral),
)
OWN = SoftHead(mean="own")
SOFT = (Sampling("soft-adams", soft_adams, most=16), Sampling("mean, adams", adams, most=16))
ROWS: dict[str, Row] = {
    "plain": Row("baseline", change(), (*SOLVERS, Sampling("best variance", ancestral, best_variance, 16))),
    "plain, twice the images": Row("baseline", change(), FEW, longer=2.0),
    "plain, wider": Row("control", wider, FEW),
    "SMD as published": Row(
        "control",
        change(head=PublishedSMD(latent=32), loss=PublishedSquare()),
        (DRAW, Sampling("mean of 8, ddim", ddim, eight, 16)),
    ),
    "energy score": Row("ours", change(head=SoftHead(mean="none"), loss=Energy(m=2, weight="v")), (DRAW,)),
    "energy score, eta = 0": Row(
        "control", change(head=SoftHead(mean="none", scale=0.0), loss=Energy(m=2, weight="v")), (DRAW,)
    ),
    "importance-weighted": Row("ours", change(head=SoftHead(mean="none"), loss=Importance(k=4, temper=8.0)), (DRAW,)),
    "explicit mixture": Row(
        "ours",
        change(head=MixtureHead(8, "pixel"), loss=Likelihood(0.5)),
        (
            Sampling("draws", ancestral, most=16),
            Sampling("mean, dpm-solver-2m", dpm_solver_2m, most=16),
            Sampling("mean, adams", adams, most=16),
        ),
    ),
    "feature score": Row("ours", change(head=OWN, loss=FeatureEnergy()), SOFT),
    "feature score, twice the images": Row("ours", change(head=OWN, loss=FeatureEnergy()), SOFT, longer=2.0),
    "feature score, eta = 0": Row("control", change(head=replace(OWN, scale=0.0), loss=FeatureEnergy()), SOFT),
    "feature score, pixels only": Row("control", change(head=OWN, loss=FeatureEnergy(features=0.0)), SOFT),
    "consistency": Row(
        "rival", as_preset("consistency"), (Sampling("renoise", renoise), Sampling("ddim", ddim, most=8))
    ),
    "meanflow": Row("rival", as_preset("meanflow"), (Sampling("ddim", ddim),)),
}


def base(shape: tuple[int, ...], net: NetSpec, images: int, seed: int, batch: int = 64) -> Config:
    """The plain row's configuration."""
    steps = images // batch
    config = preset("plain", shape).but(net=net, batch=batch, steps=steps, seed=seed, save=steps, show=steps)
    assert isinstance(config.task.head, PointHead) and isinstance(config.task.loss, Square)
    return config


@dataclass(frozen=True)
class Job:
    """A row to train and measure: on which data, how many images it sees, its seed, and the samples of each cell."""

    row: str
    data: str
    images: int
    seed: int
    n: int
    out: Path

    def __str__(self) -> str:
        return f"{self.data}, {self.row}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        name = "".join(c if c.isalnum() else "-" for c in self.row).strip("-")
        return self.out / f"{self.data}-{self.images}" / f"{name}-{self.seed}"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def missing(self) -> list[tuple[Sampling, int]]:
        """The ways to sample, and numbers of evaluations, that are not measured yet."""
        found = {(cell["way"], cell["evaluations"]) for cell in self.cells()}
        ways = [(way, count) for way in ROWS[self.row].ways for count in COUNTS if count <= way.most]
        return [(way, count) for way, count in ways if (way.name, count) not in found]

    def cells(self) -> list[dict[str, Any]]:
        """What is measured."""
        return list(json.loads(self.result.read_text(encoding="utf-8"))["cells"]) if self.result.exists() else []


def compute(jobs: Iterable[Job], workers: int, say: Say) -> None:
    """Trains and measures the rows that are not there yet, `workers` at a time, on one thread each."""
    for _ in in_processes(_logged, [job for job in jobs if job.missing()], say, workers):
        pass


def _logged(job: Job) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    with open(job.folder / "log.txt", "a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        train_and_measure(job)


def train_and_measure(job: Job) -> None:
    """Trains one row and writes its result.json; a training that was cut off goes on."""
    source, size, net = SETS[job.data]
    data, held_out = load(source, size=size), load(source, size=size, split="test")
    row = ROWS[job.row]
    config = row.change(base(data.shape, net, round(job.images * row.longer), job.seed), data.shape)
    for step in training(data, config, job.folder / "run"):
        if step.step % 250 == 0:
            print(f"{job.row}: step {step.step} of {step.total}, loss {step.loss:.4f}", flush=True)
    model = load_run(job.folder / "run")
    reference = ReferenceSet(data, held_out, features_for(data, job.out / "cache"))
    cells = job.cells()
    for way, count in job.missing():
        cells.append(_cell(job, way, count, model.denoiser, data, reference))
        print(f"{job.row}, {way.name}, {count}: {cells[-1]['values']['frechet']:.2f}", flush=True)
    floor = reference.compare(data.x0(torch.arange(len(data))[:: max(len(data) // job.n, 1)][: job.n]))
    # real images that were not trained on: what an honest model's distance to the training set should be
    floor |= {"nearest": float(reference.held_out_nearest.quantile(0.5)), "copied": 0.01}
    result = {
        "row": job.row,
        "role": row.role,
        "data": job.data,
        "images": round(job.images * row.longer),
        "seed": job.seed,
        "n": job.n,
        "seconds": _seconds(job.folder / "run", config.batch),
        "parameters": sum(p.numel() for p in model.denoiser.parameters()),
        "features": reference.features.name,
        "floor": floor,
        "cells": cells,
        "machine": f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread",
    }
    job.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _seconds(run: Path, batch: int) -> float:
    """How long the training took, also if it was cut off in between: the sum of what its log says."""
    lines = log_of(run, "speed.jsonl")
    steps = [later["step"] - earlier["step"] for earlier, later in pairwise([{"step": 0}, *lines])]
    return sum(count * batch / line["images_per_second"] for count, line in zip(steps, lines, strict=True))


def _cell(job: Job, way: Sampling, count: int, plain: Denoiser, data: Data, reference: ReferenceSet) -> dict[str, Any]:
    """The measures of one way to sample at one number of evaluations."""
    steps = steps_for(way.sampler, count)
    process = plain.process
    assert isinstance(process, Gaussian)
    grid = (way.grid or traits(way.sampler).grid)(process, steps)
    denoiser = way.wrap(plain, data, grid)
    began = time.perf_counter()
    x = sample(denoiser, job.n, steps, sampler=way.sampler, seed=job.seed, grid=grid).clamp(-1, 1)
    seconds = time.perf_counter() - began
    return {
        "way": way.name,
        "evaluations": count,
        "steps": steps,
        "values": reference.compare(x) | {"seconds": seconds},
    }


def results(folder: Path) -> list[dict[str, Any]]:
    """What has been measured in the folder of one data set."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/result.json"))]


def values(found: Sequence[dict[str, Any]], row: str, way: str, count: int, metric: str) -> list[float]:
    """One cell's metric, a number for each seed."""
    return [
        float(cell["values"][metric])
        for result in found
        if result["row"] == row
        for cell in result["cells"]
        if cell["way"] == way and cell["evaluations"] == count and metric in cell["values"]
    ]


def best(found: Sequence[dict[str, Any]], row: str, count: int, metric: str = "frechet") -> list[float]:
    """A number for each seed: that of the way to sample this row whose mean Frechet distance at this count is least."""
    ways = {cell["way"]: None for result in found if result["row"] == row for cell in result["cells"]}
    measured = {way: values(found, row, way, count, "frechet") for way in ways}
    chosen = min((way for way in ways if measured[way]), key=lambda way: sum(measured[way]) / len(measured[way]))
    return values(found, row, chosen, count, metric)
