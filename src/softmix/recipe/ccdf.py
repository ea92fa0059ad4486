"""Come-Closer-Diffuse-Faster: the best noise level to start a reconstruction from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..measure import replacing
from ..oracle import ObservedProblem, digits
from ..process import VP, rest
from ..rng import Rng
from ..sampler import drive, noised
from ..sampler.drive import finish
from .frame import Arms, Numbers, Results, Study
from .paper import Paper, Role

PAPER = Paper.of(
    "ccdf",
    "Reconstruction that starts from a noised first estimate, not from noise, needs fewer steps and is better.",
)
RESULT = "ten steps from a noised estimate are better than a hundred from noise"

DATA = "ten Gaussians fitted to the digits, 8 x 8, every other row measured, exact means"
LEVELS = (-10.0, -4.0, -2.0, 0.0, 2.0, 4.0)
STEPS = 10
FIRST = f"rmse@{LEVELS[0]:g}"

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
    """The error of unseen elements after ten steps from each noise level, for a rough and for a better estimate."""
    problem, seen = digits(), (torch.arange(64) // 8 % 2 == 0).reshape(1, 8, 8)
    x0 = problem.sample(n, Rng(seed, n, "x0"))
    known = ObservedProblem.elements(problem, seen)
    # the rough estimate repeats rows; the better one is half way from it to the truth
    rough = torch.where(seen, x0, x0.roll(1, -2))
    better = (rough + x0) / 2

    def ran(first: Tensor, level: float, steps: int, replaced: Tensor) -> Tensor:
        t = 1.0 if level <= -10 else float(VP().time(level))
        rng = Rng(seed, n, f"run {level}")
        x = noised(first)(VP(), x0.shape, t, rng).double()
        return finish(drive(problem.denoiser(), replacing(x0, replaced), x, rest(VP(), steps, t), rng))

    results: dict[tuple[str, str], Tensor] = {}
    for level in LEVELS:
        metric = f"rmse@{level:g}"
        results["from a rough estimate", metric] = ran(rough, level, STEPS, seen)
        results["from a better estimate", metric] = ran(better, level, STEPS, seen)
        results["one evaluation at that level", metric] = ran(rough, level, 1, seen)
        results["without the measurement", metric] = ran(rough, level, STEPS, torch.zeros_like(seen))
    results["from noise, 100 steps", FIRST] = ran(torch.zeros_like(x0), LEVELS[0], 100, seen)
    results["the rough estimate itself", FIRST] = rough
    results["the better estimate itself", FIRST] = better
    results["the posterior's mean", FIRST] = known.given(known.observe(x0, Rng(seed, n))).mean
    return {key: float((x.to(x0) - x0)[:, ~seen].square().mean().sqrt()) for key, x in results.items()}


def checks(value: Numbers) -> Mapping[str, bool]:
    """The best start against noise, the estimate, and runs without the chain or the measurement."""
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


run = Study(PAPER, checks, [Arms(ROLES, measure, DATA, quick={"n": 400}, full={"n": 1000})])
