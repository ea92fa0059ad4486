"""diffusers' own solvers on softmix's plain networks, through a thin shim: rows for the table of bench/fewsteps.py.

    PYTHONPATH=src .venv-peers/bin/python bench/hosted.py --out runs/few

To be run with the peers' Python, which bench/peers.py makes. Reads the plain runs under --out, and adds cells to
their result.json.

The schedule handed over is the model's own, as betas of 1000 steps. To be fair to solvers that work in
log(alpha / sigma): the cosine schedule ends at no signal at all, where they divide by nearly nothing, and return
garbage at every count. DPM-Solver++ has lambda_min_clipped = -5.1 for that; UniPC has not, and gets the schedule
without its last steps, where lambda is below -5.1. Both are also given even steps of lambda.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from softmix.data import load
from softmix.denoiser import Denoiser
from softmix.evaluate.reference import ReferenceSet, features_for
from softmix.posterior import HasMean, need
from softmix.process import Gaussian
from softmix.recipe.images import COUNTS, SETS
from softmix.rng import Rng
from softmix.train import load as load_run

TRAIN_STEPS = 1000
LAMBDA_MIN = -5.1
KINDS: dict[str, tuple[type, dict[str, object]]] = {
    "diffusers ddim": (DDIMScheduler, {"timestep_spacing": "trailing"}),
    "diffusers dpm-solver++": (
        DPMSolverMultistepScheduler,
        {"lambda_min_clipped": LAMBDA_MIN, "timestep_spacing": "trailing"},
    ),
    "diffusers dpm-solver++, even lambda": (
        DPMSolverMultistepScheduler,
        {"lambda_min_clipped": LAMBDA_MIN, "use_lu_lambdas": True},
    ),
    "diffusers unipc": (UniPCMultistepScheduler, {"timestep_spacing": "trailing"}),
    "diffusers unipc, even lambda": (UniPCMultistepScheduler, {"use_exponential_sigmas": True}),
}


def betas(process: Gaussian, cut: bool) -> list[float]:
    """The beta of each of 1000 steps: alpha^2 falls from one to the next by 1 - beta. cut : up to LAMBDA_MIN only."""
    share = process.alpha(torch.arange(TRAIN_STEPS + 1, dtype=torch.float64) / TRAIN_STEPS) ** 2
    found = (1 - share[1:] / share[:-1]).clamp(max=0.999).tolist()
    return found[: int(float(process.time(2 * LAMBDA_MIN)) * TRAIN_STEPS)] if cut else found


@torch.no_grad()
def run(denoiser: Denoiser, shape: tuple[int, ...], kind: str, steps: int, n: int, seed: int) -> torch.Tensor:
    """n samples in this many steps; the scheduler asks for noise, which the mean of x0 determines."""
    make, options = KINDS[kind]
    process = denoiser.process
    assert isinstance(process, Gaussian)
    handed = betas(process, cut=make is UniPCMultistepScheduler)
    scheduler = make(num_train_timesteps=len(handed), trained_betas=handed, **options)
    done = []
    for first in range(0, n, 250):
        items = range(first, min(first + 250, n))
        x = process.prior((len(items), *shape), Rng(seed, items, "sample").child("prior"))
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            time_now = (float(t) + 1) / TRAIN_STEPS
            alpha, sigma = float(process.alpha(time_now)), float(process.sigma(time_now))
            mean = need(denoiser(x, time_now), HasMean, "the shim").mean
            x = scheduler.step((x - alpha * mean) / sigma, t, x).prev_sample
        done.append(x)
    return torch.cat(done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/few"))
    parser.add_argument("--most", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for path in sorted(options.out.glob("*/plain-[0-9]*/result.json")):
        result = json.loads(path.read_text())
        source, size, _ = SETS[result["data"]]
        data, held_out = load(source, size=size), load(source, size=size, split="test")
        reference = ReferenceSet(data, held_out, features_for(data, path.parent.parent.parent / "cache"))
        if reference.features.name != result["features"]:
            raise SystemExit(f"{path}: measured with {result['features']}, and here they are {reference.features.name}")
        model = load_run(path.parent / "run")
        cells = [cell for cell in result["cells"] if cell["way"] not in KINDS]
        for kind in KINDS:
            for count in [c for c in COUNTS if c <= options.most]:
                began = time.perf_counter()
                x = run(model.denoiser, model.denoiser.shape, kind, count, result["n"], result["seed"]).clamp(-1, 1)
                values = {"seconds": time.perf_counter() - began} | reference.compare(x)
                cells.append({"way": kind, "evaluations": count, "steps": count, "values": values})
                print(f"{path.parent.name}, {kind}, {count}: {values['frechet']:.2f}", flush=True)
        path.write_text(json.dumps(result | {"cells": cells}, indent=1) + "\n")


if __name__ == "__main__":
    main()
