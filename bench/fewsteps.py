"""Few steps: every loss, head and sampler on one network and one budget of images, by number of evaluations.

    python bench/fewsteps.py --data fashion14 --images 150000 --seeds 0 1 2 --out runs/few
    python bench/fewsteps.py --data digits --images 300000 --rows plain soft --out runs/few
    python bench/fewsteps.py --report --out runs/few

Rows that are there already are not computed again. Each is trained on one thread, `--workers` at a time (0: as
many as there are cores); every row sees the same images in the same order, with the same noise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

import softmix
from softmix.data import Data, load
from softmix.denoiser import Denoiser, MixtureHead, PointHead, PublishedSMD, SoftHead
from softmix.denoiser.wrap import Wrapped, averaged
from softmix.evaluate.judge import Reference, features_for
from softmix.loss import Energy, FeatureEnergy, Importance, Likelihood, PublishedSquare, Square
from softmix.net import NetSpec, UNetSpec
from softmix.posterior import HasMean, Normal, Posterior, need
from softmix.process import Gaussian, few, uniform
from softmix.rng import Rng
from softmix.sampler import Sampler, ancestral, ddim, dpm_solver_2m, heun, renoise, soft_2m, traits
from softmix.train import Config, preset
from softmix.train import load as load_run

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
    x0 = data.x0(torch.arange(len(data))[:: len(data) // 500][:500])
    process = denoiser.process
    found: dict[float, float] = {}
    for t in grid[:-1].tolist():
        noised = process.noise(x0, t, Rng(0, len(x0), "variance"))
        with torch.no_grad():
            found[t] = float(((need(denoiser(noised.xt, t), HasMean, "variance").mean - x0) ** 2).mean())

    def call(inner: Denoiser, xt: torch.Tensor, t: torch.Tensor | float, cond: torch.Tensor | None) -> Posterior:
        mean = need(inner(xt, t, cond), HasMean, "variance").mean
        return Normal(mean, torch.full_like(mean[:, :1], found[float(t)]))

    return Wrapped(denoiser, call)


def eight(denoiser: Denoiser, data: Data, grid: torch.Tensor) -> Denoiser:
    """The mean of eight draws."""
    return averaged(8)(denoiser)


@dataclass(frozen=True)
class Way:
    """A way to sample: a sampler, what is put around the denoiser, the largest count it is measured at, and the
    grid, if it is not the one that the sampler takes by itself."""

    name: str
    sampler: Sampler
    wrap: Wrapping = as_it_is
    most: int = 64
    grid: Callable[[Gaussian, int], torch.Tensor] | None = None


@dataclass(frozen=True)
class Row:
    """A training: its part in the argument, what it changes of the plain one, and the ways to sample it."""

    role: str
    change: Callable[[Config, tuple[int, ...]], Config]
    ways: tuple[Way, ...]


def change(**values: object) -> Callable[[Config, tuple[int, ...]], Config]:
    return lambda config, shape: replace(config, **values)  # type: ignore[arg-type]


def wider(config: Config, shape: tuple[int, ...]) -> Config:
    """Plain, with a width that gives it the parameters of the soft mixture."""
    aim = _parameters(replace(config, head=SoftHead()), shape)
    net = config.net
    assert isinstance(net, UNetSpec)
    width = min(range(net.width, 3 * net.width, 4), key=lambda w: abs(_parameters(_width(config, w), shape) - aim))
    return _width(config, width)


def _width(config: Config, width: int) -> Config:
    return replace(config, net=replace(config.net, width=width))


def _parameters(config: Config, shape: tuple[int, ...]) -> int:
    net = config.net.build(shape[0], config.head.channels(shape[0]))
    return sum(p.numel() for p in net.parameters()) + sum(
        p.numel() for p in config.head.build(net, config.net, shape).parameters()
    )


def as_preset(name: str) -> Callable[[Config, tuple[int, ...]], Config]:
    """All that a preset says, on the table's own net and budget."""

    def make(config: Config, shape: tuple[int, ...]) -> Config:
        kept = {key: getattr(config, key) for key in ("net", "steps", "batch", "seed", "show", "save", "precision")}
        return replace(preset(name, shape), **kept)  # type: ignore[arg-type]

    return make


DRAW = Way("draws, eta 0", partial(ancestral, eta=0.0), most=16)
SOLVERS = (
    Way("ddim", ddim),
    Way("dpm-solver-2m", dpm_solver_2m, most=16),
    Way("dpm-solver-2m, uniform t", dpm_solver_2m, most=16, grid=uniform),
    Way("ddim, grid of few", ddim, most=16, grid=few),
    Way("heun", heun, most=16),
    Way("ancestral", ancestral),
)
OWN = SoftHead(mean="own")
SOFT = Way("soft-2m, uniform t", soft_2m, most=16, grid=uniform)
ROWS: dict[str, Row] = {
    "plain": Row("baseline", change(), (*SOLVERS, Way("best variance", ancestral, best_variance, 16))),
    "plain, wider": Row("control", wider, (Way("ddim", ddim), Way("dpm-solver-2m", dpm_solver_2m, most=16))),
    "SMD as published": Row(
        "control",
        change(head=PublishedSMD(latent=32), loss=PublishedSquare()),
        (DRAW, Way("mean of 8, ddim", ddim, eight, 16)),
    ),
    "energy score": Row("ours", change(head=SoftHead(mean="none"), loss=Energy(m=2, weight="v")), (DRAW,)),
    "energy score, eta = 0": Row(
        "control", change(head=SoftHead(mean="none", scale=0.0), loss=Energy(m=2, weight="v")), (DRAW,)
    ),
    "importance-weighted": Row("ours", change(head=SoftHead(mean="none"), loss=Importance(k=4, temper=8.0)), (DRAW,)),
    "explicit mixture": Row(
        "ours",
        change(head=MixtureHead(8, "pixel"), loss=Likelihood(0.5)),
        (Way("draws", ancestral), Way("mean, dpm-solver-2m", dpm_solver_2m, most=16)),
    ),
    "feature score": Row("ours", change(head=OWN, loss=FeatureEnergy()), (Way("soft-2m", soft_2m), SOFT)),
    "feature score, eta = 0": Row(
        "control", change(head=replace(OWN, scale=0.0), loss=FeatureEnergy()), (Way("soft-2m", soft_2m, most=16), SOFT)
    ),
    "staged, pixels only": Row(
        "control", change(head=OWN, loss=FeatureEnergy(features=0.0)), (Way("soft-2m", soft_2m, most=16),)
    ),
    "staged, no blanks": Row(
        "control", change(head=OWN, loss=FeatureEnergy(blank=0.0)), (Way("soft-2m", soft_2m, most=16),)
    ),
    "consistency": Row("rival", as_preset("consistency"), (Way("renoise", renoise), Way("ddim", ddim, most=8))),
    "meanflow": Row("rival", as_preset("meanflow"), (Way("ddim", ddim),)),
}


def base(shape: tuple[int, ...], net: NetSpec, images: int, seed: int, batch: int = 64) -> Config:
    steps = images // batch
    config = replace(preset("plain", shape), net=net, batch=batch, steps=steps, seed=seed, save=steps, show=steps)
    assert isinstance(config.head, PointHead) and isinstance(config.loss, Square)
    return config


def train_and_measure(where: Path, name: str, data_name: str, images: int, seed: int, n: int) -> None:
    """One row and seed: its run folder, and result.json in it."""
    source, size, net = SETS[data_name]
    data, held_out = load(source, size=size), load(source, size=size, split="test")
    row, config = ROWS[name], base(data.shape, net, images, seed)
    config = row.change(config, data.shape)
    began = time.perf_counter()
    for step in softmix.training(data, config, where / "run"):
        if step.step % 250 == 0:
            print(f"{name}: step {step.step} of {step.total}, loss {step.loss:.4f}", flush=True)
    seconds = time.perf_counter() - began
    model = load_run(where / "run")
    reference = Reference(data, held_out, features_for(data, where.parent.parent / "cache"))
    cells = []
    for way in row.ways:
        for count in [c for c in COUNTS if c <= way.most]:
            # heun takes two evaluations a step and one in its last: the most steps that stay within the count
            steps = max(k for k in range(1, count + 1) if traits(way.sampler).evaluations(k) <= count)
            grid = (way.grid or traits(way.sampler).grid)(model.process, steps)
            denoiser = way.wrap(model.denoiser, data, grid)
            start = time.perf_counter()
            x = softmix.sample(denoiser, n, steps, sampler=way.sampler, seed=seed, grid=grid).clamp(-1, 1)
            taken = time.perf_counter() - start
            found = reference.compare(x) | {"seconds": taken}
            cells.append({"way": way.name, "evaluations": count, "steps": steps, "values": found})
            print(f"{name}, {way.name}, {count}: {found['frechet']:.2f}", flush=True)
    floor = reference.compare(data.x0(torch.arange(len(data))[:: max(len(data) // n, 1)][:n]))
    # real images that were not trained on: what an honest model's distance to the training set should be
    floor |= {"nearest": float(reference.unseen.quantile(0.5)), "copied": 0.01}
    parameters = sum(p.numel() for p in model.denoiser.parameters())
    result = {
        "row": name,
        "role": row.role,
        "data": data_name,
        "images": images,
        "seed": seed,
        "n": n,
        "seconds": seconds,
        "parameters": parameters,
        "features": reference.features.name,
        "floor": floor,
        "cells": cells,
        "machine": f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread",
    }
    (where / "result.json").write_text(json.dumps(result, indent=1) + "\n")


def place(out: Path, data: str, images: int, name: str, seed: int) -> Path:
    plain = "".join(c if c.isalnum() else "-" for c in name).strip("-")
    return out / f"{data}-{images}" / f"{plain}-{seed}"


def compute(options: argparse.Namespace) -> None:
    """All rows that are not there yet, `--workers` at a time."""
    names = options.rows or list(ROWS)
    todo = [(name, seed) for seed in options.seeds for name in names]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

    def one(job: tuple[str, int]) -> None:
        name, seed = job
        where = place(options.out, options.data, options.images, name, seed)
        if (where / "result.json").exists():
            return
        where.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "--one", name, "--data", options.data, "--images", str(options.images)]
        command += ["--seeds", str(seed), "--n", str(options.n), "--out", str(options.out)]
        with open(where / "log.txt", "a", encoding="utf-8") as log:
            code = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode
        print(
            f"{options.data} {name} seed {seed}: {'done' if code == 0 else f'failed, see {where}/log.txt'}", flush=True
        )

    with ThreadPoolExecutor(options.workers or os.cpu_count() or 1) as pool:
        list(pool.map(one, todo))


Results = dict[tuple[str, str], list[dict[str, object]]]


def report(out: Path) -> None:
    """Markdown: for each data set, the Fréchet distance by evaluations, and the other columns at one and at four."""
    for folder in sorted(p for p in out.iterdir() if p.is_dir() and list(p.glob("*/result.json"))):
        results = [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]
        first = results[0]
        floor = first["floor"]
        print(f"\n## {folder.name}\n")
        print(
            f"{first['images']:,} images seen, {first['n']:,} samples, features {first['features']} (not FID); "
            f"floor, real against real: {floor['frechet']:.2f}. {first['machine']}.\n"
        )
        print("Fréchet distance by network evaluations, mean and standard deviation over seeds:\n")
        print("| row | sampler | seeds | " + " | ".join(map(str, COUNTS)) + " |")
        print("|---|---|---|" + "---|" * len(COUNTS))
        for name, way in _kinds(results):
            cells = [_cell(results, name, way, count, "frechet") for count in COUNTS]
            print(f"| {name} | {way} | {_seeds(results, name)} | " + " | ".join(cells) + " |")
        for count in (1, 4):
            _others(results, count)


def _others(results: Sequence[dict[str, object]], count: int) -> None:
    metrics = ("kernel", "precision", "recall", "class_tv", "nearest", "copied", "seconds")
    print(f"\nThe other columns at {count} evaluation{'s' if count > 1 else ''}:\n")
    print("| row | sampler | " + " | ".join(metrics) + " | parameters | training, s |")
    print("|---|---|" + "---|" * (len(metrics) + 2))
    floor = results[0]["floor"]
    assert isinstance(floor, dict)
    print("| floor |  | " + " | ".join(f"{floor[m]:.3g}" if m in floor else "" for m in metrics) + " |  |  |")
    for name, way in _kinds(results):
        cells = [_cell(results, name, way, count, metric) for metric in metrics]
        mine = [r for r in results if r["row"] == name]
        seconds = statistics.mean(float(str(r["seconds"])) for r in mine)
        print(f"| {name} | {way} | " + " | ".join(cells) + f" | {mine[0]['parameters']:,} | {seconds:.0f} |")


def _kinds(results: Sequence[dict[str, object]]) -> list[tuple[str, str]]:
    found = {(str(r["row"]), str(c["way"])) for r in results for c in r["cells"]}  # type: ignore[attr-defined]
    order = {name: i for i, name in enumerate(ROWS)}
    return sorted(found, key=lambda kind: (order.get(kind[0], 99), kind[1]))


def _seeds(results: Sequence[dict[str, object]], name: str) -> int:
    return sum(r["row"] == name for r in results)


def _cell(results: Sequence[dict[str, object]], name: str, way: str, count: int, metric: str) -> str:
    values = [
        float(cell["values"][metric])
        for r in results
        if r["row"] == name
        for cell in r["cells"]  # type: ignore[attr-defined]
        if cell["way"] == way and cell["evaluations"] == count and metric in cell["values"]
    ]
    if not values:
        return ""
    spread = f"±{statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3g}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=SETS, default="fashion14")
    parser.add_argument("--images", type=int, default=150_000, help="that each row sees in training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="by default all")
    parser.add_argument("--n", type=int, default=2000, help="samples for each cell")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/few"))
    parser.add_argument("--report", action="store_true", help="print what is there, compute nothing")
    parser.add_argument("--one", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(1)
        seed = options.seeds[0]
        where = place(options.out, options.data, options.images, options.one, seed)
        train_and_measure(where, options.one, options.data, options.images, seed, options.n)
        return
    if not options.report:
        compute(options)
    report(options.out)


if __name__ == "__main__":
    main()
