"""Frozen encoders of images, for losses that compare features: a small convolutional one, random or saved by a run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load
from torch import Tensor, nn


class EncoderSpec(Protocol):
    """The specification of a frozen encoder. One of your own is a frozen dataclass, given by `parts`."""

    @property
    def channels(self) -> int:
        """The number D of features at each place."""
        ...

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        """The module: clean images [B, C, H, W] to features [B, D, h, w]. shape : of one image.

        It is built again when a trained model is loaded. Its weights may not depend on torch's random state.
        """
        ...


class ImageEncoder(nn.Module):
    """Images [B, C, H, W] to features [B, 2 width, h, w], of unit variance over the channels of each place.

    Four convolutions. The grid has half as many places along each side as the image has pixels, a quarter from 16
    pixels a side on, and an eighth from 40 on. Each norm is over one image, so that an image does not depend on its
    batch.

    channels : C.
    width : of the first layer.
    side : the smaller side of the images of training.
    """

    def __init__(self, channels: int, width: int, side: int):
        super().__init__()
        stride = 1 if side < 16 else 2 if side < 40 else 4
        wide = 2 * width
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 2 * stride + 1, stride, padding=stride),
            nn.GroupNorm(1, width),
            nn.SiLU(),
            nn.Conv2d(width, wide, 3, stride=2, padding=1),
            nn.GroupNorm(1, wide),
            nn.SiLU(),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.GroupNorm(1, wide),
            nn.SiLU(),
            nn.Conv2d(wide, wide, 3, padding=1),
        )
        self.absent = ""

    def forward(self, x0: Tensor) -> Tensor:
        if self.absent:
            raise ValueError(self.absent)
        h = self.body(x0).movedim(1, -1)
        return nn.functional.layer_norm(h, h.shape[-1:]).movedim(-1, 1)


def image_encoder(shape: tuple[int, ...], width: int, seed: int | None = None) -> ImageEncoder:
    """An `ImageEncoder` for images of this shape. Raises ValueError for items of another rank.

    seed : of its weights; None for the random state of torch. With a seed this state does not change.
    """
    if len(shape) != 3:
        raise ValueError(f"an encoder of images was asked for, and the items have shape {tuple(shape)}")
    if seed is None:
        return ImageEncoder(shape[0], width, min(shape[1:]))
    with _seeded(seed):
        return ImageEncoder(shape[0], width, min(shape[1:]))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerator too
        yield


def _require_width(width: int) -> None:
    if width < 1:
        raise ValueError(f"the width of an encoder is at least 1; found {width}")


@dataclass(frozen=True)
class RandomEncoder:
    """An `ImageEncoder` with random weights.

    width : of its first layer.
    seed : of its weights.

    When to choose: only as a control. It has the same parameters and operations as a learned encoder.
    """

    width: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        _require_width(self.width)

    @property
    def channels(self) -> int:
        return 2 * self.width

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        return image_encoder(shape, self.width, self.seed)


@dataclass(frozen=True)
class SavedEncoder:
    """An `ImageEncoder` with weights from a safetensors file. `softmix.train.learn_encoder` makes it.

    file : the file. A relative path begins at the working directory.
    fingerprint : the first 12 hexadecimal digits of the SHA-256 of the file.
    width : of its first layer.

    A training needs the file whenever it starts or continues; a trained model does not. Its checkpoints hold the
    weights too, and a run continues with these.
    """

    file: str
    fingerprint: str
    width: int = 32

    def __post_init__(self) -> None:
        _require_width(self.width)

    @property
    def channels(self) -> int:
        return 2 * self.width

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        """The module. Without the file its first use raises ValueError, so that a trained model loads without it."""
        encoder = image_encoder(shape, self.width, 0)
        try:
            content = Path(self.file).read_bytes()
        except OSError as error:
            encoder.absent = f"the encoder {self.file} cannot be read ({error.strerror}): put the file back"
            return encoder
        found = file_fingerprint(content)
        if found != self.fingerprint:
            encoder.absent = (
                f"the encoder {self.file} has the fingerprint {found}, and {self.fingerprint} was asked for: put that "
                "file back, or name another with its own fingerprint"
            )
            return encoder
        encoder.load_state_dict(load(content))
        return encoder


def file_fingerprint(content: bytes) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a file."""
    return hashlib.sha256(content).hexdigest()[:12]
