"""One-step solvers and pseudo numerical methods, against the formulas of their papers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from softmix.denoiser import CallCounter
from softmix.posterior import Point, Posterior
from softmix.process import VE, VP, Flow, Gaussian, Table, few
from softmix.rng import Rng
from softmix.sampler import (
    Ask,
    Sampler,
    adams,
    ddim,
    dpm_solver_2m,
    dpm_solver_2s,
    dpm_solver_3s,
    dpm_solver_v3,
    drive,
    evodiff,
    f_pndm,
    fon,
    heun,
    plms,
    s_pndm,
    traits,
    unipc,
)
from softmix.sampler.drive import finish

F64 = torch.float64
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)


class Curved:
    def __init__(self, process: Gaussian):
        self.process, self.shape = process, (3,)

    def mean(self, x: Tensor, t: float) -> Tensor:
        clock = float(self.process.logsnr(t)) / 2
        return (0.7 * x / (1 + math.exp(-clock)) + 0.5 * clock).sin()

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        return Point(self.mean(xt, float(t)))


class Line(Curved):
    """A mean that is a straight line in log(alpha / sigma), for any x."""

    def mean(self, x: Tensor, t: float) -> Tensor:
        return torch.full_like(x, 0.4 + 0.3 * float(self.process.logsnr(t)) / 2)


def levels(process: Gaussian, *logsnr: float) -> Tensor:
    return process.time(torch.tensor(logsnr, dtype=F64))


def start() -> Tensor:
    return Rng(0, 4).normal((4, 3), F64)


def asked(denoiser: Curved, sampler: Sampler, times: Tensor) -> tuple[list[Ask], Tensor]:
    run, asks = sampler(denoiser.process, start(), times, Rng(5, 4)), list[Ask]()
    try:
        asks.append(next(run))
        while True:
            asks.append(run.send(denoiser(asks[-1].x, asks[-1].t)))
    except StopIteration as end:
        return asks, end.value


def ended(denoiser: Curved, sampler: Sampler, times: Tensor) -> Tensor:
    return finish(drive(denoiser, sampler, start(), times, Rng(5, 4)))


def line_flow(process: Gaussian, x: Tensor, t: float, s: float) -> Tensor:
    """(sigma_s / sigma_t) x + alpha_s int_0^h e^(u-h) (m + k u) du, in closed form for `Line`."""
    low, high = float(process.logsnr(t)) / 2, float(process.logsnr(s)) / 2
    h, m, k = high - low, 0.4 + 0.3 * low, 0.3
    integral = m * (1 - math.exp(-h)) + k * (h - 1 + math.exp(-h))
    return float(process.sigma(s) / process.sigma(t)) * x + float(process.alpha(s)) * integral


# heun


@THREE
def test_heun_is_improved_euler_in_the_angle(process: Gaussian) -> None:
    """With (alpha, sigma) = r (cos phi, sin phi), y = x / r and dy/dphi = (alpha eps - sigma mean) / r."""
    model, x, times = Curved(process), start(), levels(process, -4.0, -2.5, 0.5, 3.0)

    def parts(t: float) -> tuple[float, float, float, float]:
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        return alpha, sigma, math.hypot(alpha, sigma), math.atan2(sigma, alpha)

    for t, s in pairwise(times.tolist()):
        (a, b, r, phi), (c, d, q, psi) = parts(t), parts(s)
        mean = model.mean(x, t)
        eps = (x - a * mean) / b
        guess = c * mean + d * eps
        mean_s = model.mean(guess, s)
        eps_s = (guess - c * mean_s) / d
        slope = ((a * eps - b * mean) / r + (c * eps_s - d * mean_s) / q) / 2
        x = q * (x / r + (psi - phi) * slope)
    assert (ended(model, heun, times) - x).abs().max() < 1e-10


# singlestep


@THREE
def test_2s_steps_with_the_mean_at_the_middle_of_the_clock(process: Gaussian) -> None:
    model, times = Curved(process), levels(process, -3.0, 1.0)
    half = float(process.time(-1.0))
    asks, end = asked(model, dpm_solver_2s, times)
    guess = process.transfer(start(), model.mean(start(), float(times[0])), float(times[0]), half)
    assert float(asks[1].t) == pytest.approx(half, abs=1e-12) and (asks[1].x - guess).abs().max() < 1e-10
    right = process.transfer(start(), model.mean(guess, half), float(times[0]), float(times[1]))
    assert (end - right).abs().max() < 1e-10


@THREE
def test_3s_evaluates_at_a_third_and_two_thirds_of_the_clock(process: Gaussian) -> None:
    asks, _ = asked(Curved(process), dpm_solver_3s, levels(process, -3.0, 3.0))
    found = [float(process.logsnr(ask.t)) for ask in asks]
    assert found == pytest.approx([-3.0, -1.0, 1.0], abs=1e-9)


@THREE
def test_3s_is_exact_for_a_mean_that_is_a_line_of_the_clock(process: Gaussian) -> None:
    """Its third question is on the exact path, and so is its end. Its second question is not."""
    times = levels(process, -3.0, 3.0)
    asks, end = asked(Line(process), dpm_solver_3s, times)
    places = [line_flow(process, start(), float(times[0]), float(ask.t)) for ask in asks[1:]]
    assert (asks[2].x - places[1]).abs().max() < 1e-9 and (asks[1].x - places[0]).abs().max() > 1e-4
    assert (end - line_flow(process, start(), *times.tolist())).abs().max() < 1e-9


# pseudo methods


RULES = {1: (1.0,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


def pseudo(model: Curved, times: Tensor, order: int, begin: str) -> Tensor:
    """Liu et al. 2022: the noise by Adams-Bashforth coefficients, or by a pseudo start, and the step of DDIM."""
    process, x = model.process, start()
    known: list[Tensor] = []

    def noise(x: Tensor, t: float) -> Tensor:
        return (x - float(process.alpha(t)) * model.mean(x, t)) / float(process.sigma(t))

    def move(x: Tensor, noise: Tensor, t: float, s: float) -> Tensor:
        clean = (x - float(process.sigma(t)) * noise) / float(process.alpha(t))
        return float(process.alpha(s)) * clean + float(process.sigma(s)) * noise

    for i, (t, s) in enumerate(pairwise(times.tolist())):
        first = noise(x, t)
        known = [first, *known][:order]
        if begin == "euler" and i < 1:
            change = (first + noise(move(x, first, t, s), s)) / 2
        elif begin == "runge" and i < 3:
            half = (t + s) / 2
            second = noise(move(x, first, t, half), half)
            third = noise(move(x, second, t, half), half)
            fourth = noise(move(x, third, t, s), s)
            change = (first + 2 * second + 2 * third + fourth) / 6
        else:
            change = sum(c * e for c, e in zip(RULES[len(known)], known, strict=True))  # type: ignore[assignment]
        x = move(x, change, t, s)
    return x


@THREE
@pytest.mark.parametrize(
    "sampler, order, begin",
    [
        (plms, 4, "euler"),
        (partial(plms, order=3), 3, "euler"),
        (partial(plms, order=2), 2, "euler"),
        (partial(plms, order=1), 1, "euler"),
        (s_pndm, 2, "euler"),
        (f_pndm, 4, "runge"),
    ],
    ids=["plms", "plms 3", "plms 2", "plms 1", "s-pndm", "f-pndm"],
)
def test_each_pseudo_method_agrees_with_its_paper(process: Gaussian, sampler: Sampler, order: int, begin: str) -> None:
    times = levels(process, -4.0, -3.2, -2.0, -1.0, 0.1, 1.0, 2.2, 3.0)
    assert (ended(Curved(process), sampler, times) - pseudo(Curved(process), times, order, begin)).abs().max() < 1e-9


@THREE
@pytest.mark.parametrize("sampler", [plms, s_pndm, f_pndm, fon], ids=lambda s: traits(s).name)
def test_a_last_step_to_the_clean_image_is_the_mean(process: Gaussian, sampler: Sampler) -> None:
    model = Curved(process)
    times = levels(process, -4.0, -3.2, -2.0, -1.0, 0.1, 1.0)
    before = ended(model, sampler, times)
    end = ended(model, sampler, torch.cat([times, times.new_zeros(1)]))
    assert (end - model.mean(before, float(times[-1]))).abs().max() < 1e-10


@pytest.mark.parametrize("process", [VP(), Flow()], ids=str)
def test_fon_is_exact_for_a_path_of_fourth_degree_in_time(process: Gaussian) -> None:
    """dx/dt = alpha' m + sigma' eps, with a mean that makes this 4 t^3 for any x: the rules of Runge-Kutta and of
    Adams-Bashforth through four make no error.
    """

    class Polynomial(Curved):
        def mean(self, x: Tensor, t: float) -> Tensor:
            alpha, sigma = process.alpha, process.sigma
            with torch.enable_grad():
                at = torch.tensor(t, dtype=F64, requires_grad=True)
                da, ds = (float(torch.autograd.grad(part(at), at)[0]) for part in (alpha, sigma))
            a, b = float(alpha(t)), float(sigma(t))
            # alpha' m + sigma' (x - alpha m) / sigma = 4 t^3
            return (4 * t**3 - ds / b * x) / (da - ds * a / b)

    times = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], dtype=F64)
    end = ended(Polynomial(process), fon, times)
    assert (end - (start() + 0.3**4 - 0.9**4)).abs().max() < 1e-9


def test_fon_refuses_a_time_without_any_signal() -> None:
    dark = Flow(end=0.0)
    with pytest.raises(ValueError, match="begin later"):
        ended(Curved(dark), fon, torch.tensor([1.0, 0.7, 0.4, 0.2], dtype=F64))


# traits


DECLARED: dict[str, tuple[Sampler, int, Callable[[int], int]]] = {
    "ddim": (ddim, 1, lambda n: n),
    "heun": (heun, 1, lambda n: 2 * n - 1),
    "dpm-solver-2s": (dpm_solver_2s, 1, lambda n: 2 * n - 1),
    "dpm-solver-3s": (dpm_solver_3s, 1, lambda n: 3 * n - 2),
    "adams": (adams, 1, lambda n: n),
    "evodiff": (evodiff, 1, lambda n: n),
    "plms": (plms, 4, lambda n: n + 1),
    "s-pndm": (s_pndm, 4, lambda n: n + 1),
    "f-pndm": (f_pndm, 5, lambda n: n + 9),
    "fon": (fon, 20, lambda n: n + 9),
}


@pytest.mark.parametrize("name", DECLARED)
def test_pseudo_methods_declare_their_name_least_steps_and_cost(name: str) -> None:
    sampler, least, cost = DECLARED[name]
    known = traits(sampler)
    assert known.name == name and known.least == least and known.evaluations(24) == cost(24)
    counted = CallCounter(Curved(VP()))
    finish(drive(counted, sampler, start(), few(VP(), 24), Rng(0, 4)))
    assert counted.calls == cost(24)


# no signal at the beginning


@pytest.mark.parametrize(
    "sampler", [ddim, adams, dpm_solver_2m, unipc, heun, dpm_solver_2s, dpm_solver_3s, dpm_solver_v3, evodiff]
)
def test_a_table_that_ends_without_signal_is_solved(sampler: Sampler) -> None:
    """One mean m at all times: x_s = alpha_s m + (sigma_s / sigma_1) x for every solver. The clock has no signal below
    2^-24, so that the error is 2^-12. Heun is exact in the angle only, and ends in the mean.
    """
    dark = Table(torch.tensor([0.9, 0.6, 0.3, 0.05, 0.0], dtype=F64))

    class Still(Curved):
        def mean(self, x: Tensor, t: float) -> Tensor:
            return torch.full_like(x, 0.6)

    times = torch.tensor([1.0, 0.8, 0.4, 0.2], dtype=F64)
    end, last = (ended(Still(dark), sampler, grid) for grid in (times, torch.cat([times, times.new_zeros(1)])))
    right = float(dark.alpha(0.2)) * 0.6 + float(dark.sigma(0.2)) * start()
    assert (end - right).abs().max() < (0.1 if sampler is heun else 1e-3)
    assert (last - 0.6).abs().max() < 1e-12
