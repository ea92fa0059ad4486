"""Sampling: images a second of the shipped model, the work outside the network, and normal numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

import softmix
from softmix.cond import Cond
from softmix.posterior import Point, Posterior
from softmix.process import VP, Gaussian
from softmix.rng import Rng
from softmix.sampler import SAMPLERS, Precision, Sampler, ancestral, drive, renoise, sample, traits
from softmix.sampler.drive import finish
from softmix.train.make import compile_blocks

from .contract import Bench, Row, Table

# evaluations of the shipped model
STEPS = 4
# steps of a sampler in the table of the work outside the network
LONG = 20


def sampling(bench: Bench) -> Iterator[Row]:
    """Images a second of the model `fashion`."""
    model, n, first = softmix.load("fashion"), 16 if bench.quick else 2048, 0.0
    kinds: list[tuple[str, bool, Precision]] = [("fp32", False, "fp32"), ("bf16", False, "bf16")]
    if not bench.quick:
        kinds += [("fp32, compiled", True, "fp32"), ("bf16, compiled", True, "bf16")]
    for name, compiled, precision in kinds:
        denoiser = copy.deepcopy(model.denoiser).to(bench.device)
        if compiled:
            torch.compiler.reset()
            for module in {id(each): each for each in denoiser.modules() if hasattr(each, "net")}.values():
                compile_blocks(module)

        def draw(denoiser: Any = denoiser, precision: Precision = precision) -> torch.Tensor:
            return sample(
                denoiser,
                n,
                STEPS,
                sampler=model.sampler,
                batch=n,
                device=bench.device,
                precision=precision,
            )

        rate = n / bench.each(draw)
        first = first or rate
        yield {
            "fashion": name,
            "sampler": traits(model.sampler).name,
            "evaluations": STEPS,
            "batch": n,
            "images/s": rate,
            "fp32 = 1": rate / first,
        }


class Still:
    """A denoiser that returns a tensor computed before, so that only the time of the sampler is measured."""

    process: Gaussian = VP()
    shape = (1, 28, 28)

    def __init__(self, x0: torch.Tensor):
        self.answer = Point(x0)

    def __call__(self, xt: torch.Tensor, t: torch.Tensor | float, cond: Cond | torch.Tensor | None = None) -> Posterior:
        return self.answer


def outside(bench: Bench) -> Iterator[Row]:
    """Microseconds of a sampling step outside the network, beside diffusers' schedulers."""
    for batch in (16,) if bench.quick else (64, 2048):
        x, base = torch.randn(batch, *Still.shape, device=bench.device), 0.0
        for name, call in _schedulers(x).items():
            took = bench.each(call) / LONG
            base = took if name == "DDPMScheduler" else base
            yield _outside(f"diffusers {name}", batch, took, base)
        if not base:
            yield {"outside the network": "diffusers: not installed", "batch": batch}
        mine = (ancestral, renoise)
        # all samplers at the small batch: at the large one the work on the GPU hides that of the host
        others = () if bench.quick or batch > 64 else [each for each in SAMPLERS if each not in mine]
        for sampler in (*mine, *others):
            took = bench.each(_steps_of(sampler, x)) / traits(sampler).evaluations(LONG)
            yield _outside(f"softmix {traits(sampler).name}", batch, took, base)


def _outside(name: str, batch: int, took: float, base: float) -> Row:
    ratio = took / base if base else None
    return {"outside the network": name, "batch": batch, "microseconds a step": 1e6 * took, "DDPMScheduler = 1": ratio}


def _steps_of(sampler: Sampler, x: torch.Tensor) -> Callable[[], object]:
    still = Still(torch.zeros_like(x))
    grid = still.process.grid(LONG)
    return lambda: finish(drive(still, sampler, x, grid, Rng(0, len(x), device=x.device)))


def _schedulers(x: torch.Tensor) -> dict[str, Callable[[], object]]:
    """All steps of diffusers' schedulers, with a prediction computed before; empty without diffusers."""
    try:
        from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
    except ImportError:
        return {}
    kinds: tuple[Any, ...] = (DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler)

    def run(kind: Any) -> None:
        scheduler = kind()
        scheduler.set_timesteps(LONG, device=x.device)
        for t in scheduler.timesteps:
            scheduler.step(x, t, x)

    return {kind.__name__: partial(run, kind) for kind in kinds}


def normals(bench: Bench) -> Iterator[Row]:
    """Normal numbers a second: counter-based, and torch.randn."""
    for batch in (16,) if bench.quick else (64, 2048, 16_384):
        shape = (batch, 1, 28, 28)
        rng = Rng(0, batch, device=bench.device)
        calls: dict[str, Callable[[], object]] = {
            "torch.randn": partial(torch.randn, shape, device=bench.device),
            "Rng.normal": partial(rng.normal, shape),
        }
        base = 0.0
        for name, call in calls.items():
            took = bench.each(call)
            base = base or took
            count = batch * 28 * 28
            yield {
                "normals": name,
                "batch": batch,
                "microseconds": 1e6 * took,
                "10^9 a second": count / took / 1e9,
                "time, torch.randn = 1": took / base,
            }


TABLES = {
    "sampling": Table(
        "Sampling the shipped model `fashion`, images a second",
        "The whole of `softmix.sample`, with its noise.",
        sampling,
        90,
    ),
    "outside": Table(
        "The work outside the network in a sampling step",
        "Images of 28 x 28. The network returns a tensor computed before.",
        outside,
        45,
    ),
    "normals": Table(
        "Normal numbers",
        "For images of 28 x 28. `Rng.normal` depends on the seed, the item and the draw alone.",
        normals,
        15,
    ),
}
