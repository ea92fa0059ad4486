"""The splits of a folder or archive: its subfolders called train, test or val."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .entries import Entry
from .request import SPLIT_NAMES, SPLITS, Request

# The number of levels to search, from the first with several folders: class/train/1.png, images/train/dog/1.png.
_DEEPER = 3


@dataclass(frozen=True)
class Part:
    """The files to read.

    entries : these files.
    reference : the files of the train split, if it is another one. They decide the size and the channels.
    notes : notes for the report.
    """

    entries: list[Entry]
    reference: list[Entry] | None = None
    notes: tuple[str, ...] = field(default=())


def shared_depth(paths: Sequence[tuple[str, ...]]) -> int:
    """The number of folders, from the top, that contain all files. Such a folder is a wrapper, not a class."""
    if not paths:
        return 0
    # All paths share the folders that the first and the last path in order share.
    first, last = min(paths), max(paths)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _split_at(paths: Sequence[tuple[str, ...]]) -> tuple[int, dict[str, list[str]]]:
    """Find the level at which folders have the names of splits.

    Returns (level, the folders of each split), or (0, {}). A single kind is a wrapper or a class (such as a train on
    rails).
    At a deeper level all folders must be splits.
    """
    depth = shared_depth(paths)
    for level in range(depth, depth + _DEEPER):
        names = {path[level] for path in paths if len(path) > level}
        kinds: dict[str, list[str]] = {}
        for name in sorted(
            names, key=lambda n: (list(SPLIT_NAMES).index(n.lower()) if n.lower() in SPLIT_NAMES else -1, n)
        ):
            if name.lower() in SPLIT_NAMES:
                kinds.setdefault(SPLIT_NAMES[name.lower()], []).append(name)
        if len(kinds) >= 2 and (level == depth or sum(map(len, kinds.values())) == len(names)):
            return level, kinds
    return 0, {}


def choose_split(name: str, entries: list[Entry], request: Request) -> Part:
    """The files of the split that the request names; all files if there are no splits.

    Raises DataError if the split is missing.
    """
    paths = [entry.folders for entry in entries]
    level, kinds = _split_at(paths)
    remedy = (
        "load it whole and call .split(), give a share to hold out, or sort the files into train/ and test/"
        if kinds
        else "it has no subfolders train and test: load it whole and call .split(), give a share to hold out, or sort "
        "the files into train/ and test/"
    )
    part = request.split_of(name, [split for split in SPLITS if split in kinds], remedy)
    if part is None:
        return Part(entries)

    def within(folder: str) -> list[Entry]:
        return [entry for entry, path in zip(entries, paths, strict=True) if path[level : level + 1] == (folder,)]

    folder, *others = kinds[part]
    chosen = within(folder)
    notes = [f"{len(chosen)} files are in {folder}/, {len(entries) - len(chosen)} elsewhere were not looked at"]
    if part != request.split:
        notes.append(f"there is no {request.split} split: {folder}/ is used instead")
    if others:
        notes.append(f"the {part} split is {folder}/, and {', '.join(f'{other}/' for other in others)} is left out")
    reference = within(kinds["train"][0]) if part != "train" and "train" in kinds else None
    return Part(chosen, reference, tuple(notes))
