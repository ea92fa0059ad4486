"""The room of training: what a run is made of: its facts, its network, the denoiser that comes of it."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from ..data import Data
from ..data.store import choose
from ..denoiser import Network, Staged
from ..loss import Eyes, FeatureEnergy, Keeper
from ..version import __version__
from .config import Config
from .record import Facts, Run


class TrainingError(RuntimeError):
    """Training that cannot begin or go on; the sentence says why and what to do."""


def trainable(shape: tuple[int, ...]) -> None:
    """Raises TrainingError for items of a shape that no network takes."""
    if len(shape) == 2:
        raise TrainingError(
            f"the items have shape {tuple(shape)}: sequences of length {shape[0]} in {shape[1]} channels. They can be "
            "loaded, but there is no network for them yet: images [C, H, W] and points [D] can be trained on"
        )
    if len(shape) not in (1, 3):
        raise TrainingError(f"items of shape {tuple(shape)} cannot be trained on: images are [C, H, W], points are [D]")


def find_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return (
        torch.accelerator.current_accelerator() or torch.device("cpu")
        if torch.accelerator.is_available()
        else torch.device("cpu")
    )


def facts_of(data: Data, config: Config, processes: int = 1) -> Facts:
    """What a run finds of its data and machine, and how many processes it begins with."""
    trainable(data.shape)
    if config.classes and data.labels is None:
        raise TrainingError(f"training with classes was asked for, but {data.name} has no labels; leave `classes` off")
    if config.flip and not data.is_image:
        raise TrainingError(f"flip was asked for, and {data.name} holds no images to be mirrored; leave `flip` off")
    bf16 = find_device().type == "cuda" or torch.cpu._is_amx_tile_supported()
    precision = config.precision if config.precision != "auto" else "bf16" if bf16 else "fp32"
    return Facts(
        data.name,
        data.fingerprint,
        len(data),
        data.shape,
        data.classes if config.classes else (),
        float(data.x0(choose(len(data), 10000)).std().item()),
        precision,
        config.steps,
        __version__,
        torch.get_num_threads() * processes if find_device().type == "cpu" and data.is_image else 1,
        data.origin,
        shown="chosen",
    )


def build(run: Run) -> Network:
    """The network of a run, with the weights that its seed gives. The caller's random state is left alone."""
    config, facts = run.config, run.facts
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        classes = len(facts.class_names) if config.classes else 0
        return Network(config.process, config.net, config.head, facts.shape, classes, config.output, facts.data_sd)


def assembled(run: Run, network: Network, step: int, kept: nn.Module | None) -> Network | Staged:
    """The denoiser that a run has made by this step: its network, beside what the loss has kept of it if need be."""
    loss = run.config.loss
    if not isinstance(loss, FeatureEnergy) or step <= loss.share * (run.facts.first_end or math.inf):
        return network
    return Staged(network, kept.network if loss.mean == 0 and isinstance(kept, Eyes) else network, loss.until)


def restored(run: Run, tensors: dict[str, Tensor]) -> nn.Module:
    """What the loss has kept, from a checkpoint."""
    some = torch.zeros(2, *run.facts.shape)
    kept = cast(Keeper, run.config.loss).keep(build(run), some)
    kept.load_state_dict(tensors)
    return kept.requires_grad_(False).eval()
