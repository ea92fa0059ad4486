"""A sampler that is told its answers one at a time, and whose x may be changed in between.

A sampler is affine in x, given what it was told. So if x is changed by d before a question, the rest of the run is what
it would have been, and what d grows to: d times the factor by which the sampler takes x from one question to the next.
The sampler goes on with its own x and its whole memory, and d is carried beside it.

What it remembers must not change with d: means for most samplers, noises for PNDM, the velocity for its classical rule.
Those reckon them from x and the mean; they are sent the mean that makes the right one of their own x.
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

# (x, t) -> the mean with which x leaves nothing to be remembered, linear in x
Nothing = Callable[[Tensor, Tensor], Tensor]
NEAR = 1e-9


def no_mean(process: Gaussian) -> Nothing:
    """Of samplers that remember means."""
    return lambda x, t: torch.zeros_like(x)


def no_noise(process: Gaussian) -> Nothing:
    """Of samplers that remember (x - alpha mean) / sigma."""

    def nothing(x: Tensor, t: Tensor) -> Tensor:
        alpha = process.alpha(t)
        return x / column(alpha, x) if alpha > 0 else torch.zeros_like(x)

    return nothing


def no_velocity(process: Gaussian, gap: float = 1e-4) -> Nothing:
    """Of samplers that remember alpha' mean + sigma' noise."""

    def nothing(x: Tensor, t: Tensor) -> Tensor:
        low, high = (t - gap).clamp(min=0), (t + gap).clamp(max=1)
        alpha, sigma = ((part(high) - part(low)) / (high - low) for part in (process.alpha, process.sigma))
        slope = sigma * process.alpha(t) - process.sigma(t) * alpha
        return column(sigma / slope, x) * x

    return nothing


def no_residue(process: Gaussian, statistics: Statistics) -> Nothing:
    """Of DPM-Solver-v3, which remembers (1 - l) x / alpha - mean."""

    def nothing(x: Tensor, t: Tensor) -> Tensor:
        clock = (process.logsnr(t) / 2).reshape(1)
        # by the clock, alpha is finite where a table ends at no signal
        return (1 - statistics.at(clock)[0][0]).to(x) * x / column(process.sigma(t) * clock[0].exp(), x)

    return nothing


@dataclass(frozen=True)
class Heard:
    """The times that a sampler asks for, and by what x is multiplied from each question to the next, or to the end."""

    times: list[float]
    factors: list[Tensor]


class _Silent:
    """No noise."""

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(shape, dtype=dtype)


def heard(sampler: Sampler, process: Gaussian, grid: Tensor, nothing: Nothing, shape: Sequence[int] = (1,)) -> Heard:
    """The sampler is run on ones, and told nothing that it remembers. shape : of one item."""
    run = sampler(process, torch.ones(1, *shape, dtype=torch.float64), grid, _Silent())  # type: ignore[arg-type]
    times, sizes = [], []
    try:
        ask = next(run)
        while True:
            times.append(float(ask.t))
            sizes.append(ask.x)
            ask = run.send(Point(nothing(ask.x, ask.t)))
    except StopIteration as end:
        sizes.append(end.value)
    factors = [torch.where(a != 0, b / a, 0.0) for a, b in pairwise(sizes)]
    return Heard(times, factors)


def waits(found: Heard, ahead: Sequence[float]) -> bool:
    """Whether the first evaluation to come is none for a run of these questions: the second half of a step that began
    before, at the same time as the next, which begins one."""
    twice = len(ahead) > 1 and abs(ahead[0] - ahead[1]) < NEAR
    return twice and not (len(found.times) > 1 and abs(found.times[0] - found.times[1]) < NEAR)


def served(asked: Sequence[float], ahead: Sequence[float]) -> list[bool]:
    """For each question, whether an evaluation comes for it."""
    found, j = [], 0
    for t in asked:
        hit = j < len(ahead) and abs(ahead[j] - t) < NEAR
        found.append(hit)
        j += hit
    return found


def steps_of(asked: Sequence[float], n: int, run: Callable[[list[float]], list[float]]) -> list[float] | None:
    """The n times of steps among the times of all evaluations, if a sampler asks for just these; `run` says what it
    asks for when its steps are at given times."""
    even = torch.linspace(0.9, 0.1, n, dtype=torch.float64).tolist()
    order = run(even)
    places = [next(i for i, t in enumerate(order) if abs(t - each) < NEAR) for each in even]
    found = [asked[i] for i in places if i < len(asked)]
    falls = all(a > b for a, b in pairwise(found))
    return found if len(found) == n and falls else None


class Hosted:
    """A run from x at grid[0]. ahead : the times of the evaluations that will come. A question that none comes for is
    answered by the belief before it."""

    def __init__(
        self,
        sampler: Sampler,
        process: Gaussian,
        x: Tensor,
        grid: Tensor,
        rng: Any,
        nothing: Nothing,
        plan: Heard,
        ahead: Sequence[float],
    ):
        self._nothing, self._plan = nothing, plan
        self._served = served(plan.times, ahead)
        self._run = sampler(process, x, grid, rng)
        self._ask = next(self._run)
        self._at = 0
        self._moved: Tensor | None = None
        self.ended = False

    def move(self, change: Tensor) -> None:
        """x was changed by that much."""
        self._moved = change if self._moved is None else self._moved + change

    def answer(self, mean: Tensor) -> Tensor:
        """x at the next question that an evaluation comes for, or at the end."""
        while True:
            found = self._answer(mean)
            if self.ended or self._served[self._at]:
                return found

    def _answer(self, mean: Tensor) -> Tensor:
        if self._moved is not None:
            mean = mean - self._nothing(self._moved, self._ask.t)
            self._moved = self._plan.factors[self._at].to(self._moved) * self._moved
        try:
            self._ask = self._run.send(Point(mean))
            x = self._ask.x
        except StopIteration as end:
            x, self.ended = end.value, True
        self._at += 1
        return x if self._moved is None else x + self._moved
