"""UniCon: one joint model of two signals, and every task a path of their two times.

At both scales the exact posterior of a joint law walks the paths. At full scale nets learn images with their edges
(`unicon_nets`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from ..cond import Cond
from ..denoiser import Denoiser, OnPath, mean_only
from ..measure import replacing
from ..oracle import JointProblem, joint, ks
from ..posterior import Posterior
from ..process import CONTROL, ESTIMATION, JOINT, TimePath, uniform_logsnr
from ..rng import Rng
from ..sampler import adams, along, ancestral, drive, on_grid
from ..sampler.drive import finish
from . import unicon_nets
from .cmde import error_given
from .frame import Arms, Numbers, Results, Trained, TrainedStudy
from .paper import Paper, Role

PAPER = Paper.of(
    "unicon",
    "One model of an image and a second signal with independent times serves every task between them: each task is a "
    "path of the two times.",
)
RESULT = (
    "with the exact posterior every path has its law, and a model of tied times has none for a clean condition; "
    "on images one short training serves both tasks as well as a net for each, "
    "but tied times with the condition replaced, eight runs of 50 steps, have 0.5 and 0.6 of the error; "
    "in one step the signals of a soft mixture agree worse"
)

GAUSS = "a joint Gaussian in 2 + 2 dimensions, exact means"
MIXTURE = "three correlated components in 2 + 2 dimensions, exact posterior, joint generation"
# y is given at half of its time, and keeps this noise
HALF = TimePath(((1.0, 0.5), (0.0, 0.5)))
PATHS = {
    "together": JOINT,
    "y, then x": TimePath(((1.0, 1.0), (1.0, 0.0), (0.0, 0.0))),
    "x, then y": TimePath(((1.0, 1.0), (0.0, 1.0), (0.0, 0.0))),
    "in turns": TimePath(((1.0, 1.0), (0.6, 1.0), (0.6, 0.3), (0.2, 0.3), (0.0, 0.0))),
}
TIED = "tied times, y replaced"
FLOOR = "exact samples"
GAUSS_ROLES: dict[str, Role] = {
    "control": "ours",
    "estimation": "ours",
    **dict.fromkeys(PATHS, "ours"),
    "coarse control": "ours",
    TIED: "baseline",
    FLOOR: "floor",
}
COUNTS = (1, 2, 4)
DRAWS, PRODUCT, TURNS, MEANS = "draws of the pair", "independent draws", "independent draws, y, then x", "means"
MIXTURE_ROLES: dict[str, Role] = {
    DRAWS: "ours",
    PRODUCT: "control",
    TURNS: "control",
    MEANS: "baseline",
    FLOOR: "floor",
}


class Independent(Posterior):
    """x and y drawn independently, each from its own posterior: the knowledge of two separate models."""

    def __init__(self, whole: Posterior, problem: JointProblem):
        self.whole, self.clocks = whole, problem.process

    def sample(self, rng: Rng) -> Tensor:
        first, second = self.whole.sample(rng), self.whole.sample(rng)
        return self.clocks.joined(self.clocks.part(first, 0), self.clocks.part(second, 1))


class _Separate:
    """The denoiser with independent draws."""

    def __init__(self, problem: JointProblem):
        self.inner, self.problem, self.process = problem.denoiser(), problem, problem.process
        self.shape = problem.shape

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Posterior:
        return Independent(self.inner(xt, t), self.problem)


def on_gauss(seed: int, n: int, steps: int) -> Results:
    """Mean and covariance after each path, by a solver of the ODE, with a condition of its own for each item."""
    problem = joint(components=1)
    law, clocks, denoiser = problem.law, problem.process, problem.denoiser()
    solver = on_grid(adams, partial(uniform_logsnr, last=12.0))
    truth, _ = problem.draw(n, Rng(seed, n, "truth"))
    x0, y0 = clocks.part(truth, 0), clocks.part(truth, 1)

    def walked(path: TimePath, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        pair = along(denoiser, path, n, steps, sampler=solver, seed=seed, batch=n, x=x, y=y)
        return torch.cat([part.double() for part in pair], 1)

    results: dict[tuple[str, str], float] = {}

    def record(name: str, errors: Mapping[str, float]) -> None:
        results.update({(name, metric): value for metric, value in errors.items()})

    record("control", error_given(law.mean, law.covariance, walked(CONTROL, y=y0), 2))
    turn = torch.tensor([2, 3, 0, 1])
    mean, covariance = law.mean[turn], law.covariance[turn][:, turn]
    record("estimation", error_given(mean, covariance, walked(ESTIMATION, x=x0)[:, turn], 2))
    for name, path in PATHS.items():
        record(name, error_of(law.mean, law.covariance, walked(path)))
    alpha, sigma = (float(part(0.5)) for part in (clocks.base.alpha, clocks.base.sigma))
    scale = torch.tensor([1.0, 1.0, alpha, alpha], dtype=torch.float64)
    blurred = law.covariance * scale * scale[:, None] + torch.tensor([0, 0, sigma**2, sigma**2]).double().diag()
    record("coarse control", error_given(law.mean * scale, blurred, walked(HALF, y=y0), 2))
    record(TIED, error_given(law.mean, law.covariance, replaced(problem, y0, seed, 2 * steps), 2))
    record(FLOOR, error_given(law.mean, law.covariance, truth, 2))
    return results


def error_of(mean: Tensor, covariance: Tensor, pair: Tensor) -> Mapping[str, float]:
    """The error of the mean in units of the whole standard deviation, and that of the covariance, Frobenius norm."""
    return {
        "mean": float((pair.mean(0) - mean).norm() / covariance.trace().sqrt()),
        "covariance": float((pair.T.cov() - covariance).norm() / covariance.norm()),
    }


def replaced(problem: JointProblem, y: Tensor, seed: int, steps: int) -> Tensor:
    """x given y from a model that knows the diagonal alone: after each step y is replaced by the noised truth."""
    (leg,) = JOINT.legs
    n, clocks = len(y), problem.process
    rng = Rng(seed, n, "replaced")
    known = clocks.joined(torch.zeros(n, clocks.sizes[0], dtype=torch.float64), y)
    seen = torch.arange(sum(clocks.sizes)) >= clocks.sizes[0]
    start = clocks.base.noise(known, 1.0, rng.child("begin")).xt
    grid = uniform_logsnr(clocks.base, steps, last=12.0)
    return finish(drive(OnPath(problem.denoiser(), leg), replacing(known, seen), start, grid, rng))


def on_mixture(seed: int, n: int) -> Results:
    """Kolmogorov's statistic of pairs after 1, 2 and 4 steps on each leg."""
    problem = joint()
    denoiser, separate = problem.denoiser(), _Separate(problem)
    ways: dict[str, tuple[Denoiser, TimePath]] = {
        DRAWS: (denoiser, JOINT),
        PRODUCT: (separate, JOINT),
        TURNS: (separate, PATHS["y, then x"]),
        MEANS: (mean_only(denoiser), JOINT),
    }
    results: dict[tuple[str, str], float] = {}
    for name, (model, path) in ways.items():
        for count in COUNTS:
            pair = torch.cat(along(model, path, n, count, sampler=ancestral, seed=seed, batch=n), 1)
            results[name, f"ks@{count}"] = ks(pair, problem.law)
    results[FLOOR, "ks@1"] = ks(problem.draw(n, Rng(seed, n, "floor"))[0], problem.law)
    return results


def checks(value: Numbers) -> Mapping[str, bool]:
    """The laws of the tasks and of the paths, the tied model, and the draws; with nets those of `unicon_nets`."""

    def worst(name: str) -> float:
        return max(value[name, metric] for metric in ("mean", "covariance"))

    tasks, paths = [worst(name) for name in ("control", "estimation", "together")], [worst(name) for name in PATHS]
    tied, drawn = worst(TIED), value.line(DRAWS, "ks", COUNTS)
    apart, turns, means = (value.line(name, "ks", COUNTS) for name in (PRODUCT, TURNS, MEANS))
    exact = {
        f"control, estimation and joint generation have their laws (errors of {', '.join(_percent(tasks))}, at most "
        "2 %)": max(tasks) < 0.02,
        f"every path has the same law ({', '.join(_percent(paths))})": max(paths) < 0.02,
        f"a noisy condition too ({_percent([worst('coarse control')])[0]})": worst("coarse control") < 0.02,
        f"a model of tied times with y replaced has not ({_percent([tied])[0]}, above 10 %)": tied > 0.1,
        f"draws of the pair are exact in 1, 2 and 4 steps (KS {max(drawn):.1f}, below 2)": max(drawn) < 2,
        f"independent draws of x and y are not in 1 ({apart[0]:.1f}), nor are means ({means[0]:.1f})": (
            min(apart[0], means[0]) > 2 * max(drawn)
        ),
        f"but they are if one signal moves at a time ({max(turns):.1f})": max(turns) < 2,
    }
    return {**exact, **unicon_nets.checks(value)}


def _percent(errors: list[float]) -> list[str]:
    return [f"{100 * error:.1f} %" for error in errors]


run = TrainedStudy(
    PAPER,
    checks,
    [
        Arms(GAUSS_ROLES, on_gauss, GAUSS, quick={"n": 40_000, "steps": 80}, full={"n": 60_000, "steps": 100}),
        Arms(MIXTURE_ROLES, on_mixture, MIXTURE, quick={"n": 20_000}, full={"n": 30_000}),
    ],
    trained=[Trained.of(unicon_nets.WHERE, unicon_nets.arms)],
)
