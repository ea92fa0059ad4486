"""Multistep solvers: they use the means of earlier steps.

All of them take the exponential step

    x_s = (sigma_s / sigma_t) x_t + alpha_s int_0^h e^(u-h) m(u) du,  u = l - l_t,  h = l_s - l_t

with l = log(alpha / sigma). It is the step of DDIM with the mean replaced by its average over the step. The solvers
differ in m(u), the mean between the times at which it is known: in these times, and in the integral, which is exact or
a shortcut. A step to t = 0, for which h is infinite, takes the newest mean alone. So does a first step.
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
from .average import Level, as_factor, averaged, clock_of, is_infinite
from .contract import Ask, declare

# How the average of a mean that is known at two times is taken: by the exact integral, or by a shortcut of UniPC.
TwoPointAverage = Literal["exact", "bh1", "bh2"]
ALL = 1_000_000


@dataclass(frozen=True)
class MultistepRule:
    """A multistep solver.

    order : the number of means of the predictor.
    corrects : the number of steps, from the first, that are taken again once the mean at s is known, with that mean
        too. It costs no evaluation.
    line : the average of a mean that is known at two times: "exact", or UniPC's shortcut with rho = 1/2, "bh1" for
        B(h) = h and "bh2" for B(h) = 1 - e^-h, which takes the middle of the line. "bh1" is less exact. It is here
        since diffusers' UniPC has it, and a scheduler that is read from diffusers must take the same steps.
    settles : the order falls to 1 towards the last step.
    eta : 1 for the reverse SDE, with e^(2 (u-h)) in the integral.
    """

    order: int = 2
    corrects: int = 0
    line: TwoPointAverage = "exact"
    settles: bool = False
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.corrects and self.eta:
            raise ValueError(
                f"corrects={self.corrects} was asked for with eta={self.eta:g}: a corrector takes its step again, and "
                "would remove its fresh noise: give corrects=0"
            )

    def predicted(self, means: Sequence[Tensor], clock: Sequence[Level], i: int) -> Tensor:
        """The average of the mean from clock[i] to clock[i + 1]. means : those at clock[i] and before."""
        order = min(len(means), self._order_at(clock, i))
        h = clock[i + 1] - clock[i]
        if order == 2 and self.line != "exact" and not is_infinite(h):
            share = 1 + self._place_on_line(h) * h / (clock[i] - clock[i - 1])
            return torch.lerp(means[-2], means[-1], as_factor(share, means[-1]))
        return averaged(means[-order:], [at - clock[i] for at in clock[i + 1 - order : i + 1]], h, 1 + self.eta**2)

    def corrected(self, means: Sequence[Tensor], clock: Sequence[Level], i: int) -> Tensor:
        """The same average, with the mean at clock[i + 1] as the last of `means`."""
        order = min(len(means) - 1, self._order_at(clock, i)) + 1
        h = clock[i + 1] - clock[i]
        if order == 2 and self.line != "exact":
            return torch.lerp(means[-2], means[-1], as_factor(self._place_on_line(h), means[-1]))
        return averaged(means[-order:], [at - clock[i] for at in clock[i + 2 - order : i + 2]], h)

    def _order_at(self, clock: Sequence[Level], i: int) -> int:
        return min(self.order, len(clock) - 1 - i) if self.settles else self.order

    def _place_on_line(self, h: Level) -> Level:
        """The place on the line that stands for the average, as a share of h."""
        return 0.5 if self.line == "bh2" else h / -np.expm1(-h) / 2


@declare("multistep", order=2, grid=few, per_element=True)
def multistep(
    process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, rule: MultistepRule | None = None
) -> Generator[Ask, Posterior, Tensor]:
    """The exponential step by any `MultistepRule`. The samplers below are cases of it; take it to compare rules."""
    return (yield from _multistep(process, x, grid, rng, "multistep", rule or MultistepRule()))


@declare("dpm-solver-2m", order=2, grid=few, per_element=True, cites=("dpm_solver",))
def dpm_solver_2m(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """DPM-Solver++(2M): the mean is extrapolated from the last two, at one evaluation a step.

        h_i = lambda_{t_i} - lambda_{t_{i-1}},   r_i = h_{i-1} / h_i
        D_i = (1 + 1/(2 r_i)) x_theta(x_{i-1}, t_{i-1}) - (1/(2 r_i)) x_theta(x_{i-2}, t_{i-2})
        D_1 = x_theta(x_0, t_0)
        x_i = (sigma_{t_i} / sigma_{t_{i-1}}) x_{i-1} - alpha_{t_i} (e^{-h_i} - 1) D_i

    When to choose: to compare with other libraries. On images at few steps `adams` is better at the same cost
    (docs/choose-a-sampler.md).
    Source: Lu et al., "DPM-Solver++", 2022, algorithm 2.
    """
    return (yield from _multistep(process, x, grid, rng, "dpm-solver-2m", MultistepRule(line="bh2")))


@declare("dpm-solver-3m", order=3, grid=few, per_element=True, cites=("dpm_solver",))
def dpm_solver_3m(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """DPM-Solver++(3M): the integral of the parabola through the last three means.

        D0, D1_0, D1_1 = m_0, (m_0 - m_1) / r_0, (m_1 - m_2) / r_1,   r_0 = h_1 / h,  r_1 = h_2 / h
        D1 = D1_0 + r_0 / (r_0 + r_1) (D1_0 - D1_1),   D2 = (D1_0 - D1_1) / (r_0 + r_1)
        x  = (sigma_s / sigma_t) x - alpha_s (e^-h - 1) D0 + alpha_s ((e^-h - 1) / h + 1) D1
             - alpha_s ((e^-h - 1 + h) / h^2 - 1/2) 2 D2

    m_0 is the newest mean, h the step, h_1 and h_2 the steps before. The 2 of the last line is missing in the code of
    the authors and in code made after it, which is of order 2 for that reason. Here the first step, which has one mean
    only, is corrected once there are two; this too is needed for order 3.
    When to choose: to compare solvers of third order. On images it is close to `adams`; at 5 steps on narrow modes its
    error is three times that of 2M (docs/choose-a-sampler.md).
    Source: Lu et al., "DPM-Solver++", 2022, appendix B.
    """
    return (yield from _multistep(process, x, grid, rng, "dpm-solver-3m", MultistepRule(3, corrects=1)))


@declare("unipc", order=3, grid=few, per_element=True, cites=("unipc",))
def unipc(
    process: Gaussian,
    x: Tensor,
    grid: Tensor,
    rng: Rng,
    order: int = 2,
    line: TwoPointAverage = "bh2",
    settles: bool = False,
) -> Generator[Ask, Posterior, Tensor]:
    """UniPC-p: a predictor through p means and a corrector through p + 1, at one evaluation a step.

    With m_0 = x_theta(x_{i-1}, t_{i-1}), D_m = x_theta(x_{s_m}, s_m) - m_0 and r_m = (lambda_{s_m} - lambda_{i-1}) / h:

        UniP:  x_i   = (sigma_i / sigma_{i-1}) x_{i-1} - alpha_i (e^-h - 1) m_0 + alpha_i B(h) sum_{m<p} a_m D_m / r_m
        evaluate x_theta(x_i, t_i)
        UniC:  x_i^c = (sigma_i / sigma_{i-1}) x_{i-1} - alpha_i (e^-h - 1) m_0 + alpha_i B(h) sum_{m<=p} a_m D_m / r_m
        x_i^c goes on; the mean stays x_theta(x_i, t_i)

    s_m are the earlier times, and s_p = t_i. B(h) is h (bh1) or 1 - e^-h (bh2). The a_m solve a linear system that
    makes the sum exact for polynomials. So B(h) drops out, but for a single a_m, which is 1/2.

    order : p.
    line : B(h); see `MultistepRule`. It makes a difference for two means: in the predictor of order 2, and in the first
        corrector. With "exact" and order 2 this is `adams`.
    settles : the order falls to 1 at the end, as in the authors' code. A last step to t = 0 makes it needless here.

    When to choose: for 20 steps and more, if the error of the ODE counts. At few steps on images `adams` is better
    (docs/choose-a-sampler.md).
    Source: Zhao et al., "UniPC", NeurIPS 2023, algorithms 1 and 2.
    """
    return (yield from _multistep(process, x, grid, rng, "unipc", MultistepRule(order, ALL, line, settles)))


@declare("adams", order=3, grid=few, per_element=True, cites=("sa_solver",))
def adams(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """Exponential Adams rule: a predictor through two means, a corrector through three, at one evaluation a step.

        predict:  x_{i+1} = (sigma_{i+1} / sigma_i) x_i + alpha_{i+1} int e^(u-h) p(u) du,  p through m_i, m_{i-1}
        evaluate: m_{i+1}
        correct:  the same with p through m_{i+1}, m_i, m_{i-1}

    Both integrals are exact for the polynomial, for any h. The shortcuts of dpm-solver-2m and UniPC are right for small
    h only: at 4 to 8 steps, for which h is 1 to 3, they make much of the error.
    The best choice for the mean of images at few steps.
    Source: Xue et al., "SA-Solver", NeurIPS 2023, with tau = 0; Hochbruck & Ostermann, "Exponential integrators", 2010.
    """
    return (yield from _multistep(process, x, grid, rng, "adams", MultistepRule(corrects=ALL)))


@declare("soft-adams", order=None, needs=Posterior, grid=few, per_element=True, cites=("sa_solver",))
def soft_adams(
    process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, below: int = 8
) -> Generator[Ask, Posterior, Tensor]:
    """The step of DDIM with a draw of x0 for a posterior with a spread; `adams` for a point.

    below : with this number of steps or more, every step uses the mean of a posterior that has one. The steps are then
        so short that a draw of a learned model is no better than its mean (docs/experiments.md).

    For soft mixtures that are soft at high noise alone (`SoftAtHighNoise`). At high noise a draw decides the content of
    the image, which a mean cannot. At low noise the posterior is narrow, and a mean with a good solver is more exact.
    While it draws, the marginals are as exact as those of `ancestral`. For points alone it is `adams`.

    With 4 to 6 steps the grid `after_draw` was 30 to 47 % better for a model of 1.6 million images, and up to 22 %
    worse for models of 150,000; with 3 steps it was better for all. Compare the two: on_grid(soft_adams, after_draw),
    or `softmix evaluate RUN --grid after-draw`.
    """
    solved: type[Posterior] = HasMean if len(grid) > below else Point
    return (yield from _multistep(process, x, grid, rng, "adams", MultistepRule(corrects=ALL), solved))


@declare("sde-dpm-solver-2m", order=2, grid=few, stochastic=True, per_element=True, cites=("dpm_solver",))
def sde_dpm_solver_2m(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """SDE-DPM-Solver++(2M): the ancestral step with the average of the mean in the place of a draw.

        D_i = (1 + 1/(2 r_i)) x_theta(x_{i-1}, t_{i-1}) - (1/(2 r_i)) x_theta(x_{i-2}, t_{i-2}),   r_i = h_{i-1} / h_i
        x_i = (sigma_i / sigma_{i-1}) e^{-h_i} x_{i-1} + alpha_i (1 - e^{-2 h_i}) D_i + sigma_i sqrt(1 - e^{-2 h_i}) z

    Its law is only near the right one, unlike that of `ancestral`: it knows a mean and makes no draw. Of order 1, with
    D = x_theta(x_{i-1}), it is `ancestral` with points.
    When to choose: for images at 16 steps and more: its fresh noise gave the best samples (docs/choose-a-sampler.md).
    Source: Lu et al., "DPM-Solver++", 2022, section 5; diffusers' "sde-dpmsolver++".
    """
    return (yield from _multistep(process, x, grid, rng, "sde-dpm-solver-2m", MultistepRule(line="bh2", eta=1.0)))


def _multistep(
    process: Gaussian,
    x: Tensor,
    grid: Tensor,
    rng: Rng,
    who: str,
    rule: MultistepRule,
    solved: type[Posterior] = Posterior,
) -> Generator[Ask, Posterior, Tensor]:
    """solved : the posteriors that are solved by their mean. Of any other a draw takes the place of the mean."""
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
