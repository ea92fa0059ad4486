"""Restoration from pairs of images: networks of residual processes, of conditional diffusion, and a regression."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import training
from ..cond import Cond
from ..data import Degraded
from ..denoiser import Denoiser, ResidualHead
from ..evaluate import frechet
from ..evaluate.calibration import psnr
from ..loss import ResidualAndNoise, Square
from ..process import RDDM, Gaussian, Resfusion
from ..rng import Rng
from ..sampler import adams, ancestral, ddim, noised, sample, soft_adams, traits
from ..train import Times, find_device
from ..train import load as load_run
from ..train.make import suitable_precision
from ..train.preset import POSTERIOR_GIVEN_Y
from .contest import steps_for
from .frame import Arms, Numbers, Progress, Results, Trained, full_rows
from .images import DATA_SETS, base, best, by, folder, logged, reference, training_folder, training_seconds
from .pairs import COUNTS, FEW, listed
from .paper import Role, VerdictRow
from .restoration import scores
from .trainings import OWN, Sampling, Training, change, device_of


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


# no check reads them
VARIANTS = ("RDDM, sd = 0.1", "RDDM, two heads")
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
            for count in way.within(EVALUATIONS):
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
    """Trainings on each of `CASES`, each by its best way to sample; those of `VARIANTS` on the first case alone."""
    found = []
    for data, kind in CASES:
        own = tuple(name for name in names if name not in VARIANTS or (data, kind) == CASES[0])
        roles: dict[str, Role] = {name: TRAININGS[name].role for name in own} | {NEAR: "control"}
        shown = {named(name, kind): role for name, role in roles.items()}
        found.append(Trained(case(data, kind), shown, partial(_best_rows, own, data, kind, images)))
    return found


def named(name: str, kind: str) -> str:
    """The name of a trained row on one kind of pairs."""
    return f"{name} ({kind})"


# conditional diffusion from x_in, a way of its own
NEAR = "conditional diffusion, from x_in"


def _best_rows(
    names: Sequence[str], data: str, kind: str, images: int, out: Path, progress: Progress
) -> list[VerdictRow]:
    arms = [trained_arms(name, data, kind, out, images) for name in names]
    measured = full_rows(arms, progress, folder(out / kind, data, images))
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
