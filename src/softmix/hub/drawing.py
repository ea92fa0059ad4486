"""A folder of diffusers as something to draw pictures from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .calls import needed
from .reading import HubError
from .source import DiffusersDenoiser, from_diffusers


@dataclass(frozen=True)
class Drawing:
    """A model of a folder, ready for `sample`.

    denoiser, shape : what `sample` takes; shape is of latents where there are some. classes : how many it has, 0 for
    none; class_names by number where the folder says them, else their numbers. cond : n, the first's number -> the
    condition of n pictures. unconditional : what stands for no condition in
    guidance, None for the label -1, or where there is no guidance. what : a sentence of what was found. name : the
    folder's. pixels : what `sample` gave -> [n, C, H, W] in [-1, 1].
    """

    denoiser: DiffusersDenoiser
    shape: tuple[int, ...]
    classes: int
    class_names: tuple[str, ...]
    cond: Callable[[int, int], Any]
    unconditional: Any
    what: str
    name: str
    pixels: Callable[[Tensor], Tensor]


def drawing(
    folder: str | Path, prompt: str | None = None, label: str | int | None = None, variant: str | None = None
) -> Drawing:
    """Opens a folder that diffusers wrote, for pictures of it: unconditional or with classes, of pixels or of latents
    with their VAE, or of a prompt where its pipeline has the encoders.

    label : one class for all, by its name or number; by default they take turns. Raises HubError for what is no picture
    (videos, sound), for conditions that a prompt or a label cannot give, and for a prompt or label that would do
    nothing.
    """
    folder = Path(folder)
    denoiser = from_diffusers(folder, variant=variant)
    if len(denoiser.shape) != 3:
        raise HubError(f"{folder} makes items of shape {list(denoiser.shape)}, which are no pictures")
    classes = _classes(denoiser.model)
    wanted = () if classes else needed(denoiser.model, denoiser.call)
    if prompt is not None and not wanted:
        raise HubError(f"{folder}: a prompt was given, and this model takes {'labels' if classes else 'no condition'}")
    if wanted and prompt is None:
        raise HubError(f"{folder} needs a prompt: its {type(denoiser.model).__name__} takes {', '.join(wanted)}")
    names = _names(folder, classes)
    number = _number(folder, names, label)
    said = denoiser.text([prompt]) if prompt is not None else None

    def cond(n: int, first: int) -> Any:
        if classes:
            return torch.full((n,), number) if number is not None else (torch.arange(n) + first) % classes
        return said.expand(n, -1, -1) if isinstance(said, Tensor) else said and said.expand_as(torch.empty(n))

    latent = denoiser.vae is not None
    kind = f"with {classes} classes" if classes else "of a prompt" if wanted else "without conditions"
    return Drawing(
        denoiser=denoiser,
        shape=denoiser.shape,
        classes=classes,
        class_names=names,
        cond=cond,
        unconditional=denoiser.text([""]) if prompt is not None else None,
        what=f"{type(denoiser.model).__name__} {kind}, of {'latents' if latent else 'pixels'} {list(denoiser.shape)}, "
        f"{denoiser.process}",
        name=folder.resolve().name,
        pixels=denoiser.decode if latent else _as_is,
    )


def _as_is(x: Tensor) -> Tensor:
    return x


def _classes(model: Any) -> int:
    """Without the one that stands for "not told"."""
    if type(model).__name__ in ("DiTTransformer2DModel", "Transformer2DModel"):
        return int(model.config.num_embeds_ada_norm or 0)
    return int(model.config.get("num_class_embeds") or 0)


def _number(folder: Path, names: tuple[str, ...], label: str | int | None) -> int | None:
    """The class of this name or number; None for None."""
    if label is None:
        return None
    if str(label) in names:
        return names.index(str(label))
    number = int(label) if str(label).isdecimal() else -1
    if not 0 <= number < len(names):
        known = f"0 to {len(names) - 1}" if names else "none"
        raise HubError(f"{folder}: class {label} was asked for; its classes are {known}")
    return number


def _names(folder: Path, classes: int) -> tuple[str, ...]:
    index = folder / "model_index.json"
    known = json.loads(index.read_text()).get("id2label") or {} if index.is_file() else {}
    return tuple(str(known.get(str(k), k)) for k in range(classes))
