"""The cost of training with several processes: measured parts, and a formula of them.

    python bench/scaling.py                    # measures on this machine, with two processes, then prints the table
    python bench/scaling.py --only formula     # the table for up to 1,000 accelerators, computed

docs/scaling.md derives the formula. This program starts itself under torchrun to measure.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from throughput import NETS, operations, plain, trainer

from softmix.data import Report
from softmix.data.store import make
from softmix.train import Run, Trainer, facts_of, join_processes, leave_processes

# an accelerator of the year 2023 and its usual wires; change them to yours
RATE = 400e12  # operations a second that a large network really gets, bf16
INSIDE, BETWEEN, EACH = 300e9, 40e9, 8  # bytes a second of each of 8 in a machine: to its neighbours, and out of it
LATENCY = 20e-6  # of one message between machines
HIDDEN = 0.7  # the share of the backward part under which gradients can travel


@dataclass(frozen=True)
class Net:
    """parameters; operations for one image, forward and backward."""

    name: str
    parameters: float
    operations: float


def traffic(parameters: float, size: int, shard: bool) -> float:
    """Bytes that each process sends in a step: 2 (P-1)/P 4N for DDP, 3 (P-1)/P 4N for FSDP2."""
    return (3 if shard else 2) * (size - 1) / size * 4 * parameters


def seconds(net: Net, batch: int, size: int, shard: bool) -> tuple[float, float]:
    """(computing, communication that computing does not hide) of a step, with `batch` images for each process."""
    computing = batch * net.operations / RATE
    sent = traffic(net.parameters, size, shard)
    # gradients are summed inside a machine first, and then leave it through as many wires
    travel = sent / INSIDE + (sent / EACH / BETWEEN if size > EACH else 0) + 2 * math.ceil(math.log2(size)) * LATENCY
    # two thirds of the work is the backward part; two small sums more are taken in every step
    rest = 4 * math.ceil(math.log2(size)) * LATENCY
    return computing, max(0.0, travel - HIDDEN * computing * 2 / 3) + rest


def formula() -> None:
    print(
        "\n| net | parameters | images each | processes | way | MB sent each | ms computing | ms waiting | efficiency |"
    )
    print("|---" * 9 + "|")
    nets = (
        Net("U-Net 64, 28 x 28 (the preset)", 1.8e6, 0.7e9),
        Net("DiT-B/2, 256 x 256 latents", 130e6, 3 * 2 * 23e9),
        Net("DiT-XL/2, 256 x 256 latents", 675e6, 3 * 2 * 119e9),
    )
    for net in nets:
        for batch in (32, 256):
            for size in (8, 64, 1000):
                for shard in (False, True):
                    computing, waiting = seconds(net, batch, size, shard)
                    sent = traffic(net.parameters, size, shard) / 1e6
                    way = "FSDP2" if shard else "DDP"
                    print(
                        f"| {net.name} | {net.parameters / 1e6:.0f} M | {batch} | {size} | {way} | {sent:.0f} "
                        f"| {1000 * computing:.1f} | {1000 * waiting:.2f} "
                        f"| {computing / (computing + waiting):.2f} |"
                    )


def each(call: Callable[[], object], count: int) -> float:
    """The time of one call; every process makes as many."""
    call()
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count


def worker(shard: bool, steps: int) -> None:
    """One process of the measurement; the first prints what it found."""
    world = join_processes()
    config = plain(NETS["U-Net 64"], batch=32 * world.size)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (512, 1, 28, 28), dtype=torch.uint8, generator=generator)
    data = make("noise", images, None, (), Report(read=512))
    made = Trainer(Run(config, facts_of(data, config, world.size)), data, Path(), world, shard)
    count = sum(p.numel() for p in made.model.parameters())
    flat = torch.zeros(count)
    numbers = {
        "step": each(made.advance, steps),
        "reduce": each(lambda: dist.all_reduce(flat), 5 * steps) if world.size > 1 else 0.0,
        "numbers": each(lambda: world.total([1.0, 2.0]), 20 * steps) if world.size > 1 else 0.0,
        "parameters": count,
    }
    if world.first:
        print(json.dumps(numbers), flush=True)
    leave_processes()


def measured(steps: int) -> None:
    """Steps of 32 images for each process, one thread each."""
    rows = {}
    for name, size, more in (("one process", 1, ()), ("DDP", 2, ()), ("FSDP2", 2, ("--shard",))):
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"] if size > 1 else []
        command = [sys.executable, *launch, __file__, "--worker", "--steps", str(steps), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        rows[name] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    alone = rows["one process"]["step"]
    print("\n32 images for each process, U-Net 64, 28 x 28, one thread each\n")
    print(
        "| | ms a step | efficiency | ms to sum all gradients alone | MB/s | ms to sum two numbers |\n"
        + "|---" * 6
        + "|"
    )
    for name, row in rows.items():
        sent = traffic(row["parameters"], 2, False) / 1e6
        wire = (
            f"{1000 * row['reduce']:.1f} | {sent / row['reduce']:.0f} | {1000 * row['numbers']:.2f}"
            if row["reduce"]
            else " | | "
        )
        print(f"| {name} | {1000 * row['step']:.0f} | {alone / row['step']:.2f} | {wire} |")
    config = plain(NETS["U-Net 64"], batch=32)
    print(f"\noperations for an image, forward and backward: {operations(trainer(config)) / 32 / 1e9:.2f} 10^9")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("measured", "formula"))
    parser.add_argument("--steps", type=int, default=30, help="that are timed")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--shard", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        torch.set_num_threads(1)
        worker(options.shard, options.steps)
        return
    if options.only != "formula":
        measured(options.steps)
    if options.only != "measured":
        formula()


if __name__ == "__main__":
    main()
