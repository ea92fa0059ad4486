"""One source of each kind. A builder takes a folder and a number that changes the content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from file_helpers import encoded, fill, saved
from torch import Tensor
from torch.nn import functional

from softmix.data import Coarse, Data, Degraded, Encoded, Paired, Report, Source, Unpaired, from_dataset, load
from softmix.data.store import make
from softmix.rng import Rng

COUNT = 9


def array(seed: int, *shape: int, change: int = 0) -> np.ndarray:
    """Floats in [-1, 1]; `change` is added to the last number of the last item but one."""
    found = np.random.RandomState(seed).rand(COUNT, *shape).astype(np.float32) * 2 - 1
    found.reshape(COUNT, -1)[-2, -1] += 0.5 * change
    return found


def pixels(seed: int, *shape: int, change: int = 0) -> np.ndarray:
    found = np.random.RandomState(seed).randint(0, 256, (COUNT, *shape)).astype(np.uint8)
    found[0].flat[0] = 255
    found.reshape(COUNT, -1)[-2, -1] ^= change
    return found


def images(channels: int = 3, change: int = 0, seed: int = 0) -> Data:
    values = torch.from_numpy(pixels(seed, channels, 6, 4, change=change))
    return make("pictures", values, torch.arange(COUNT) % 3, ("a", "b", "c"), Report(COUNT))


def numbers(*shape: int, change: int = 0, seed: int = 0) -> Data:
    return make("numbers", torch.from_numpy(array(seed, *shape, change=change)), None, (), Report(COUNT))


class Halved:
    """A codec whose latents are the sums and differences of neighbours, doubled: exact in binary."""

    name = "halved"

    def __init__(self, factor: float = 2.0):
        self.factor = factor

    def encode(self, x0: Tensor) -> Tensor:
        return self.factor * torch.cat([x0[..., ::2] + x0[..., 1::2], x0[..., ::2] - x0[..., 1::2]], 1)

    def decode(self, latents: Tensor) -> Tensor:
        total, difference = (latents / (2 * self.factor)).chunk(2, 1)
        return torch.stack([total + difference, total - difference], -1).flatten(-2)


def noisy(x0: Tensor, rng: Rng) -> Tensor:
    """Every second column, grey, with noise; enlarged again."""
    grey = x0.mean(1, keepdim=True)[..., ::2]
    return functional.interpolate(grey + 0.1 * rng.normal(grey.shape), scale_factor=(1, 2))


def shifted(x0: Tensor, rng: Rng) -> Tensor:
    return x0.sum(1, keepdim=True) + rng.normal((len(x0), 1))


def tokens_of(folder: Path, change: int) -> Data:
    numbers = np.random.RandomState(3).randint(0, 7, (COUNT, 2, 3))
    numbers[-2, -1, -1] = (numbers[-2, -1, -1] + change) % 7
    return load(saved(folder / "tokens.npy", numbers), tokens=7)


def text_of(folder: Path, change: int) -> Data:
    (folder / "book.txt").write_text("it is a tale " * 4 + "of tw" + "oO"[change])
    return load(folder / "book.txt", tokens="characters", length=5)


def cached_of(folder: Path, change: int) -> Data:
    for i, picture in enumerate(pixels(0, 3, 6, 4, change=change)):
        fill(folder, {f"pictures/{'ab'[i % 2]}/{i}.png": encoded(picture.transpose(1, 2, 0))})
    return load(folder / "pictures", cache=folder / "cache")


class Listed:
    """A Dataset: a list, with classes if it has labels."""

    def __init__(self, items: list[Any], classes: list[str] | None = None):
        self.items, self.classes = items, classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Jittered(Listed):
    """Its items are changed by torch's, numpy's and Python's own generators, as transforms do."""

    def __getitem__(self, index: int) -> Any:
        import random

        return self.items[index] + torch.rand((), device="cpu") + np.random.rand() + random.random()


def dataset_of(folder: Path, change: int) -> Source:
    floats = [(torch.from_numpy(one), k % 2) for k, one in enumerate(array(1, 5, change=change))]
    return from_dataset(Listed(floats, ["a", "b"]), name="points")


def named_dataset(folder: Path, change: int) -> Source:
    items = [
        {
            "x0": picture,
            "image": picture[:1].copy(),
            "label": k % 3,
            "value": torch.tensor([k / 10, -k / 10]),
            "context": torch.full((1 + k % 3, 2), k / 7),
        }
        for k, picture in enumerate(pixels(2, 5, 6, 2, change=change))
    ]
    return from_dataset(Listed(items), classes=3)


def jittered(folder: Path, change: int) -> Source:
    return from_dataset(Jittered([torch.from_numpy(one) for one in array(1, 5, change=change)]))


SOURCES: dict[str, Callable[[Path, int], Source]] = {
    "images": lambda folder, change: images(change=change),
    "points": lambda folder, change: numbers(2, change=change),
    "sequences": lambda folder, change: load(saved(folder / "s.npy", array(0, 8, 2, change=change))),
    "volumes": lambda folder, change: load(saved(folder / "v.npy", pixels(0, 1, 3, 4, 2, change=change))),
    "float volumes": lambda folder, change: load(saved(folder / "v.npy", array(0, 1, 3, 4, 2, change=change))),
    "tokens": tokens_of,
    "text": text_of,
    "cached": cached_of,
    "paired images": lambda folder, change: Paired(images(), images(1, change, seed=5)),
    "paired volumes": lambda folder, change: Paired(numbers(1, 2, 3, 4), numbers(2, 2, 3, 4, change=change, seed=1)),
    "paired points": lambda folder, change: Paired(numbers(2), numbers(3, change=change, seed=1)),
    "paired sequences": lambda folder, change: Paired(numbers(8, 2), numbers(3, 5, change=change, seed=1)),
    "coarse images": lambda folder, change: Coarse(images(change=change), 1),
    "unpaired images": lambda folder, change: Unpaired(images(), images(1, change, seed=5)),
    "unpaired points": lambda folder, change: Unpaired(numbers(2), numbers(2, change=change, seed=1)),
    "measured images": lambda folder, change: Degraded(images(change=change), noisy),
    "measured points": lambda folder, change: Degraded(numbers(2, change=change), shifted),
    "latents": lambda folder, change: Encoded(images(change=change), Halved()),
    "kept latents": lambda folder, change: Encoded(images(change=change), Halved()).cached(),
    "cached latents": lambda folder, change: Encoded(images(change=change), Halved()).cached(folder),
    "latents of pairs": lambda folder, change: Encoded(Paired(images(), images(3, change, seed=7)), Halved()),
    "a Dataset": dataset_of,
    "a Dataset of dicts": named_dataset,
    "a Dataset that is random": jittered,
}
RANDOM = {"unpaired images", "unpaired points", "measured images", "measured points", "a Dataset that is random"}
