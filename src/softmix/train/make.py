"""What a run is made of: its facts and its modules."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..data import Source
from ..data.store import choose
from ..rng import Rng
from ..version import __version__
from .config import Config
from .record import Facts, Parent, Run


class TrainingError(RuntimeError):
    """Training that cannot begin or go on; the sentence says why and what to do."""


def trainable(shape: tuple[int, ...]) -> None:
    """Raises TrainingError for items of a shape that no network takes."""
    if len(shape) not in (1, 2, 3):
        raise TrainingError(
            f"items of shape {tuple(shape)} cannot be trained on: images are [C, H, W], sequences [L, D], points [D]"
        )


_NUMBERS = 2**27


def find_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return (
        torch.accelerator.current_accelerator() or torch.device("cpu")
        if torch.accelerator.is_available()
        else torch.device("cpu")
    )


def some(source: Source, count: int, first: bool = False) -> Tensor:
    """x0 of at most so many items, and of as many as 512 MB hold: a fixed random choice, or the first."""
    count = max(2, min(count, _NUMBERS // max(math.prod(source.shape), 1)))
    index = torch.arange(min(count, len(source))) if first else choose(len(source), count)
    return source.batch(index, Rng(0, index, "some"))[0]


def facts_of(source: Source, config: Config, processes: int = 1) -> Facts:
    """What a run finds of its data and machine, and how many processes it begins with."""
    try:
        told = config.task.cond_spec(source)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    bf16 = find_device().type == "cuda" or torch.cpu._is_amx_tile_supported()
    precision = config.precision if config.precision != "auto" else "bf16" if bf16 else "fp32"
    lanes = torch.get_num_threads() * processes if find_device().type == "cpu" and source.is_image else 1
    x0 = some(source, 10000)
    return Facts(
        source.name,
        source.fingerprint,
        len(source),
        source.shape,
        getattr(source, "classes", ()) if told.labels else (),
        float(x0.std().item()) if x0.is_floating_point() else 1.0,
        precision,
        config.steps,
        __version__,
        1 if config.task.whole else lanes,
        getattr(source, "origin", None),
        shown="chosen",
        cond=told,
        parents=tuple(Parent(*parent) for parent in getattr(source, "parents", ())),
    )


def build(run: Run) -> nn.ModuleDict:
    """The modules of a run, with the weights that its seed gives. The caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)
        return run.config.task.build(run.facts)


def restored(run: Run, tensors: dict[str, Tensor]) -> nn.Module:
    """What the task has kept, from a checkpoint."""
    kept = run.config.task.freeze(build(run)["model"], torch.zeros(2, *run.facts.shape))
    kept.load_state_dict(tensors)
    return kept.requires_grad_(False).eval()


def compiled(model: nn.Module) -> None:
    """Compiles the blocks of a network where it has some, and the whole of another model."""
    inner = getattr(model, "net", None)
    if inner is not None and hasattr(inner, "run"):
        inner.run = torch.compile(inner.run, dynamic=False)
    else:
        model.forward = torch.compile(model.forward, dynamic=False)
