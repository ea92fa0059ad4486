"""Few steps: every loss, head and sampler on one network and one budget of images, by number of evaluations.

    python bench/fewsteps.py --data fashion14 --images 100000 --seeds 0 1 2 --out runs/few
    python bench/fewsteps.py --data digits --images 200000 --rows plain "feature score" --out runs/few
    python bench/fewsteps.py --report --out runs/few

Rows that are there already are not computed again. Each is trained on one thread, `--workers` at a time (0: as
many as there are cores); what a row is, is said in `softmix.recipe.images`.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softmix.recipe.images import COUNTS, ROWS, SETS, Job, compute, results, values

Results = Sequence[dict[str, Any]]


def report(out: Path) -> None:
    """Markdown: for each data set, the Fréchet distance by evaluations, and the other columns at one and at four."""
    for folder in sorted(p for p in out.iterdir() if p.is_dir() and list(p.glob("*/result.json"))):
        found = results(folder)
        first = found[0]
        print(f"\n## {folder.name}\n")
        print(
            f"{folder.name.split('-')[1]} images seen, {first['n']:,} samples, features {first['features']} (not FID); "
            f"floor, real against real: {first['floor']['frechet']:.2f}. {first['machine']}.\n"
        )
        print("Fréchet distance by network evaluations, mean and standard deviation over seeds:\n")
        print("| row | sampler | seeds | " + " | ".join(map(str, COUNTS)) + " |")
        print("|---|---|---|" + "---|" * len(COUNTS))
        for row, way in _kinds(found):
            seeds = sum(r["row"] == row for r in found)
            print(f"| {row} | {way} | {seeds} | " + " | ".join(_cell(found, row, way, c) for c in COUNTS) + " |")
        for count in (1, 4, 8):
            _others(found, count)


def _others(found: Results, count: int) -> None:
    metrics = ("kernel", "precision", "recall", "class_tv", "nearest", "copied", "seconds")
    print(f"\nThe other columns at {count} evaluation{'s' if count > 1 else ''}:\n")
    print("| row | sampler | " + " | ".join(metrics) + " | parameters | training, s |")
    print("|---|---|" + "---|" * (len(metrics) + 2))
    floor = found[0]["floor"]
    print("| floor |  | " + " | ".join(f"{floor[m]:.3g}" if m in floor else "" for m in metrics) + " |  |  |")
    for row, way in _kinds(found):
        cells = [_cell(found, row, way, count, metric) for metric in metrics]
        if any(cells):
            mine = [r for r in found if r["row"] == row]
            seconds = statistics.mean(float(r["seconds"]) for r in mine)
            print(f"| {row} | {way} | " + " | ".join(cells) + f" | {mine[0]['parameters']:,} | {seconds:.0f} |")


def _kinds(found: Results) -> list[tuple[str, str]]:
    """The rows and ways that there are, in the order of the table."""
    kinds = {(r["row"], c["way"]): None for r in found for c in r["cells"]}
    order = list(ROWS)
    return sorted(kinds, key=lambda kind: order.index(kind[0]) if kind[0] in order else len(order))


def _cell(found: Results, row: str, way: str, count: int, metric: str = "frechet") -> str:
    each = values(found, row, way, count, metric)
    if not each:
        return ""
    spread = f"±{statistics.stdev(each):.2g}" if len(each) > 1 else ""
    return f"{statistics.mean(each):.3g}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=SETS, default="fashion14")
    parser.add_argument("--images", type=int, default=100_000, help="that each row sees in training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="by default all")
    parser.add_argument("--n", type=int, default=1000, help="samples for each cell")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/few"))
    parser.add_argument("--report", action="store_true", help="print what is there, compute nothing")
    options = parser.parse_args()
    if not options.report:
        rows = options.rows or list(ROWS)
        jobs = [
            Job(row, options.data, options.images, seed, options.n, options.out)
            for seed in options.seeds
            for row in rows
        ]
        compute(jobs, options.workers or os.cpu_count() or 1, lambda line: print(line, flush=True))
    report(options.out)


if __name__ == "__main__":
    main()
