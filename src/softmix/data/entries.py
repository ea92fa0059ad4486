"""The files of a folder or a zip archive, each with a name and a way to open it. Nothing is extracted."""

from __future__ import annotations

import json
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from .report import DataError, printable

MAX_BYTES = 1 << 28
_CLUTTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
# A run's config.json has a few thousand bytes.
_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A file of a source.

    name : its path below the source, with slashes.
    open : opens it for reading.
    label : its label in a list of files, or None.
    path : its path on disk, or None for a member of an archive.
    """

    name: str
    open: Callable[[], IO[bytes]]
    label: str | None = None
    path: str | None = None

    @property
    def folders(self) -> tuple[str, ...]:
        return PurePosixPath(self.name).parts[:-1]


@dataclass(frozen=True)
class Listing:
    """The files of a source.

    entries : the usable files, in the order of their names.
    skipped : (name, reason) of each unusable file.
    hidden : the number of hidden files.
    runs : the run folders of softmix that were left out.
    """

    entries: list[Entry]
    skipped: list[tuple[str, str]]
    hidden: int = 0
    runs: tuple[str, ...] = ()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _CLUTTER


def is_run_config(config: IO[bytes]) -> bool:
    """Whether an open config.json belongs to a run folder of softmix: it has a configuration and facts."""
    try:
        tree: Any = json.loads(config.read(_CONFIG_BYTES))
        return isinstance(tree["config"], dict) and "fingerprint" in tree["facts"]
    # RecursionError: a file of brackets only.
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def is_run_folder(where: str | Path) -> bool:
    """Whether a folder has the config.json of a run."""
    path = Path(where) / "config.json"
    if _not_plain(path):
        return False
    try:
        with path.open("rb") as file:
            return is_run_config(file)
    except OSError:
        return False


def list_folder(root: Path) -> Listing:
    """All files below `root`, without run folders of softmix.

    Links are followed and each folder is visited once. Only plain files are usable; others are never opened.
    Raises DataError if `root` is a run folder.
    """
    entries: list[Entry] = []
    skipped: list[tuple[str, str]] = []
    runs: list[str] = []
    hidden = 0
    seen: set[tuple[int, int]] = set()
    # Recursion would fail at a thousand levels.
    waiting = [("", str(root))]
    while waiting:
        below, where = waiting.pop()
        try:
            state = os.stat(where)
            # A link to a parent folder would make an endless loop.
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(where) as scan:
                items = sorted(scan, key=lambda item: item.name)
        except OSError as error:
            skipped.append((printable(below.rstrip("/")) or ".", _closed_reason(error)))
            continue
        if any(item.name == "config.json" for item in items) and is_run_folder(where):
            runs.append(printable(below.rstrip("/")))
            continue
        for item in items:
            is_folder = _is_folder(item)
            if _is_hidden(item.name):
                hidden += not is_folder
            elif is_folder:
                waiting.append((f"{below}{item.name}/", item.path))
            elif reason := _not_plain(item):
                skipped.append((printable(below + item.name), reason))
            else:
                entries.append(Entry(printable(below + item.name), _opener(item.path), path=item.path))
    if runs == [""]:
        raise DataError(
            f"{printable(str(root))} is a run folder of softmix, not data; name the data that it was trained on"
        )
    return Listing(sorted(entries, key=lambda entry: entry.name), sorted(skipped), hidden, tuple(sorted(runs)))


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    # A circle of links; `_not_plain` gives the reason.
    except OSError:
        return False


def _opener(path: str) -> Callable[[], IO[bytes]]:
    return lambda: Path(path).open("rb")


def file_entry(name: str, path: Path, label: str | None = None) -> Entry | str:
    """The entry of a single file, or the reason why it is unusable."""
    return _not_plain(path) or Entry(name, _opener(str(path)), label, str(path))


def _closed_reason(error: OSError | ValueError) -> str:
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def _not_plain(path: Path | os.DirEntry[str]) -> str:
    try:
        state = path.stat()
    except FileNotFoundError:
        return "vanished, or a link that leads nowhere"
    # ValueError: a path with a NUL byte.
    except (OSError, ValueError) as error:
        return _closed_reason(error)
    # Opening a named pipe would block.
    if not stat.S_ISREG(state.st_mode):
        return "not a plain file"
    return f"larger than {MAX_BYTES} bytes; not opened" if state.st_size > MAX_BYTES else ""


def list_archive(file: zipfile.ZipFile) -> Listing:
    """All files in an open zip archive. They are read in memory, one at a time."""
    entries: list[Entry] = []
    skipped: list[tuple[str, str]] = []
    hidden = 0
    runs = _runs_within(file)
    for info in file.infolist():
        name, reason = printable(info.filename), _refused(info)
        if info.is_dir() or any(info.filename.startswith(run) for run in runs):
            continue
        if reason:
            skipped.append((name, reason))
        elif any(map(_is_hidden, PurePosixPath(name).parts)):
            hidden += 1
        else:
            entries.append(Entry(name, _member(file, info)))
    return Listing(sorted(entries, key=lambda entry: entry.name), skipped, hidden, tuple(map(printable, runs)))


def _runs_within(file: zipfile.ZipFile) -> list[str]:
    """The run folders of softmix in an archive, each with a slash at its end."""
    runs = []
    for info in file.infolist():
        where, slash, name = info.filename.rpartition("/")
        if name == "config.json" and slash and not _refused(info):
            # A damaged member can raise any error; it is reported when it is read.
            with suppress(Exception), file.open(info) as stream:
                runs += [where + slash] if is_run_config(stream) else []
    return sorted(runs)


def _member(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: file.open(info)


def _refused(info: zipfile.ZipInfo) -> str:
    # zipfile cuts filename at its first NUL byte and turns its backslashes; orig_filename is unchanged.
    parts = info.orig_filename.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        return "its name leads out of the archive"
    if info.flag_bits & 1:
        return "encrypted"
    return f"larger than {MAX_BYTES} bytes; not opened" if info.file_size > MAX_BYTES else ""


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive; the caller closes it. Raises DataError if it cannot be opened."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, struct.error) as error:
        shown = printable(str(path))
        raise DataError(f"{shown} cannot be read as a zip archive ({error}); fetch or pack it again") from error
