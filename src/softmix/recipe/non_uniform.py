"""Non-uniform diffusion: exact laws of its samples on Gaussian data, and at full scale networks on images.

The data are Gaussian, with the mean and the covariance of images. The posterior's mean is then linear in x_t, and so is
every step of a sampler: the law of the samples is an exact Gaussian, without any draw. Each process gets its best grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..data import load
from ..data.toys import ToyMixture
from ..denoiser import Denoiser, MultiScale, in_frame
from ..evaluate.frechet import Moments, frechet
from ..oracle import FramedProblem, MixtureProblem
from ..posterior import HasMean, need
from ..process import (
    VP,
    ConstantSpeed,
    Gaussian,
    NonUniform,
    Process,
    band_of,
    few,
    terminal_kl,
    uniform,
    uniform_logsnr,
)
from ..rng import Rng
from ..sampler import Sampler, adams, ddim, drive
from ..sampler.drive import finish
from .cmde import cmde_arms, cmde_checks
from .frame import Arms, Numbers, Results, Trained, TrainedStudy
from .non_uniform_images import PICTURES, image_arms, image_checks
from .paper import Paper, Role

PAPER = Paper.of(
    "non_uniform",
    "If fine details become noise first, smaller networks serve the coarse image, and samples of the same quality cost "
    "less.",
)
RESULT = (
    "with exact models of Gaussian images a multi-scale model needs less work by a solver from 8 to 32 evaluations and "
    "more at 4, at 64 and by ancestral steps; one network gains from details that become noise first at 8 alone, and "
    "the reverse order at 8, 16 and 32; a condition that is diffused slowly has a small bias, in closed form"
)

LEVELS, COUNTS = 2, (4, 8, 16, 32, 64)
# the logsnr at which bands are dropped
LASTS = (-2.0, -4.0, -6.0, -8.0, -10.0)
BANDS = ("fine", "middle", "coarse")
GRIDS: tuple[Callable[[Process, int], Tensor], ...] = (uniform, few, uniform_logsnr)
PLAIN, SINGLE, MULTI = "uniform", "non-uniform, one network", "multi-scale"
REVERSED, SPEED = "coarse band first", "uniform, constant speed"
ROLES: dict[str, Role] = {
    PLAIN: "baseline",
    SINGLE: "ours",
    MULTI: "ours",
    REVERSED: "control",
    SPEED: "control",
}


@dataclass(frozen=True, eq=False)
class Law:
    """A Gaussian of Haar coefficients: its mean [D] and covariance [D, D]."""

    mean: Tensor
    covariance: Tensor

    def off(self, right: Law, part: Tensor | None = None) -> float:
        """The Bures distance, the root of the squared Frechet distance, of all coefficients or of a part."""
        keep = torch.ones_like(self.mean, dtype=torch.bool) if part is None else part
        each = (Moments(law.mean[keep], law.covariance[keep][:, keep], 2) for law in (self, right))
        return frechet(*each) ** 0.5

    def nats(self, right: Law) -> float:
        """KL(self || right)."""
        root = torch.linalg.cholesky(right.covariance)
        own = torch.linalg.eigvalsh(self.covariance).clamp(min=1e-12)
        spread = torch.cholesky_solve(self.covariance, root).trace() - own.log().sum()
        shift = torch.linalg.solve_triangular(root, (self.mean - right.mean)[:, None], upper=False).square().sum()
        return float(spread + shift + 2 * root.diagonal().log().sum() - len(self.mean)) / 2


@cache
def data(name: str, size: int) -> tuple[MixtureProblem, Tensor]:
    """The Gaussian of images, in pixels, and some of the images. 1e-3 is added to each variance."""
    images = load(name, size=size)
    x0 = images.x0(slice(0, 20_000)).double()
    flat = x0.flatten(1)
    covariance = torch.cov(flat.T, correction=0) + 1e-3 * torch.eye(flat.shape[1], dtype=torch.float64)
    law = ToyMixture(name, torch.ones(1, dtype=torch.float64), flat.mean(0)[None], _root(covariance)[None])
    return MixtureProblem(name, law, VP(), tuple(x0.shape[1:])), x0[:4000]


def _root(covariance: Tensor) -> Tensor:
    return torch.linalg.cholesky(covariance)


def coarse_problem(whole: FramedProblem, level: int) -> FramedProblem:
    """The means of 2^level x 2^level pixels, through their own process."""
    assert isinstance(whole.process, NonUniform)
    process, law, side = whole.process.coarse(level), whole.problem.law, 2**level
    if not level:
        return whole

    def small(x: Tensor) -> Tensor:
        return avg_pool2d(x.reshape(-1, *whole.shape), side).flatten(1)

    half = small(law.factors[0].mT)
    own = ToyMixture(law.name, law.weights, small(law.means), _root(half.mT @ half)[None])
    shape = (whole.shape[0], *process.size)
    return FramedProblem(MixtureProblem(law.name, own, VP(), shape), process)


def multi_scale(whole: FramedProblem, mean: Tensor | None = None) -> MultiScale:
    """A multi-scale model of exact denoisers."""
    assert isinstance(whole.process, NonUniform)
    return MultiScale([coarse_problem(whole, level).denoiser() for level in range(whole.process.levels + 1)], mean)


def true_law(problem: MixtureProblem) -> Law:
    """The law of the data, in Haar coefficients."""
    inside = in_bands(problem)
    return Law(inside.law.mean, inside.law.covariance)


def in_bands(problem: MixtureProblem) -> MixtureProblem:
    """The same law of Haar coefficients, with the process as it is. White noise is the same there."""
    height, width = problem.shape[1:]
    haar = NonUniform((height, width), LEVELS)
    return replace(FramedProblem(problem, haar).inside(), process=problem.process)


Sampling = Callable[[Denoiser, Tensor], Law]


def by_solver(solver: Sampler) -> Sampling:
    """The law of the samples of a solver of the ODE: an affine image of the noise, found by unit vectors."""

    def law(denoiser: Denoiser, grid: Tensor) -> Law:
        x = _units(denoiser)
        end = finish(drive(denoiser, solver, x, grid, Rng(0, len(x)))).flatten(1)
        image = (end[1:] - end[0]) * _flat(_base(denoiser).sigma(1.0), x)[:, None]
        return Law(end[0], image.mT @ image)

    return law


def by_ancestral(denoiser: Denoiser, grid: Tensor) -> Law:
    """The law of the samples of DDPM, `ancestral` with the mean in the place of a draw."""
    process, x = _base(denoiser), _units(denoiser)
    mean, covariance = torch.zeros_like(x[0].flatten()), _flat(process.sigma(1.0), x).square().diag()
    for t, s in pairwise(grid):
        answer = need(denoiser(x, t), HasMean, "the recipe").mean.flatten(1)
        of_x0, of_xt, of_noise = (_flat(share, x) for share in process.shares(t, s))
        step = of_xt.diag() + (answer[1:] - answer[0]) * of_x0
        mean = mean @ step + of_x0 * answer[0]
        covariance = step.mT @ covariance @ step + of_noise.square().diag()
    return Law(mean, covariance)


def _base(denoiser: Denoiser) -> Gaussian:
    process = denoiser.process
    assert isinstance(process, Gaussian)
    return process


def _units(denoiser: Denoiser) -> Tensor:
    """0 and the unit vectors, [D + 1, *shape]."""
    shape: tuple[int, ...] = denoiser.shape  # type: ignore[attr-defined]
    size = torch.Size(shape).numel()
    return torch.cat([torch.zeros(1, size), torch.eye(size)]).double().reshape(-1, *shape)


def _flat(share: Tensor, x: Tensor) -> Tensor:
    """A number, or an array of the rank of x, as [D]."""
    return share.double().expand(1, *x.shape[1:]).flatten()


SAMPLINGS: dict[str, Sampling] = {"adams": by_solver(adams), "ddim": by_solver(ddim), "ancestral": by_ancestral}


def denoisers(problem: MixtureProblem) -> dict[str, list[Denoiser]]:
    """The denoisers of each arm, in Haar coefficients. The uniform process has several schedules."""
    height, width = problem.shape[1:]
    paced = NonUniform((height, width), LEVELS)
    inside, spread = in_bands(problem), torch.linalg.eigvalsh(problem.law.covariance)
    whole = FramedProblem(problem, paced)
    other = FramedProblem(problem, replace(paced, ends=paced.ends[::-1]))
    return {
        PLAIN: [inside.through(VP()).denoiser(), inside.through(VP("linear")).denoiser()],
        SINGLE: [in_frame(whole.denoiser())],
        MULTI: [in_frame(multi_scale(whole, problem.law.mean.reshape(problem.shape)))],
        REVERSED: [in_frame(other.denoiser())],
        SPEED: [inside.through(ConstantSpeed.of(spread)).denoiser()],
    }


def grid_for(denoiser: Denoiser, make: Callable[[Process, int], Tensor], evaluations: int, work: bool) -> Tensor:
    """A grid of so many evaluations; or, for a multi-scale model, of so much work, in evaluations of the full size."""
    fitted = getattr(denoiser, "fitted", None)
    process = denoiser.process
    if fitted is None:
        return make(process, evaluations)
    grid = fitted(make(process, evaluations))
    more = evaluations
    while work and cost(denoiser, longer := fitted(make(process, more + 1))) <= evaluations:
        grid, more = longer, more + 1
    return grid


def cost(denoiser: Denoiser, grid: Tensor) -> float:
    """The work of a run in evaluations of the full size: a network's operations are as many as its places."""
    stage = getattr(denoiser, "stage", lambda t: 0)
    return sum(4.0 ** -stage(t) for t in grid[:-1])


def measure(seed: int, name: str, size: int, counts: Sequence[int]) -> Results:
    """The distance from the law of the data, for each process, sampler and number of evaluations; by the best grid."""
    problem, images = data(name, size)
    right, bands = true_law(problem), band_of((size, size), LEVELS).expand(*problem.shape).flatten()
    results: dict[tuple[str, str], float] = {}
    for arm, each in denoisers(problem).items():
        for kind, sampling in SAMPLINGS.items():
            for count in counts:
                work = arm == MULTI
                grids = [(denoiser, grid_for(denoiser, make, count, work)) for denoiser in each for make in GRIDS]
                laws = [sampling(denoiser, grid) for denoiser, grid in grids]
                best = min(laws, key=lambda law: law.off(right))
                results[arm, f"{kind} distance@{count}"] = best.off(right)
                if kind == "adams":
                    results[arm, f"nats@{count}"] = min(law.nats(right) for law in laws)
                    for band, called in enumerate(BANDS):
                        results[arm, f"{called}@{count}"] = best.off(right, bands == band)
    return results | dict(_of_evaluations(problem, right, counts)) | dict(_of_lost_signal(problem, images, right))


def _of_evaluations(
    problem: MixtureProblem, right: Law, counts: Sequence[int]
) -> Iterator[tuple[tuple[str, str], float]]:
    """The multi-scale model and one network at the same times, and the share of the work that the first needs."""
    (model,), (single,) = (denoisers(problem)[arm] for arm in (MULTI, SINGLE))
    for count in counts:
        grids = [grid_for(model, make, count, work=False) for make in GRIDS]
        found, grid = min(
            ((SAMPLINGS["adams"](model, grid).off(right), grid) for grid in grids), key=lambda each: each[0]
        )
        yield (MULTI, f"equal evaluations@{count}"), found
        yield (SINGLE, f"equal evaluations@{count}"), SAMPLINGS["adams"](single, grid).off(right)
        yield (MULTI, f"share of the work@{count}"), cost(model, grid) / count


def _of_lost_signal(problem: MixtureProblem, images: Tensor, right: Law) -> Iterator[tuple[tuple[str, str], float]]:
    """64 steps with bands that are dropped at each logsnr: the signal that is lost, and the distance beyond that of one
    network."""
    height, width = problem.shape[1:]
    for last in LASTS:
        process = NonUniform((height, width), LEVELS, last=last)
        whole = FramedProblem(problem, process)
        lost = sum(terminal_kl(process, images))
        model = in_frame(multi_scale(whole, problem.law.mean.reshape(problem.shape)))
        grid = grid_for(model, uniform, 64, work=False)
        laws = [SAMPLINGS["adams"](each, grid).off(right) for each in (model, in_frame(whole.denoiser()))]
        yield (MULTI, f"lost nats@{last:g}"), lost
        yield (MULTI, f"distance beyond@{last:g}"), laws[0] - laws[1]


def checks(value: Numbers) -> dict[str, bool]:
    """The claim at equal work, then at equal evaluations, the controls, and the signal that is lost."""
    counts = [count for count in COUNTS if (PLAIN, f"adams distance@{count}") in value]

    def less(ours: str, other: str, kind: str) -> list[int]:
        pairs = zip(value.line(ours, kind, counts), value.line(other, kind, counts), strict=True)
        return [count for count, (own, rival) in zip(counts, pairs, strict=True) if own < rival]

    def text(found: Sequence[int]) -> str:
        return ", ".join(map(str, found)) or "none"

    most = len(counts) // 2 + 1
    by_work = {kind: less(MULTI, PLAIN, f"{kind} distance") for kind in SAMPLINGS}
    in_nats, single = less(MULTI, PLAIN, "nats"), less(SINGLE, PLAIN, "adams distance")
    turned, speed = less(SINGLE, REVERSED, "adams distance"), less(MULTI, SPEED, "adams distance")
    alike = (value.line(arm, "equal evaluations", counts) for arm in (MULTI, SINGLE))
    near = [a / b for a, b in zip(*alike, strict=True)]
    lost, beyond = (value.line(MULTI, kind, LASTS) for kind in ("lost nats", "distance beyond"))
    shares = value.line(MULTI, "share of the work", counts)
    found = {
        f"at equal work a multi-scale model is nearer than the uniform process by adams at "
        f"{text(by_work['adams'])} evaluations of the full size (most of {text(counts)})": len(by_work["adams"])
        >= most,
        f"and by ancestral steps, the paper's, at {text(by_work['ancestral'])}": len(by_work["ancestral"]) >= most,
        f"and in nats at {text(in_nats)}": len(in_nats) >= most,
        f"and than the uniform process at constant speed at {text(speed)}": len(speed) >= most,
        f"one network for all bands is nearer than the uniform process at equal evaluations at {text(single)}": (
            len(single) >= most
        ),
        f"and than with the coarse band first at {text(turned)}": len(turned) >= most,
        f"the dropped bands cost little: at the same times the distance is {max(near):.2f} of one network's at most, "
        f"for {min(shares):.2f} to {max(shares):.2f} of the work": max(near) < 1.1,
        f"the lost signal tells of it: from {lost[0]:.3g} to {lost[-1]:.2g} nats the distance beyond falls from "
        f"{beyond[0]:.3f} to {beyond[-1]:.4f}": beyond[0] > beyond[1] > beyond[2] >= beyond[-1] - 1e-6,
    }
    return {**image_checks(value), **found, **cmde_checks(value)}


run = TrainedStudy(
    PAPER,
    checks,
    [
        Arms(
            ROLES,
            measure,
            "Gaussian with the moments of digits, 8 x 8",
            quick={"name": "digits", "size": 8, "counts": COUNTS[:4]},
            full={"name": "digits", "size": 8, "counts": COUNTS},
            # nothing is drawn
            seeds=1,
        ),
        *cmde_arms(),
    ],
    trained=[Trained.of(PICTURES, image_arms)],
)
