"""Images in uint8 to PNG, JPEG and WebP files that hold their recipe, and sheets of many images."""

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
# The largest side of a picture in pixels, by the suffix of its file.
LARGEST = {".png": 2**31 - 1, ".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
# ImageDescription, the EXIF tag for plain text.
_DESCRIPTION = 0x010E


def to_image(pixels: Tensor) -> Image.Image:
    """A Pillow image from uint8 [C, H, W], C = 1 (grey) or 3 (colour). Of other channel counts the first is shown."""
    array = pixels.cpu().numpy()
    return Image.fromarray(array.transpose(1, 2, 0) if len(array) == 3 else array[0])


def tile(images: Tensor, columns: int | None = None, gap: int = 2) -> Tensor:
    """A sheet of N images on white.

    images  : uint8 [N, C, H, W].
    columns : images in a row; None: the square root of N, rounded up.
    gap     : pixels around each image.
    Returns uint8 [C, rows (H + gap) + gap, columns (W + gap) + gap].
    """
    n, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    size = (channels, rows * (height + gap) + gap, columns * (width + gap) + gap)
    sheet = torch.full(size, 255, dtype=torch.uint8, device=images.device)
    for k, image in enumerate(images):
        top, left = gap + (k // columns) * (height + gap), gap + (k % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def sheet_size(n: int, height: int, width: int, columns: int | None = None, gap: int = 2) -> tuple[int, int]:
    """Width and height of `enlarge(to_image(tile(images)))` for n images of this height and width, in pixels."""
    columns = columns or math.ceil(math.sqrt(n))
    size = columns * (width + gap) + gap, math.ceil(n / columns) * (height + gap) + gap
    factor = magnification(size)
    return size[0] * factor, size[1] * factor


def magnification(size: tuple[int, ...], least: int = 480) -> int:
    """The smallest whole factor that brings the longer side to at least `least` pixels."""
    return max(1, math.ceil(least / max(size)))


def enlarge(image: Image.Image, least: int = 480) -> Image.Image:
    """The image, magnified by a whole factor, so that its longer side has at least `least` pixels."""
    factor = magnification(image.size, least)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def save_picture(path: Path, image: Image.Image, recipe: Mapping[str, object]) -> None:
    """Write a .png, .jpg or .webp that holds its recipe as JSON.

    The recipe is in the text of a PNG, and in EXIF's ImageDescription of JPEG and WebP. WebP is written without loss.
    JPEG, with quality 95 and no subsampling of colour, changes some values by a few of 255.
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
    """The JSON of the recipe in a picture from `save_picture` or `save_png`. Raises LookupError without a recipe."""
    text = image.info.get(RECIPE) or image.getexif()[_DESCRIPTION]
    return str(text)


def save_png(path: Path, image: Image.Image, recipe: Mapping[str, object] | None = None) -> None:
    """Write a PNG that holds its recipe as JSON in its text."""
    info = PngInfo()
    if recipe is not None:
        info.add_text(RECIPE, json.dumps(recipe, sort_keys=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, pnginfo=info)


def labelled(rows: Sequence[tuple[str, Tensor]], gap: int = 2, least: int = 24) -> Image.Image:
    """A sheet with one row of images for each caption.

    rows  : caption and uint8 images [N, C, H, W].
    gap   : pixels around each image.
    least : the least width of an image in pixels; smaller ones are magnified by a whole factor.
    """
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


def captioned(panels: Sequence[tuple[str, Tensor]], gap: int = 2, least: int = 96) -> Image.Image:
    """Images side by side, each below its caption.

    panels : caption and uint8 image [C, H, W] of one size.
    gap    : pixels around each image.
    least  : the least width of an image in pixels; smaller ones are magnified by a whole factor.
    """
    factor = magnification((panels[0][1].shape[-1],), least)
    images = [to_image(pixels[:3] if len(pixels) > 3 else pixels).convert("RGB") for _, pixels in panels]
    width, height = (factor * side for side in images[0].size)
    sheet = Image.new("RGB", (len(panels) * (width + gap) + gap, height + 16 + gap), "white")
    for k, ((caption, _), image) in enumerate(zip(panels, images, strict=True)):
        left = gap + k * (width + gap)
        sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), (left, 16))
        ImageDraw.Draw(sheet).text((left + 1, 2), caption, fill="black")
    return sheet


def stacked(images: Sequence[Image.Image]) -> Image.Image:
    """Images of any widths, one below the other on white."""
    sheet = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    return sheet
