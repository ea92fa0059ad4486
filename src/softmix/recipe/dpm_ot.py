"""DPM-OT. Does the optimal map make fewer samples between modes?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from torch import Tensor

from ..data.toys import ring
from ..evaluate.points import mode_statistics, sliced_wasserstein
from ..oracle import MixtureProblem
from ..process import VE
from ..rng import Rng
from ..sampler import SemiDiscreteOT, Start, adams, ddim, sample
from .frame import Arms, Numbers, Results, Study
from .paper import Paper, Role

PAPER = Paper.of(
    "dpm_ot",
    "An optimal-transport map from noise to noisy data leaves some ten evaluations to do, and fewer samples "
    "between modes.",
)
RESULT = (
    "fewer samples lie between modes, but with targets drawn at random, without the map, it is as good: the cause "
    "is the stored data and not the map; at 10 evaluations adams from noise is nearer to the law; with noisy "
    "targets and no fresh noise, as published, there are no more different samples than stored ones"
)

COUNTS = (3, 5, 10)
STORED = 512
# the authors have 232 levels from 50 to 0.01, and store their targets at the tenth before the last
LEVEL = 50 * (0.01 / 50) ** (222 / 231)
DATA = "ring of 8 in the plane, exact means"


ROLES: dict[str, Role] = {
    "ddim from noise": "baseline",
    "adams from noise, on its grid": "baseline",
    "from the map": "ours",
    "from a target drawn by number": "control",
    "from the map, noise stored": "ours",
    "from the map, noise stored, at their level": "ours",
    "exact samples": "floor",
}


def measure(seed: int, n: int, steps: int) -> Results:
    """The five ways to start, and exact samples.

    DDIM and adams from noise; DDIM from the targets of the map, noised to sigma = 0.5; DDIM from targets with a random
    number; and as published, DDIM from targets stored with their noise, at 0.5 and at the level of the authors.
    """
    law = ring()
    denoiser = MixtureProblem("ring", law, VE(), (2,)).denoiser()
    at, low = (float(VE().time(-2 * math.log(level))) for level in (0.5, LEVEL))
    stored = law.sample(STORED, Rng(seed, STORED, "stored")).float()
    optimal = SemiDiscreteOT(stored).fit(Rng(seed, 1, "fit"), steps)
    starts: dict[str, tuple[Start | None, float]] = {
        "ddim from noise": (None, 1.0),
        "from the map": (optimal, at),
        "from a target drawn by number": (SemiDiscreteOT(stored, shuffled=True), at),
        **{
            f"from the map, noise stored{level}": (_stored(stored, t, seed, steps).drawn, t)
            for level, t in (("", at), (", at their level", low))
        },
    }
    uneven = float((optimal.shares(Rng(seed, 1, "shares"), 100_000) - 1 / STORED).abs().sum() / 2)
    results = {("from the map", "cell error"): uneven}
    exact, other = (law.sample(n, Rng(seed, n, role)) for role in ("exact", "other"))
    for count in COUNTS:
        draw = partial(sample, denoiser, n, count, seed=seed, batch=n)
        samples = {name: draw(sampler=ddim, start=start, at=t).double() for name, (start, t) in starts.items()}
        samples["adams from noise, on its grid"] = draw(sampler=adams).double()
        samples["exact samples"] = other
        for name, x in samples.items():
            results[name, f"between@{count}"] = 1 - mode_statistics(x, law.means, 0.1).good
            results[name, f"distance@{count}"] = sliced_wasserstein(x, exact, 64, seed=seed)
            if count == COUNTS[-1]:
                results[name, f"different@{count}"] = float(len(x.round(decimals=6).unique(dim=0)))
    return results


def _stored(targets: Tensor, t: float, seed: int, steps: int) -> SemiDiscreteOT:
    """As published: the targets are noised before the map is fitted."""
    noisy = VE().noise(targets, t, Rng(seed, len(targets), "stored noise")).xt
    return SemiDiscreteOT(noisy).fit(Rng(seed, 1, "fit"), steps)


def checks(value: Numbers) -> Mapping[str, bool]:
    """The share of samples between modes, for each number of evaluations."""
    mapped, drawn, *noise = (
        value.line(name, "between", COUNTS)
        for name in (
            "from the map",
            "from a target drawn by number",
            "ddim from noise",
            "adams from noise, on its grid",
        )
    )
    few, many = (value[name, "different@10"] for name in ("from the map, noise stored", "from the map"))
    plain = [min(pair) for pair in zip(*noise, strict=True)]
    return {
        f"at 10 evaluations {100 * mapped[2]:.1f} % of samples lie between modes, at most half of the "
        f"{100 * plain[2]:.1f} % from noise, by the better of two": mapped[2] <= plain[2] / 2,
        f"at 3 {100 * mapped[0]:.1f} %, from noise {100 * plain[0]:.1f} %": mapped[0] <= plain[0] / 2,
        f"and it is the map: a target drawn by number does worse by a fifth (at 3 {100 * drawn[0]:.1f} %)": drawn[0]
        > 1.2 * mapped[0],
        f"with noise that was stored and none added, as published, more different samples come out than the "
        f"{STORED} that were stored ({few:.0f}, with fresh noise {many:.0f})": few > STORED,
    }


QUICK, FULL = {"n": 4000, "steps": 600}, {"n": 20_000, "steps": 1500}
run = Study(PAPER, checks, [Arms(ROLES, measure, DATA, QUICK, FULL)])
