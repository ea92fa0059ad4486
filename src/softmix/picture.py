"""Ground floor: uint8 images to PNG, with the recipe that made them inside."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

RECIPE = "softmix"


def to_image(pixels: Tensor) -> Image.Image:
    """uint8 [C, H, W] with C = 1 (grey) or 3 (colour); other counts show their first channel."""
    array = pixels.cpu().numpy()
    return Image.fromarray(array.transpose(1, 2, 0) if len(array) == 3 else array[0])


def tile(images: Tensor, columns: int | None = None, gap: int = 2) -> Tensor:
    """uint8 [N, C, H, W] -> one image [C, rows (H + gap) + gap, columns (W + gap) + gap] on white."""
    n, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    sheet = torch.full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8)
    for k, image in enumerate(images):
        top, left = gap + (k // columns) * (height + gap), gap + (k % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def enlarge(image: Image.Image, least: int = 480) -> Image.Image:
    """The image magnified by a whole number so that its longer side is at least `least` pixels."""
    factor = max(1, math.ceil(least / max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def save_png(path: Path, image: Image.Image, recipe: Mapping[str, object] | None = None) -> None:
    """Writes a PNG, with the recipe as JSON in its text."""
    info = PngInfo()
    if recipe is not None:
        info.add_text(RECIPE, json.dumps(recipe, sort_keys=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, pnginfo=info)


def labelled(rows: Sequence[tuple[str, Tensor]], gap: int = 2, least: int = 24) -> Image.Image:
    """A sheet with a caption before each row of uint8 images [N, C, H, W]."""
    factor = max(1, math.ceil(least / rows[0][1].shape[-1]))
    margin = 12 + 7 * max(len(name) for name, _ in rows)
    strips = []
    for name, images in rows:
        sheet = to_image(tile(images, columns=len(images), gap=gap)).convert("RGB")
        sheet = sheet.resize((sheet.width * factor, sheet.height * factor), Image.Resampling.NEAREST)
        strip = Image.new("RGB", (sheet.width + margin, sheet.height), "white")
        strip.paste(sheet, (margin, 0))
        ImageDraw.Draw(strip).text((6, sheet.height // 2 - 6), name, fill="black")
        strips.append(np.asarray(strip))
    return Image.fromarray(np.concatenate(strips))
