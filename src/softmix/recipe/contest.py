"""Solvers against each other, where the flow's own end is known and on trained images.

A contest is a list of ways to sample and what is claimed of them. Each solver starts from the same noise; its error is
how far it ends from where the probability-flow ODE leads, root mean square over an item's elements. Both the median and
the mean over items are shown: the mean is ruled by the few that end in another component.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import cast

from torch import Tensor

from ..data import Data, load
from ..denoiser import Denoiser, mean_only
from ..evaluate.cache_folder import cache_folder
from ..evaluate.points import sliced_wasserstein
from ..evaluate.reference import ReferenceSet, features_for
from ..oracle import Problem, eight
from ..process import VP, Gaussian, even_logsnr, uniform_logsnr
from ..rng import Rng
from ..sampler import Sampler, Start, adams, drive, sample, traits
from ..sampler.drive import finish
from ..train import Model
from ..train import load as load_run
from .frame import Arms, Checks, Study, arm
from .paper import Paper, Role

Make = Callable[[Problem], Sampler]
Grid = Callable[[Gaussian, int], Tensor]
ORACLE = "eight components in 16 dimensions, exact means"
IMAGES = "Fashion-MNIST, 28 x 28, the mean of the model that ships"
# of a contest's counts, those that images are measured at
FEW = (5, 10, 20)


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


@cache
def narrow() -> Problem:
    """Eight narrow components through DDPM's process: the problem of every contest."""
    return eight(VP("linear"))


def wide(process: Gaussian, n: int) -> Tensor:
    """Even in logsnr from t = 1 to 12: what is left at 6, where images have no more to see, is seen on narrow laws."""
    return uniform_logsnr(process, n, last=12.0)


def steps_for(sampler: Sampler, evaluations: int) -> int:
    """The most steps that cost no more than this; 0 if there are none, or fewer than the sampler takes."""
    most = max((n for n in range(1, evaluations + 1) if traits(sampler).evaluations(n) <= evaluations), default=0)
    return most if most >= traits(sampler).least else 0


def end_of(problem: Problem, x: Tensor, first: float, denoiser: Denoiser | None = None) -> Tensor:
    """Where the flow leads from x at time `first`, to about 1e-6: 1500 steps of `adams`. denoiser : another than the
    problem's."""
    process = problem.process
    times = even_logsnr(process, 1501, float(process.logsnr(first)), 14.0)
    times[0] = first
    return finish(drive(denoiser or problem.denoiser(), adams, x, times, Rng(0, len(x))))


def off(x: Tensor, right: Tensor) -> Tensor:
    """How far each item is from where it should be, root mean square over its elements, [B]."""
    return (x - right).flatten(1).square().mean(1).sqrt()


@dataclass(frozen=True, eq=False)
class Field:
    """The problem that solvers meet on. guide : another denoiser than the problem's. What that leads to is no law of
    the problem: it has no distance."""

    problem: Callable[[], Problem] = narrow
    guide: Callable[[Problem], Denoiser] | None = None

    def denoiser(self) -> Denoiser:
        return self.guide(self.problem()) if self.guide else self.problem().denoiser()

    def start(self, seed: int, n: int) -> Tensor:
        return self.problem().process.prior((n, *self.problem().shape), Rng(seed, n, "contest")).double()

    @lru_cache(maxsize=16)  # noqa: B019 (a field lives as long as the module it stands in)
    def end(self, seed: int, n: int, first: float) -> Tensor:
        """Where the flow leads from the start, the same for all solvers."""
        return end_of(self.problem(), self.start(seed, n), first, self.denoiser())

    def distance(self, x: Tensor, seed: int) -> float:
        """From as many exact samples."""
        return sliced_wasserstein(x, self.problem().sample(len(x), Rng(seed, len(x), "exact")), 64, seed=seed)


def errors(field: Field, way: Way, seed: int, n: int, counts: Sequence[int]) -> Mapping[str, float]:
    """median, mean and distance at each count that the sampler can have."""
    sampler = way.make(field.problem())
    found: dict[str, dict[int, float]] = {"median": {}, "mean": {}, "distance": {}}
    for count in counts:
        steps = steps_for(sampler, count)
        if not steps:
            continue
        times = (way.grid or wide)(field.problem().process, steps)
        end = finish(drive(field.denoiser(), sampler, field.start(seed, n), times, Rng(seed, n, "noise")))
        if traits(sampler).order and not traits(sampler).stochastic:
            apart = off(end, field.end(seed, n, float(times[0])))
            found["median"][count], found["mean"][count] = float(apart.median()), float(apart.mean())
        if not field.guide:
            found["distance"][count] = field.distance(end, seed)
    return {f"{kind}@{count}": value for kind, values in found.items() for count, value in values.items()}


def floor(field: Field, seed: int, n: int, counts: Sequence[int]) -> Mapping[str, float]:
    """The distance of two sets of exact samples, the same at each count."""
    distance = field.distance(field.problem().sample(n, Rng(seed, n, "other")), seed)
    return {f"distance@{count}": distance for count in counts}


def on_oracle(ways: Sequence[Way], counts: Sequence[int], field: Field | None = None, data: str = ORACLE) -> list[Arms]:
    """Errors by evaluations, for each way and the grid that suits it: of 512 items of one seed at quick scale, 1,000 of
    five seeds at full."""
    field = field or Field()
    quick, full = ({"n": n, "counts": counts} for n in (512, 1000))
    arms = [arm(way.name, way.role, partial(errors, field, way), data, quick, full) for way in ways if way.oracle]
    exact = arm("exact samples", "floor", partial(floor, field), data, quick, full)
    return arms if field.guide else [*arms, exact]


@dataclass(frozen=True)
class Fashion:
    """The model that ships, its mean alone, and what its samples are compared with."""

    means: Denoiser
    model: Model
    data: Data
    reference: ReferenceSet

    def distance(
        self,
        n: int,
        steps: int,
        seed: int,
        sampler: Sampler = adams,
        start: Start | None = None,
        at: float = 1.0,
        denoiser: Denoiser | None = None,
        grid: Tensor | None = None,
    ) -> float:
        """Fréchet distance of n images. denoiser : another than `means`."""
        asked = denoiser or self.means
        x = sample(asked, n, steps, sampler=sampler, seed=seed, grid=grid, start=start, at=at, precision="bf16")
        return self.reference.compare(x.clamp(-1, 1))["frechet"]


@cache
def fashion() -> Fashion:
    """Raises DataError where the data are not installed."""
    data, held_out = load("fashion-mnist"), load("fashion-mnist", split="test")
    model = load_run("fashion")
    return Fashion(
        mean_only(model.denoiser), model, data, ReferenceSet(data, held_out, features_for(data, cache_folder()))
    )


def frechet(way: Way, seed: int, n: int, counts: Sequence[int]) -> Mapping[str, float]:
    """Of the model that ships, by evaluations."""
    sampler, process, found = way.make(narrow()), cast(Gaussian, fashion().means.process), {}
    for count in counts:
        steps = steps_for(sampler, count)
        if steps:
            grid = way.there(process, steps) if way.there else None
            found[f"frechet@{count}"] = fashion().distance(n, steps, seed, sampler, grid=grid)
    return found


def on_images(ways: Sequence[Way], counts: Sequence[int]) -> list[Arms]:
    """At full scale alone: 1,000 images of three sets of noise each."""
    full = {"n": 1000, "counts": counts}
    images = [way for way in ways if way.images]
    return [arm(way.name, way.role, partial(frechet, way), IMAGES, full=full, seeds=3, needs=fashion) for way in images]


def contest(
    paper: Paper, ways: Sequence[Way], counts: Sequence[int], checks: Checks, more: Sequence[Arms] = ()
) -> Study:
    """Ways on the oracle, then `more` arms, then the ways on images, by numbers of evaluations."""
    few = [count for count in counts if count in FEW]
    return Study(paper, checks, [*on_oracle(ways, counts), *more, *on_images(ways, few)])
