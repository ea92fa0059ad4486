"""Whether a run folder can be made and written, asked before anything is made."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .make import TrainingError


def require_writable(out: Path) -> None:
    """Raises TrainingError, naming what is in the way, if a folder `out` cannot be made or written; makes nothing."""
    try:
        _require(out)
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise TrainingError(f"{_shown(out)} cannot be the folder of a run: {told}; name another folder") from error


def _require(out: Path) -> None:
    if "\0" in str(out):
        raise ValueError("a name holds a NUL")
    # os.path.exists is False for a name that is too long, where Path.exists raises
    above = next(path for path in (out, *out.absolute().parents) if os.path.exists(path))
    if not above.is_dir():
        what = "a file: name a folder for the run" if above == out else f"below {above}, which is a file"
        raise TrainingError(f"{_shown(out)} is {what}")
    if hasattr(os, "pathconf"):
        longest = os.pathconf(above, "PC_NAME_MAX")
        for name in out.absolute().relative_to(above.absolute()).parts:
            if len(os.fsencode(name)) > longest:
                raise TrainingError(
                    f"{_shown(out)} cannot be the folder of a run: a name has {len(os.fsencode(name))} bytes, and "
                    f"{above} takes {longest}; choose a shorter one"
                )
    # the one sure way to know, for root as for others; it is gone again at once
    with tempfile.TemporaryDirectory(dir=above, prefix=".softmix-"):
        pass


def _shown(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-12:]}"
