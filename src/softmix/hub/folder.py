"""Folders that diffusers wrote, read without unpickling and without running code of theirs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
from torch import nn

from .reading import HubError
from .schedulers import SCHEDULERS

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
NETS = ("unet", "transformer", "prior", "decoder")


@dataclass(frozen=True)
class Parts:
    """What was found: components by name, the pipeline that they are of, and the size of its latents where it says."""

    components: dict[str, Any]
    pipeline: Any = None


def opened(source: Any, scheduled: bool, variant: str | None) -> Parts:
    """Of a folder with a model alone the scheduler beside it too, if it is wanted."""
    if isinstance(source, str | Path):
        return _read(Path(source), scheduled, variant)
    if variant is not None:
        raise HubError(f"variant {variant!r} was asked for, which says which weights of a folder to read")
    if hasattr(source, "components"):
        return Parts(dict(source.components), source)
    if isinstance(source, nn.Module):
        return Parts({"model": source})
    raise HubError(f"a pipeline, a model or a folder was expected; found {type(source).__name__}")


def net_of(parts: Parts, source: Any) -> Any:
    """The one network that denoises."""
    found = {name: parts.components[name] for name in (*NETS, "model") if parts.components.get(name) is not None}
    if not found:
        held = ", ".join(parts.components) or "nothing"
        raise HubError(f"{type(source).__name__} has no unet and no transformer; found {held}")
    others = [
        name for name in parts.components if re.fullmatch(r"(unet|transformer)_\d|unconditional_transformer", name)
    ]
    several = [*found, *(name for name in others if parts.components[name] is not None)]
    if len(several) > 1:
        raise HubError(
            f"{type(parts.pipeline).__name__} has {len(several)} networks, {', '.join(several)}: give from_diffusers "
            "one of them, with its scheduler"
        )
    return next(iter(found.values()))


def _read(folder: Path, scheduled: bool, variant: str | None) -> Parts:
    if (folder / "model_index.json").is_file():
        return _pipeline(folder, variant)
    parts: dict[str, Any] = {"model": _net(folder, variant)}
    for beside in (folder / "scheduler", folder.parent / "scheduler"):
        if scheduled and (beside / "scheduler_config.json").is_file():
            name = json.loads((beside / "scheduler_config.json").read_text()).get("_class_name")
            parts["scheduler"] = _kind(beside, name).from_pretrained(str(beside))
            break
    return Parts(parts)


def _pipeline(folder: Path, variant: str | None) -> Parts:
    index = json.loads((folder / "model_index.json").read_text())
    nets = {name: _net(folder / name, variant) for name in NETS if (index.get(name) or [""])[0] == "diffusers"}
    beside = [each for each in folder.iterdir() if each.name in index and each.name not in nets and _has_weights(each)]
    others = sorted(each for each in {variant, *(_variant(each, None) for each in beside)} if each is not None)
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            str(folder), use_safetensors=True, low_cpu_mem_usage=False, variant=next(iter(others), None), **nets
        )
    except (OSError, ImportError) as error:
        raise HubError(f"{folder} could not be opened whole: {error}") from error
    return Parts(dict(pipeline.components), pipeline)


def _net(folder: Path, variant: str | None) -> nn.Module:
    """A model with all of its weights."""
    config = folder / "config.json"
    if not config.is_file():
        raise HubError(f"{folder} has neither model_index.json (a pipeline) nor config.json (a model)")
    kind = _kind(folder, json.loads(config.read_text()).get("_class_name"))
    chosen = _variant(folder, variant)
    model, found = kind.from_pretrained(
        str(folder), use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True, variant=chosen
    )
    wrong = [*found["missing_keys"], *found["unexpected_keys"]]
    if wrong:
        raise HubError(f"{folder} lacks or has more than its weights: {', '.join(wrong[:3])}")
    return _settled(model)


def _has_weights(folder: Path) -> bool:
    return folder.is_dir() and any(each.suffix in (".safetensors", *PICKLED) for each in folder.iterdir())


def _variant(folder: Path, asked: str | None) -> str | None:
    """Which of a folder's weights to read: those without a name, or the only ones, such as fp16.

    Raises HubError where there are several or none, and where they would have to be unpickled.
    """
    found = {_named(each.name) for each in folder.glob("*.safetensors")}
    if asked is not None:
        if asked not in found:
            raise HubError(f"{folder}: variant {asked!r} was asked for; found {_listed(found)}")
        return asked
    if len(found) > 1 and None not in found:
        raise HubError(f"{folder} has weights of several kinds, {_listed(found)}: give from_diffusers variant")
    if found:
        return None if None in found else next(iter(found))
    pickled = sorted(each.name for each in folder.iterdir() if each.suffix in PICKLED)
    if pickled:
        raise HubError(
            f"{folder} has its weights as {pickled[0]} alone, which would have to be unpickled, and here nothing is. "
            "If you trust it, load it with diffusers and save it again: save_pretrained writes safetensors"
        )
    if (folder / "config.json").is_file():
        raise HubError(f"{folder} has a config.json and no weights (*.safetensors)")
    return None


def _named(file: str) -> str | None:
    """The variant in a file's name: fp16 of model.fp16.safetensors and of model.fp16-00001-of-00002.safetensors."""
    found = re.fullmatch(r"[^.]+\.([^.]+?)(-\d+-of-\d+)?\.safetensors", file)
    return found.group(1) if found else None


def _listed(found: set[str | None]) -> str:
    return ", ".join(sorted(each or "one without a name" for each in found)) or "none"


def _settled(model: nn.Module) -> nn.Module:
    """Weights in memory of their own, where torch would put them.

    What is read is a view of the file at whatever byte it stands there. The products of torch add in another order
    where a number does not begin at a multiple of 16 bytes, so that the same weights, loaded and as they were saved,
    said numbers that differ in the last digit; and a file that is written anew would change the model that it was
    read into.
    """
    for each in (*model.parameters(), *model.buffers()):
        if each.device.type == "cpu":
            each.data = each.data.clone()
    return model


def _kind(folder: Path, name: str | None) -> Any:
    """A class of diffusers, or a scheduler of ours, by name."""
    ours = {each.__name__: each for each in SCHEDULERS}
    kind = ours.get(str(name)) or getattr(diffusers, str(name), None)
    if kind is None:
        raise HubError(f"{folder} names {name!r}, which this diffusers ({diffusers.__version__}) does not have")
    return kind
