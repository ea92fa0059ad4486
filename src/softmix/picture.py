"""Ground floor: uint8 images to PNG, JPEG and WebP, with the recipe that made them inside."""

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
# Pixels that a side of a picture can have, by the suffix of its file.
LARGEST = {".png": 2**31 - 1, ".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
# ImageDescription, the tag of EXIF for plain text
_DESCRIPTION = 0x010E


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


def sheet_size(n: int, height: int, width: int, columns: int | None = None, gap: int = 2) -> tuple[int, int]:
    """Width and height of `enlarge(to_image(tile(images)))` for n images of height x width."""
    columns = columns or math.ceil(math.sqrt(n))
    size = columns * (width + gap) + gap, math.ceil(n / columns) * (height + gap) + gap
    factor = magnification(size)
    return size[0] * factor, size[1] * factor


def magnification(size: tuple[int, int], least: int = 480) -> int:
    """The whole number that brings the longer side to at least `least` pixels."""
    return max(1, math.ceil(least / max(size)))


def enlarge(image: Image.Image, least: int = 480) -> Image.Image:
    """The image magnified by a whole number so that its longer side is at least `least` pixels."""
    factor = magnification(image.size, least)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def save_picture(path: Path, image: Image.Image, recipe: Mapping[str, object]) -> None:
    """Writes a .png, .jpg or .webp, with the recipe as JSON in its text, for JPEG and WebP in EXIF's ImageDescription.

    WebP is written without loss. JPEG loses: with quality 95 and no subsampling of colour, some values by a few of 255.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        save_png(path, image, recipe)
        return
    exif = Image.Exif()
    exif[_DESCRIPTION] = json.dumps(recipe, sort_keys=True)
    if suffix == ".webp":
        image.save(path, lossless=True, exif=exif)
    else:
        image.save(path, "JPEG", quality=95, subsampling=0, exif=exif)


def recipe_in(image: Image.Image) -> str:
    """The JSON that `save_picture` or `save_png` put into a picture. Raises LookupError if there is none."""
    text = image.info.get(RECIPE) or image.getexif()[_DESCRIPTION]
    return str(text)


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
