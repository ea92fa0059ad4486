"""Build a run: its facts and its modules."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..data import Source
from ..data.store import choose
from ..net import Net
from ..rng import Rng
from ..version import __version__
from .config import Config
from .record import Facts, Parent, Run

# the most numbers of `some_items`: 512 MB of float32
_NUMBERS = 2**27


class TrainingError(RuntimeError):
    """Training that cannot begin or continue. The sentence says why, and how to go on."""


def require_trainable(shape: tuple[int, ...]) -> None:
    """Raises TrainingError for items of a shape that no network accepts."""
    if len(shape) not in (1, 2, 3):
        raise TrainingError(
            f"items of shape {tuple(shape)} cannot be trained on: images are [C, H, W], sequences [L, D], points [D]"
        )


def require_fits(run: Run) -> None:
    """Raises ValueError for a task that does not fit the settings of its run."""
    task, parts = run.config.task, run.config.optimiser.accumulate
    if task.freeze_at is not None and not 0 <= task.freeze_at < 1:
        raise ValueError(f"freeze_at is a share of the run, at least 0 and below 1, or None; found {task.freeze_at}")
    if task.whole and parts > 1:
        raise ValueError(
            f"the loss compares the items of a batch, which is never divided, and optimiser.accumulate is {parts}: "
            "leave it at 1, and take a smaller batch if the memory is too small"
        )


def find_device() -> torch.device:
    """The accelerator of this process if there is one, else the CPU.

    A CUDA device has its number (LOCAL_RANK in a run of several processes). Without a number it would be another card
    in another thread.
    """
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device


def some_items(source: Source, count: int, first: bool = False) -> Tensor:
    """x0 of at most `count` items, and of at most 512 MB.

    first : take the first items, and not a fixed random choice.
    """
    count = max(2, min(count, _NUMBERS // max(math.prod(source.shape), 1)))
    index = torch.arange(min(count, len(source))) if first else choose(len(source), count)
    return source.batch(index, Rng(0, index, "some"))[0]


def facts_of(source: Source, config: Config, processes: int = 1) -> Facts:
    """The facts of a new run: properties of its data and of the machine.

    processes : the number of processes at the start of the run.
    """
    try:
        cond_spec = config.task.cond_spec(source)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    precision = config.precision if config.precision != "auto" else suitable_precision(find_device())
    threads = 1 if config.task.together else torch.get_num_threads()
    lanes = threads * processes if find_device().type == "cpu" and source.is_image else 1
    x0 = some_items(source, 10000) if len(source) else torch.zeros((), dtype=torch.int64, device="cpu")
    return Facts(
        source.name,
        source.fingerprint,
        len(source),
        source.shape,
        getattr(source, "classes", ()) if cond_spec.labels else (),
        float(x0.std().item()) if x0.is_floating_point() else 1.0,
        precision,
        config.steps,
        __version__,
        1 if config.task.whole else lanes,
        getattr(source, "origin", None),
        shown="chosen",
        cond=cond_spec,
        parents=tuple(Parent(*parent) for parent in getattr(source, "parents", ())),
        vocabulary=getattr(source, "vocabulary", 0),
        alphabet=getattr(source, "alphabet", ""),
    )


def suitable_precision(device: torch.device) -> Literal["bf16", "fp16", "fp32"]:
    """The fastest precision that the device computes in by itself. fp16 needs a loss scale, so bf16 comes first."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def build(run: Run) -> nn.ModuleDict:
    """The modules of a run, with the weights of its seed. The caller's random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(run.config.seed)  # torch.manual_seed would reseed the accelerator too
        return run.config.task.build(run.facts)


def restore_frozen(run: Run, tensors: dict[str, Tensor]) -> nn.Module:
    """The task's frozen copy, from the tensors of a checkpoint."""
    frozen = run.config.task.freeze(build(run)["model"], torch.zeros(2, *run.facts.shape, device="cpu"))
    frozen.load_state_dict(tensors)
    return frozen.requires_grad_(False).eval()


# torch compiles a function for at most eight kinds of input, and runs it uncompiled for later ones. A run with a loss
# in two parts has six, and a process may train several models.
_KINDS = 64


def compile_blocks(model: nn.Module) -> None:
    """Compile the parts of the nets of a `Network`, and the whole of any other model.

    The parts are the first layer, the blocks, the last layer, and the embedding of the noise level.
    """
    if not compile_net(model):
        model.forward = torch.compile(model.forward, dynamic=False)


def compile_net(model: nn.Module) -> bool:
    """Compile the parts of the nets of a `Network`, or of the one that a `FeatureExtractor` holds. False for another
    module."""
    owner = getattr(model, "network", model)
    if not isinstance(getattr(owner, "net", None), Net):
        return False
    # the older name of `recompile_limit`, which every version has
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, _KINDS)
    # a head may have a net of its own, as that of `PublishedSMD`
    for net in [each for each in owner.modules() if isinstance(each, Net)]:
        for part, name in ((net, "run"), (net, "start"), (net, "out"), (getattr(net, "time", None), "forward")):
            if hasattr(part, name):
                setattr(part, name, torch.compile(getattr(part, name), dynamic=False))
    return True
