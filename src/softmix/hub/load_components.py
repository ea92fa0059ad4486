"""Loads the components of a diffusers pipeline or folder, without unpickling and without running code of the folder."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
from torch import nn

from .errors import HubError
from .schedulers import SCHEDULERS
from .softmix_model import SoftmixModel

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
NETWORKS = ("unet", "transformer", "prior", "decoder")


@dataclass(frozen=True)
class Components:
    """Components by name, and their pipeline if there is one."""

    by_name: dict[str, Any]
    pipeline: Any = None


def load_components(source: Any, with_scheduler: bool, variant: str | None) -> Components:
    """The components of a pipeline, a model or a folder.

    with_scheduler : for a folder with a model alone, read the scheduler beside it too.
    variant : the variant of a folder's weights, for example "fp16".
    """
    if isinstance(source, str | Path):
        return _load_folder(Path(source), with_scheduler, variant)
    if variant is not None:
        raise HubError(f"variant {variant!r} was asked for; it names weights of a folder, and no folder was given")
    if hasattr(source, "components"):
        return Components(dict(source.components), source)
    if isinstance(source, nn.Module):
        return Components({"model": source})
    raise HubError(f"a pipeline, a model or a folder was expected; found {type(source).__name__}")


def denoising_network(components: Components, source: Any) -> Any:
    """The one network that denoises. Raises HubError for none, and for several."""
    by_name = components.by_name
    networks = {name: by_name[name] for name in (*NETWORKS, "model") if by_name.get(name) is not None}
    if not networks:
        raise HubError(
            f"{type(source).__name__} has no unet and no transformer; found {', '.join(by_name) or 'nothing'}"
        )
    others = [name for name in by_name if re.fullmatch(r"(unet|transformer)_\d|unconditional_transformer", name)]
    several = [*networks, *(name for name in others if by_name[name] is not None)]
    if len(several) > 1:
        raise HubError(
            f"{type(components.pipeline).__name__} has {len(several)} networks, {', '.join(several)}: give "
            "from_diffusers one of them, with its scheduler"
        )
    return next(iter(networks.values()))


def _load_folder(folder: Path, with_scheduler: bool, variant: str | None) -> Components:
    if (folder / "model_index.json").is_file():
        return _load_pipeline(folder, variant)
    by_name: dict[str, Any] = {"model": _load_network(folder, variant)}
    for beside in (folder / "scheduler", folder.parent / "scheduler"):
        if with_scheduler and (beside / "scheduler_config.json").is_file():
            name = json.loads((beside / "scheduler_config.json").read_text()).get("_class_name")
            by_name["scheduler"] = _class_by_name(beside, name).from_pretrained(str(beside))
            break
    return Components(by_name)


def _load_pipeline(folder: Path, variant: str | None) -> Components:
    index = json.loads((folder / "model_index.json").read_text())
    networks = {
        name: _load_network(folder / name, variant) for name in NETWORKS if (index.get(name) or [""])[0] == "diffusers"
    }
    beside = [
        each for each in folder.iterdir() if each.name in index and each.name not in networks and _has_weights(each)
    ]
    variants = sorted(each for each in {variant, *(_choose_variant(each, None) for each in beside)} if each is not None)
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            str(folder), use_safetensors=True, low_cpu_mem_usage=False, variant=next(iter(variants), None), **networks
        )
    except (OSError, ImportError) as error:
        raise HubError(f"{folder} could not be opened whole: {error}") from error
    return Components(dict(pipeline.components), pipeline)


def _load_network(folder: Path, variant: str | None) -> nn.Module:
    """A model with all of its weights."""
    config = folder / "config.json"
    if not config.is_file():
        raise HubError(f"{folder} has neither model_index.json (a pipeline) nor config.json (a model)")
    kind = _class_by_name(folder, json.loads(config.read_text()).get("_class_name"))
    chosen = _choose_variant(folder, variant)
    model, info = kind.from_pretrained(
        str(folder), use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True, variant=chosen
    )
    wrong = [*info["missing_keys"], *info["unexpected_keys"]]
    if wrong:
        raise HubError(f"{folder} has missing or unexpected weights: {', '.join(wrong[:3])}")
    return _copy_weights(model)


def _has_weights(folder: Path) -> bool:
    return folder.is_dir() and any(each.suffix in (".safetensors", *PICKLED) for each in folder.iterdir())


def _choose_variant(folder: Path, asked: str | None) -> str | None:
    """The variant of a folder's weights to read: the plain weights (None), or the only variant, such as fp16.

    Raises HubError for several variants, for no weights, and for weights that are pickles.
    """
    variants = {_variant_of(each.name) for each in folder.glob("*.safetensors")}
    if asked is not None:
        if asked not in variants:
            raise HubError(f"{folder}: variant {asked!r} was asked for; found {_listed(variants)}")
        return asked
    if len(variants) > 1 and None not in variants:
        raise HubError(f"{folder} has weights of several variants, {_listed(variants)}: give from_diffusers variant")
    if variants:
        return None if None in variants else next(iter(variants))
    pickled = sorted(each.name for each in folder.iterdir() if each.suffix in PICKLED)
    if pickled:
        raise HubError(
            f"{folder} has its weights as {pickled[0]} alone. This file is a pickle, and softmix unpickles nothing. If "
            "you trust it, load it with diffusers and save it again: save_pretrained writes safetensors"
        )
    if (folder / "config.json").is_file():
        raise HubError(f"{folder} has a config.json and no weights (*.safetensors)")
    return None


def _variant_of(file: str) -> str | None:
    """The variant in a file's name: fp16 of model.fp16.safetensors and of model.fp16-00001-of-00002.safetensors."""
    match = re.fullmatch(r"[^.]+\.([^.]+?)(-\d+-of-\d+)?\.safetensors", file)
    return match.group(1) if match else None


def _listed(variants: set[str | None]) -> str:
    return ", ".join(sorted(each or "one without a name" for each in variants)) or "none"


def _copy_weights(model: nn.Module) -> nn.Module:
    """Weights in memory of their own, aligned by torch.

    Loaded weights are views of the file, at any byte offset. Torch's matrix products add in another order for numbers
    that do not begin at a multiple of 16 bytes. So the same weights, loaded and in memory, gave outputs that differ in
    the last digit. Also a rewritten file would change a model that was read from it.
    """
    for each in (*model.parameters(), *model.buffers()):
        if each.device.type == "cpu":
            each.data = each.data.clone()
    return model


def _class_by_name(folder: Path, name: str | None) -> Any:
    """A class of diffusers, a scheduler of softmix, or the exported model class of softmix, by name."""
    ours = {each.__name__: each for each in (*SCHEDULERS, SoftmixModel)}
    kind = ours.get(str(name)) or getattr(diffusers, str(name), None)
    if kind is None:
        raise HubError(f"{folder} names {name!r}, which this diffusers ({diffusers.__version__}) does not have")
    return kind
