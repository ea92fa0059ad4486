"""Room `data`: one picture, from a stream of bytes to uint8 [C, H, W], or the reason why it is of no use.

What is converted, and how: several frames give the first one; 16 bits give the nearest of 8 (value / 257);
transparency is laid on white; CMYK becomes RGB by Pillow's formula, without a colour profile; a camera's
orientation tag is obeyed. What has no agreed range (32-bit values) is refused. Nothing is decoded before
the header has shown that it is within MAX_PIXELS.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 1 << 26
MAX_ENLARGED = 4
# No EPS, which runs a program, and no TGA, which has no magic number and so accepts text.
_FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unusable(Exception):
    """A picture that must be left out; the message is the reason for the report."""


@dataclass(frozen=True)
class Header:
    """What is known of a picture before its pixels are decoded; sizes in pixels, after its orientation tag."""

    width: int
    height: int
    is_grey: bool


@contextmanager
def _blame() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Unusable, FileNotFoundError, PermissionError):
        raise
    except UnidentifiedImageError as error:
        raise Unusable("not an image in a known format, or cut off within its header") from error
    except Image.DecompressionBombError as error:
        raise Unusable(f"its header promises more than {MAX_PIXELS} pixels; not decoded") from error
    # Pillow's readers raise nearly everything (struct.error, KeyError, SyntaxError ...) on damaged files.
    except Exception as error:
        raise Unusable(f"damaged or cut off ({type(error).__name__}: {error})") from error


def _open(stream: IO[bytes]) -> Image.Image:
    if not stream.read(1):
        raise Unusable("empty file (0 bytes)")
    stream.seek(0)
    Image.init()
    image = Image.open(stream, formats=[name for name in _FORMATS if name in Image.OPEN])
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Unusable(f"its header promises more than {MAX_PIXELS} pixels; not decoded")
    if min(width, height) < 2:
        raise Unusable(f"{width}x{height} is too small for a picture")
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise Unusable("32-bit values, which have no agreed range; save it with 8 bits")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    # A damaged tag says nothing of the pixels.
    except Exception:
        return 1


def look(stream: IO[bytes]) -> Header:
    """The size and kind of the picture in `stream`, from its header alone. Raises Unusable.

    A picture counts as grey if it is stored so; a palette counts as colour.
    """
    with _blame():
        image = _open(stream)
        width, height = image.size
        if _orientation(image) >= 5:
            width, height = height, width
        return Header(width, height, image.mode in ("1", "L", "LA", "La", "I") or image.mode.startswith("I;16"))


def decode(stream: IO[bytes], channels: int, size: int | None) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """(uint8 [C, H, W], what was converted), with `channels` 1 or 3; S x S if `size` is S. Raises Unusable."""
    how: list[str] = []
    with _blame():
        image = _open(stream)
        if getattr(image, "is_animated", False):
            image.seek(0)
            how.append("several frames: the first was taken")
        wide = _is_wide(image)
        image.load()
        turn = _TURNS.get(_orientation(image))
        if turn is not None:
            image = image.transpose(turn)
            how.append("turned as its orientation tag says")
        if wide:
            how.append("16 bits reduced to 8")
        image = _to_mode(_eight_bit(image), "L" if channels == 1 else "RGB", how)
        return to_array(fit(image, size)), tuple(how)


def _is_wide(image: Image.Image) -> bool:
    # Pillow reduces 16-bit colour as it decodes; only the decoder's arguments still tell.
    tiles: Any = getattr(image, "tile", ())
    return image.mode.startswith("I") or any("16" in str(tile[3]) for tile in tiles if image.format == "PNG")


def _eight_bit(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray(np.rint(np.asarray(image).astype(np.float64).clip(0, 65535) / 257).astype(np.uint8))


def _to_mode(image: Image.Image, mode: str, how: list[str]) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        lowest, _ = image.getchannel("A").getextrema()
        if lowest != 255:
            how.append("transparency laid on white")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        return white.convert("RGB").convert(mode)
    if image.mode == "CMYK":
        how.append("CMYK converted to RGB without a colour profile")
    if image.mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"):
        raise Unusable(f"pixels of kind {image.mode}, which have no plain conversion; save it as RGB")
    return image.convert(mode) if image.mode in ("1", "L", "RGB") else image.convert("RGB").convert(mode)


def fit(image: Image.Image, size: int | None) -> Image.Image:
    """The centre square of `image`, resized to size x size by Lanczos' filter; `image` itself if size is None.

    Raises Unusable if that would enlarge it more than MAX_ENLARGED times.
    """
    width, height = image.size
    if size is None or (width, height) == (size, size):
        return image
    side = min(width, height)
    if side * MAX_ENLARGED < size:
        raise Unusable(f"{width}x{height} is too small to be enlarged to {size}x{size} (at most {MAX_ENLARGED} times)")
    left, top = (width - side) // 2, (height - side) // 2
    # Cropped first: resize(box=...) lets the filter reach outside of the box.
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.LANCZOS)


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 [C, H, W] from a picture of mode L or RGB."""
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
