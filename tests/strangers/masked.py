"""Masked tokens: a process without Gaussian noise, a net with a token embedding, a categorical posterior.

After Sahoo et al., "Simple and effective masked diffusion language models", NeurIPS 2024, eq. 10: cross-entropy of the
masked tokens, weighted by 1 / t for alpha = 1 - t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from softmix import sample
from softmix.cond import UNCONDITIONED, CondSpec
from softmix.data import Data, load
from softmix.denoiser.network import Inputs
from softmix.net import Net, SequenceNet, SequenceSpec
from softmix.posterior import Categorical, Posterior
from softmix.process import Noised
from softmix.rng import Rng
from softmix.shape import column
from softmix.train import Config, Denoise, Model

SYMBOLS, LENGTH = 4, 8


@dataclass(frozen=True)
class Masking:
    """At time t a token is unchanged with probability 1 - t; otherwise it is the mask, number `symbols`."""

    symbols: int = SYMBOLS

    def noise(self, x0: Tensor, t: Tensor | float, rng: Rng, cond: Any = None) -> Noised:
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x0))
        hidden = rng.uniform(x0.shape) < column(t, x0).to(x0.device)
        return Noised(x0, x0.masked_fill(hidden, self.symbols), t, hidden, self, cond)  # type: ignore[arg-type]

    def prior(self, shape: Sequence[int], rng: Rng, cond: Any = None) -> Tensor:
        return torch.full(tuple(shape), self.symbols, device=rng.device)

    def bridge(
        self, xt: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float, rng: Rng, cond: Any = None, eta: float = 1.0
    ) -> Tensor:
        shown = 1 - torch.as_tensor(s, dtype=torch.float64) / torch.as_tensor(t, dtype=torch.float64)
        return torch.where((xt == self.symbols) & (rng.uniform(xt.shape) < column(shown, xt)), x0, xt)

    def logsnr(self, t: Tensor | float) -> Tensor:
        return (1 - torch.as_tensor(t, dtype=torch.float64)).logit()

    def time(self, logsnr: Tensor | float) -> Tensor:
        return torch.sigmoid(-torch.as_tensor(logsnr, dtype=torch.float64))

    def grid(self, n: int) -> Tensor:
        return torch.linspace(1, 0, n + 1, dtype=torch.float64)


class SymbolNet(SequenceNet):
    """A sequence net with an embedding of its tokens, the mask among them."""

    def __init__(self, symbols: int, width: int, depth: int, out_channels: int, cond: CondSpec):
        super().__init__(SequenceSpec(width, depth), 1, out_channels, cond)
        self.enter = nn.Embedding(symbols + 1, width)  # type: ignore[assignment]


@dataclass(frozen=True)
class SymbolSpec:
    """Items [L] of integers."""

    axes: ClassVar[str] = "L"

    symbols: int = SYMBOLS
    width: int = 32
    depth: int = 2

    def build(self, channels: int, out_channels: int, cond: CondSpec = UNCONDITIONED) -> Net:
        return SymbolNet(self.symbols, self.width, self.depth, out_channels, cond)


@dataclass(frozen=True)
class SymbolHead:
    """A categorical posterior over the symbols at each place."""

    symbols: int = SYMBOLS

    def channels(self, channels: int) -> int:
        return self.symbols

    def build(self, net: Net, spec: object, shape: tuple[int, ...]) -> nn.Module:
        return _Categorical()


class _Categorical(nn.Module):
    def forward(self, net: Net, given: Inputs) -> Posterior[Any]:
        return Categorical(net.through(given.x, given.side).float().mT)


@dataclass(frozen=True)
class SymbolLoss:
    """(1 / t) times the cross-entropy of the masked tokens, for each token of the item."""

    @property
    def proper(self) -> bool:
        return True

    def __call__(self, posterior: Categorical, noised: Noised, rng: Rng) -> Tensor:
        each = -posterior.log_prob_each(noised.x0) * noised.z
        return each.mean(1) / noised.t.to(each)


PARTS = (Masking, SymbolSpec, SymbolHead, SymbolLoss)


def source(place: Path) -> Data:
    """Rows of tokens, each of which is probably the successor of the one before it."""
    file = place / "tokens.npy"
    if not file.exists():
        jumps = np.random.default_rng(0).choice([1, 2, 0, 3], p=[0.8, 0.1, 0.05, 0.05], size=(500, LENGTH))
        np.save(file, jumps.cumsum(1) % SYMBOLS)
    return load(file, tokens=SYMBOLS)


def config(steps: int) -> Config:
    task = Denoise(Masking(), SymbolSpec(), SymbolHead(), SymbolLoss())  # type: ignore[arg-type]
    return Config(task, batch=64, steps=steps, save=2, precision="fp32")


def sampled(model: Model, place: Path) -> Tensor:
    x = sample(model.denoiser, 8, LENGTH)
    assert x.dtype == torch.int64 and int(x.min()) >= 0 and int(x.max()) < SYMBOLS
    return x
