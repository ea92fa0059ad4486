"""Residual Denoising Diffusion Models: a residual and noise with schedules of their own."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from ..denoiser import mean_only
from ..oracle import eight
from ..posterior import HasMean, need
from ..process import VP, even_logsnr
from ..rng import Rng
from ..sampler import ddim, drive
from ..sampler.drive import finish
from .frame import Numbers, TrainedStudy, arm
from .pairs import BASELINES, FEW, exact_arms, exact_checks, listed
from .pairs_trained import CASES, named, on_images, trained_rows
from .paper import Paper

PAPER = Paper.of(
    "rddm",
    "A diffusion from the degraded image to the clean one, with schedules of their own for the residual and the noise, "
    "restores better in few steps than a diffusion from noise.",
)
RESULT = (
    "with exact means few steps are better than those of a diffusion from noise if there is little noise, and "
    "a conditional diffusion on the same noise levels is as good; trained, a draw of it is better by 0.5 to 3.3 dB "
    "than that of a diffusion from noise; for blur a conditional diffusion that starts at the blurred image comes "
    "within 0.7 dB, and a regression is better; for dark photographs that start is worse by 5 dB, and RDDM has the "
    "best CRPS; a soft mixture harms it (CRPS at one evaluation 0.137 for blur and 0.193 for dark photographs, and "
    "0.094 and 0.103 without)"
)

IDENTITY = "its step with the schedules of DDIM"
OURS = ("RDDM", "RDDM, adams", "RDDM, sd = 0.1", "RDDM, sd = 0.1, adams")
LEVELS = ("the noise levels of RDDM alone", "the noise levels of sd = 0.1 alone")
DRAWS = ("RDDM, draws", "conditional diffusion, draws")


def identity(seed: int, n: int, steps: int) -> Mapping[str, float]:
    """The largest difference between two chains for data without a second image, relative to the largest state:

        x_s = x_t - (abar_t - abar_s) R - (bbar_t - bbar_s) z,  abar = 1 - sqrt(alpha_bar), bbar = sqrt(1 - alpha_bar)

    with R = -x0', and DDIM.
    """
    process = VP("linear")
    problem = eight(process)
    denoiser, grid = mean_only(problem.denoiser()), even_logsnr(process, steps, -8.0, 8.0)
    start = process.prior((n, *problem.shape), Rng(seed, n)).double()
    x = start
    for t, s in pairwise(grid):
        x0 = need(denoiser(x, t), HasMean, "rddm").mean
        (alpha, sigma), (later, less) = process.levels(t), process.levels(s)
        z = (x - alpha * x0) / sigma
        x = x - ((1 - alpha) - (1 - later)) * -x0 - (sigma - less) * z
    other = finish(drive(denoiser, ddim, start, grid, Rng(seed, n)))
    return {"difference": float((x - other).abs().max() / other.abs().max())}


def checks(value: Numbers) -> Mapping[str, bool]:
    """The checks of exact rows; then on images."""
    found = exact_checks(
        *(value, OURS, LEVELS[1], "RDDM, sd = 0.1", DRAWS[0], IDENTITY),
        "with the schedules of DDIM its step is DDIM's",
    )
    for _, kind in CASES:
        found |= on_images(value, kind, "RDDM", "RDDM, soft mixture")
        found |= little_noise(value, kind)
    return found


def little_noise(value: Numbers, kind: str) -> Mapping[str, bool]:
    """RDDM with little noise beside a regression; nothing where no model was trained."""
    if (named("RDDM, sd = 0.1", kind), "crps@5") not in value:
        return {}
    decibel = value.line(named("RDDM, sd = 0.1", kind), "one draw", FEW)
    level = value[named("regression", kind), "one draw@1"]
    return {
        f"{kind}: with little noise it is within 0.2 dB of a regression ({listed(decibel, 1)}; {level:.1f})": min(
            decibel
        )
        > level - 0.2
    }


ROWS = (*BASELINES, DRAWS[1], *OURS, DRAWS[0], *LEVELS)
TRAINED = (
    *("regression", "conditional diffusion", "conditional diffusion, soft mixture", "RDDM", "RDDM, sd = 0.1"),
    *("RDDM, two heads", "RDDM, soft mixture", "RDDM, soft mixture, eta = 0"),
)
run = TrainedStudy(
    PAPER,
    checks,
    [
        exact_arms(ROWS),
        arm(IDENTITY, "ours", identity, "identities", *({"n": 200, "steps": 10},) * 2),
    ],
    trained=trained_rows(TRAINED),
)
