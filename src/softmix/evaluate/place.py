"""Where classifiers for features are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache() -> Path:
    """$SOFTMIX_CACHE, or softmix in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SOFTMIX_CACHE") or Path(home) / "softmix")
