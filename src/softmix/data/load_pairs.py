"""Two sources as pairs: pictures by file name, other sources by number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

import torch

from .entries import Entry, Listing, list_archive, list_folder, open_zip
from .folder_splits import Part, choose_split
from .origin import Origin
from .paired import Paired
from .picture_folder import name_of, read_pictures
from .picture_list import with_edm_labels
from .report import DataError, Report
from .request import Request
from .store import Data, choose


def load_picture_pairs(first: Path, second: Path, request: Request) -> tuple[Data, Data]:
    """The pictures of two folders or zip archives that have a partner, in one order.

    Partners have the same path below their folder, except for the suffix: cat/1.jpg and cat/1.png. The reports list
    files without a partner, and the partners of unusable files. Raises DataError.
    """
    with _listing(first) as one, _listing(second) as two:
        sides = [_Side(path, listing, request) for path, listing in ((first, one), (second, two))]
        common = sorted(set(sides[0].entries) & set(sides[1].entries))
        if not common:
            raise DataError(
                f"{sides[0].name} and {sides[1].name} have no file of the same name, but for its ending, among "
                f"{len(sides[0].part.entries)} and {len(sides[1].part.entries)}; give partners one name"
            )
        chosen = [common[i] for i in choose(len(common), request.limit).tolist()]
        limit = f"limit: {len(chosen)} pairs were taken, chosen at random from {len(common)}"
        limited = (limit,) if len(chosen) < len(common) else ()
        read = [side.read(chosen, set(common), replace(request, limit=None), limited) for side in sides]
    usable = set(map(_key, read[0][1])) & set(map(_key, read[1][1]))
    return _both(read[0], usable, request), _both(read[1], usable, request)


@contextmanager
def _listing(path: Path) -> Iterator[Listing]:
    if path.is_dir():
        yield list_folder(path)
    else:
        with open_zip(path) as file:
            yield list_archive(file)


class _Side:
    """One of the two sources: its files by name, without the suffix."""

    def __init__(self, path: Path, listing: Listing, request: Request):
        self.name = name_of(path)
        self.listing, self.edm_note = with_edm_labels(listing)
        self.part = choose_split(self.name, self.listing.entries, request)
        self.entries: dict[str, Entry] = {}
        self.several: list[tuple[str, str]] = []
        for entry in self.part.entries:
            if self.entries.setdefault(_key(entry.name), entry) is not entry:
                self.several.append((entry.name, "another file has the same name, but for its ending"))

    def read(
        self, chosen: list[str], common: set[str], request: Request, notes: tuple[str, ...]
    ) -> tuple[Data, list[str]]:
        """Return (the pictures of the names in `chosen`, the file name of each)."""
        lonely = [(e.name, "no partner of this name") for key, e in self.entries.items() if key not in common]
        listing = replace(self.listing, skipped=[*self.listing.skipped, *lonely, *self.several])
        part = Part([self.entries[key] for key in chosen], self.part.reference, (*self.part.notes, *notes))
        return read_pictures(self.name, listing, self.edm_note, part, request)


def _key(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _both(read: tuple[Data, list[str]], usable: set[str], request: Request) -> Data:
    """The items that have a readable partner."""
    data, names = read
    keep = torch.tensor([_key(name) in usable for name in names], device="cpu")
    if keep.all():
        return data
    lost = tuple((name, "its partner cannot be used") for name in names if _key(name) not in usable)
    if len(lost) == len(names):
        raise DataError(f"{data.name}: no picture has a partner that can be used; run softmix check on both")
    result = data.take(
        keep.nonzero()[:, 0], f"{len(lost)} pictures have a partner that cannot be used", request.storage
    )
    return replace(result, report=replace(result.report, skipped=(*result.report.skipped, *lost)))


def load_array_pairs(first: Data, second: Data, request: Request) -> tuple[Data, ...]:
    """Two sources without picture files, paired by number, at most `request.limit` of them.

    Raises DataError if their numbers of items differ, or if items were left out.
    """
    for each in (first, second):
        if each.report.skipped:
            raise DataError(
                f"{each.name}: {len(each.report.skipped)} items were left out, and pairs of arrays are by number, "
                "which these no longer are; take the items out of both arrays"
            )
    if len(first) != len(second):
        raise DataError(
            f"{first.name} with {second.name}: there are {len(first)} items and {len(second)}; each needs one partner"
        )
    if request.limit is None or request.limit >= len(first):
        return first, second
    note = f"limit: {request.limit} pairs were taken, chosen at random from {len(first)}"
    return tuple(each.take(choose(len(first), request.limit), note, request.storage) for each in (first, second))


def as_paired(both: tuple[Data, ...], by_name: bool, origin: Origin) -> Paired:
    """Make a `Paired` of two data sets, with one report."""
    first, second = both
    notes = [
        f"pairs of {first.name} and {second.name}, by {'the names of their files' if by_name else 'their numbers'}"
    ]
    notes += [f"{each.name}: {note}" for each in both for note in each.report.notes]
    if second.cond.parts:
        notes.append(f"not used: {second.cond} of {second.name}")
    skipped = tuple((f"{each.name}/{name}", why) for each in both for name, why in each.report.skipped)
    converted = tuple((f"{each.name}/{name}", how) for each in both for name, how in each.report.converted)
    return Paired(first, second, Report(len(first), skipped, converted, tuple(notes)), origin)
