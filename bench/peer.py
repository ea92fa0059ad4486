"""One peer library, run by `bench/peers.py` with the Python of the environment of the peers.

    python bench/peer.py quality PEER --data train.npy --unseen test.npy --minutes 10 --out folder --n 1000
    python bench/peer.py speed PEER --width 48 --batch 64 --seconds 20
    python bench/peer.py speeds PEER --width 40 --batches 64 512 --modes eager compiled --largest 8192
    python bench/peer.py overhead --batch 64

Each peer is used as its own examples use it, at the size of the images. It never imports softmix: images go in and
out as uint8 .npy files, numbers as one line of JSON; `speeds` prints a line for each row. The device is a GPU if there
is one. There the optimiser is the fused one, the data are on the device, and no step waits for it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from clock import default_device, seconds_each, timed, wait_for
from peer_models import PEERS, Peer

COUNTS = (4, 8, 16, 50)
RATIOS = (0.3, 1.0, 3.0)


def to_x(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).float()[:, None] / 127.5 - 1


def error(clean: Callable[[torch.Tensor, float], torch.Tensor], x0: torch.Tensor) -> float:
    """The squared error per pixel of the estimate of x0 from x0 + ratio z, averaged over three ratios: one validation
    loss for models with different training losses."""
    z = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)).to(x0.device)
    with torch.no_grad():
        each = [float(((clean(x0 + ratio * z, ratio) - x0) ** 2).mean()) for ratio in RATIOS]
    return sum(each) / len(each)


def batches(images: np.ndarray, size: int) -> Iterator[torch.Tensor]:
    rng = np.random.default_rng(0)
    while True:
        for part in np.array_split(rng.permutation(len(images)), len(images) // size):
            yield to_x(images[part])


def quality(options: argparse.Namespace) -> dict[str, object]:
    """Train for some minutes, measure the error on unseen images after each tenth, then write samples for each way and
    count."""
    images, unseen = np.load(options.data), to_x(np.load(options.unseen))
    device = options.device
    peer, unseen = PEERS[options.peer](images.shape[-1], options.width, device), unseen.to(device)
    steps, seconds, curve = 0, 0.0, []
    source = batches(images, peer.batch)
    for tenth in range(1, 11):
        began = time.perf_counter() - seconds
        while (seconds := time.perf_counter() - began) < 6 * options.minutes * tenth:
            peer.step(next(source).to(device))
            steps += 1
        wait_for(device)
        curve.append((seconds, error(peer.clean, unseen)))
    options.out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        for (name, draw), count in itertools.product(peer.ways().items(), COUNTS):
            x = draw(options.n, count)
            array = ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)[:, 0].cpu().numpy()
            np.save(options.out / f"{options.peer}--{name}--{count}.npy", array, allow_pickle=False)
    return {"images": steps * peer.batch, "seconds": seconds, "parameters": _count(peer), "curve": curve}


def speed(options: argparse.Namespace) -> dict[str, object]:
    """Training images a second on noise, eager or compiled."""
    peer = PEERS[options.peer](options.size, options.width, options.device)
    if options.compile:
        peer.compile()
    rate = options.batch / _step_seconds(peer, options.batch, options)
    return {"images_per_second": rate, "parameters": _count(peer)}


def _step_seconds(peer: Peer, batch: int, options: argparse.Namespace) -> float:
    x = torch.rand(batch, 1, options.size, options.size, device=options.device) * 2 - 1
    return seconds_each(lambda: peer.step(x), options.device, options.seconds)


def speeds(options: argparse.Namespace) -> dict[str, object]:
    """Training images a second for each mode and batch, one line of JSON each, and the number of lines.

    With --largest the batch doubles in eager mode until it does not fit, or until this number.
    """
    lines = 0
    for mode, batch in _wanted(options):
        torch.compiler.reset()
        peer = PEERS[options.peer](options.size, options.width, options.device)
        if mode == "compiled":
            peer.compile()
        line: dict[str, object] = {"mode": mode, "batch": batch, "parameters": _count(peer)}
        try:
            # the first step of a compiled network takes up to minutes
            line["first"] = timed(lambda peer=peer, batch=batch: _first(peer, batch, options), options.device)
            line["images_per_second"] = batch / _step_seconds(peer, batch, options)
        except torch.OutOfMemoryError:
            line["problem"] = "does not fit into the memory"
        print(json.dumps(line), flush=True)
        lines += 1
        if "problem" in line:
            break
    return {"lines": lines}


def _first(peer: Peer, batch: int, options: argparse.Namespace) -> None:
    peer.step(torch.rand(batch, 1, options.size, options.size, device=options.device) * 2 - 1)
    wait_for(options.device)


def _wanted(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """The modes and batches in the order of the measurement: the rows most worth having come first."""
    yield from ((mode, batch) for batch in options.batches for mode in options.modes)
    batch = 2 * max(options.batches)
    while batch <= options.largest:
        yield "eager", batch
        batch *= 2


def overhead(options: argparse.Namespace) -> dict[str, object]:
    """Seconds for one `step` of diffusers' schedulers on a batch, without any network."""
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

    seconds: dict[str, object] = {}
    x = torch.randn(options.batch, 1, options.size, options.size, device=options.device)

    def steps() -> None:
        for t in scheduler.timesteps:
            scheduler.step(x, t, x)

    for kind in (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler):
        best = float("inf")
        for _ in range(5):
            scheduler = kind()
            scheduler.set_timesteps(20)
            best = min(best, timed(steps, options.device) / 20)
        seconds[kind.__name__] = best
    return seconds


def _count(peer: Peer) -> int:
    return sum(p.numel() for p in peer.model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "speed", "speeds", "overhead"))
    parser.add_argument("peer", choices=PEERS, nargs="?")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--unseen", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", type=torch.device, default=default_device())
    parser.add_argument("--batches", type=int, nargs="+", default=[512, 64])
    parser.add_argument("--modes", nargs="+", choices=("eager", "compiled"), default=["eager"])
    parser.add_argument("--largest", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    program = {"quality": quality, "speed": speed, "speeds": speeds, "overhead": overhead}[options.what]
    print(json.dumps(program(options)))


if __name__ == "__main__":
    main()
