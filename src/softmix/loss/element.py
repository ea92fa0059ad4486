"""Squared error with the weight of each element's own noise level."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..posterior import HasMean, Posterior, need
from ..process import Framed, Gaussian, Noised
from ..rng import Rng
from ..shape import column
from .weight import CITES, Weight, weight


@dataclass(frozen=True)
class SquarePerElement:
    """mean_i w(logsnr_i(t)) (E[y0_i | x_t] - y0_i)^2 over the coordinates y of the frame, such as the Haar bands.

    logsnr_i is that of coordinate i alone. `Square` gives all coordinates the weight of the clock. Those with less
    noise than the clock then count too little, and those with more count too much.

    weight : the name of w, a row of `softmix.loss.weight`. The published one is -d snr_i / dt, the weight of the
        likelihood.

    Raises ValueError for a process without a number for each element.

    When to choose: for a process with a schedule per band or element, `NonUniform`, `SPD` or `PerElement`.
    Source: Batzolis et al., "Non-uniform diffusion models", 2022, and their code: a likelihood weight for each group.
    """

    weight: Weight = "min-snr"

    @property
    def proper(self) -> bool:
        return False

    @property
    def cites(self) -> tuple[str, ...]:
        return (*CITES[self.weight], "non_uniform")

    def fits(self, head: object, process: object) -> None:
        """Raises ValueError for a process with one schedule for all elements."""
        _base(process)

    def __call__(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        process, mean = noised.process, need(posterior, HasMean, "squared error").mean
        error = mean - noised.x0
        if isinstance(process, Framed):
            error = process.enter(mean, 0.0, noised.cond) - process.enter(noised.x0, 0.0, noised.cond)
        weights = weight(self.weight, column(_base(process).element_logsnr(noised.t), error))
        return (weights * error**2).flatten(1).mean(1)


def _base(process: object) -> Gaussian:
    base = process.base if isinstance(process, Framed) else process
    if not isinstance(base, Gaussian) or not base.per_element:
        raise ValueError(
            f"SquarePerElement weighs each element by its own noise level, and {type(process).__name__} has one for "
            "all: take the loss Square, or a process such as NonUniform"
        )
    return base
