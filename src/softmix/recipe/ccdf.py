"""The room of recipes: Come-Closer-Diffuse-Faster. Where should reconstruction start?"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from itertools import pairwise

import torch
from torch import Tensor

from ..oracle import Problem, digits
from ..posterior import HasMean, Posterior, need
from ..process import VP, Gaussian, rest
from ..rng import Rng
from ..sampler import Ask, Sampler, drive, noised
from ..sampler.drive import finish
from .frame import Arms, Numbers, Results, Study
from .paper import Paper, Role

PAPER = Paper.of(
    "ccdf",
    "Reconstruction that starts from a noised first estimate, not from noise, needs fewer steps and is better.",
)
FOUND = "ten steps from a noised estimate are better than a hundred from noise"

DATA = "ten Gaussians fitted to the digits, 8 x 8, every other row measured, exact means"
LEVELS = (-10.0, -4.0, -2.0, 0.0, 2.0, 4.0)
STEPS = 10
FIRST = f"rmse@{LEVELS[0]:g}"


def replacing(y: Tensor, seen: Tensor) -> Sampler:
    """Ancestral steps whose measured elements [D] are then replaced by the measurement, noised to the same level.

    x_s <- (1 - P) x_s + P (alpha_s y + sigma_s z): the projection is no expansion, which the paper's bound needs.
    """

    def sampler(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
        for t, s in pairwise(grid):
            posterior = need((yield Ask(t, x)), HasMean, "ccdf")
            x = process.bridge(x, posterior.mean, t, s, rng)
            known = process.noise(y, float(s), rng).xt if s > 0 else y
            x = torch.where(seen, known, x)
        return x

    return sampler


ROLES: dict[str, Role] = {
    "from a rough estimate": "ours",
    "from a better estimate": "ours",
    "one evaluation at that level": "control",
    "without the measurement": "control",
    "from noise, 100 steps": "baseline",
    "the rough estimate itself": "baseline",
    "the better estimate itself": "baseline",
    "the posterior's mean": "oracle",
}


def measure(seed: int, n: int) -> Results:
    """Ten steps from each level of noise, from a rough estimate and from a better one."""
    problem, seen = digits(), (torch.arange(64) // 8 % 2 == 0).reshape(1, 8, 8)
    x0 = problem.sample(n, Rng(seed, n, "x0"))
    # rows repeated; and what is missing half way to the truth
    rough = torch.where(seen, x0, x0.roll(1, -2))
    better = (rough + x0) / 2

    def ran(first: Tensor, level: float, steps: int, known: Tensor) -> Tensor:
        t = 1.0 if level <= -10 else float(VP().time(level))
        rng = Rng(seed, n, f"run {level}")
        x = noised(first)(VP(), x0.shape, t, rng).double()
        return finish(drive(problem.denoiser(), replacing(x0, known), x, rest(VP(), steps, t), rng))

    made: dict[tuple[str, str], Tensor] = {}
    for level in LEVELS:
        metric = f"rmse@{level:g}"
        made["from a rough estimate", metric] = ran(rough, level, STEPS, seen)
        made["from a better estimate", metric] = ran(better, level, STEPS, seen)
        made["one evaluation at that level", metric] = ran(rough, level, 1, seen)
        made["without the measurement", metric] = ran(rough, level, STEPS, torch.zeros_like(seen))
    made["from noise, 100 steps", FIRST] = ran(torch.zeros_like(x0), LEVELS[0], 100, seen)
    made["the rough estimate itself", FIRST] = rough
    made["the better estimate itself", FIRST] = better
    made["the posterior's mean", FIRST] = exact_mean(problem, x0, seen)
    return {key: float((x.to(x0) - x0)[:, ~seen].square().mean().sqrt()) for key, x in made.items()}


def checks(value: Numbers) -> Mapping[str, bool]:
    """Ten steps from each level of noise, from a rough estimate and from a better one."""
    curve = {name: value.line(name, "rmse", LEVELS) for name in list(ROLES)[:4]}
    rough, better = curve["from a rough estimate"], curve["from a better estimate"]
    best = min(rough)
    at = [LEVELS[each.index(min(each))] for each in (rough, better)]
    whole = value["from noise, 100 steps", FIRST]
    once, free = min(curve["one evaluation at that level"]), min(curve["without the measurement"])
    ends = value["the rough estimate itself", FIRST], value["the better estimate itself", FIRST]
    return {
        f"ten steps from it are better than a hundred from noise ({best:.3f}, {whole:.3f})": best < whole,
        f"and than the rough estimate ({ends[0]:.3f})": best < ends[0],
        f"the best start is between noise and the estimate (logsnr {at[0]:g})": LEVELS[0] < at[0] < LEVELS[-1],
        f"a better estimate starts later ({at[1]:g}) and ends better ({min(better):.3f})": at[1] > at[0]
        and min(better) < min(rough),
        f"the chain is needed: one evaluation gives {once:.3f}": min(rough) < 0.95 * once,
        f"and so is the measurement ({free:.3f} without)": min(rough) < 0.95 * free,
    }


def exact_mean(problem: Problem, x0: Tensor, seen: Tensor) -> Tensor:
    """E[x0 | its measured elements], of a mixture: each component's own regression, in shares of what it makes
    likely."""
    law, known = problem.law, seen.flatten()
    x = x0.flatten(1)[:, known]
    logs, guesses = [], []
    for weight, mean, covariance in zip(law.weights, law.means, law.covariances, strict=True):
        inner = torch.linalg.cholesky(covariance[known][:, known])
        off = (x - mean[known]).T
        half = torch.linalg.solve_triangular(inner, off, upper=False)
        logs.append(weight.log() - half.square().sum(0) / 2 - inner.diagonal().log().sum())
        guesses.append(mean + (covariance[:, known] @ torch.cholesky_solve(off, inner)).T)
    shares = torch.softmax(torch.stack(logs), 0)
    return (shares[..., None] * torch.stack(guesses)).sum(0).reshape(x0.shape)


run = Study(PAPER, checks, [Arms(ROLES, measure, DATA, quick={"n": 400}, full={"n": 1000})])
