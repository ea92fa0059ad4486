"""The pictures of `softmix restore`: found and tried before the work, and read again in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from .common import UsageError
from .picture_in import as_tensor, decoded, fitted

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.entries import Entry


@dataclass(frozen=True)
class Picture:
    """A picture file that was read once without an error.

    name : its path below its folder, with slashes and without a suffix. Partners and results have this name.
    place : as the user finds it, for messages.
    entry : its file.
    height, width : in pixels.
    """

    name: str
    place: Path
    entry: Entry
    height: int
    width: int

    def read(self, channels: int, height: int, width: int) -> Tensor:
        """[1, C, H, W] in [-1, 1], its middle brought to this size if it has another. Raises UsageError."""
        return as_tensor(fitted(decoded(self.entry.open, str(self.place), channels), height, width))


def find_pictures(sources: Sequence[Path]) -> tuple[list[Picture], list[str]]:
    """The pictures of files and folders in order, and a sentence on each file of a folder that cannot be used.

    Raises UsageError for a file that is no picture, and for no picture at all.
    """
    from ..data.entries import list_folder

    found: list[Picture] = []
    left_out: list[str] = []
    for source in sources:
        if source.is_dir():
            listing = list_folder(source)
            left_out += [f"{source / name}: {reason}" for name, reason in listing.skipped]
            for entry in listing.entries:
                try:
                    found.append(_measured(source / entry.name, entry))
                except UsageError as error:
                    left_out.append(str(error))
        else:
            found.append(_measured(source, _entry_of(source)))
    if not found:
        more = f": {left_out[0]}" if left_out else ""
        raise UsageError(f"{', '.join(map(str, sources))} holds no picture{more}")
    return found, left_out


def _entry_of(path: Path) -> Entry:
    from ..data.entries import Entry

    return Entry(path.name, lambda: path.open("rb"))


def _measured(place: Path, entry: Entry) -> Picture:
    """The picture with its size. Raises UsageError with its place and the reason for no picture.

    It is decoded: a damaged one would otherwise end the command in the middle of the work.
    """
    height, width = decoded(entry.open, str(place), 3).shape[1:]
    return Picture(str(PurePosixPath(entry.name).with_suffix("")), place, entry, height, width)


def find_truths(pictures: Sequence[Picture], truth: Path) -> list[Picture]:
    """The clean picture of each picture: the file itself for one picture, or that of the same name in a folder.

    Raises UsageError for a picture without one or with two, and for one of another size.
    """
    clean, left_out = find_pictures([truth])
    if truth.is_dir():
        by_name: dict[str, Picture] = {}
        for each in clean:
            if by_name.setdefault(each.name, each) is not each:
                raise UsageError(f"--truth: {by_name[each.name].place} and {each.place} have one name: remove one")
        missing = [each.name for each in pictures if each.name not in by_name]
        if missing:
            more = f". It could not use {left_out[0]}" if left_out else ""
            raise UsageError(
                f"--truth {truth} has no picture with the name {missing[0]}, for {len(missing)} of {len(pictures)} "
                f"pictures; give partners one name{more}"
            )
        clean = [by_name[each.name] for each in pictures]
    elif len(pictures) > 1:
        raise UsageError(f"--truth {truth} is one picture, for {len(pictures)}: name a folder with a partner of each")
    for one, other in zip(pictures, clean, strict=True):
        if (one.height, one.width) != (other.height, other.width):
            raise UsageError(
                f"--truth: {other.place} has {other.width} x {other.height} pixels, and {one.place} has {one.width} x "
                f"{one.height}: they must be alike"
            )
    return clean
