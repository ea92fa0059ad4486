"""CycleDiffusion: whether the Gaussian code of one model, decoded by another, translates an image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from ..data.toys import ToyMixture
from ..oracle import MixtureProblem
from ..process import VP, Gaussian, Table, uniform_logsnr
from ..rng import Rng
from ..sampler import NoiseCode, ancestral, dpm_encoder, drive, replay
from ..sampler.drive import finish
from .frame import Arms, Numbers, Results, Study
from .paper import Paper, Role

PAPER = Paper.of(
    "cycle_diffusion",
    "Two models trained apart share the Gaussian code of a stochastic sampler: encoded by one and decoded by the "
    "other, an image is translated without pairs.",
)
RESULT = (
    "with eta = 1 an image is translated and has the law of the target; with the published eta = 0.1 the variance is "
    "wrong by a quarter, also at the authors' own times, and by a fifth after their refinement"
)

STEPS = 400
# the authors' settings for unpaired translation: the last 850 of DDPM's 1,000 steps are encoded, and the result is
# noised and denoised once more through the last 100
ENCODED, REFINED = 850, 100
THEIRS = "the same, on DDPM's chain of 1,000: 850 steps of it encoded, as published"
DATA = "Gaussians on the line, 4 times the variance, exact denoisers"


def normal(mean: float, var: float, process: Gaussian | None = None) -> MixtureProblem:
    """A Gaussian on the line."""
    law = ToyMixture(
        "normal",
        torch.ones(1, dtype=torch.float64),
        torch.tensor([[mean]], dtype=torch.float64),
        torch.tensor([[[math.sqrt(var)]]], dtype=torch.float64),
    )
    return MixtureProblem("normal", law, process or VP(), (1,))


def moments(x0: Tensor, translated: Mapping[str, Tensor]) -> Results:
    """The correlation with x0 [n, 1], the slope on it, and the mean and variance of each translation."""
    results: dict[tuple[str, str], float] = {}
    for name, x in translated.items():
        cov = torch.cov(torch.stack([x0[:, 0], x[:, 0]]))
        results[name, "kin"] = float(cov[0, 1] / (cov[0, 0] * cov[1, 1]).sqrt())
        results[name, "slope"] = float(cov[0, 1] / cov[0, 0])
        results[name, "mean"], results[name, "variance"] = float(x.mean()), float(cov[1, 1])
    return results


def at_our_times(seed: int, n: int) -> Results:
    """Encode and decode with 400 steps, even in logsnr."""
    source, target = normal(0.0, 0.2), normal(1.0, 0.8)
    grid, skip = uniform_logsnr(VP(), STEPS), round(0.3 * STEPS)
    x0, rng = source.sample(n, Rng(seed, n, "x0")), Rng(seed, n, "codes")
    codes: dict[str, NoiseCode] = {}
    translated, errors = {}, {}
    for name, eta in (("eta = 1", 1.0), ("eta = 0.1, as published", 0.1)):
        codes[name] = finish(drive(source.denoiser(), partial(dpm_encoder, eta=eta), x0, grid, rng))
    codes["eta = 1, code shuffled"] = codes["eta = 1"].mixed(Rng(seed, n, "mixed"))
    for name, code in codes.items():
        translated[name] = finish(drive(target.denoiser(), replay(code, rest=False), code.start(), grid, rng))
        same = finish(drive(source.denoiser(), replay(code), code.start(), grid, rng))
        if "shuffled" not in name:
            errors[name, "error"] = float((same - x0).abs().max())
    noisy = VP().noise(x0, float(grid[skip]), rng).xt
    translated["noise and sample again (SDEdit)"] = finish(drive(target.denoiser(), ancestral, noisy, grid[skip:], rng))
    return {**moments(x0, translated | {"optimal map": 1 + 2 * x0}), **errors}


def at_their_times(seed: int, n: int) -> Results:
    """The same translation on the labels 849, ..., 1, 0 of DDPM's chain, and then to clean images."""
    ddpm = Table.of_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    x0 = normal(0.0, 0.2).sample(n, Rng(seed, n, "x0"))
    source, target = (normal(mean, var, ddpm).denoiser() for mean, var in ((0.0, 0.2), (1.0, 0.8)))
    grid = torch.arange(ENCODED, -1, -1, dtype=torch.float64) / 1000
    translated = {}
    for eta in (0.1, 1.0):
        rng = Rng(seed, n, "their codes")
        code = finish(drive(source, partial(dpm_encoder, eta=eta), x0, grid, rng))
        translated[f"eta = {eta:g} at their times"] = finish(
            drive(target, replay(code, rest=False), code.start(), grid, rng)
        )
    for name, x in (
        ("eta = 0.1 at their times, refined", translated["eta = 0.1 at their times"]),
        ("refined alone", x0),
    ):
        rng = Rng(seed, n, "refined")
        noisy = ddpm.noise(x, REFINED / 1000, rng).xt
        translated[name] = finish(drive(target, ancestral, noisy, grid[ENCODED - REFINED :], rng))
    return moments(x0, translated)


# the slope of either code in the continuous limit, for Gaussians. The optimal map has 2
SLOPE = 0.8 * math.log(0.2 / 0.8) / (0.2 - 0.8)


def checks(value: Numbers) -> Mapping[str, bool]:
    """From N(0, 0.2) to N(1, 0.8): slope and variance of the translations, for eta = 1 and the paper's 0.1."""
    ours, again, shuffled = (
        value[name, "kin"] for name in ("eta = 1", "noise and sample again (SDEdit)", "eta = 1, code shuffled")
    )
    right, small = value["eta = 1", "variance"], value["eta = 0.1, as published", "variance"]
    steep = value["eta = 1", "slope"]
    plain, refined, one = (
        value[f"eta = {name}", "variance"]
        for name in ("0.1 at their times", "0.1 at their times, refined", "1 at their times")
    )
    return {
        f"translated it is kin to the source ({ours:.2f}, at least 0.6), sampled again {again:.2f}, code shuffled "
        f"{shuffled:.2f}": ours >= 0.6 > again + 0.2 and abs(shuffled) < 0.1,
        f"it is in the target's law: variance {right:.3f} of 0.8": abs(right - 0.8) < 0.04,
        f"what is encoded is given back (error {value['eta = 1', 'error']:.1e})": value["eta = 1", "error"] < 1e-5,
        f"with the paper's eta = 0.1 it is too (variance {small:.3f})": abs(small - 0.8) < 0.04,
        f"with their own times, and refined as they do it, it is (variance {refined:.3f}; {plain:.3f} without, "
        f"{one:.3f} with eta = 1)": abs(refined - 0.8) < 0.04,
        f"its slope is the closed form's, not the optimal map's 2 ({steep:.3f}, {SLOPE:.3f})": abs(steep - SLOPE)
        < 0.03,
    }


OURS: dict[str, Role] = {
    "eta = 1": "ours",
    "eta = 0.1, as published": "ours",
    "eta = 1, code shuffled": "control",
    "noise and sample again (SDEdit)": "baseline",
    "optimal map": "oracle",
}
WITH_THEIRS: dict[str, Role] = {
    "eta = 0.1 at their times": "ours",
    "eta = 0.1 at their times, refined": "ours",
    "eta = 1 at their times": "control",
    "refined alone": "control",
}
QUICK, FULL = {"n": 10_000}, {"n": 20_000}
run = Study(
    PAPER, checks, [Arms(OURS, at_our_times, DATA, QUICK, FULL), Arms(WITH_THEIRS, at_their_times, THEIRS, QUICK, FULL)]
)
