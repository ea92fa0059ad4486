"""Where to measure next: rules over predicted measurements, and a run of diffusion that measures as it goes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from ..cond import Cond
from ..denoiser import Denoiser, Wrap
from ..denoiser.contract import device_of
from ..posterior import HasMean, need
from ..process import one_clock, require_independent
from ..rng import Rng
from ..shape import take
from .instrument import Instrument
from .moments import guided_by_pseudo_inverse
from .noise import GaussianNoise
from .operator import LinearOperator

Rule = Literal["variance", "entropy", "released", "random"]
Unit = Literal["element", "pixel", "column"]
# the rules that read an sd
_WITH_SD = ("entropy", "released")
# an instrument and its y -> a wrap
Guide = Callable[[Instrument, Tensor], Wrap]


def gains(predicted: Tensor, rule: Rule = "variance", sd: float | None = None, unit: Unit = "element") -> Tensor:
    """How much each place promises, from predictions of its measurement, [B, G].

    With d_ij^2 the squared distance of the predictions i and j at a place, summed over the elements of a unit:

        variance   sum of the variances of the elements, sum_ij d_ij^2 / (2 m^2)
        entropy    -mean_i log mean_j exp(-d_ij^2 / (4 sd^2))
        released   sum_i log sum_j exp(d_ij^2 / (2 sd^2))

    `entropy` estimates the entropy of the next y, but for a constant: the predictions with noise of sd are a mixture of
    Gaussians. For an sd far above the distances it is the variance. `released` is the rule of the authors' program: its
    sign makes it no entropy, and it grows without bound with one outlier; at their sd (10 and 50) it is the variance.

    predicted : A(x0_i) of m draws of x0, [m, B, *measured]; m at least 2.
    sd : of the noise, above 0, for the last two rules alone.
    unit : what is measured at once. "pixel" sums over channels, "column" over channels and rows, of [m, B, C, H, W].

    A noisy place has a large entropy too, which says nothing about x0: these rules suit noise that is the same
    everywhere. Raises ValueError for another rule, unit, sd, or shape.
    Source: Nolan et al., "Active diffusion subsampling", TMLR 2025; the rule as released from its program.
    """
    if rule not in get_args(Rule) or rule == "random":
        raise ValueError(f"the rule {rule!r} was asked for; gains has variance, entropy and released")
    if len(predicted) < 2:
        raise ValueError(f"{len(predicted)} predictions were given; give at least 2")
    _check_sd(rule, sd)
    if rule == "variance":
        return _summed(predicted.var(0, correction=0)[None], unit)[0]
    logs, sd = [], float(sd or 0)
    for one in predicted:
        apart = _summed((predicted - one).square(), unit)
        scaled = -apart / (4 * sd**2) if rule == "entropy" else apart / (2 * sd**2)
        logs.append(scaled.logsumexp(0))
    total = torch.stack(logs)
    return total.sum(0) if rule == "released" else math.log(len(predicted)) - total.mean(0)


def best_places(gain: Tensor, taken: Tensor, count: int) -> Tensor:
    """The mask with `count` more places of each item, those of the largest gain that are not taken; booleans [B, G].

    gain, taken : [B, G]. Raises ValueError if fewer places are left.
    """
    left = int((~taken).sum(1).min())
    if count > left:
        raise ValueError(f"{count} more places were asked for, and an item has {left} left")
    index = gain.masked_fill(taken, -torch.inf).topk(count, 1).indices
    return taken.scatter(1, index, True)


@dataclass(frozen=True, eq=False)
class ActiveMeasurement:
    """The result of `measured_actively`.

    x : the particles, [m, B, *shape]. Their mean is the estimate of x0.
    mask : the places that were measured, booleans, [B, ...] as `make` takes it.
    y : their measurements, [B, *measured].
    """

    x: Tensor
    mask: Tensor
    y: Tensor

    @property
    def mean(self) -> Tensor:
        return self.x.mean(0)


@torch.no_grad()
def measured_actively(
    denoiser: Denoiser,
    make: Callable[[Tensor], LinearOperator],
    observe: Callable[[Tensor], Tensor],
    noise: float,
    count: int,
    grid: Tensor,
    rng: Rng,
    *,
    unit: Unit = "pixel",
    rule: Rule = "variance",
    sd: float | None = None,
    particles: int = 16,
    first: Tensor | None = None,
    window: tuple[float, float] = (0.0, 0.8),
    guide: Guide = guided_by_pseudo_inverse,
    cond: Cond | None = None,
) -> ActiveMeasurement:
    """Active diffusion subsampling: one guided reverse run of several particles, which measures while it runs.

        at a step with a measurement due:   A(E[x0 | x_t, y]) of each particle -> gains -> the best place -> a longer y
        every step:                         x_s ~ q(x_s | x_t, x0 = E[x0 | x_t, y])

    denoiser : with a mean, of a process with one clock.
    make : a mask with one row for each item -> the operator; such as `lambda mask: Mask(mask, shape)`. The mask is
        [B, 1, H, W] for pixels, [B, 1, 1, W] for columns and [B, *shape] for elements.
    observe : a mask -> y, [B, *measured], with 0 at places that are not measured. A place that was measured before must
        have the same value again.
    noise : the standard deviation of the noise of y, above 0.
    count : the number of places to choose.
    grid : falling times.
    rng : one stream for each item.
    unit, rule, sd : as in `gains`; sd is by default the noise, for the rules that have one. "random" chooses at random,
        the control.
    particles : m.
    first : a mask of places that are measured before the run, such as the middle column of frequencies.
    window : the share of the steps in which places are chosen, from the start of the run. Late choices know more.
    guide : (instrument, y) -> a wrap.
    cond : one condition for each item.

    The particles of an item depend on its stream alone. Raises ValueError for numbers out of range.
    When to choose: if measurements are costly one by one, such as columns of frequencies, and one is chosen after the
    other. For the best single run with given places take a guided sampler.
    Source: Nolan et al., "Active diffusion subsampling", TMLR 2025.
    """
    process = one_clock(denoiser.process, "measured_actively")
    require_independent(process, "measured_actively")
    low, high = window
    if not 0 <= low < high <= 1 or particles < 2 or count < 0 or rule not in get_args(Rule):
        raise ValueError(
            f"window {window}, {particles} particles, {count} places and rule {rule!r} were asked for; the window lies "
            f"in [0, 1], there are at least 2 particles, and the rules are {', '.join(get_args(Rule))}"
        )
    if sd is None and rule in _WITH_SD:
        sd = noise
    _check_sd(rule, sd)
    device, items = device_of(denoiser), len(rng)
    own = rng.to(device)
    shape: tuple[int, ...] = denoiser.shape  # type: ignore[attr-defined]
    form = {"element": shape, "pixel": (1, *shape[1:]), "column": (1, 1, shape[-1])}[unit]
    mask = torch.zeros(items, *form, dtype=torch.bool, device=device) if first is None else first.bool().to(device)
    if tuple(mask.shape) != (items, *form):
        raise ValueError(f"first: a mask {[items, *form]} was expected, and found {list(mask.shape)}")
    streams = torch.cat([own.child(f"particle {k}").bits((items, 1))[:, 0] for k in range(particles)])
    steps, of_place = Rng(0, streams, "active", device), own.child("random places")
    conds = take(cond, torch.arange(items, device=device).repeat(particles))
    x = float(process.sigma(grid[0])) * steps.normal((particles * items, *shape))
    everywhere, y = make(torch.ones_like(mask)), observe(mask)
    due = _due(count, len(grid) - 1, window)
    for k, (t, s) in enumerate(pairwise(grid)):
        instrument = Instrument(make(mask.repeat(particles, *(1,) * len(form))), GaussianNoise(noise))
        again = y.repeat(particles, *(1,) * (y.ndim - 1))
        posterior = need(guide(instrument, again)(denoiser)(x, t, conds), HasMean, "measured_actively")
        mean = posterior.mean
        if due[k]:
            gain = _gain(everywhere, mean.unflatten(0, (particles, items)), rule, sd, unit, of_place)
            mask = best_places(gain, mask.flatten(1), due[k]).view_as(mask)
            y = observe(mask)
        x = process.bridge(x, mean, t, s, steps)
    return ActiveMeasurement(x.unflatten(0, (particles, items)), mask, y)


def _check_sd(rule: Rule, sd: float | None) -> None:
    """Raises ValueError for a rule without its sd, and for an sd that the rule does not read."""
    if (rule in _WITH_SD) != (sd is not None) or (sd is not None and not sd > 0):
        raise ValueError(
            f"the rule {rule!r} was given sd = {sd}: {' and '.join(_WITH_SD)} need an sd above 0, the others have none"
        )


def _gain(operator: LinearOperator, x0: Tensor, rule: Rule, sd: float | None, unit: Unit, rng: Rng) -> Tensor:
    """x0 : [m, B, *shape]."""
    predicted = torch.stack([operator(each) for each in x0])
    if rule != "random":
        return gains(predicted, rule, sd, unit)
    places = _summed(predicted[:1], unit)[0]
    return rng.uniform(tuple(places.shape)).to(places)


def _summed(x: Tensor, unit: Unit) -> Tensor:
    """Sums over the elements of a unit, [m, B, G] of [m, B, *measured]."""
    if unit not in get_args(Unit):
        raise ValueError(f"the unit {unit!r} was asked for; there are {', '.join(get_args(Unit))}")
    if unit == "element":
        return x.flatten(2)
    if x.ndim != 5:
        raise ValueError(f"a {unit} is a part of an image [B, C, H, W], and the measurement is {list(x.shape[1:])}")
    return x.sum(2).flatten(2) if unit == "pixel" else x.sum((2, 3))


def _due(count: int, steps: int, window: tuple[float, float]) -> list[int]:
    """How many places to choose in each step: `count` of them, evenly over the steps in the window."""
    low, high = round(window[0] * steps), max(round(window[1] * steps), round(window[0] * steps) + 1)
    due = [0] * steps
    for k in range(count):
        due[min(low + k * (high - low) // max(count, 1), steps - 1)] += 1
    return due
