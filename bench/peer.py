"""One peer library, run by `bench/peers.py` with the Python of the environment of the peers.

    python bench/peer.py quality PEER --data train.npy --unseen test.npy --minutes 10 --out folder --n 1000
    python bench/peer.py speed PEER --width 48 --batch 64 --seconds 20
    python bench/peer.py overhead --batch 64

Each peer is used as its own examples use it, at the size of the images. It never imports softmix: images go in and
out as uint8 .npy files, numbers as one line of JSON.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

COUNTS = (4, 8, 16, 50)
RATIOS = (0.3, 1.0, 3.0)


class _Nothing:
    """Stands for anything of torchvision that is named on import and not used here."""

    def __init__(self, *args: object, **options: object):
        pass


def without_torchvision() -> None:
    """Stand in for torchvision if it is missing: two peers import it for data and pictures that are not used here."""

    def attribute(name: str) -> type[_Nothing]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing

    package = types.ModuleType("torchvision")
    package.__path__ = []
    for name in ("transforms", "datasets", "utils", "models"):
        part = types.ModuleType(f"torchvision.{name}")
        part.__getattr__ = attribute  # type: ignore[method-assign]
        setattr(package, name, part)
        sys.modules.setdefault(part.__name__, part)
    sys.modules.setdefault("torchvision", package)


class Peer:
    """batch; model; one step of training on x in [-1, 1]; what it takes x0 for, with averaged weights, given
    x0 + ratio z; samples by number of steps, [n, 1, H, W]."""

    batch: int
    model: torch.nn.Module

    def step(self, x: torch.Tensor) -> float: ...

    def clean(self, x: torch.Tensor, ratio: float) -> torch.Tensor: ...

    def ways(self) -> dict[str, Callable[[int, int], torch.Tensor]]: ...


class Diffusers(Peer):
    """Its unconditional example: DDPM with 1000 linear steps, noise prediction, AdamW 1e-4, EMA.

    The example's learning rate falls as a cosine over all steps, which a budget of minutes does not know; it is
    constant after a warm-up of 50 steps, in the place of 500. bf16 autocast stands for its mixed precision.
    """

    batch = 64
    rate = 1e-4

    def __init__(self, size: int, width: int):
        from diffusers import DDPMScheduler, UNet2DModel

        self.model = UNet2DModel(
            sample_size=size,
            in_channels=1,
            out_channels=1,
            layers_per_block=2,
            block_out_channels=(width, width, 2 * width),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
        )
        self.noise = DDPMScheduler(num_train_timesteps=1000)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=self.rate, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
        )
        self.ema, self.count, self.run = copy.deepcopy(self.model), 0, self.model

    def step(self, x: torch.Tensor) -> float:
        z, t = torch.randn_like(x), torch.randint(0, 1000, (len(x),))
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.mse_loss(self.run(self.noise.add_noise(x, z, t), t).sample.float(), z)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.count += 1
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * min(1, self.count / 50)
        self.optimiser.step()
        self.optimiser.zero_grad()
        average(self.ema, self.model, self.count, 0.9999)
        return float(loss.detach())

    def clean(self, x: torch.Tensor, ratio: float) -> torch.Tensor:
        alpha2 = self.noise.alphas_cumprod
        t = _nearest(alpha2, ratio)
        return x - ratio * self.ema(alpha2[t].sqrt() * x, t).sample

    def ways(self) -> dict[str, Callable[[int, int], torch.Tensor]]:
        from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

        def way(scheduler: object) -> Callable[[int, int], torch.Tensor]:
            def draw(n: int, steps: int) -> torch.Tensor:
                scheduler.set_timesteps(steps)  # type: ignore[attr-defined]
                size = self.model.config.sample_size
                x = torch.randn(n, 1, size, size)
                for t in scheduler.timesteps:  # type: ignore[attr-defined]
                    noise = torch.cat([self.ema(part, t).sample for part in x.split(250)])
                    x = scheduler.step(noise, t, x).prev_sample  # type: ignore[attr-defined]
                return x

            return draw

        config = dict(self.noise.config)
        trailing = {"timestep_spacing": "trailing"}
        return {
            "ddim": way(DDIMScheduler.from_config(config, **trailing)),
            "dpm-solver++": way(DPMSolverMultistepScheduler.from_config(config, **trailing)),
            "unipc": way(UniPCMultistepScheduler.from_config(config, **trailing)),
        }


class DiffusersQuick(Diffusers):
    """The same net and loss with the rate that softmix's own presets take: is it the rate?"""

    rate = 1e-3


class Lucidrains(Peer):
    """denoising-diffusion-pytorch: Unet and GaussianDiffusion with their defaults (sigmoid schedule, v), Adam 8e-5
    and batch 32 as in its README, EMA 0.995 every 10 steps as in its Trainer: 0.9995 each step."""

    batch = 32

    def __init__(self, size: int, width: int):
        without_torchvision()
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet

        self.model = Unet(dim=width, dim_mults=(1, 2, 4), channels=1, flash_attn=False)
        self.size, self.make = size, GaussianDiffusion
        self.diffusion = GaussianDiffusion(self.model, image_size=size, timesteps=1000)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=8e-5, betas=(0.9, 0.99))
        self.ema, self.count = copy.deepcopy(self.model), 0

    def step(self, x: torch.Tensor) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.diffusion((x + 1) / 2)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.count += 1
        average(self.ema, self.model, self.count, 0.9995)
        return float(loss.detach())

    def clean(self, x: torch.Tensor, ratio: float) -> torch.Tensor:
        diffusion = self.make(self.ema, image_size=self.size, timesteps=1000)
        alpha2 = diffusion.alphas_cumprod
        t = _nearest(alpha2, ratio)
        return diffusion.model_predictions(alpha2[t].sqrt() * x, t.expand(len(x))).pred_x_start

    def ways(self) -> dict[str, Callable[[int, int], torch.Tensor]]:
        def draw(n: int, steps: int) -> torch.Tensor:
            diffusion = self.make(self.ema, image_size=self.size, timesteps=1000, sampling_timesteps=steps)
            parts = [diffusion.sample(batch_size=min(250, n - k)) for k in range(0, n, 250)]
            return torch.cat(parts) * 2 - 1

        return {"ddim": draw}


class Smalldiffusion(Peer):
    """smalldiffusion's Fashion-MNIST example: Scaled(Unet) with ch 64, mults (1, 1, 2), attention at 14, log-linear
    sigmas from 0.01 to 20, AdamW 7e-4, EMA 0.999, its accelerated sampler with gam 1.6. Its batch is 1024 over
    300 epochs; at a few minutes that would be a handful of steps, so the batch is 128."""

    batch = 128

    def __init__(self, size: int, width: int):
        without_torchvision()
        from smalldiffusion import Scaled, ScheduleLogLinear, Unet

        self.model = Scaled(Unet)(size, 1, 1, ch=width, ch_mult=(1, 1, 2), attn_resolutions=(14,))
        self.schedule = ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=7e-4)
        self.ema, self.count = copy.deepcopy(self.model), 0

    def step(self, x: torch.Tensor) -> float:
        from smalldiffusion.diffusion import generate_train_sample

        self.model.train()
        x0, sigma, eps, cond = generate_train_sample(x, self.schedule)
        with torch.autocast("cpu", torch.bfloat16):
            loss = type(self.model).get_loss(self.model, x0, sigma, eps, cond=cond)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.count += 1
        average(self.ema, self.model, self.count, 0.999)
        return float(loss.detach())

    def clean(self, x: torch.Tensor, ratio: float) -> torch.Tensor:
        return x - ratio * self.ema.eval().predict_eps(x, torch.tensor(ratio))

    def ways(self) -> dict[str, Callable[[int, int], torch.Tensor]]:
        from accelerate import Accelerator
        from smalldiffusion import samples

        def way(gam: float) -> Callable[[int, int], torch.Tensor]:
            def draw(n: int, steps: int) -> torch.Tensor:
                made = []
                for k in range(0, n, 250):
                    sigmas = self.schedule.sample_sigmas(steps)
                    *_, x = samples(
                        self.ema, sigmas, gam=gam, batchsize=min(250, n - k), accelerator=Accelerator(cpu=True)
                    )
                    made.append(x)
                return torch.cat(made)

            return draw

        return {"gam 1.6": way(1.6), "ddim": way(1.0)}


PEERS: dict[str, Callable[[int, int], Peer]] = {
    "diffusers": Diffusers,
    "diffusers, rate 1e-3": DiffusersQuick,
    "denoising-diffusion-pytorch": Lucidrains,
    "smalldiffusion": Smalldiffusion,
}


def average(ema: torch.nn.Module, model: torch.nn.Module, count: int, most: float) -> None:
    """A step of the averaged weights, all peers alike: the decay grows to what each recommends for long trainings, as
    1 - (1 + count)^(-3/4). At a constant 0.999 most of a ten-minute average would be the weights it began with."""
    decay = min(most, 1 - (1 + count) ** -0.75)
    with torch.no_grad():
        for mean, now in zip(ema.parameters(), model.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)


def _nearest(alpha2: torch.Tensor, ratio: float) -> torch.Tensor:
    """The step of a table of alpha^2 with the nearest sigma / alpha."""
    return ((1 / alpha2 - 1).sqrt().log() - math.log(ratio)).abs().argmin()


def to_x(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).float()[:, None] / 127.5 - 1


def error(clean: Callable[[torch.Tensor, float], torch.Tensor], x0: torch.Tensor) -> float:
    """The squared error per pixel of the estimate of x0 from x0 + ratio z, averaged over three ratios: one validation
    loss for models with different training losses."""
    z = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
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
    peer = PEERS[options.peer](images.shape[-1], options.width)
    steps, seconds, curve = 0, 0.0, []
    source = batches(images, peer.batch)
    for tenth in range(1, 11):
        began = time.perf_counter() - seconds
        while (seconds := time.perf_counter() - began) < 6 * options.minutes * tenth:
            peer.step(next(source))
            steps += 1
        curve.append((seconds, error(peer.clean, unseen)))
    options.out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for (name, draw), count in itertools.product(peer.ways().items(), COUNTS):
            x = draw(options.n, count)
            array = ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)[:, 0].numpy()
            np.save(options.out / f"{options.peer}--{name}--{count}.npy", array, allow_pickle=False)
    return {"images": steps * peer.batch, "seconds": seconds, "parameters": _count(peer), "curve": curve}


def speed(options: argparse.Namespace) -> dict[str, object]:
    """Training images a second on noise, eager or compiled."""
    peer = PEERS[options.peer](options.size, options.width)
    if options.compile and isinstance(peer, Diffusers):
        peer.run = torch.compile(peer.model)
    x = torch.rand(options.batch, 1, options.size, options.size) * 2 - 1
    for _ in range(3):
        peer.step(x)
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < options.seconds:
        peer.step(x)
        steps += 1
    rate = steps * options.batch / (time.perf_counter() - began)
    return {"images_per_second": rate, "parameters": _count(peer)}


def overhead(options: argparse.Namespace) -> dict[str, object]:
    """Seconds for one `step` of diffusers' schedulers on a batch, without any network."""
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

    seconds: dict[str, object] = {}
    x = torch.randn(options.batch, 1, options.size, options.size)
    for kind in (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler):
        best = float("inf")
        for _ in range(5):
            scheduler = kind()
            scheduler.set_timesteps(20)
            began = time.perf_counter()
            for t in scheduler.timesteps:
                scheduler.step(x, t, x)
            best = min(best, (time.perf_counter() - began) / 20)
        seconds[kind.__name__] = best
    return seconds


def _count(peer: Peer) -> int:
    return sum(p.numel() for p in peer.model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "speed", "overhead"))
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
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(json.dumps({"quality": quality, "speed": speed, "overhead": overhead}[options.what](options)))


if __name__ == "__main__":
    main()
