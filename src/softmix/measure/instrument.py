"""An instrument: an operator and its noise, y = A(x0) + n."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..rng import Rng
from .guide import Likelihood
from .noise import GaussianNoise, Noise
from .operator import Operator


@dataclass(frozen=True, eq=False)
class Instrument:
    """y = A(x0) + n.

    operator : A.
    noise : the law of y given A(x0).

    `instrument(x0, rng)` is y as a picture, so that `Degraded(data, instrument)` trains restoration for it.
    Elements of y that do not exist (`operator.seen`) are 0 and have no noise and no likelihood.
    """

    operator: Operator
    noise: Noise

    @property
    def fingerprint(self) -> str:
        """The instrument in words, with what it measures of a fixed item."""
        x0 = Rng(0, 1, "fingerprint").uniform((1, *self.operator.shape)) * 2 - 1
        y = self.operator(x0)
        return f"{self.name}, {float(y.double().sum()):.6f}, {float(y.double().square().sum()):.6f}"

    @property
    def name(self) -> str:
        return f"{type(self.operator).__name__} with {self.noise}"

    def observe(self, x0: Tensor, rng: Rng) -> Tensor:
        """y [B, *measured] of items x0 [B, *shape]."""
        return self._existing(self.noise.draw(self.operator(x0), rng))

    def __call__(self, x0: Tensor, rng: Rng) -> Tensor:
        """y as a picture on the grid of x0. Raises TypeError for an operator without pictures."""
        picture = self.operator.picture(self.observe(x0, rng))
        if picture is None:
            raise TypeError(f"{type(self.operator).__name__} has no picture of y on the grid of x0: use `observe`")
        return picture

    def log_lik(self, y: Tensor, x0: Tensor) -> Tensor:
        """log p(y | x0) in nats, [B]. y : [B or 1, *measured]."""
        clean = self.operator(x0)
        if y.shape[1:] != clean.shape[1:] or len(y) not in (1, len(clean)):
            raise ValueError(
                f"y has shape {list(y.shape)}, and A(x0) has shape {list(clean.shape)}: give y with one row, or one "
                "for each item, and run all items in one batch, `sample(..., batch=n)`"
            )
        return self._existing(self.noise.log_prob(y.to(clean), clean)).flatten(1).sum(1)

    def likelihood(self, y: Tensor) -> Likelihood:
        """log p(y | x0) as a function of x0, for `guided_by_mean`, `guided_by_draws` and particles."""
        return lambda x0: self.log_lik(y, x0)

    def residual(self, y: Tensor, x0: Tensor) -> Tensor:
        """The root mean square of (y - A(x0)) / sd over the elements of y that exist, [B]. About 1 for a true x0.

        Below 1, x0 follows the noise; above 1, it does not fit y.
        """
        clean = self.operator(x0)
        off = self._existing((y.to(clean) - clean) / self.noise.sd(clean))
        seen = self.operator.seen
        count = off[0].numel() if seen is None else seen.to(off).expand_as(off).flatten(1).sum(1)
        return (off.flatten(1).square().sum(1) / count).sqrt()

    @property
    def sd(self) -> float:
        """Of Gaussian noise. Raises TypeError for another noise."""
        if not isinstance(self.noise, GaussianNoise):
            raise TypeError(
                f"Gaussian noise of one size is needed, and this instrument has {type(self.noise).__name__}: use "
                "guided_by_draws, guided_through_draws or guided_by_mean with its likelihood"
            )
        return self.noise.scale

    def _existing(self, y: Tensor) -> Tensor:
        seen = self.operator.seen
        return y if seen is None else torch.where(seen.to(y.device) > 0, y, 0)
