"""AFDPS: particles with the likelihood at x itself, and the posteriors of many methods against the exact one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import cast

import torch
from torch import Tensor

from ..data.toys import ToyMixture
from ..denoiser import Wrap
from ..evaluate import sliced_wasserstein
from ..evaluate.points import histogram_tv
from ..measure import (
    GaussianNoise,
    Instrument,
    MatrixOperator,
    afdps,
    ddrm,
    even_in_variance,
    guided_by_draws,
    guided_by_jacobian,
    guided_by_mean,
    guided_by_moments,
    guided_by_pseudo_inverse,
    of_data,
    proximal,
    twisted,
)
from ..oracle import MixtureProblem, ObservedProblem
from ..process import VP, few, uniform
from ..rng import Rng
from ..sampler import Sampler, WeightedSamples, ancestral, sample
from .frame import Arms, Numbers, Results, Study
from .paper import Paper, Role

PAPER = Paper.of(
    "afdps",
    "Weighted particles of p_t(x) p(y | x) sample the posterior of an inverse problem more accurately than guidance by "
    "an approximate p(y | x_t), and their error falls with the number of particles.",
)
RESULT = ""

F64 = torch.float64
DIM, COMPONENTS, SD = 8, 6, 0.25
WHERE = "mixture of 6 Gaussians in 8 dimensions"
# (measured numbers, noise): precise measurements, and one that the prior's draws hit more often
CASES = ((5, 0.15), (6, 0.1), (3, 0.3))
STEPS = 60
# the first sigma^2 / alpha^2 of afdps; the data have a variance of about 1
TOP = 16.0
SCALES = (0.1, 0.3, 1.0)
MEASURES = ("sliced W1", "TV of modes", "coverage of 90 %")

PRIOR = "importance sampling from the prior"
SDE, ODE = "AFDPS, SDE", "AFDPS, ODE"
TWISTED, TWISTED_DRAWS = "twisted particles, pseudo-inverse", "twisted particles, 16 draws"
FLOOR, UNGUIDED = "exact draws", "prior"
NAMES: dict[str, Role] = {
    FLOOR: "floor",
    UNGUIDED: "control",
    PRIOR: "baseline",
    SDE: "ours",
    ODE: "control",
    TWISTED: "control",
    TWISTED_DRAWS: "control",
    **{f"guided by the mean, scale {scale:g}": "baseline" for scale in SCALES},
    "guided by the pseudo-inverse": "baseline",
    "guided by moments": "baseline",
    "guided by the Jacobian": "baseline",
    "guided by 16 draws": "control",
    "proximal steps": "baseline",
    "DDRM": "baseline",
}


@dataclass(frozen=True)
class Observation:
    """A measurement of a mixture.

    number : of measured values.
    noise : its standard deviation.
    seed : of the law, of A and of y.
    """

    number: int
    noise: float
    seed: int

    @cached_property
    def problem(self) -> MixtureProblem:
        means = Rng(self.seed, COMPONENTS, "means").normal((COMPONENTS, DIM), F64)
        roots = (SD * torch.eye(DIM, dtype=F64)).expand(COMPONENTS, DIM, DIM)
        weights = torch.full((COMPONENTS,), 1 / COMPONENTS, dtype=F64)
        return MixtureProblem("mixture", ToyMixture("mixture", weights, means, roots), VP(), (DIM,))

    @cached_property
    def observed(self) -> ObservedProblem:
        matrix = Rng(self.seed, self.number, "matrix").normal((self.number, DIM), F64) / DIM**0.5
        return ObservedProblem(self.problem, matrix, self.noise)

    @cached_property
    def y(self) -> Tensor:
        return cast(Tensor, self.observed.draw(1, Rng(self.seed, 1, "observation"))[1].value)

    @property
    def instrument(self) -> Instrument:
        return Instrument(MatrixOperator(self.observed.matrix, (DIM,)), GaussianNoise(self.noise))

    def exact(self, n: int, role: str) -> Tensor:
        return self.observed.given(self.y).draws(n, Rng(self.seed, 1, role))[:, 0]

    def measured(self, x: Tensor, seed: int) -> dict[str, float]:
        """The distances of draws from the exact posterior."""
        x, reference = x.double(), self.exact(4000, "reference")
        low, high = x.quantile(0.05, 0), x.quantile(0.95, 0)
        apart = torch.cdist(x, self.problem.law.means)
        weights = self.observed.given(self.y).log_weights.exp()[0]
        return {
            "sliced W1": sliced_wasserstein(x, reference, seed=seed),
            "TV of modes": histogram_tv(apart.argmin(1), weights),
            "coverage of 90 %": float(((reference >= low) & (reference <= high)).double().mean()),
        }


def methods(one: Observation, n: int, seed: int) -> dict[str, Callable[[], Tensor | WeightedSamples]]:
    """Each way to draw from the posterior."""
    denoiser, instrument, y = one.problem.denoiser(), one.instrument, one.y
    likelihood, grid = instrument.likelihood(y), uniform(VP(), STEPS)
    pseudo_inverse = guided_by_pseudo_inverse(instrument, y)

    def by(wrap: Wrap, sampler: Sampler = ancestral) -> Callable[[], Tensor]:
        return lambda: sample(wrap(denoiser), n, sampler=sampler, seed=seed, grid=grid, batch=n)

    def particles(wrap: Wrap) -> Callable[[], WeightedSamples]:
        return lambda: twisted(wrap(denoiser), likelihood, grid, Rng(seed, n, "particles"), dtype=F64)

    norm = float(torch.linalg.matrix_norm(one.observed.matrix, 2))
    # twice as many steps as stability asks for
    fine = even_in_variance(VP(), math.ceil(TOP * norm**2 / one.noise**2), TOP)
    draws = guided_by_draws(likelihood, 16, Rng(seed, n, "draws"))
    found: dict[str, Callable[[], Tensor | WeightedSamples]] = {
        FLOOR: lambda: one.exact(n, f"floor {seed}"),
        UNGUIDED: by(lambda own: own),
        PRIOR: lambda: twisted(denoiser, likelihood, few(VP(), 200), Rng(seed, n, "prior"), least=0.0, dtype=F64),
        SDE: lambda: afdps(denoiser, instrument, y, fine, Rng(seed, n, "particles"), dtype=F64),
        ODE: lambda: afdps(denoiser, instrument, y, fine[::4], Rng(seed, n, "particles"), "ode", dtype=F64),
        TWISTED: particles(pseudo_inverse),
        TWISTED_DRAWS: particles(draws),
        "guided by the pseudo-inverse": by(pseudo_inverse),
        "guided by moments": by(guided_by_moments(instrument, y)),
        "guided by the Jacobian": by(guided_by_jacobian(instrument, y, 8)),
        "guided by 16 draws": by(draws),
        "proximal steps": by(proximal(instrument, y, of_data())),
        "DDRM": by(lambda own: own, ddrm(instrument, y)),
    }
    return found | {f"guided by the mean, scale {scale:g}": by(guided_by_mean(likelihood, scale)) for scale in SCALES}


def measure(name: str, seed: int, n: int, observations: int, cases: int) -> Results:
    """The distances of a method for each case, the mean over observations; the effective share of particles."""
    results: dict[tuple[str, str], float] = {}
    for number, noise in CASES[:cases]:
        rows = []
        for k in range(observations):
            one = Observation(number, noise, k)
            found = methods(one, n, seed)[name]()
            share = {}
            if isinstance(found, WeightedSamples):
                share = {"effective share": found.effective_size / n, "evaluations": float(found.calls)}
                found = found.resampled(n, Rng(seed, n, "resampled"))
            rows.append(one.measured(found, seed) | share)
        for key in rows[0]:
            results[name, f"{key}, {case_name(number, noise)}"] = sum(row[key] for row in rows) / len(rows)
    return results


def case_name(number: int, noise: float) -> str:
    return f"{number} values, noise {noise:g}"


def falling(seed: int, n: int, observations: int) -> Results:
    """The distance of AFDPS by the number of particles, n / 9, n / 3 and n, for the first case."""
    results: dict[tuple[str, str], float] = {}
    for count in (n // 9, n // 3, n):
        key = f"sliced W1, {case_name(*CASES[0])}"
        results[FALLING, f"particles@{count}"] = measure(SDE, seed, count, observations, 1)[SDE, key]
    return {(FALLING, metric): value for (_, metric), value in results.items()}


FALLING = "AFDPS, SDE, by particles"
COUNTS = (100, 300, 900)


def checks(value: Numbers) -> Mapping[str, bool]:
    """Against importance sampling, the best guidance, and particles with another potential; and the rate."""
    found: dict[str, bool] = {}
    guidance = [name for name, role in NAMES.items() if role == "baseline" and name != PRIOR]
    for number, noise in CASES:
        where = case_name(number, noise)
        distance = {
            name: value[name, f"sliced W1, {where}"] for name in NAMES if (name, f"sliced W1, {where}") in value
        }
        if SDE not in distance:
            continue
        share, best = value[PRIOR, f"effective share, {where}"], min(guidance, key=lambda name: distance[name])
        if share < 0.01:
            found[
                f"{where}: AFDPS is ahead of importance sampling by 30 % ({distance[SDE]:.3f}, {distance[PRIOR]:.3f} "
                f"with {100 * share:.2g} % effective, floor {distance[FLOOR]:.3f})"
            ] = distance[SDE] <= 0.7 * distance[PRIOR]
        found[f"{where}: and of every guidance (the best: {best}, {distance[best]:.3f})"] = (
            distance[SDE] < distance[best]
        )
        found[
            f"{where}: twisted particles with {STEPS} evaluations do not reach it ({distance[TWISTED]:.3f}, and AFDPS "
            f"takes {value[SDE, f'evaluations, {where}']:.0f})"
        ] = distance[TWISTED] > distance[SDE]
    if (FALLING, f"particles@{COUNTS[0]}") in value:
        line = value.line(FALLING, "particles", COUNTS)
        slope = (math.log(line[-1]) - math.log(line[0])) / (math.log(COUNTS[-1]) - math.log(COUNTS[0]))
        found[f"its error falls with the number of particles, as N^{slope:.2f} (-0.5 plus or minus 0.2)"] = (
            abs(slope + 0.5) <= 0.2
        )
    return found


run = Study(
    PAPER,
    checks,
    [
        *(
            Arms(
                {name: role},
                partial(measure, name),
                WHERE,
                {"n": 300, "observations": 1, "cases": 1},
                {"n": 300, "observations": 3, "cases": 3},
                seeds=3,
            )
            for name, role in NAMES.items()
        ),
        Arms({FALLING: "ours"}, falling, WHERE, None, {"n": COUNTS[-1], "observations": 3}, seeds=3),
    ],
)
