"""An instrument: an operator and its noise, y = A(x0) + n."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..rng import Rng
from .guide import Likelihood, check_measurement
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
        """The instrument in words, with a number that depends on each element that it measures of fixed items."""
        items = self.operator.items or 1
        x0 = Rng(0, items, "fingerprint").uniform((items, *self.operator.shape), torch.float64) * 2 - 1
        y = self.operator(x0)
        weights = Rng(0, len(y), "fingerprint weights").normal(y.shape, torch.float64)
        return f"{self.name}, {float((weights * y).mean()):.6g}"

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
        """log p(y | x0) in nats, [B]. y : [B or 1, *measured]; its values at elements that do not exist are ignored."""
        clean = self.operator(x0)
        check_measurement(y, clean)
        return self._existing(self.noise.log_prob(self._existing(y.to(clean)), clean)).flatten(1).sum(1)

    def likelihood(self, y: Tensor) -> Likelihood:
        """log p(y | x0) as a function of x0, for `guided_by_mean`, `guided_by_draws` and particles."""
        return lambda x0: self.log_lik(y, x0)

    def residual(self, y: Tensor, x0: Tensor) -> Tensor:
        """The root mean square of (y - A(x0)) / sd over the elements of y that exist, [B]. About 1 for a true x0.

        Below 1, x0 follows the noise; above 1, it does not fit y. An element without noise counts 0 if it fits, and
        is infinite if it does not.
        """
        clean = self.operator(x0)
        check_measurement(y, clean)
        off = self._existing(y.to(clean) - clean)
        share = torch.where(off == 0, 0, off / self.noise.sd(clean))
        seen = self.operator.seen
        exist = torch.ones_like(off) if seen is None else self.operator.constant("seen", off).expand_as(off)
        return (share.flatten(1).square().sum(1) / exist.flatten(1).sum(1)).sqrt()

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
        """y with 0 at elements that do not exist."""
        return y if self.operator.seen is None else torch.where(self.operator.constant("seen", y) > 0, y, 0)
