"""The room of recipes: How Much is Enough. How long must diffusion be, and what does an auxiliary start save?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..evaluate.points import sliced_wasserstein
from ..oracle import Problem, digits
from ..process import VP, Gaussian
from ..rng import Rng
from ..sampler import Outline, Start, adams, noised, sample
from .contest import IMAGES, Numbers, fashion, judged, row
from .paper import Paper, Role, Scale, Verdict, VerdictRow

PAPER = Paper.of(
    "diffusion_time",
    "A finite diffusion time is best, and with an auxiliary law in the place of noise it can be short.",
)
FOUND = (
    "from the data's Gaussian a short way is better than the whole one, where answers are known; from noise no "
    "shorter way is; on images, at alpha^2 = 0.1, neither is"
)

DATA = "ten Gaussians fitted to the digits, 8 x 8, exact means"
# shares of the signal left at the start, alpha^2
KEPT = (0.001, 0.01, 0.03, 0.1, 0.3)
STEPS = 8


def pure(process: Gaussian, shape: Sequence[int], t: float, rng: Rng) -> Tensor:
    """Noise, whatever the time: what a shorter diffusion does without more."""
    return process.prior(shape, rng)


def apart(outline: Outline) -> Outline:
    """With the same mean and variances, and no correlation."""
    return Outline(outline.mean, (outline.vectors.square() * outline.variances).sum(1).diag())


def at(kept: float) -> float:
    """The time with this share of the signal."""
    return float(VP().time(torch.tensor(kept / (1 - kept)).log()))


def run(scale: Scale, say: Callable[[str], None], out: Path | None = None) -> Verdict:
    """Eight steps from each start, by noise, by the data's Gaussian, and by the data themselves."""
    began = time.perf_counter()
    seeds, n = ((0,), 1000) if scale is Scale.quick else (tuple(range(5)), 4000)
    problem: Problem = digits()
    roles: dict[str, Role] = {
        "noise": "baseline",
        "the data's Gaussian": "ours",
        "independent elements": "control",
        "the data, noised": "oracle",
        "the whole way": "baseline",
        "exact samples": "floor",
    }
    found: dict[tuple[str, str], list[float]] = {}
    outline = Outline.of(problem.sample(20_000, Rng(0, 20_000, "fit")))
    starts: dict[str, Start] = {
        "noise": pure,
        "the data's Gaussian": noised(outline.draw),
        "independent elements": noised(apart(outline).draw),
        "the data, noised": noised(problem.sample),
    }
    for seed in seeds:
        exact, other = (problem.sample(n, Rng(seed, n, role)) for role in ("exact", "other"))

        def keep(name: str, metric: str, x: Tensor, exact: Tensor = exact, seed: int = seed) -> None:
            found.setdefault((name, metric), []).append(sliced_wasserstein(x.double(), exact, 64, seed=seed))

        for kept in KEPT:
            for name, start in starts.items():
                x = sample(problem.denoiser(), n, STEPS, sampler=adams, start=start, at=at(kept), seed=seed, batch=n)
                keep(name, f"distance@{kept:g}", x)
        metric = f"distance@{KEPT[0]:g}"
        keep("the whole way", metric, sample(problem.denoiser(), n, STEPS, sampler=adams, seed=seed, batch=n))
        keep("exact samples", metric, other)
        say(f"seed {seed}: done")
    rows = [row(name, roles[name], metric, each, DATA) for (name, metric), each in found.items()]
    rows += [row("noise", "baseline", f"nats@{kept:g}", [outline.divergence(VP(), at(kept))], DATA) for kept in KEPT]
    if scale is Scale.full:
        rows += _on_images(say)

    def checks(value: Numbers) -> Mapping[str, bool]:
        noise, helped = (
            [value[name, f"distance@{kept:g}"] for kept in KEPT] for name in ("noise", "the data's Gaussian")
        )
        long = value["the whole way", f"distance@{KEPT[0]:g}"]
        lost, alone = value["noise", "nats@0.1"], value["independent elements", "distance@0.1"]
        found = {
            f"from the data's Gaussian at alpha^2 = 0.1 eight steps are as good as from noise at t = 1 "
            f"({helped[3]:.3f}, {long:.3f})": helped[3] <= 1.05 * long,
            f"and from noise there they are not ({noise[3]:.3f}, {lost:.1f} nats given away)": noise[3] > 1.2 * long,
            f"at a fixed number of steps a shorter way from noise is better than the whole one somewhere (at best "
            f"{min(noise):.3f})": min(noise) < 0.95 * long,
            f"it is how elements hang together: independent ones of the same variances are worse by a twentieth "
            f"({alone:.3f})": alone > 1.05 * helped[3],
        }
        if ("noise", "frechet@0.1") in value:
            short, aided = value["noise", "frechet@0.1"], value["the data's Gaussian", "frechet@0.1"]
            full = value["the whole way", "frechet@0.1"]
            found[f"on images the same (from noise {short:.1f}, Gaussian {aided:.1f}, whole way {full:.1f})"] = (
                aided < short and aided <= 1.1 * full
            )
        return found

    return judged(PAPER, rows, checks, began)


def _on_images(say: Callable[[str], None]) -> list[VerdictRow]:
    """The model that ships, eight steps from alpha^2 = 0.1."""
    found = fashion(say)
    if found is None:
        return []
    outline = Outline.of(found.data.x0(slice(0, 20_000)))
    ways: dict[str, tuple[Role, Start | None]] = {
        "noise": ("baseline", pure),
        "the data's Gaussian": ("ours", noised(outline.draw)),
        "independent elements": ("control", noised(apart(outline).draw)),
        "the whole way": ("baseline", None),
    }
    rows = []
    for name, (role, start) in ways.items():
        level = 1.0 if start is None else at(0.1)
        rows.append(row(name, role, "frechet@0.1", found.distances(1000, STEPS, start=start, at=level), IMAGES))
        say(f"images, {name}: measured")
    return rows
