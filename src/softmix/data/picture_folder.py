"""A folder, a zip archive or a list of pictures, as a data set with a report."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..rng import permutation
from .array_range import bits_for, dark_warning, size_warning
from .entries import Entry, Listing, list_archive, list_folder, open_zip
from .folder_splits import Part, choose_split, shared_depth
from .labels import labels_from_names
from .picture import MAX_ENLARGED, REDUCED, Header, Unusable, decode_picture, read_header
from .picture_list import read_picture_list, with_edm_labels
from .report import DataError, Report, WarningNote, grouped, printable
from .request import Request
from .store import Data, make

# At most one in this number of pictures is dropped for its size alone.
_DROPPED = 10
_COLOUR_OF_FEW_BITS = (
    "; --bits is for grey: if these 16-bit colour files use fewer bits, save them with 8, so that 255 is white"
)


@dataclass
class _Scan:
    """A scan in progress: the pictures that are still candidates, and the report on the others."""

    name: str
    candidates: list[tuple[Entry, Header]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    converted: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def nothing(self) -> DataError:
        problem = "there is no file in it"
        if self.skipped:
            reasons = "; ".join(grouped(self.skipped, 2))
            problem = f"none of {len(self.skipped)} files can be used ({reasons})"
        remedy = "name a folder or zip with PNG or JPEG files"
        return DataError(f"{self.name}: pictures were asked for, but {problem}; {remedy}")


# Gives (labels of the candidates, class names), or None without labels. It may drop candidates.
_Labelling = Callable[[_Scan], tuple[Tensor, tuple[str, ...]] | None]


def from_folder(path: Path, request: Request) -> Data:
    """Read the pictures below a folder; see `softmix.data.load`. Raises DataError if none can be used."""
    return _from_listing(name_of(path), list_folder(path), request)


def from_zip(path: Path, request: Request) -> Data:
    """Read the pictures in a zip archive, by the rules of a folder. Raises DataError if none can be used."""
    with open_zip(path) as file:
        return _from_listing(name_of(path), list_archive(file), request)


def name_of(path: Path) -> str:
    """The name of a folder or an archive of pictures, for messages."""
    return printable(path.stem) if path.suffix.lower() == ".zip" else printable(path.resolve().name or str(path))


def from_list(path: Path, request: Request) -> Data:
    """Read the pictures in a csv, tsv, txt or jsonl; see `read_picture_list`. Raises DataError."""
    listing, notes = read_picture_list(path, request)
    scan = _Scan(printable(path.stem), skipped=list(listing.skipped), notes=list(notes))
    return _build(scan, Part(listing.entries), request, _by_label)[0]


def _from_listing(name: str, listing: Listing, request: Request) -> Data:
    listing, edm_note = with_edm_labels(listing)
    return read_pictures(name, listing, edm_note, choose_split(name, listing.entries, request), request)[0]


def read_pictures(name: str, listing: Listing, edm_note: str, part: Part, request: Request) -> tuple[Data, list[str]]:
    """Read a part of a listing.

    edm_note : the note of `with_edm_labels`; "" if labels are subfolders.
    Returns (the pictures, the file name of each).
    """
    scan = _Scan(name, skipped=list(listing.skipped))
    if listing.hidden:
        scan.notes.append(f"{listing.hidden} hidden files were not read")
    if listing.runs:
        scan.notes.append(f"run folders of softmix, which are no data, were left out: {', '.join(listing.runs)}")
    scan.notes += [edm_note] if edm_note else []
    return _build(scan, part, request, _by_label if edm_note else _by_folder)


def _build(scan: _Scan, part: Part, request: Request, labelled: _Labelling) -> tuple[Data, list[str]]:
    request.refuse_options(
        scan.name, "holds pictures with known pixel values", "values", "layout", "tokens", "length", "spacing"
    )
    scan.notes += part.notes
    _read_headers(scan, part.entries, request)
    size, channels = _size_and_channels(scan, part.reference, request)
    if request.size is None:
        _keep_size(scan, size)
        request.require_few_pixels(scan.name, *size)
        scan.notes += size_warning(*size)
    else:
        _note_sizes(scan, request.size)
    labelling = labelled(scan)
    if not scan.candidates:
        raise scan.nothing()
    numbers, pixels = _decode(scan, channels, size, request)
    if not numbers:
        raise scan.nothing()
    report = Report(len(numbers), tuple(scan.skipped), tuple(scan.converted), tuple(scan.notes))
    labels, classes = (labelling[0][torch.tensor(numbers, device="cpu")], labelling[1]) if labelling else (None, ())
    names = [scan.candidates[number][0].name for number in numbers]
    return make(scan.name, torch.from_numpy(pixels), labels, classes, report), names


def _size_and_channels(scan: _Scan, reference: list[Entry] | None, request: Request) -> tuple[tuple[int, int], int]:
    """((width, height), channels) of all pictures. The train split decides unless the request does."""
    headers = [header for _, header in scan.candidates]
    if reference is not None and (request.size is None or request.channels is None):
        other = _Scan(scan.name)
        _read_headers(other, reference, request)
        headers = [header for _, header in other.candidates] or headers
    if not headers:
        raise scan.nothing()
    channels = request.channels or (1 if all(header.is_grey for header in headers) else 3)
    if request.size is not None:
        return (request.size, request.size), channels
    sizes = Counter((header.width, header.height) for header in headers)
    # Of two equally common sizes the larger one is taken, so that file names do not decide.
    return max(sizes, key=lambda s: (sizes[s], s[0] * s[1], s)), channels


def _reason(error: Exception) -> str:
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "vanished while it was read"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"cannot be read ({error})"


# Opening a member of a damaged archive may raise all of these: zipfile checks little before it unpacks.
_READ_ERRORS = (
    Unusable,
    OSError,
    EOFError,
    ValueError,
    zipfile.BadZipFile,
    struct.error,
    NotImplementedError,
    RuntimeError,
)


def _read_headers(scan: _Scan, entries: list[Entry], request: Request) -> None:
    for entry in request.storage.progress(entries, "headers"):
        try:
            with entry.open() as stream:
                scan.candidates.append((entry, read_header(stream)))
        except _READ_ERRORS as error:
            scan.skipped.append((entry.name, _reason(error)))


def _keep_size(scan: _Scan, size: tuple[int, int]) -> None:
    """Drop the pictures of other sizes. Raises DataError if these are more than a tenth."""
    kept = [(e, h) for e, h in scan.candidates if (h.width, h.height) == size]
    others = [(e, h) for e, h in scan.candidates if (h.width, h.height) != size]
    if not others:
        return
    shown, count = f"{size[0]}x{size[1]}", len({(h.width, h.height) for _, h in scan.candidates})
    good, used = _good_size([header for _, header in scan.candidates])
    if len(others) * _DROPPED > len(scan.candidates):
        raise DataError(
            f"{scan.name}: {count} sizes were found, and {len(others)} of {len(scan.candidates)} pictures do not have "
            f"the commonest, {shown}; resize all with --size {good}, by which {used} of them are used"
        )
    scan.skipped += [(e.name, f"its size is not the commonest, {shown}; give a size to resize all") for e, _ in others]
    scan.candidates = kept
    scan.notes.append(
        f"{count} sizes were found; {len(kept)} pictures have the commonest, {shown}, and {len(others)} do not: "
        f"give a size to use them all, such as {good}"
    )


def _good_size(headers: list[Header]) -> tuple[int, int]:
    """A side to offer for resizing, and the number of pictures that can be resized to it.

    Nine in ten pictures are as large as this side. It is at most 64, and a multiple of 4.
    """
    sides = sorted(min(header.width, header.height) for header in headers)
    side = min(64, sides[len(sides) // 10])
    side = side // 4 * 4 or side
    return side, sum(side <= MAX_ENLARGED * short for short in sides)


def _note_sizes(scan: _Scan, side: int) -> None:
    sizes = Counter((header.width, header.height) for _, header in scan.candidates)
    if sizes and set(sizes) != {(side, side)}:
        common = [f"{w}x{h} ({n})" for (w, h), n in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))]
        more = f" and {len(common) - 3} more sizes" if len(common) > 3 else ""
        scan.notes.append(f"resized to {side}x{side}, the centre square, from {', '.join(common[:3])}{more}")


def _by_folder(scan: _Scan) -> tuple[Tensor, tuple[str, ...]] | None:
    """Labels by the folder below any wrappers, if most pictures are in one."""
    depth = shared_depth([entry.folders for entry, _ in scan.candidates])
    tops = ["".join(entry.folders[depth : depth + 1]) for entry, _ in scan.candidates]
    loose = tops.count("")
    if 2 * loose >= len(tops):
        if 0 < loose < len(tops):
            scan.notes.append(f"no labels: {loose} of {len(tops)} pictures lie outside of the subfolders")
        return None
    _drop(scan, [bool(top) for top in tops], "no class: it is outside of the class folders")
    names = [top for top in tops if top]
    classes = tuple(sorted(set(names)))
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[name] for name in names], device="cpu"), classes


def _by_label(scan: _Scan) -> tuple[Tensor, tuple[str, ...]] | None:
    """Labels by a list of the pictures, if it labels most of them."""
    labels = [entry.label for entry, _ in scan.candidates]
    missing = labels.count(None)
    if 2 * missing >= len(labels):
        if 0 < missing < len(labels):
            scan.notes.append(f"no labels: {missing} of {len(labels)} pictures have none in the list")
        return None
    _drop(scan, [label is not None for label in labels], "no class: the list gives it no label")
    return labels_from_names([label for label in labels if label is not None])


def _drop(scan: _Scan, keep: list[bool], reason: str) -> None:
    scan.skipped += [(entry.name, reason) for (entry, _), kept in zip(scan.candidates, keep, strict=True) if not kept]
    scan.candidates = [as_paired for as_paired, kept in zip(scan.candidates, keep, strict=True) if kept]


def _decode(scan: _Scan, channels: int, size: tuple[int, int], request: Request) -> tuple[list[int], NDArray[np.uint8]]:
    """Decode the candidates. Returns (the numbers of those that could be decoded, in order; pixels [N, C, H, W])."""
    total = len(scan.candidates)
    order = range(total) if request.limit is None else permutation(0, total, "softmix.data.limit").tolist()
    most = total if request.limit is None else min(request.limit, total)
    pixels = request.storage.empty(f"{scan.name} of {most} pictures", (most, channels, size[1], size[0]), np.uint8)
    kept: list[int] = []
    largest: list[int] = []
    first: dict[bytes, str] = {}
    copies: list[tuple[str, str]] = []
    for number in request.storage.progress(order, "pictures"):
        if len(kept) == most:
            break
        entry = scan.candidates[number][0]
        try:
            with entry.open() as stream:
                picture, how, highest = decode_picture(stream, channels, request.size, request.bits)
            if picture.shape != pixels.shape[1:]:
                raise Unusable("changed while it was read")
        except _READ_ERRORS as error:
            scan.skipped.append((entry.name, _reason(error)))
            continue
        pixels[len(kept)] = picture
        kept.append(number)
        largest += [highest] if highest else []
        scan.converted += [(entry.name, change) for change in how]
        digest = hashlib.blake2b(picture.tobytes(), digest_size=16).digest()
        if first.setdefault(digest, entry.name) != entry.name:
            copies.append((f"{entry.name} = {first[digest]}", "same pixels as another, both used"))
    pixels = pixels[: len(kept)]
    scan.notes += grouped(copies, 5)
    scan.notes += _bits_warning(scan, largest, pixels[:, :3], request.bits)
    if request.limit is None:
        return kept, pixels
    if len(kept) < total:
        scan.notes.append(f"limit: {len(kept)} pictures were taken, chosen at random from {total}")
    rank = np.argsort(kept)
    return sorted(kept), request.storage.take(scan.name, pixels, rank)


def _bits_warning(scan: _Scan, largest: list[int], pixels: NDArray[np.uint8], bits: int | None) -> tuple[str, ...]:
    """A warning about the bits of 16-bit pictures.

    Raises DataError if bits were asked for and no picture has 16 bits.
    """
    if not len(pixels):
        return ()
    if bits is not None and not largest:
        raise DataError(
            f"{scan.name}: {bits} bits were asked for, which is for 16-bit grey pictures, but there is none; "
            "leave it out"
        )
    highest = max(largest, default=0)
    if bits is None and 0 < highest < 1 << 15:
        fewer = bits_for(highest)
        return (
            WarningNote(
                f"no value of {len(largest)} 16-bit pictures is above {highest}, which {fewer} bits hold, so they come "
                f"out {65535 / highest:.0f} times too dark if these are all their bits: give --bits {fewer}"
            ),
        )
    wide = pixels.shape[1] > 1 and not largest and any(how == REDUCED for _, how in scan.converted)
    return dark_warning(int(pixels.max()), _COLOUR_OF_FEW_BITS if wide else "")
