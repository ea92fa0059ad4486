"""Information-theoretic diffusion: likelihoods as integrals of denoising errors over the noise levels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cond import Cond
from ..denoiser.tuned import require_untuned
from ..posterior import HasMean, need
from ..process import Gaussian, one_clock, require_independent
from ..rng import Rng
from ..shape import take
from .levels import AtLevel, EvenLevels, GivenLevels, Levels, at_levels
from .reference import GaussianReference

if TYPE_CHECKING:
    from ..denoiser import Denoiser


@dataclass(frozen=True)
class Nats:
    """-log p of each item, in nats.

    each : [B], float64.
    error : the standard error of each, from independent repeats of the integral, [B].
    ends : the range of logsnr of the integral.
    dims : the number of elements of an item.
    cut : about the nats that are missing below and above the range, in the mean over items.
    map : the part of each element, of the shape of x0, if it was asked for. Its sum over an item is `each`.
    """

    each: Tensor
    error: Tensor
    ends: tuple[float, float]
    dims: int
    cut: tuple[float, float] = (0.0, 0.0)
    map: Tensor | None = None

    @property
    def mean(self) -> float:
        return float(self.each.mean())

    @property
    def bits_per_dim(self) -> float:
        """The mean over items, in bits per element."""
        return self.mean / self.dims / math.log(2)

    @property
    def standard_error(self) -> float:
        """Of the mean over items, as a sample of a population; the error of the integral is a part of it."""
        return float(self.each.std() / len(self.each) ** 0.5) if len(self.each) > 1 else float("nan")


def density(
    denoiser: Denoiser,
    x0: Tensor,
    rng: Rng,
    reference: GaussianReference,
    levels: Levels | EvenLevels | None = None,
    n: int = 32,
    repeats: int = 2,
    cond: Cond | Tensor | None = None,
    batch: int = 256,
) -> Nats:
    """-log p(x_0) of each item by the errors of a denoiser, in nats (ITD):

        -log p(x) = -log p_G(x) + (1 / 2) int [ e(x, a) - e_G(x, a) ] da,
        e(x, a) = snr E|x - m(x_t)|^2,   a = log snr

    p_G is a Gaussian with the moments of the data, and e_G the error of its denoiser, with the same noise. For the
    exact denoiser of p this is exact at each x. For a model it is an upper bound in the mean over data. Outside the
    range of the levels the model is taken to be as good as the Gaussian.

    denoiser : a model with a posterior mean, on a Gaussian process with one alpha and one sigma.
    x0 : [B, ...].
    rng : the noise, one stream for each item.
    reference : of the training data.
    levels : by default `Levels.of` the variances of the reference.
    n, repeats : n noise levels, `repeats` times. Twice at least, for the standard error.
    cond : the conditions, for log p(x_0 | cond).

    On data of few dimensions, and on whole numbers, the density is unbounded, and the result depends on the range: take
    `discrete`. Raises TypeError for a posterior without a mean and for a process without one clock; ValueError for a
    process whose noise depends on x0, and for fewer than two repeats.
    Source: Kong, Brekelmans & Ver Steeg, "Information-theoretic diffusion", ICLR 2023.
    When to choose: for the likelihood of single items without an ODE; each evaluation counts, in any order.
    """
    process = require_process(denoiser, "density")
    chosen = levels or Levels.of(reference.variances)
    own = reference.to(x0.device)
    gaussian = own.denoiser(process)

    def gap(at: AtLevel) -> Tensor:
        return (at.error(mean_of(denoiser, at)) - at.error(mean_of(gaussian, at))).flatten(1).sum(1)

    totals = integrals(process, x0, rng, chosen, n, repeats, cond, batch, gap)
    ends = chosen.inside(float(process.logsnr(1.0)), math.inf).ends
    # beyond an end the difference of the errors falls as e^-|a|, so that its integral is about its value at the end
    tails = curve(denoiser, x0[:batch], rng.take(slice(batch)).child("ends"), reference, ends, cond, batch).density
    return as_nats(own.nats(x0) + totals / 2, ends, x0, (float(tails[0]), float(tails[1])))


def pointwise_information(
    denoiser: Denoiser,
    x0: Tensor,
    rng: Rng,
    levels: Levels | EvenLevels,
    given: Cond | Tensor,
    context: Cond | Tensor | None = None,
    n: int = 32,
    repeats: int = 2,
    batch: int = 256,
) -> tuple[Tensor, Tensor]:
    """i(x; y | c) of each element, by the standard and by the orthogonal estimator, in nats, two [B, ...]:

        i_s = (1 / 2) int ( e(x, a | c) - e(x, a | y, c) ) da
        i_o = (1 / 2) int snr E( m(x_t | y, c) - m(x_t | c) )^2 da

    The sum of i_s over the elements is log p(x | y, c) / p(x | c) for the exact denoiser, at each x. i_o is not: it is
    never below 0, so that it cannot report misinformation, and equals i_s only in the mean over p(x | y, c).

    given : y together with c.
    context : c, by default nothing.

    Source: Kong, Liu, Li, Yogatama & Ver Steeg, "Interpretable diffusion via information decomposition", ICLR 2024.
    When to choose: for maps of which pixels a condition tells of. Take a model with dropped conditions in its training.
    """
    return paired_information(denoiser, x0, rng, levels, (given, context), ((0, 1),), n, repeats, batch)[0]


def paired_information(
    denoiser: Denoiser,
    x0: Tensor,
    rng: Rng,
    levels: Levels | EvenLevels,
    conds: Sequence[Cond | Tensor | None],
    pairs: Sequence[tuple[int, int]],
    n: int,
    repeats: int,
    batch: int,
) -> list[tuple[Tensor, Tensor]]:
    """`pointwise_information` of several pairs of conditions, all with the same noise.

    conds : the conditions. The model is asked once for each of them, at each level.
    pairs : for each answer the numbers of the condition with y and of that without.
    """
    process = require_process(denoiser, "pointwise information")
    if n < 1 or repeats < 1:
        raise ValueError(f"take at least one level and one repeat; found {n} and {repeats}")
    zeros = torch.zeros(x0.shape, dtype=torch.float64, device=x0.device)
    found = [(zeros.clone(), zeros.clone()) for _ in pairs]
    for repeat in range(repeats):
        for at in at_levels(process, x0, rng.child(f"repeat {repeat}"), levels, n, offset_of(repeat), None, batch):
            means = [mean_of(denoiser, at, take(cond, at.rows)) for cond in conds]
            errors, share = [at.error(mean) for mean in means], at.weight / (2 * repeats)
            for (standard, orthogonal), (y, without) in zip(found, pairs, strict=True):
                standard[at.rows] += share * (errors[without] - errors[y])
                orthogonal[at.rows] += share * at.snr * (means[y].double() - means[without].double()).square()
    return found


@dataclass(frozen=True)
class ErrorCurve:
    """The error of the noise at each noise level: the mean over items, e(a) = snr E|x0 - m|^2.

    logsnr : [N].
    model, gaussian : [N], of the model and of the Gaussian with the same moments.
    """

    logsnr: Tensor
    model: Tensor
    gaussian: Tensor

    @classmethod
    def of(cls, logsnr: Sequence[float], errors: Tensor) -> ErrorCurve:
        """errors : [2, N], of the model and of the Gaussian."""
        return cls(torch.tensor(list(logsnr), dtype=torch.float64, device="cpu"), errors[0], errors[1])

    @property
    def density(self) -> Tensor:
        """(e - e_G) / 2, [N]: the nats that each unit of logsnr adds to those of the Gaussian; below 0 the model knows
        more."""
        return (self.model - self.gaussian) / 2


def curve(
    denoiser: Denoiser,
    x0: Tensor,
    rng: Rng,
    reference: GaussianReference,
    logsnr: Sequence[float],
    cond: Cond | Tensor | None = None,
    batch: int = 256,
) -> ErrorCurve:
    """The curve of the errors at given noise levels, with one noise for each item and level."""
    process = require_process(denoiser, "curve")
    gaussian = reference.to(x0.device).denoiser(process)
    asked = [partial(mean_of, each) for each in (denoiser, gaussian)]
    return ErrorCurve.of(logsnr, errors_at(process, asked, x0, rng, logsnr, cond, batch))


def errors_at(
    process: Gaussian,
    estimates: Sequence[Callable[[AtLevel], Tensor]],
    x0: Tensor,
    rng: Rng,
    logsnr: Sequence[float],
    cond: Cond | Tensor | None = None,
    batch: int = 256,
) -> Tensor:
    """The error of the noise of each estimate of x0 at each noise level, the mean over items, on the CPU, [M, N]. All
    get the same noise."""
    sums = torch.zeros(len(estimates), len(logsnr), dtype=torch.float64, device=x0.device)
    given = GivenLevels(tuple(logsnr))
    for at in at_levels(process, x0, rng, given, len(logsnr), cond=cond, batch=batch):
        sums[:, at.number] += torch.stack([at.error(each(at)).sum() for each in estimates])
    return (sums / len(x0)).cpu()


def integrals(
    process: Gaussian,
    x0: Tensor,
    rng: Rng,
    levels: Levels | EvenLevels,
    n: int,
    repeats: int,
    cond: Cond | Tensor | None,
    batch: int,
    integrand: Callable[[AtLevel], Tensor],
) -> Tensor:
    """int f(a) da of each item, by each repeat, [repeats, B, ...]. integrand : from a record of b items to [b, ...]."""
    if n < 1 or repeats < 2:
        raise ValueError(
            f"{n} levels and {repeats} repeats were asked for; take at least one level, and two repeats for the "
            "standard error"
        )
    totals: Tensor | None = None
    for repeat in range(repeats):
        for at in at_levels(process, x0, rng.child(f"repeat {repeat}"), levels, n, offset_of(repeat), cond, batch):
            values = at.weight * integrand(at)
            if totals is None:
                totals = values.new_zeros(repeats, len(x0), *values.shape[1:])
            totals[repeat, at.rows] += values
    if totals is None:
        raise ValueError(f"no level of {levels} has a weight, or there is no item")
    return totals


def by_repeats(
    x0: Tensor,
    rng: Rng,
    repeats: int,
    cond: Cond | Tensor | None,
    batch: int,
    one: Callable[[int, Tensor, Rng, Cond | Tensor | None], Tensor],
) -> Tensor:
    """[repeats, B], batch by batch. one : (repeat, b items, their noise, their conditions) -> [b]."""
    totals = torch.zeros(repeats, len(x0), dtype=torch.float64, device=x0.device)
    for repeat in range(repeats):
        for low in range(0, len(x0), batch):
            rows = slice(low, low + batch)
            totals[repeat, rows] = one(repeat, x0[rows], rng.child(f"repeat {repeat}").take(rows), take(cond, rows))
    return totals


def offset_of(repeat: int) -> float:
    """The place of the levels of each repeat: a golden-ratio sequence, even in every number of repeats."""
    return (0.5 + repeat * 0.6180339887498949) % 1.0


def as_nats(
    repeats: Tensor, ends: tuple[float, float], x0: Tensor, cut: tuple[float, float], map: Tensor | None = None
) -> Nats:
    """From the results of repeats, [repeats, B]. A large part that is cut off is told by a warning."""
    each, error = repeats.mean(0), repeats.std(0) / len(repeats) ** 0.5
    for side, missing, end in zip(("below", "above"), cut, ends, strict=True):
        if abs(missing) > max(0.02, 0.002 * x0[0].numel()):
            warnings.warn(
                f"about {missing:.3g} nats an item lie {side} logsnr {end:.3g}, the end of the range, and are not in "
                "the result: give wider levels",
                stacklevel=3,
            )
    return Nats(each, error, ends, x0[0].numel(), cut, map)


def require_process(denoiser: Denoiser, who: str) -> Gaussian:
    require_untuned(denoiser, who)
    process = one_clock(denoiser.process, who)
    require_independent(process, who)
    return process


def mean_of(denoiser: Denoiser, at: AtLevel, cond: Cond | Tensor | None = None) -> Tensor:
    """The mean of the model. cond : by default that of the noised items."""
    noised = at.noised
    with torch.no_grad():
        answer = denoiser(noised.xt, noised.t, noised.cond if cond is None else cond)
    return need(answer, HasMean, "a likelihood by errors").mean
