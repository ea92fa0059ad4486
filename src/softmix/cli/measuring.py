"""The command line: what `softmix evaluate` needs for runs and samples alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .common import UsageError
from .outputs import file_to_write

if TYPE_CHECKING:
    from ..data import Data
    from ..evaluate import Evaluation, SavedRows
    from ..evaluate.reference import FeatureKind

MOST = 2000
# With ten times as many samples as held-out items, the floor is within a tenth of what it is with any number of them.
ENOUGH = 10
LEAST = 8


@dataclass(frozen=True)
class Asked:
    """What was asked for runs and samples alike. place : of the report, a .html."""

    data: str | None
    n: int | None
    features: FeatureKind
    seed: int
    place: Path
    dry_run: bool

    @property
    def rows(self) -> Path:
        return self.place.with_suffix(".json")


def is_run(place: Path) -> bool:
    """Whether a folder is a run's, or the name one of a model that comes with softmix."""
    from ..train.model import folder_of

    return (folder_of(place) / "config.json").is_file()


def named(run: Path, out: Path | None) -> Path:
    """Where the report goes: into a run that is the user's, else here, unless said otherwise."""
    # a model that comes with softmix, and samples, have no folder for it
    place = (run if (run / "config.json").is_file() else Path()) if out is None else out
    if place.suffix in (".html", ".htm"):
        return place
    file_to_write(place / "report.html", "the report")
    if place.is_dir():
        return place / "report.html"
    raise UsageError(f"--out {place} was asked for; name a file that ends in .html, or a folder that is there")


def rows_said(kept: SavedRows) -> str:
    count = kept.reused + kept.measured
    if not count:
        return "stopped; no row was finished yet"
    rows = "rows are" if count > 1 else "row is"
    return f"stopped; {count} finished {rows} in {kept.path}, and the same command goes on from there"


def opened(asked: Asked) -> SavedRows:
    """The rows that are there already. Raises UsageError if the report or the rows cannot be written."""
    from ..evaluate import SavedRows, SavedRowsError

    for place, what in ((asked.place, "the report"), (asked.rows, "the rows of the report")):
        file_to_write(place, what)
    try:
        return SavedRows(asked.rows)
    except (SavedRowsError, OSError) as error:
        raise UsageError(str(error)) from error


def all_different(places: tuple[Path, ...]) -> None:
    for k, place in enumerate(places):
        if place.resolve() in [other.resolve() for other in places[:k]]:
            raise UsageError(f"{place} was named twice")


def counted(n: int | None, train: Data, held_out: Data) -> int:
    """How many samples for each row: as asked, or as many as tell something. Says so where that is less than usual."""
    enough = ENOUGH * len(held_out)
    count = min(MOST, enough, len(train)) if n is None else n
    if min(count, len(held_out), len(train)) < LEAST:
        raise UsageError(
            f"{count} samples, {len(held_out)} held-out and {len(train)} training items: "
            f"distances need at least {LEAST} of each"
        )
    if n is None and count < MOST:
        print(
            f"{count:,} samples for each row, not {MOST:,}: there are {len(held_out):,} held-out items to compare them "
            f"with, and {len(train):,} training items for the floor"
        )
    if count > enough:
        print(
            f"with {len(held_out):,} held-out items, more than {enough:,} samples tell hardly more, "
            f"and {count:,} were asked for"
        )
    return count


def need_features(asked: Asked, train: Data) -> None:
    """Raises UsageError for features that these data do not allow."""
    from ..evaluate.reference import refusal

    reason = refusal(train, asked.features)
    if reason:
        raise UsageError(f"--features {asked.features} was asked for: {reason}")


def report(asked: Asked, results: list[Evaluation]) -> None:
    """Writes report.html, or says what it wants; the rows are in their file already."""
    from ..evaluate import write_report

    try:
        place = write_report(asked.place, results)
    except ImportError as error:
        print(f"no report: {error}. The rows are in {asked.rows}; the same command then makes the report of them")
        return
    print(f"report: {place}, its rows: {asked.rows}")
