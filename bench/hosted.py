"""The solvers of diffusers on the plain networks of softmix: rows for the table of bench/fewsteps.py.

    PYTHONPATH=src .venv-peers/bin/python bench/hosted.py --data fashion14 --images 150000 --seeds 0 1 2 --out runs/few

Run it with the Python of the peers, which bench/peers.py makes, after bench/fewsteps.py with the same options. It
samples from the plain runs and saves its numbers beside theirs, for `bench/fewsteps.py --report`.

The solvers get the schedule of the model, as betas of 1000 steps. The cosine schedule ends without any signal; solvers
in log(alpha / sigma) divide by nearly nothing there and return garbage at every count. To be fair, DPM-Solver++ gets
lambda_min_clipped = -5.1, and UniPC, which has no such option, a schedule without the last steps, with lambda below
-5.1. Both also get even steps of lambda.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from softmix.denoiser import Denoiser
from softmix.posterior import HasMean, need
from softmix.process import Gaussian
from softmix.recipe.frame import Arms, ArmsRun, Results, rows_of
from softmix.recipe.images import DATA_SETS, by, folder, reference, training_folder
from softmix.recipe.paper import Role
from softmix.recipe.trainings import COUNTS
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
    """The beta of each of 1000 steps: alpha^2 falls by a factor 1 - beta. cut : only those above LAMBDA_MIN."""
    share = process.alpha(torch.arange(TRAIN_STEPS + 1, dtype=torch.float64) / TRAIN_STEPS) ** 2
    each = (1 - share[1:] / share[:-1]).clamp(max=0.999).tolist()
    return each[: int(float(process.time(2 * LAMBDA_MIN)) * TRAIN_STEPS)] if cut else each


@torch.no_grad()
def sampled(denoiser: Denoiser, shape: tuple[int, ...], kind: str, steps: int, n: int, seed: int) -> torch.Tensor:
    """n samples in this many steps. The scheduler asks for noise: z = (x - alpha mean) / sigma."""
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


def measure(data: str, out: Path, seed: int, images: int, n: int, most: int) -> Results:
    """Every solver at every count up to `most`, on the plain run of one seed."""
    known = reference(data, out)
    results: dict[tuple[str, str], float] = {}
    denoiser = load_run(training_folder(out, "plain", data, images, seed) / "run").denoiser
    for kind in KINDS:
        for count in [count for count in COUNTS if count <= most]:
            began = time.perf_counter()
            x = sampled(denoiser, denoiser.shape, kind, count, n, seed).clamp(-1, 1)
            values = {"seconds": time.perf_counter() - began} | known.compare(x)
            results |= {(by("plain", kind), f"{metric}@{count}"): value for metric, value in values.items()}
            print(f"plain, seed {seed}, {kind}, {count}: {values['frechet']:.2f}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA_SETS, default="fashion14")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("runs/few"))
    parser.add_argument("--most", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    roles: dict[str, Role] = {by("plain", kind): "rival" for kind in KINDS}
    arms = Arms(roles, partial(measure, options.data, options.out), f"{options.data}, plain, diffusers")
    settings = {"images": options.images, "n": options.n, "most": options.most}
    runs = [ArmsRun(arms, seed, settings) for seed in options.seeds]
    rows_of(runs, partial(print, flush=True), folder(options.out, options.data, options.images))


if __name__ == "__main__":
    main()
