"""The likelihood of whole numbers by denoising errors, with rounding at little noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cond import Cond
from ..process import Gaussian
from ..rng import Rng
from .density import ErrorCurve, Nats, as_nats, errors_at, integrals, mean_of, require_process
from .levels import AtLevel, EvenLevels, GivenLevels, Levels, at_levels
from .reference import GaussianReference

if TYPE_CHECKING:
    from ..denoiser import Denoiser

# values beyond so many steps of the grid have no weight in a rounding
_NEAR = 8


@dataclass(frozen=True)
class Grid:
    """The values of whole numbers in model units: low, low + step, ..., high.

    Images of 8 bits in [-1, 1] are Grid().
    """

    step: float = 2 / 255
    low: float = -1.0
    high: float = 1.0

    @property
    def count(self) -> int:
        """The number of values."""
        return round((self.high - self.low) / self.step) + 1

    def nearest(self, x: Tensor) -> Tensor:
        """The number of the nearest value, as a float."""
        return ((x - self.low) / self.step).round().clamp(0, self.count - 1)

    def average(self, y: Tensor, precision: float) -> Tensor:
        """sum_b p_b b with p_b in proportion to exp(-precision (y - b)^2 / 2): soft rounding."""
        middle, last = self.nearest(y), self.count - 1
        top = torch.full_like(y, -math.inf)
        total, mean = torch.zeros_like(y), torch.zeros_like(y)
        exponents = []
        for k in range(-_NEAR, _NEAR + 1):
            number = middle + k
            value = self.low + self.step * number
            power = -precision * (y - value).square() / 2
            power = power.masked_fill((number < 0) | (number > last), -math.inf)
            exponents.append((power, value))
            top = torch.maximum(top, power)
        for power, value in exponents:
            share = (power - top).exp()
            total, mean = total + share, mean + share * value
        return mean / total

    def tail(self, snr: float) -> float:
        """A bound on (1 / 2) int_snr^inf of the squared error of hard rounding, for one element, in nats:

        sum_j 2 / (j - 1/2) exp(-(j - 1/2)^2 step^2 snr / 2)
        """
        return sum(2 / (j - 0.5) * math.exp(-((j - 0.5) ** 2) * self.step**2 * snr / 2) for j in range(1, 2 * _NEAR))


def discrete(
    denoiser: Denoiser,
    x0: Tensor,
    rng: Rng,
    reference: GaussianReference,
    grid: Grid | None = None,
    levels: Levels | None = None,
    rounded_from: float | None = None,
    n: int = 32,
    repeats: int = 2,
    cond: Cond | Tensor | None = None,
    batch: int = 256,
    maps: bool = False,
) -> Nats:
    """-log P(x_0) of whole numbers, in nats: an upper bound in the mean over data.

        -log P(x) = (1 / 2) int_0^inf mmse(x, snr) d snr

    in three parts: below the range of the levels the denoiser of a Gaussian, in closed form; in the range the model;
    above it hard rounding, bounded in closed form. From logsnr `rounded_from` on the answer of the model is rounded
    softly, with the precision 1 + snr about the model's mean. Beyond `levels.high`, the least noise of the training,
    x_t / alpha is rounded in its place.

    grid : of the values; by default that of 8 bits.
    levels : by default `Levels.of` the reference. The integral begins at its least level, and goes in even steps up to
        where hard rounding misses 0.001 bits per element. `levels.high` is the end of the model.
    rounded_from : by default where a step of the grid is as large as 6 standard deviations of the noise. Any choice
        gives a bound; `best_rounding` finds the best one on other items.
    maps : also the part of each element, `Nats.map`. The parts outside the range are not known for each element: the
        lower one is shared out in proportion to the squared distance from the mean of the data, the error there, and
        the upper one evenly.
    n, repeats, rng, reference, cond, batch : as in `density`.

    Raises TypeError and ValueError as `density` does, and ValueError for items with values off the grid.
    Source: Kong, Brekelmans & Ver Steeg, ICLR 2023; the constant of the tail is derived here.
    When to choose: for bits of images, which have no density.
    """
    process, known = require_process(denoiser, "discrete"), grid or Grid()
    _require_on_grid(x0, known)
    asked = levels or Levels.of(reference.variances)
    last = _end_of_grid(known)
    # up to where rounding is sure; before it the error of the noise does not fall
    wide = EvenLevels(asked.ends[0], last)
    start = default_rounding(known) if rounded_from is None else rounded_from
    own = reference.to(x0.device)
    model_ends = (asked.low, asked.high)

    def error(at: AtLevel) -> Tensor:
        found = at.error(estimate(denoiser, at, known, start, model_ends))
        return found if maps else found.flatten(1).sum(1)

    totals = integrals(process, x0, rng, wide, n, repeats, cond, batch, error) / 2
    first, last = wide.inside(float(process.logsnr(1.0)), math.inf).ends
    below, above = own.head_nats(x0, math.exp(first)), x0[0].numel() * known.tail(math.exp(last))
    sides, map = below + above, None
    if maps:
        map = (
            totals.mean(0)
            + _shared(below, (x0.double() - own.mean.reshape(x0.shape[1:])) ** 2)
            + known.tail(math.exp(last))
        )
        totals = totals.flatten(2).sum(2)
    return as_nats(sides + totals, (first, last), x0, (0.0, 0.0), map)


def _shared(nats: Tensor, size: Tensor) -> Tensor:
    """Numbers of items, [B], in proportion to a size of each element."""
    size = size + 1e-12
    return (
        nats.reshape(-1, *(1,) * (size.ndim - 1)) * size / size.flatten(1).sum(1).reshape(-1, *(1,) * (size.ndim - 1))
    )


def discrete_curve(
    denoiser: Denoiser,
    x0: Tensor,
    rng: Rng,
    reference: GaussianReference,
    logsnr: Sequence[float],
    grid: Grid | None = None,
    rounded_from: float | None = None,
    ends: tuple[float, float] = (-math.inf, math.inf),
    cond: Cond | Tensor | None = None,
    batch: int = 256,
) -> ErrorCurve:
    """The curve of the errors of whole numbers at given noise levels, rounded as in `discrete`: half of it is the nats
    that each unit of logsnr adds.

    ends : the levels at which the model may be asked; beyond them x_t / alpha is rounded.
    """
    process, known = require_process(denoiser, "discrete_curve"), grid or Grid()
    start = default_rounding(known) if rounded_from is None else rounded_from
    plain = reference.to(x0.device).denoiser(process)
    asked = [partial(estimate, each, grid=known, rounded_from=start, ends=ends) for each in (denoiser, plain)]
    return ErrorCurve.of(logsnr, errors_at(process, asked, x0, rng, logsnr, cond, batch))


def default_rounding(grid: Grid) -> float:
    """The logsnr at which a step of the grid is as large as 6 standard deviations of the noise."""
    return -2 * math.log(grid.step / 6)


def estimate(denoiser: Denoiser, at: AtLevel, grid: Grid, rounded_from: float, ends: tuple[float, float]) -> Tensor:
    """The estimate of x0 at each level: the mean of the model, the same rounded, or x_t / alpha rounded, float64."""
    if not ends[0] <= at.logsnr <= ends[1]:
        process = at.noised.process
        assert isinstance(process, Gaussian)
        return grid.average(at.noised.xt.double() / float(process.alpha(process.time(at.logsnr))), at.snr)
    mean = mean_of(denoiser, at).double()
    return grid.average(mean, 1 + at.snr) if at.logsnr >= rounded_from else mean


def best_rounding(
    denoiser: Denoiser,
    x0: Tensor,
    rng: Rng,
    grid: Grid | None = None,
    logsnr: tuple[float, ...] = tuple(range(4, 15)),
    cond: Cond | Tensor | None = None,
    batch: int = 256,
) -> float:
    """The logsnr from which soft rounding lowers the error: the least of these from which on it always does.

    Take other items than those of the likelihood, which would otherwise be a little too low.
    """
    process, known = require_process(denoiser, "best_rounding"), grid or Grid()
    rising = tuple(sorted(logsnr))
    sums = torch.zeros(len(rising), 2, dtype=torch.float64, device=x0.device)
    for at in at_levels(process, x0, rng, GivenLevels(rising), len(rising), cond=cond, batch=batch):
        mean = mean_of(denoiser, at).double()
        rounded = known.average(mean, 1 + at.snr)
        sums[at.number] += torch.stack([at.error(each).sum() for each in (mean, rounded)])
    best = math.inf
    for level, (plain, soft) in reversed(list(zip(rising, sums.tolist(), strict=True))):
        if soft > plain:
            break
        best = float(level)
    return best


def _end_of_grid(grid: Grid) -> float:
    """The logsnr from which hard rounding misses less than 0.001 bits per element."""
    level = 0.0
    while grid.tail(math.exp(level)) > 0.001 * math.log(2):
        level += 0.05
    return level


def _require_on_grid(x0: Tensor, grid: Grid) -> None:
    off = (grid.low + grid.step * grid.nearest(x0.double()) - x0.double()).abs().amax()
    if float(off) > 0.01 * grid.step:
        raise ValueError(
            f"items with values on a grid of step {grid.step:.4g} were expected, and one is off it by "
            f"{float(off):.2g}: give `density` for real numbers, or another Grid"
        )
