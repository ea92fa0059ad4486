"""A process shifted by a condition: x_t = alpha x0 + k(t) u + sigma z with the known image u.

After Zhang, Zhao & Zhang, "ShiftDDPMs: exploring conditional diffusion models by shifting diffusion trajectories",
AAAI 2023, with the known image itself as u and k(t) = t: the noise is centred at the image, and not at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softmix import sample
from softmix.cond import as_cond
from softmix.data import Degraded, load
from softmix.denoiser import PointHead
from softmix.loss import Square
from softmix.net import UNetSpec
from softmix.process import VP, Shifted
from softmix.rng import Rng
from softmix.train import Config, Denoise, Model


@dataclass(frozen=True)
class AroundTheImage(Shifted):
    """Pure noise is N(image, I)."""

    @property
    def base(self) -> VP:  # type: ignore[override]
        return VP()

    def k(self, t: Tensor | float) -> Tensor:
        return torch.as_tensor(t, dtype=torch.float64)

    def u(self, cond: Any) -> Tensor:
        given = as_cond(cond)
        # a missing image gives no shift
        return torch.zeros(1, 1, 1, 1) if given is None or given.image is None else given.image.nan_to_num(0.0)


PARTS = (AroundTheImage,)


def blurred(x0: Tensor, rng: Rng) -> Tensor:
    """Means of 2 x 2 pixels, on the grid of x0."""
    small = torch.nn.functional.avg_pool2d(x0, 2)
    return small.repeat_interleave(2, -1).repeat_interleave(2, -2)


def source(place: Path) -> Degraded:
    return Degraded(load("digits", limit=300), blurred)


def config(steps: int) -> Config:
    net = UNetSpec(width=16, depth=1, patch=2)
    task = Denoise(process=AroundTheImage(), net=net, head=PointHead(), loss=Square("v"))  # type: ignore[arg-type]
    return Config(task, batch=32, steps=steps, save=2, precision="fp32")


def sampled(model: Model, place: Path) -> Tensor:
    index = torch.arange(8)
    _, cond = source(place).batch(index, Rng(0, index))
    assert cond is not None
    return sample(model.denoiser, 8, 4, cond=cond.only(model.denoiser.cond.parts))
