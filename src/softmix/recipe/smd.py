"""Soft Mixture Denoising: between modes, in few steps on images, and given a measurement.

The grid of modes (smd_grid.py) asks what a step can learn. At full scale the trainings of `images` ask how few steps
an image needs, and those of `restoration` whether draws given y are calibrated, three seeds each. In both a soft
mixture runs beside networks without a latent, which could explain a gain.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from . import images, restoration
from .frame import Arms, Numbers, Progress, in_processes, judged, rows_of
from .images import best
from .paper import Outcome, Paper, Role, Scale, Verdict, VerdictRow
from .smd_grid import GRID, on_the_grid
from .trainings import TRAININGS

PAPER = Paper.of(
    "smd",
    "A denoising step that is one Gaussian is a bottleneck; a soft mixture over a latent removes it, "
    "most of all at few steps.",
)
RESULT = (
    "few steps need a mixture, and proper losses learn it; the published loss does not learn it, and its latent is "
    "ignored; on images draws are ahead at 4 evaluations, and consistency training at 1 and 2; they need a latent if "
    "they learn by drift, and none if they learn by the energy score in features, which is as good from 2 on; given y "
    "draws pay at 1 and 2, and on digits noise of their own serves as well as a latent"
)

OURS, CONTROL = "feature drift", "feature drift, eta = 0"
IMAGE_ROWS = (
    *("plain", "SMD as published", "energy score", OURS, CONTROL),
    *("feature score, eta = 0", "consistency", "meanflow", "moment matching"),
)
IMAGE_COUNTS = (1, 2, 4, 8, 16)
# the counts at which draws shall pay
FEW_COUNTS = (1, 2, 4)
PICTURES = "Fashion-MNIST, 14 x 14"

GIVEN_Y, GIVEN_Y_CONTROL, OWN_NOISE = "soft mixture", "soft mixture, eta = 0", "own noise, eta = 0"
GIVEN_Y_ROWS = ("regression", "plain", "explicit mixture", GIVEN_Y, GIVEN_Y_CONTROL, OWN_NOISE)
KINDS = tuple(kind.name for kind in restoration.measurements(8))
MEASURED = "digits, 8 x 8, given y"
# the metric at each measurement and number of evaluations
CRPS = [f"{kind} crps@{k}" for kind in KINDS for k in FEW_COUNTS]
INSIDE = [f"{kind} inside 90@{k}" for kind in KINDS for k in FEW_COUNTS]


def run(scale: Scale, progress: Progress, out: Path | None = None) -> Verdict:
    """All variants on the grid, and at full scale the trainings on images and given y."""
    began, rows = time.perf_counter(), []
    if scale is Scale.full:
        # the images first: they take hours
        kept = out or Path("runs") / "reproduce-smd"
        rows = [*on_images(3, 150_000, kept, progress), *given_y(3, 60_000, kept, progress)]
    runs = [run for arms in GRID for run in arms.runs(scale)]
    on_grid = rows_of(runs, progress, out / PAPER.name if out else None, in_processes)
    return judged(PAPER, [*on_grid, *rows], checks, began, in_part)


def checks(value: Numbers) -> dict[str, bool]:
    full = (OURS, "frechet@1") in value
    return on_the_grid(value) | (of_images(value) | of_restoration(value) if full else {})


def in_part(value: Numbers, outcomes: Mapping[str, bool]) -> Outcome:
    """The published loss collapses, so that the claim can hold only for other losses, in part. It does if all other
    checks on the grid hold, or if draws make few steps good on images. The checks given y do not decide."""
    on_grid = all(list(on_the_grid(value).values())[2:])
    full = (OURS, "frechet@1") in value
    return "holds in part" if on_grid or (full and draws_gain(value)) else "does not hold here"


def on_images(seeds: int, count: int, out: Path, progress: Progress) -> list[VerdictRow]:
    """Fashion-MNIST pooled to 14 x 14: each training, by its best way to sample at each number of evaluations."""
    trained = [images.arms(name, "fashion14", out, count, 1000, seeds) for name in IMAGE_ROWS]
    place = images.folder(out, "fashion14", count)
    measured = _measured([*trained, images.real_images("fashion14", out, 1000)], place, progress)
    rows = []
    for name in IMAGE_ROWS:
        rows += [replace(best(measured, name, k), name=name) for k in IMAGE_COUNTS]
        rows += [replace(best(measured, name, k, "recall"), name=name) for k in FEW_COUNTS]
    single = {(row.name, row.metric): row for row in measured}
    rows.append(replace(single[images.REAL, "frechet"], metric="frechet@1"))
    return [replace(row, data=PICTURES) for row in rows]


def given_y(seeds: int, count: int, out: Path, progress: Progress) -> list[VerdictRow]:
    """Digits of which half, a coarse or a blurred image is known: each training, by its best way to sample."""
    # a folder of their own, because trainings of few steps have the same names
    out = out / "restoration"
    trained = [restoration.arms(name, "digits", out, count, 120, seeds) for name in GIVEN_Y_ROWS]
    measured = _measured(trained, images.folder(out, "digits", count), progress)
    rows = []
    for name, kind in [(name, kind) for name in GIVEN_Y_ROWS for kind in KINDS]:
        crps = f"{kind} crps"
        for k in FEW_COUNTS if name != "regression" else FEW_COUNTS[:1]:
            chosen = [best(measured, name, k, metric, crps) for metric in (crps, f"{kind} inside 90")]
            rows += [replace(row, name=name, data=MEASURED) for row in chosen]
    # a metric for all rows, then the next
    return sorted(rows, key=lambda row: (CRPS + INSIDE).index(row.metric))


def _measured(arms: Sequence[Arms], place: Path, progress: Progress) -> list[VerdictRow]:
    runs = [run for each in arms for run in each.runs(Scale.full)]
    return rows_of(runs, progress, place, in_processes)


def _nearest(value: Numbers, metric: str, names: Iterable[str]) -> str:
    """The name with the least number."""
    return min(names, key=lambda name: value[name, metric])


def _of(*roles: Role) -> list[str]:
    """The trainings on images in these roles."""
    return [name for name in IMAGE_ROWS if TRAININGS[name].role in roles]


def clearly(value: Numbers, metric: str, name: str, other: str, aim: float = 0.0) -> bool:
    """Whether the number of `name` is nearer to `aim` than that of `other` by more than two standard deviations over
    seeds, of the row with the larger ones. With three seeds two equal rows are 2 % of the time apart by as much, and
    rows that are two standard deviations apart are found in 4 of 10 cases. A single seed shows nothing."""
    apart = abs(value[other, metric] - aim) - abs(value[name, metric] - aim)
    wide = max(value.spread(each, metric) for each in (name, other))
    return wide > 0 and apart > 2 * wide


def ahead(value: Numbers) -> list[int]:
    """The counts at which the soft mixture is better than every baseline and rival."""
    others = _of("baseline", "rival")
    return [k for k in IMAGE_COUNTS if all(value[OURS, f"frechet@{k}"] < value[x, f"frechet@{k}"] for x in others)]


def clear_of(value: Numbers, others: Iterable[str]) -> list[int]:
    """The few counts at which the soft mixture is clearly better than each of these rows."""
    names = list(others)
    return [k for k in FEW_COUNTS if all(clearly(value, f"frechet@{k}", OURS, name) for name in names)]


def without_latent() -> list[str]:
    """The rows that are networks with eta = 0."""
    return [name for name in IMAGE_ROWS if name.endswith("eta = 0")]


def draws_gain(value: Numbers) -> bool:
    """Whether the latent makes 1, 2 and 4 evaluations good: ahead of all others, and clear of all controls."""
    return {*FEW_COUNTS} <= {*ahead(value)} & {*clear_of(value, without_latent())}


def of_images(value: Numbers) -> dict[str, bool]:
    """The checks on images: the goals, for the same number of training images."""
    nearest = {k: _nearest(value, f"frechet@{k}", _of("baseline", "rival")) for k in FEW_COUNTS}
    ratios = [value[OURS, f"frechet@{k}"] / value[other, f"frechet@{k}"] for k, other in nearest.items()]
    recalls = [(value[OURS, f"recall@{k}"], value[other, f"recall@{k}"]) for k, other in nearest.items()]
    ours, plain = value[OURS, "frechet@8"], value["plain", "frechet@8"]
    leading, pairs = ahead(value), ", ".join(f"{a:.2f} and {b:.2f}" for a, b in recalls)
    of_control, of_all = clear_of(value, [CONTROL]), clear_of(value, without_latent())
    return {
        f"on images the soft mixture is ahead of every baseline and rival at {_listed(leading)} evaluations (1, 2 and "
        "4 at least)": {*FEW_COUNTS} <= {*leading},
        f"at 1, 2 and 4 its Frechet distance is {', '.join(f'{ratio:.2f}' for ratio in ratios)} of the nearest other's "
        "(at most 0.5)": max(ratios) <= 0.5,
        f"at 1, 2 and 4 its recall and that of the nearest other are {pairs} (not less)": all(
            own >= other for own, other in recalls
        ),
        f"at 8 its distance is {ours:.2f} and plain's {plain:.2f} (not more by two standard deviations)": not clearly(
            value, "frechet@8", "plain", OURS
        ),
        f"it is ahead of the same network with eta = 0 by two standard deviations at {_listed(of_control)} (1, 2 and "
        "4)": len(of_control) == len(FEW_COUNTS),
        f"and of every network with eta = 0 at {_listed(of_all)} (1, 2 and 4)": len(of_all) == len(FEW_COUNTS),
    }


def of_restoration(value: Numbers) -> dict[str, bool]:
    """The checks given y, in three measurements at 1, 2 and 4 evaluations: nine cells each."""

    def sharper(other: str) -> int:
        return sum(clearly(value, metric, GIVEN_Y, other) for metric in CRPS)

    def nearer(other: str) -> int:
        return sum(clearly(value, metric, GIVEN_Y, other, aim=0.9) for metric in INSIDE)

    control, plain, own = GIVEN_Y_CONTROL, "plain", sharper(OWN_NOISE)
    return {
        f"given y its CRPS is less than that of eta = 0 by two standard deviations in {sharper(control)} of 9 cells, "
        f"and its share of truths inside 90 % intervals nearer to 0.9 in {nearer(control)} (all)": (
            sharper(control) == nearer(control) == 9
        ),
        f"than those of plain's samples in {sharper(plain)} and {nearer(plain)} (all)": (
            sharper(plain) == nearer(plain) == 9
        ),
        f"and its CRPS than that of eta = 0 with noise of its own for each draw in {own} (all)": own == 9,
    }


def _listed(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts)) or "no"
