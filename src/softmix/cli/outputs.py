"""Output files: tested before the work, written under another name, and renamed when they are whole."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .common import UsageError


class OutputError(Exception):
    """A result could not be written, though the test before the work passed. It ends with exit code 1."""


def require_writable_file(out: Path, name: str = "--out", remedy: str = "") -> None:
    """Raise UsageError if no file with this path can be written. Leaves nothing behind.

    A present file will be replaced. The test makes a file, because `os.access` lets root write below /proc and knows
    no names that are too long.

    name   : the noun of the sentence for this file.
    remedy : the end of the sentence, an advice.
    """
    with _described(out, name, remedy):
        mode = _mode(out)
        if mode is not None and stat.S_ISDIR(mode):
            raise UsageError(f"{name} {out} is a folder: name a file")
        if mode is not None and not stat.S_ISREG(mode):
            raise UsageError(f"{name} {out} is a device, a pipe or a socket: name a file")
        _try(_target(out).parent, out.name)


def require_writable_folder(out: Path) -> None:
    """Raise UsageError if files cannot be written into a folder with this path. Leaves nothing behind."""
    with _described(out):
        mode = _mode(out)
        if mode is not None and not stat.S_ISDIR(mode):
            raise UsageError(f"--out {out} is a file: name a folder")
        _try(out)


def require_empty_folder(out: Path) -> None:
    """The same, and UsageError for a folder with files in it."""
    require_writable_folder(out)
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: name another folder")


@contextmanager
def atomic_file(out: Path) -> Iterator[Path]:
    """A path for the file `out` while it is written, with the same suffix. It is renamed to `out` after the block.

    If the block ends early (full disk, Ctrl-C), the file `out` stays as it was. Raises OutputError if the file cannot
    be written.
    """
    target = _target(out)
    part = target.parent / f".softmix-{secrets.token_hex(4)}{target.suffix}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise OutputError(f"{out} was not written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A folder for new files of the folder `out`. After the block all of them move into `out`.

    If the block ends early, none moves. Raises OutputError if they cannot be written.
    """
    part = out.parent / f".softmix-{secrets.token_hex(4)}"
    try:
        part.mkdir(parents=True)
        yield part
        out.mkdir(exist_ok=True)
        for file in sorted(part.iterdir()):
            file.replace(out / file.name)
    except OSError as error:
        raise OutputError(f"{out} was not written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_text(out: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_file(out) as part:
        part.write_text(text, encoding="utf-8")


def _target(out: Path) -> Path:
    """The file behind a link: the file is replaced, and the link stays."""
    return Path(os.path.realpath(out))


def _mode(out: Path) -> int | None:
    try:
        return out.stat().st_mode
    except FileNotFoundError:
        return None


def _try(folder: Path, name: str = "") -> None:
    """Make the folder and a file in it, look up the final name, and remove both."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    probe = folder / f".softmix-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        _mode(folder / name)  # an error for a name that is too long
    finally:
        with suppress(OSError):
            probe.unlink()
        for each in made:  # the innermost first; a folder that could not be made is not there
            with suppress(OSError):
                each.rmdir()


@contextmanager
def _described(out: Path, name: str = "--out", remedy: str = "") -> Iterator[None]:
    """Turn an error of the system into a UsageError."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a null character in a name
        reason = getattr(error, "strerror", None) or error
        end = f"; {remedy}" if remedy else ""
        raise UsageError(f"{name} {_short(out)} cannot be written: {reason}{end}") from None


def _short(out: Path) -> str:
    text = str(out)
    return text if len(text) <= 120 else f"{text[:60]}...{text[-40:]}"
