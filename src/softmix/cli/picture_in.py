"""Pictures of the user's files as tensors: decoded, brought to a size, and in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, TYPE_CHECKING

from .common import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def decoded(open_file: Callable[[], IO[bytes]], name: str, channels: int, size: int | None = None) -> NDArray[np.uint8]:
    """The picture in a file, uint8 [C, H, W]. Raises UsageError with its name and the reason for no picture.

    channels : 1, 3 or 4.
    size : the picture becomes size x size; None keeps its size.
    """
    from ..data.picture import Unusable, decode

    try:
        with open_file() as stream:
            return decode(stream, channels, size)[0]
    except (OSError, Unusable) as error:
        raise UsageError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def fitted(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The middle of the picture in this size, as the option `size` of `load` takes it for square data."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    from ..picture import to_image

    if pixels.shape[1:] == (height, width):
        return pixels
    image = ImageOps.fit(to_image(torch.tensor(pixels)), (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(height, width, len(pixels)).transpose(2, 0, 1)


def as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 [C, H, W] -> [1, C, H, W] in [-1, 1]."""
    import torch

    return torch.tensor(pixels)[None].float() / 127.5 - 1
