"""Images from a folder of diffusers, for `softmix sample FOLDER`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .class_labels import class_count, class_index
from .diffusers_denoiser import DiffusersDenoiser, from_diffusers
from .errors import HubError
from .model_calls import required_keywords


@dataclass(frozen=True)
class Drawing:
    """A model of a folder with everything that `sample` needs.

    denoiser : the model.
    shape : the shape of one item, of latents for a latent model.
    classes : the number of classes, 0 for none.
    class_names : the names of the classes in order, their numbers if the folder has no names.
    cond : n, number of the first image -> the condition of n images.
    unconditional : the unconditional embedding for guidance; None for the label -1, or without guidance.
    what : one sentence about the model.
    name : the name of the folder.
    pixels : the result of `sample` -> images [n, C, H, W] in [-1, 1].
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
    """Open a folder that diffusers wrote, to sample images from it.

    The model may be unconditional, with classes, or with prompts if its pipeline has the text encoders. It may work on
    pixels, or on latents with their VAE.

    prompt : the prompt of all images.
    label : the class of all images, by name or number. By default the classes take turns.
    variant : the variant of the weights, such as "fp16".

    Raises HubError for videos and sound, for a condition that neither a prompt nor a label can give, and for a prompt
    or label without effect.
    """
    folder = Path(folder)
    denoiser = from_diffusers(folder, variant=variant)
    if len(denoiser.shape) != 3:
        raise HubError(f"{folder} makes items of shape {list(denoiser.shape)}, which are no images")
    classes = class_count(denoiser.model)
    wanted = () if classes else required_keywords(denoiser.model, denoiser.call)
    if prompt is not None and not wanted:
        raise HubError(f"{folder}: a prompt was given, and this model takes {'labels' if classes else 'no condition'}")
    if wanted and prompt is None:
        raise HubError(f"{folder} needs a prompt: its {type(denoiser.model).__name__} takes {', '.join(wanted)}")
    names = denoiser.class_names or tuple(map(str, range(classes)))
    latent = denoiser.vae is not None
    kind = f"with {classes} classes" if classes else "of a prompt" if wanted else "without conditions"
    if classes or label is not None:
        cond = _class_conditions(classes, None if label is None else class_index(names, label, str(folder)))
    else:
        cond = _prompt_conditions(None if prompt is None else denoiser.text([prompt]))
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
        pixels=denoiser.decode if latent else _unchanged,
    )


def _unchanged(x: Tensor) -> Tensor:
    return x


def _class_conditions(classes: int, number: int | None) -> Callable[[int, int], Any]:
    """One class for all images, or all classes in turn."""
    if number is not None:
        return lambda n, first: torch.full((n,), number)
    return lambda n, first: (torch.arange(n) + first) % classes


def _prompt_conditions(embedding: Any) -> Callable[[int, int], Any]:
    """The same prompt for all images, None without a prompt."""
    if embedding is None:
        return lambda n, first: None
    if isinstance(embedding, Tensor):
        return lambda n, first: embedding.expand(n, -1, -1)
    return lambda n, first: embedding.expand_as(torch.empty(n))
