"""One run of a softmix sampler that gets one model output at a time. Its x may be changed between two outputs.

A sampler is affine in x for given means. So a change of x by d before an evaluation changes the rest of the run in a
known way: d is multiplied by the factor by which the sampler carries x from each evaluation to the next. `SamplerRun`
leaves the sampler's own x and its history as they are, and carries d beside them.

The history must not depend on d. Most samplers store means. PNDM stores noise estimates, and the classical rule `fon`
stores velocities. These are computed from x and the mean, so the run is sent the mean that gives the right history for
its own x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..posterior import Point
from ..process import Gaussian
from ..sampler import Sampler, Statistics
from ..shape import column

# (x, t) -> the mean for which the sampler stores zero in its history; linear in x
NeutralMean = Callable[[Tensor, Tensor], Tensor]
TIME_TOLERANCE = 1e-9


def neutral_for_means(process: Gaussian) -> NeutralMean:
    """For samplers that store means: 0."""
    return lambda x, t: torch.zeros_like(x)


def neutral_for_noise(process: Gaussian) -> NeutralMean:
    """For samplers that store (x - alpha mean) / sigma: x / alpha."""

    def neutral(x: Tensor, t: Tensor) -> Tensor:
        alpha = process.alpha(t)
        return x / column(alpha, x) if alpha > 0 else torch.zeros_like(x)

    return neutral


def neutral_for_velocity(process: Gaussian, gap: float = 1e-4) -> NeutralMean:
    """For samplers that store alpha' mean + sigma' noise."""

    def neutral(x: Tensor, t: Tensor) -> Tensor:
        low, high = (t - gap).clamp(min=0), (t + gap).clamp(max=1)
        alpha, sigma = ((part(high) - part(low)) / (high - low) for part in (process.alpha, process.sigma))
        slope = sigma * process.alpha(t) - process.sigma(t) * alpha
        return column(sigma / slope, x) * x

    return neutral


def neutral_for_residual(process: Gaussian, statistics: Statistics) -> NeutralMean:
    """For DPM-Solver-v3, which stores (1 - l) x / alpha - mean."""

    def neutral(x: Tensor, t: Tensor) -> Tensor:
        clock = (process.logsnr(t) / 2).reshape(1)
        # 1 / alpha from the clock is finite even at the end of a table without signal
        return (1 - statistics.at(clock)[0][0]).to(x) * x / column(process.sigma(t) * clock[0].exp(), x)

    return neutral


@dataclass(frozen=True)
class EvaluationPlan:
    """The model evaluations of a run.

    times : the time of each evaluation.
    factors : the factor of x from each evaluation to the next one, and from the last one to the end.
    """

    times: list[float]
    factors: list[Tensor]


class _ZeroNoise:
    """An Rng that draws zeros."""

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(shape, dtype=dtype)


def plan_evaluations(
    sampler: Sampler, process: Gaussian, grid: Tensor, neutral: NeutralMean, shape: Sequence[int] = (1,)
) -> EvaluationPlan:
    """The plan of a sampler on a grid, from a trial run on ones with neutral means and no noise.

    shape : the shape of one item of the trial run.
    """
    run = sampler(process, torch.ones(1, *shape, dtype=torch.float64), grid, _ZeroNoise())  # type: ignore[arg-type]
    times, states = [], []
    try:
        ask = next(run)
        while True:
            times.append(float(ask.t))
            states.append(ask.x)
            ask = run.send(Point(neutral(ask.x, ask.t)))
    except StopIteration as end:
        states.append(end.value)
    factors = [torch.where(a != 0, b / a, 0.0) for a, b in pairwise(states)]
    return EvaluationPlan(times, factors)


def starts_inside_a_step(plan: EvaluationPlan, coming: Sequence[float]) -> bool:
    """Whether the next model evaluation ends a step that began before the start of this run.

    Then the evaluation after it has the same time and begins a step, and the plan has no such pair.

    coming : the times of the model evaluations to come.
    """
    pair = len(coming) > 1 and abs(coming[0] - coming[1]) < TIME_TOLERANCE
    return pair and not (len(plan.times) > 1 and abs(plan.times[0] - plan.times[1]) < TIME_TOLERANCE)


def has_evaluation(planned: Sequence[float], coming: Sequence[float]) -> list[bool]:
    """For each planned evaluation, whether a model evaluation at this time comes."""
    hits, j = [], 0
    for t in planned:
        hit = j < len(coming) and abs(coming[j] - t) < TIME_TOLERANCE
        hits.append(hit)
        j += hit
    return hits


def step_times_among(
    evaluations: Sequence[float], n: int, evaluation_times: Callable[[list[float]], list[float]]
) -> list[float] | None:
    """The times of n steps among the times of all evaluations, None if n steps do not have such evaluations.

    evaluation_times : times of steps -> times of the sampler's evaluations.
    """
    even = torch.linspace(0.9, 0.1, n, dtype=torch.float64).tolist()
    order = evaluation_times(even)
    places = [next(i for i, t in enumerate(order) if abs(t - each) < TIME_TOLERANCE) for each in even]
    times = [evaluations[i] for i in places if i < len(evaluations)]
    falls = all(a > b for a, b in pairwise(times))
    return times if len(times) == n and falls else None


class SamplerRun:
    """A run of a sampler from x at grid[0].

    plan : the sampler's evaluations on this grid.
    coming : the times of the model evaluations to come. A planned evaluation without one gets the mean before it.
    """

    def __init__(
        self,
        sampler: Sampler,
        process: Gaussian,
        x: Tensor,
        grid: Tensor,
        rng: Any,
        neutral: NeutralMean,
        plan: EvaluationPlan,
        coming: Sequence[float],
    ):
        self._neutral, self._plan = neutral, plan
        self._has_evaluation = has_evaluation(plan.times, coming)
        self._run = sampler(process, x, grid, rng)
        self._ask = next(self._run)
        self._at = 0
        self._offset: Tensor | None = None
        self.ended = False

    def shift(self, change: Tensor) -> None:
        """Tell the run that x was changed by `change`."""
        self._offset = change if self._offset is None else self._offset + change

    def advance(self, mean: Tensor) -> Tensor:
        """Send the mean; returns x at the next planned evaluation with a model evaluation, or at the end."""
        while True:
            x = self._send(mean)
            if self.ended or self._has_evaluation[self._at]:
                return x

    def _send(self, mean: Tensor) -> Tensor:
        if self._offset is not None:
            mean = mean - self._neutral(self._offset, self._ask.t)
            self._offset = self._plan.factors[self._at].to(self._offset) * self._offset
        try:
            self._ask = self._run.send(Point(mean))
            x = self._ask.x
        except StopIteration as end:
            x, self.ended = end.value, True
        self._at += 1
        return x if self._offset is None else x + self._offset
