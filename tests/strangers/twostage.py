"""Two stages: an autoencoder with a task of its own, and a denoiser in the space of its codes.

After Rombach et al., "High-resolution image synthesis with latent diffusion models", CVPR 2022, with a plain
bottleneck in place of their regularised codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from softmix import Rng, sample
from softmix.data import Encoded, Source, load
from softmix.denoiser import PointHead
from softmix.loss import Square
from softmix.net import MLPSpec
from softmix.train import Batch, Config, Denoise, Facts, Model, Task, training
from softmix.train import load as load_run


class Codec(nn.Module):
    """Images [B, C, H, W] to codes [B, D] and back."""

    def __init__(self, shape: tuple[int, ...], code: int, width: int):
        super().__init__()
        size = int(torch.Size(shape).numel())
        self.shape = shape
        self.enter = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, code))
        self.leave = nn.Sequential(nn.Linear(code, width), nn.SiLU(), nn.Linear(width, size))

    def encode(self, x0: Tensor) -> Tensor:
        return cast(Tensor, self.enter(x0.flatten(1)))

    def decode(self, latents: Tensor) -> Tensor:
        return cast(Tensor, self.leave(latents)).unflatten(1, self.shape)


@dataclass(frozen=True)
class Autoencode(Task):
    """mean (decode(encode(x)) - x)^2: a task without noise, times or posterior."""

    code: int = 8
    width: int = 64

    def build(self, facts: Facts) -> nn.ModuleDict:
        return nn.ModuleDict({"model": Codec(facts.shape, self.code, self.width)})

    def losses(self, modules: nn.ModuleDict, source: Source, batch: Batch) -> Tensor:
        x, codec = source.batch(batch.index, batch.rng)[0].to(batch.device), cast(Codec, modules["model"])
        return (codec.decode(codec.encode(x)) - x).square().flatten(1).mean(1)

    def result(self, model: nn.Module, facts: Facts, step: int) -> Codec:
        return cast(Codec, model)

    def check(self, result: Any, device: torch.device) -> None:
        result.decode(result.encode(torch.zeros(1, *result.shape, device=device)))

    def picture(self, result: Any, source: Source, seed: int, device: torch.device) -> Tensor | None:
        index = torch.arange(16) % len(source)
        x = source.batch(index, Rng(seed, index))[0].to(device)
        return cast(Tensor, result.decode(result.encode(x))).clamp(-1, 1)


PARTS = (Autoencode,)


def first(place: Path) -> Model:
    """The first stage, in a folder of its own. It trains nothing if it has ended."""
    config = Config(Autoencode(), batch=32, steps=150, precision="fp32")
    for _ in training(load("digits", limit=400), config, place / "codec", parts=PARTS):
        pass
    return load_run(place / "codec", parts=PARTS)


def source(place: Path) -> Encoded:
    return Encoded(load("digits", limit=400), first(place).result)


def config(steps: int) -> Config:
    task = Denoise(net=MLPSpec(width=32, depth=2), head=PointHead(), loss=Square("v"))
    return Config(task, batch=64, steps=steps, save=2, precision="fp32")


def sampled(model: Model, place: Path) -> Tensor:
    """Images: samples of codes, decoded."""
    return source(place).decode(sample(model.denoiser, 8, 4))
