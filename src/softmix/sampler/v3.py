"""DPM-Solver-v3: the exponential step in a parameterisation fitted to the model."""

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


def statistics_grid(process: Gaussian, n: int) -> Tensor:
    """The grid `few`, begun at a logsnr of -8.8, at which statistics begin: a first step from t = 1 has none."""
    if n < 2:
        return uniform(process, n)
    first = max(-8.8, float(process.logsnr(1.0)))
    return even_logsnr(process, n, first, max(min(6.0, n), first + 1))


@declare("dpm-solver-v3", order=2, grid=statistics_grid, cites=("dpm_solver_v3",))
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
    """DPM-Solver-v3: the exponential step in the parameterisation in which the model is most nearly linear.

    With the statistics l, s, b of the model and lambda = log(alpha / sigma), in the symbols of the paper:

        f_theta(x, lambda) = (sigma eps_theta - l x) / alpha = (1 - l) x / alpha - x_theta
        A = e^{-int l},   E = e^{int (l + s)},   B = int e^{-int s} b        # integrals from lambda_{i-1} to lambda
        g_theta = e^{-int s} f_theta - B

        predictor: g_k = g_theta at the newest n times, g the polynomial through them
        x_i = alpha_i A (x_{i-1} / alpha_{i-1} - int E (B + g) dlambda)
        evaluate f_theta(x_i, lambda_i)
        corrector: the same with lambda_i among the times
        x_i^c goes on; f_theta keeps its value

    The step is exact for a known g. Without statistics l = 1 and s = b = 0: that is the exponential rule for means,
    DPM-Solver++ with exact integrals. Before the first level of the statistics it is so too, so that a grid that begins
    there gains most.

    statistics : of the model, from `softmix.info.fit_statistics` or `softmix statistics RUN`.
    order : the number n of times of the predictor.
    corrects : "no"; "full", through the `order` times and the new one, which raises the order by one; "published", the
        corrector of the authors, through as many times as the predictor had, with the new one among them, and not in
        the first step; "pseudo", their other one, through all of them, with pseudo differences.
    differences : of the predictor. "pseudo" is that of the authors for 5 steps and fewer: a series in u with divided
        differences in the place of derivatives; of order 2 at most. For order 2 it equals "exact".

    Raises SamplerError for other values.
    When to choose: at 5 to 10 steps, if you measure the statistics of the model.
    Source: Zheng et al., "DPM-Solver-v3", NeurIPS 2023, equations 4 to 16, algorithm 3 and appendix B; correctors and
    pseudo differences from their code.
    """
    if corrects not in get_args(Corrector) or differences not in get_args(Differences):
        raise SamplerError(
            f"dpm-solver-v3 was asked for corrects={corrects!r} and differences={differences!r}: give corrects one of "
            f"{', '.join(get_args(Corrector))}, and differences one of {', '.join(get_args(Differences))}"
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
            # f keeps its value, so that the mean changes with x
            mean = mean + _slack(statistics, clock[i], x) * (again - x) / _signal(process, x, t, clock[i])
            x = again
        if math.isinf(clock[i + 1]):
            return process.bridge(x, mean, t, s, rng, eta=0)
        known = [(clock[i], _f(statistics, process, x, mean, t, clock[i])), *known][:order]
        start = x
        x = _step(statistics, process, x, known, clock, i, grid, differences == "pseudo")
    return x


def _slack(statistics: Statistics | None, at: float, x: Tensor) -> Tensor | float:
    """1 - l at a value of the clock."""
    if statistics is None:
        return 0.0
    clock = torch.tensor([at], dtype=torch.float64, device=statistics.clock.device)
    return (1 - statistics.at(clock)[0][0]).to(x)


def _f(statistics: Statistics | None, process: Gaussian, x: Tensor, mean: Tensor, t: Tensor, at: float) -> Tensor:
    return _slack(statistics, at, x) * x / _signal(process, x, t, at) - mean


def _signal(process: Gaussian, x: Tensor, t: Tensor, at: float) -> Tensor:
    """alpha = sigma e^clock, which stays finite for a table that ends without signal."""
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
    """The step from clock[i] to clock[i + 1]. known : times and f at them, clock[i] first."""
    origin = clock[i]
    along = _Integrals(statistics, origin, clock[i + 1])
    values = [known[0][1]]
    for at, f in known[1:]:
        back = _Integrals(statistics, origin, at)
        values.append((-back.s_end).exp().to(x) * f - back.b_end.to(x))
    nodes = [at - origin for at, _ in known]
    lines = (_divided if pseudo else _lagrange)(nodes, along.places)
    total: Tensor | float = along.offset.to(x)
    for line, value in zip(lines, values, strict=True):
        total = total + along.over(line).to(x) * value
    # alpha_s / alpha_t is e^h sigma_s / sigma_t, and alpha near t = 1 has few digits
    factor = column(process.sigma(grid[i + 1]) / process.sigma(grid[i]), x) * along.decay.to(x)
    return factor * x - column(process.alpha(grid[i + 1]), x) * total


def _lagrange(nodes: Sequence[float], places: Tensor) -> list[Tensor]:
    """The Lagrange polynomials of the nodes, at these places."""
    shares = []
    for k, node in enumerate(nodes):
        others = [b for j, b in enumerate(nodes) if j != k]
        shares.append(math.prod(((places - b) / (node - b) for b in others), start=torch.ones_like(places)))
    return shares


def _divided(nodes: Sequence[float], places: Tensor) -> list[Tensor]:
    """The same for the sum of g[0, ..., m] u^m, the divided differences of the first m + 1 nodes; the first is 0."""
    shares = [torch.zeros_like(places) for _ in nodes]
    for m in range(len(nodes)):
        for k in range(m + 1):
            below = math.prod(nodes[k] - nodes[j] for j in range(m + 1) if j != k)
            shares[k] = shares[k] + places**m / below
    return shares


class _Integrals:
    """L, S, B and integrals with the weight e^(L + S) from one value of the clock to another, backwards too.

    Integrals are by the Gauss-Legendre rule, cumulative ones by the integral of the polynomial through its nodes.

    places : the nodes, relative to `start`.
    decay : e^(span - L(end)).
    offset : e^-L(end) int e^(L + S) B.
    s_end, b_end : S and B at the end.
    """

    def __init__(self, statistics: Statistics | None, start: float, end: float):
        device = None if statistics is None else statistics.clock.device
        unit, shares, inner = (part.to(device) for part in _rule())
        span = end - start
        self.places = unit * span
        if statistics is None:
            zero = torch.zeros_like(unit)[:, None]
            l, s, b = zero + 1, zero, zero  # noqa: E741
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
    """Nodes and weights of the Gauss-Legendre rule on [0, 1], and the matrix of integrals from 0 to each node."""
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
