"""DPM-Solver-v3, whose parameterisation is fitted to the model that it solves."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..posterior import HasMean, Posterior, need
from ..process import Gaussian, even_logsnr, uniform
from ..rng import Rng
from ..shape import column
from .contract import Ask, SamplerError, declare
from .statistics import Statistics

NODES = 24
Corrector = Literal["no", "full", "published", "pseudo"]
Differences = Literal["exact", "pseudo"]


def measured(process: Gaussian, n: int) -> Tensor:
    """As `few`, but begun where statistics do, at a logsnr of -8.8: a first step from t = 1 is one without them."""
    if n < 2:
        return uniform(process, n)
    first = max(-8.8, float(process.logsnr(1.0)))
    return even_logsnr(process, n, first, max(min(6.0, n), first + 1))


@declare("dpm-solver-v3", order=2, grid=measured, cites=("dpm_solver_v3",))
def dpm_solver_v3(
    process: Gaussian,
    x: Tensor,
    grid: Tensor,
    rng: Rng,
    statistics: Statistics | None = None,
    order: int = 2,
    corrects: Corrector = "no",
    differences: Differences = "exact",
) -> Generator[Ask, Posterior, Tensor]:
    """DPM-Solver-v3: the exponential step in the parameterisation that a model's statistics make the straightest.

    With f = (1 - l) x / alpha - D and integrals from the present time on, L of l, S of s, B of e^-S b,

        x_s = (alpha_s / alpha_t) e^-L x_t - alpha_s e^-L int e^(L + S) (B + g) du,

    exact if g = e^-S f - B is known; g is the polynomial through the newest `order` times. Without statistics l = 1 and
    s = b = 0, which is the exponential rule for means, DPM-Solver++'s with exact integrals; so too before the first of
    the statistics' levels, so that a grid that begins there gains most.

    corrects : take each step again when the mean at its end is known. "full": by the polynomial through the `order`
    times and the new one, which raises the order by one. "published": the authors' corrector, through as many times as
    the step was made from, the new one among them; the first step is left as it was. "pseudo": their other, through
    all of them, with pseudo differences.
    differences : of the predictor. "pseudo": the authors' for 5 steps and fewer, a series in u with divided differences
    in the place of derivatives; of order 2 at most. As a predictor of order 2 it is the exact one.
    Source: Zheng et al., "DPM-Solver-v3", NeurIPS 2023, equations 4 to 16 and appendix B; the correctors and pseudo
    differences as their code has them.
    """
    if corrects not in get_args(Corrector) or differences not in get_args(Differences):
        raise SamplerError(
            f"dpm-solver-v3 was asked for corrects={corrects!r} and differences={differences!r}; there are "
            f"{', '.join(get_args(Corrector))}, and {', '.join(get_args(Differences))}"
        )
    clock = (process.logsnr(grid) / 2).tolist()
    known: list[tuple[float, Tensor]] = []
    start = x
    for i, (t, s) in enumerate(pairwise(grid)):
        mean = need((yield Ask(t, x)), HasMean, "dpm-solver-v3").mean
        others = known[1:-1] if corrects == "published" else known[1:]
        if i > 0 and corrects != "no" and (corrects != "published" or len(known) > 1):
            points = [known[0], (clock[i], _f(statistics, process, x, mean, t, clock[i])), *others]
            pseudo = corrects == "pseudo"
            again = _step(statistics, process, start, points, clock, i - 1, grid, pseudo)
            # f stays what it was found to be: the mean moves with x
            mean = mean + _slack(statistics, clock[i], x) * (again - x) / _signal(process, x, t, clock[i])
            x = again
        if math.isinf(clock[i + 1]):
            return process.bridge(x, mean, t, s, rng, eta=0)
        known = [(clock[i], _f(statistics, process, x, mean, t, clock[i])), *known][:order]
        start = x
        x = _step(statistics, process, x, known, clock, i, grid, differences == "pseudo")
    return x


def _slack(statistics: Statistics | None, at: float, x: Tensor) -> Tensor | float:
    """1 - l."""
    if statistics is None:
        return 0.0
    return (1 - statistics.at(torch.tensor([at], dtype=torch.float64))[0][0]).to(x)


def _f(statistics: Statistics | None, process: Gaussian, x: Tensor, mean: Tensor, t: Tensor, at: float) -> Tensor:
    return _slack(statistics, at, x) * x / _signal(process, x, t, at) - mean


def _signal(process: Gaussian, x: Tensor, t: Tensor, at: float) -> Tensor:
    """alpha by the clock, which stays finite where a table ends at no signal."""
    return column(process.sigma(t) * math.exp(at), x)


def _step(
    statistics: Statistics | None,
    process: Gaussian,
    x: Tensor,
    known: Sequence[tuple[float, Tensor]],
    clock: Sequence[float],
    i: int,
    grid: Tensor,
    pseudo: bool,
) -> Tensor:
    """From clock[i] to clock[i + 1] by f at the times of `known`, the first of which is clock[i]."""
    origin = clock[i]
    along = _Integrals(statistics, origin, clock[i + 1])
    values = [known[0][1]]
    for at, f in known[1:]:
        back = _Integrals(statistics, origin, at)
        values.append((-back.s_end).exp().to(x) * f - back.b_end.to(x))
    nodes = [at - origin for at, _ in known]
    lines = (_pseudo if pseudo else _through)(nodes, along.places)
    total: Tensor | float = along.offset.to(x)
    for line, value in zip(lines, values, strict=True):
        total = total + along.over(line).to(x) * value
    # alpha_s / alpha_t is e^h sigma_s / sigma_t, and alpha near t = 1 has few digits
    kept = column(process.sigma(grid[i + 1]) / process.sigma(grid[i]), x) * along.decay.to(x)
    return kept * x - column(process.alpha(grid[i + 1]), x) * total


def _through(nodes: Sequence[float], places: Tensor) -> list[Tensor]:
    """What each node's value counts at these places in the polynomial through all."""
    shares = []
    for k, node in enumerate(nodes):
        others = [b for j, b in enumerate(nodes) if j != k]
        shares.append(math.prod(((places - b) / (node - b) for b in others), start=torch.ones_like(places)))
    return shares


def _pseudo(nodes: Sequence[float], places: Tensor) -> list[Tensor]:
    """What it counts in the sum of g[0, ..., m] u^m, the divided differences of the first m + 1 nodes, 0 the first."""
    shares = [torch.zeros_like(places) for _ in nodes]
    for m in range(len(nodes)):
        for k in range(m + 1):
            below = math.prod(nodes[k] - nodes[j] for j in range(m + 1) if j != k)
            shares[k] = shares[k] + places**m / below
    return shares


class _Integrals:
    """L, S, B and what is weighted by e^(L + S) from one value of the clock to another, backwards too.

    By Gauss' and Legendre's rule, cumulative integrals by that of the polynomial through its nodes.
    """

    def __init__(self, statistics: Statistics | None, start: float, end: float):
        # decay : e^(span - L(end)); offset : e^-L(end) int e^(L + S) B; s_end, b_end : S and B at the end
        unit, shares, inner = _rule()
        span = end - start
        self.places = unit * span
        if statistics is None:
            none = torch.zeros(NODES, 1, dtype=torch.float64)
            l, s, b = none + 1, none, none  # noqa: E741
        else:
            l, s, b = (part.double() for part in statistics.at(start + self.places))  # noqa: E741
        size = l.shape[1:]
        l, s, b = (part.flatten(1) for part in (l, s, b))  # noqa: E741
        shares, inner = shares * span, inner * span
        grown, risen = inner @ l, inner @ s
        fed = inner @ ((-risen).exp() * b)
        l_end = shares @ l
        self._weight = shares[:, None] * (grown + risen - l_end).exp()
        self._size = size
        self.decay = (span - l_end).exp().reshape(size)
        self.offset = (self._weight * fed).sum(0).reshape(size)
        self.s_end = (shares @ s).reshape(size)
        self.b_end = (shares @ ((-risen).exp() * b)).reshape(size)

    def over(self, line: Tensor) -> Tensor:
        """e^-L(end) int e^(L + S) line."""
        return (line @ self._weight).reshape(self._size)


@lru_cache
def _rule() -> tuple[Tensor, Tensor, Tensor]:
    """Places and shares of Gauss' rule on [0, 1], and the matrix that integrates from 0 to each place."""
    places, shares = np.polynomial.legendre.leggauss(NODES)
    powers = np.polynomial.legendre.legvander(places, NODES - 1)
    integrals = np.stack(
        [
            np.polynomial.legendre.legval(places, np.polynomial.legendre.legint(np.eye(NODES)[k], lbnd=-1))
            for k in range(NODES)
        ],
        axis=1,
    )
    inner = integrals @ np.linalg.inv(powers)
    return torch.from_numpy((places + 1) / 2), torch.from_numpy(shares / 2), torch.from_numpy(inner / 2)
