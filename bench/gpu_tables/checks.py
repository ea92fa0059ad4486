"""Every preset on the device: training, a kill, a resume, sampling, evaluation; and agreement with the CPU."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from clock import timed

import softmix
from softmix.data import Data
from softmix.evaluate import evaluate_model, features_for
from softmix.net import UNetSpec
from softmix.sampler import sample
from softmix.train import MODELS, Config, checkpoint, preset, training

from .contract import Bench, Row, Table

STEPS = 50
# The run is killed after this step. The last checkpoint before it is older.
KILLED, SAVE = 37, 10
# the batch of cuBLAS's workspace that torch asks for with deterministic algorithms; it is read at the first product
WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def classifier(bench: Bench) -> Iterator[Row]:
    """Seconds to train the classifier of the metric."""
    data = bench.images(128, 14) if bench.quick else bench.images()
    took = timed(lambda: features_for(data, None, "classifier", bench.device), bench.device)
    yield {"classifier of the metric": data.name, "images": len(data), "seconds": took}


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic algorithms of torch where there are any; a warning names an operation without one."""
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault(*WORKSPACE)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def config_of(bench: Bench, name: str, data: Data) -> Config:
    """A preset with a short run, in float32."""
    config = preset(name, data.shape).but(  # type: ignore[arg-type]
        steps=4 if bench.quick else STEPS, batch=8 if bench.quick else 64, precision="fp32", save=SAVE, show=10**6
    )
    config = replace(config, save=2) if bench.quick else config
    return config.but(net=UNetSpec(width=8, depth=1)) if bench.quick else config


def data_of(bench: Bench) -> Data:
    return bench.images(64, 8) if bench.quick else bench.images(2000)


def presets(bench: Bench) -> Iterator[Row]:
    """Whether each preset trains, resumes after a kill, samples and is evaluated."""
    data = data_of(bench)
    for name in MODELS:
        row: Row = {"preset": name}
        began = time.perf_counter()
        try:
            with deterministic():
                row |= resumed(bench, config_of(bench, name, data), data, bench.folder / name)
            row |= used(bench, bench.folder / name, data)
        except Exception as error:  # the table says which presets fail, and why
            row["problem"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        yield row | {"seconds": time.perf_counter() - began}


def resumed(bench: Bench, config: Config, data: Data, out: Path) -> Row:
    """Train to the end. A copy of the folder, taken in the middle of the run, is what a kill leaves: resume it too."""
    killed, copied = (3 if bench.quick else KILLED), out.with_name(f"{out.name}-killed")
    for place in (out, copied):
        shutil.rmtree(place, ignore_errors=True)
    began, steps = time.perf_counter(), 0
    for step in training(data, config, out):
        steps = step.step
        if step.step == killed:
            shutil.copytree(out, copied, ignore=shutil.ignore_patterns(".lock"))
    row: Row = {"trains": "yes" if steps == config.steps else "no", "training, s": time.perf_counter() - began}
    again = [step.step for step in training(data, config, copied)]
    row["resumes at step"] = again[0] if again else None
    return row | {"same bits after resume": "yes" if same_weights(out, copied) else "no"}


def same_weights(one: Path, other: Path) -> bool:
    """Whether two runs end with the same weights, averages and moments, bit for bit."""
    found = [checkpoint.latest(place / "checkpoints") for place in (one, other)]
    first, second = (each.tensors for each in found if each is not None)
    return all(torch.equal(first[group][key], second[group][key]) for group in first for key in first[group])


def used(bench: Bench, run: Path, data: Data) -> Row:
    """Sample and evaluate a trained run."""
    model, n = softmix.load(run), 8 if bench.quick else 64
    denoiser = model.denoiser.to(bench.device)
    x = sample(denoiser, n, 2, sampler=model.sampler, device=bench.device)
    finite = bool(x.isfinite().all()) and x.device.type == bench.device.type
    result = evaluate_model(
        denoiser, data, data, title=run.name, steps=(2,), sampler=model.sampler, n=max(n, 16), features="pca"
    )
    return {"samples": "yes" if finite else "no", "evaluates": "yes" if result.rows[-1].values else "no"}


def agreement(bench: Bench) -> Iterator[Row]:
    """The largest difference of samples on the CPU and on the device, for the same weights and the same seed."""
    data = data_of(bench)
    n, steps = (4, 2) if bench.quick else (64, 4)
    for name in MODELS:
        run = bench.folder / name
        # nothing to do if the table of the presets has trained it
        for _ in training(data, config_of(bench, name, data), run):
            pass
        model = softmix.load(run)
        host = sample(model.denoiser, n, steps, sampler=model.sampler)
        there = sample(model.denoiser.to(bench.device), n, steps, sampler=model.sampler, device=bench.device).cpu()
        apart = (host - there).abs()
        yield {
            "preset": name,
            "evaluations": steps,
            "largest difference": float(apart.max()),
            "mean difference": float(apart.mean()),
            "items apart by more than 0.01": int((apart.flatten(1).amax(1) > 0.01).sum()),
            "of": n,
            "TF32 in products": str(torch.backends.cuda.matmul.allow_tf32),
            "TF32 in convolutions": str(torch.backends.cudnn.allow_tf32),
        }


TABLES = {
    "classifier": Table("Training the classifier of the metric", "On the images that are installed.", classifier, 60),
    "presets": Table(
        "Every preset on the device",
        f"{STEPS} steps in float32 with deterministic algorithms. A copy of the folder at step {KILLED}, with "
        f"checkpoints every {SAVE} steps, is resumed, as after a kill.",
        presets,
        90,
    ),
    "agreement": Table(
        "Samples on the CPU and on the device",
        f"The same weights after {STEPS} steps, the same seed, float32. Values are in [-1, 1].",
        agreement,
        60,
    ),
}
