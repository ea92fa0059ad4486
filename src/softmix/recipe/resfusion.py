"""Resfusion: the residual joins the forward process, and the reverse chain starts at the degraded image."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from ..denoiser import mean_only
from ..oracle import pairs
from ..posterior import HasMean, need
from ..process import Resfusion, uniform
from ..process.residual import Halved
from ..rng import Rng
from ..sampler import ancestral, drive
from ..sampler.drive import finish
from .frame import Numbers, TrainedStudy, arm
from .pairs import BASELINES, exact_arms, exact_checks
from .pairs_trained import CASES, on_images, trained_rows
from .paper import Paper

PAPER = Paper.of(
    "resfusion",
    "With the residual in the forward process the reverse chain can start at the noised degraded image, unchanged, and "
    "five steps restore better than a diffusion from noise.",
)
RESULT = (
    "with exact means few steps are better than those of a diffusion from noise, by its noise levels alone: a "
    "conditional diffusion on them is as good; trained on images, a draw is worse by 0.2 to 3.2 dB than one of a "
    "conditional diffusion from noise, at 2, 5 and 10 steps; the CRPS of a plain conditional diffusion is less than "
    "its own at 1 and 2, with a soft mixture or without"
)

IDENTITY = "its chain as published"
OURS = ("Resfusion", "Resfusion without fresh noise", "Resfusion, adams")
LEVELS, OF_LEVELS = "the noise levels of Resfusion alone", "Resfusion without fresh noise"
DRAWS = ("Resfusion, draws", "conditional diffusion, draws")


def identity(seed: int, n: int, steps: int) -> Mapping[str, float]:
    """The largest difference between two chains of exact means, relative to the largest state: ours with eta = 1, and

        x_s = (x_t - beta / sqrt(1 - alpha_bar_t) resnoise) / sqrt(1 - beta) + sqrt(beta (1 - alpha_bar_s) /
              (1 - alpha_bar_t)) n,   resnoise = z + (1 - sqrt(1 - beta)) sqrt(1 - alpha_bar_t) / beta R

    with beta = 1 - alpha_bar_t / alpha_bar_s, which is DDPM's chain of the noise resnoise.
    """
    process, base = Resfusion(), Halved()
    problem = pairs((4,), process)
    cond = problem.draw(n, Rng(seed, n, "identity"))[1]
    denoiser, grid = mean_only(problem.denoiser()), uniform(base, steps)
    start = process.prior((n, 4), Rng(seed, n, "start"), cond).double()
    x, rng, x_in = start, Rng(seed, n, "noise"), process.u(cond)
    for t, s in pairwise(grid):
        x0 = need(denoiser(x, t, cond), HasMean, "resfusion").mean
        a, later = base.a(t), base.a(s)
        beta, residual = 1 - (a / later) ** 2, x_in - x0
        sigma = (1 - a**2).sqrt()
        z = (x - a * x0 - (1 - a) * residual) / sigma
        resnoise = z + (1 - (1 - beta).sqrt()) * sigma / beta * residual
        x = (x - beta / sigma * resnoise) / (1 - beta).sqrt()
        if s > 0:
            x = x + (beta * (1 - later**2)).sqrt() / sigma * rng.normal(x.shape, x.dtype)
    other = finish(drive(denoiser, ancestral, start, grid, Rng(seed, n, "noise"), cond))
    return {"difference": float((x - other).abs().max() / other.abs().max())}


def checks(value: Numbers) -> Mapping[str, bool]:
    """The checks of exact rows; then on images."""
    found = exact_checks(
        *(value, OURS, LEVELS, OF_LEVELS, DRAWS[0], IDENTITY), "its chain is that of DDPM on the residual"
    )
    for _, kind in CASES:
        found |= on_images(value, kind, "Resfusion", "Resfusion, soft mixture")
    return found


ROWS = (*BASELINES, DRAWS[1], *OURS, DRAWS[0], LEVELS)
TRAINED = (
    *("regression", "conditional diffusion", "conditional diffusion, soft mixture"),
    *("Resfusion", "Resfusion, soft mixture", "Resfusion, soft mixture, eta = 0"),
)
run = TrainedStudy(
    PAPER,
    checks,
    [
        exact_arms(ROWS),
        arm(IDENTITY, "ours", identity, "identities", *({"n": 200, "steps": 5},) * 2),
    ],
    trained=trained_rows(TRAINED),
)
