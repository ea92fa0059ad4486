"""Pseudo numerical methods, which combine estimates of the noise and then take DDIM's step."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..posterior import HasMean, Posterior, need
from ..process import VP, Gaussian, uniform
from ..rng import Rng
from ..shape import column
from .average import averaged
from .contract import Ask, declare

Asking = Generator[Ask, Posterior, Tensor]
Estimate = Callable[[Tensor, Tensor, Tensor], Tensor]
Move = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
# how many times the share of the signal may grow in a step of estimates of the noise: 9 times where four steps go
# through all of DDPM's chain, 15 where one goes through Stable Diffusion's, and 32 to 3000 in the first of a cosine's
MOST = 16.0


@dataclass(frozen=True)
class Terms:
    """What Adams' rule combines, and what it does with it.

    places : its clock at the times of the grid. estimate : of x, a mean and t, the quantity that is combined. move :
    from x by a combined one. leap : from x by the mean alone. leaps : which steps are taken so; the rule is begun anew
    after them.
    """

    places: list[float]
    estimate: Estimate
    move: Move
    leap: Move
    leaps: list[bool]


def chain(process: Gaussian, n: int) -> Tensor:
    """The noise levels that the paper's n - 1 steps visit in DDPM's chain of 1000 (Ho et al. 2020): 1002 - s, ...,
    2 + s, 2, 1 with s = 1000 / (n - 1), then clean. With n = 51 that is 982, ..., 22, 2, 1.

    Straight from 22 to 1 would be by far the longest step in log(sigma / alpha). A process that ends with more signal
    than 1002 - s has begins at its end. Below three steps there is no chain: these are uniform in t.
    """
    if n < 3:
        return uniform(process, n)
    ddpm = VP("linear")
    first = float(ddpm.time(max(ddpm.logsnr(1.002 - 1 / (n - 1)), process.logsnr(1.0))))
    labels = torch.cat(
        [torch.linspace(first, 0.002, n - 1, dtype=torch.float64), torch.tensor([0.001], dtype=torch.float64)]
    )
    times = process.time(ddpm.logsnr(labels))
    return torch.cat([times, times.new_zeros(1)])


@declare(
    "plms", order=2, evaluations=lambda n: n + min(n - 1, 1), grid=chain, least=4, per_element=True, cites=("pndm",)
)
def plms(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, order: int = 4) -> Asking:
    """Pseudo linear multistep: DDIM's step with the noise that Adams' and Bashforth's rule makes of the last four
    estimates, begun by improved Euler. What Stable Diffusion was first sampled with (diffusers' `skip_prk_steps`).

    A last step to t = 0 is DDIM's, and so is one in which the signal grows more than 16 times, as a cosine schedule
    begins: combinations of the noise say nothing there. order : of the rule; 2 is the paper's S-PNDM. The rule averages
    the noise over the steps where the ODE wants it over sigma / alpha, so that the whole is of second order for any.
    Source: Liu et al., "Pseudo numerical methods for diffusion models on manifolds", ICLR 2022, section 3.
    """
    return (yield from _linear(x, grid, _pseudo(process, grid, rng), "plms", order, _euler))


@declare(
    "s-pndm", order=2, evaluations=lambda n: n + min(n - 1, 1), grid=chain, least=4, per_element=True, cites=("pndm",)
)
def s_pndm(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Asking:
    """S-PNDM: `plms` through two estimates.

    Source: Liu et al., "Pseudo numerical methods for diffusion models on manifolds", ICLR 2022, section 3.
    """
    return (yield from _linear(x, grid, _pseudo(process, grid, rng), "s-pndm", 2, _euler))


@declare(
    "f-pndm",
    order=2,
    evaluations=lambda n: n + 3 * min(n - 1, 3),
    grid=chain,
    least=5,
    per_element=True,
    cites=("pndm",),
)
def f_pndm(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Asking:
    """F-PNDM: pseudo Runge-Kutta for three steps, four estimates each, then pseudo linear multistep through four.

    Below some 20 steps it loses to DDIM at equal evaluations. Steps in which the signal grows more than 16 times are
    DDIM's, as in `plms`.
    Source: Liu et al., "Pseudo numerical methods for diffusion models on manifolds", ICLR 2022, algorithm 2.
    """
    return (yield from _linear(x, grid, _pseudo(process, grid, rng), "f-pndm", 4, _runge_kutta))


@declare("fon", order=4, evaluations=lambda n: n + 3 * min(n - 1, 3), least=20, per_element=True, cites=("pndm",))
def fon(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Asking:
    """The classical fourth-order rule that PNDM is set against: Adams and Bashforth, begun by Runge and Kutta, on

        dx/dt = alpha' mean + sigma' noise.

    The authors' control takes differences over one of a thousand steps for the derivative, and stops at their
    error; this takes the derivative.
    Source: Liu et al., ICLR 2022, "FON".
    """

    def velocity(x: Tensor, mean: Tensor, t: Tensor) -> Tensor:
        if not (process.alpha(t) > 0).all():
            raise ValueError(
                "fon reckons with the slope of alpha, which is infinite at a time without any signal (zero terminal "
                "SNR): begin later, or take plms or adams"
            )
        alpha, sigma = process.rates(t)
        return column(alpha, x) * mean + column(sigma, x) * _noise(process, x, mean, t)

    def move(x: Tensor, change: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return x + column(s - t, x) * change

    def leap(x: Tensor, mean: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return process.bridge(x, mean, t, s, rng, eta=0)

    terms = Terms(grid.tolist(), velocity, move, leap, [False] * (len(grid) - 1))
    return (yield from _linear(x, grid, terms, "fon", 4, _runge_kutta))


def _pseudo(process: Gaussian, grid: Tensor, rng: Rng) -> Terms:
    """The estimate is of the noise, and a move by it is DDIM's. The rule's own clock is the number of the step."""

    def leap(x: Tensor, mean: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return process.bridge(x, mean, t, s, rng, eta=0)

    def move(x: Tensor, noise: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return leap(x, (x - column(process.sigma(t), x) * noise) / column(process.alpha(t), x), t, s)

    return Terms([-float(i) for i in range(len(grid))], partial(_noise, process), move, leap, _steep(process, grid))


def _steep(process: Gaussian, grid: Tensor) -> list[bool]:
    """Over which steps the share of the signal, alpha / sqrt(alpha^2 + sigma^2), grows more than `MOST` times, of any
    element.

    There the noise at the end differs from that at the beginning by some of the signal at the end, so that a
    combination of the two is wrong by as many images as the share grows times. A cosine schedule begins so, and one
    that begins without signal too.
    """
    share = torch.sigmoid(process.element_logsnr(grid)).sqrt()
    steep = (share[1:] > MOST * share[:-1]) | (process.alpha(grid[:-1]) == 0)
    return steep.reshape(len(steep), -1).any(1).tolist()


def _noise(process: Gaussian, x: Tensor, mean: Tensor, t: Tensor) -> Tensor:
    return (x - column(process.alpha(t), x) * mean) / column(process.sigma(t), x)


def _linear(x: Tensor, grid: Tensor, terms: Terms, who: str, order: int, begin: Callable[..., Asking]) -> Asking:
    """Adams' and Bashforth's rule through the last `order` estimates, in the clock that falls as `terms.places`.

    `begin` makes the first steps, and the first after one that is taken by the mean alone; one to t = 0 goes to the
    mean.
    """
    known: list[Tensor] = []
    places, made = terms.places, 0

    def ask(x: Tensor, t: Tensor) -> Asking:
        return terms.estimate(x, need((yield Ask(t, x)), HasMean, who).mean, t)

    for i, (t, s) in enumerate(pairwise(grid)):
        mean = need((yield Ask(t, x)), HasMean, who).mean
        if s == 0:
            return mean
        if terms.leaps[i]:
            x, known, made = terms.leap(x, mean, t, s), [], 0
            continue
        first = terms.estimate(x, mean, t)
        known = [*known, first][-order:]
        if made < BEGINNING[begin]:
            change = yield from begin(ask, terms.move, x, first, t, s)
        else:
            count = len(known)
            nodes = [places[i] - at for at in places[i + 1 - count : i + 1]]
            change = averaged(known, nodes, places[i] - places[i + 1], rate=0.0)
        x, made = terms.move(x, change, t, s), made + 1
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
