"""Restoration from pairs (x0, x_in): residual processes beside conditional diffusion and a regression.

The exact rows ask for the law of x0 given x_in, with exact means or exact draws, on a mixture of Gaussians. A residual
process is a plain Gaussian one in its frame, and x_in is known. So conditional diffusion on the noise levels of a
residual process is the control that could explain its gain.

The trained rows have one network each, on images and their degraded copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import training
from ..cond import Cond
from ..data import Degraded
from ..denoiser import Denoiser, ResidualHead, mean_only
from ..evaluate import energy_distance, frechet
from ..evaluate.calibration import psnr
from ..loss import ResidualAndNoise, Square
from ..oracle import PairedProblem
from ..oracle import pairs as known_pairs
from ..process import RDDM, VP, Framed, Gaussian, Resfusion
from ..rng import Rng
from ..sampler import Sampler, adams, ancestral, ddim, drive, noised, sample, soft_adams, traits
from ..sampler.drive import finish
from ..train import Times, find_device
from ..train import load as load_run
from ..train.make import suitable_precision
from ..train.preset import POSTERIOR_GIVEN_Y
from .contest import steps_for
from .frame import Arms, Numbers, Progress, Results, Trained, in_processes, rows_of
from .images import DATA_SETS, base, best, by, folder, logged, reference, training_folder, training_seconds
from .paper import Role, Scale, VerdictRow
from .restoration import scores
from .trainings import OWN, Sampling, Training, change, device_of

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


# images


@dataclass(frozen=True)
class Degradation:
    """x0 [B, C, S, S] -> x_in of the same shape.

    blurred : a Gaussian blur with a standard deviation of an eighth of the side, and noise of 0.1.
    dark    : brightness (1 + x) / 2 becomes 0.25 of its power 2.5, and noise of 0.02.
    masked  : a square of half the side, at a random place, is grey.
    """

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in DEGRADATIONS:
            raise ValueError(f"the degradation {self.kind!r} was asked for; there are {', '.join(DEGRADATIONS)}")

    @property
    def fingerprint(self) -> str:
        return f"{self.kind}, version 1"

    def __call__(self, x0: Tensor, rng: Rng) -> Tensor:
        return DEGRADATIONS[self.kind](x0, rng)


def _blurred(x0: Tensor, rng: Rng) -> Tensor:
    size = x0.shape[-1]
    place = torch.arange(size, dtype=x0.dtype, device=x0.device)
    weights = (-((place[:, None] - place) ** 2) / (2 * max(size / 8, 1.0) ** 2)).exp()
    weights = weights / weights.sum(1, keepdim=True)
    return weights @ x0 @ weights.T + 0.1 * rng.normal(x0.shape, x0.dtype)


def _dark(x0: Tensor, rng: Rng) -> Tensor:
    light = ((1 + x0) / 2).clamp(min=0)
    return 0.5 * light**2.5 - 1 + 0.02 * rng.normal(x0.shape, x0.dtype)


def _masked(x0: Tensor, rng: Rng) -> Tensor:
    size, side = x0.shape[-1], x0.shape[-1] // 2
    corner = (rng.uniform((len(x0), 2)).to(x0.device) * (size - side + 1)).long().clamp(max=size - side)
    place = torch.arange(size, device=x0.device)
    rows, columns = ((place >= each[:, None]) & (place < each[:, None] + side) for each in corner.unbind(1))
    return torch.where((rows[:, :, None] & columns[:, None])[:, None], torch.zeros_like(x0), x0)


DEGRADATIONS: dict[str, Callable[[Tensor, Rng], Tensor]] = {"blurred": _blurred, "dark": _dark, "masked": _masked}
# the data sets of the trained rows, with their degradation
CASES = (("fashion14", "blurred"), ("photographs16", "dark"))


def half_way(process: Gaussian) -> float:
    """The time at which alpha is a half: Resfusion starts there."""
    return float(process.time(-torch.tensor(3.0, dtype=torch.float64).log()))


@dataclass(frozen=True)
class FromPair(Sampling):
    """A way to sample that starts at x_in, noised to the time at which alpha is a half: the start of Resfusion without
    its process."""


STEPWISE = (
    Sampling("ddim", ddim, most=10),
    Sampling("adams", adams, most=10),
    Sampling("ancestral", ancestral, most=10),
)
FROM_PAIR = (FromPair("ddim, from x_in", ddim, most=10), FromPair("ancestral, from x_in", ancestral, most=10))
DRAWN = (Sampling("soft-adams", soft_adams, most=5), Sampling("mean, adams", adams, most=10))
SILENT = replace(OWN, scale=0.0)


def to_pair(process: RDDM | Resfusion, **values: Any) -> Any:
    """A change of configuration: the process with the output of its paper."""
    if isinstance(process, Resfusion):
        return change(process=process, output="resnoise", **values)
    # an error of the residual is one of x0 at every noise level
    return change(**{"process": process, "output": "residual", "loss": Square("x0")} | values)


TRAININGS: dict[str, Training] = {
    "regression": Training("baseline", change(times=Times(low=0.999)), (Sampling("mean", ddim, most=1),)),
    "conditional diffusion": Training(
        "baseline", change(), (*STEPWISE[:2], Sampling("ancestral", ancestral, most=100), *FROM_PAIR)
    ),
    "conditional diffusion, soft mixture": Training("baseline", change(head=OWN, loss=POSTERIOR_GIVEN_Y), DRAWN),
    "RDDM": Training("ours", to_pair(RDDM()), STEPWISE),
    "RDDM, sd = 0.1": Training("ours", to_pair(RDDM(sd=0.1)), STEPWISE),
    "RDDM, two heads": Training("ours", to_pair(RDDM(), head=ResidualHead(), loss=ResidualAndNoise()), STEPWISE[:1]),
    "RDDM, soft mixture": Training("ours", to_pair(RDDM(), head=OWN, loss=POSTERIOR_GIVEN_Y), DRAWN),
    "RDDM, soft mixture, eta = 0": Training("control", to_pair(RDDM(), head=SILENT, loss=POSTERIOR_GIVEN_Y), DRAWN),
    "Resfusion": Training("ours", to_pair(Resfusion()), STEPWISE),
    "Resfusion, soft mixture": Training("ours", to_pair(Resfusion(), head=OWN, loss=POSTERIOR_GIVEN_Y), DRAWN),
    "Resfusion, soft mixture, eta = 0": Training(
        "control", to_pair(Resfusion(), head=SILENT, loss=POSTERIOR_GIVEN_Y), DRAWN
    ),
}


# the held-out pairs, and the draws for each: 19 have central intervals of 50 and 90 %
HELD_OUT, EACH = 120, 19
# the counts of the trained rows: those of the exact ones, and a long chain
EVALUATIONS = (*COUNTS, 100)


def case(data: str, kind: str) -> str:
    """The name of a data set with its degradation."""
    return f"{data}, {kind}"


def trained_arms(name: str, data: str, kind: str, out: Path, images: int, seeds: int = 3) -> Arms:
    """A training as arms of the frame: one for each way to sample it, and one for the training itself.

    data, kind : one of `CASES`.
    images     : the number of training images (with repetition).
    """
    trained = TRAININGS[name]
    roles = {name: trained.role} | {
        by(name, way.name): "control" if isinstance(way, FromPair) else trained.role for way in trained.ways
    }
    measure = partial(train_and_measure, name, data, kind, out)
    return Arms(roles, measure, case(data, kind), full={"images": images}, seeds=seeds)


def train_and_measure(name: str, data: str, kind: str, out: Path, seed: int, images: int) -> Results:
    """Train one configuration, or continue its training, and measure every way to sample it on held-out pairs.

    Returns values by (arm, metric@evaluations), and the seconds and parameters of the training.
    """
    at, trained, known = training_folder(out / kind, name, data, images, seed), TRAININGS[name], reference(data, out)
    degrade = Degradation(kind)
    results: dict[tuple[str, str], float] = {}
    with logged(at):
        source = Degraded(known.train, degrade)
        # x_in is always given
        plain = base(source.shape, DATA_SETS[data][2], round(images * trained.longer), seed).but(drop=0.0)
        config = trained.change(plain, source.shape)
        for step in training(source, config, at / "run"):
            if step.step % 250 == 0:
                print(f"{name}: step {step.step} of {step.total}, loss {step.loss:.4f}", flush=True)
        denoiser = load_run(at / "run").denoiser.to(find_device())
        x0 = known.real[-HELD_OUT:]
        x_in = degrade(x0, Rng(seed, len(x0), f"held out, {kind}"))
        for way in trained.ways:
            for count in [each for each in EVALUATIONS if each <= way.most]:
                draws = _drawn(way, count, denoiser, x_in, seed)
                values = scores(draws, x0, Rng(seed, len(x0), f"compared, {kind}"))
                values |= {"one draw": psnr(float((draws.clamp(-1, 1) - x0).square().mean().sqrt()))}
                values |= {"frechet": frechet(known.real_features, known.features(draws.flatten(0, 1).clamp(-1, 1)))}
                results |= {(by(name, way.name), f"{metric}@{count}"): value for metric, value in values.items()}
                print(f"{name}, {way.name}, {count}: {values['one draw']:.2f} dB", flush=True)
    results[name, "training seconds"] = training_seconds(at / "run", config.batch)
    results[name, "parameters"] = sum(p.numel() for p in denoiser.parameters())
    return results


def _drawn(way: Sampling, count: int, denoiser: Denoiser, x_in: Tensor, seed: int) -> Tensor:
    """Draws for each x_in, [EACH, n, C, S, S]."""
    process, steps = denoiser.process, steps_for(way.sampler, count)
    device, cond = device_of(denoiser), Cond(image=x_in).repeat(EACH)
    near: dict[str, Any] = {"grid": traits(way.sampler).grid(process, steps)}  # type: ignore[arg-type]
    if isinstance(way, FromPair):
        assert isinstance(process, Gaussian)
        near = {"start": noised(x_in.repeat(EACH, 1, 1, 1)), "at": half_way(process)}
    precision = suitable_precision(device)
    x = sample(
        *(denoiser, len(cond), steps),
        sampler=way.sampler,
        seed=seed,
        cond=cond,
        device=device,
        precision=precision,
        **near,
    )
    return x.cpu().unflatten(0, (EACH, len(x_in)))


# the rows of a verdict on trained models: by the way with the least CRPS at each count
KEPT = ("crps", "one draw", "frechet")


def trained_rows(names: Sequence[str], images: int = 60_000) -> list[Trained]:
    """Trainings on each of `CASES`, each by its best way to sample."""
    roles: dict[str, Role] = {name: TRAININGS[name].role for name in names} | {NEAR: "control"}
    return [
        Trained(
            case(data, kind),
            {named(name, kind): role for name, role in roles.items()},
            partial(_best_rows, tuple(names), data, kind, images),
        )
        for data, kind in CASES
    ]


def named(name: str, kind: str) -> str:
    """The name of a trained row on one kind of pairs."""
    return f"{name} ({kind})"


# conditional diffusion from x_in, a way of its own
NEAR = "conditional diffusion, from x_in"


def _best_rows(
    names: Sequence[str], data: str, kind: str, images: int, out: Path, progress: Progress
) -> list[VerdictRow]:
    arms = [trained_arms(name, data, kind, out, images) for name in names]
    runs = [run for each in arms for run in each.runs(Scale.full)]
    measured = rows_of(runs, progress, folder(out / kind, data, images), in_processes)
    near = [row for row in measured if row.role == "control" and row.name.endswith("from x_in")]
    others = [row for row in measured if row not in near]
    near = [replace(row, name=by(NEAR, row.name)) for row in near]
    return [
        replace(best(rows, name, count, metric, "crps"), name=named(name, kind))
        for rows, shown in ((others, names), (near, [NEAR] if near else []))
        for metric in KEPT
        for name in shown
        for count in EVALUATIONS
        if any(row.metric == f"crps@{count}" and row.name.startswith(by(name, "")) for row in rows)
    ]


# checks that the recipes of residual processes share

BASELINES = ("conditional diffusion", "conditional diffusion, adams")
# the counts at which they are compared: at 1 all answer E[x0 | x_in]
FEW = (2, 5, 10)


def least(value: Numbers, names: Sequence[str], count: int) -> float:
    """The least distance of these rows at one count."""
    return min(value[name, f"distance@{count}"] for name in names)


def listed(values: Sequence[float], digits: int = 4) -> str:
    return ", ".join(f"{each:.{digits}f}" for each in values)


def one_draw(value: Numbers, name: str) -> Mapping[str, bool]:
    """A row of draws, after one step. The distance is unbiased: 0 for the right law."""
    drawn, floor = (value[each, "distance@1"] for each in (name, FLOOR))
    return {
        f"one step from a draw of the posterior has the law ({drawn:.4f}, two exact sets {floor:.4f})": abs(drawn)
        < 2e-3
    }


def on_images(value: Numbers, kind: str, ours: str, soft: str) -> Mapping[str, bool]:
    """The checks on trained models; none where they did not run.

    ours, soft : the rows of the residual process, with a mean and with a soft mixture.
    """
    if (named(ours, kind), "crps@5") not in value:
        return {}
    decibel, other, near = (
        value.line(named(name, kind), "one draw", FEW) for name in (ours, "conditional diffusion", NEAR)
    )
    mixed, silent, plain = (
        value.line(named(name, kind), "crps", (1, 2))
        for name in (soft, f"{soft}, eta = 0", "conditional diffusion, soft mixture")
    )
    return {
        f"{kind}: one draw is better by 1 dB than that of conditional diffusion at 2, 5 and 10 ({listed(decibel, 1)}; "
        f"{listed(other, 1)})": all(a > b + 1 for a, b in zip(decibel, other, strict=True)),
        f"{kind}: not the start at x_in: from there conditional diffusion is worse by 1 dB ({listed(near, 1)})": all(
            a > b + 1 for a, b in zip(decibel, near, strict=True)
        ),
        f"{kind}: with a soft mixture its CRPS at 1 and 2 is less than with eta = 0 ({listed(mixed)}; "
        f"{listed(silent)}), and than that of conditional diffusion with a soft mixture ({listed(plain)})": all(
            a < min(b, c) for a, b, c in zip(mixed, silent, plain, strict=True)
        ),
    }
