"""Multistep solvers, which remember what they were told before.

All of them take the exponential step

    x_s = (sigma_s / sigma_t) x_t + alpha_s int_0^h e^(u-h) m(u) du,  u = l - l_t,  h = l_s - l_t

with l = log(alpha / sigma), which is DDIM's with the mean's average over the step in its place, and differ in what
stands for the mean m(u) between the times at which it is known: which of these times, and whether the integral is
exact or a shortcut. A step to t = 0, where h is infinite, takes the newest mean alone, and so does a first one.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..posterior import HasMean, Point, Posterior, need
from ..process import Gaussian, few
from ..rng import Rng
from .average import Level, averaged, clock_of, endless, ready
from .contract import Ask, declare

Line = Literal["exact", "bh1", "bh2"]
ALL = 1_000_000


@dataclass(frozen=True)
class Rule:
    """order : through how many means the predictor goes. corrects : of how many steps, from the first: when the mean at
    s is known, the step to s is taken again with that one too, at no further evaluation. line : the average of a
    mean known at two times: exact, or UniPC's shortcuts with rho = 1/2 by hand (B(h) = h, or e^h - 1: half way on).
    settles : orders fall to 1 towards the last step. eta : 1 for the reverse SDE, with e^(2 (u-h)) in the integral."""

    order: int = 2
    corrects: int = 0
    line: Line = "exact"
    settles: bool = False
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.corrects and self.eta:
            raise ValueError("a corrector takes its step again, and would take its fresh noise away: give corrects=0")

    def predicted(self, means: Sequence[Tensor], clock: Sequence[Level], i: int) -> Tensor:
        """What stands for the mean from clock[i] to clock[i + 1]: `means` are those at clock[i] and before."""
        order = min(len(means), self._most(clock, i))
        h = clock[i + 1] - clock[i]
        if order == 2 and self.line != "exact" and not endless(h):
            share = 1 + self._half(h) * h / (clock[i] - clock[i - 1])
            return torch.lerp(means[-2], means[-1], ready(share, means[-1]))
        return averaged(means[-order:], [at - clock[i] for at in clock[i + 1 - order : i + 1]], h, 1 + self.eta**2)

    def corrected(self, means: Sequence[Tensor], clock: Sequence[Level], i: int) -> Tensor:
        """The same, when the last of `means` is the one at clock[i + 1]."""
        order = min(len(means) - 1, self._most(clock, i)) + 1
        h = clock[i + 1] - clock[i]
        if order == 2 and self.line != "exact":
            return torch.lerp(means[-2], means[-1], ready(self._half(h), means[-1]))
        return averaged(means[-order:], [at - clock[i] for at in clock[i + 2 - order : i + 2]], h)

    def _most(self, clock: Sequence[Level], i: int) -> int:
        return min(self.order, len(clock) - 1 - i) if self.settles else self.order

    def _half(self, h: Level) -> Level:
        """How far on the line the average is taken to lie, as a share of h."""
        return 0.5 if self.line == "bh2" else h / -np.expm1(-h) / 2


@declare("multistep", order=2, grid=few, per_element=True)
def multistep(
    process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, rule: Rule | None = None
) -> Generator[Ask, Posterior, Tensor]:
    """The exponential step by any `Rule`: what the samplers below are cases of, for comparing them."""
    return (yield from _multistep(process, x, grid, rng, "multistep", rule or Rule()))


@declare("dpm-solver-2m", order=2, grid=few, per_element=True, cites=("dpm_solver",))
def dpm_solver_2m(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """DPM-Solver++(2M): the mean's average is D = m + (m - m_before) h / (2 h_before).

    Source: Lu et al., "DPM-Solver++", 2022, algorithm 2.
    """
    return (yield from _multistep(process, x, grid, rng, "dpm-solver-2m", Rule(line="bh2")))


@declare("dpm-solver-3m", order=3, grid=few, per_element=True, cites=("dpm_solver",))
def dpm_solver_3m(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """DPM-Solver++(3M): the integral of the parabola through three means.

    In the authors' code, and in what was made after it, the second difference has half of the weight that it needs;
    here it has all of it, and the first step, which knows one mean only, is corrected when there are two: else the
    whole would be of order 2, as theirs is.
    Source: Lu et al., "DPM-Solver++", 2022, appendix B.
    """
    return (yield from _multistep(process, x, grid, rng, "dpm-solver-3m", Rule(3, corrects=1)))


@declare("unipc", order=3, grid=few, per_element=True, cites=("unipc",))
def unipc(
    process: Gaussian,
    x: Tensor,
    grid: Tensor,
    rng: Rng,
    order: int = 2,
    line: Line = "bh2",
    settles: bool = False,
) -> Generator[Ask, Posterior, Tensor]:
    """UniPC-p: a predictor through p means and a corrector through p + 1, at one evaluation a step; see `Rule`.

    `line` makes a difference where two means are used: in the predictor of order 2, and in the first corrector. With
    "exact" and order 2 it is `adams`. Its authors let orders fall at the end (`settles`), which a last step
    to t = 0 makes needless here.
    Source: Zhao et al., "UniPC", NeurIPS 2023.
    """
    return (yield from _multistep(process, x, grid, rng, "unipc", Rule(order, ALL, line, settles)))


@declare("adams", order=3, grid=few, per_element=True, cites=("sa_solver",))
def adams(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """Exponential Adams rule: a predictor through two means, a corrector through three, at one evaluation a step.

    Both integrals are exact for the polynomial, for any h. The shortcuts of dpm-solver-2m and UniPC have their limit
    for small h: at 4 to 8 steps, where h is 1 to 3, much of their error is that.
    Source: Xue et al., "SA-Solver", NeurIPS 2023, with tau = 0; Hochbruck & Ostermann, "Exponential integrators", 2010.
    """
    return (yield from _multistep(process, x, grid, rng, "adams", Rule(corrects=ALL)))


@declare("soft-adams", order=None, needs=Posterior, grid=few, per_element=True, cites=("sa_solver",))
def soft_adams(
    process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, below: int = 8
) -> Generator[Ask, Posterior, Tensor]:
    """DDIM's step with a draw of x0 where the belief has a spread; where it is a point, `adams`.

    For soft mixtures that are soft at high noise alone (`SoftAtHighNoise`): there a draw settles what the image is of,
    which a mean cannot; underneath, the posterior is narrow and a mean and a good solver are more exact. Every
    law that `ancestral` keeps it keeps too, while beliefs are soft; with points alone it is `adams`.

    With `below` steps or more, of a learned model, no single step is long enough for a draw to say more than the mean
    (docs/experiments.md), and a belief that has a mean is solved by it all the way, with a solver's error.
    """
    solved: type[Posterior] = HasMean if len(grid) > below else Point
    return (yield from _multistep(process, x, grid, rng, "adams", Rule(corrects=ALL), solved))


@declare("sde-dpm-solver-2m", order=2, grid=few, stochastic=True, per_element=True, cites=("dpm_solver",))
def sde_dpm_solver_2m(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """SDE-DPM-Solver++(2M): the ancestral step with the mean's average over it in the place of a draw,

        x_s = (sigma_s / sigma_t) e^-h x_t + alpha_s (1 - e^-2h) D + sigma_s sqrt(1 - e^-2h) z,

    D = m + (m - m_before) h / (2 h_before). Its law, unlike that of `ancestral`, is only near the right one: it knows
    a mean where that draws. Of order 1, with D = m, it is `ancestral` with points.
    Source: Lu et al., "DPM-Solver++", 2022, section 5; diffusers' "sde-dpmsolver++".
    """
    return (yield from _multistep(process, x, grid, rng, "sde-dpm-solver-2m", Rule(line="bh2", eta=1.0)))


def _multistep(
    process: Gaussian,
    x: Tensor,
    grid: Tensor,
    rng: Rng,
    who: str,
    rule: Rule,
    solved: type[Posterior] = Posterior,
) -> Generator[Ask, Posterior, Tensor]:
    """`solved`: of beliefs that are not of this kind a draw is taken in the place of the mean."""
    clock = clock_of(process, grid)
    means: list[Tensor] = []
    start = x
    for i, (t, s) in enumerate(pairwise(grid)):
        posterior = yield Ask(t, x)
        if not isinstance(posterior, solved):
            x, means = process.bridge(x, posterior.sample(rng), t, s, rng, eta=0), []
            continue
        means = [*means, need(posterior, HasMean, who).mean][-rule.order - 1 :]
        if 0 < i <= rule.corrects and len(means) > 1:
            x = process.bridge(start, rule.corrected(means, clock, i - 1), grid[i - 1], t, rng, eta=0)
        start = x
        x = process.bridge(x, rule.predicted(means, clock, i), t, s, rng, eta=rule.eta)
    return x
