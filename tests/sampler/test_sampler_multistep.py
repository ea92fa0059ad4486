"""Multistep solvers against the exponential rule written out, by adaptive quadrature."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from softmix.posterior import Implicit, Point, Posterior
from softmix.process import VE, VP, Flow, Gaussian, few
from softmix.rng import Rng
from softmix.sampler import (
    MultistepRule,
    Sampler,
    adams,
    ancestral,
    ddim,
    dpm_solver_2m,
    dpm_solver_3m,
    drive,
    multistep,
    sde_dpm_solver_2m,
    soft_adams,
    traits,
    unipc,
)
from softmix.sampler.average import weights
from softmix.sampler.drive import finish
from softmix.sampler.multistep import ALL

F64 = torch.float64
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)


class Curved:
    """A mean that no solver integrates exactly: a sine of x and of the clock."""

    def __init__(self, process: Gaussian):
        self.process, self.shape = process, (3,)

    def mean(self, x: Tensor, clock: float) -> Tensor:
        return (0.7 * x / (1 + math.exp(-clock)) + 0.5 * clock).sin()

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        return Point(self.mean(xt, float(self.process.logsnr(t)) / 2))


def levels(process: Gaussian, *logsnr: float, clean: bool = False) -> Tensor:
    times = process.time(torch.tensor(logsnr, dtype=F64))
    return torch.cat([times, torch.zeros(1, dtype=F64)]) if clean else times


def uneven(process: Gaussian, clean: bool = False) -> Tensor:
    return levels(process, -5.0, -4.2, -2.0, -1.1, 0.3, 0.9, 2.5, 3.0, clean=clean)


def start() -> Tensor:
    return Rng(0, 4).normal((4, 3), F64)


def ended(denoiser: object, sampler: Sampler, times: Tensor) -> Tensor:
    return finish(drive(denoiser, sampler, start(), times, Rng(5, 4)))  # type: ignore[arg-type]


# the rule, written out


def average(means: list[Tensor], nodes: list[float], end: float, rate: float) -> Tensor:
    """int_0^end e^(rate u) p(u) du / int_0^end e^(rate u) du of the polynomial p through the means at the nodes."""
    whole = quad(lambda u: math.exp(rate * (u - end)), 0, end)[0]
    total = torch.zeros_like(means[0])
    for k, mean in enumerate(means):
        others = [node for j, node in enumerate(nodes) if j != k]

        def line(u: float, k: int = k, others: list[float] = others) -> float:
            return math.exp(rate * (u - end)) * math.prod((u - b) / (nodes[k] - b) for b in others)

        total = total + quad(line, 0, end, epsabs=1e-13)[0] / whole * mean
    return total


def step(process: Gaussian, x: Tensor, mean: Tensor, t: Tensor, s: Tensor, z: Tensor | None) -> Tensor:
    """The exponential step with one mean: of the ODE, or with noise z of the reverse SDE."""
    alpha, sigma = float(process.alpha(s)), float(process.sigma(s))
    kept = sigma / float(process.sigma(t))
    if s == 0:
        return mean
    h = float(process.logsnr(s) - process.logsnr(t)) / 2
    if z is None:
        return kept * x + alpha * (1 - math.exp(-h)) * mean
    left = 1 - math.exp(-2 * h)
    return kept * math.exp(-h) * x + alpha * left * mean + sigma * math.sqrt(left) * z


def written_out(
    process: Gaussian,
    times: Tensor,
    order: int = 2,
    corrects: int = 0,
    half: str | None = None,
    settles: bool = False,
    noisy: bool = False,
) -> Tensor:
    """half : UniPC's shortcut, "bh1" or "bh2", in the place of the integral through two means."""
    model, rng, x = Curved(process), Rng(5, 4), start()
    clock = [float(process.logsnr(t)) / 2 for t in times]
    means: list[Tensor] = []
    rate = 2.0 if noisy else 1.0

    def through(i: int, order: int, newest: int) -> Tensor:
        h = clock[i + 1] - clock[i]
        if math.isinf(h) or order == 1:
            return means[newest]
        if order == 2 and half is not None:
            share = 0.5 if half == "bh2" else h / (1 - math.exp(-h)) / 2
            at = clock[i] + share * h
            slope = (means[newest] - means[newest - 1]) / (clock[newest] - clock[newest - 1])
            return means[newest - 1] + slope * (at - clock[newest - 1])
        some = range(newest - order + 1, newest + 1)
        return average([means[k] for k in some], [clock[k] - clock[i] for k in some], h, rate)

    before = x
    for i, (t, s) in enumerate(pairwise(times)):
        means.append(model.mean(x, clock[i]))
        if 0 < i <= corrects:
            most = min(order, len(clock) - i) if settles else order
            x = step(process, before, through(i - 1, min(most, i) + 1, i), times[i - 1], t, None)
        before = x
        most = min(order, len(clock) - 1 - i) if settles else order
        z = rng.normal(x.shape, F64) if noisy else None
        x = step(process, x, through(i, min(most, i + 1), i), t, s, z)
    return x


CASES: dict[str, tuple[Sampler, dict[str, object]]] = {
    "dpm-solver-2m": (dpm_solver_2m, {"half": "bh2"}),
    "dpm-solver-3m": (dpm_solver_3m, {"order": 3, "corrects": 1}),
    "adams": (adams, {"corrects": ALL}),
    "unipc": (unipc, {"corrects": ALL, "half": "bh2"}),
    "unipc of order 1": (partial(unipc, order=1), {"order": 1, "corrects": ALL, "half": "bh2"}),
    "unipc of order 3": (partial(unipc, order=3), {"order": 3, "corrects": ALL, "half": "bh2"}),
    "unipc by h": (partial(unipc, line="bh1"), {"corrects": ALL, "half": "bh1"}),
    "unipc, exact": (partial(unipc, line="exact"), {"corrects": ALL}),
    "unipc that settles": (
        partial(unipc, order=3, settles=True),
        {"order": 3, "corrects": ALL, "half": "bh2", "settles": True},
    ),
    "sde-dpm-solver-2m": (sde_dpm_solver_2m, {"half": "bh2", "noisy": True}),
    "multistep": (multistep, {}),
    "a rule of order 3": (partial(multistep, rule=MultistepRule(3)), {"order": 3}),
    "a rule that corrects twice": (partial(multistep, rule=MultistepRule(2, corrects=2)), {"corrects": 2}),
    "a rule of the SDE": (partial(multistep, rule=MultistepRule(2, eta=1.0)), {"noisy": True}),
    "a rule of order 3 of the SDE": (partial(multistep, rule=MultistepRule(3, eta=1.0)), {"order": 3, "noisy": True}),
}


@pytest.mark.parametrize("name", CASES)
@THREE
@pytest.mark.parametrize("clean", [False, True])
def test_each_solver_agrees_with_its_rule(process: Gaussian, name: str, clean: bool) -> None:
    sampler, rule = CASES[name]
    times = uneven(process, clean)
    right = written_out(process, times, **rule)  # type: ignore[arg-type]
    assert (ended(Curved(process), sampler, times) - right).abs().max() < 1e-9


def test_the_default_rule_is_a_predictor_through_two_means() -> None:
    assert MultistepRule() == MultistepRule(order=2, corrects=0, line="exact", settles=False, eta=0.0)


@THREE
def test_one_step_of_every_multistep_solver_is_that_of_ddim(process: Gaussian) -> None:
    times = levels(process, -2.0, 1.0)
    right = ended(Curved(process), ddim, times)
    for sampler in (dpm_solver_2m, dpm_solver_3m, adams, unipc, multistep, soft_adams):
        assert (ended(Curved(process), sampler, times) - right).abs().max() < 1e-12
    noisy = ended(Curved(process), ancestral, times)
    assert (ended(Curved(process), sde_dpm_solver_2m, times) - noisy).abs().max() < 1e-12


@THREE
def test_adams_is_exact_for_a_mean_that_is_a_parabola_of_the_clock(process: Gaussian) -> None:
    """From its second step on, which is corrected through three means. The error is that of the first step (two means)
    and of the last (no corrector). Shorter first and last steps make it smaller.
    """

    class Parabola(Curved):
        def mean(self, x: Tensor, clock: float) -> Tensor:
            return torch.full_like(x, 0.3 - 0.2 * clock + 0.1 * clock**2)

    def error(edge: float) -> float:
        inner = np.linspace(-3 + edge, 3 - edge, 6).tolist()
        times = levels(process, -3.0, *inner, 3.0)
        clock = (process.logsnr(times) / 2).tolist()
        h = clock[-1] - clock[0]
        mean = quad(lambda u: math.exp(u - h) * (0.3 - 0.2 * (clock[0] + u) + 0.1 * (clock[0] + u) ** 2), 0, h)[0]
        kept = float(process.sigma(times[-1]) / process.sigma(times[0]))
        right = kept * start() + float(process.alpha(times[-1])) * mean
        return float((ended(Parabola(process), adams, times) - right).abs().max())

    assert error(1e-3) < 1e-4 and error(0.5) > 1e-3


# weights


@pytest.mark.parametrize("rate", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("end", [0.05, 1.0, 9.0])
@pytest.mark.parametrize("nodes", [(-1.0, 0.0), (-1.5, -0.4, 0.0), (-1.0, 0.0, 1.0), (-3.0, -2.0, -0.5, 0.0)])
def test_weights_integrate_the_polynomial(nodes: tuple[float, ...], end: float, rate: float) -> None:
    found = weights(nodes, end, rate)
    whole = quad(lambda u: math.exp(rate * (u - end)), 0, end, epsabs=1e-14)[0]
    for power in range(len(nodes)):
        right = quad(lambda u, p=power: math.exp(rate * (u - end)) * u**p, 0, end, epsabs=1e-13)[0] / whole
        mine = sum(w * node**power for w, node in zip(found, nodes, strict=True))
        assert mine == pytest.approx(right, rel=1e-8, abs=1e-9)


# beliefs that are soft, or points


class Mixed(Curved):
    """Soft at high noise, with a mean or without; a point at low noise."""

    def __init__(self, process: Gaussian, until: float, has_mean: bool):
        super().__init__(process)
        self.until, self.has_mean = until, has_mean

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        point = super().__call__(xt, t)
        if float(self.process.logsnr(t)) > self.until:
            return point
        soft = Implicit(lambda eta: point.mean + 0.3 * eta, len(xt), (3,), xt)  # type: ignore[attr-defined]
        return soft.averaged(torch.zeros(1, 3)) if self.has_mean else soft


def test_soft_adams_takes_ddims_step_with_draws_and_then_adams() -> None:
    """Adams starts anew at the first point: no draw is used as an earlier mean."""
    process, times, rng = VP(), uneven(VP()), Rng(5, 4)
    model = Mixed(process, -1.5, False)
    x = start()
    for t, s in pairwise(times[:4]):
        x = process.bridge(x, model(x, t).sample(rng), t, s, rng, eta=0)
    right = finish(drive(Curved(process), adams, x, times[3:], rng))  # type: ignore[arg-type]
    assert (ended(model, soft_adams, times) - right).abs().max() < 1e-12


@pytest.mark.parametrize("steps, below, solved", [(7, 8, False), (8, 8, True), (3, 4, False), (4, 4, True)])
def test_soft_adams_takes_means_from_the_given_number_of_steps_on(steps: int, below: int, solved: bool) -> None:
    times = levels(VP(), *np.linspace(-5, 3, steps + 1).tolist())
    by_means = ended(Curved(VP()), adams, times)
    found = ended(Mixed(VP(), -1.5, True), partial(soft_adams, below=below), times)
    assert bool((found - by_means).abs().max() < 1e-12) == solved
    if below == 8:
        assert torch.equal(ended(Mixed(VP(), -1.5, True), soft_adams, times), found)


def test_soft_adams_draws_at_any_number_of_steps_without_a_mean() -> None:
    times = levels(VP(), *np.linspace(-5, 3, 13).tolist())
    assert ended(Mixed(VP(), -1.5, False), soft_adams, times).isfinite().all()


def test_the_grid_of_every_multistep_solver_is_few() -> None:
    for sampler in (multistep, dpm_solver_2m, dpm_solver_3m, unipc, adams, soft_adams, sde_dpm_solver_2m):
        assert traits(sampler).grid is few


def test_a_corrector_with_fresh_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="give corrects=0"):
        MultistepRule(corrects=1, eta=0.5)
