"""Two stages: an autoencoder is a task of its own, and a denoiser learns in the space of its codes.

After Rombach et al., "High-resolution image synthesis with latent diffusion models", CVPR 2022, with a plain
bottleneck in the place of their regularised codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from softmix.cond import NONE, CondSpec
from softmix.data import Source
from softmix.loss import Group
from softmix.train import Batch, Facts


class Codec(nn.Module):
    """Images [B, C, H, W] to codes [B, D] and back."""

    def __init__(self, shape: tuple[int, ...], code: int, width: int):
        super().__init__()
        size = int(torch.Size(shape).numel())
        self.shape = shape
        self.enter = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, code))
        self.leave = nn.Sequential(nn.Linear(code, width), nn.SiLU(), nn.Linear(width, size))

    def encode(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.enter(x.flatten(1)))

    def decode(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.leave(z)).unflatten(1, self.shape)


@dataclass(frozen=True)
class Autoencode:
    """mean (decode(encode(x)) - x)^2: a task without noise, times or posterior."""

    code: int = 8
    width: int = 64

    @property
    def whole(self) -> bool:
        return False

    @property
    def keeps(self) -> float | None:
        return None

    def told(self, source: Source) -> CondSpec:
        return NONE

    def build(self, facts: Facts) -> nn.ModuleDict:
        return nn.ModuleDict({"model": Codec(facts.shape, self.code, self.width)})

    def groups(self) -> Mapping[str, Group]:
        return {}

    def losses(self, modules: nn.ModuleDict, source: Source, batch: Batch) -> Tensor:
        x, codec = source.batch(batch.index, batch.rng)[0].to(batch.device), cast(Codec, modules["model"])
        return (codec.decode(codec.encode(x)) - x).square().flatten(1).mean(1)

    def keep(self, model: nn.Module, x0: Tensor) -> nn.Module:
        raise NotImplementedError

    def made(self, model: nn.Module, facts: Facts, step: int) -> Codec:
        return cast(Codec, model)

    def tried(self, made: Any, device: torch.device) -> None:
        made.decode(made.encode(torch.zeros(1, *made.shape, device=device)))

    def picture(self, made: Any, source: Source, seed: int, device: torch.device) -> Tensor | None:
        x = source.batch(torch.arange(16) % len(source), batch_rng(16))[0].to(device)
        return cast(Tensor, made.decode(made.encode(x)))

    def said(self, batch: Batch) -> str:
        return f"{len(batch.items)} images"
