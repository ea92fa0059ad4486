"""`FileState`: a digest of the files of a source, to see whether they have changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..version import __version__
from . import labels, mnist, picture_list
from .builtin import fashion_places
from .entries import list_folder
from .origin import Origin


@dataclass(frozen=True)
class FileState:
    """The state of a set of files.

    files : the number of files.
    digest : a hash of their names, sizes and times of change.
    """

    files: int
    digest: str


def file_state(origin: Origin) -> FileState:
    """The state of the files of a source and of its second source; for a built-in set, the version of softmix."""
    digest, count = hashlib.sha256(), 0
    for source in filter(None, (origin.source, origin.beside)):
        for path in _files(source, origin.tokens is not None):
            count += 1
            digest.update(f"{path}\0{_stat(path)}\n".encode(errors="surrogateescape"))
        if source == "digits" or source.startswith("toy:"):
            digest.update(f"{source} of {__version__}".encode())
    return FileState(count, digest.hexdigest()[:32])


def _stat(path: str) -> str:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return "not there"
    return f"{status.st_size} {status.st_mtime_ns}"


def _files(source: str, tokens: bool) -> Iterator[str]:
    """All files that reading `source` opens.

    tokens : a .txt file is a text, not a list of pictures.
    """
    if source == "fashion-mnist":
        root = next((place for place in fashion_places() if mnist.is_idx_folder(place)), None)
        yield from [] if root is None else _files(str(root), tokens)
        return
    path = Path(source)
    if path.is_dir():
        listing = list_folder(path)
        yield from (entry.path for entry in listing.entries if entry.path)
        yield from (str(path / name) for name, _ in listing.skipped)
        return
    yield source
    if path.name.lower().endswith(picture_list.LIST_SUFFIXES) and not tokens:
        yield from map(str, picture_list.listed_files(path))
    beside = labels.labels_file(path) if path.suffix.lower() == ".npy" else mnist.labels_beside(path)
    if beside is not None:
        yield str(beside)
