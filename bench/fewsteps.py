"""Few steps: every loss, head and sampler on one network and one budget of images, by number of evaluations.

    python bench/fewsteps.py --data fashion14 --images 100000 --seeds 0 1 2 --out runs/few
    python bench/fewsteps.py --data digits --images 200000 --rows plain "feature score" --out runs/few
    python bench/fewsteps.py --report --out runs/few

    python bench/fewsteps.py --data fashion28 --images 2000000 --batch 512 --seeds 0 --n 5000 --counts 1 2 4 8 16 32 \\
        --rows plain "feature drift" "feature drift, eta = 0" "moment matching" consistency meanflow \\
               "feature score" "feature score, eta = 0" "energy score" \\
        --workers 6 --out runs/few --save docs/data/gpu-fewsteps.json          # one GPU
    python bench/fewsteps.py --report --saved docs/data/gpu-fewsteps.json

Rows whose numbers are saved are not computed again. A training that was cut off continues from its last checkpoint.
The rows are trained in `--workers` processes at a time. On a CPU each process has one thread, and there is one for each
core. On a GPU the rows train at once on the one device, at most eight, and divide the cores among them. The rows are
defined in `softmix.recipe.trainings`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from softmix.recipe import VerdictRow
from softmix.recipe.frame import ArmsRun, in_processes, rows_in, rows_of
from softmix.recipe.images import (
    BATCH,
    DATA_SETS,
    REAL,
    arms,
    best,
    folder,
    real_images,
    reference,
    training_folder,
)
from softmix.recipe.trainings import COUNTS, TRAININGS
from softmix.train import find_device

Numbers = Mapping[tuple[str, str], VerdictRow]
METRICS = ("kernel", "precision", "recall", "class_tv", "nearest", "copied", "seconds")
# the file of a folder of numbers that names the machine
MACHINE = "machine.txt"
# a process on a GPU holds a context of its own, of about half a gigabyte
MOST_ON_GPU = 8


def machine() -> str:
    """The device of the trainings, with the version of torch."""
    device = find_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {platform.machine()}"
    return f"{name}, torch {torch.__version__}"


def machine_of(place: Path) -> str:
    """The machine that measured the numbers of a folder; of this one if the folder does not say it."""
    note = place / MACHINE
    return note.read_text(encoding="utf-8").strip() if note.exists() else platform.machine()


def report(out: Path) -> None:
    """Markdown of the numbers of each data set in a folder."""
    for place in sorted(path for path in out.iterdir() if path.is_dir() and list(path.glob("*.json"))):
        tables(place.name, rows_in(place), machine_of(place))


def tables(name: str, rows: Sequence[VerdictRow], where: str) -> None:
    """Markdown: the Fréchet distance by evaluations, the best row at each count, and other columns at 1, 4 and 8."""
    numbers = {(row.name, row.metric): row for row in rows}
    print(f"\n## {name}\n")
    print(
        f"{name.split('-')[1]} images seen; floor, real against real: {cell(numbers, REAL, 'frechet')}. In features of "
        f"our own (not FID). {where}.\n"
    )
    print("Fréchet distance by network evaluations, mean and standard deviation over seeds:\n")
    counts = [count for count in COUNTS if any(metric == f"frechet@{count}" for _, metric in numbers)]
    print("| row | sampler | seeds | " + " | ".join(map(str, counts)) + " |")
    print("|---|---|---|" + "---|" * len(counts))
    for row, way in ways(numbers):
        arm = f"{row} by {way}"
        cells = [cell(numbers, arm, f"frechet@{count}") for count in counts]
        seeds = max(each.seeds for (other, _), each in numbers.items() if other == arm)
        print(f"| {row} | {way} | {seeds} | " + " | ".join(cells) + " |")
    leaders(rows, counts)
    for count in sorted({1, 4, 8} & set(counts)):
        others(numbers, count)


def leaders(rows: Sequence[VerdictRow], counts: Sequence[int]) -> None:
    """The best way of each training at each count, divided by the least of all: 1 is the best row."""
    names = [name for name in TRAININGS if any(row.name.startswith(f"{name} by ") for row in rows)]
    print("\nEach row by its best sampler, as a multiple of the best row at this number of evaluations:\n")
    print("| row | " + " | ".join(map(str, counts)) + " |")
    print("|---|" + "---|" * len(counts))
    each = {(name, count): least(rows, name, count) for name in names for count in counts}
    lowest = {count: min(each[name, count] for name in names) for count in counts}
    for name in names:
        cells = [each[name, count] / lowest[count] for count in counts]
        print(f"| {name} | " + " | ".join("" if value == float("inf") else f"{value:.2f}" for value in cells) + " |")


def least(rows: Sequence[VerdictRow], name: str, count: int) -> float:
    """The Fréchet distance of the best way of a training; infinite if it was not measured at this count."""
    measured = any(row.metric == f"frechet@{count}" and row.name.startswith(f"{name} by ") for row in rows)
    return best(rows, name, count).value if measured else float("inf")


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


@contextmanager
def followed(logs: Mapping[str, Path], every: float = 30.0) -> Iterator[None]:
    """Print the last line of each log that has grown, from time to time."""
    done, sizes = threading.Event(), dict.fromkeys(logs, 0)

    def follow() -> None:
        while not done.wait(every):
            for name, log in logs.items():
                if log.exists() and log.stat().st_size != sizes[name]:
                    sizes[name] = log.stat().st_size
                    print(f"  {log.read_text(encoding='utf-8').splitlines()[-1]}", flush=True)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def shares(jobs: int, workers: int) -> tuple[int, int]:
    """The number of processes, and of the threads of each. workers : the number asked for, or 0."""
    cores = os.cpu_count() or 1
    if find_device().type == "cpu":
        return workers or cores, 1
    workers = workers or min(jobs, MOST_ON_GPU)
    return workers, max(1, cores // workers)


def compute(options: argparse.Namespace) -> None:
    """Train and measure the rows whose numbers are not saved."""
    trained = [
        arms(
            *(name, options.data, options.out, options.images, options.n),
            batch=options.batch,
            counts=options.counts,
            compile=options.compile,
        )
        for name in options.rows or TRAININGS
    ]
    floor, place = real_images(options.data, options.out, options.n), folder_of(options)
    runs = [ArmsRun(each, seed, each.full or {}) for seed in options.seeds for each in trained]
    runs = [ArmsRun(floor, 0, floor.full or {}), *runs]
    if any(run.saved(place) is None for run in runs):
        # the classifier of the features is trained here once, and not in every process
        reference(options.data, options.out)
        place.mkdir(parents=True, exist_ok=True)
        (place / MACHINE).write_text(machine() + "\n", encoding="utf-8")
    workers, threads = shares(len(runs), options.workers)
    logs = {
        f"{name}, {seed}": training_folder(
            options.out, name, options.data, options.images, seed, options.batch, options.compile
        )
        / "log.txt"
        for name in options.rows or TRAININGS
        for seed in options.seeds
    }
    with followed(logs):
        rows_of(runs, partial(print, flush=True), place, partial(in_processes, workers=workers, threads=threads))


def folder_of(options: argparse.Namespace) -> Path:
    return folder(options.out, options.data, options.images, options.batch, options.compile)


def save(path: Path, place: Path, options: argparse.Namespace) -> None:
    """Write the rows of a folder, with the machine and the settings, as one file of JSON."""
    settings = {key: getattr(options, key) for key in ("data", "images", "batch", "compile", "n", "seeds", "counts")}
    rows = [asdict(row) for row in rows_in(place)]
    record = {"name": place.name, "machine": machine_of(place), "settings": settings, "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def saved(path: Path) -> tuple[str, list[VerdictRow], str]:
    """The name, the rows and the machine of a file that `save` wrote."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record["name"], [VerdictRow(**row) for row in record["rows"]], record["machine"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA_SETS, default="fashion14")
    parser.add_argument("--images", type=int, default=100_000, help="training images of each row")
    parser.add_argument("--batch", type=int, default=BATCH, help="of the trainings; take 512 on a GPU")
    parser.add_argument("--compile", action="store_true", help="train with torch.compile; take it on a GPU")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=TRAININGS, help="by default all")
    parser.add_argument("--counts", type=int, nargs="+", choices=COUNTS, default=COUNTS, help="evaluations")
    parser.add_argument("--n", type=int, default=1000, help="samples for each cell")
    parser.add_argument("--workers", type=int, default=0, help="processes at a time; 0: a core each, on a GPU all rows")
    parser.add_argument("--out", type=Path, default=Path("runs/few"))
    parser.add_argument(
        "--save", type=Path, help="write the numbers of these settings to one file of JSON, with --report too"
    )
    parser.add_argument("--report", action="store_true", help="print the saved numbers, compute nothing")
    parser.add_argument("--saved", type=Path, help="with --report: print the numbers of a file of --save")
    options = parser.parse_args()
    if options.saved is not None and not options.report:
        parser.error("--saved names a file to print: give --report with it, or --save to write one")
    if options.saved is not None:
        tables(*saved(options.saved))
        return
    if not options.report:
        compute(options)
    if options.save is not None:
        # of a run that was cut off: the rows that ended
        save(options.save, folder_of(options), options)
    report(options.out)


if __name__ == "__main__":
    main()
