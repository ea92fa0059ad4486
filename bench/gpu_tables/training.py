"""Training: images a second beside other libraries, one step under the profiler, and the draws of a soft mixture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from clock import timed, wait_for
from throughput import operations, smd, soft, trainer
from torch.profiler import ProfilerActivity, profile

from softmix.train import Config, Trainer

from .contract import Bench, Row, Table, peer

# the width at which each has about the parameters of softmix's U-Net of width 64 (1.8 million)
WIDTHS = {"diffusers": 40, "denoising-diffusion-pytorch": 26}
# the largest batch that is tried
LARGEST = 16_384
# the longest name of a kernel in a table
NAME = 60


def variants(config: Config) -> dict[str, Config | None]:
    """The ways to run a step. None for a way that this version of softmix does not have."""
    if "graph" not in {each.name for each in fields(Config)}:
        return {"eager": config, "compiled": config.but(compile=True), "recorded": None, "recorded, compiled": None}
    eager = config.but(graph="off")
    return {
        "recorded": config,
        "eager": eager,
        "compiled": eager.but(compile=True),
        "recorded, compiled": config.but(compile=True),
    }


def training(bench: Bench) -> Iterator[Row]:
    """Images a second: softmix, diffusers and denoising-diffusion-pytorch."""
    reference, rows = 0.0, []
    for library, mode, batch, line in _all_training(bench):
        rate = line.get("images_per_second")
        if (library, mode, batch) == ("diffusers", "compiled", bench.batches[0]):
            reference = rate or 0.0
        rows.append(
            {
                "library": library,
                "mode": mode,
                "batch": batch,
                "images/s": rate or line.get("problem", ""),
                "diffusers compiled = 1": None,
                "first step, s": line.get("first"),
                "parameters": line.get("parameters"),
                "GB": line.get("memory"),
                "remark": line.get("remark"),
            }
        )
        # rows that were measured before the reference get their ratio now
        for row in rows if reference else ():
            rated = isinstance(row["images/s"], float) and row["batch"] == bench.batches[0]
            row["diffusers compiled = 1"] = row["images/s"] / reference if rated else None
        yield rows[-1]


def _all_training(bench: Bench) -> Iterator[tuple[str, str, int, Row]]:
    """The rows most worth having come first, because the table ends at its budget."""
    large, *smaller = bench.batches
    modes = ("eager",) if bench.quick else ("eager", "compiled")
    yield from _own_rows(bench, large, ("recorded", "eager"))
    yield from _peer_rows(bench, "diffusers", modes, large)
    if not bench.quick:
        yield from _own_rows(bench, large, ("compiled", "recorded, compiled"))
    yield from _peer_rows(bench, "denoising-diffusion-pytorch", modes, large)
    if bench.quick:
        return
    for batch in smaller:
        yield from _own_rows(bench, batch, ("recorded", "eager"))
        for library in WIDTHS:
            yield from _peer_rows(bench, library, ("eager",), batch)
    yield from _largest(bench, 2 * large)
    for library in WIDTHS:
        yield from _peer_rows(bench, library, ("eager",), 2 * large, LARGEST)


def _peer_rows(
    bench: Bench, library: str, modes: tuple[str, ...], batch: int, largest: int = 0
) -> Iterator[tuple[str, str, int, Row]]:
    width = 8 if bench.quick else WIDTHS[library]
    arguments = ("speeds", library, "--width", width, "--seconds", bench.seconds, "--batches", batch, "--modes", *modes)
    for line in peer(bench, (*arguments, "--largest", largest), 180):
        if "mode" in line or "problem" in line:
            yield library, line.get("mode", ""), line.get("batch", batch), line


def _own_rows(bench: Bench, batch: int, modes: tuple[str, ...]) -> Iterator[tuple[str, str, int, Row]]:
    known = variants(bench.config(batch))
    for mode in modes:
        config = known[mode]
        line = speed(bench, config) if config is not None else {"problem": "not in this version"}
        yield "softmix", mode, batch, line


def speed(bench: Bench, config: Config) -> Row:
    """The speed of `Trainer.advance`, with its data, its optimiser and its averages."""
    if bench.gpu:
        torch.cuda.reset_peak_memory_stats()
    made: list[Trainer] = []
    try:
        torch.compiler.reset()
        first = timed(lambda: made.append(trainer(config)), bench.device)
        took = bench.each(made[0].advance)
    except (torch.OutOfMemoryError, MemoryError):
        return {"problem": "does not fit into the memory"}
    finally:
        bench.free()
    row: Row = {"images_per_second": config.batch / took, "first": first}
    row["parameters"] = sum(weight.numel() for weight in made[0].model.parameters())
    # a step that cannot be recorded runs without, and the trainer says why
    row["remark"] = " ".join(getattr(made[0], "take_notes", tuple)())
    return row | ({"memory": torch.cuda.max_memory_allocated() / 1e9} if bench.gpu else {})


def _largest(bench: Bench, batch: int) -> Iterator[tuple[str, str, int, Row]]:
    """Larger batches, until one does not fit or gives no further speed."""
    before = 0.0
    while batch <= LARGEST:
        line = speed(bench, bench.config(batch))
        yield "softmix", "as it comes", batch, line
        if line.get("images_per_second", 0.0) < 1.02 * before or "problem" in line:
            break
        before, batch = line["images_per_second"], 2 * batch


def one_step(bench: Bench) -> Iterator[Row]:
    """One step under the profiler: the time of the GPU beside the time by the clock, launches and waits."""
    batch = bench.batches[0]
    for mode, config in variants(bench.config(batch)).items():
        if config is None or (bench.quick and "compiled" in mode):
            continue
        torch.compiler.reset()
        made = trainer(config)
        wall = bench.each(made.advance)
        events = _profiled(made, steps := 2 if bench.quick else 5).events()
        busy = _busy(events) / steps
        count = {name: _calls(events, names) / steps for name, names in COUNTED.items()}
        yield {
            "softmix": mode,
            "batch": batch,
            "step, ms": 1000 * wall,
            "GPU busy, ms": 1000 * busy if bench.gpu else "no GPU",
            "step / busy": wall / busy if busy else None,
            **count,
            "warnings of waits in a step": _sync_warnings(made) if bench.gpu else "no GPU",
        }


def kernels(bench: Bench) -> Iterator[Row]:
    """The kernels that take most of the time of an eager step."""
    config = variants(bench.config(bench.batches[0]))["eager"]
    assert config is not None
    profiler = _profiled(trainer(config), steps := 2 if bench.quick else 5)
    for name, seconds, calls in _top(profiler, bench.gpu):
        yield {"kernel": name, "ms in a step": 1000 * seconds / steps, "calls in a step": calls / steps}


# calls of the CUDA runtime, by what they do
COUNTED = {
    "kernel launches": ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx"),
    "graph launches": ("cudaGraphLaunch",),
    "waits": ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"),
    "copies": ("cudaMemcpyAsync", "cudaMemcpy"),
}


def _profiled(made: Trainer, steps: int) -> Any:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if made.device.type == "cuda" else [])]
    wait_for(made.device)
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            made.advance()
        wait_for(made.device)
    return profiler


# spans of the profiler that hold kernels, and are none themselves
ANNOTATIONS = ("Optimizer.", "ProfilerStep", "autograd::", "##", "Torch-Compiled Region", "CompiledFunction")


def _on_gpu(event: Any) -> bool:
    """Whether an event of the profiler is a kernel or a copy."""
    annotation = getattr(event, "is_user_annotation", False) or event.name.startswith(ANNOTATIONS)
    return str(event.device_type).endswith("CUDA") and not annotation


def _busy(events: Iterable[Any]) -> float:
    """The seconds in which at least one kernel or copy runs: the length of the union of their intervals."""
    spans = sorted((event.time_range.start, event.time_range.end) for event in events if _on_gpu(event))
    total = end = 0.0
    for start, stop in spans:
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total / 1e6


def _calls(events: Iterable[Any], names: tuple[str, ...]) -> int:
    return sum(event.name in names for event in events)


def _top(profiler: Any, gpu: bool, most: int = 12) -> list[tuple[str, float, int]]:
    """(name, seconds, calls) of the kernels that take most time of the GPU; without one, of operations on the CPU."""
    totals: dict[str, tuple[float, int]] = {}
    if gpu:
        for event in filter(_on_gpu, profiler.events()):
            seconds, calls = totals.get(event.name, (0.0, 0))
            totals[event.name] = (seconds + (event.time_range.end - event.time_range.start) / 1e6, calls + 1)
    else:
        totals = {each.key: (each.self_cpu_time_total / 1e6, each.count) for each in profiler.key_averages()}
    ranked = sorted(totals.items(), key=lambda item: -item[1][0])
    return [(name[:NAME].replace("|", "/"), *value) for name, value in ranked[:most]]


def _sync_warnings(made: Trainer) -> int:
    """The warnings of torch about calls that wait for the GPU, in one step."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message).lower() for each in caught)


def draws(bench: Bench) -> Iterator[Row]:
    """A step of the energy score with m draws beside a plain step, and the law 1 + (m - 1) s."""
    base, first = bench.config(bench.batches[0]), 0.0
    makers: list[tuple[str, Callable[[], Trainer], int, str]] = [("plain", partial(trainer, base), 1, "")]
    for where in ("decoder", "head"):
        for m in (2, 8):
            makers.append((f"energy score, {where}", partial(trainer, soft(base, where, m)), m, where))
    makers += [
        ("smd, first part", partial(trainer, smd(base)), 1, ""),
        ("smd, second part", partial(trainer, smd(base), second=True), 2, ""),
    ]
    for items in (128, 256) if base.batch >= 512 else ():
        few = smd(base, items / base.batch)
        makers.append((f"smd, second part, {items} items from t = 1", partial(trainer, few, second=True), 2, ""))
    shares: dict[str, float] = {}
    for name, make, m, where in makers:
        made = make()
        took = bench.each(made.advance)
        first = first or took
        if where and where not in shares:
            shares[where] = share(variants(base)["eager"] or base, where)
        law = 1 + (m - 1) * shares[where] if where else None
        yield {"row": name, "m": m, "ms": 1000 * took, "plain = 1": took / first, "s": shares.get(where), "law": law}
        del made
        bench.free()


def share(base: Config, where: str) -> float:
    """The share s of the network that the latent enters, from the operations f (1 + (m - 1) s) at m = 2 and 8."""
    two, eight = (operations(trainer(soft(base, where, m))) for m in (2, 8))
    extra = (eight - two) / 6
    return extra / (two - extra)


TABLES = {
    "training": Table(
        "Training, images a second, 28 x 28, bf16",
        "Data on the device, fused optimiser, averages of the weights, for all. softmix draws its batch from the data "
        "in each step; the other libraries get the same batch each time. A recorded step is a CUDA graph. `first step` "
        "includes the making of the network and, where it is compiled, the compilation.",
        training,
        240,
    ),
    "profile": Table(
        "One training step under the profiler",
        "`GPU busy` is the time in which at least one kernel or copy runs. `step` is measured without the profiler.",
        one_step,
        60,
    ),
    "kernels": Table(
        "The kernels of an eager training step",
        "Those that take most of the time of the GPU; without a GPU, the operations that take most of the time.",
        kernels,
        20,
    ),
    "draws": Table(
        "A step with m draws",
        "The law is 1 + (m - 1) s for a latent that enters the last share s of the network, counted in operations. "
        "The second part of smd draws for a part of the batch, and has no such law.",
        draws,
        40,
    ),
}
