"""The law of the training times, and the times of the examples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ..config import require_defaults
from ..process import Framed, Gaussian
from ..rng import Rng
from .task import Batch, demand

if TYPE_CHECKING:
    from .denoise import Denoise

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Times:
    """The law of the training times.

    Example k of a run has the k-th point of a golden-ratio sequence, so that every batch covers the range evenly.

    by : "t", uniform in [low, high]; "logsnr", uniform between two log-SNRs; "normal", a normal law of logsnr.
    low, high : the ends of t. A network of a `MultiScale` model needs only the times at which it is asked.
    logsnr : the two ends for "logsnr"; mean and standard deviation for "normal".
    """

    by: Literal["t", "logsnr", "normal"] = "t"
    low: float = 1e-3
    logsnr: tuple[float, float] = (-10.0, 10.0)
    high: float = 1.0

    def __post_init__(self) -> None:
        a, b = self.logsnr
        demand(
            0 <= self.low < self.high <= 1,
            f"times run from low to high, 0 <= low < high <= 1; found {self.low} and {self.high}",
        )
        demand(
            self.by == "t" or self.high == 1,
            f'high = {self.high} is an end of t, and the times are drawn by {self.by}: take by="t", or two log-SNRs',
        )
        require_defaults(self, ("logsnr",) if self.by == "t" else ("low",), f"the times are drawn by {self.by}")
        demand(self.by != "logsnr" or a < b, f"logsnr runs from a smaller number to a larger; found {a}, {b}")
        demand(self.by != "normal" or b > 0, f"the standard deviation of logsnr is above 0; found {b}")


def times(task: Denoise, batch: Batch, pace: nn.Module | None = None) -> Tensor:
    """The times of these examples, float64 [B], on the device of `batch.items`: a golden-ratio sequence.

    pace : the module of a curriculum with patience.
    """
    shares = (first_share(batch.seed, batch.attempt) + batch.items.double() * _GOLDEN) % 1.0
    if task.curriculum is not None:
        stage = task.curriculum.stages(batch, pace)
        shares = task.curriculum.shares(shares, stage, batch.seed, easy_is_high=task.times.by == "t")
    return at_shares(task, shares)


def at_shares(task: Denoise, u: Tensor) -> Tensor:
    """The times at these shares of the law of the training times."""
    chosen = task.times
    if chosen.by == "t":
        return chosen.low + (chosen.high - chosen.low) * u
    low, high = chosen.logsnr
    if chosen.by == "normal":
        # the ends of the sequence would be infinite
        logsnr = low + high * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))
        return task.process.time(logsnr.clamp(min=_last_logsnr(task.process))).clamp(max=1.0)
    return task.process.time(low + (high - low) * u).clamp(max=1.0)


def least_time(task: Denoise) -> float:
    """The least time of training, of one end of its law."""
    return float(at_shares(task, torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")).min())


@lru_cache(maxsize=64)
def first_share(seed: int, attempt: int) -> float:
    """The first point of the sequence, another after each rollback."""
    return float(Rng(seed, 1, f"times.{attempt}").uniform((1,), torch.float64))


@lru_cache(maxsize=64)
def _last_logsnr(process: Gaussian | Framed) -> float:
    """The log-SNR at t = 1."""
    return float(process.logsnr(1.0))
