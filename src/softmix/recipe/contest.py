"""Contests of samplers, on a problem with a known flow and on trained images.

All samplers of a contest start from the same noise. The error of an item is the distance between the end of a sampler
and the end of the probability-flow ODE, root mean square over its elements. The table has the median and the mean over
items, because a few items that end in another component dominate the mean.
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
from ..oracle import MixtureProblem, eight
from ..process import VP, Gaussian, even_logsnr, uniform_logsnr
from ..rng import Rng
from ..sampler import Sampler, Start, adams, drive, sample, traits
from ..sampler.drive import finish
from ..train import Model
from ..train import load as load_run
from .frame import Arms, Checks, Study, arm
from .paper import Paper, Role

Make = Callable[[MixtureProblem], Sampler]
Grid = Callable[[Gaussian, int], Tensor]
ORACLE = "eight components in 16 dimensions, exact means"
IMAGES = "Fashion-MNIST, 28 x 28, the mean of the model that ships"
# the counts of a contest at which images are measured
FEW = (5, 10, 20)


@dataclass(frozen=True)
class Way:
    """A way to sample.

    make       : the sampler for a problem. Samplers with statistics of the problem measure them here.
    grid       : the times on the oracle, by default even in logsnr to 12.
    image_grid : the times on images, by default those of the sampler.
    oracle     : whether it runs on the oracle.
    images     : whether it runs on images.
    """

    name: str
    role: Role
    make: Make
    grid: Grid | None = None
    image_grid: Grid | None = None
    oracle: bool = True
    images: bool = True

    @classmethod
    def of(cls, name: str, role: Role, sampler: Sampler, grid: Grid | None = None) -> Way:
        """A sampler that is the same for every problem."""
        return cls(name, role, lambda problem: sampler, grid)


@cache
def narrow() -> MixtureProblem:
    """The problem of every contest: eight narrow components with the process of DDPM."""
    return eight(VP("linear"))


def wide(process: Gaussian, n: int) -> Tensor:
    """n steps, even in logsnr from t = 1 to 12. A grid that ends at 6, as for images, is too short for narrow laws."""
    return uniform_logsnr(process, n, last=12.0)


def steps_for(sampler: Sampler, evaluations: int) -> int:
    """The largest number of steps that costs at most `evaluations`; 0 if that is below the sampler's minimum."""
    most = max((n for n in range(1, evaluations + 1) if traits(sampler).evaluations(n) <= evaluations), default=0)
    return most if most >= traits(sampler).least else 0


def end_of(problem: MixtureProblem, x: Tensor, first: float, denoiser: Denoiser | None = None) -> Tensor:
    """The end of the probability-flow ODE from x at time `first`, to about 1e-6, by 1500 steps of `adams`.

    denoiser : in place of that of the problem.
    """
    process = problem.process
    times = even_logsnr(process, 1501, float(process.logsnr(first)), 14.0)
    times[0] = first
    return finish(drive(denoiser or problem.denoiser(), adams, x, times, Rng(0, len(x))))


def off(x: Tensor, right: Tensor) -> Tensor:
    """The distance of each item from the right one, root mean square over its elements, [B]."""
    return (x - right).flatten(1).square().mean(1).sqrt()


@dataclass(frozen=True, eq=False)
class Field:
    """The problem of a contest.

    guide : a denoiser in place of that of the problem. Its samples do not have the law of the problem, so that a guided
        contest has errors and no distances.
    """

    problem: Callable[[], MixtureProblem] = narrow
    guide: Callable[[MixtureProblem], Denoiser] | None = None

    def denoiser(self) -> Denoiser:
        return self.guide(self.problem()) if self.guide else self.problem().denoiser()

    def start(self, seed: int, n: int) -> Tensor:
        return self.problem().process.prior((n, *self.problem().shape), Rng(seed, n, "contest")).double()

    @lru_cache(maxsize=16)  # noqa: B019 (a field lives as long as the module it stands in)
    def end(self, seed: int, n: int, first: float) -> Tensor:
        """The end of the flow from `start`, the same for all samplers."""
        return end_of(self.problem(), self.start(seed, n), first, self.denoiser())

    def distance(self, x: Tensor, seed: int) -> float:
        """Sliced Wasserstein distance of x to as many exact samples."""
        return sliced_wasserstein(x, self.problem().sample(len(x), Rng(seed, len(x), "exact")), 64, seed=seed)


def errors(field: Field, way: Way, seed: int, n: int, counts: Sequence[int]) -> Mapping[str, float]:
    """The median and mean error and the distance at each count that the sampler can have."""
    sampler = way.make(field.problem())
    values: dict[str, dict[int, float]] = {"median": {}, "mean": {}, "distance": {}}
    for count in counts:
        steps = steps_for(sampler, count)
        if not steps:
            continue
        times = (way.grid or wide)(field.problem().process, steps)
        end = finish(drive(field.denoiser(), sampler, field.start(seed, n), times, Rng(seed, n, "noise")))
        if traits(sampler).order and not traits(sampler).stochastic:
            apart = off(end, field.end(seed, n, float(times[0])))
            values["median"][count], values["mean"][count] = float(apart.median()), float(apart.mean())
        if not field.guide:
            values["distance"][count] = field.distance(end, seed)
    return {f"{kind}@{count}": value for kind, each in values.items() for count, value in each.items()}


def floor(field: Field, seed: int, n: int, counts: Sequence[int]) -> Mapping[str, float]:
    """The distance between two sets of exact samples, the same at each count."""
    distance = field.distance(field.problem().sample(n, Rng(seed, n, "other")), seed)
    return {f"distance@{count}": distance for count in counts}


def on_oracle(ways: Sequence[Way], counts: Sequence[int], field: Field | None = None, data: str = ORACLE) -> list[Arms]:
    """Arms of errors by evaluations: 512 items of one seed at quick scale, 1,000 items of five seeds at full scale."""
    field = field or Field()
    quick, full = ({"n": n, "counts": counts} for n in (512, 1000))
    arms = [arm(way.name, way.role, partial(errors, field, way), data, quick, full) for way in ways if way.oracle]
    exact = arm("exact samples", "floor", partial(floor, field), data, quick, full)
    return arms if field.guide else [*arms, exact]


@dataclass(frozen=True)
class Fashion:
    """The shipped model, its mean alone, and the reference for its samples."""

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
        """Fréchet distance of n images. denoiser : in place of `means`."""
        x = sample(
            denoiser or self.means,
            n,
            steps,
            sampler=sampler,
            seed=seed,
            grid=grid,
            start=start,
            at=at,
            precision="bf16",
        )
        return self.reference.compare(x.clamp(-1, 1))["frechet"]


@cache
def fashion() -> Fashion:
    """The shipped model on Fashion-MNIST. Raises DataError if the data are not installed."""
    data, held_out = load("fashion-mnist"), load("fashion-mnist", split="test")
    model = load_run("fashion")
    return Fashion(
        mean_only(model.denoiser), model, data, ReferenceSet(data, held_out, features_for(data, cache_folder()))
    )


def frechet(way: Way, seed: int, n: int, counts: Sequence[int]) -> Mapping[str, float]:
    """The Fréchet distance of the shipped model, by evaluations."""
    sampler, process, values = way.make(narrow()), cast(Gaussian, fashion().means.process), {}
    for count in counts:
        steps = steps_for(sampler, count)
        if steps:
            grid = way.image_grid(process, steps) if way.image_grid else None
            values[f"frechet@{count}"] = fashion().distance(n, steps, seed, sampler, grid=grid)
    return values


def on_images(ways: Sequence[Way], counts: Sequence[int]) -> list[Arms]:
    """Arms of Fréchet distances by evaluations, at full scale only: 1,000 images of three seeds."""
    full = {"n": 1000, "counts": counts}
    images = [way for way in ways if way.images]
    return [arm(way.name, way.role, partial(frechet, way), IMAGES, full=full, seeds=3, needs=fashion) for way in images]


def contest(
    paper: Paper, ways: Sequence[Way], counts: Sequence[int], checks: Checks, more: Sequence[Arms] = ()
) -> Study:
    """The `run` of a recipe of samplers.

    ways   : the samplers, on the oracle and at full scale on images.
    counts : numbers of evaluations.
    more   : further arms, between those of the oracle and those of images.
    """
    few = [count for count in counts if count in FEW]
    return Study(paper, checks, [*on_oracle(ways, counts), *more, *on_images(ways, few)])
