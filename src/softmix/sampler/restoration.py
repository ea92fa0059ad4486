"""Restoration: clean images for given ones, drawn by a model of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cond import UNCONDITIONED, Cond, CondError
from ..denoiser.contract import device_of
from ..precision import Precision
from .contract import Sampler
from .drive import Step, batch_for, sample
from .walk import ancestral

if TYPE_CHECKING:
    from ..denoiser import Denoiser

# numbers in the images of a batch; a network holds some hundred times as many
_VALUES = 1 << 20


def restore(
    denoiser: Denoiser,
    images: Tensor,
    steps: int = 5,
    *,
    draws: int = 1,
    sampler: Sampler = ancestral,
    seed: int = 0,
    label: Tensor | None = None,
    batch: int | None = None,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    look: Callable[[Step], None] | None = None,
) -> Tensor:
    """Draw clean images for given ones, by a model of pairs: [draws, N, C, H, W].

    Draw j of an image depends on (seed, j) and on the image alone: not on the other images, and not on its batch. The
    images have the same noise in draw j.

    A network may take images of another size than those of its training. If its stride does not divide their sides,
    they are continued by reflection to the right and below, and the results are cropped. A network for one size alone
    takes smaller images in this way.

    denoiser : the model, with an image as its condition.
    images : the given ones, [N, C', H, W] in [-1, 1], in the channels C' of the condition; nan for a missing pixel.
    steps : the number of steps.
    draws : m draws for each image. Their spread shows the uncertainty, as far as the model has learned it.
    sampler : see `SAMPLERS`.
    seed : of the noise.
    label : the class of each image, int64 [N], for a model with classes.
    batch, device, precision, look : as in `sample`. By default a batch is smaller for larger images.

    Raises CondError for a model without an image as its condition, and ValueError for other shapes, for no draws, and
    for images that are larger than the only size of a model.
    When to choose: for restoration and translation of images. `sample` with `Cond(image=...)` gives images of one size
    with other noise for each.
    """
    shape: tuple[int, ...] = getattr(denoiser, "shape", ())
    spec = getattr(denoiser, "cond", UNCONDITIONED)
    if not spec.image or len(shape) != 3:
        raise CondError(
            f"restore needs a model of pairs of images, and this one was built for {spec}: train with pairs"
        )
    if images.ndim != 4 or images.shape[1] != spec.image or 0 in images.shape:
        raise ValueError(f"images [N, {spec.image}, H, W] were expected, and found {list(images.shape)}")
    if draws < 1:
        raise ValueError(f"{draws} draws were asked for: take at least 1")
    height, width = images.shape[2:]
    size = padded_size(denoiser, (height, width))
    cond = Cond(label, _reflected(images, size)).repeat(draws)
    device = device_of(denoiser) if device is None else device
    shape = (shape[0], *size)
    x = sample(
        denoiser,
        len(cond),
        steps,
        sampler=sampler,
        seed=seed,
        shape=shape,
        cond=cond,
        batch=batch or batch_of_images(device, shape),
        first=[k for k in range(draws) for _ in range(len(images))],
        device=device,
        precision=precision,
        look=look,
    )
    return x[:, :, :height, :width].unflatten(0, (draws, len(images)))


def batch_of_images(device: torch.device | str, shape: tuple[int, ...]) -> int:
    """The number of images of this shape that `restore` evaluates at once."""
    return min(batch_for(device, shape), max(1, _VALUES // math.prod(shape)))


def padded_size(denoiser: Denoiser, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of images of this size after `restore` has continued them for the denoiser.

    Raises ValueError for images that are larger than the only size of a denoiser.
    """
    stride: int = getattr(denoiser, "stride", 1)
    if stride:
        return -(-size[0] // stride) * stride, -(-size[1] // stride) * stride
    height, width = getattr(denoiser, "shape", size)[-2:]
    if size[0] > height or size[1] > width:
        raise ValueError(
            f"this model takes images of {width} x {height} and smaller ones, and found {size[1]} x {size[0]}: resize "
            "them, or train a model of another head, such as PointHead or SoftHead(local=0), which takes any size"
        )
    return height, width


def _reflected(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images continued to the right and below by reflection, again and again for a small image."""
    rows, columns = (_mirror(n, wanted, images.device) for n, wanted in zip(images.shape[2:], size, strict=True))
    return images[:, :, rows[:, None], columns]


def _mirror(n: int, wanted: int, device: torch.device) -> Tensor:
    """0, 1, ..., n - 1, n - 2, ..., 0, 1, ...: so many places of an axis of length n."""
    place = torch.arange(wanted, device=device) % max(2 * (n - 1), 1)
    return torch.minimum(place, 2 * (n - 1) - place)
