"""Diffusion models paint like painters: the first steps replaced by the closed form of a Gaussian."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..denoiser import Denoiser, ExactData, wiener
from ..evaluate.points import sliced_wasserstein
from ..oracle import digits
from ..posterior import HasMean, need
from ..process import VP, few, rest
from ..rng import Rng
from ..sampler import Start, adams, drive
from ..sampler.drive import finish
from .contest import IMAGES, end_of, fashion, off
from .diffusion_time import fashion_gaussian, fitted, pure
from .frame import Arms, Numbers, Results, Study
from .paper import Paper, Role

PAPER = Paper.of(
    "painters",
    "While noise is high a learned flow is that of the data's Gaussian, in closed form, so that the first 15 to "
    "30 % of the steps can be skipped.",
)
RESULT = (
    "on a problem with known answers, ten steps after a jump to logsnr -4 end nearer than ten steps from noise; on "
    "images six steps after a jump to -6 are as good or better, and to -4 no better"
)

DATA = "ten Gaussians fitted to the digits, 8 x 8, exact means"
LEVELS = (-6.0, -4.0, -2.0, 0.0)
STEPS = 10


ROLES: dict[str, Role] = {
    "teleported": "ours",
    "the whole way, as many steps": "baseline",
    "pure noise at that level": "control",
    "exact samples": "floor",
}


def measure(seed: int, n: int) -> Results:
    """Ten steps from each noise level, after a jump to it in closed form. The baseline takes ten steps from t = 1, on
    the solver's grid for them."""
    problem = digits()
    exact, other = (problem.sample(n, Rng(seed, n, role)) for role in ("exact", "other"))
    x = problem.process.prior((n, *problem.shape), Rng(seed, n, "start")).double()
    right = end_of(problem, x, 1.0)

    def ended(first: Tensor, times: Tensor) -> Tensor:
        return finish(drive(problem.denoiser(), adams, first, times, Rng(0, n)))

    ends: dict[tuple[str, float], Tensor] = {}
    for level in LEVELS:
        t = float(VP().time(level))
        ends["teleported", level] = ended(fitted().flow(VP(), x, 1.0, t), rest(VP(), STEPS, t))
        ends["pure noise at that level", level] = ended(x, rest(VP(), STEPS, t))
    whole = ended(x, few(VP(), STEPS))
    ends |= {("the whole way, as many steps", level): whole for level in LEVELS}
    results: dict[tuple[str, str], float] = {}
    for (name, level), end in ends.items():
        results[name, f"error@{level:g}"] = float(off(end, right).mean())
        results[name, f"distance@{level:g}"] = sliced_wasserstein(end, exact, 64, seed=seed)
    results["exact samples", f"distance@{LEVELS[0]:g}"] = sliced_wasserstein(other, exact, 64, seed=seed)
    return results


def on_images(seed: int, n: int) -> Results:
    """The Fréchet distance of the shipped model: six steps after the jump."""
    results = {}
    whole = fashion().distance(n, 6, seed)
    starts: tuple[tuple[str, Start], ...] = (("teleported", fashion_gaussian()), ("pure noise at that level", pure))
    for level in LEVELS[:3]:
        for name, start in starts:
            distance = fashion().distance(n, 6, seed, start=start, at=float(VP().time(level)))
            results[name, f"frechet@{level:g}"] = distance
        results["the whole way, as many steps", f"frechet@{level:g}"] = whole
    return results


def explained(model: Denoiser, guess: Denoiser, x0: Tensor, level: float) -> float:
    """1 - |mean - guess|^2 / |mean|^2, averaged over items: the share of the model's mean that a guess explains.

    mean and guess are denoised images, not centred.
    """
    noised = model.process.noise(x0, float(VP().time(level)), Rng(0, len(x0), "explained"))
    with torch.no_grad():
        means = [
            need(each(noised.xt, float(noised.t[0])), HasMean, "painters").mean.flatten(1).double()
            for each in (model, guess)
        ]
    return float((1 - (means[0] - means[1]).square().sum(1) / means[0].square().sum(1)).mean())


def explained_by_closed_forms(seed: int) -> Results:
    """The share of the shipped model's mean that each closed form explains, on images that none of them has seen. The
    empirical posterior would recognise its own images."""
    fit, data = fashion_gaussian(), fashion().data
    closed: dict[str, Denoiser] = {
        "the data's Gaussian": wiener(VP(), fit.mean, (fit.vectors * fit.variances) @ fit.vectors.mT),
        "the data themselves": ExactData(VP(), data.x0(slice(0, 5000))),
        "one variance": wiener(VP(), fit.mean, float(fit.variances.mean()) * torch.eye(784).double()),
    }
    others = data.x0(slice(20_000, 20_512))
    return {
        (name, f"explained@{level:g}"): explained(fashion().means, guess, others, level)
        for name, guess in closed.items()
        for level in (-8.0, -4.0, 0.0, 4.0)
    }


def checks(value: Numbers) -> Mapping[str, bool]:
    """At the best level of the jump; then further levels and images."""
    tele, whole, none = (
        {level: value[name, f"error@{level:g}"] for level in LEVELS}
        for name in ("teleported", "the whole way, as many steps", "pure noise at that level")
    )
    best = min(LEVELS, key=lambda level: tele[level])
    checked = {
        f"teleported to logsnr {best:g} it ends nearer than the whole way in as many steps ({tele[best]:.3f}, "
        f"{whole[best]:.3f})": tele[best] < whole[best],
        f"pure noise at that level does not ({none[best]:.3f})": none[best] >= whole[best],
        f"too far it is worse (at {LEVELS[-1]:g} {tele[LEVELS[-1]]:.3f})": tele[LEVELS[-1]] > tele[best],
    }
    if ("teleported", "frechet@-4") in value:
        ours, plain = value["teleported", "frechet@-4"], value["the whole way, as many steps", "frechet@-4"]
        checked[f"on images it is better by a tenth at as many steps ({ours:.1f}, {plain:.1f})"] = ours < 0.9 * plain
        for level in (-4, 0):
            gaussian, data = (
                value[name, f"explained@{level}"] for name in ("the data's Gaussian", "the data themselves")
            )
            checked[
                f"the Gaussian explains the model's mean at {level} better than the data do "
                f"({gaussian:.3f}, {data:.3f})"
            ] = gaussian > data
    return checked


CLOSED: dict[str, Role] = {"the data's Gaussian": "ours", "the data themselves": "control", "one variance": "control"}
run = Study(
    PAPER,
    checks,
    [
        Arms(ROLES, measure, DATA, quick={"n": 400}, full={"n": 1000}),
        Arms(ROLES, on_images, IMAGES, full={"n": 1000}, seeds=3, needs=fashion),
        Arms(CLOSED, explained_by_closed_forms, IMAGES, full={}, seeds=1, needs=fashion),
    ],
)
