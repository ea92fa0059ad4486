"""Training speed on images of 28 x 28: soft mixtures against plain diffusion with the same net, as ratios.

    python bench/throughput.py [--seconds 8] [--batch 64]

All rows are measured in one run, in turn, on the machine's own threads, after a warm-up; the machine's rate for
one large product of bf16 matrices stands above them, as the limit.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from softmix.data import Report
from softmix.data.store import make
from softmix.denoiser import PointHead, SoftHead
from softmix.loss import Energy, Square
from softmix.net import DiTSpec, NetSpec, UNetSpec
from softmix.train import Config, Run, Trainer, facts_of, preset

NETS: tuple[tuple[str, NetSpec], ...] = (
    ("U-Net 64", UNetSpec(width=64, depth=1)),
    ("DiT 192 x 6", DiTSpec(width=192, depth=6)),
)


def rows(base: Config) -> list[tuple[str, Config]]:
    """Plain first: the ratios are to it."""
    plain = replace(base, head=PointHead(), loss=Square("v"))
    return [("plain", plain)] + [
        (f"SMD, {where}, m = {m}", replace(base, head=SoftHead(where, mean="none"), loss=Energy(m=m, weight="v")))
        for where in ("decoder", "head")
        for m in (2, 4, 8)
    ]


def speed(config: Config, seconds: float) -> tuple[float, int]:
    """Images a second in training, and the number of parameters."""
    images = torch.randint(0, 256, (4096, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = make("noise", images, None, (), Report(read=len(images)))
    trainer = Trainer(Run(config, facts_of(data, config)), data, Path())
    for _ in range(3):
        trainer.advance()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        trainer.advance()
        steps += 1
    rate = steps * config.batch / (time.perf_counter() - began)
    return rate, sum(p.numel() for p in trainer.network.parameters())


def machine() -> float:
    """The rate of a product of two bf16 matrices of side 2048, in units of 10^9 operations a second."""
    a = torch.randn(2048, 2048, dtype=torch.bfloat16)
    a @ a
    began = time.perf_counter()
    for _ in range(5):
        a @ a
    return 5 * 2 * 2048**3 / (time.perf_counter() - began) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of measuring for each row")
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; a large bf16 product runs at {machine():.0f} GFLOP/s")
    for name, net in NETS:
        base = replace(preset("smd", (1, 28, 28)), net=net, batch=options.batch, steps=1)
        reference = None
        print(f"\n{name:24s} {'images/s':>9s} {'time, plain = 1':>16s} {'parameters':>11s}")
        for label, config in rows(base):
            rate, count = speed(config, options.seconds)
            reference = reference or rate
            print(f"{label:24s} {rate:9.0f} {reference / rate:16.2f} {count:11,d}", flush=True)


if __name__ == "__main__":
    main()
