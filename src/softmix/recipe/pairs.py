"""Restoration from pairs (x0, x_in): residual processes beside conditional diffusion, with exact answers.

The rows ask for the law of x0 given x_in, with exact means or exact draws, on a mixture of Gaussians. A residual
process is a plain Gaussian one in its frame, and x_in is known. So conditional diffusion on the noise levels of a
residual process is the control that could explain its gain. `pairs_trained` has the same with networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from torch import Tensor

from ..denoiser import Denoiser, mean_only
from ..evaluate import energy_distance
from ..oracle import PairedProblem
from ..oracle import pairs as known_pairs
from ..process import RDDM, VP, Framed, Gaussian, Resfusion
from ..rng import Rng
from ..sampler import Sampler, adams, ancestral, ddim, drive
from ..sampler.drive import finish
from .contest import steps_for
from .frame import Arms, Numbers, Results
from .paper import Role

# the numbers of evaluations of the exact rows
COUNTS = (1, 2, 5, 10)
LAW = "pairs in 8 + 8 dimensions, exact means"
# the values of x_in, and the draws for each
GIVEN, DRAWS = 24, 256


@dataclass(frozen=True)
class ExactRow:
    """A row with the exact posterior.

    process : of the pairs.
    sampler : of the row.
    draws   : whether steps take draws of the posterior in the place of its mean.
    levels  : a process, on the noise levels of which the grid is; by default its own.
    most    : the largest number of evaluations.
    """

    role: Role
    process: Gaussian | Framed
    sampler: Sampler = ddim
    draws: bool = False
    levels: Gaussian | Framed | None = None
    most: int = COUNTS[-1]

    def grid(self, steps: int) -> Tensor:
        """The times of so many steps."""
        if self.levels is None:
            return self.process.grid(steps)
        grid = self.process.time(self.levels.logsnr(self.levels.grid(steps)))
        grid[0], grid[-1] = 1.0, 0.0
        return grid


# without a process: a regression answers E[x0 | x_in]
EXACT: dict[str, ExactRow] = {
    "conditional diffusion": ExactRow("baseline", VP()),
    "conditional diffusion, adams": ExactRow("baseline", VP(), adams),
    "conditional diffusion, draws": ExactRow("baseline", VP(), ancestral, draws=True),
    "RDDM": ExactRow("ours", RDDM()),
    "RDDM, adams": ExactRow("ours", RDDM(), adams),
    "RDDM, sd = 0.1": ExactRow("ours", RDDM(sd=0.1)),
    "RDDM, sd = 0.1, adams": ExactRow("ours", RDDM(sd=0.1), adams),
    "RDDM, draws": ExactRow("ours", RDDM(), ancestral, draws=True),
    "the noise levels of RDDM alone": ExactRow("control", VP(), levels=RDDM()),
    "the noise levels of sd = 0.1 alone": ExactRow("control", VP(), levels=RDDM(sd=0.1)),
    "Resfusion": ExactRow("ours", Resfusion(), ancestral),
    "Resfusion without fresh noise": ExactRow("ours", Resfusion()),
    "Resfusion, adams": ExactRow("ours", Resfusion(), adams),
    "Resfusion, draws": ExactRow("ours", Resfusion(), ancestral, draws=True),
    "the noise levels of Resfusion alone": ExactRow("control", VP(), levels=Resfusion()),
}
FLOOR = "exact draws"


@lru_cache(maxsize=4)
def _law(seed: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """x_in [GIVEN, 8], x0 [GIVEN, 8], exact draws [DRAWS, GIVEN, 8] and the distance of other exact draws from them."""
    problem, rng = known_pairs((8,)), Rng(seed, GIVEN, "pairs")
    x0, cond = problem.draw(GIVEN, rng)
    assert cond.value is not None
    exact, other = (problem.given(cond.value).draws(DRAWS, rng.child(role)) for role in ("exact", "other"))
    return cond.value, x0, exact, _apart(other, exact)


def _apart(draws: Tensor, exact: Tensor) -> float:
    """The mean over x_in of the energy distance between draws [m, n, D]."""
    each = [energy_distance(draws[:, k], exact[:, k]) for k in range(draws.shape[1])]
    return sum(each) / len(each)


def exact_draws(row: ExactRow, problem: PairedProblem, x_in: Tensor, steps: int, m: int, seed: int) -> Tensor:
    """m draws of a row for each x_in [n, D]: [m, n, D], float64."""
    cond, count = problem.cond(x_in.repeat(m, 1)), m * len(x_in)
    denoiser: Denoiser = problem.denoiser()
    denoiser = denoiser if row.draws else mean_only(denoiser)
    rng = Rng(seed, count, "exact pairs")
    start = row.process.prior((count, *problem.shape), rng.child("prior"), cond).double()
    x = finish(drive(denoiser, row.sampler, start, row.grid(steps), rng, cond))
    return x.unflatten(0, (m, len(x_in)))


def measure_exact(names: Sequence[str], seed: int, counts: Sequence[int]) -> Results:
    """The energy distance to the exact law of x0 given x_in, and the error of one draw, by evaluations."""
    x_in, x0, exact, floor = _law(seed)
    results: dict[tuple[str, str], float] = {}
    for name in names:
        row = EXACT[name]
        problem = known_pairs((8,), row.process)
        for count in [each for each in counts if each <= row.most]:
            draws = exact_draws(row, problem, x_in, steps_for(row.sampler, count), DRAWS, seed)
            results[name, f"distance@{count}"] = _apart(draws, exact)
            results[name, f"rmse@{count}"] = float((draws - x0).square().mean().sqrt())
    results |= {(FLOOR, f"distance@{count}"): floor for count in counts}
    return results | {(FLOOR, f"rmse@{count}"): float((exact - x0).square().mean().sqrt()) for count in counts}


def exact_arms(names: Sequence[str]) -> Arms:
    """Rows of `EXACT` and the floor: one seed at quick scale, five at full scale."""
    roles: dict[str, Role] = {name: EXACT[name].role for name in names} | {FLOOR: "floor"}
    settings = {"counts": COUNTS}
    return Arms(roles, partial(measure_exact, tuple(names)), LAW, settings, settings)


# checks that the recipes of residual processes share

BASELINES = ("conditional diffusion", "conditional diffusion, adams")
# the counts at which they are compared: at 1 all answer E[x0 | x_in]
FEW = (2, 5, 10)


def least(value: Numbers, names: Sequence[str], count: int) -> float:
    """The least distance of these rows at one count."""
    return min(value[name, f"distance@{count}"] for name in names)


def listed(values: Sequence[float], digits: int = 4) -> str:
    return ", ".join(f"{each:.{digits}f}" for each in values)


def exact_checks(
    value: Numbers, ours: Sequence[str], levels: str, of_levels: str, draws: str, identity: str, sentence: str
) -> dict[str, bool]:
    """Against conditional diffusion at its best, on the noise levels of the process alone, and from draws.

    ours      : the rows of the process with exact means.
    levels    : the row of conditional diffusion on the noise levels of the row `of_levels`.
    draws     : the row of exact draws.
    identity  : the row of the published algorithm, with the sentence about it.
    """
    own, other = ([least(value, names, count) for count in FEW] for names in (ours, BASELINES))
    plain, alone = (value.line(name, "distance", FEW) for name in (of_levels, levels))
    drawn, floor = (value[each, "distance@1"] for each in (draws, FLOOR))
    apart = value[identity, "difference"]
    return {
        f"with exact means it is nearer by a tenth to the law of x0 given x_in than conditional diffusion, at 2, 5 and "
        f"10 evaluations, each by its best sampler ({listed(own)}; {listed(other)})": all(
            a < 0.9 * b for a, b in zip(own, other, strict=True)
        ),
        f"it is not the noise levels: conditional diffusion on those of {of_levels} is worse by a tenth "
        f"({listed(alone)}; {listed(plain)})": all(b > 1.1 * a for a, b in zip(plain, alone, strict=True)),
        f"{sentence} (difference {apart:.0e})": apart < 1e-6,
        # the distance is unbiased: 0 for the right law
        f"one step from a draw of the posterior has the law ({drawn:.4f}, two exact sets {floor:.4f})": abs(drawn)
        < 2e-3,
    }
