"""The folder that caches classifiers between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return $SOFTMIX_CACHE, or the folder softmix in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SOFTMIX_CACHE") or Path(home) / "softmix")
