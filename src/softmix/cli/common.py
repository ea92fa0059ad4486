"""The command line: what several verbs need."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ..data import Data
    from ..sampler import Sampler
    from ..train import Model

ModelName = Literal["smd", "plain", "published", "mixture", "normal", "consistency", "meanflow"]

INT64 = 2**63 - 1
MOST_STEPS = 100_000
MOST_DRAWS = 10_000


class UsageError(Exception):
    """A user's mistake: a sentence, and exit code 2."""


class Interrupted(Exception):
    """Ctrl-C in a verb that can say what is kept: a sentence, and exit code 130."""


@contextmanager
def interrupted(sentence: str | Callable[[], str]) -> Iterator[None]:
    """Ctrl-C inside says this sentence, which must be true at any instant: what is kept, what is lost, how to go on.
    A function is asked for it then. Of two such blocks the outer one speaks."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(sentence if isinstance(sentence, str) else sentence()) from None


def cache() -> Path:
    """Where features and statistics are kept between commands: $SOFTMIX_CACHE, or the user's cache folder."""
    from ..evaluate.cache_folder import cache_folder

    return cache_folder()


def load_data(source: str, **options: Any) -> Data:
    from ..data import load

    items = load(source, **options)
    if not len(items):
        raise UsageError(f"{source} has no items")
    return items


def told_again(items: Data) -> None:
    """What would spoil a training, once more, where it is read last."""
    for warning in items.report.warnings:
        print(f"\nWARNING: {warning}")


def prepared(
    run: Path, sampler: str | None, eta: float | None, weights: str | None, average: int
) -> tuple[Model, Any, Sampler]:
    """The model, its denoiser as asked for, and the sampler that was asked for or suits it."""
    from ..denoiser import averaged
    from ..sampler import Statistics, dpm_solver_v3
    from ..train import load

    whole(0, MOST_DRAWS, average=average)
    known_sampler(sampler)
    model = load(run, weights)
    if average:
        _check_average(model, average)
    denoiser: Any = averaged(average)(model.denoiser) if average else model.denoiser
    chosen = chosen_sampler(sampler, eta, model.sampler)
    if chosen is dpm_solver_v3 and statistics_of(model).is_file():
        chosen = partial(dpm_solver_v3, statistics=Statistics.load(statistics_of(model)))
    return model, denoiser, chosen


def known_sampler(name: str | None) -> None:
    """Raises UsageError for a name that no sampler has. None was not asked for."""
    from ..sampler import BY_NAME

    if name is not None and name not in BY_NAME:
        raise UsageError(f"the sampler {name!r} was asked for; there are {', '.join(BY_NAME)}")


def chosen_sampler(name: str | None, eta: float | None, suits: Sampler) -> Sampler:
    """The sampler of this name, or the one that suits the model, with its fresh noise as asked for."""
    from ..sampler import BY_NAME, ancestral, ddim

    chosen = BY_NAME[name] if name is not None else suits
    if eta is None:
        return chosen
    plain = chosen.func if isinstance(chosen, partial) else chosen
    if plain not in (ancestral, ddim) or not 0 <= eta <= 1:
        raise UsageError(f"--eta {eta} was asked for; it runs from 0 to 1, and only ancestral and ddim have one")
    return partial(plain, eta=eta)


def _check_average(model: Model, average: int) -> None:
    """Raises UsageError if there is nothing to average: a mean that is one already stays as it is."""
    import torch

    from ..posterior import Implicit

    # pure noise is where every model that draws does so
    cond = torch.zeros(1, dtype=torch.int64) if model.denoiser.classes else None
    if not isinstance(model.denoiser(torch.zeros(1, *model.facts.shape), torch.tensor(1.0), cond), Implicit):
        raise UsageError(f"--average {average} was asked for; {model.path} gives one mean and no draws to average")


def class_of(model: Model, label: str | int | None, name: str) -> int | None:
    """The number of a class that was asked for by its name or its number; a name goes before a number that is written
    alike. None if none was asked for. Raises UsageError, with the classes that there are."""
    names, classes = model.facts.class_names, model.denoiser.classes
    if label is None:
        return None
    if label in names[:classes]:
        return names.index(str(label))
    try:
        number = int(label)
    except ValueError:
        number = -1
    if not 0 <= number < classes:
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        known = f"0 to {classes - 1}{f' ({shown})' if names else ''}" if classes else "none: it was trained without"
        raise UsageError(f"{option(name)} {label} was asked for; the classes of this model are {known}")
    return number


def statistics_of(model: Model) -> Path:
    """Where `softmix statistics` puts what dpm-solver-v3 knows of these weights: in the run, and of a model that comes
    with softmix beside what else is kept from one command to the next."""
    from ..train.model import SHIPPED

    folder = cache() if model.path.is_relative_to(SHIPPED) else model.path
    return folder / "statistics" / f"{model.weights}-{model.fingerprint}.safetensors"


def option(name: str) -> str:
    """How an argument is written on the command line: to_class -> --to-class."""
    return "--" + name.replace("_", "-")


def positive(**numbers: int) -> None:
    """Raises UsageError for a number below 1, or one that 64 bits do not hold."""
    whole(1, INT64, **numbers)


def whole(least: int, most: int, /, **numbers: int | None) -> None:
    """Raises UsageError for a whole number outside of least .. most. None was not asked for."""
    for name, value in numbers.items():
        if value is None or least <= value <= most:
            continue
        bound = f"at least {least:,}" if value < least else f"at most {most:,}"
        raise UsageError(f"{option(name)} {value} was asked for; it must be {bound}")


def real(least: float = -math.inf, most: float = math.inf, /, **numbers: float | None) -> None:
    """Raises UsageError for nan, an infinite number, or one outside of least .. most. None was not asked for."""
    for name, value in numbers.items():
        if value is None or (math.isfinite(value) and least <= value <= most):
            continue
        ends = [f"at least {least:g}"] * math.isfinite(least) + [f"at most {most:g}"] * math.isfinite(most)
        bound = " and ".join(ends) or "a finite number"
        raise UsageError(f"{option(name)} {value} was asked for; it must be {bound}")


def given(**lists: tuple[Any, ...]) -> None:
    """Raises UsageError for an option that takes one value or more and was given none."""
    for name, values in lists.items():
        if not values:
            raise UsageError(f"{option(name)} was given nothing: name at least one")


def fits_in_memory(what: str, size: int) -> None:
    """Raises UsageError if `size` bytes are more than the machine's memory, which a process learns only when killed."""
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no such question on this system
        return
    if size > there:
        raise UsageError(f"{what} take {size / 2**30:,.1f} GB of memory, and this machine has {there / 2**30:,.1f} GB")
