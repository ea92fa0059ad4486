"""The layout of latents that each model class of diffusers takes: tokens, patches, frames first, a list of images.

A softmix denoiser works on [B, C, H, W], for videos on [B, C, F, H, W].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def _unchanged(x: Any, like: Any, config: Any) -> Any:
    return x


@dataclass(frozen=True)
class LatentsLayout:
    """Two functions between the layout of softmix and that of a model.

    to_model : x, x again, model configuration -> the model's input.
    from_model : model output, x, model configuration -> the output in the layout of x.
    channels : model configuration -> the number of model channels that hold one channel of x.
    """

    to_model: Callable[[Tensor, Tensor, Any], Any] = _unchanged
    from_model: Callable[[Any, Tensor, Any], Tensor] = _unchanged
    channels: Callable[[Any], int] = lambda config: 1


def patch_size(config: Any) -> int:
    """The side of a patch, 1 without patches."""
    return int(config.get("patch_size") or 1)


def _patches(size: Callable[[Any], int]) -> LatentsLayout:
    """[B, C, H, W] as tokens [B, (H / p) (W / p), C p p], one for each patch."""

    def to_model(x: Tensor, like: Tensor, config: Any) -> Tensor:
        return functional.pixel_unshuffle(x, size(config)).flatten(2).transpose(1, 2)

    def from_model(output: Tensor, like: Tensor, config: Any) -> Tensor:
        rows = like.shape[-2] // size(config)
        return functional.pixel_shuffle(output.transpose(1, 2).unflatten(2, (rows, -1)), size(config))

    return LatentsLayout(to_model, from_model, lambda config: size(config) ** 2)


def _swap_frames(x: Tensor, like: Tensor, config: Any) -> Tensor:
    return x.transpose(1, 2)


def video_patches(like: Tensor, config: Any) -> tuple[int, ...]:
    """Frames, rows and columns of patches, each followed by the side of a patch."""
    sides = (int(config.get("patch_size_t") or 1), patch_size(config), patch_size(config))
    return tuple(n for side, length in zip(sides, like.shape[2:], strict=True) for n in (length // side, side))


def _video_to_model(x: Tensor, like: Tensor, config: Any) -> Tensor:
    parts = x.reshape(*x.shape[:2], *video_patches(like, config))
    return parts.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4, 7).flatten(1, 3)


def _video_from_model(output: Tensor, like: Tensor, config: Any) -> Tensor:
    frames, deep, rows, high, columns, wide = video_patches(like, config)
    parts = output.reshape(len(output), frames, rows, columns, -1, deep, high, wide)
    return parts.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(len(output), -1, *like.shape[2:])


PLAIN = LatentsLayout()
TOKENS = _patches(lambda config: 1)
PATCHES_OF_2 = _patches(lambda config: 2)
PATCHES = _patches(patch_size)
FRAMES_FIRST = LatentsLayout(_swap_frames, _swap_frames)
CHANNELS_LAST = LatentsLayout(
    lambda x, like, config: x.movedim(1, -1), lambda output, like, config: output.movedim(-1, 1)
)
VIDEO_PATCHES = LatentsLayout(
    _video_to_model,
    _video_from_model,
    lambda config: int(config.get("patch_size_t") or 1) * patch_size(config) ** 2,
)
# a list of images, each with one frame
IMAGE_LIST = LatentsLayout(
    lambda x, like, config: list(x.unsqueeze(2).unbind(0)),
    lambda output, like, config: torch.stack(list(output)).squeeze(2),
)
