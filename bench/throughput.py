"""Speed and memory of soft mixtures beside plain diffusion with the same net, and how both grow.

    python bench/throughput.py                                # all tables: about 12 minutes on two cores
    python bench/throughput.py --seconds 2 --tables training sampling

training : images a second, and their share of the rate of the machine for one large matrix product.
sampling : the time of one evaluation of the network, as each sampler uses it.
memory   : the peak memory of a training of some steps, with network and optimiser, without libraries.
growth   : time of a training step against batch, side, width and draws, with the exponent of the last doubling.

All rows are measured in one run, in turn, on the machine's own threads, after a warm-up. Ratios are to plain.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from clock import default_device, seconds_each
from torch.utils.flop_counter import FlopCounterMode

from softmix.data import Report
from softmix.data.store import make
from softmix.denoiser import PointHead, SoftHead
from softmix.loss import Energy, FeatureDrift, Square
from softmix.net import DiTSpec, NetSpec, UNetSpec
from softmix.posterior import HasMean, need
from softmix.rng import Rng
from softmix.train import Config, Run, Trainer, build, facts_of, preset

TABLES = ("training", "sampling", "memory", "growth")
NETS: dict[str, NetSpec] = {"U-Net 64": UNetSpec(width=64, depth=1), "DiT 192 x 6": DiTSpec(width=192, depth=6)}


def plain(net: NetSpec, batch: int = 64, side: int = 28) -> Config:
    """The baseline of the ratios."""
    base = preset("smd", (1, side, side)).but(net=net, batch=batch, steps=10**6)
    return base.but(head=PointHead(), loss=Square("v"))


def soft(base: Config, where: str, m: int) -> Config:
    return base.but(head=SoftHead(where, mean="none"), loss=Energy(m=m, weight="v"))  # type: ignore[arg-type]


def smd(base: Config, share: float = FeatureDrift.blank) -> Config:
    """The preset smd with the network of `base`. share : of the items of a batch, those with draws from t = 1."""
    return base.but(head=SoftHead(), loss=FeatureDrift(blank=share))


def trainer(config: Config, side: int = 28, second: bool = False) -> Trainer:
    """A trainer, ready for a step. second : in the part of training after the loss has frozen its copy."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2048, 1, side, side), dtype=torch.uint8, generator=generator)
    data = make("noise", images, None, (), Report(read=len(images)))
    made = Trainer(Run(config, facts_of(data, config)), data, Path())
    if second:
        made.frozen = made.freeze()
    made.advance()
    return made


def operations(made: Trainer) -> float:
    """Floating-point operations of matrix products and convolutions in one training step."""
    with FlopCounterMode(display=False) as counter:
        loss = made.losses(torch.arange(made.run.config.batch)).sum()
        torch.autograd.grad(loss, list(made.model.parameters()), allow_unused=True)
    return float(counter.get_total_flops())


def machine(seconds: float) -> float:
    """The rate of a product of two bf16 matrices of side 2048, in 10^9 operations a second."""
    device = default_device()
    a = torch.randn(2048, 2048, dtype=torch.bfloat16, device=device)
    return 2 * 2048**3 / seconds_each(lambda: a @ a, device, seconds) / 1e9


def training(seconds: float) -> None:
    rate = machine(seconds)
    print(f"\nTraining, 28 x 28, batch 64. One large bf16 product: {rate:.0f} GFLOP/s\n")
    print("| net | row | images/s | time, plain = 1 | GFLOP/s | of the machine's | parameters |\n" + "|---" * 7 + "|")
    for name, net in NETS.items():
        base, first = plain(net), 0.0
        rows = [("plain", base, False), ("smd, first part", smd(base), False)]
        rows += [("smd, second part", smd(base), True)]
        rows += [(f"energy score, {w}, m = {m}", soft(base, w, m), False) for w in ("decoder", "head") for m in (2, 8)]
        for label, config, second in rows:
            made = trainer(config, second=second)
            took = seconds_each(made.advance, made.device, seconds)
            first = first or took
            done = operations(made) / took / 1e9
            count = sum(p.numel() for p in made.model.parameters())
            print(
                f"| {name} | {label} | {64 / took:.0f} | {took / first:.2f} | {done:.0f} | {done / rate:.2f} "
                f"| {count:,} |",
                flush=True,
            )


def sampling(seconds: float) -> None:
    print("\nSampling: one evaluation, 28 x 28, 64 images\n")
    print("| net | what is asked | ms | plain = 1 |\n" + "|---" * 4 + "|")
    device = default_device()
    x, rng = torch.randn(64, 1, 28, 28, device=device), Rng(0, 64, device=device)
    for name, net in NETS.items():
        first = 0.0
        for label, config, drawn in (
            ("plain: the mean", plain(net), False),
            ("soft mixture: the mean", smd(plain(net)), False),
            ("soft mixture, decoder: a draw", soft(plain(net), "decoder", 2), True),
            ("soft mixture, head: a draw", soft(plain(net), "head", 2), True),
        ):
            generator = torch.Generator().manual_seed(0)
            images = torch.randint(0, 256, (64, 1, 28, 28), dtype=torch.uint8, generator=generator)
            run = Run(config, facts_of(make("noise", images, None, (), Report(read=64)), config))
            network = build(run)["model"].eval().to(device)

            def ask(network: torch.nn.Module = network, drawn: bool = drawn) -> object:
                with torch.inference_mode():
                    posterior = network(x, 0.5)
                    return posterior.sample(rng) if drawn else need(posterior, HasMean, "the bench").mean

            took = seconds_each(ask, device, seconds)
            first = first or took
            print(f"| {name} | {label} | {1000 * took:.1f} | {took / first:.2f} |", flush=True)


def memory(seconds: float) -> None:
    print("\nMemory of a training, 28 x 28, batch 64, U-Net 64, beyond the libraries\n")
    print("| row | MB | plain = 1 |\n" + "|---" * 3 + "|")
    first = 0.0
    for label in MEMORY:
        done = subprocess.run([sys.executable, __file__, "--one", label], capture_output=True, text=True, check=True)
        used = float(done.stdout)
        first = first or used
        print(f"| {label} | {used:.0f} | {used / first:.2f} |", flush=True)


MEMORY: dict[str, tuple[Callable[[Config], Config], bool]] = {
    "plain": (lambda base: base, False),
    "smd, second part": (smd, True),
    "energy score, decoder, m = 2": (lambda base: soft(base, "decoder", 2), False),
    "energy score, decoder, m = 8": (lambda base: soft(base, "decoder", 8), False),
    "energy score, head, m = 8": (lambda base: soft(base, "head", 8), False),
}


def most_memory(label: str) -> float:
    """By how much memory in use rises, at most, over some training steps, in MB: on a GPU the memory of its tensors, on
    a CPU the memory of the process, for Linux."""
    change, second = MEMORY[label]
    if default_device().type == "cuda":
        made = trainer(change(plain(NETS["U-Net 64"])), second=second)
        for _ in range(5):
            made.advance()
        return torch.cuda.max_memory_allocated(made.device) / 2**20
    status, again = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def kilobytes(name: str) -> int:
        return int(next(line for line in status.read_text().splitlines() if line.startswith(name)).split()[1])

    again.write_text("5")  # the peak is counted anew
    before = kilobytes("VmRSS")
    made = trainer(change(plain(NETS["U-Net 64"])), second=second)
    for _ in range(5):
        made.advance()
    return (kilobytes("VmHWM") - before) / 1024


def growth(seconds: float) -> None:
    rate = machine(seconds)
    print("\nGrowth: ms of a training step; in brackets the exponent against the row before, of time and of operations")
    print("\n| what grows | values | ms |\n" + "|---" * 3 + "|")
    for what, values, make_config, side in (
        ("batch", (16, 32, 64, 128, 256), lambda v: plain(NETS["U-Net 64"], batch=v), lambda v: 28),
        ("side", (14, 28, 56, 112), lambda v: plain(NETS["U-Net 64"], side=v), lambda v: v),
        ("width", (32, 64, 128, 256), lambda v: plain(UNetSpec(width=v, depth=1)), lambda v: 28),
        ("draws m, decoder", (2, 4, 8, 16), lambda v: soft(plain(NETS["U-Net 64"]), "decoder", v), lambda v: 28),
        ("tokens of a DiT (side)", (14, 28, 56), lambda v: plain(NETS["DiT 192 x 6"], side=v), lambda v: v),
    ):
        cells, before = [], None
        for value in values:
            made = trainer(make_config(value), side(value))
            took, done = seconds_each(made.advance, made.device, seconds / 2), operations(made)
            if before is None:
                cells.append(f"{1000 * took:.0f}")
            else:
                step = math.log(value / before[0])
                powers = [math.log(now / then) / step for now, then in ((took, before[1]), (done, before[2]))]
                cells.append(f"{1000 * took:.0f} ({powers[0]:.2f}, {powers[1]:.2f})")
            before = (value, took, done)
        assert before is not None
        share = before[2] / before[1] / 1e9 / rate
        print(f"| {what} | {', '.join(map(str, values))} | {', '.join(cells)}; last at {share:.2f} of the machine's |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of measuring for each row")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--one", choices=MEMORY, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(most_memory(options.one))
        return
    print(f"{default_device().type}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in options.tables:
        {"training": training, "sampling": sampling, "memory": memory, "growth": growth}[name](options.seconds)


if __name__ == "__main__":
    main()
