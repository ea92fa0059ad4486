"""Nets of UniCon: images with their edges, by independent times, by tied times, and for one task alone.

All trainings have one net, one number of training images and one loss; they differ in the pairs of times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from .. import training
from ..cond import Cond
from ..data import Degraded, load
from ..denoiser import Denoiser, OnPath, PointHead, SoftHead, given
from ..loss import Energy, LossSpec, Square
from ..measure import replacing
from ..net import DiTSpec, TwoStreamsSpec
from ..posterior import HasMean, need
from ..process import JOINT, TwoClocks, uniform_logsnr
from ..rng import Rng
from ..sampler import adams, along, ancestral, drive
from ..sampler.drive import finish
from ..shape import column
from ..train import DenoisePair, find_device
from ..train import load as load_run
from .frame import Arms, Numbers, Results
from .images import DATA_SETS, base, logged, training_folder
from .paper import Role

DATA = "fashion14"
WHERE = f"{DATA} and its edges"
COUNTS = (1, 4, 16)
# replacement takes many steps, and its mean is that of several runs
STEPS, RUNS, REPLACED = 50, 8, 250
NET = TwoStreamsSpec(DiTSpec(width=96, depth=4, patch=2))


def edges(x0: Tensor, rng: Rng) -> Tensor:
    """The length of the gradient of images [B, C, H, W], by Sobel's masks on the image with its border repeated.

    In [-1, 1]: -1 without a gradient, 1 at the steepest edge.
    """
    wide = torch.nn.functional.pad(x0, (1, 1, 1, 1), mode="replicate")
    smooth, slope = x0.new_tensor([1.0, 2.0, 1.0]) / 8, x0.new_tensor([-1.0, 0.0, 1.0])
    masks = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)])[:, None]
    flat = wide.flatten(0, 1)[:, None]
    length = torch.nn.functional.conv2d(flat, masks).square().sum(1).sqrt()
    # a step from -1 to 1 along an axis has the length 1
    return (2 * length.reshape(x0.shape) - 1).clamp(-1, 1)


@dataclass(frozen=True)
class PairTraining:
    """A training: its pairs of times, its head and its loss."""

    role: Role
    task: Callable[[], DenoisePair]


def _task(clocks: str, head: object = None, loss: LossSpec | None = None) -> DenoisePair:
    return DenoisePair(
        net=NET,
        head=head or PointHead(),  # type: ignore[arg-type]
        loss=loss or Square("v"),
        clocks=clocks,  # type: ignore[arg-type]
    )


OURS, TIED, SOFT = "independent times", "tied times", "independent times, soft mixture"
FOR_ESTIMATION, FOR_CONTROL = "for estimation alone", "for control alone"
TRAININGS: dict[str, PairTraining] = {
    OURS: PairTraining("ours", partial(_task, "independent")),
    SOFT: PairTraining("ours", partial(_task, "independent", SoftHead(), Energy(m=2, weight="v"))),
    TIED: PairTraining("control", partial(_task, "tied")),
    FOR_ESTIMATION: PairTraining("baseline", partial(_task, "estimation")),
    FOR_CONTROL: PairTraining("baseline", partial(_task, "control")),
}


def arms(out: Path, images: int = 30_000, n: int = 1000) -> list[Arms]:
    """The trainings with three seeds. out : the folder in which they stay. n : held-out images."""
    settings = {"images": images, "n": n}
    return [
        Arms(
            {name: each.role},
            partial(train_and_measure, name, DATA, out),
            f"{WHERE}, {name}",
            full=settings,
            seeds=3,
            needs=partial(load, DATA_SETS[DATA][0]),
        )
        for name, each in TRAININGS.items()
    ]


def train_and_measure(name: str, data: str, out: Path, seed: int, images: int, n: int) -> Results:
    """Train one model, or continue its training, and measure it on held-out images."""
    at = training_folder(out, name, data, images, seed)
    source_name, size, _ = DATA_SETS[data]
    with logged(at):
        train = Degraded(load(source_name, size=size), edges)
        config = base(train.shape, NET, images, seed).but(task=TRAININGS[name].task())
        for step in training(train, config, at / "run"):
            if step.step % 250 == 0:
                print(f"{name}: step {step.step} of {step.total}, loss {step.loss:.4f}", flush=True)
        denoiser = load_run(at / "run").denoiser.to(find_device())
    x0 = load(source_name, size=size, split="test").x0()[:n].to(find_device())
    values = measured(name, denoiser, x0, seed)
    return {(name, metric): value for metric, value in values.items()}


def measured(name: str, denoiser: Denoiser, x0: Tensor, seed: int) -> dict[str, float]:
    """Errors of the conditional means at one evaluation, and the agreement of the two signals of joint samples.

    "estimation" : the mean squared error of E[y | x], asked at (0, 1). "control" : of E[x | y], asked at (1, 0).
    "disagreement@k" : the mean squared distance of the y of a joint sample from the edges of its x, after k steps.
    "replaced ..." : the same errors by replacement on the diagonal, the only way of a model of tied times; of the first
        items, because it takes many evaluations.
    """
    y0 = edges(x0, Rng(0, len(x0)))
    values: dict[str, float] = {}
    if name != FOR_CONTROL:
        values["estimation"] = _error(denoiser, 1, x0, y0, seed)
    if name != FOR_ESTIMATION:
        values["control"] = _error(denoiser, 0, y0, x0, seed)
    if name == TIED:
        values["replaced estimation"] = _replaced_error(denoiser, 1, x0[:REPLACED], y0[:REPLACED], seed)
        values["replaced control"] = _replaced_error(denoiser, 0, y0[:REPLACED], x0[:REPLACED], seed)
    if name in (OURS, SOFT, TIED):
        for count in COUNTS:
            # the mean of a soft mixture takes over where its draws are no better
            sampler = partial(ancestral, eta=0.0) if name == SOFT and count < COUNTS[-1] else adams
            x, y = along(denoiser, JOINT, len(x0), count, sampler=sampler, seed=seed)
            values[f"disagreement@{count}"] = float((edges(x, Rng(0, len(x))) - y).square().mean())
    return values


def _error(denoiser: Denoiser, stream: int, other: Tensor, truth: Tensor, seed: int) -> float:
    """The mean squared error of one signal at time 1 given the other one, clean."""
    view, n = given(stream)(denoiser), len(truth)
    start = view.process.prior(tuple(truth.shape), Rng(seed, n, "asked", truth.device))
    with torch.no_grad():
        found = need(view(start, 1.0, Cond(image=other)), HasMean, "unicon").mean
    return float((found - truth).square().mean())


def _replaced_error(denoiser: Denoiser, stream: int, other: Tensor, truth: Tensor, seed: int) -> float:
    """The mean squared error of the mean of several runs on the diagonal, with the other signal replaced."""
    (leg,), clocks = JOINT.legs, cast(TwoClocks, denoiser.process)
    unknown = torch.zeros_like(truth)
    known = clocks.joined(*((unknown, other) if stream == 0 else (other, unknown)))
    channels = torch.arange(sum(clocks.sizes), device=truth.device) >= clocks.sizes[0]
    seen = column(channels if stream == 0 else ~channels, known.transpose(0, 1)).transpose(0, 1).bool()
    grid = uniform_logsnr(clocks.base, STEPS, last=8.0)
    total = torch.zeros_like(truth)
    for k in range(RUNS):
        rng = Rng(seed, len(truth), f"replaced {k}", truth.device)
        start = clocks.base.noise(known, 1.0, rng.child("begin")).xt
        end = finish(drive(OnPath(denoiser, leg), replacing(known, seen), start, grid, rng))
        total = total + clocks.part(end, stream)
    return float((total / RUNS - truth).square().mean())


def checks(value: Numbers) -> Mapping[str, bool]:
    """The comparisons of nets, if they were trained."""
    if (OURS, "estimation") not in value:
        return {}
    pairs = {"estimation": FOR_ESTIMATION, "control": FOR_CONTROL}
    ratios = {task: value[OURS, task] / value[name, task] for task, name in pairs.items()}
    tied = {task: min(value[TIED, task], value[TIED, f"replaced {task}"]) / value[OURS, task] for task in pairs}
    apart = [value[name, "disagreement@1"] for name in (SOFT, OURS)]
    return {
        f"nets: the error of estimation is {ratios['estimation']:.2f} of that of a net for it alone (at most 1.1)": (
            ratios["estimation"] <= 1.1
        ),
        f"and that of control {ratios['control']:.2f} (at most 1.1)": ratios["control"] <= 1.1,
        f"with a clean condition tied times have {tied['estimation']:.1f} and {tied['control']:.1f} times the error (2 "
        "at least)": min(tied.values()) >= 2,
        f"in one step the two signals of a soft mixture agree better ({apart[0]:.3f}) than those of the mean "
        f"({apart[1]:.3f})": apart[0] < apart[1],
    }
