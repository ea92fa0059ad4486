"""The two forms of EVODiff, step by step, against their equations written out for one number at a time."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from softmix.posterior import Point, Posterior
from softmix.process import VE, VP, Flow, Gaussian
from softmix.recipe.evodiff import fixed_weights, released
from softmix.rng import Rng
from softmix.sampler import Sampler, ddim, drive, evodiff
from softmix.sampler.drive import finish

F64 = torch.float64
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)
FORMS = pytest.mark.parametrize("form", ["consistent", "released"])
SHAPE = (2, 2, 3)


class Curved:
    def __init__(self, process: Gaussian):
        self.process = process

    def mean(self, x: Tensor, t: float) -> Tensor:
        clock = float(self.process.logsnr(t)) / 2
        return (0.7 * x / (1 + math.exp(-clock)) + 0.5 * clock).sin() + 0.2 * x.cos()

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        return Point(self.mean(xt, float(t)))


def start(shape: tuple[int, ...] = SHAPE) -> Tensor:
    return Rng(0, 3).normal((3, *shape), F64)


def even(process: Gaussian, n: int, low: float = -4.0, high: float = 4.0, clean: bool = False) -> Tensor:
    times = process.time(torch.linspace(low, high, n + 1, dtype=F64))
    return torch.cat([times, times.new_zeros(1)]) if clean else times


def ended(
    process: Gaussian, times: Tensor, x: Tensor, form: str = "consistent", fixed: tuple[float, float] | None = None
) -> Tensor:
    sampler: Sampler = partial(released, fixed=fixed) if form == "released" else evodiff
    if form == "consistent" and fixed is not None:
        sampler = partial(fixed_weights, eta=fixed[0], zeta=fixed[1])
    return finish(drive(Curved(process), sampler, x, times, Rng(0, len(x))))  # type: ignore[arg-type]


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def onto(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> / <b, b> over all axes but items and channels, clipped to [-2, 2]. Points have one channel."""
    if a.ndim == 2:
        return ((a * b).sum(1, keepdim=True) / (b * b).sum(1, keepdim=True)).clamp(-2, 2)
    found = torch.empty(*a.shape[:2], *[1] * (a.ndim - 2), dtype=a.dtype)
    for item in range(len(a)):
        for channel in range(a.shape[1]):
            p, q = a[item, channel].flatten(), b[item, channel].flatten()
            found[item, channel] = (p @ q / (q @ q)).clamp(-2, 2)
    return found


def written_out(
    process: Gaussian, times: Tensor, x: Tensor, form: str, fixed: tuple[float, float] | None = None
) -> Tensor:
    """In y = x / alpha and k = sigma / alpha the step of DDIM with a mean m is y' = (k'/k) y + (1 - k'/k) m."""
    model, ours = Curved(process), form == "consistent"
    k = [float(process.sigma(t) / process.alpha(t)) for t in times]
    steps = len(k) - 1
    finite = steps - 1 if k[-1] == 0 else steps

    def ddims(y: Tensor, m: Tensor, i: int) -> Tensor:
        return k[i + 1] / k[i] * y + (1 - k[i + 1] / k[i]) * m

    def asked(y: Tensor, i: int) -> Tensor:
        return model.mean(float(process.alpha(times[i])) * y, float(times[i]))

    y, before, mean = x / float(process.alpha(times[0])), None, None
    for i in range(steps):
        m = asked(y, i) if mean is None else mean
        if before is None or k[i + 1] == 0:
            before, y, mean = m, ddims(y, m, i), None
            continue
        share, ratio = k[i + 1] / k[i], math.log(k[i - 1] / k[i]) / math.log(k[i] / k[i + 1])
        w = (1 - ((k[i + 1] + k[finite]) / (k[0] + k[finite])) ** 2) / 2
        b = math.sqrt(k[i + 1] / k[i] * k[i - 1] / k[i])

        def rho(new: Tensor, old: Tensor, w: float = w, b: float = b) -> Tensor | float:
            return 1.0 if ours else (1 - w) * b + w * onto(new, old)

        if not ours and i == finite - 1:
            kept = 1 - math.sqrt(share if share < 0.5 else share - 0.5) / 2
            more = (1 - share) / 2 * (m - kept * before)
            y, mean = (1 - math.sqrt(k[i] * k[i + 1])) * ddims(y, m, i) + more, None
            continue
        reach = ratio if ours else ratio * sigmoid(rho(m, before).abs() / 4)  # type: ignore[union-attr]
        first = m - rho(m, before) * before
        there = asked(ddims(y, m + first / (2 * reach), i), i + 1)
        second = there - rho(there, m) * m
        d1, d2 = first / ratio, second if ours else ratio * second
        eta = sigmoid(onto(d2 + d1, d2 - d1).abs() / 2) / 2
        if fixed is not None:
            eta = torch.tensor(fixed[0], dtype=F64)
        mixed = (1 - eta) * d2 - eta * d1
        zeta: Tensor | float = 1 - 2 * eta
        if fixed is not None:
            zeta = fixed[1]
        elif not ours:
            gap = (1 - share) * (first - mixed) / (2 * reach)
            wanted = (onto(gap, first) / (1 - share)).abs() - 0.5
            slope = onto(m, (m - before) / (1 / k[i + 1] - 1 / k[i]))
            zeta = sigmoid(wanted) if finite <= 20 else sigmoid(-sigmoid(slope * (2 - share**2)) * wanted)
        y = ddims(y, m + mixed / (2 * zeta), i)
        before, mean = m, there
    return y * float(process.alpha(times[-1]))


@THREE
@FORMS
@pytest.mark.parametrize("n", [3, 8, 22])
@pytest.mark.parametrize("clean", [False, True])
def test_each_form_agrees_with_its_equations(process: Gaussian, form: str, n: int, clean: bool) -> None:
    times = even(process, n, clean=clean)
    right = written_out(process, times, start(), form)
    assert right.isfinite().all()
    assert (ended(process, times, start(), form=form) - right).abs().max() < 1e-8 * (1 + float(right.abs().max()))


@THREE
@FORMS
def test_each_form_agrees_with_its_equations_on_an_uneven_grid(process: Gaussian, form: str) -> None:
    """Steps of different lengths in log(alpha / sigma): r is not 1."""
    times = process.time(torch.tensor([-4.0, -3.0, -0.5, 0.2, 2.0, 2.5, 4.0, 4.5], dtype=F64))
    right = written_out(process, times, start(), form)
    assert (ended(process, times, start(), form=form) - right).abs().max() < 1e-8 * (1 + float(right.abs().max()))


@FORMS
@pytest.mark.parametrize("n", [20, 21])
def test_the_released_form_changes_its_zeta_above_twenty_steps(form: str, n: int) -> None:
    times = even(VE(), n)
    right = written_out(VE(), times, start(), form)
    assert (ended(VE(), times, start(), form=form) - right).abs().max() < 1e-8 * (1 + float(right.abs().max()))


@FORMS
@pytest.mark.parametrize("shape", [(4,), (2, 5), (3, 1, 2)], ids=str)
def test_each_channel_has_its_own_weights_and_a_point_has_one(form: str, shape: tuple[int, ...]) -> None:
    times = even(VP(), 7)
    right = written_out(VP(), times, start(shape), form)
    assert (ended(VP(), times, start(shape), form=form) - right).abs().max() < 1e-8 * (1 + float(right.abs().max()))


@FORMS
def test_coarse_and_fine_last_steps_of_the_released_form(form: str) -> None:
    """Ratios sigma'/sigma below 1/2 and above."""
    for high in (-3.6, 1.0, 12.0):
        times = even(VE(), 3, high=high)
        right = written_out(VE(), times, start(), form)
        assert (ended(VE(), times, start(), form=form) - right).abs().max() < 1e-8 * (1 + float(right.abs().max()))


@pytest.mark.parametrize("fixed", [(0.0, 1.0), (0.1, 0.8), (0.3, 0.5)])
@FORMS
def test_fixed_weights_replace_eta_and_zeta(form: str, fixed: tuple[float, float]) -> None:
    times = even(VP(), 8)
    right = written_out(VP(), times, start(), form, fixed)
    assert (ended(VP(), times, start(), form=form, fixed=fixed) - right).abs().max() < 1e-8


@FORMS
def test_for_a_constant_mean_the_consistent_form_is_ddim_and_the_released_is_not(form: str) -> None:
    """The differences of the consistent form are 0. The released form keeps a part of the mean in them."""

    class Still(Curved):
        def mean(self, x: Tensor, t: float) -> Tensor:
            return torch.full_like(x, 0.6)

    times = even(VE(), 6)
    run = [
        finish(drive(Still(VE()), s, start(), times, Rng(0, 3)))
        for s in (released if form == "released" else evodiff, ddim)
    ]
    assert bool((run[0] - run[1]).abs().max() < 1e-12) == (form == "consistent")


def test_the_projection_is_clipped_to_two() -> None:
    from softmix.sampler.evodiff import projection

    b = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    a = torch.tensor([[1.5, 1.5], [9.0, 9.0], [5.0, 5.0], [-7.0, -7.0]])
    assert projection(a, b)[:, 0].tolist() == [1.5, 2.0, 0.0, -2.0]
