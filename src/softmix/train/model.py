"""A trained model, read back from its run folder."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..config import ConfigError
from ..data import Data
from ..data import load as load_data
from ..denoiser import Denoiser, SoftAtHighNoise
from ..process import Gaussian, unframed
from ..sampler import Sampler
from . import checkpoint
from .config import Config
from .denoise import Denoise
from .ema import name_of
from .make import build
from .record import Facts, Run, read


class RunError(RuntimeError):
    """A folder that is not a run, or whose weights cannot be read."""


@dataclass(frozen=True)
class Model:
    """What a run has made, with all that is known of it. network : the module that was trained. made : what the task
    makes of it, for `Denoise` a denoiser. weights: "ema-0.050" and so on, or "model" for the raw ones."""

    network: nn.Module
    made: Any
    config: Config
    facts: Facts
    path: Path
    step: int
    weights: str
    damaged: tuple[str, ...]

    @property
    def denoiser(self) -> Any:
        """What a `Denoise` run makes. Raises RunError for a run of another task."""
        self._denoise()
        return self.made

    def _denoise(self) -> Denoise:
        task = self.config.task
        if not isinstance(task, Denoise):
            raise RunError(f"{self.path} was trained for {type(task).__name__} and makes no denoiser: see `made`")
        return task

    @property
    def process(self) -> Gaussian:
        return unframed(cast(Denoiser, self.denoiser).process, "a model of a run")

    @property
    def fingerprint(self) -> str:
        """The first 12 hexadecimal digits of a SHA-256 of the weights, with their names."""
        weights = self.network.state_dict()
        if isinstance(self.made, SoftAtHighNoise):
            # named as in 0.1, for the recipes in its pictures: the network stood in it twice
            weights = {f"{place}.{name}": one for place in ("mean", "soft") for name, one in weights.items()}
        digest = hashlib.sha256()
        for name, tensor in sorted(weights.items()):
            digest.update(name.encode() + tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:12]

    @property
    def sampler(self) -> Sampler:
        """The sampler that suits the model: see `Denoise.suited`."""
        return self._denoise().suited(self.made)


SHIPPED = Path(__file__).parent.parent / "shipped"


def folder_of(name: str | Path) -> Path:
    """The run folder of this name: the folder itself, or a model that comes with softmix ("fashion")."""
    folder = Path(name)
    shipped = SHIPPED / folder
    # os.path says no where a name is too long, and Path raises
    known = not os.path.exists(folder) and len(folder.parts) == 1 and os.path.isfile(shipped / "config.json")
    return shipped if known else folder


def read_run(folder: str | Path, parts: Sequence[type] = ()) -> Run:
    """The config.json of a run folder, or of a model that comes with softmix. Raises RunError with a sentence.

    parts : classes of your own that the run was trained with.
    """
    place = folder_of(folder) / "config.json"
    if not os.path.isfile(place):
        raise RunError(
            f"{folder} is not a run folder: it has no config.json. Give the folder that `softmix train ... --out` made"
        )
    try:
        return read(place.read_text(encoding="utf-8"), parts)
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        raise RunError(f"{place} cannot be read: {error}") from error


def load(folder: str | Path, weights: str | None = None, parts: Sequence[type] = ()) -> Model:
    """The newest whole checkpoint of a run, with averaged weights unless told otherwise, ready to sample.

    weights : "model" for the weights as trained, or the name of an average such as "ema-0.100".
    parts : classes of your own that the run was trained with.
    A damaged checkpoint is named in a warning and the one before it is taken.
    Raises RunError if the folder is not a run, has no checkpoint, or no such weights.
    """
    run, folder = read_run(folder, parts), folder_of(folder)
    wanted = weights or name_of(run.config.ema[0])
    known = ("model", *map(name_of, run.config.ema))
    if wanted not in known:
        raise RunError(f"the weights {wanted!r} were asked for; this run keeps {', '.join(known)}")
    try:
        found = checkpoint.latest(Path(folder) / "checkpoints", only=(wanted,))
    except checkpoint.CheckpointError as error:
        raise RunError(str(error)) from error
    if found is None:
        raise RunError(f"{folder} has no checkpoint yet: run the same `softmix train` command to go on")
    for sentence in found.damaged:
        warnings.warn(sentence, stacklevel=2)
    network = build(run)["model"]
    try:
        network.load_state_dict(found.tensors[wanted])
    except RuntimeError as error:
        raise RunError(
            f"{found.path} does not hold what its configuration builds: {' '.join(str(error).split())}"
        ) from error
    network.eval().requires_grad_(False)
    return Model(
        network,
        run.config.task.made(network, run.facts, found.step),
        run.config,
        run.facts,
        Path(folder),
        found.step,
        wanted,
        tuple(found.damaged),
    )


def data_of(folder: str | Path, source: str | Path | None = None, parts: Sequence[type] = ()) -> Data:
    """The items that a run was trained on, read as they were read then.

    source : the data, if they are elsewhere now; by default what config.json says.
    parts : classes of your own that the run was trained with.
    Raises RunError if what is found there are other items, and DataError if nothing can be read.
    """
    facts = read_run(folder, parts).facts
    kept, options = reading(folder, facts)
    place = source if source is not None else kept
    data = load_data(place, **options)
    if data.fingerprint != facts.fingerprint:
        raise RunError(
            f"{folder} was trained on {facts.data}, {facts.count} items of shape {list(facts.shape)}, fingerprint "
            f"{facts.fingerprint}; {place} holds {len(data)} items of shape {list(data.shape)}, fingerprint "
            f"{data.fingerprint}: name the data that it was trained on"
        )
    return data


def reading(folder: str | Path, facts: Facts) -> tuple[str, dict[str, Any]]:
    """Where the data of a run are, and the keywords of `load` by which they were read for it."""
    if facts.origin is None:
        return facts.data, _options_of_old(facts)
    origin = facts.origin.absolute_from(folder_of(folder))
    return origin.source, origin.options()


def _options_of_old(facts: Facts) -> dict[str, Any]:
    """The keywords of `load` for a run that did not write them down: a size if the items are square pictures."""
    shape = facts.shape
    square = len(shape) == 3 and shape[1] == shape[2]
    return {"limit": facts.count} | ({"size": shape[1], "channels": shape[0]} if square else {})
