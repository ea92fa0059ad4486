"""The room of networks: the contract, and the embedding of noise level and class that all share."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]
Where = Literal["all", "decoder", "head"]


class Embedding(nn.Module):
    """logsnr (and a class, if there are any) -> [B, width].

    Fourier features of logsnr, frequencies from 1/8 to 4 in geometric steps, and two layers. The class
    -1 stands for "not told" and has an embedding of its own, so that guidance can be trained and used.
    """

    freqs: Tensor

    def __init__(self, width: int, classes: int = 0, features: int = 32):
        super().__init__()
        self.register_buffer("freqs", torch.logspace(math.log10(1 / 8), math.log10(4), features // 2))
        self.layers = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, logsnr: Tensor, label: Tensor | None = None) -> Tensor:
        phase = logsnr.clamp(-20, 20)[:, None] * self.freqs / 2
        out: Tensor = self.layers(torch.cat([phase.sin(), phase.cos()], dim=1))
        if self.classes is None:
            return out
        known = self.classes.num_embeddings - 1
        label = (
            torch.full_like(logsnr, known, dtype=torch.long) if label is None else torch.where(label < 0, known, label)
        )
        return out + self.classes(label)


class Net(nn.Module):
    """A stem, blocks and an output layer: x [B, C, ...] -> [B, C_out, ...].

    Attributes: `time`, the embedding; `body`, the list of blocks; `splits`, for each place where a latent
    may enter, the number of blocks that come before it; `taps`, named modules whose outputs losses and
    quantisers may look at (by forward hooks); `width`, the channels of the state where it enters and leaves
    """

    time: Embedding
    body: nn.ModuleList
    splits: dict[Where, int]
    width: int
    embed_width: int

    def stem(self, x: Tensor) -> State:
        """The first layer: x to the state."""
        raise NotImplementedError

    def out(self, state: State, emb: Tensor, size: tuple[int, ...]) -> Tensor:
        """The last layer: the state to [B, C_out, *size]."""
        raise NotImplementedError

    @property
    def taps(self) -> dict[str, nn.Module]:
        return {f"body.{i}": block for i, block in enumerate(self.body)}

    def run(self, state: State, emb: Tensor, start: int, stop: int) -> State:
        """Blocks start .. stop - 1."""
        for block in self.body[start:stop]:
            state = block(state, emb)
        return state

    def forward(self, x: Tensor, logsnr: Tensor, label: Tensor | None = None) -> Tensor:
        emb = self.time(logsnr, label)
        return self.out(self.run(self.stem(x), emb, 0, len(self.body)), emb, tuple(x.shape[2:]))


class Modulation(nn.Module):
    """emb [B, E] -> `parts` tensors [B, width, 1, ...] or [B, 1, width], as the state needs them."""

    def __init__(self, embed_width: int, width: int, parts: int, gain: float = 0.5):
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(embed_width, parts * width)
        with torch.no_grad():
            self.linear.weight.mul_(gain)
            self.linear.bias.zero_()

    def forward(self, emb: Tensor) -> tuple[Tensor, ...]:
        return self.linear(nn.functional.silu(emb)).chunk(self.parts, dim=1)


def heads_for(width: int) -> int:
    """How many heads of attention a state of this width gets: of 32 channels, or the next larger that divide it."""
    return next(heads for heads in range(max(width // 32, 1), 0, -1) if width % heads == 0)


def repeat(state: State, m: int) -> State:
    """Each tensor m times, draw by draw: [B, ...] -> [m B, ...]."""
    return tuple(x.expand(m, *x.shape).reshape(m * x.shape[0], *x.shape[1:]) for x in state)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, for q, k, v [..., places, d].

    Written out because for the few places of our nets the fused kernel's backward pass takes half of a
    training step on a CPU, and plain matrix products a tenth of that (docs/pitfalls.md).
    """
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v


def places(h: Tensor) -> Tensor:
    """The first tensor of a state as [B, C, places]: of an image's map, of tokens, or of a point (one place)."""
    return h[:, :, None] if h.ndim == 2 else h.transpose(1, 2) if h.ndim == 3 else h.flatten(2)


def at_least_one(**sizes: int) -> None:
    """Raises ValueError for a size of a net that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is at least 1; found {size}")
