"""Masked tokens: the process of masked discrete diffusion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..cond import Cond
from ..rng import Rng
from ..shape import column
from .grid import uniform
from .noised import Noised
from .numbers import as_float64

MaskSchedule = Literal["linear", "cosine"]


@dataclass(frozen=True)
class Masked:
    """Each token is itself with probability alpha(t), and else the mask, independently of all others.

        q(x_t | x_0) = alpha_t [x_t = x_0] + (1 - alpha_t) [x_t = mask]
        q(x_s | x_t, x_0) : a visible token stays; a mask becomes x_0 with probability
            (alpha_s - alpha_t) / (1 - alpha_t), and else stays a mask

    symbols : the number of values K of a token. x_0 has the integers 0 .. K - 1, and the mask is K. 0 in the
        configuration of a run: as many as the data have (`source.vocabulary`).
    schedule : alpha = 1 - t ("linear"), or 1 - sin(pi t / 2) ("cosine", with fewer masks lifted in the first steps).

    Tokens have any shape [B, ...], int64. The clock is logsnr = log(alpha / (1 - alpha)), from +inf to -inf. In a
    record `Noised` z says which tokens are masked.

    Raises ValueError for a negative number of symbols, and for another schedule. The methods that need the mask raise
    ValueError while `symbols` is 0.
    Source: Sahoo et al., "Simple and effective masked diffusion language models", NeurIPS 2024, section 3; Shi et al.,
    "Simplified and generalized masked diffusion for discrete data", NeurIPS 2024, section 2.
    When to choose: for tokens: text, codes, levels of grey without an order.
    """

    symbols: int = 0
    schedule: MaskSchedule = "linear"
    cites: ClassVar[tuple[str, ...]] = ("masked_diffusion", "md4")

    def __post_init__(self) -> None:
        if self.symbols < 0 or self.schedule not in get_args(MaskSchedule):
            raise ValueError(
                f"{self.symbols} symbols with the schedule {self.schedule!r} were asked for; give their number, and "
                f"one of {', '.join(get_args(MaskSchedule))}"
            )

    def of(self, symbols: int) -> Masked:
        """The same process for data of so many symbols. Raises ValueError if it was made for another number."""
        if self.symbols not in (0, symbols):
            raise ValueError(
                f"the process {self} is for {self.symbols} symbols, and the data have {symbols}: leave `symbols` out"
            )
        return replace(self, symbols=symbols)

    @property
    def mask(self) -> int:
        """The number of the mask, K."""
        if not self.symbols:
            raise ValueError("this Masked process has no symbols yet: give their number, as in Masked(symbols=65)")
        return self.symbols

    def alpha(self, t: Tensor | float) -> Tensor:
        """The probability that a token is visible, 1 at t = 0 and 0 at t = 1; float64."""
        t = as_float64(t)
        return 1 - t if self.schedule == "linear" else 1 - (t * (math.pi / 2)).sin()

    def unmasking_rate(self, t: Tensor | float) -> Tensor:
        """-alpha' / (1 - alpha) at times t > 0, the weight of the bound; float64.

        1 / t for the linear schedule, and pi / 2 cot(pi t / 2) for the cosine.
        """
        t = as_float64(t)
        return 1 / t if self.schedule == "linear" else (math.pi / 2) / (t * (math.pi / 2)).tan()

    def time_of_share(self, share: Tensor | float) -> Tensor:
        """The t at which this share of the tokens is masked in the mean: the inverse of 1 - alpha; float64."""
        share = as_float64(share)
        return share if self.schedule == "linear" else share.asin() * (2 / math.pi)

    def masked(self, xt: Tensor) -> Tensor:
        """Which tokens of x_t are masked, booleans of its shape."""
        return xt == self.mask

    def noise(self, x0: Tensor, t: Tensor | float, rng: Rng, cond: Cond | Tensor | None = None) -> Noised:
        """x_t with fresh masks. t : one time for all items, or one for each, [B]. Raises ValueError for real numbers.

        The same u < 1 - alpha(t) decides at every t: with the same rng more tokens are masked at a later time.
        """
        if x0.is_floating_point() or x0.is_complex():
            raise ValueError(f"Masked needs tokens, whole numbers from 0 to {self.mask - 1}; found {x0.dtype}")
        hidden = rng.uniform(x0.shape, torch.float64).to(x0.device) < column(1 - self.alpha(t), x0)
        times = as_float64(t).expand(len(x0))
        return Noised(x0=x0, xt=x0.masked_fill(hidden, self.mask), t=times, z=hidden, process=self, cond=cond)

    def prior(self, shape: Sequence[int], rng: Rng, cond: Cond | Tensor | None = None) -> Tensor:
        """All tokens masked. Nothing is random."""
        return torch.full(tuple(shape), self.mask, dtype=torch.int64, device=rng.device)

    def bridge(
        self,
        xt: Tensor,
        x0: Tensor,
        t: Tensor | float,
        s: Tensor | float,
        rng: Rng,
        cond: Cond | Tensor | None = None,
        eta: float = 1.0,
    ) -> Tensor:
        """A draw of q(x_s | x_t, x_0) for s < t. x0 at visible places has no effect: a visible token never changes.

        Raises ValueError for s >= t, and for an eta other than 1: which masks are lifted is always random.
        """
        if eta != 1:
            raise ValueError(
                f"eta = {eta} was asked for, and a step of Masked has no share of fresh noise: leave it out"
            )
        t, s = as_float64(t), as_float64(s)
        if (s >= t).any():
            raise ValueError("a step back needs s < t: give a falling grid of times")
        lifted = (self.alpha(s) - self.alpha(t)) / (1 - self.alpha(t))
        now = rng.uniform(xt.shape, torch.float64).to(xt.device) < column(lifted, xt)
        return torch.where(self.masked(xt) & now, x0, xt)

    def logsnr(self, t: Tensor | float) -> Tensor:
        """log(alpha / (1 - alpha)), the log-odds that a token is visible."""
        return self.alpha(t).logit()

    def time(self, logsnr: Tensor | float) -> Tensor:
        return self.time_of_share(torch.sigmoid(-as_float64(logsnr)))

    def grid(self, n: int) -> Tensor:
        """n steps uniform in t."""
        return uniform(self, n)
