"""The command line: outputs are checked before the work, written aside, and renamed when they are whole."""

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
    """What was made could not be written, though it could when the work began: a sentence, and exit code 1."""


def file_to_write(out: Path, what: str = "--out") -> None:
    """Raises UsageError, which calls the file `what`, if none of this name can be written. Leaves nothing behind.

    A file that is there will be replaced. To ask the system is not enough: it lets root write below /proc, and knows
    no names that are too long.
    """
    with _said(out, what):
        found = _kind(out)
        if found is not None and stat.S_ISDIR(found):
            raise UsageError(f"{what} {out} is a folder: name a file")
        if found is not None and not stat.S_ISREG(found):
            raise UsageError(f"{what} {out} is a device, a pipe or a socket: name a file")
        _try(_target(out).parent, out.name)


def folder_to_write(out: Path) -> None:
    """Raises UsageError if files cannot be written into a folder of this name. Leaves nothing behind."""
    with _said(out):
        found = _kind(out)
        if found is not None and not stat.S_ISDIR(found):
            raise UsageError(f"--out {out} is a file: name a folder")
        _try(out)


def empty_folder_to_write(out: Path) -> None:
    """As `folder_to_write`, for a folder that must hold nothing yet."""
    folder_to_write(out)
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: name another folder")


@contextmanager
def aside(out: Path) -> Iterator[Path]:
    """A path to write to in place of the file `out`, with the same suffix; renamed to `out` at the end of the block.

    Whatever ends the block early, a full disk or Ctrl-C, leaves nothing under the name `out` but what was there.
    Raises OutputError if the file cannot be written.
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
def folder_aside(out: Path) -> Iterator[Path]:
    """A folder to write files to; at the end of the block they move into the folder `out`, all of them or, if the
    block ends early, none. Raises OutputError if they cannot be written."""
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
    """A text file, whole or not at all."""
    with aside(out) as part:
        part.write_text(text, encoding="utf-8")


def _target(out: Path) -> Path:
    """What a link leads to: a file is replaced, and the link to it stays."""
    return Path(os.path.realpath(out))


def _kind(out: Path) -> int | None:
    try:
        return out.stat().st_mode
    except FileNotFoundError:
        return None


def _try(folder: Path, name: str = "") -> None:
    """Makes the folder and a file in it, asks for the name that the file will have, and takes both away."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    probe = folder / f".softmix-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        _kind(folder / name)  # an error for a name that is too long
    finally:
        with suppress(OSError):
            probe.unlink()
        for each in made:  # the innermost first; one that could not be made is not there
            with suppress(OSError):
                each.rmdir()


@contextmanager
def _said(out: Path, what: str = "--out") -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a null character in a name
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{what} {_short(out)} cannot be written: {reason}") from None


def _short(out: Path) -> str:
    text = str(out)
    return text if len(text) <= 120 else f"{text[:60]}...{text[-40:]}"
