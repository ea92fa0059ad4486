"""UniPC. Does a corrector without further evaluations raise the order by one?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

from ..rng import Rng
from ..sampler import Sampler, adams, ddim, dpm_solver_2m, drive, unipc
from ..sampler.drive import finish
from ..sampler.multistep import ALL, MultistepRule, multistep
from .contest import Field, Way, contest, narrow, off
from .frame import Numbers, arm
from .paper import Paper, Role

PAPER = Paper.of(
    "unipc",
    "A corrector without further evaluations raises a solver's order by one, and few steps gain most.",
)
RESULT = (
    "its error is smaller than that of its predictor at 10 and 20, and its order is higher by one: from 40 steps on"
    " for order 1 and 2, from 20 to 80 steps for order 3 (with more steps the error of the first steps dominates); "
    "at 5 it gains nothing; on images it gains most at 5, and exact integrals (adams) gain more"
)

WAYS = (
    Way.of("UniPC-2, bh2", "ours", unipc),
    Way.of("UniPC-2, bh1", "ours", partial(unipc, line="bh1")),
    Way.of("UniPC-3", "ours", partial(unipc, order=3)),
    Way.of("exact integrals (adams)", "ours", adams),
    # this is the predictor of order 2 of bh2
    Way.of("its predictor alone (2M)", "baseline", dpm_solver_2m),
    Way.of("a predictor of order 3 alone", "control", partial(multistep, rule=MultistepRule(3, corrects=1))),
    Way.of("ddim", "baseline", ddim),
)
COUNTS = (5, 8, 10, 20, 40)
# with the corrector, and the predictor alone
ORDERS: Mapping[str, tuple[Role, Sampler]] = {
    "UniPC-1, bh2": ("ours", partial(unipc, order=1)),
    "UniPC-2, bh2": ("ours", unipc),
    "UniPC-2, bh1": ("ours", partial(unipc, line="bh1")),
    "UniPC-3": ("ours", partial(unipc, order=3)),
    "ddim": ("baseline", ddim),
    "its predictor alone (2M)": ("baseline", dpm_solver_2m),
    "a predictor of order 3 alone": ("control", partial(multistep, rule=MultistepRule(3, corrects=1))),
}
MANY = (20, 40, 80, 160, 320)
OPEN = "the same, as far as a logsnr of 12, where orders are seen: no last step to t = 0"


def on_many_steps(sampler: Sampler, seed: int, n: int) -> Mapping[str, float]:
    """Median errors for each number of steps, even in logsnr from t = 1 to 12, against 4,000 steps of third order."""
    return {f"to 12@{count}": float(off(_end(sampler, seed, n, count), _exact(seed, n)).median()) for count in MANY}


@lru_cache(maxsize=5)
def _exact(seed: int, n: int) -> Tensor:
    return _end(partial(multistep, rule=MultistepRule(3, ALL)), seed, n, 4000)


def _end(sampler: Sampler, seed: int, n: int, steps: int) -> Tensor:
    process = narrow().process
    times = process.time(torch.linspace(float(process.logsnr(1.0)), 12, steps + 1, dtype=torch.float64))
    times[0] = 1
    return finish(drive(narrow().denoiser(), sampler, Field().start(seed, n), times, Rng(0, n)))


def _order(value: Numbers, name: str, first: int, last: int) -> float:
    return math.log(value[name, f"to 12@{first}"] / value[name, f"to 12@{last}"]) / math.log(last / first)


def checks(value: Numbers) -> Mapping[str, bool]:
    """All on one grid. Orders are measured with more steps than are used in practice."""
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


def _higher(value: Numbers, order: int, names: Sequence[str], alone: str, steps: tuple[int, int]) -> Mapping[str, bool]:
    """Whether the corrector raises the order of the predictor by at least 0.75 between two numbers of steps."""
    orders, bare = [_order(value, name, *steps) for name in names], _order(value, alone, *steps)
    listed = " and ".join(f"{each:.2f}" for each in orders)
    text = f"from {steps[0]} to {steps[1]} steps the order of UniPC-{order} is {listed}, of its predictor {bare:.2f}"
    return {text: min(orders) > bare + 0.75}


ON_MANY = [
    arm(name, role, partial(on_many_steps, sampler), OPEN, quick={"n": 200}, full={"n": 200})
    for name, (role, sampler) in ORDERS.items()
]
run = contest(PAPER, WAYS, COUNTS, checks, ON_MANY)
