"""Room `data`: a folder or an archive of pictures, scanned once, as a data set with a report."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from softmix.data.entries import Entry, Listing, archive, folder, open_archive
from softmix.data.picture import Header, Unusable, decode, look
from softmix.data.report import DataError, Report, Want, grouped, printable
from softmix.data.store import Data, make
from softmix.rng import permutation


@dataclass
class _Scan:
    """The scan under way: what is still a candidate, and what has been said of the rest."""

    name: str
    found: list[tuple[Entry, Header]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    converted: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def nothing(self) -> DataError:
        found = "there is no file in it"
        if self.skipped:
            reasons = "; ".join(grouped(self.skipped, 2))
            found = f"none of {len(self.skipped)} files can be used ({reasons})"
        remedy = "name a folder or zip with PNG or JPEG files"
        return DataError(f"{self.name}: pictures were asked for, but {found}; {remedy}")


def from_folder(path: Path, want: Want) -> Data:
    """The pictures below a folder; see `softmix.data.load` for the rules. Raises DataError if none can be used."""
    name = printable(path.resolve().name or str(path))
    return _build(name, folder(path), want)


def from_zip(path: Path, want: Want) -> Data:
    """The pictures in a zip archive, read in place, by the rules of a folder. Raises DataError if none can be used."""
    with open_archive(path) as file:
        return _build(printable(path.stem), archive(file), want)


def _build(name: str, listing: Listing, want: Want) -> Data:
    scan = _Scan(name, skipped=list(listing.skipped))
    if listing.hidden:
        scan.notes.append(f"{listing.hidden} hidden files were passed over")
    _read_headers(scan, _of_split(scan, listing.entries, want.split))
    if want.size is None:
        _keep_commonest_size(scan)
    classes, labels = _classes(scan)
    if not scan.found:
        raise scan.nothing()
    channels = want.channels or (1 if all(header.is_grey for _, header in scan.found) else 3)
    kept, pixels = _decode(scan, channels, want.size, want.limit)
    if not kept:
        raise scan.nothing()
    report = Report(len(kept), tuple(scan.skipped), tuple(scan.converted), tuple(scan.notes))
    numbers = torch.tensor([labels[i] for i in kept]) if classes else None
    return make(name, torch.from_numpy(pixels), numbers, classes, report)


def _shared_depth(paths: Sequence[tuple[str, ...]]) -> int:
    """How many folders, from the top, hold all the files; such a folder is a wrapper, not a class."""
    depth = 0
    while paths and len({path[: depth + 1] for path in paths}) == 1 and len(paths[0]) > depth:
        depth += 1
    return depth


def _of_split(scan: _Scan, entries: list[Entry], split: str) -> list[Entry]:
    depth = _shared_depth([entry.folders for entry in entries])
    tops = {entry.folders[depth] for entry in entries if len(entry.folders) > depth}
    if {"train", "test"} <= tops:
        chosen = [entry for entry in entries if entry.folders[depth : depth + 1] == (split,)]
        elsewhere = len(entries) - len(chosen)
        scan.notes.append(f"{len(chosen)} files are in {split}/, {elsewhere} elsewhere were not looked at")
        return chosen
    if split != "train":
        raise DataError(
            f"{scan.name}: its {split} split was asked for, but it has no subfolders train and test; "
            "load it whole and call .split(), or sort the files into train/ and test/"
        )
    return entries


def _why(error: Exception) -> str:
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "vanished while it was read"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"cannot be read ({error})"


# Besides OSError, what opening a member of a damaged archive raises: zipfile checks little before it unpacks.
_CLOSED = (Unusable, OSError, EOFError, ValueError, zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError)


def _read_headers(scan: _Scan, entries: list[Entry]) -> None:
    for entry in entries:
        try:
            with entry.open() as stream:
                scan.found.append((entry, look(stream)))
        except _CLOSED as error:
            scan.skipped.append((entry.name, _why(error)))


def _keep_commonest_size(scan: _Scan) -> None:
    sizes = Counter((header.width, header.height) for _, header in scan.found)
    if len(sizes) < 2:
        return
    # The larger of two equally common sizes, so that the choice does not hang on names.
    width, height = max(sizes, key=lambda s: (sizes[s], s[0] * s[1], s))
    others = [(e, h) for e, h in scan.found if (h.width, h.height) != (width, height)]
    reason = f"its size is not the commonest, {width}x{height}; give a size to resize all"
    scan.skipped += [(entry.name, reason) for entry, _ in others]
    scan.found = [(e, h) for e, h in scan.found if (h.width, h.height) == (width, height)]
    scan.notes.append(
        f"{len(sizes)} sizes were found; {len(scan.found)} pictures have the commonest, {width}x{height}, "
        f"and {len(others)} do not: give a size to use them all"
    )


def _classes(scan: _Scan) -> tuple[tuple[str, ...], dict[int, int]]:
    """(class names, class number of each candidate): the folder below any wrappers, if most pictures are in one."""
    depth = _shared_depth([entry.folders for entry, _ in scan.found])
    tops = ["".join(entry.folders[depth : depth + 1]) for entry, _ in scan.found]
    loose = tops.count("")
    if 2 * loose >= len(tops):
        if 0 < loose < len(tops):
            scan.notes.append(f"no labels: {loose} of {len(tops)} pictures lie outside of the subfolders")
        return (), {}
    for (entry, _), top in zip(scan.found, tops, strict=True):
        if not top:
            scan.skipped.append((entry.name, "no class: it lies beside the class folders"))
    scan.found = [pair for pair, top in zip(scan.found, tops, strict=True) if top]
    names = [top for top in tops if top]
    classes = tuple(sorted(set(names)))
    return classes, {i: classes.index(name) for i, name in enumerate(names)}


def _room(scan: _Scan, count: int, channels: int, size: int | None) -> NDArray[np.uint8]:
    header = scan.found[0][1]
    height, width = (size, size) if size else (header.height, header.width)
    try:
        return np.empty((count, channels, height, width), np.uint8)
    except MemoryError as error:
        need = count * channels * height * width / 2**30
        message = f"{scan.name}: its {count} pictures need {need:.0f} GiB of memory; give a smaller size, or a limit"
        raise DataError(message) from error


def _decode(scan: _Scan, channels: int, size: int | None, limit: int | None) -> tuple[list[int], NDArray[np.uint8]]:
    """(numbers of the candidates that were decoded, in order; their pixels [N, C, H, W])."""
    total = len(scan.found)
    order = range(total) if limit is None else permutation(0, total, "softmix.data.limit").tolist()
    most = total if limit is None else min(limit, total)
    pixels = _room(scan, most, channels, size)
    kept: list[int] = []
    first: dict[bytes, str] = {}
    copies: list[tuple[str, str]] = []
    for number in order:
        if len(kept) == most:
            break
        entry = scan.found[number][0]
        try:
            with entry.open() as stream:
                picture, how = decode(stream, channels, size)
            if picture.shape != pixels.shape[1:]:
                raise Unusable("changed while it was read")
        except _CLOSED as error:
            scan.skipped.append((entry.name, _why(error)))
            continue
        pixels[len(kept)] = picture
        kept.append(number)
        scan.converted += [(entry.name, change) for change in how]
        digest = hashlib.blake2b(picture.tobytes(), digest_size=16).digest()
        if first.setdefault(digest, entry.name) != entry.name:
            copies.append((f"{entry.name} = {first[digest]}", "same pixels as another, kept"))
    scan.notes += grouped(copies, 5)
    if limit is None:
        return kept, pixels[: len(kept)]
    if len(kept) < total:
        scan.notes.append(f"limit: {len(kept)} pictures were taken, chosen at random from {total}")
    rank = np.argsort(kept)
    return sorted(kept), pixels[rank]
