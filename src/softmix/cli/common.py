"""The command line: what several verbs need."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ..data import Data
    from ..sampler import Sampler
    from ..train import Config, Model

ModelName = Literal["smd", "plain", "published", "mixture", "normal", "consistency", "meanflow"]


class UsageError(Exception):
    """A user's mistake: a sentence, and exit code 2."""


def cache() -> Path:
    """Where classifiers for features are kept: $SOFTMIX_CACHE, or softmix in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SOFTMIX_CACHE") or Path(home) / "softmix")


def load_data(source: str, **options: Any) -> Data:
    from ..data import load

    items = load(source, **options)
    if not len(items):
        raise UsageError(f"{source} has no items")
    return items


def prepared(
    run: Path, sampler: str | None, eta: float | None, weights: str | None, average: int
) -> tuple[Model, Any, Sampler]:
    """The model, its denoiser as asked for, and the sampler that was asked for or suits it."""
    from ..denoiser import averaged
    from ..sampler import BY_NAME, ancestral, ddim
    from ..train import load

    if sampler is not None and sampler not in BY_NAME:
        raise UsageError(f"the sampler {sampler!r} was asked for; there are {', '.join(BY_NAME)}")
    model = load(run, weights)
    denoiser: Any = averaged(average)(model.denoiser) if average else model.denoiser
    chosen = BY_NAME[sampler] if sampler is not None else model.sampler
    if eta is not None:
        plain = chosen.func if isinstance(chosen, partial) else chosen
        if plain not in (ancestral, ddim) or not 0 <= eta <= 1:
            raise UsageError(f"--eta {eta} was asked for; it runs from 0 to 1, and only ancestral and ddim have one")
        chosen = partial(plain, eta=eta)
    return model, denoiser, chosen


def positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise UsageError(f"--{name} {value} was asked for; it must be at least 1")


def uses(config: Config, paper: str) -> bool:
    return paper == "smd" and type(config.head).__name__ in ("SoftHead", "PublishedSMD")
