"""Pseudo numerical methods (PNDM): they combine estimates of the noise and take the step of DDIM with the result."""

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

SamplerRun = Generator[Ask, Posterior, Tensor]
# (x, mean, t) -> the quantity that is combined
QuantityFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
# (x, mean or quantity, t, s) -> x at s
StepFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
# The largest growth of the signal's share in a step by estimates of the noise. It is 9 in four steps over all of DDPM's
# chain, 15 in one step over that of Stable Diffusion, and 32 to 3000 in the first step of a cosine schedule.
MAX_SIGNAL_GROWTH = 16.0


@dataclass(frozen=True)
class LinearMultistep:
    """The quantity that an Adams-Bashforth rule combines, and the steps that it takes.

    clock : the clock of the rule at the times of the grid, falling.
    quantity : the quantity, from x, the mean and t.
    step : the step by a combined quantity.
    mean_step : the step by the mean alone.
    by_mean : whether each step is taken by the mean alone. The rule starts anew after such a step.
    """

    clock: list[float]
    quantity: QuantityFunction
    step: StepFunction
    mean_step: StepFunction
    by_mean: list[bool]


def chain(process: Gaussian, n: int) -> Tensor:
    """The noise levels of the paper: its n - 1 steps in DDPM's chain of 1000 (Ho et al. 2020), then clean.

    They are 1002 - s, ..., 2 + s, 2, 1 with s = 1000 / (n - 1). With n = 51 that is 982, ..., 22, 2, 1.

    A step straight from 22 to 1 would be by far the longest in log(sigma / alpha). A process that ends with more signal
    than level 1002 - s begins at its own end. Below three steps there is no chain; the times are uniform in t.
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
def plms(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, order: int = 4) -> SamplerRun:
    """Pseudo linear multistep: the step of DDIM with an Adams-Bashforth combination of the last estimates of the noise.

    With phi(x, e, t, s) for the step of DDIM with the noise e, and delta for a step of the grid:

        e_t = eps_theta(x_t, t)
        first step:  e_t' = (e_t + eps_theta(phi(x_t, e_t, t, t - delta), t - delta)) / 2      # improved Euler
        PLMS:        e_t' = (55 e_t - 59 e_{t+delta} + 37 e_{t+2delta} - 9 e_{t+3delta}) / 24
        x_{t-delta} = phi(x_t, e_t', t, t - delta)

    The second and third step take the rules of order 2 and 3.

    order : of the rule. With 2 it is S-PNDM.

    A last step to t = 0 takes the mean, and so does a step in which the signal grows more than 16 times, as a cosine
    schedule begins: there a combination of noises means nothing. The rule averages the noise over the number of the
    step, while the ODE needs the average over sigma / alpha. So the whole is of second order for any order of the rule.
    Stable Diffusion was first sampled with it (diffusers' `skip_prk_steps`). Take it with 20 steps and more.
    Source: Liu et al., "Pseudo numerical methods for diffusion models on manifolds", ICLR 2022, section 3.
    """
    return (yield from _linear(x, grid, _pseudo(process, grid, rng), "plms", order, _euler))


@declare(
    "s-pndm", order=2, evaluations=lambda n: n + min(n - 1, 1), grid=chain, least=4, per_element=True, cites=("pndm",)
)
def s_pndm(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> SamplerRun:
    """S-PNDM: `plms` with two estimates, e_t' = (3 e_t - e_{t+delta}) / 2.

    When to choose: with 20 steps and more, to compare with the paper.
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
def f_pndm(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> SamplerRun:
    """F-PNDM: three steps of pseudo Runge-Kutta (PRK), with four estimates each, then pseudo linear multistep (PLMS).

        for the first three t:                             # PRK
            e_1 = eps_theta(x_t, t)
            x_1 = phi(x_t, e_1, t, t - delta/2);   e_2 = eps_theta(x_1, t - delta/2)
            x_2 = phi(x_t, e_2, t, t - delta/2);   e_3 = eps_theta(x_2, t - delta/2)
            x_3 = phi(x_t, e_3, t, t - delta);     e_4 = eps_theta(x_3, t - delta)
            x_{t-delta} = phi(x_t, (e_1 + 2 e_2 + 2 e_3 + e_4) / 6, t, t - delta)
        for the other t:                                   # PLMS
            e_t' = (55 e_t - 59 e_{t+delta} + 37 e_{t+2delta} - 9 e_{t+3delta}) / 24
            x_{t-delta} = phi(x_t, e_t', t, t - delta)

    Below some 20 steps it loses to DDIM at equal evaluations. A step in which the signal grows more than 16 times is
    taken by the mean, as in `plms`.
    When to choose: with 20 steps and more, to compare with the paper.
    Source: Liu et al., "Pseudo numerical methods for diffusion models on manifolds", ICLR 2022, algorithm 2.
    """
    return (yield from _linear(x, grid, _pseudo(process, grid, rng), "f-pndm", 4, _runge_kutta))


@declare("fon", order=4, evaluations=lambda n: n + 3 * min(n - 1, 3), least=20, per_element=True, cites=("pndm",))
def fon(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> SamplerRun:
    """The classical fourth-order rule, the baseline of PNDM: Adams-Bashforth, started by Runge-Kutta, on

        dx/dt = alpha' mean + sigma' noise.

    The authors take differences over one of a thousand steps for the derivative, and their error is that of these
    differences. Here the derivative is exact.
    Raises ValueError for a time without signal.
    When to choose: only as the baseline of the recipe `pndm`.
    Source: Liu et al., ICLR 2022, "FON".
    """

    def velocity(x: Tensor, mean: Tensor, t: Tensor) -> Tensor:
        if not (process.alpha(t) > 0).all():
            raise ValueError(
                "fon needs the slope of alpha, which is infinite at a time without any signal (zero terminal SNR): "
                "begin later, or take plms or adams"
            )
        alpha, sigma = process.rates(t)
        return column(alpha, x) * mean + column(sigma, x) * _noise(process, x, mean, t)

    def step(x: Tensor, change: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return x + column(s - t, x) * change

    def mean_step(x: Tensor, mean: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return process.bridge(x, mean, t, s, rng, eta=0)

    rule = LinearMultistep(grid.tolist(), velocity, step, mean_step, [False] * (len(grid) - 1))
    return (yield from _linear(x, grid, rule, "fon", 4, _runge_kutta))


def _pseudo(process: Gaussian, grid: Tensor, rng: Rng) -> LinearMultistep:
    """The quantity is the noise, a step by it is that of DDIM, and the clock is the number of the step."""

    def mean_step(x: Tensor, mean: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return process.bridge(x, mean, t, s, rng, eta=0)

    def step(x: Tensor, noise: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return mean_step(x, (x - column(process.sigma(t), x) * noise) / column(process.alpha(t), x), t, s)

    clock = [-float(i) for i in range(len(grid))]
    return LinearMultistep(clock, partial(_noise, process), step, mean_step, _signal_grows_too_much(process, grid))


def _signal_grows_too_much(process: Gaussian, grid: Tensor) -> list[bool]:
    """Whether the share of the signal, alpha / sqrt(alpha^2 + sigma^2), grows over `MAX_SIGNAL_GROWTH` times in a step.

    One element is enough. In such a step the noise at the end differs from that at the beginning by a part of the
    signal at the end. A combination of the two is then wrong by as many images as the share grows times. Schedules that
    begin without signal, and cosine schedules, have such a first step.
    """
    share = torch.sigmoid(process.element_logsnr(grid)).sqrt()
    grows = (share[1:] > MAX_SIGNAL_GROWTH * share[:-1]) | (process.alpha(grid[:-1]) == 0)
    return grows.reshape(len(grows), -1).any(1).tolist()


def _noise(process: Gaussian, x: Tensor, mean: Tensor, t: Tensor) -> Tensor:
    return (x - column(process.alpha(t), x) * mean) / column(process.sigma(t), x)


def _linear(
    x: Tensor, grid: Tensor, rule: LinearMultistep, who: str, order: int, start: Callable[..., SamplerRun]
) -> SamplerRun:
    """An Adams-Bashforth rule through the last `order` quantities, in the clock of `rule`.

    `start` makes the first steps, and the first steps after one by the mean alone. A step to t = 0 goes to the mean.
    """
    known: list[Tensor] = []
    clock, done = rule.clock, 0

    def ask(x: Tensor, t: Tensor) -> SamplerRun:
        return rule.quantity(x, need((yield Ask(t, x)), HasMean, who).mean, t)

    for i, (t, s) in enumerate(pairwise(grid)):
        mean = need((yield Ask(t, x)), HasMean, who).mean
        if s == 0:
            return mean
        if rule.by_mean[i]:
            x, known, done = rule.mean_step(x, mean, t, s), [], 0
            continue
        first = rule.quantity(x, mean, t)
        known = [*known, first][-order:]
        if done < STARTING_STEPS[start]:
            change = yield from start(ask, rule.step, x, first, t, s)
        else:
            count = len(known)
            nodes = [clock[i] - at for at in clock[i + 1 - count : i + 1]]
            change = averaged(known, nodes, clock[i] - clock[i + 1], rate=0.0)
        x, done = rule.step(x, change, t, s), done + 1
    return x


def _euler(
    ask: Callable[..., SamplerRun], step: StepFunction, x: Tensor, first: Tensor, t: Tensor, s: Tensor
) -> SamplerRun:
    second = yield from ask(step(x, first, t, s), s)
    return (first + second) / 2


def _runge_kutta(
    ask: Callable[..., SamplerRun], step: StepFunction, x: Tensor, first: Tensor, t: Tensor, s: Tensor
) -> SamplerRun:
    middle = (t + s) / 2
    second = yield from ask(step(x, first, t, middle), middle)
    third = yield from ask(step(x, second, t, middle), middle)
    fourth = yield from ask(step(x, third, t, s), s)
    return (first + 2 * second + 2 * third + fourth) / 6


STARTING_STEPS: dict[Callable[..., SamplerRun], int] = {_euler: 1, _runge_kutta: 3}
