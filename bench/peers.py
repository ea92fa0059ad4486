"""softmix beside other libraries on this machine: quality for minutes, training speed, cost of a sampling step.

    python bench/peers.py speed        # a minute for each peer
    python bench/peers.py overhead     # seconds
    python bench/peers.py quality --minutes 10
    python bench/peers.py --peers-python PATH ...   # an environment that has them already

The peers are in an environment of their own, `.venv-peers`, made on first use. softmix does not import them, and they
do not import softmix (bench/peer.py). All is measured in turn, in one run, with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clock import default_device, seconds_each, timed
from peer import error, to_x
from throughput import trainer

import softmix
from softmix.cli.common import cache
from softmix.cond import Cond
from softmix.data import Data, load
from softmix.denoiser import Denoiser, SoftHead
from softmix.evaluate.reference import ReferenceSet, features_for
from softmix.loss import Energy
from softmix.posterior import HasMean, Point, Posterior, need
from softmix.process import VP, Gaussian
from softmix.rng import Rng
from softmix.sampler import SAMPLERS, drive, traits
from softmix.sampler.drive import finish
from softmix.train import Config, Model, preset, training
from softmix.train import load as load_run

HERE = Path(__file__).parent
ENVIRONMENT = Path(".venv-peers")
# without their dependencies: torchvision is asked for by two and would bring another torch
PEERS = ("diffusers==0.39.0", "denoising-diffusion-pytorch==2.3.4", "smalldiffusion==0.5.0")
ALONE = ("ema-pytorch", "accelerate", "pytorch-fid")
NEEDS = (
    *("numpy", "scipy", "tqdm", "pillow", "psutil", "pyyaml", "packaging", "safetensors"),
    *("einops", "huggingface-hub", "regex", "requests", "importlib-metadata", "httpx"),
    *("tyro", "scikit-learn", "scikit-image"),  # for bench/hosted.py, which runs softmix beside diffusers
)
# the width at which each has about the parameters of softmix's U-Net of width 64 (1.8 million)
WIDTHS = {"diffusers": 40, "denoising-diffusion-pytorch": 26, "smalldiffusion": 32}
# trained for quality alone: the net and loss of the first at another rate
TRAINED = {"diffusers, rate 1e-3": 40, **WIDTHS}


def environment(python: Path | None) -> Path:
    """The Python of the peers' environment."""
    if python is not None:
        return python
    found = ENVIRONMENT / "bin" / "python"
    if not found.exists():
        print("making .venv-peers", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        pip = [str(found), "-m", "pip", "install", "-q"]
        pinned = next(line for line in (HERE.parent / "constraints.txt").read_text().splitlines() if "torch==" in line)
        for what in ([pinned], NEEDS, ["--no-deps", *PEERS, *ALONE]):
            subprocess.run([*pip, *what], check=True)
    return found


def ask(python: Path, *arguments: object) -> dict[str, Any]:
    """One call of bench/peer.py; its numbers."""
    done = subprocess.run(
        [str(python), str(HERE / "peer.py"), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"peer.py {' '.join(map(str, arguments))} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def throughput(python: Path, options: argparse.Namespace) -> None:
    """Training images a second at about equal parameters; diffusers eager is 1."""
    rows: list[tuple[str, float, float]] = []
    for name, width in WIDTHS.items():
        for compiled in (False, True) if name == "diffusers" else (False,):
            extra = ["--compile"] if compiled else []
            found = ask(python, "speed", name, "--width", width, "--seconds", options.seconds, *extra)
            rows.append((name + (", compiled" if compiled else ""), found["images_per_second"], found["parameters"]))
    plain = preset("plain", (1, 28, 28)).but(batch=64, steps=10**6)
    soft = plain.but(head=SoftHead(mean="none"), loss=Energy(m=2, weight="v"))
    ours = {"softmix, plain": plain, "softmix, energy score of 2 draws": soft}
    for name, config in ours.items():
        made = trainer(config)
        rate = config.batch / seconds_each(made.advance, made.device, options.seconds)
        rows.append((name, rate, sum(p.numel() for p in made.model.parameters())))
    first = rows[0][1]
    print(f"\n28 x 28, batch 64, {torch.get_num_threads()} threads\n")
    print("| training | images/s | diffusers eager = 1 | parameters |")
    print("|---|---|---|---|")
    for name, rate, parameters in rows:
        print(f"| {name} | {rate:.0f} | {rate / first:.1f} | {parameters:,.0f} |")


class Still:
    """A denoiser without cost, so that only the time of the sampler is measured."""

    process: Gaussian = VP()
    shape = (1, 28, 28)

    def __call__(self, xt: torch.Tensor, t: torch.Tensor | float, cond: Cond | torch.Tensor | None = None) -> Posterior:
        return Point(xt)


def overhead(python: Path, options: argparse.Namespace) -> None:
    """Everything outside the network, for one step of a batch of 64."""
    theirs = ask(python, "overhead", "--batch", 64)
    print("\n| outside the network, per step of 64 images of 28 x 28 | microseconds |\n|---|---|")
    for name, seconds in theirs.items():
        print(f"| diffusers {name} | {1e6 * seconds:.0f} |")
    still, device = Still(), default_device()
    grid, x = still.process.grid(20), torch.randn(64, *still.shape, device=device)

    def run() -> None:
        finish(drive(still, sampler, x, grid, Rng(0, 64, device=device)))

    for sampler in SAMPLERS:
        best = min(timed(run, device) for _ in range(5)) / traits(sampler).evaluations(20)
        print(f"| softmix {traits(sampler).name} | {1e6 * best:.0f} |")


def quality(python: Path, options: argparse.Namespace) -> None:
    """Fréchet distance, and error on unseen images by time, after some minutes of training with all threads, each as it
    recommends."""
    data, held_out = load("fashion-mnist"), load("fashion-mnist", split="test")
    reference = ReferenceSet(data, held_out, features_for(data, cache()))
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    unseen = held_out.values[:300, 0].numpy()
    np.save(out / "train.npy", data.values[:, 0].numpy(), allow_pickle=False)
    np.save(out / "unseen.npy", unseen, allow_pickle=False)
    rows: list[tuple[str, str, int, float, float]] = []
    curves: dict[str, list[tuple[float, float]]] = {}
    files = ("--data", out / "train.npy", "--unseen", out / "unseen.npy", "--out", out)
    for name, width in TRAINED.items():
        found = ask(python, "quality", name, "--width", width, *files, "--minutes", options.minutes, "--n", options.n)
        curves[name] = found["curve"]
        print(f"{name}: {found['images']:,.0f} images in {found['seconds']:.0f} s", flush=True)
        for path in sorted(out.glob(f"{name}--*.npy")):
            _, way, count = path.stem.split("--")
            x = to_x(np.load(path))
            rows.append((name, way, int(count), reference.compare(x)["frechet"], found["images"]))
    for label, config in recommended(options.minutes).items():
        name, place = f"softmix, {label}", out / f"softmix-{label}"
        model, curves[name] = trained(data, config, place, to_x(unseen))
        images = model.step * config.batch
        print(f"{name}: {images:,} images in {curves[name][-1][0]:.0f} s", flush=True)
        for count in (1, 2, 4, 8, 16, 50):
            x = softmix.sample(model.denoiser, options.n, count, sampler=model.sampler, precision="bf16").clamp(-1, 1)
            rows.append((name, traits(model.sampler).name, count, reference.compare(x)["frechet"], images))
    print(f"\n| after {options.minutes:g} minutes | sampler | evaluations | Fréchet distance | images seen |")
    print("|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row[0], row[1], row[2])):
        print(f"| {row[0]} | {row[1]} | {row[2]} | {row[3]:.1f} | {row[4]:,.0f} |")
    print("\n| error on unseen images | least | seconds to that of " + " | of ".join(TRAINED) + " |")
    print("|---|---|" + "---|" * len(TRAINED))
    for name, curve in curves.items():
        goals = [min(wrong for _, wrong in curves[peer]) for peer in TRAINED]
        reached = [next((f"{seconds:.0f}" for seconds, wrong in curve if wrong <= goal), "") for goal in goals]
        print(f"| {name} | {min(wrong for _, wrong in curve):.4f} | " + " | ".join(reached) + " |")
    (out / "quality.json").write_text(json.dumps({"rows": rows, "curves": curves}, indent=1) + "\n")


def trained(data: Data, config: Config, place: Path, unseen: torch.Tensor) -> tuple[Model, list[tuple[float, float]]]:
    """The model, and its error on unseen images by seconds of training, at each tenth."""
    began, curve = time.perf_counter(), []
    for step in training(data, config, place):
        if step.total is not None and (step.step % max(step.total // 10, 1) == 0 or step.step == step.total):
            looked = time.perf_counter()
            denoiser = load_run(place).denoiser
            curve.append((looked - began, error(partial(clean, denoiser), unseen)))
            began += time.perf_counter() - looked
    return load_run(place), curve


def clean(denoiser: Denoiser, x: torch.Tensor, ratio: float) -> torch.Tensor:
    """The mean of x0 given x = x0 + ratio z."""
    process = denoiser.process
    assert isinstance(process, Gaussian)
    t = process.time(torch.tensor(-2 * math.log(ratio), dtype=torch.float64))
    return need(denoiser(process.alpha(t).to(x) * x, t), HasMean, "the bench").mean


def recommended(minutes: float) -> dict[str, Config]:
    """softmix as it recommends itself: its presets."""
    shape = (1, 28, 28)
    return {name: preset(name, shape).but(minutes=minutes) for name in ("plain", "smd")}  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "overhead", "quality"))
    parser.add_argument("--peers-python", type=Path)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    options = parser.parse_args()
    python = environment(options.peers_python)
    {"speed": throughput, "overhead": overhead, "quality": quality}[options.what](python, options)


if __name__ == "__main__":
    main()
