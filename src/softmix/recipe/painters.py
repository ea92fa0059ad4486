"""The room of recipes: images like painters. Can the first steps be skipped by a Gaussian in closed form?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..denoiser import Denoiser, ExactData, wiener
from ..evaluate.points import sliced_wasserstein
from ..oracle import Problem, digits
from ..posterior import HasMean, need
from ..process import VP, few, rest
from ..rng import Rng
from ..sampler import Outline, Start, adams, drive
from ..sampler.drive import finish
from .contest import IMAGES, Numbers, end_of, fashion, judged, row
from .diffusion_time import pure
from .paper import Paper, Role, Scale, Verdict, VerdictRow

PAPER = Paper.of(
    "painters",
    "While noise is high a learned flow is that of the data's Gaussian, in closed form, so that the first 15 to "
    "30 % of the steps can be skipped.",
)
FOUND = (
    "teleported to logsnr -4 ten steps end nearer than ten of the whole way, where answers are known; on images six "
    "steps from -6 are as good or better, and from -4 no better"
)

DATA = "ten Gaussians fitted to the digits, 8 x 8, exact means"
LEVELS = (-6.0, -4.0, -2.0, 0.0)
STEPS = 10


def run(scale: Scale, say: Callable[[str], None], out: Path | None = None) -> Verdict:
    """Teleported to each level of noise, and ten steps from there; beside as many steps of the whole way, on the grid
    that the solver has for it."""
    began = time.perf_counter()
    seeds, n = ((0,), 400) if scale is Scale.quick else (tuple(range(5)), 1000)
    problem: Problem = digits()
    outline = Outline.of(problem.sample(20_000, Rng(0, 20_000, "fit")))
    roles: dict[str, Role] = {
        "teleported": "ours",
        "the whole way, as many steps": "baseline",
        "pure noise at that level": "control",
        "exact samples": "floor",
    }
    found: dict[tuple[str, str], list[float]] = {}
    for seed in seeds:
        exact, other = (problem.sample(n, Rng(seed, n, role)) for role in ("exact", "other"))
        x = problem.process.prior((n, *problem.shape), Rng(seed, n, "start")).double()
        right = end_of(problem, x, 1.0)

        def keep(
            name: str, level: float, end: Tensor, right: Tensor = right, exact: Tensor = exact, seed: int = seed
        ) -> None:
            found.setdefault((name, f"error@{level:g}"), []).append(
                float((end - right).flatten(1).square().mean(1).sqrt().mean())
            )
            distance = sliced_wasserstein(end, exact, 64, seed=seed)
            found.setdefault((name, f"distance@{level:g}"), []).append(distance)

        for level in LEVELS:
            t = float(VP().time(level))
            for name, first in (("teleported", outline.flow(VP(), x, 1.0, t)), ("pure noise at that level", x)):
                end = finish(drive(problem.denoiser(), adams, first, rest(VP(), STEPS, t), Rng(0, n)))
                keep(name, level, end)
        whole = finish(drive(problem.denoiser(), adams, x, few(VP(), STEPS), Rng(0, n)))
        for level in LEVELS:
            keep("the whole way, as many steps", level, whole)
        distance = sliced_wasserstein(other, exact, 64, seed=seed)
        found.setdefault(("exact samples", f"distance@{LEVELS[0]:g}"), []).append(distance)
        say(f"seed {seed}: done")
    rows = [row(name, roles[name], metric, each, DATA) for (name, metric), each in found.items()]
    if scale is Scale.full:
        rows += _on_images(say)

    def checks(value: Numbers) -> Mapping[str, bool]:
        tele, whole, none = (
            {level: value[name, f"error@{level:g}"] for level in LEVELS}
            for name in ("teleported", "the whole way, as many steps", "pure noise at that level")
        )
        best = min(LEVELS, key=lambda level: tele[level])
        found = {
            f"teleported to logsnr {best:g} it ends nearer than the whole way in as many steps ({tele[best]:.3f}, "
            f"{whole[best]:.3f})": tele[best] < whole[best],
            f"pure noise at that level does not ({none[best]:.3f})": none[best] >= whole[best],
            f"too far it is worse (at {LEVELS[-1]:g} {tele[LEVELS[-1]]:.3f})": tele[LEVELS[-1]] > tele[best],
        }
        if ("teleported", "frechet@-4") in value:
            ours, plain = value["teleported", "frechet@-4"], value["the whole way, as many steps", "frechet@-4"]
            found[f"on images it is better by a tenth at as many steps ({ours:.1f}, {plain:.1f})"] = ours < 0.9 * plain
            for level in (-4, 0):
                gaussian, data = (
                    value[name, f"explained@{level}"] for name in ("the data's Gaussian", "the data themselves")
                )
                found[
                    f"the Gaussian explains the model's mean at {level} better than the data do "
                    f"({gaussian:.3f}, {data:.3f})"
                ] = gaussian > data
        return found

    return judged(PAPER, rows, checks, began)


def explained(model: Denoiser, guess: Denoiser, x0: Tensor, level: float) -> float:
    """1 - |mean - guess|^2 / |mean|^2 of denoised images, uncentred, the model as the reference, averaged over
    items."""
    noised = model.process.noise(x0, float(VP().time(level)), Rng(0, len(x0), "explained"))
    with torch.no_grad():
        means = [
            need(each(noised.xt, float(noised.t[0])), HasMean, "painters").mean.flatten(1).double()
            for each in (model, guess)
        ]
    return float((1 - (means[0] - means[1]).square().sum(1) / means[0].square().sum(1)).mean())


def _on_images(say: Callable[[str], None]) -> list[VerdictRow]:
    """The model that ships: Fréchet distance after teleportation, and how much of its mean closed forms explain."""
    found = fashion(say)
    if found is None:
        return []
    x0, others = found.data.x0(slice(0, 20_000)), found.data.x0(slice(20_000, 20_512))
    outline = Outline.of(x0)
    rows: list[VerdictRow] = []

    def keep(name: str, role: Role, metric: str, *values: float) -> None:
        rows.append(row(name, role, metric, values, IMAGES))

    whole = found.distances(1000, 6)
    ways: tuple[tuple[str, Role, Start], ...] = (
        ("teleported", "ours", outline),
        ("pure noise at that level", "control", pure),
    )
    for level in LEVELS[:3]:
        for name, role, start in ways:
            keep(name, role, f"frechet@{level:g}", *found.distances(1000, 6, start=start, at=float(VP().time(level))))
        keep("the whole way, as many steps", "baseline", f"frechet@{level:g}", *whole)
    say("images: measured")
    # asked of images that none of them was made of: the data themselves would know their own again
    closed: dict[str, tuple[Role, Denoiser]] = {
        "the data's Gaussian": (
            "ours",
            wiener(VP(), outline.mean, (outline.vectors * outline.variances) @ outline.vectors.mT),
        ),
        "the data themselves": ("control", ExactData(VP(), x0[:5000])),
        "one variance": (
            "control",
            wiener(VP(), outline.mean, float(outline.variances.mean()) * torch.eye(784).double()),
        ),
    }
    for name, (role, guess) in closed.items():
        for level in (-8.0, -4.0, 0.0, 4.0):
            keep(name, role, f"explained@{level:g}", explained(found.means, guess, others, level))
    return rows
