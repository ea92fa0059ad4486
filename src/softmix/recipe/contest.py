"""The room of recipes: solvers against each other, where the flow's own end is known and on trained images.

A contest is a list of ways to sample and what is claimed of them. Each solver starts from the same noise; its error is
how far it ends from where the probability-flow ODE leads, root mean square over an item's elements. Both the median and
the mean over items are shown: the mean is ruled by the few that end in another component.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import mean, stdev
from typing import Literal

from torch import Tensor

from ..data import Data, DataError, load
from ..denoiser import Denoiser, mean_only
from ..evaluate import place
from ..evaluate.judge import Reference, features_for
from ..evaluate.points import sliced_wasserstein
from ..oracle import Problem, eight
from ..process import VP, Gaussian, even_logsnr, uniform_logsnr
from ..rng import Rng
from ..sampler import Sampler, Start, adams, drive, sample, traits
from ..sampler.drive import finish
from ..train import Model
from ..train import load as load_run
from .paper import Paper, Role, Scale, Verdict, VerdictRow

Make = Callable[[Problem], Sampler]
Grid = Callable[[Gaussian, int], Tensor]
Numbers = Mapping[tuple[str, str], float]
ORACLE = "eight components in 16 dimensions, exact means"
IMAGES = "Fashion-MNIST, 28 x 28, the mean of the model that ships"


@dataclass(frozen=True)
class Way:
    """A way to sample. make : the sampler, for a problem that it may look at first. grid : for the oracle, by default
    even in logsnr to 12. there : the grid for images, by default the sampler's own. oracle, images : where it runs."""

    name: str
    role: Role
    make: Make
    grid: Grid | None = None
    there: Grid | None = None
    oracle: bool = True
    images: bool = True

    @classmethod
    def of(cls, name: str, role: Role, sampler: Sampler, grid: Grid | None = None) -> Way:
        return cls(name, role, lambda problem: sampler, grid)


def wide(process: Gaussian, n: int) -> Tensor:
    """Even in logsnr from t = 1 to 12: what is left at 6, where images have no more to see, is seen on narrow laws."""
    return uniform_logsnr(process, n, last=12.0)


def steps_for(sampler: Sampler, evaluations: int) -> int:
    """The most steps that cost no more than this; 0 if there are none."""
    return max((n for n in range(1, evaluations + 1) if traits(sampler).evaluations(n) <= evaluations), default=0)


def end_of(problem: Problem, x: Tensor, first: float, denoiser: Denoiser | None = None) -> Tensor:
    """Where the flow leads from x at time `first`, to about 1e-6: 1500 steps of `adams`. denoiser : another than the
    problem's."""
    process = problem.process
    times = even_logsnr(process, 1501, float(process.logsnr(first)), 14.0)
    times[0] = first
    return finish(drive(denoiser or problem.denoiser(), adams, x, times, Rng(0, len(x))))


def on_oracle(
    ways: Sequence[Way],
    counts: Sequence[int],
    seeds: Sequence[int],
    n: int,
    problem: Problem | None = None,
    denoiser: Denoiser | None = None,
    data: str = ORACLE,
) -> list[VerdictRow]:
    """Errors by evaluations, for each way and the grid that suits it. With a denoiser in the place of the problem's,
    what it leads to is no law of the problem, and distances are left out."""
    problem = problem or eight(VP("linear"))
    asked = denoiser or problem.denoiser()
    ways = [way for way in ways if way.oracle]
    made = {way.name: way.make(problem) for way in ways}
    found: dict[tuple[str, str], list[float]] = {}
    for seed in seeds:
        x = problem.process.prior((n, *problem.shape), Rng(seed, n, "contest")).double()
        ends = cache(lambda first, x=x: end_of(problem, x, first, asked))
        exact = problem.sample(n, Rng(seed, n, "exact"))
        for way in ways:
            sampler = made[way.name]
            for count in counts:
                steps = steps_for(sampler, count)
                if steps < traits(sampler).least:
                    continue
                times = (way.grid or wide)(problem.process, steps)
                end = finish(drive(asked, sampler, x, times, Rng(seed, n, "noise")))
                values = {} if denoiser else {"distance": sliced_wasserstein(end, exact, 64, seed=seed)}
                if traits(sampler).order and not traits(sampler).stochastic:
                    off = (end - ends(float(times[0]))).flatten(1).square().mean(1).sqrt()
                    values |= {"median": float(off.median()), "mean": float(off.mean())}
                for metric, value in values.items():
                    found.setdefault((way.name, f"{metric}@{count}"), []).append(value)
        other = problem.sample(n, Rng(seed, n, "other"))
        for count in counts if denoiser is None else ():
            floor = sliced_wasserstein(other, exact, 64, seed=seed)
            found.setdefault(("exact samples", f"distance@{count}"), []).append(floor)
    roles: dict[str, Role] = {way.name: way.role for way in ways} | {"exact samples": "floor"}
    order = [(name, f"{kind}@{count}") for name in roles for kind in ("median", "mean", "distance") for count in counts]
    return [
        row(name, roles[name], metric, found[name, metric], data) for name, metric in order if (name, metric) in found
    ]


def row(name: str, role: Role, metric: str, each: Sequence[float], data: str) -> VerdictRow:
    """One number of a verdict, from its values over seeds."""
    return VerdictRow(name, role, metric, mean(each), stdev(each) if len(each) > 1 else 0.0, len(each), data)


@dataclass(frozen=True)
class Fashion:
    """The model that ships, its mean alone, and what its samples are compared with."""

    means: Denoiser
    model: Model
    data: Data
    reference: Reference

    def distances(
        self,
        n: int,
        steps: int,
        sampler: Sampler = adams,
        start: Start | None = None,
        at: float = 1.0,
        denoiser: Denoiser | None = None,
        seeds: Sequence[int] = range(3),
        grid: Tensor | None = None,
    ) -> list[float]:
        """Fréchet distances of n images each, of as many sets of noise as seeds. denoiser : another than `means`."""
        asked = denoiser or self.means
        drawn = (
            sample(asked, n, steps, sampler=sampler, seed=seed, grid=grid, start=start, at=at, precision="bf16")
            for seed in seeds
        )
        return [self.reference.compare(x.clamp(-1, 1))["frechet"] for x in drawn]


def fashion(say: Callable[[str], None]) -> Fashion | None:
    """None, and a sentence, where the data are not installed."""
    try:
        data, held_out = load("fashion-mnist"), load("fashion-mnist", split="test")
    except DataError as error:
        say(f"without images: {error}")
        return None
    model = load_run("fashion")
    return Fashion(mean_only(model.denoiser), model, data, Reference(data, held_out, features_for(data, place.cache())))


def on_images(ways: Sequence[Way], counts: Sequence[int], n: int, say: Callable[[str], None]) -> list[VerdictRow]:
    """Fréchet distance of the model that ships, by evaluations, of three sets of noise; nothing where the data are not
    installed."""
    found = fashion(say)
    if found is None:
        return []
    rows = []
    for way in ways:
        if not way.images:
            continue
        sampler = way.make(eight())
        for count in counts:
            steps = steps_for(sampler, count)
            if steps < traits(sampler).least:
                continue
            grid = way.there(found.means.process, steps) if way.there else None  # type: ignore[arg-type]
            values = found.distances(n, steps, sampler, grid=grid)
            rows.append(row(way.name, way.role, f"frechet@{count}", values, IMAGES))
        say(f"{way.name}: images measured")
    return rows


def judged(
    paper: Paper, rows: Sequence[VerdictRow], checks: Callable[[Numbers], Mapping[str, bool]], began: float
) -> Verdict:
    """The first check is the claim itself; the others say whether it is what it seems."""
    value = {(row.name, row.metric): row.value for row in rows}
    found = checks(value)
    outcomes = list(found.values())
    verdict: Literal["holds", "holds in part", "does not hold here"] = (
        "holds" if all(outcomes) else "holds in part" if outcomes[0] else "does not hold here"
    )
    why = "; ".join(("" if true else "NOT: ") + text for text, true in found.items())
    return Verdict(paper.claim, verdict, why, tuple(rows), time.perf_counter() - began)


def contest(
    paper: Paper,
    ways: Sequence[Way],
    counts: Sequence[int],
    checks: Callable[[Numbers], Mapping[str, bool]],
    scale: Scale,
    say: Callable[[str], None],
    more: Callable[[Sequence[int], int], list[VerdictRow]] = lambda seeds, n: [],
) -> Verdict:
    """One seed and 512 items at quick scale; five seeds, 1,000 items, and images at full. more : further rows of as
    many seeds and items."""
    began = time.perf_counter()
    seeds, n = ((0,), 512) if scale is Scale.quick else (tuple(range(5)), 1000)
    rows = on_oracle(ways, counts, seeds, n) + more(seeds, n)
    if scale is Scale.full:
        rows += on_images(ways, [count for count in counts if count in (5, 10, 20)], 1000, say)
    return judged(paper, rows, checks, began)
