"""The image condition of `softmix sample`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .common import UsageError
from .edit_picture import read_image

if TYPE_CHECKING:
    from torch import Tensor

    from ..train import Model


def images_beside(source: Path | None, model: Model, n: int, first: int) -> Tensor | None:
    """The image condition [n, C', H, W] in [-1, 1] of the samples first, first + 1, ...

    source : a picture, or a folder of pictures, which take turns in the order of their names. With None a model with
        an image condition samples without it, and a note says so.

    Raises UsageError for a picture that cannot be read, and for a model without an image condition.
    """
    import torch

    from ..process import Interpolant, Residual

    channels = model.denoiser.cond.image
    if source is None:
        if channels and isinstance(model.process, Residual | Interpolant):
            raise UsageError(
                f"{model.path} leads from one picture to another ({type(model.process).__name__}): give the picture to "
                "start from, --beside PICTURE"
            )
        if channels:
            print(f"note: {model.path} was trained with an image condition; --beside PICTURE gives it", file=sys.stderr)
        return None
    if not channels:
        raise UsageError(f"--beside {source} was given; {model.path} was trained without an image condition")
    paths = [source]
    if source.is_dir():
        paths = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))
    if not paths:
        raise UsageError(f"--beside {source} was given; this folder holds no picture")
    shape = (channels, *model.facts.shape[1:])
    chosen = [paths[(first + k) % len(paths)] for k in range(n)]
    pictures = {path: read_image(path, shape) for path in dict.fromkeys(chosen)}
    return torch.cat([pictures[path] for path in chosen])
