"""A trained model, read from its run folder."""

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
from ..process import Gaussian, Process
from ..sampler import Sampler
from . import checkpoint
from .config import Config
from .denoise import Denoise
from .ema import name_of
from .make import build
from .record import Facts, Run, read
from .sample_target import SampleTarget, TargetError


class RunError(RuntimeError):
    """A folder that is not a run, or has no readable weights."""


@dataclass(frozen=True)
class Model:
    """A trained model, with the configuration and the facts of its run.

    network : the trained module.
    result : the result of the task: for `Denoise` a denoiser, for `SampleTarget` a `TargetSampler`.
    config, facts : the content of config.json.
    path : the run folder.
    step : the step of the weights.
    weights : "model" for the trained weights, or the name of an average such as "ema-0.050".
    damaged : a sentence for each newer checkpoint that is damaged.
    """

    network: nn.Module
    result: Any
    config: Config
    facts: Facts
    path: Path
    step: int
    weights: str
    damaged: tuple[str, ...]

    @property
    def denoiser(self) -> Any:
        """The denoiser of a `Denoise` run, or that of the sampler of a `SampleTarget` run.

        Raises RunError for a run of another task, and for a run on a density that the folder does not hold.
        """
        if isinstance(self._with_denoiser(), Denoise):
            return self.result
        try:
            return self.result.denoiser
        except TargetError as error:
            raise RunError(f"{self.path}: {error}") from error

    def _with_denoiser(self) -> Denoise | SampleTarget:
        task = self.config.task
        if not isinstance(task, Denoise | SampleTarget):
            raise RunError(f"{self.path} was trained for {type(task).__name__} and has no denoiser: see `result`")
        return task

    @property
    def process(self) -> Process:
        """The process of its denoiser. It may have a frame, and parameters of its own."""
        return cast(Denoiser, self.denoiser).process

    @property
    def plain_process(self) -> Gaussian:
        """The process, for methods of codes and statistics: Gaussian, with independent noise and without a frame.

        Raises RunError for another, and for a model of several modalities.
        """
        process = self.process
        if hasattr(self.denoiser, "joint"):
            raise RunError(
                f"{self.path} was trained on several modalities, and its states are their aggregate, not x: take a run "
                "of x alone"
            )
        if not isinstance(process, Gaussian) or not getattr(process, "independent", True):
            raise RunError(
                f"{self.path} was trained with the process {type(process).__name__}, and this needs x_t = alpha x0 + "
                "sigma z with independent noise: take a run with vp, ve or flow"
            )
        return process

    @property
    def fingerprint(self) -> str:
        """The first 12 hexadecimal digits of a SHA-256 of the weights, with their names."""
        weights = self.network.state_dict()
        if isinstance(self.result, SoftAtHighNoise):
            # in softmix 0.1 the network stood in it twice, and fingerprints in pictures must stay valid
            weights = {f"{place}.{name}": each for place in ("mean", "soft") for name, each in weights.items()}
        digest = hashlib.sha256()
        for name, tensor in sorted(weights.items()):
            digest.update(name.encode() + tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:12]

    @property
    def sampler(self) -> Sampler:
        """The sampler that suits the model: see `Denoise.suited`."""
        return self._with_denoiser().suited(self.result)


SHIPPED = Path(__file__).parent.parent / "shipped"


def folder_of(name: str | Path) -> Path:
    """The run folder of this name: the folder itself, or a model that comes with softmix ("fashion",
    "fashion-classes")."""
    folder = Path(name)
    shipped = SHIPPED / folder
    # Path.exists raises for a name that is too long, and os.path.exists returns False
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
    """Load the newest whole checkpoint of a run, ready to sample.

    A warning names a damaged checkpoint, and the one before it is loaded.

    folder : a run folder, or the name of a model that comes with softmix.
    weights : "model" for the trained weights, or the name of an average such as "ema-0.100"; by default the first.
    parts : classes of your own that the run was trained with.

    Raises RunError if the folder is not a run, has no checkpoint, or no such weights.
    """
    run, folder = read_run(folder, parts), folder_of(folder)
    wanted = weights or name_of(run.config.ema[0])
    known = ("model", *map(name_of, run.config.ema))
    if wanted not in known:
        raise RunError(f"the weights {wanted!r} were asked for; this run keeps {', '.join(known)}")
    try:
        newest = checkpoint.latest(Path(folder) / "checkpoints", only=(wanted,))
    except checkpoint.CheckpointError as error:
        raise RunError(str(error)) from error
    if newest is None:
        raise RunError(f"{folder} has no checkpoint yet: run the same `softmix train` command to continue")
    for sentence in newest.damaged:
        warnings.warn(sentence, stacklevel=2)
    network = build(run)["model"]
    try:
        network.load_state_dict(newest.tensors[wanted])
    except RuntimeError as error:
        raise RunError(f"{newest.path} does not fit its configuration: {' '.join(str(error).split())}") from error
    network.eval().requires_grad_(False)
    return Model(
        network,
        run.config.task.result(network, run.facts, newest.step),
        run.config,
        run.facts,
        Path(folder),
        newest.step,
        wanted,
        tuple(newest.damaged),
    )


def data_of(folder: str | Path, source: str | Path | None = None, parts: Sequence[type] = ()) -> Data:
    """Load the training data of a run, with the same options.

    source : the place of the data, if they have moved; by default the place in config.json.
    parts : classes of your own that the run was trained with.

    Raises RunError if the data are others, and DataError if they cannot be read.
    """
    facts = read_run(folder, parts).facts
    if not facts.count:
        raise RunError(f"{folder} was trained on the density {facts.data}, which has no items to compare with")
    stored, options = reading(folder, facts)
    place = source if source is not None else stored
    data = load_data(place, **options)
    if data.fingerprint != facts.fingerprint:
        raise RunError(
            f"{folder} was trained on {facts.data}, {facts.count} items of shape {list(facts.shape)}, fingerprint "
            f"{facts.fingerprint}; {place} holds {len(data)} items of shape {list(data.shape)}, fingerprint "
            f"{data.fingerprint}: name the data that it was trained on"
        )
    return data


def reading(folder: str | Path, facts: Facts) -> tuple[str, dict[str, Any]]:
    """The place of a run's data, and the keywords of `load` for them."""
    if facts.origin is None:
        return facts.data, _options_of_old(facts)
    origin = facts.origin.absolute_from(folder_of(folder))
    return origin.source, origin.options()


def _options_of_old(facts: Facts) -> dict[str, Any]:
    """The keywords of `load` for a run that did not store them: a size if the items are square images."""
    shape = facts.shape
    square = len(shape) == 3 and shape[1] == shape[2]
    return {"limit": facts.count} | ({"size": shape[1], "channels": shape[0]} if square else {})
