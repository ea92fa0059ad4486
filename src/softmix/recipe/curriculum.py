"""A curriculum over noise levels: is little noise harder, and does it help to train on it last?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import cast

import torch

from ..data import Data
from ..data.toys import ToyMixture
from ..denoiser import Network, PointHead
from ..evaluate import energy_distance
from ..loss import Square
from ..net import MLPSpec
from ..oracle import eight
from ..posterior import Point, need
from ..process import VP, Flow, Gaussian
from ..rng import Rng
from ..sampler import adams, ddim, sample
from ..train import Config, Curriculum, Denoise, Optimiser
from .contest import steps_for
from .frame import Arms, Numbers, Results, TrainedStudy, arm
from .images import trained
from .in_memory import averaged_on_cpu, points_of
from .paper import Paper, Role
from .trainings import Sampling, Training, change

PAPER = Paper.of(
    "curriculum",
    "Denoising is harder at less noise, and a model that trains on the noise levels from easy to hard is better after "
    "the same training.",
)
RESULT = ""

LAW = "eight components in 16 dimensions, a small network"
CLUSTERS, EVALUATIONS = 5, 20
BATCH = 128
# of a training
LENGTHS = ("short", "long")


@dataclass(frozen=True)
class OrderedRow:
    """A training of the mixture with an order of its noise levels."""

    role: Role
    curriculum: Curriculum | None


OURS, PATIENT, PLAIN = "easy first", "easy first, with patience", "no curriculum"
HARD, RANDOM, MIXED = "hard first", "random order", "the same exposure, mixed"
ROWS = {
    PLAIN: OrderedRow("baseline", None),
    OURS: OrderedRow("ours", Curriculum(10, pacing="even")),
    PATIENT: OrderedRow("ours", Curriculum(10, patience=5, smooth=10)),
    HARD: OrderedRow("control", Curriculum(10, "hard first", "even")),
    RANDOM: OrderedRow("control", Curriculum(10, "random", "even")),
    MIXED: OrderedRow("control", Curriculum(10, pacing="mixed")),
}


@lru_cache(maxsize=4)
def _points(seed: int) -> Data:
    return points_of(eight(), "eight", seed)


def _network(curriculum: Curriculum | None, seed: int, items: int) -> Network:
    """The averaged network after so many items."""
    task = Denoise(net=MLPSpec(width=96, depth=3), head=PointHead(), loss=Square("v"), curriculum=curriculum)
    optimiser = Optimiser(rate=2e-3, warmup=100, decay=0.6)
    config = Config(task, steps=items // BATCH, batch=BATCH, seed=seed, precision="fp32", optimiser=optimiser)
    return cast(Network, averaged_on_cpu(_points(seed), config))


def measure(name: str, seed: int, n: int, budgets: Mapping[str, int]) -> Mapping[str, float]:
    """The energy distance of samples by the better of two samplers, and the excess error of the mean in each cluster
    of noise levels, 1 with the least noise:

        E ||mean - E[x0 | x_t]||^2 / E ||x0 - E[x0 | x_t]||^2, in percent.

    budgets : the number of training items of each length.
    """
    exact, results = eight().sample(n, Rng(seed, n, "exact")), {}
    for length, items in budgets.items():
        network = _network(ROWS[name].curriculum, seed, items)
        ends = [
            sample(network, n, steps_for(each, EVALUATIONS), sampler=each, seed=seed, batch=n) for each in (ddim, adams)
        ]
        results[f"distance@{length}"] = min(energy_distance(end.double(), exact) for end in ends)
        for cluster in range(CLUSTERS):
            results[f"excess {cluster + 1}@{length}"] = _excess(network, cluster, seed, n)
    return results


def _excess(network: Network, cluster: int, seed: int, n: int) -> float:
    problem, rng = eight(), Rng(seed, n, f"cluster {cluster}")
    x0 = problem.sample(n, rng)
    t = (cluster + rng.uniform((n,), torch.float64)) / CLUSTERS
    noised = problem.process.noise(x0, t, rng)
    right = problem.denoiser()(noised.xt, t).mean
    with torch.no_grad():
        found = need(network(noised.xt.float(), t), Point, "curriculum").mean.double()
    return 100 * float((found - right).square().mean() / (x0 - right).square().mean())


def floor(seed: int, n: int, budgets: Mapping[str, int]) -> Mapping[str, float]:
    """The energy distance of exact samples."""
    a, b = (eight().sample(n, Rng(seed, n, role)) for role in ("exact", "floor"))
    return {f"distance@{length}": energy_distance(a, b) for length in budgets}


# difficulty by the law alone

SCHEDULES: dict[str, Gaussian] = {"cosine": VP(), "linear": VP("linear"), "flow": Flow()}
BY_LOGSNR = "cosine, equal steps of log-SNR"


def divergences(seed: int, n: int) -> Results:
    """KL(p_s || p_t) in nats between the ends s < t of each of ten clusters, by n exact draws of p_s.

    "falling" is the share of neighbours with the larger divergence at less noise: 1 if difficulty falls with noise.
    """
    results: dict[tuple[str, str], float] = {}
    cosine = VP()
    even = cosine.time(torch.linspace(9.0, -9.0, 11, dtype=torch.float64))
    grids = dict.fromkeys(SCHEDULES, torch.linspace(0.001, 1, 11, dtype=torch.float64)) | {BY_LOGSNR: even}
    for name, grid in grids.items():
        problem = eight(SCHEDULES.get(name, cosine))
        each = [_divergence(problem.at(s), problem.at(t), n, seed) for s, t in pairwise(grid)]
        falls = [a > b for a, b in pairwise(each)]
        own = f"difficulty, {name}"
        results[own, "falling"] = sum(falls) / len(falls)
        results[own, "divergence@1"], results[own, "divergence@10"] = each[0], each[-1]
    return results


def _divergence(low: ToyMixture, high: ToyMixture, n: int, seed: int) -> float:
    x = low.sample(n, Rng(seed, n, "divergence"))
    return float((low.log_prob(x) - high.log_prob(x)).mean())


# trained on images

IMAGES = "Fashion-MNIST, 14 x 14, trained"
FEW = (5, 10, 20)
WAYS = (Sampling("ddim", ddim), Sampling("adams", adams))
TRAININGS: dict[str, Training] = {
    "trained, no curriculum": Training("baseline", change(), WAYS),
    "trained, easy first": Training("ours", change(curriculum=Curriculum(10, pacing="even")), WAYS),
    "trained, easy first, with patience": Training(
        "ours", change(curriculum=Curriculum(10, patience=5, smooth=10)), WAYS
    ),
    "trained, hard first": Training("control", change(curriculum=Curriculum(10, "hard first", "even")), WAYS),
    "trained, the same exposure, mixed": Training("control", change(curriculum=Curriculum(10, pacing="mixed")), WAYS),
}


def training_of(name: str) -> Training:
    """A row of `TRAININGS`."""
    return TRAININGS[name]


def checks(value: Numbers) -> Mapping[str, bool]:
    """Against no curriculum, against other orders, against the exposure alone; then the difficulty; then images."""
    lines = {name: [value[name, f"distance@{length}"] for length in LENGTHS] for name in ROWS}

    def nearer(name: str, *others: str) -> bool:
        """By two standard deviations of the wider of the two."""
        return all(
            value[name, at] + 2 * max(value.spread(each, at) for each in (name, other)) < value[other, at]
            for other in others
            for at in (f"distance@{length}" for length in LENGTHS)
        )

    own, plain = lines[OURS], lines[PLAIN]
    others = [lines[name] for name in (HARD, RANDOM, MIXED)]
    excess = [value[PLAIN, f"excess {cluster + 1}@long"] for cluster in range(CLUSTERS)]
    falling = {name: value[f"difficulty, {name}", "falling"] for name in (*SCHEDULES, BY_LOGSNR)}
    found = {
        f"easy first is nearer to the data than no curriculum by two standard deviations after a short and a long "
        f"training ({_listed(own)}; {_listed(plain)})": nearer(OURS, PLAIN),
        f"so it is with patience ({_listed(lines[PATIENT])})": nearer(PATIENT, PLAIN),
        f"the order decides it: hard first, a random order, and the same exposure without an order are worse "
        f"({'; '.join(map(_listed, others))})": nearer(OURS, HARD, RANDOM, MIXED),
        f"the excess error of a trained mean falls with noise, from {excess[0]:.3g} to {excess[-1]:.3g} percent": all(
            a > b for a, b in pairwise(excess)
        ),
        f"the divergence between neighbouring levels falls with noise on every grid (the share of neighbours: "
        f"{', '.join(f'{name} {share:.2f}' for name, share in falling.items())})": all(
            share == 1 for share in falling.values()
        ),
    }
    if ("trained, no curriculum", f"frechet@{FEW[0]}") in value:
        found |= _on_images(value)
    return found


def _on_images(value: Numbers) -> Mapping[str, bool]:
    plain, own, patient, *others = (value.line(name, "frechet", FEW) for name in TRAININGS)
    return {
        f"on images easy first is nearer than no curriculum by a tenth at 5, 10 and 20 ({_listed(own)}; "
        f"{_listed(plain)})": all(1.1 * a < b for a, b in zip(own, plain, strict=True)),
        f"so it is with patience ({_listed(patient)})": all(1.1 * a < b for a, b in zip(patient, plain, strict=True)),
        f"and than hard first and the same exposure without an order ({'; '.join(map(_listed, others))})": all(
            1.1 * a < min(each) for a, *each in zip(own, *others, strict=True)
        ),
    }


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{each:.3g}" for each in values)


def _arms() -> list[Arms]:
    quick, full = (
        {"n": n, "budgets": dict(zip(LENGTHS, items, strict=True))}
        for n, items in ((2000, (15_000, 45_000)), (8000, (30_000, 200_000)))
    )
    rows = [arm(name, row.role, partial(measure, name), LAW, quick, full) for name, row in ROWS.items()]
    grids: dict[str, Role] = {f"difficulty, {name}": "baseline" for name in SCHEDULES}
    grids |= {f"difficulty, {BY_LOGSNR}": "control"}
    law = "eight components in 16 dimensions"
    return [
        *rows,
        arm("exact samples", "floor", floor, LAW, quick, full),
        Arms(grids, divergences, law, {"n": 4000}, {"n": 20_000}),
    ]


run = TrainedStudy(PAPER, checks, _arms(), trained=[trained(IMAGES, TRAININGS, training_of, FEW)])
