"""Check that a run folder can be made and written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .make import TrainingError


def require_writable(out: Path) -> None:
    """Raises TrainingError with the obstacle if a folder `out` cannot be made or written. Makes nothing."""
    try:
        _require(out)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TrainingError(
            f"{_shortened(out)} cannot be the folder of a run: {reason}; name another folder"
        ) from error


def _require(out: Path) -> None:
    if "\0" in str(out):
        raise ValueError("a name holds a NUL")
    # Path.exists raises for a name that is too long, and os.path.exists returns False
    above = next(path for path in (out, *out.absolute().parents) if os.path.exists(path))
    if not above.is_dir():
        obstacle = "a file: name a folder for the run" if above == out else f"below {above}, which is a file"
        raise TrainingError(f"{_shortened(out)} is {obstacle}")
    if hasattr(os, "pathconf"):
        longest = os.pathconf(above, "PC_NAME_MAX")
        for name in out.absolute().relative_to(above.absolute()).parts:
            if len(os.fsencode(name)) > longest:
                raise TrainingError(
                    f"{_shortened(out)} cannot be the folder of a run: a name has {len(os.fsencode(name))} bytes, and "
                    f"{above} takes {longest}; choose a shorter one"
                )
    # os.access is wrong for root and on some file systems, so a folder is made and removed
    with tempfile.TemporaryDirectory(dir=above, prefix=".softmix-"):
        pass


def _shortened(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-12:]}"
