"""The pictures of `softmix edit`: the input is read, the three panels are written, and the input is read from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import UsageError
from .outputs import OutputError, atomic_file
from .picture_in import as_tensor, decoded, fitted
from .samples import save_array

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
    from torch import Tensor

# Pixels between two panels.
GAP = 2
# Formats without loss: `softmix repeat` begins with the input panel.
FORMATS = (".png", ".webp", ".npy", ".npz")


def read_image(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The picture in the shape [C, H, W] of the model, as [1, C, H, W] in [-1, 1]. Raises UsageError for no picture."""
    if len(shape) != 3:
        raise UsageError("points are not edited: the model must be one of images")
    channels, height, width = shape
    if not path.is_file():
        reason = "it is a folder: name one picture" if path.is_dir() else "there is no such file"
        raise UsageError(f"{path} cannot be read: {reason}")
    pixels = decoded(lambda: path.open("rb"), str(path), channels, height if height == width else None)
    return as_tensor(fitted(pixels, height, width))


def write_edit(out: Path, x: Tensor, recipe: dict[str, Any]) -> None:
    """Write input, reconstruction and edit, [3, C, H, W] in [-1, 1], side by side, or the edit alone to an array."""
    from ..data import to_uint8
    from ..picture import enlarge, save_picture, tile, to_image

    bad = int((~x.isfinite()).sum())
    if bad:
        raise OutputError(
            f"{bad} values of the edit are not finite numbers, and {out} was not written: take more steps"
        )
    pixels = to_uint8(x)
    if out.suffix.lower() == ".npz":
        save_array(out, pixels[-1:].permute(0, 2, 3, 1).numpy())
    elif out.suffix.lower() == ".npy":
        save_array(out, pixels[-1].permute(1, 2, 0).squeeze(-1).numpy())
    else:
        with atomic_file(out) as part:
            save_picture(part, enlarge(to_image(tile(pixels, columns=len(pixels), gap=GAP))), recipe)


def input_panel(picture: Path, shape: tuple[int, ...]) -> PILImage:
    """The input of an edit: the first panel of its picture, in the size [C, H, W] of the model."""
    from PIL import Image

    with Image.open(picture) as sheet:
        factor = sheet.height // (shape[1] + 2 * GAP)
        top = left = factor * GAP
        panel = sheet.crop((left, top, left + factor * shape[2], top + factor * shape[1]))
        return panel.resize((shape[2], shape[1]), Image.Resampling.NEAREST)
