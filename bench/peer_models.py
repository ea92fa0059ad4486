"""The other libraries, each as its own examples use it, behind one interface. softmix is not imported here."""

# mypy: ignore-errors
# they are not installed where types are checked

from __future__ import annotations

import copy
import importlib.util
import math
import sys
import types
from collections.abc import Callable

import torch


class _Nothing:
    """Stands for anything of torchvision that is named on import and not used here."""

    def __init__(self, *args: object, **options: object):
        pass


def without_torchvision() -> None:
    """Stand in for torchvision if it is missing: two peers import it for data and pictures that are not used here."""
    if importlib.util.find_spec("torchvision") is not None:
        return

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

    def step(self, x: torch.Tensor) -> torch.Tensor: ...

    def compile(self) -> None: ...

    def clean(self, x: torch.Tensor, ratio: float) -> torch.Tensor: ...

    def ways(self) -> dict[str, Callable[[int, int], torch.Tensor]]: ...


class Diffusers(Peer):
    """Its unconditional example: DDPM with 1000 linear steps, noise prediction, AdamW 1e-4, EMA.

    The example's learning rate falls as a cosine over all steps, which a budget of minutes does not know; it is
    constant after a warm-up of 50 steps, in the place of 500. bf16 autocast stands for its mixed precision.
    """

    batch = 64
    rate = 1e-4

    def __init__(self, size: int, width: int, device: torch.device):
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
        ).to(device)
        self.noise = DDPMScheduler(num_train_timesteps=1000)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=self.rate, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8, **fused(device)
        )
        self.ema, self.count, self.run = copy.deepcopy(self.model), 0, self.model

    def compile(self) -> None:
        self.run = torch.compile(self.model, dynamic=False)

    def step(self, x: torch.Tensor) -> torch.Tensor:
        z, t = torch.randn_like(x), torch.randint(0, 1000, (len(x),), device=x.device)
        with torch.autocast(x.device.type, torch.bfloat16):
            loss = torch.nn.functional.mse_loss(self.run(self.noise.add_noise(x, z, t), t).sample.float(), z)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.count += 1
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * min(1, self.count / 50)
        self.optimiser.step()
        self.optimiser.zero_grad()
        average(self.ema, self.model, self.count, 0.9999)
        return loss.detach()

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
                x = torch.randn(n, 1, size, size, device=next(self.ema.parameters()).device)
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

    def __init__(self, size: int, width: int, device: torch.device):
        without_torchvision()
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet

        self.model = Unet(dim=width, dim_mults=(1, 2, 4), channels=1, flash_attn=False).to(device)
        self.size, self.make = size, GaussianDiffusion
        self.diffusion = GaussianDiffusion(self.model, image_size=size, timesteps=1000).to(device)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=8e-5, betas=(0.9, 0.99), **fused(device))
        self.ema, self.count = copy.deepcopy(self.model), 0

    def compile(self) -> None:
        self.diffusion.model = torch.compile(self.model, dynamic=False)

    def step(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            loss = self.diffusion((x + 1) / 2)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.count += 1
        average(self.ema, self.model, self.count, 0.9995)
        return loss.detach()

    def clean(self, x: torch.Tensor, ratio: float) -> torch.Tensor:
        diffusion = self.make(self.ema, image_size=self.size, timesteps=1000).to(x.device)
        alpha2 = diffusion.alphas_cumprod
        t = _nearest(alpha2, ratio)
        return diffusion.model_predictions(alpha2[t].sqrt() * x, t.expand(len(x))).pred_x_start

    def ways(self) -> dict[str, Callable[[int, int], torch.Tensor]]:
        def draw(n: int, steps: int) -> torch.Tensor:
            diffusion = self.make(self.ema, image_size=self.size, timesteps=1000, sampling_timesteps=steps)
            diffusion.to(next(self.ema.parameters()).device)
            parts = [diffusion.sample(batch_size=min(250, n - k)) for k in range(0, n, 250)]
            return torch.cat(parts) * 2 - 1

        return {"ddim": draw}


class Smalldiffusion(Peer):
    """smalldiffusion's Fashion-MNIST example: Scaled(Unet) with ch 64, mults (1, 1, 2), attention at 14, log-linear
    sigmas from 0.01 to 20, AdamW 7e-4, EMA 0.999, its accelerated sampler with gam 1.6. Its batch is 1024 over
    300 epochs; at a few minutes that would be a handful of steps, so the batch is 128."""

    batch = 128

    def __init__(self, size: int, width: int, device: torch.device):
        without_torchvision()
        from smalldiffusion import Scaled, ScheduleLogLinear, Unet

        self.model = Scaled(Unet)(size, 1, 1, ch=width, ch_mult=(1, 1, 2), attn_resolutions=(14,)).to(device)
        self.schedule = ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=7e-4, **fused(device))
        self.ema, self.count = copy.deepcopy(self.model), 0

    def step(self, x: torch.Tensor) -> torch.Tensor:
        from smalldiffusion.diffusion import generate_train_sample

        self.model.train()
        x0, sigma, eps, cond = generate_train_sample(x, self.schedule)
        with torch.autocast(x.device.type, torch.bfloat16):
            loss = type(self.model).get_loss(self.model, x0, sigma, eps, cond=cond)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.count += 1
        average(self.ema, self.model, self.count, 0.999)
        return loss.detach()

    def clean(self, x: torch.Tensor, ratio: float) -> torch.Tensor:
        return x - ratio * self.ema.eval().predict_eps(x, torch.tensor(ratio, device=x.device))

    def ways(self) -> dict[str, Callable[[int, int], torch.Tensor]]:
        from accelerate import Accelerator
        from smalldiffusion import samples

        def way(gam: float) -> Callable[[int, int], torch.Tensor]:
            def draw(n: int, steps: int) -> torch.Tensor:
                made, cpu = [], next(self.ema.parameters()).device.type == "cpu"
                for k in range(0, n, 250):
                    sigmas = self.schedule.sample_sigmas(steps)
                    *_, x = samples(
                        self.ema, sigmas, gam=gam, batchsize=min(250, n - k), accelerator=Accelerator(cpu=cpu)
                    )
                    made.append(x)
                return torch.cat(made)

            return draw

        return {"gam 1.6": way(1.6), "ddim": way(1.0)}


PEERS: dict[str, Callable[[int, int, torch.device], Peer]] = {
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
        torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)


def fused(device: torch.device) -> dict[str, bool]:
    """The option of torch's optimisers for one kernel over all weights, where it pays."""
    return {"fused": True} if device.type == "cuda" else {}


def _nearest(alpha2: torch.Tensor, ratio: float) -> torch.Tensor:
    """The step of a table of alpha^2 with the nearest sigma / alpha."""
    return ((1 / alpha2 - 1).sqrt().log() - math.log(ratio)).abs().argmin()
