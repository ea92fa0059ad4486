"""Restoration: draws of the posterior given a measurement, by several heads and losses, at a few evaluations.

    python bench/restoration.py --data digits --images 60000 --out runs/restoration
    python bench/restoration.py --report --out runs/restoration

Every row is a network with one trunk and the measurement as its condition (`softmix.recipe.restoration`). The numbers
of each row and seed are saved in a folder below --out; a run that was interrupted continues. On a CPU each process has
one thread, and there is one for each core.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from softmix.recipe import VerdictRow
from softmix.recipe.frame import ArmsRun, in_processes, rows_in, rows_of
from softmix.recipe.images import folder, reference
from softmix.recipe.restoration import COUNTS, GREY, KNOWN, TRAININGS, arms, exact_arms, measurements

METRICS = {
    "crps": "CRPS",
    "energy": "energy score",
    "inside 50": "inside 50 %",
    "inside 90": "inside 90 %",
    "spread/error": "spread / error",
    "unevenness": "unevenness of ranks",
    "psnr": "PSNR of the mean of the 19 draws",
    "frechet": "Fréchet distance",
    "energy distance": "energy distance",
}


def tables(rows: Sequence[VerdictRow], counts: Sequence[int]) -> None:
    """Markdown: a table for each metric, with the measurements and the numbers of evaluations as columns."""
    numbers = {(row.name, row.metric): row for row in rows}
    columns = [(kind.name, count) for kind in measurements(8) for count in counts]
    for metric, title in METRICS.items():
        heads = [f"{kind}: {count}" if count == counts[0] else str(count) for kind, count in columns]
        lines = []
        for arm in dict.fromkeys(row.name for row in rows):
            cells = [cell(numbers.get((arm, f"{kind} {metric}@{count}"))) for kind, count in columns]
            row, _, way = arm.partition(" by ")
            lines += [f"| {row} | {way} | {' | '.join(cells)} |"] if any(cells) else []
        if lines:
            print(f"\n{title}:\n\n| row | sampler | {' | '.join(heads)} |\n|---|---|{'---|' * len(heads)}")
            print("\n".join(lines))


def cell(row: VerdictRow | None) -> str:
    """A number with its standard deviation."""
    if row is None:
        return ""
    return f"{row.value:.3g}" + (f"±{row.spread:.1g}" if row.seeds > 1 else "")


def save(path: Path, place: Path) -> None:
    """Write the rows of a folder, with the settings that they were measured with, as one file of JSON."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(place.glob("*.json"))]
    settings = {json.dumps({"n": record["settings"]["n"]}) for record in records}
    if len(settings) != 1:
        raise SystemExit(
            f"{place} has numbers of different settings, {', '.join(sorted(settings))}: take one folder each"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "name": place.name,
        "settings": json.loads(settings.pop()),
        "rows": [asdict(row) for row in rows_in(place)],
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def sizes(rows: Sequence[VerdictRow]) -> None:
    """Markdown: the parameters of each row and the duration of its training."""
    numbers = {(row.name, row.metric): row for row in rows}
    print("\n| row | parameters | training, s |\n|---|---|---|")
    for name in dict.fromkeys(row.name for row in rows if row.metric == "parameters"):
        print(f"| {name} | {numbers[name, 'parameters'].value:,.0f} | {numbers[name, 'training seconds'].value:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=[*GREY, KNOWN], default="digits")
    parser.add_argument("--images", type=int, default=60_000, help="training images of each row")
    parser.add_argument("--n", type=int, default=120, help="held-out images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=TRAININGS, default=list(TRAININGS), help="by default all")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/restoration"))
    parser.add_argument("--save", type=Path, help="write the numbers to one file of JSON")
    parser.add_argument("--counts", type=int, nargs="+", choices=COUNTS, default=[1, 2, 4, 8], help="to print")
    parser.add_argument("--report", action="store_true", help="print the saved numbers, compute nothing")
    options = parser.parse_args()
    place = folder(options.out, options.data, options.images)
    if not options.report:
        each = [arms(name, options.data, options.out, options.images, options.n) for name in options.rows]
        if options.data == KNOWN:
            each = [exact_arms(options.n), *each]
        else:
            # the classifier of the features is trained here once, and not in every process
            reference(options.data, options.out)
        runs = [ArmsRun(arm, seed, arm.full or {}) for seed in options.seeds for arm in each]
        rows_of(runs, partial(print, flush=True), place, partial(in_processes, workers=options.workers))
    if options.save is not None:
        save(options.save, place)
    tables(rows_in(place), options.counts)
    sizes(rows_in(place))


if __name__ == "__main__":
    main()
