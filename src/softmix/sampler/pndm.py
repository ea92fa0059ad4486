"""The room of samplers: pseudo numerical methods, which combine estimates of the noise and then take DDIM's step."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..posterior import HasMean, Posterior, need
from ..process import VP, Gaussian
from ..rng import Rng
from ..shape import column
from .contract import Ask, declare
from .multistep import averaged

Asking = Generator[Ask, Posterior, Tensor]
Estimate = Callable[[Tensor, Tensor, Tensor], Tensor]
Move = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def chain(process: Gaussian, n: int) -> Tensor:
    """The noise levels of n steps through DDPM's chain (Ho et al. 2020): even from a logsnr of -10 to its first step of
    1000, and that one.

    These methods leave the mean for the noise: an error of the noise comes back sigma / alpha times as large, and on
    even steps of a cosine schedule the first one, from where that is 150, is too long for them.
    """
    ddpm = VP("linear")
    first = float(ddpm.time(max(ddpm.logsnr(1.0), process.logsnr(1.0))))
    times = process.time(ddpm.logsnr(torch.linspace(first, 0.001, n, dtype=torch.float64)))
    return torch.cat([times, times.new_zeros(1)])


@declare("plms", order=2, evaluations=lambda n: n + min(n - 1, 1), grid=chain, least=4)
def plms(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, order: int = 4) -> Asking:
    """Pseudo linear multistep: DDIM's step with the noise that Adams' and Bashforth's rule makes of the last four
    estimates, begun by improved Euler. What Stable Diffusion was first sampled with (diffusers' `skip_prk_steps`).

    A last step to t = 0 is DDIM's. order : of the rule; 2 is the paper's S-PNDM. The rule averages the noise over the
    steps where the ODE wants it over sigma / alpha, so that the whole is of second order for any.
    Source: Liu et al., "Pseudo numerical methods for diffusion models on manifolds", ICLR 2022, section 3.
    """
    return (yield from _linear(x, grid, _places(grid), "plms", order, _euler, *_pseudo(process, rng)))


@declare("s-pndm", order=2, evaluations=lambda n: n + min(n - 1, 1), grid=chain, least=4)
def s_pndm(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Asking:
    """S-PNDM: `plms` through two estimates."""
    return (yield from _linear(x, grid, _places(grid), "s-pndm", 2, _euler, *_pseudo(process, rng)))


@declare("f-pndm", order=2, evaluations=lambda n: n + 3 * min(n - 1, 3), grid=chain, least=5)
def f_pndm(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Asking:
    """F-PNDM: pseudo Runge-Kutta for three steps, four estimates each, then pseudo linear multistep through four.

    Below some 20 steps it loses to DDIM at equal evaluations.
    Source: Liu et al., "Pseudo numerical methods for diffusion models on manifolds", ICLR 2022, algorithm 2.
    """
    return (yield from _linear(x, grid, _places(grid), "f-pndm", 4, _runge_kutta, *_pseudo(process, rng)))


@declare("fon", order=4, evaluations=lambda n: n + 3 * min(n - 1, 3), least=20)
def fon(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Asking:
    """The classical fourth-order rule that PNDM is set against: Adams and Bashforth, begun by Runge and Kutta, on

        dx/dt = alpha' mean + sigma' noise.

    The authors' control takes differences over one of a thousand steps for the derivative, and stops at their
    error; this takes the derivative.
    Source: Liu et al., ICLR 2022, "FON".
    """

    def velocity(x: Tensor, mean: Tensor, t: Tensor) -> Tensor:
        _lit(process, t)
        noise = _noise(process, x, mean, t)
        return column(_rate(process.alpha, t), x) * mean + column(_rate(process.sigma, t), x) * noise

    def move(x: Tensor, change: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return x + column(s - t, x) * change

    return (yield from _linear(x, grid, grid.tolist(), "fon", 4, _runge_kutta, velocity, move))


def _rate(part: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    with torch.enable_grad():
        at = t.detach().clone().requires_grad_()
        value = part(at)
        # a constant, such as VE's alpha, knows no t
        return torch.autograd.grad(value, at)[0] if value.requires_grad else torch.zeros_like(at)


def _pseudo(process: Gaussian, rng: Rng) -> tuple[Estimate, Move]:
    """The estimate is of the noise, and a move by it is DDIM's."""

    def move(x: Tensor, noise: Tensor, t: Tensor, s: Tensor) -> Tensor:
        _lit(process, t)
        clean = (x - column(process.sigma(t), x) * noise) / column(process.alpha(t), x)
        return process.bridge(x, clean, t, s, rng, eta=0)

    return partial(_noise, process), move


def _lit(process: Gaussian, t: Tensor) -> None:
    if not (process.alpha(t) > 0).all():
        raise ValueError(
            "these methods reckon with the noise and the slope of alpha, and at a time without any signal (zero "
            "terminal SNR) the one says nothing of the image and the other is steep: begin later, or take adams"
        )


def _noise(process: Gaussian, x: Tensor, mean: Tensor, t: Tensor) -> Tensor:
    return (x - column(process.alpha(t), x) * mean) / column(process.sigma(t), x)


def _places(grid: Tensor) -> list[float]:
    """The rule's own clock is the number of the step, whatever the grid."""
    return [-float(i) for i in range(len(grid))]


def _linear(
    x: Tensor,
    grid: Tensor,
    places: list[float],
    who: str,
    order: int,
    begin: Callable[..., Asking],
    estimate: Estimate,
    move: Move,
) -> Asking:
    """Adams' and Bashforth's rule through the last `order` estimates, in the clock that falls as `places`. `begin`
    makes the first steps; one to t = 0 goes to the mean."""
    known: list[Tensor] = []

    def ask(x: Tensor, t: Tensor) -> Asking:
        return estimate(x, need((yield Ask(t, x)), HasMean, who).mean, t)

    for i, (t, s) in enumerate(pairwise(grid)):
        if s == 0:
            return need((yield Ask(t, x)), HasMean, who).mean
        first = yield from ask(x, t)
        known = [*known, first][-order:]
        if i < BEGINNING[begin]:
            change = yield from begin(ask, move, x, first, t, s)
        else:
            count = len(known)
            nodes = [places[i] - at for at in places[i + 1 - count : i + 1]]
            change = averaged(known, nodes, places[i] - places[i + 1], rate=0.0)
        x = move(x, change, t, s)
    return x


def _euler(ask: Callable[..., Asking], move: Move, x: Tensor, first: Tensor, t: Tensor, s: Tensor) -> Asking:
    there = yield from ask(move(x, first, t, s), s)
    return (first + there) / 2


def _runge_kutta(ask: Callable[..., Asking], move: Move, x: Tensor, first: Tensor, t: Tensor, s: Tensor) -> Asking:
    half = (t + s) / 2
    second = yield from ask(move(x, first, t, half), half)
    third = yield from ask(move(x, second, t, half), half)
    fourth = yield from ask(move(x, third, t, s), s)
    return (first + 2 * second + 2 * third + fourth) / 6


# how many steps a beginning makes
BEGINNING: dict[Callable[..., Asking], int] = {_euler: 1, _runge_kutta: 3}
