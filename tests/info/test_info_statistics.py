"""The statistics of DPM-Solver-v3, on models with statistics in closed form."""

from __future__ import annotations

import inspect
import math
from functools import partial

import pytest
import torch
from torch import Tensor

from softmix.info import fit_statistics
from softmix.info.statistics import _smooth, _within
from softmix.posterior import Normal, Point, Posterior
from softmix.process import VE, VP, Flow, Gaussian, Table
from softmix.rng import Rng
from softmix.sampler import dpm_solver_v3, drive
from softmix.sampler.drive import finish

F64 = torch.float64
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)


def start() -> Tensor:
    return Rng(0, 4).normal((4, 2), F64)


# statistics


class Mixing:
    """D_i = a(clock) y_i plus a function of the other element, y = x / alpha: diag dD/dy = a for any data.

    Elements 0 and 1 are crossed: D_0 = a y_0 + c sin(k y_1), D_1 = a y_1 + d. It records its conditions and times.
    """

    def __init__(self, process: Gaussian, c: float = 0.5, k: float = 1.0, var: bool = False):
        self.process, self.c, self.k, self.var = process, c, k, var
        self.asked: list[tuple[float, Tensor | None]] = []

    def a(self, clock: float) -> float:
        return 0.4 + 0.05 * clock

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        self.asked.append((float(t), cond))
        clock, alpha, sigma = (float(part(t)) for part in (self.process.logsnr, self.process.alpha, self.process.sigma))
        y = xt / alpha
        mean = self.a(clock / 2) * y + torch.stack([self.c * (self.k * y[:, 1]).sin(), 0 * y[:, 1] + 0.7], 1)
        # dD/dy = snr times the variance
        var = torch.full((1,), self.a(clock / 2) * (sigma / alpha) ** 2, dtype=F64)
        return Normal(mean, var) if self.var else Point(mean)


def data(n: int = 300) -> Tensor:
    return Rng(1, n).normal((n, 2), F64) * 0.8 + torch.tensor([0.5, 0.9], dtype=F64)


def by_hand(model: Mixing, clock: float, n: int = 300) -> tuple[float, float]:
    """s and b of element 0: f = -c sin(k y_1), f' = -c k cos(k y_1) (D_1 - y_1), regressed over the items."""
    t = float(model.process.time(2 * clock))
    y = model.process.noise(data(n), t, Rng(2, n)).xt / float(model.process.alpha(t))
    f = -model.c * (model.k * y[:, 1]).sin()
    rate = -model.c * model.k * (model.k * y[:, 1]).cos() * (model.a(clock) * y[:, 1] + 0.7 - y[:, 1])
    s = float(((f - f.mean()) * (rate - rate.mean())).mean() / (f - f.mean()).square().mean())
    s = max(-4.0, min(4.0, s))
    return s, float(rate.mean() - s * f.mean())


@THREE
@pytest.mark.parametrize("var", [False, True])
def test_statistics_agree_with_the_closed_form(process: Gaussian, var: bool) -> None:
    """l = 1 - a; s and b by the closed form of the flow, up to differences over 0.04 of the clock."""
    model = Mixing(process, var=var)
    found = fit_statistics(model, data(), Rng(2, 300), nodes=9, logsnr=(0.0, 4.0))
    assert torch.allclose(found.clock, torch.linspace(0, 2, 9, dtype=F64))
    slopes = torch.tensor([1 - model.a(float(clock)) for clock in found.clock], dtype=F64)
    # a difference of D_0 along a random direction sees the crossed element too, with a random sign
    assert torch.allclose(found.l[:, 0], slopes, atol=1e-9 if var else 0.08)
    assert torch.allclose(found.l[:, 1], slopes, atol=1e-9)
    if not var:
        return
    for k, clock in enumerate(found.clock.tolist()):
        s, b = by_hand(model, clock)
        assert float(found.s[k, 0]) == pytest.approx(s, abs=2e-3) and float(found.b[k, 0]) == pytest.approx(b, abs=2e-3)
        # f of the other element is -0.7 for all items: no s, and no change
        assert float(found.s[k, 1]) == 0 and float(found.b[k, 1]) == pytest.approx(0.0, abs=1e-4)


def test_a_large_s_is_clipped_to_four() -> None:
    """sin(k y) / k at small k is y: then s = a - 1, here -6 and 6."""
    for a in (-5.0, 7.0):
        model = Mixing(VE(), c=1000.0, k=1e-3, var=True)
        model.a = lambda clock, a=a: a  # type: ignore[method-assign]
        found = fit_statistics(model, data(), Rng(2, 300), nodes=3, logsnr=(2.0, 6.0))
        right = [by_hand(model, float(clock)) for clock in found.clock]
        assert found.s[:, 0].tolist() == [s for s, _ in right] == [math.copysign(4.0, a)] * 3
        assert found.b[:, 0].tolist() == pytest.approx([b for _, b in right], rel=1e-2)


def test_the_defaults_are_those_of_the_documentation() -> None:
    found = fit_statistics(Mixing(VE()), data(4), Rng(2, 4))
    assert len(found.clock) == 120 and found.clock[[0, -1]].tolist() == pytest.approx([-4.32, 4.5], abs=0.1)
    assert 2 * float(found.clock[-1]) == 9.0
    cosine = fit_statistics(Mixing(VP()), data(4), Rng(2, 4), nodes=3)
    assert (2 * cosine.clock).tolist() == pytest.approx([-9.0, 0.0, 9.0])
    assert inspect.signature(fit_statistics).parameters["batch"].default == 256


@pytest.mark.parametrize("var", [False, True])
def test_every_evaluation_has_the_conditions_of_its_items(var: bool) -> None:
    model, cond = Mixing(VP(), var=var), torch.arange(10)
    fit_statistics(model, data(10), Rng(2, 10), nodes=3, cond=cond, batch=4)
    parts = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(model.asked) == 3 * 3 * (4 if var else 6)
    assert all(given.tolist() in parts for _, given in model.asked)  # type: ignore[union-attr]


def test_the_result_does_not_depend_on_the_batch_size() -> None:
    whole, parts = (fit_statistics(Mixing(VP()), data(10), Rng(2, 10), nodes=4, batch=b) for b in (10, 3))
    for name in ("l", "s", "b"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=1e-9)


def test_differences_stay_inside_the_range_of_the_process() -> None:
    """The room is 0.04 in logsnr: differences go 0.02 of the clock to either side."""
    assert _within(VP(), -9.0, 9.0) == (-9.0, 9.0)
    assert _within(VP(), -30.0, 30.0) == (pytest.approx(-19.96), 30.0)
    table = Table(torch.tensor([0.9, 0.5, 0.1], dtype=F64))
    low, high = _within(table, -30.0, 30.0)
    assert low == pytest.approx(math.log(0.1 / 0.9) + 0.04) and high == pytest.approx(math.log(0.9 / 0.1) - 0.04)
    model = Mixing(VP())
    fit_statistics(model, data(4), Rng(2, 4), nodes=3, logsnr=(-4.0, 4.0))
    clocks = sorted({round(float(VP().logsnr(t)) / 2, 6) for t, _ in model.asked})
    assert clocks == pytest.approx([-2.02, -2.0, -1.98, -0.02, 0.0, 0.02, 1.98, 2.0, 2.02], abs=1e-6)


def test_fewer_than_three_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        fit_statistics(Mixing(VP()), data(4), Rng(2, 4), nodes=2)
    assert len(fit_statistics(Mixing(VP()), data(4), Rng(2, 4), nodes=3).clock) == 3


def test_the_slope_is_smoothed_over_five_neighbours_to_either_side() -> None:
    """The noise of one level is spread over eleven; a line stays a line inside."""
    values = torch.zeros(31, 2, dtype=F64)
    values[15] = 11.0
    right = torch.zeros(31, 2, dtype=F64)
    right[10:21] = 1.0
    assert torch.allclose(_smooth(values, 5), right)
    clock = torch.linspace(-3, 3, 31, dtype=F64)
    bent = Mixing(VP(), var=True)
    bent.a = lambda clock: 0.4 + 0.02 * clock**2  # type: ignore[method-assign]
    found = fit_statistics(bent, data(60), Rng(2, 60), nodes=31, logsnr=(-6.0, 6.0))
    slope = -0.04 * clock
    t = [float(VP().time(2 * float(at))) for at in clock[[0, 5, 30]]]
    y = torch.stack([VP().noise(data(60), s, Rng(2, 60)).xt[:, 1].mean() / VP().alpha(s) for s in t])
    # f of element 1 is -0.7, so that b is (the slope - the smoothed slope) times E y
    ends = torch.stack([slope[:6].mean(), slope[:11].mean(), slope[-6:].mean()]) - slope[[0, 5, 30]]
    assert torch.allclose(found.b[[0, 5, 30], 1], -ends * y, atol=2e-2)


def test_without_a_variance_l_is_measured_by_differences_of_a_fiftieth_of_sigma() -> None:
    """For D = sin y in each element, l is 1 - E cos y over the same items, to 3e-4."""

    class Bent(Mixing):
        def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
            return Point((xt / float(self.process.alpha(t))).sin())

    found = fit_statistics(Bent(VP()), data(), Rng(2, 300), nodes=3, logsnr=(-1.0, 3.0))
    for k, clock in enumerate(found.clock.tolist()):
        t = float(VP().time(2 * clock))
        y = VP().noise(data(), t, Rng(2, 300)).xt / VP().alpha(t)
        assert torch.allclose(found.l[k], 1 - y.cos().mean(0), atol=3e-4)


def test_statistics_work_with_a_table_that_ends_without_signal() -> None:
    """The solver takes alpha from the clock, which is finite there."""
    dark = Table(torch.tensor([0.9, 0.6, 0.3, 0.05, 0.0], dtype=F64))
    found = fit_statistics(Mixing(dark, var=True), data(50), Rng(2, 50), nodes=5)
    run = partial(dpm_solver_v3, statistics=found)
    grid = torch.tensor([1.0, 0.8, 0.4, 0.2, 0.0], dtype=F64)
    assert finish(drive(Mixing(VP()), run, start(), VP().grid(4), Rng(0, 4))).isfinite().all()

    class Safe(Mixing):
        def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
            return Point(0 * xt + 0.4)

    assert (finish(drive(Safe(dark), run, start(), grid, Rng(0, 4))) - 0.4).abs().max() < 1e-9
