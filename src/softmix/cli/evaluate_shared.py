"""Parts of `softmix evaluate` for runs and samples alike: the report, the number of samples, the legend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .common import UsageError
from .outputs import require_writable_file

if TYPE_CHECKING:
    from ..data import Data
    from ..evaluate import Evaluation, SavedRows
    from .evaluate import Evaluate

MAX_SAMPLES = 2000
# With ten times as many samples as held-out items, the floor is within a tenth of its limit for many samples.
SAMPLES_PER_ITEM = 10
LEAST = 8

# Below the table of a terminal. The report has longer texts.
LEGEND = {
    "frechet": "Fréchet distance of Gaussians fitted to the features, with its standard error; lower is better",
    "kernel": "kernel distance of the features, with its standard error; 0 is best, and it may be negative",
    "precision": "share of the samples that lie among real items; higher is better",
    "recall": "share of the real items that the samples reach; higher is better",
    "class_tv": "total variation between the class shares of samples and of real items; 0 is equal, 1 is worst",
    "nearest_ratio": "distance to the nearest training item over that of new real items; 1 is right, 0 is a copy",
    "sliced_wasserstein": "sliced Wasserstein distance, in units of the data; lower is better",
    "psnr": "of samples against the items that their conditions belong to, in decibels; higher is better",
    "not_finite": "share of the samples with a value that is not finite; nothing else is measured then",
    "seconds": "time to draw all samples of the row",
}


def is_run(place: Path) -> bool:
    """Whether this is a run folder, or the name of a model that comes with softmix."""
    from ..train.model import folder_of

    return (folder_of(place) / "config.json").is_file()


def report_path(run: Path, out: Path | None) -> Path:
    """The path of the report, a .html: --out, else in the user's run folder, else in the current folder.

    Raises UsageError if --out is no place for a report, or the report cannot be written.
    """
    # A model that comes with softmix, and samples, have no folder for it.
    place = (run if (run / "config.json").is_file() else Path()) if out is None else out
    if place.suffix in (".html", ".htm"):
        return place
    require_writable_file(place / "report.html", "the report", "" if out else "name another place with --out")
    if place.is_dir():
        return place / "report.html"
    raise UsageError(f"--out {place} was asked for; name a file that ends in .html, or a folder that is there")


def rows_path(report: Path) -> Path:
    """The path of the rows of a report: report.html -> report.json."""
    return report.with_suffix(".json")


def saved_rows(kept: SavedRows) -> str:
    """A sentence for Ctrl-C: the number of finished rows, and their file."""
    count = kept.reused + kept.measured
    if not count:
        return "stopped; no row was finished yet"
    rows = "rows are" if count > 1 else "row is"
    return f"stopped; {count} finished {rows} in {kept.path}, and the same command goes on from there"


def open_rows(report: Path) -> SavedRows:
    """The rows that are saved already. Raises UsageError if the report or the rows cannot be written."""
    from ..evaluate import SavedRows, SavedRowsError

    for place, name in ((report, "the report"), (rows_path(report), "the rows of the report")):
        require_writable_file(place, name)
    try:
        return SavedRows(rows_path(report))
    except (SavedRowsError, OSError) as error:
        raise UsageError(str(error)) from error


def require_different(places: tuple[Path, ...]) -> None:
    """Raise UsageError for a place that is named twice."""
    for k, place in enumerate(places):
        if place.resolve() in [other.resolve() for other in places[:k]]:
            raise UsageError(f"{place} was named twice")


def sample_count(n: int | None, train: Data, held_out: Data) -> int:
    """The number of samples of each row: n, or by default as many as the data can tell apart, at most 2,000.

    Prints a sentence if it is not 2,000. Raises UsageError for fewer than 8 samples or items.
    """
    enough = SAMPLES_PER_ITEM * len(held_out)
    count = min(MAX_SAMPLES, enough, len(train)) if n is None else n
    if min(count, len(held_out), len(train)) < LEAST:
        raise UsageError(
            f"{count} samples, {len(held_out)} held-out and {len(train)} training items: "
            f"distances need at least {LEAST} of each. `softmix train ... --hold-out 0.2` holds out a fifth"
        )
    if n is None and count < MAX_SAMPLES:
        print(
            f"{count:,} samples for each row, not {MAX_SAMPLES:,}: there are {len(held_out):,} held-out items to "
            f"compare them with, and {len(train):,} training items for the floor"
        )
    if count > enough:
        print(
            f"with {len(held_out):,} held-out items, more than {enough:,} samples tell hardly more, "
            f"and {count:,} were asked for"
        )
    return count


def require_features(asked: Evaluate, train: Data) -> None:
    """Raise UsageError for features that these data do not allow."""
    from ..evaluate.reference import refusal

    reason = refusal(train, asked.features)
    if reason:
        raise UsageError(f"--features {asked.features} was asked for: {reason}")


def legend(results: Sequence[Evaluation]) -> str:
    """One line for each column of the tables: its name and its meaning."""
    shown = {name for result in results for row in result.rows for name in row.values}
    names = [name for name in LEGEND if name in shown]
    width = max(map(len, names), default=0)
    return "\n".join(f"{name:{width}}  {LEGEND[name]}" for name in names)


def write_results(report: Path, results: list[Evaluation]) -> None:
    """Print the legend and write report.html.

    The rows are in their file already: without the extra `report` they stay there for a later report.
    """
    from ..evaluate import write_report

    print(f"{legend(results)}\n")
    try:
        place = write_report(report, results)
    except ImportError as error:
        print(
            f"no report: {error}. The rows are in {rows_path(report)}; the same command then makes the report of them"
        )
        return
    print(f"report: {place}, its rows: {rows_path(report)}")
