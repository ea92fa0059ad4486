"""Room `data`: the files of a folder or a zip archive, each with a name and a way to open it; nothing is extracted."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from softmix.data.report import DataError, printable

MAX_BYTES = 1 << 28
_CLUTTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Entry:
    """A file of the source; `name` is its path below the source, with slashes."""

    name: str
    open: Callable[[], IO[bytes]]

    @property
    def folders(self) -> tuple[str, ...]:
        return PurePosixPath(self.name).parts[:-1]


@dataclass(frozen=True)
class Listing:
    """The files of a source in the order of their names, those known to be of no use, and the number of hidden ones."""

    entries: list[Entry]
    skipped: list[tuple[str, str]]
    hidden: int


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part in _CLUTTER for part in PurePosixPath(name).parts)


def folder(root: Path) -> Listing:
    """Every file below `root`. Links are followed, each folder is visited once; only plain files are of use."""
    entries: list[Entry] = []
    skipped: list[tuple[str, str]] = []
    hidden = 0
    seen: set[tuple[int, int]] = set()

    def closed(error: OSError) -> None:
        skipped.append((_below(root, Path(str(error.filename))), _closed_reason(error)))

    for where, folders, files in os.walk(root, onerror=closed, followlinks=True):
        place = _place(where)
        # A link that leads back up would otherwise be walked for ever.
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        hidden += sum(map(_is_hidden, files))
        for path in (Path(where) / name for name in files if not _is_hidden(name)):
            reason = _not_plain(path)
            if reason:
                skipped.append((_below(root, path), reason))
            else:
                entries.append(Entry(_below(root, path), _opener(path)))
    return Listing(sorted(entries, key=lambda entry: entry.name), skipped, hidden)


def _place(where: str) -> tuple[int, int]:
    try:
        state = os.stat(where)
    # It vanished after it was listed: each of its files will say so.
    except OSError:
        return -1, hash(where)
    return state.st_dev, state.st_ino


def _below(root: Path, path: Path) -> str:
    return printable(path.relative_to(root).as_posix()) if path != root else "."


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: path.open("rb")


def _closed_reason(error: OSError) -> str:
    return "no permission to read it" if isinstance(error, PermissionError) else f"cannot be read ({error.strerror})"


def _not_plain(path: Path) -> str:
    try:
        state = path.stat()
    except FileNotFoundError:
        return "vanished, or a link that leads nowhere"
    except OSError as error:
        return _closed_reason(error)
    # Opening a named pipe would wait for ever.
    if not stat.S_ISREG(state.st_mode):
        return "not a plain file"
    return f"larger than {MAX_BYTES} bytes; not opened" if state.st_size > MAX_BYTES else ""


def archive(file: zipfile.ZipFile) -> Listing:
    """Every member of an open zip archive that is a file; they are read in memory, one at a time."""
    entries: list[Entry] = []
    skipped: list[tuple[str, str]] = []
    hidden = 0
    for info in file.infolist():
        name, reason = printable(info.filename), _refused(info)
        if info.is_dir():
            continue
        if reason:
            skipped.append((name, reason))
        elif _is_hidden(name):
            hidden += 1
        else:
            entries.append(Entry(name, _member(file, info)))
    return Listing(sorted(entries, key=lambda entry: entry.name), skipped, hidden)


def _member(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: file.open(info)


def _refused(info: zipfile.ZipInfo) -> str:
    # orig_filename: a name is cut at its first NUL byte, and its backslashes are turned, before filename is set.
    parts = info.orig_filename.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        return "its name leads out of the archive"
    if info.flag_bits & 1:
        return "encrypted"
    return f"larger than {MAX_BYTES} bytes; not opened" if info.file_size > MAX_BYTES else ""


def open_archive(path: Path) -> zipfile.ZipFile:
    """The archive, to be closed by the caller. Raises DataError if it cannot be opened."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, struct.error) as error:
        shown = printable(str(path))
        raise DataError(f"{shown} cannot be read as a zip archive ({error}); fetch or pack it again") from error
