"""Few steps on images: every loss, head and sampler on one network and one number of training images.

A `Training` is a configuration with its ways to sample. `arms` makes it arms of the frame: one arm for each way. All
trainings of a seed see the same images in the same order, with the same noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

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
from .frame import Arms, Results, arm
from .paper import Role, VerdictRow

COUNTS = (1, 2, 4, 8, 16, 32, 64)
# the source, the side of an image, and the network of each data set
DATA_SETS: dict[str, tuple[str, int, NetSpec]] = {
    "digits": ("digits", 8, UNetSpec(width=32, depth=1, patch=1)),
    "fashion14": ("fashion-mnist", 14, UNetSpec(width=48, depth=1, patch=2)),
    "fashion28": ("fashion-mnist", 28, UNetSpec(width=64, depth=1, patch=2)),
}
REAL = "real images"
Wrapping = Callable[[Denoiser, Data, torch.Tensor], Denoiser]
Change = Callable[[Config, tuple[int, ...]], Config]


def unchanged(denoiser: Denoiser, data: Data, grid: torch.Tensor) -> Denoiser:
    return denoiser


def best_variance(denoiser: Denoiser, data: Data, grid: torch.Tensor) -> Denoiser:
    """The mean with one variance for each step: the mean squared error on 500 training items, the best single one."""
    x0 = data.x0(choose(len(data), 500))
    means, process = mean_only(denoiser), denoiser.process
    variances: dict[float, float] = {}
    for t in grid[:-1].tolist():
        noised = process.noise(x0, t, Rng(0, len(x0), "variance"))
        with torch.no_grad():
            error = need(means(noised.xt, t), Point, "best_variance").mean - x0
        variances[t] = float((error**2).mean())

    def widened(posterior: Posterior, xt: torch.Tensor, t: torch.Tensor | float) -> Posterior:
        mean = need(posterior, Point, "best_variance").mean
        return Normal(mean, torch.full_like(mean[:, :1], variances[float(t)]))

    return adjusted(widened)(means)


def eight(denoiser: Denoiser, data: Data, grid: torch.Tensor) -> Denoiser:
    """The mean of eight draws."""
    return averaged(8)(denoiser)


@dataclass(frozen=True)
class Sampling:
    """A way to sample.

    wrap : a change of the denoiser.
    most : the largest number of evaluations to measure.
    grid : the times, if not those that the sampler takes by itself.
    """

    name: str
    sampler: Sampler
    wrap: Wrapping = unchanged
    most: int = 64
    grid: Callable[[Gaussian, int], torch.Tensor] | None = None

    @property
    def counts(self) -> list[int]:
        """The numbers of evaluations to measure."""
        return [count for count in COUNTS if count <= self.most]


@dataclass(frozen=True)
class Training:
    """A configuration to train.

    change : from the plain configuration to this one.
    ways   : to sample it.
    longer : the factor of its training images.
    """

    role: Role
    change: Change
    ways: tuple[Sampling, ...]
    longer: float = 1.0


def change(**values: object) -> Change:
    return lambda config, shape: config.but(**values)


def wider(config: Config, shape: tuple[int, ...]) -> Config:
    """The plain configuration with a larger width, so that it has as many parameters as the soft mixture."""
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


def as_preset(name: str) -> Change:
    """A preset with the network and the training images of the table."""

    def make(config: Config, shape: tuple[int, ...]) -> Config:
        same = {key: getattr(config, key) for key in ("steps", "batch", "seed", "show", "save", "precision")}
        return preset(name, shape).but(net=config.task.net, **same)  # type: ignore[arg-type]

    return make


def near(process: Gaussian, n: int) -> torch.Tensor:
    """A second grid for plain models, so that they are not judged by a single one: t = 1, then even steps of logsnr
    from -5, which stands for t = 1, to 4, then t = 0."""
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
TRAININGS: dict[str, Training] = {
    "plain": Training("baseline", change(), (*SOLVERS, Sampling("best variance", ancestral, best_variance, 16))),
    "plain, twice the images": Training("baseline", change(), FEW, longer=2.0),
    "plain, wider": Training("control", wider, FEW),
    "SMD as published": Training(
        "control",
        change(head=PublishedSMD(latent=32), loss=PublishedSquare()),
        (DRAW, Sampling("mean of 8, ddim", ddim, eight, 16)),
    ),
    "energy score": Training("ours", change(head=SoftHead(mean="none"), loss=Energy(m=2, weight="v")), (DRAW,)),
    "energy score, eta = 0": Training(
        "control", change(head=SoftHead(mean="none", scale=0.0), loss=Energy(m=2, weight="v")), (DRAW,)
    ),
    "importance-weighted": Training(
        "ours", change(head=SoftHead(mean="none"), loss=Importance(k=4, temper=8.0)), (DRAW,)
    ),
    "explicit mixture": Training(
        "ours",
        change(head=MixtureHead(8, "pixel"), loss=Likelihood(0.5)),
        (
            Sampling("draws", ancestral, most=16),
            Sampling("mean, dpm-solver-2m", dpm_solver_2m, most=16),
            Sampling("mean, adams", adams, most=16),
        ),
    ),
    "feature score": Training("ours", change(head=OWN, loss=FeatureEnergy()), SOFT),
    "feature score, twice the images": Training("ours", change(head=OWN, loss=FeatureEnergy()), SOFT, longer=2.0),
    "feature score, eta = 0": Training("control", change(head=replace(OWN, scale=0.0), loss=FeatureEnergy()), SOFT),
    "feature score, pixels only": Training("control", change(head=OWN, loss=FeatureEnergy(features=0.0)), SOFT),
    "consistency": Training(
        "rival", as_preset("consistency"), (Sampling("renoise", renoise), Sampling("ddim", ddim, most=8))
    ),
    "meanflow": Training("rival", as_preset("meanflow"), (Sampling("ddim", ddim),)),
}


def base(shape: tuple[int, ...], net: NetSpec, images: int, seed: int, batch: int = 64) -> Config:
    """The plain configuration."""
    steps = images // batch
    config = preset("plain", shape).but(net=net, batch=batch, steps=steps, seed=seed, save=steps, show=steps)
    assert isinstance(config.task.head, PointHead) and isinstance(config.task.loss, Square)
    return config


def by(name: str, way: str) -> str:
    """The name of an arm: a training and its way to sample."""
    return f"{name} by {way}"


def folder(out: Path, data: str, images: int) -> Path:
    """The folder of all runs on one data set with one number of training images."""
    return out / f"{data}-{images}"


def arms(name: str, data: str, out: Path, images: int, n: int, seeds: int = 3) -> Arms:
    """A training as arms of the frame: one for each way to sample it, and one for the training itself.

    images : the number of training images (with repetition).
    n      : the number of samples for each measurement.

    The run of each seed stays in a folder below `folder(out, data, images)`: an interrupted training continues.
    """
    trained = TRAININGS[name]
    roles = {name: trained.role} | {by(name, way.name): trained.role for way in trained.ways}
    measure = partial(train_and_measure, name, data, out)
    return Arms(roles, measure, f"{data}, {name}", full={"images": images, "n": n}, seeds=seeds)


def real_images(data: str, out: Path, n: int) -> Arms:
    """The floor: the distance of n training images from all of them, and the nearest neighbours of unseen images."""
    return arm(REAL, "floor", partial(_floor, data, out), data, full={"n": n}, seeds=1)


def training_folder(out: Path, name: str, data: str, images: int, seed: int) -> Path:
    """The folder of one training."""
    readable = "".join(c if c.isalnum() else "-" for c in name).strip("-")
    return folder(out, data, images) / f"{readable}-{seed}"


def reference(data: str, out: Path) -> ReferenceSet:
    """The training images and the held-out images, with features that are cached in out/cache."""
    source, size, _ = DATA_SETS[data]
    train, held_out = load(source, size=size), load(source, size=size, split="test")
    return ReferenceSet(train, held_out, features_for(train, out / "cache"))


def train_and_measure(name: str, data: str, out: Path, seed: int, images: int, n: int) -> Results:
    """Train one configuration, or continue its training, and measure every way to sample it.

    Returns values by (arm, metric@evaluations), and the seconds and parameters of the training. Lines of progress go to
    log.txt in its folder.
    """
    at, trained, known = training_folder(out, name, data, images, seed), TRAININGS[name], reference(data, out)
    results: dict[tuple[str, str], float] = {}
    with _logged(at):
        shape = known.train.shape
        config = trained.change(base(shape, DATA_SETS[data][2], round(images * trained.longer), seed), shape)
        for step in training(known.train, config, at / "run"):
            if step.step % 250 == 0:
                print(f"{name}: step {step.step} of {step.total}, loss {step.loss:.4f}", flush=True)
        denoiser = load_run(at / "run").denoiser
        for way in trained.ways:
            for count in way.counts:
                values = _measured(way, count, denoiser, known, seed, n)
                results |= {(by(name, way.name), f"{metric}@{count}"): value for metric, value in values.items()}
                print(f"{name}, {way.name}, {count}: {values['frechet']:.2f}", flush=True)
    results[name, "training seconds"] = _seconds(at / "run", config.batch)
    results[name, "parameters"] = sum(p.numel() for p in denoiser.parameters())
    return results


@contextmanager
def _logged(at: Path) -> Iterator[None]:
    """Output goes to log.txt of the folder."""
    at.mkdir(parents=True, exist_ok=True)
    with open(at / "log.txt", "a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        yield


def _floor(data: str, out: Path, seed: int, n: int) -> Mapping[str, float]:
    known = reference(data, out)
    train = known.train
    values = known.compare(train.x0(torch.arange(len(train))[:: max(len(train) // n, 1)][:n]))
    # unseen real images: an honest model's samples are as near to the training set as these
    return values | {"nearest": float(known.held_out_nearest.quantile(0.5)), "copied": 0.01}


def _seconds(run: Path, batch: int) -> float:
    """The duration of a training, from its log: the sum over interruptions."""
    lines = log_of(run, "speed.jsonl")
    steps = [later["step"] - earlier["step"] for earlier, later in pairwise([{"step": 0}, *lines])]
    return sum(count * batch / line["images_per_second"] for count, line in zip(steps, lines, strict=True))


def _measured(
    way: Sampling, count: int, plain: Denoiser, known: ReferenceSet, seed: int, n: int
) -> Mapping[str, float]:
    """One way to sample at one number of evaluations."""
    steps, process = steps_for(way.sampler, count), plain.process
    assert isinstance(process, Gaussian)
    grid = (way.grid or traits(way.sampler).grid)(process, steps)
    denoiser = way.wrap(plain, known.train, grid)
    began = time.perf_counter()
    x = sample(denoiser, n, steps, sampler=way.sampler, seed=seed, grid=grid).clamp(-1, 1)
    seconds = time.perf_counter() - began
    return known.compare(x) | {"seconds": seconds}


def best(rows: Sequence[VerdictRow], name: str, count: int, metric: str = "frechet") -> VerdictRow:
    """A metric of the best way to sample a training: the one with the least mean Fréchet distance at this count."""
    start = by(name, "")
    own = [row for row in rows if row.name.startswith(start)]
    least = min((row for row in own if row.metric == f"frechet@{count}"), key=lambda row: row.value)
    return next(row for row in own if row.name == least.name and row.metric == f"{metric}@{count}")
