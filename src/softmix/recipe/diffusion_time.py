"""How Much is Enough. How long must diffusion be, and how much does an auxiliary start save?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from ..evaluate.points import sliced_wasserstein
from ..oracle import digits
from ..process import VP, Gaussian
from ..rng import Rng
from ..sampler import GaussianFit, Start, adams, noised, sample
from .contest import IMAGES, fashion
from .frame import Arms, Numbers, Results, Study, arm
from .paper import Paper, Role

PAPER = Paper.of(
    "diffusion_time",
    "A finite diffusion time is best, and with an auxiliary law in the place of noise it can be short.",
)
RESULT = (
    "on a problem with known answers a short diffusion that starts from the data's Gaussian is better than the "
    "whole one, and from noise no shorter diffusion is better; on images, at alpha^2 = 0.1, neither is better"
)

DATA = "ten Gaussians fitted to the digits, 8 x 8, exact means"
# the share of the signal at the start, alpha^2
KEPT = (0.001, 0.01, 0.03, 0.1, 0.3)
STEPS = 8


def pure(process: Gaussian, shape: Sequence[int], t: float, rng: Rng) -> Tensor:
    """Pure noise at any time: a shorter diffusion without an auxiliary law."""
    return process.prior(shape, rng)


def uncorrelated(gaussian: GaussianFit) -> GaussianFit:
    """The Gaussian of the same mean and variances, without correlation."""
    return GaussianFit(gaussian.mean, (gaussian.vectors.square() * gaussian.variances).sum(1).diag())


def at(kept: float) -> float:
    """The time with this share of the signal."""
    return float(VP().time(torch.tensor(kept / (1 - kept)).log()))


@cache
def fitted() -> GaussianFit:
    """The Gaussian of the digits."""
    return GaussianFit.of(digits().sample(20_000, Rng(0, 20_000, "fit")))


def starts(gaussian: GaussianFit) -> dict[str, Start]:
    return {
        "noise": pure,
        "the data's Gaussian": noised(gaussian.draw),
        "independent elements": noised(uncorrelated(gaussian).draw),
    }


def measure(seed: int, n: int) -> Results:
    """Eight steps from each start at each share of the signal, and eight steps over the whole way."""
    problem = digits()
    exact, other = (problem.sample(n, Rng(seed, n, role)) for role in ("exact", "other"))
    draw = partial(sample, problem.denoiser(), n, STEPS, sampler=adams, seed=seed, batch=n)
    samples = {
        (name, f"distance@{kept:g}"): draw(start=start, at=at(kept))
        for kept in KEPT
        for name, start in (starts(fitted()) | {"the data, noised": noised(problem.sample)}).items()
    }
    samples |= {(name, f"distance@{KEPT[0]:g}"): x for name, x in (("the whole way", draw()), ("exact samples", other))}
    return {key: sliced_wasserstein(x.double(), exact, 64, seed=seed) for key, x in samples.items()}


def given_away(seed: int) -> Mapping[str, float]:
    """The divergence between the noised Gaussian and noise, in nats. It does not depend on the seed."""
    return {f"nats@{kept:g}": fitted().divergence(VP(), at(kept)) for kept in KEPT}


@cache
def fashion_gaussian() -> GaussianFit:
    return GaussianFit.of(fashion().data.x0(slice(0, 20_000)))


def on_images(seed: int, n: int) -> Results:
    """The model that ships: eight steps from alpha^2 = 0.1, and over the whole way."""
    short = partial(fashion().distance, n, STEPS, seed, at=at(0.1))
    results = {(name, "frechet@0.1"): short(start=start) for name, start in starts(fashion_gaussian()).items()}
    return {**results, ("the whole way", "frechet@0.1"): fashion().distance(n, STEPS, seed)}


def checks(value: Numbers) -> Mapping[str, bool]:
    """Eight steps from noise, from the Gaussian of the data, and from the Gaussian of independent elements."""
    noise, helped = (value.line(name, "distance", KEPT) for name in ("noise", "the data's Gaussian"))
    long = value["the whole way", f"distance@{KEPT[0]:g}"]
    lost, alone = value["noise", "nats@0.1"], value["independent elements", "distance@0.1"]
    results = {
        f"from the data's Gaussian at alpha^2 = 0.1 eight steps are as good as from noise at t = 1 "
        f"({helped[3]:.3f}, {long:.3f})": helped[3] <= 1.05 * long,
        f"and from noise there they are not ({noise[3]:.3f}, {lost:.1f} nats given away)": noise[3] > 1.2 * long,
        f"at a fixed number of steps a shorter way from noise is better than the whole one somewhere (at best "
        f"{min(noise):.3f})": min(noise) < 0.95 * long,
        f"it is how elements hang together: independent ones of the same variances are worse by a twentieth "
        f"({alone:.3f})": alone > 1.05 * helped[3],
    }
    if ("noise", "frechet@0.1") in value:
        short, aided, full = (value[name, "frechet@0.1"] for name in ("noise", "the data's Gaussian", "the whole way"))
        text = f"on images the same (from noise {short:.1f}, Gaussian {aided:.1f}, whole way {full:.1f})"
        results[text] = aided < short and aided <= 1.1 * full
    return results


ROLES: dict[str, Role] = {
    "noise": "baseline",
    "the data's Gaussian": "ours",
    "independent elements": "control",
    "the data, noised": "oracle",
    "the whole way": "baseline",
    "exact samples": "floor",
}
run = Study(
    PAPER,
    checks,
    [
        Arms(ROLES, measure, DATA, quick={"n": 1000}, full={"n": 4000}),
        arm("noise", "baseline", given_away, DATA, {}, {}, seeds=1),
        Arms(ROLES, on_images, IMAGES, full={"n": 1000}, seeds=3, needs=fashion),
    ],
)
