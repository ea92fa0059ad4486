"""Few steps: every loss, head and sampler on one network and one budget of images, by number of evaluations.

    python bench/fewsteps.py --data fashion14 --images 100000 --seeds 0 1 2 --out runs/few
    python bench/fewsteps.py --data digits --images 200000 --rows plain "feature score" --out runs/few
    python bench/fewsteps.py --report --out runs/few

Rows whose numbers are saved are not computed again. Each is trained on one thread, `--workers` at a time (0: the number
of cores). `softmix.recipe.images` defines the rows.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from softmix.recipe import VerdictRow
from softmix.recipe.frame import ArmsRun, in_processes, rows_in, rows_of
from softmix.recipe.images import COUNTS, DATA_SETS, REAL, TRAININGS, arms, folder, real_images

Numbers = Mapping[tuple[str, str], VerdictRow]
METRICS = ("kernel", "precision", "recall", "class_tv", "nearest", "copied", "seconds")


def report(out: Path) -> None:
    """Markdown: for each data set, the Fréchet distance by evaluations, and the other columns at 1, 4 and 8."""
    for place in sorted(path for path in out.iterdir() if path.is_dir() and list(path.glob("*.json"))):
        numbers = {(row.name, row.metric): row for row in rows_in(place)}
        print(f"\n## {place.name}\n")
        print(
            f"{place.name.split('-')[1]} images seen; floor, real against real: "
            f"{cell(numbers, REAL, 'frechet')}. In features of our own (not FID). {platform.machine()}.\n"
        )
        print("Fréchet distance by network evaluations, mean and standard deviation over seeds:\n")
        print("| row | sampler | seeds | " + " | ".join(map(str, COUNTS)) + " |")
        print("|---|---|---|" + "---|" * len(COUNTS))
        for name, way in ways(numbers):
            arm = f"{name} by {way}"
            cells = [cell(numbers, arm, f"frechet@{count}") for count in COUNTS]
            seeds = max(row.seeds for (other, _), row in numbers.items() if other == arm)
            print(f"| {name} | {way} | {seeds} | " + " | ".join(cells) + " |")
        for count in (1, 4, 8):
            others(numbers, count)


def others(numbers: Numbers, count: int) -> None:
    """The other metrics at one number of evaluations."""
    print(f"\nThe other columns at {count} evaluation{'s' if count > 1 else ''}:\n")
    print("| row | sampler | " + " | ".join(METRICS) + " | parameters | training, s |")
    print("|---|---|" + "---|" * (len(METRICS) + 2))
    print("| floor |  | " + " | ".join(cell(numbers, REAL, metric) for metric in METRICS) + " |  |  |")
    for name, way in ways(numbers):
        cells = [cell(numbers, f"{name} by {way}", f"{metric}@{count}") for metric in METRICS]
        if any(cells):
            size, seconds = (numbers[name, metric].value for metric in ("parameters", "training seconds"))
            print(f"| {name} | {way} | " + " | ".join(cells) + f" | {size:,.0f} | {seconds:.0f} |")


def ways(numbers: Numbers) -> list[tuple[str, str]]:
    """Each training with each way to sample it, in the order of the trainings."""
    pairs = dict.fromkeys((name, way) for name, by, way in (arm.partition(" by ") for arm, _ in numbers) if by)
    order = list(TRAININGS)
    return sorted(pairs, key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))


def cell(numbers: Numbers, arm: str, metric: str) -> str:
    """A number with its standard deviation; empty if it is not measured."""
    if (arm, metric) not in numbers:
        return ""
    row = numbers[arm, metric]
    return f"{row.value:.3g}" + (f"±{row.spread:.2g}" if row.seeds > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA_SETS, default="fashion14")
    parser.add_argument("--images", type=int, default=100_000, help="training images of each row")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=TRAININGS, help="by default all")
    parser.add_argument("--n", type=int, default=1000, help="samples for each cell")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/few"))
    parser.add_argument("--report", action="store_true", help="print the saved numbers, compute nothing")
    options = parser.parse_args()
    if not options.report:
        trained = [
            arms(name, options.data, options.out, options.images, options.n) for name in options.rows or TRAININGS
        ]
        runs = [ArmsRun(each, seed, each.full or {}) for seed in options.seeds for each in trained]
        floor = real_images(options.data, options.out, options.n)
        workers = options.workers or os.cpu_count() or 1
        rows_of(
            [ArmsRun(floor, 0, floor.full or {}), *runs],
            partial(print, flush=True),
            folder(options.out, options.data, options.images),
            partial(in_processes, workers=workers),
        )
    report(options.out)


if __name__ == "__main__":
    main()
