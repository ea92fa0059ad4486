"""DPM-Solver-v3 on models for which its parameterisation is exact, and statistics with closed forms."""

from __future__ import annotations

import math
from functools import cache, partial

import numpy as np
import pytest
import torch
from torch import Tensor

from softmix.posterior import Point, Posterior
from softmix.process import VE, VP, Flow, Gaussian, Table, uniform
from softmix.rng import Rng
from softmix.sampler import Statistics, dpm_solver_v3, drive, traits
from softmix.sampler.drive import finish
from softmix.sampler.v3 import statistics_grid

F64 = torch.float64
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)


def levels(process: Gaussian, *clock: float) -> Tensor:
    """The times at these values of log(alpha / sigma)."""
    return process.time(2 * torch.tensor(clock, dtype=F64))


# its grid


@THREE
@pytest.mark.parametrize("n", [2, 3, 6, 9])
def test_its_grid_goes_from_a_logsnr_of_minus_8_8_to_n_and_at_most_6(process: Gaussian, n: int) -> None:
    times = statistics_grid(process, n)
    # VE's own end is at -8.76
    first, last = max(-8.8, float(process.logsnr(1.0))), min(6.0, n)
    right = torch.linspace(first, last, n, dtype=F64, device="cpu")  # grids are on the CPU
    assert len(times) == n + 1 and times[-1] == 0 and traits(dpm_solver_v3).grid is statistics_grid
    assert (process.logsnr(times[:-1]) - right).abs().max() < 1e-6


def test_its_grid_of_one_step_and_of_a_process_that_ends_early() -> None:
    assert torch.equal(statistics_grid(VP(), 1), uniform(VP(), 1))
    bright = Table(torch.linspace(0.999, 0.99, 50, dtype=F64))
    first = float(bright.logsnr(1.0))
    right = torch.linspace(first, first + 1, 3, dtype=F64, device="cpu")
    assert (bright.logsnr(statistics_grid(bright, 3)[:-1]) - right).abs().max() < 1e-6


# models that are known


class Known:
    """D = (1 - l) x / alpha - f for any x; l and f are functions of the clock, one for each element."""

    def __init__(self, process: Gaussian, l: object, f: object):  # noqa: E741
        self.process, self.l, self.f = process, l, f

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        clock = float(self.process.logsnr(t)) / 2
        return Point((1 - self.l(clock)) * xt / self.process.alpha(t) - self.f(clock))  # type: ignore[operator]

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """dy/dclock = D - y = -l y - f for y = x / alpha: y_s = e^-L y_t - int e^-(L(s) - L(u)) f(u) du."""
        process = self.process
        low, high = (float(process.logsnr(time)) / 2 for time in (t, s))
        fed = integral(lambda u: (-integral(self.l, u, high)).exp() * self.f(u), low, high)  # type: ignore[operator]
        kept = (-integral(self.l, low, high)).exp()
        return float(process.alpha(s)) * (kept * x / float(process.alpha(t)) - fed)


PLACES, SHARES = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(30))


def integral(function: object, low: float, high: float) -> Tensor:
    """By the Gauss-Legendre rule of 30 nodes; exact for l, a straight line."""
    places = (low + (PLACES + 1) / 2 * (high - low)).tolist()
    return (high - low) / 2 * (SHARES @ torch.stack([function(u) for u in places]))  # type: ignore[operator]


# without a corrector, and with one through all f
PLAIN, CORRECTED = "no", "full"
LOW, HIGH = -3.0, 3.0
SHARE = lambda clock: (clock - LOW) / (HIGH - LOW)  # noqa: E731
L = (torch.tensor([0.9, 0.7], dtype=F64), torch.tensor([0.1, 0.4], dtype=F64))
S = (torch.tensor([0.5, -0.6], dtype=F64), torch.tensor([-0.3, 0.8], dtype=F64))
B = (torch.tensor([0.2, -0.4], dtype=F64), torch.tensor([0.6, 0.1], dtype=F64))
NONE = torch.zeros(2, 2, dtype=F64)


def between(ends: tuple[Tensor, Tensor], clock: float) -> Tensor:
    return torch.lerp(*ends, SHARE(clock))


def linear_statistics() -> tuple[Statistics, object]:
    """Statistics that are straight lines of the clock, and the f with f' = s f + b."""
    found = Statistics(torch.tensor([LOW, HIGH], dtype=F64), *(torch.stack(ends) for ends in (L, S, B)))

    def f(clock: float) -> Tensor:
        grown = lambda low: integral(partial(between, S), low, clock).exp()  # noqa: E731
        fed = integral(lambda u: grown(u) * between(B, u), LOW, clock)
        return grown(LOW) * torch.tensor([0.3, -0.5], dtype=F64) + fed

    return found, cache(f)


def start() -> Tensor:
    return Rng(0, 4).normal((4, 2), F64)


def ended(model: Known, times: Tensor, **options: object) -> Tensor:
    return finish(drive(model, partial(dpm_solver_v3, **options), start(), times, Rng(0, 4)))  # type: ignore[arg-type]


@THREE
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_it_is_exact_for_a_model_that_its_statistics_describe(process: Gaussian, order: int, steps: int) -> None:
    """f' = s f + b: g is then a constant, for any order and any number of steps."""
    found, f = linear_statistics()
    model = Known(process, partial(between, L), f)
    times = levels(process, *torch.linspace(-2.9, 2.8, steps + 1).tolist())
    right = model.flow(start(), times[0], times[-1])
    assert (ended(model, times, statistics=found, order=order) - right).abs().max() < 1e-8
    assert (ended(model, times, order=order) - right).abs().max() > 1e-3


@THREE
def test_its_polynomial_has_the_degree_of_its_order_less_one(process: Gaussian) -> None:
    """With s = b = 0, g is f. A line of the clock is integrated exactly by order 2 and above, once two values are
    known. The first step, with one value, is so short that it makes no error.
    """
    found = Statistics(torch.tensor([LOW, HIGH], dtype=F64), torch.stack(L), NONE, NONE)
    f = {
        2: lambda clock: torch.full((2,), 0.3 + 0.4 * clock, dtype=F64),
        3: lambda clock: torch.full((2,), 0.3 + 0.4 * clock**2, dtype=F64),
    }
    for degree, curve in f.items():
        model = Known(process, partial(between, L), curve)
        times = levels(process, -2.0, -1.9999, -1.9998, 0.0, 2.0)
        right = model.flow(start(), times[0], times[-1])
        errors = [float((ended(model, times, statistics=found, order=p) - right).abs().max()) for p in (1, 2, 3)]
        assert all((error < 1e-6) == (p >= degree) for p, error in zip((1, 2, 3), errors, strict=True)), errors


@THREE
def test_its_default_order_is_two(process: Gaussian) -> None:
    model = Known(process, partial(between, L), lambda clock: torch.full((2,), math.sin(clock)))
    times = levels(process, *torch.linspace(-2, 2, 7).tolist())
    assert torch.equal(ended(model, times), ended(model, times, order=2))


@THREE
def test_a_corrected_step_keeps_its_f(process: Gaussian) -> None:
    """The mean changes with x. For an f that is a line for any x every corrected step is exact, and so is a last step
    through two values. Then the whole is exact, though the first step has one f.
    """
    found = Statistics(torch.tensor([LOW, HIGH], dtype=F64), torch.stack(L), NONE, NONE)
    model = Known(
        process, partial(between, L), lambda clock: torch.tensor([0.3 + 0.4 * clock, -0.2 * clock], dtype=F64)
    )
    times = levels(process, -2.0, -1.0, 0.5, 2.0)
    right = model.flow(start(), times[0], times[-1])
    assert (ended(model, times, statistics=found, corrects=CORRECTED) - right).abs().max() < 1e-8
    assert (ended(model, times, statistics=found) - right).abs().max() > 1e-4


@THREE
def test_it_does_not_correct_by_default(process: Gaussian) -> None:
    model = Known(process, partial(between, L), lambda clock: torch.full((2,), math.sin(clock)))
    times = levels(process, *torch.linspace(-2, 2, 5).tolist())
    assert torch.equal(ended(model, times), ended(model, times, corrects=PLAIN))
    assert not torch.allclose(ended(model, times), ended(model, times, corrects=CORRECTED))


@THREE
def test_a_last_step_to_the_clean_image_is_the_mean(process: Gaussian) -> None:
    found, f = linear_statistics()
    model = Known(process, partial(between, L), f)
    times = levels(process, -2.0, 0.0, 2.0)
    x = model.flow(start(), times[0], times[-1])
    end = ended(model, torch.cat([times, times.new_zeros(1)]), statistics=found)
    assert (end - model(x, times[-1]).mean).abs().max() < 1e-8  # type: ignore[attr-defined]


# statistics, as a table


def test_statistics_are_linear_between_their_levels() -> None:
    found, _ = linear_statistics()
    for clock in (LOW, -1.7, 0.4, HIGH):
        l, s, b = found.at(torch.tensor([clock], dtype=F64))  # noqa: E741
        for part, ends in ((l, L), (s, S), (b, B)):
            assert torch.allclose(part[0], between(ends, clock), rtol=1e-12)


def test_statistics_outside_of_their_levels() -> None:
    """Before the first level l is 1, after the last it is constant; s and b are 0 on both sides."""
    found, _ = linear_statistics()
    l, s, b = found.at(torch.tensor([LOW - 1e-6, HIGH + 1e-6], dtype=F64))  # noqa: E741
    assert torch.equal(l[0], torch.ones(2, dtype=F64)) and torch.allclose(l[1], L[1])
    assert not s.any() and not b.any()
    l, s, _ = found.at(torch.tensor([LOW - 1e-12, HIGH + 1e-12], dtype=F64))  # noqa: E741
    assert torch.allclose(l, torch.stack(L)) and torch.allclose(s, torch.stack(S))
