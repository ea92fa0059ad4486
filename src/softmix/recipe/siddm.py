"""SIDDM on a grid of modes: samples of few steps, and the laws of x0 given x_t beside the exact posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import cast

import torch
from torch import Tensor

from ..data import Data, toys
from ..denoiser import Denoiser, Network, PointHead, SoftHead
from ..evaluate import energy_distance, mode_statistics
from ..loss import SIDDM, Energy, Square
from ..net import MLPSpec
from ..oracle import MixtureProblem
from ..posterior.implicit import spread
from ..process import VP, few, uniform
from ..rng import Rng
from ..sampler import adams, ancestral, ddim, sample
from ..train import Config, Denoise, Optimiser
from .frame import Arms, Numbers, Study, arm
from .in_memory import Ways, averaged_on_cpu, points_of
from .paper import Paper, Role

PAPER = Paper.of(
    "siddm",
    "An adversarial match of x_s and a regression of the forward step to x_t together learn the laws of large "
    "denoising steps.",
)
RESULT = ""

COUNTS = (1, 2, 4)
SD = 0.7 / 15
NET = MLPSpec(width=64, depth=2)
SOFT = SoftHead(where="all", latent=4, local=0, mean="none")
LAW = "5 x 5 modes in the plane"
# items and draws of the comparison with the exact posterior
ITEMS, DRAWS = 64, 128


def problem() -> MixtureProblem:
    """The grid of the paper, 5 x 5 modes at 15 standard deviations, in units of its standard deviation."""
    return MixtureProblem("grid of the paper", toys.mode_grid(5, 0.7, SD), VP(), (2,))


# the samplers and grids of a model
BY_DRAWS: Ways = ((ancestral, uniform),)
FOUR: Ways = tuple((each, grid) for each in (ddim, adams) for grid in (uniform, few))


@dataclass(frozen=True)
class GridTraining:
    """A training on the grid.

    loss : for a number of steps.
    ways : samplers with their grids; each number is that of the best way.
    game : whether it has the learning rates of the game, or those of a plain training.
    """

    role: Role
    loss: Callable[[int], object]
    head: SoftHead | PointHead = SOFT
    ways: Ways = BY_DRAWS
    game: bool = False

    @property
    def share(self) -> int:
        """The factor of the steps of training: a step of the game has two turns with three nets."""
        return 1 if self.game else 3


def _game(role: Role, **settings: object) -> GridTraining:
    """A row of SIDDM."""
    return GridTraining(
        role,
        lambda count: SIDDM(count, net=NET, rate=2e-3, **settings),  # type: ignore[arg-type]
        game=True,
    )


OURS, SHARED, STRONG = "SIDDM", "SIDDM, shared noise", "SIDDM, lambda 30"
MARGINAL, REGRESSION = "without the regression", "without the adversary"
ENERGY, EXACT = "energy score", "exact posterior"
ANCESTRAL, SOLVERS = "plain, ancestral", "plain, best of four ways"
ROWS: dict[str, GridTraining] = {
    ANCESTRAL: GridTraining("baseline", lambda count: Square("v"), PointHead()),
    SOLVERS: GridTraining("baseline", lambda count: Square("v"), PointHead(), FOUR),
    MARGINAL: _game("control", conditional=0.0),
    REGRESSION: _game("control", adversarial=0.0),
    ENERGY: GridTraining("control", lambda count: Energy(beta=0.5, m=4, weight="snr-half", mean=0.0)),
    STRONG: _game("control", conditional=30.0),
    SHARED: _game("ours", cross="shared"),
    OURS: _game("ours"),
}


@lru_cache(maxsize=4)
def _points(seed: int) -> Data:
    return points_of(problem(), "grid", seed)


@lru_cache(maxsize=32)
def _trained(loss: object, head: SoftHead | PointHead, game: bool, seed: int, steps: int) -> Network:
    """The averaged network. One training serves all numbers of steps, unless its loss depends on the number."""
    optimiser = Optimiser(
        rate=1e-3 if game else 2e-3, betas=(0.5, 0.999) if game else (0.9, 0.99), warmup=100, decay=0.5
    )
    task = Denoise(net=NET, head=head, loss=loss)  # type: ignore[arg-type]
    config = Config(task, steps=steps, batch=256, seed=seed, precision="fp32", optimiser=optimiser)
    return cast(Network, averaged_on_cpu(_points(seed), config))


def measure(name: str, seed: int, n: int, counts: Sequence[int], steps: int) -> Mapping[str, float]:
    """Train one row for each count, and measure it."""
    row = ROWS[name]
    results: dict[str, float] = {}
    for count in counts:
        denoiser = _trained(row.loss(count), row.head, row.game, seed, steps * row.share)
        results |= measured(denoiser, seed, n, count, row.ways)
    return results


def exact(seed: int, n: int, counts: Sequence[int]) -> Mapping[str, float]:
    """The numbers of the exact posterior: the floor of each."""
    results: dict[str, float] = {}
    for count in counts:
        results |= measured(problem().denoiser(), seed, n, count, BY_DRAWS)
    return results


def measured(denoiser: Denoiser, seed: int, n: int, count: int, ways: Ways) -> Mapping[str, float]:
    """Samples of some steps, and the posteriors at the times of these steps.

    distance : the energy distance of n samples to n items.
    tv : the total variation distance of the weights of the modes.
    posterior : the energy distance of draws of x0 given x_t to draws of the exact posterior, the mean over x_t.
    spread : of the draws given x_t, as a share of the exact variance.
    """
    law = problem().law
    ends = [
        sample(denoiser, n, count, shape=(2,), sampler=each, seed=seed, batch=n, grid=grid(VP(), count)).double()
        for each, grid in ways
    ]
    real = law.sample(n, Rng(seed, n, "real"))
    results = {
        f"distance@{count}": min(energy_distance(x, real) for x in ends),
        f"tv@{count}": min(mode_statistics(x, law.means, SD).total_variation for x in ends),
    }
    pairs = [posteriors(denoiser, float(t), seed) for t in VP().grid(count)[:-1]]
    distances, shares, variances = (torch.stack(each) for each in zip(*pairs, strict=True))
    results[f"posterior@{count}"] = float(distances.mean())
    results[f"spread@{count}"] = float(shares.sum() / variances.sum())
    return results


def posteriors(denoiser: Denoiser, t: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """At states x_t of the process: the energy distances to the exact posteriors, and both variances, [ITEMS] each."""
    x0 = problem().sample(ITEMS, Rng(seed, ITEMS, "items"))
    xt = VP().noise(x0, t, Rng(seed, ITEMS, f"state {t}")).xt
    right = problem().denoiser()(xt, t)
    with torch.no_grad():
        ours = denoiser(xt.float(), t).draws(DRAWS, Rng(seed, ITEMS, "draws")).double()
    theirs = right.draws(DRAWS, Rng(seed, ITEMS, "exact"))
    distances = [energy_distance(a, b) for a, b in zip(ours.unbind(1), theirs.unbind(1), strict=True)]
    variance = right.covariance.diagonal(dim1=1, dim2=2).sum(1)
    return xt.new_tensor(distances), spread(ours), variance


def checks(value: Numbers) -> Mapping[str, bool]:
    """Samples against the plain model, the two parts of the loss, and the energy score."""
    counts = [count for count in COUNTS if (OURS, f"distance@{count}") in value]

    def line(name: str, kind: str) -> list[float]:
        return value.line(name, kind, counts)

    def text(*names: str, kind: str) -> str:
        return "; ".join(", ".join(f"{each:.3f}" for each in line(name, kind)) for name in names)

    def below(kind: str, name: str, *others: str) -> bool:
        """By two standard deviations of the wider of the two."""
        return all(
            value[name, at] + 2 * max(value.spread(each, at) for each in (name, other)) < value[other, at]
            for other in others
            for at in (f"{kind}@{count}" for count in counts)
        )

    at = f"at {', '.join(map(str, counts))} steps"
    laws = [value[OURS, f"spread@{count}"] for count in counts]
    return {
        f"{at} its samples are nearer than those of a plain model by ancestral steps and the best of four ways (energy "
        f"distance {text(OURS, ANCESTRAL, SOLVERS, kind='distance')})": below("distance", OURS, ANCESTRAL, SOLVERS),
        f"and its draws given x_t carry the spread of the posterior ({', '.join(f'{each:.2f}' for each in laws)} of "
        "it, 0.85 to 1.15)": all(0.85 <= each <= 1.15 for each in laws),
        f"the regression brings the posteriors nearer ({text(OURS, MARGINAL, kind='posterior')} without)": below(
            "posterior", OURS, MARGINAL
        ),
        f"the adversary brings the samples nearer ({text(OURS, REGRESSION, kind='distance')} without)": below(
            "distance", OURS, REGRESSION
        ),
        f"the energy score with the same net gives no nearer samples ({text(OURS, ENERGY, kind='distance')})": below(
            "distance", OURS, ENERGY
        ),
        f"and no nearer posteriors ({text(OURS, ENERGY, kind='posterior')})": below("posterior", OURS, ENERGY),
        "the exact cross-entropy gives nearer posteriors than the form with shared noise "
        f"({text(OURS, SHARED, kind='posterior')})": below("posterior", OURS, SHARED),
        "a regression of 30 times the weight brings the posteriors no nearer "
        f"({text(OURS, STRONG, kind='posterior')})": below("posterior", OURS, STRONG),
    }


QUICK = {"n": 3000, "counts": (4,)}
FULL = {"n": 10_000, "counts": COUNTS}


def _arms() -> list[Arms]:
    each = [
        arm(name, row.role, partial(measure, name), LAW, QUICK | {"steps": 600}, FULL | {"steps": 4000})
        for name, row in ROWS.items()
    ]
    return [*each, arm(EXACT, "oracle", exact, LAW, QUICK, FULL)]


run = Study(PAPER, checks, _arms())
