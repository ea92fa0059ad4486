"""The room of training: the examples of a run: which item each is, at what time, told which class, mirrored or not."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..data import Data, mirrored
from ..process import Noised
from ..rng import Rng, permutation
from .config import Config, Times

_GOLDEN = 0.6180339887498949


def examples(config: Config, data: Data, items: Tensor, attempt: int, device: torch.device) -> tuple[Noised, Rng]:
    """The training examples with these numbers, counted from the start of the run, and the stream for their loss.

    A function of (config, data, number, attempt) for each; attempt : how often the run was rolled back.
    """
    rng = Rng(config.seed, items, f"train.{attempt}", device)
    index = _index(config.seed, len(data), items)
    x0 = data.x0(index).to(device)
    if config.flip:
        x0, _ = mirrored(x0, None, rng.child("flip"))
    cond = None
    if config.classes and data.labels is not None:
        told = rng.child("drop").uniform((len(items),)) >= config.drop
        cond = torch.where(told, data.labels[index].to(device), -1)
    t = times(config, items, attempt)
    return config.process.noise(x0, t, rng.child("noise"), cond), rng.child("loss")


def _index(seed: int, count: int, items: Tensor) -> Tensor:
    """Which of `count` items each example is: a new order of the whole set in every epoch."""
    epochs, places = items // count, items % count
    index = torch.empty_like(items)
    for epoch in epochs.unique().tolist():
        here = epochs == epoch
        index[here] = _order(seed, count, epoch)[places[here]]
    return index


@lru_cache(maxsize=4)
def _order(seed: int, count: int, epoch: int) -> Tensor:
    """The order in which an epoch goes through the data."""
    return permutation(seed, count, f"epoch.{epoch}")


def times(config: Config, items: Tensor, attempt: int) -> Tensor:
    """The times of these items, float64 [len(items)]: a golden-ratio sequence, even over any stretch."""
    start = float(Rng(config.seed, 1, f"times.{attempt}").uniform((1,), torch.float64))
    u = (start + items.double() * _GOLDEN) % 1.0
    chosen: Times = config.times
    if chosen.by == "t":
        return chosen.low + (1 - chosen.low) * u
    low, high = chosen.logsnr
    if chosen.by == "normal":
        # the ends of the sequence would be infinite
        logsnr = low + high * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))
        return config.process.time(logsnr.clamp(min=float(config.process.logsnr(1.0)))).clamp(max=1.0)
    return config.process.time(low + (high - low) * u).clamp(max=1.0)
