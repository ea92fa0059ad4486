"""The room of recipes: UniPC. Does a corrector that costs nothing raise the order by one?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..oracle import Problem, eight
from ..process import VP
from ..rng import Rng
from ..sampler import Sampler, adams, ddim, dpm_solver_2m, drive, unipc
from ..sampler.drive import finish
from ..sampler.multistep import ALL, Rule, multistep
from .contest import Numbers, Way, contest, row
from .paper import Paper, Role, Scale, Verdict, VerdictRow

PAPER = Paper.of(
    "unipc",
    "A corrector without further evaluations raises a solver's order by one, and few steps gain most.",
)
FOUND = (
    "nearer than its predictor at 10 and 20, and its order is higher by one: of order 1 and 2 from 40 steps on, of 3 "
    "from 20 to 80, beyond which its first steps are what is left; at 5 it gains nothing; on images it gains most at "
    "5, and exact integrals (adams) more"
)

WAYS = (
    Way.of("UniPC-2, bh2", "ours", unipc),
    Way.of("UniPC-2, bh1", "ours", partial(unipc, line="bh1")),
    Way.of("UniPC-3", "ours", partial(unipc, order=3)),
    Way.of("exact integrals (adams)", "ours", adams),
    # bh2's predictor of order 2 is this
    Way.of("its predictor alone (2M)", "baseline", dpm_solver_2m),
    Way.of("a predictor of order 3 alone", "control", partial(multistep, rule=Rule(3, corrects=1))),
    Way.of("ddim", "baseline", ddim),
)
COUNTS = (5, 8, 10, 20, 40)
# by order: with the corrector, and its predictor alone
ORDERS: Mapping[str, tuple[Role, Sampler]] = {
    "UniPC-1, bh2": ("ours", partial(unipc, order=1)),
    "UniPC-2, bh2": ("ours", unipc),
    "UniPC-2, bh1": ("ours", partial(unipc, line="bh1")),
    "UniPC-3": ("ours", partial(unipc, order=3)),
    "ddim": ("baseline", ddim),
    "its predictor alone (2M)": ("baseline", dpm_solver_2m),
    "a predictor of order 3 alone": ("control", partial(multistep, rule=Rule(3, corrects=1))),
}
MANY = (20, 40, 80, 160, 320)
OPEN = "the same, as far as a logsnr of 12, where orders are seen: no last step to t = 0"


def on_many_steps(seeds: Sequence[int], n: int) -> list[VerdictRow]:
    """Median errors by steps, even in logsnr from t = 1 to 12, against 4,000 steps of third order; 200 items a seed."""
    problem, n = eight(VP("linear")), min(n, 200)
    found: dict[tuple[str, int], list[float]] = {}
    for seed in seeds:
        x = problem.process.prior((n, *problem.shape), Rng(seed, n, "contest")).double()
        right = _led(problem, partial(multistep, rule=Rule(3, ALL)), x, 4000)
        for name, (_, sampler) in ORDERS.items():
            for count in MANY:
                off = (_led(problem, sampler, x, count) - right).square().mean(1).sqrt()
                found.setdefault((name, count), []).append(float(off.median()))
    return [row(name, ORDERS[name][0], f"to 12@{count}", each, OPEN) for (name, count), each in found.items()]


def _led(problem: Problem, sampler: Sampler, x: Tensor, steps: int) -> Tensor:
    first = float(problem.process.logsnr(1.0))
    times = problem.process.time(torch.linspace(first, 12, steps + 1, dtype=torch.float64))
    times[0] = 1
    return finish(drive(problem.denoiser(), sampler, x, times, Rng(0, len(x))))


def _order(value: Numbers, name: str, first: int, last: int) -> float:
    return math.log(value[name, f"to 12@{first}"] / value[name, f"to 12@{last}"]) / math.log(last / first)


def run(scale: Scale, say: Callable[[str], None], out: Path | None = None) -> Verdict:
    """All on one grid; orders on more steps than anybody takes."""

    def checks(value: Numbers) -> Mapping[str, bool]:
        ours, alone = (value[name, "mean@10"] for name in ("UniPC-2, bh2", "its predictor alone (2M)"))
        more, plain = (value[name, "mean@20"] for name in ("UniPC-2, bh2", "its predictor alone (2M)"))
        third = value["a predictor of order 3 alone", "mean@10"]
        few, bare = (value[name, "mean@5"] for name in ("UniPC-2, bh2", "its predictor alone (2M)"))
        return {
            f"with the corrector it is nearer at 10 ({ours:.4f}, without {alone:.4f})": ours < alone,
            f"and at 20 ({more:.4f}, {plain:.4f})": more < plain,
            **_higher(value, 1, ("UniPC-1, bh2",), "ddim", (40, 320)),
            **_higher(value, 2, ("UniPC-2, bh2", "UniPC-2, bh1"), "its predictor alone (2M)", (40, 320)),
            **_higher(value, 3, ("UniPC-3",), "a predictor of order 3 alone", (20, 80)),
            **_higher(value, 3, ("UniPC-3",), "a predictor of order 3 alone", (80, 320)),
            f"remembering one mean more is not as good ({third:.4f} at 10)": ours < third,
            f"few steps gain most: {bare / few:.2f} times at 5, {plain / more:.2f} at 20": bare / few > plain / more,
        }

    return contest(PAPER, WAYS, COUNTS, checks, scale, say, on_many_steps)


def _higher(value: Numbers, order: int, names: Sequence[str], alone: str, steps: tuple[int, int]) -> Mapping[str, bool]:
    """Whether the corrector raises the order by three quarters and more over the predictor's between two counts."""
    found, bare = [_order(value, name, *steps) for name in names], _order(value, alone, *steps)
    said = " and ".join(f"{each:.2f}" for each in found)
    text = f"from {steps[0]} to {steps[1]} steps the order of UniPC-{order} is {said}, of its predictor {bare:.2f}"
    return {text: min(found) > bare + 0.75}
