"""The command line: what several verbs need."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..evaluate.place import cache as cache

if TYPE_CHECKING:
    from ..data import Data
    from ..sampler import Sampler
    from ..train import Config, Model

ModelName = Literal["smd", "plain", "published", "mixture", "normal", "consistency", "meanflow"]


class UsageError(Exception):
    """A user's mistake: a sentence, and exit code 2."""


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
    from ..sampler import BY_NAME, Statistics, ancestral, ddim, dpm_solver_v3
    from ..train import load

    if sampler is not None and sampler not in BY_NAME:
        raise UsageError(f"the sampler {sampler!r} was asked for; there are {', '.join(BY_NAME)}")
    model = load(run, weights)
    denoiser: Any = averaged(average)(model.denoiser) if average else model.denoiser
    chosen = BY_NAME[sampler] if sampler is not None else model.sampler
    if chosen is dpm_solver_v3 and statistics_of(model).is_file():
        chosen = partial(dpm_solver_v3, statistics=Statistics.load(statistics_of(model)))
    if eta is not None:
        plain = chosen.func if isinstance(chosen, partial) else chosen
        if plain not in (ancestral, ddim) or not 0 <= eta <= 1:
            raise UsageError(f"--eta {eta} was asked for; it runs from 0 to 1, and only ancestral and ddim have one")
        chosen = partial(plain, eta=eta)
    return model, denoiser, chosen


def statistics_of(model: Model) -> Path:
    """Where `softmix statistics` puts what dpm-solver-v3 knows of these weights: in the run, and of a model that comes
    with softmix beside what else is kept from one command to the next."""
    from ..train.model import SHIPPED

    folder = cache() if model.path.is_relative_to(SHIPPED) else model.path
    return folder / "statistics" / f"{model.weights}-{model.fingerprint}.safetensors"


def positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise UsageError(f"--{name} {value} was asked for; it must be at least 1")


def uses(config: Config, paper: str) -> bool:
    return paper == "smd" and type(config.head).__name__ in ("SoftHead", "PublishedSMD")
