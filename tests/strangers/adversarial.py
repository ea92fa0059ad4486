"""An adversarial loss with a discriminator: x_s of the data against x_s of the posterior's draws.

After Xiao, Kreis & Vahdat, "Tackling the generative learning trilemma with denoising diffusion GANs", ICLR 2022, eq. 4:
the network learns to make q(x_s | x_t, a draw) look like q(x_s | x_t, x0) to D(x_s, x_t, t).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from softmix import sample
from softmix.data import Data, load
from softmix.denoiser import Denoiser, Network, SoftHead
from softmix.loss import Group, Stage
from softmix.net import MLPSpec
from softmix.process import Noised
from softmix.rng import Rng
from softmix.train import Config, Denoise, Model


class Discriminator(nn.Module):
    def __init__(self, dim: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * dim + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, xs: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        judged: Tensor = self.layers(torch.cat([xs, xt, t[:, None].to(xs)], dim=1))
        return judged[:, 0]


@dataclass(frozen=True)
class Adversarial:
    """softplus(-D(fake)) for the network, softplus(-D(real)) + softplus(D(fake)) for D; s = t - 1 / steps."""

    steps: int = 4
    width: int = 64

    groups: ClassVar[Mapping[str, Group]] = {"rival": Group(rate=2e-3, betas=(0.5, 0.9), rival=True)}

    @property
    def proper(self) -> bool:
        return False

    def build(self, network: Network) -> Mapping[str, nn.Module]:
        return {"rival": Discriminator(network.shape[0], self.width)}

    def ask(self, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
        process, rival = noised.process, stage.modules["rival"]
        s = (noised.t - 1 / self.steps).clamp(min=0)
        draw = denoiser(noised.xt, noised.t).sample(rng.child("draw"))
        if stage.turn == "rival":
            draw = draw.detach()
        fake = rival(process.bridge(noised.xt, draw, noised.t, s, rng.child("fake")), noised.xt, noised.t)
        if stage.turn != "rival":
            return nn.functional.softplus(-fake)
        real = rival(process.bridge(noised.xt, noised.x0, noised.t, s, rng.child("real")), noised.xt, noised.t)
        return nn.functional.softplus(-real) + nn.functional.softplus(fake)


PARTS = (Adversarial,)


def source(place: Path) -> Data:
    return load("toy:grid", limit=2000)


def config(steps: int) -> Config:
    task = Denoise(net=MLPSpec(width=32, depth=2), head=SoftHead(mean="none"), loss=Adversarial())  # type: ignore[arg-type]
    return Config(task, batch=64, steps=steps, save=2, precision="fp32")


def sampled(model: Model, place: Path) -> Tensor:
    return sample(model.denoiser, 8, 4)
