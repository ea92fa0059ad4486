"""Errors, bounds of options, and the choice of model, class and sampler, for several verbs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ..data import Data
    from ..sampler import Sampler
    from ..train import Model

ProcessName = Literal[
    "vp", "ve", "flow", "rddm", "resfusion", "shift-ddpm", "spd", "immiscible", "non-uniform", "interpolant"
]
ModelName = Literal[
    "smd", "plain", "published", "mixture", "normal", "consistency", "meanflow", "imm", "siddm", "joint", "masked"
]
TuningName = Literal["mmd"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]

INT64 = 2**63 - 1
MAX_STEPS = 100_000
MAX_AVERAGE = 10_000


class UsageError(Exception):
    """A mistake of the user. It ends with its sentence and exit code 2."""


class Interrupted(Exception):
    """Ctrl-C in a verb that can say which results are saved. It ends with its sentence and exit code 130."""


@contextmanager
def interrupted(sentence: str | Callable[[], str]) -> Iterator[None]:
    """Turn Ctrl-C inside the block into `Interrupted` with this sentence.

    sentence : says which results are saved, which are lost, and how to go on. It must be true at any instant; a
    function is called at Ctrl-C. Of two nested blocks the outer one speaks.
    """
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(sentence if isinstance(sentence, str) else sentence()) from None


def cache() -> Path:
    """The folder of features and statistics between commands: $SOFTMIX_CACHE, or the user's cache folder."""
    from ..evaluate.cache_folder import cache_folder

    return cache_folder()


def load_data(source: str, **options: Any) -> Data:
    """The data, read with these options of `softmix.data.load`. Raises UsageError for data without items."""
    from ..data import load

    if is_target(source):
        raise UsageError(f"{source} is a density without items: `softmix train {source}` learns to sample it")
    items = load(source, **options)
    if not len(items):
        raise UsageError(f"{source} has no items")
    return items


def is_target(source: str) -> bool:
    """Whether the name means a density without items, as `oracle.is_known_target` says without an import of torch."""
    return source.startswith("target:")


def repeat_warnings(items: Data) -> None:
    """Print the warnings about the data a second time, as the last lines, the place that users read."""
    for warning in items.report.warnings:
        print(f"\nWARNING: {warning}")


def load_for_sampling(
    run: Path, sampler: str | None, eta: float | None, weights: str | None, average: int, grid: str | None = None
) -> tuple[Model, Any, Sampler]:
    """The model, its denoiser (averaged if asked), and the chosen sampler or the one that suits the model."""
    from ..denoiser import averaged
    from ..sampler import Statistics, dpm_solver_v3
    from ..train import load

    require_whole(0, MAX_AVERAGE, average=average)
    require_sampler(sampler)
    model = load(run, weights)
    if average and model.facts.vocabulary:
        raise UsageError(f"--average {average} was asked for; {run} makes tokens, which have no mean")
    if eta is not None and model.facts.vocabulary:
        raise UsageError(f"--eta {eta:g} was asked for; {run} makes tokens, whose steps have no share of fresh noise")
    if average:
        _require_draws(model, average)
    denoiser: Any = averaged(average)(model.denoiser) if average else model.denoiser
    chosen = choose_sampler(sampler, eta, model.sampler)
    if chosen is dpm_solver_v3 and statistics_path(model).is_file():
        chosen = partial(dpm_solver_v3, statistics=Statistics.load(statistics_path(model)))
    return model, denoiser, choose_grid(grid, chosen)


def require_sampler(name: str | None) -> None:
    """Raise UsageError for a name that no sampler has. None: the option was not given."""
    from ..sampler import BY_NAME

    if name is not None and name not in BY_NAME:
        raise UsageError(f"the sampler {name!r} was asked for; there are {', '.join(BY_NAME)}")


def choose_sampler(name: str | None, eta: float | None, default: Sampler) -> Sampler:
    """The sampler of this name, or the default, with the share `eta` of fresh noise."""
    from ..sampler import BY_NAME, ancestral, ddim

    chosen = BY_NAME[name] if name is not None else default
    if eta is None:
        return chosen
    plain = chosen.func if isinstance(chosen, partial) else chosen
    if plain not in (ancestral, ddim) or not 0 <= eta <= 1:
        raise UsageError(f"--eta {eta} was asked for; it runs from 0 to 1, and only ancestral and ddim have one")
    return partial(plain, eta=eta)


def choose_grid(name: str | None, sampler: Sampler) -> Sampler:
    """The sampler on the grid of this name. None: on its own."""
    from ..process import GRIDS
    from ..sampler import Traits, on_grid, traits

    if name is None:
        return sampler
    by_name = {grid.__name__.replace("_", "-"): grid for grid in GRIDS}
    if name not in by_name:
        raise UsageError(f"the grid {name!r} was asked for; there are {', '.join(by_name)}")
    known = traits(sampler)
    if known.least > 1 and known.grid is not Traits.grid:
        raise UsageError(f"--grid {name} was asked for; {known.name} leaves the data's range on any grid but its own")
    grid = by_name[name]

    @wraps(grid)
    def checked(process: Any, n: int) -> Any:
        try:
            times = grid(process, n)
        except ValueError as error:
            raise UsageError(f"--grid {name} was asked for: {error}") from None
        if not bool(times.isfinite().all()):
            raise UsageError(f"--grid {name} was asked for; its noise levels are infinite for this model: leave it out")
        return times

    return on_grid(sampler, checked)


def _require_draws(model: Model, average: int) -> None:
    """Raise UsageError for a model that gives one mean: an average over its draws would change nothing."""
    import torch

    from ..posterior import Implicit

    # Every model with draws draws at pure noise.
    cond = torch.zeros(1, dtype=torch.int64) if model.denoiser.classes else None
    if not isinstance(model.denoiser(torch.zeros(1, *model.facts.shape), torch.tensor(1.0), cond), Implicit):
        raise UsageError(f"--average {average} was asked for; {model.path} gives one mean and no draws to average")


def class_number(model: Model, label: str | int | None, name: str) -> int | None:
    """The number of a class, from its name or its number. None: no class was given.

    A name has precedence over a number that is written alike. name : of the option. Raises UsageError with a list of
    the classes.
    """
    names, classes = model.facts.class_names, model.denoiser.classes or drawn_classes(model)
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


def drawn_classes(model: Model) -> int:
    """The number of classes of the label that the model draws with its items; 0 for other models."""
    return int(model.denoiser.spec.classes) if hasattr(model.denoiser, "joint") else 0


def statistics_path(model: Model) -> Path:
    """The file of `softmix statistics` for the weights of this model.

    It is in the run folder, or, for a model that comes with softmix, in the cache folder.
    """
    from ..train.model import SHIPPED

    folder = cache() if model.path.is_relative_to(SHIPPED) else model.path
    return folder / "statistics" / f"{model.weights}-{model.fingerprint}.safetensors"


def option(name: str) -> str:
    """The spelling of an option on the command line: to_class -> --to-class."""
    return "--" + name.replace("_", "-")


def require_positive(**numbers: int) -> None:
    """Raise UsageError for a whole number below 1 or above 64 bits."""
    require_whole(1, INT64, **numbers)


def require_whole(least: int, most: int, /, **numbers: int | None) -> None:
    """Raise UsageError for a whole number outside of least .. most. None: the option was not given."""
    for name, value in numbers.items():
        if value is None or least <= value <= most:
            continue
        bound = f"at least {least:,}" if value < least else f"at most {most:,}"
        raise UsageError(f"{option(name)} {value} was asked for; it must be {bound}")


def require_real(least: float = -math.inf, most: float = math.inf, /, **numbers: float | None) -> None:
    """Raise UsageError for NaN, an infinite number, or one outside of least .. most. None: the option was not given."""
    for name, value in numbers.items():
        if value is None or (math.isfinite(value) and least <= value <= most):
            continue
        ends = [f"at least {least:g}"] * math.isfinite(least) + [f"at most {most:g}"] * math.isfinite(most)
        bound = " and ".join(ends) or "a finite number"
        raise UsageError(f"{option(name)} {value} was asked for; it must be {bound}")


def require_some(**lists: tuple[Any, ...]) -> None:
    """Raise UsageError for an option that takes one value or more and was given none."""
    for name, values in lists.items():
        if not values:
            raise UsageError(f"{option(name)} was given nothing: name at least one")


def require_memory(items: str, size: int) -> None:
    """Raise UsageError if `size` bytes are more than the memory of the machine.

    Without this check the system would kill the process. items : the noun of the sentence.
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # this system does not tell
        return
    if size > memory:
        raise UsageError(
            f"{items} take {size / 2**30:,.1f} GB of memory, and this machine has {memory / 2**30:,.1f} GB"
        )
