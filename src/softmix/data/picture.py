"""One picture, from a stream of bytes to uint8 [C, H, W].

Conversions:
    several frames      the first frame is taken
    16 bits             the nearest of 8: value / 257, or 255 value / (2^bits - 1) for a grey picture of fewer bits
    transparency        laid on white, unless a fourth channel is asked for
    CMYK                RGB by Pillow's formula, without a colour profile
    orientation tag     obeyed
32-bit values have no agreed range and are refused. The header is checked against MAX_PIXELS before decoding.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .array_range import bits_to_pixels

MAX_PIXELS = 1 << 26
MAX_ENLARGED = 4
# The note on a 16-bit picture, grey or colour.
REDUCED = "16 bits reduced to 8"
# EPS would run a program. TGA has no magic number, so that any text would count as TGA.
_FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000", "HEIF")
# Pillow's mode for a number of channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_ORIENTATION = 0x0112
# Text chunks of a PNG in which Pillow looks for an orientation.
_EXIF_KEYWORDS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0", b"xmp\0")
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
    """A picture that cannot be used. The message is the reason for the report."""


class Decoded(NamedTuple):
    """A decoded picture.

    pixels : uint8 [C, H, W].
    how : the conversions.
    largest : the largest value of a 16-bit grey picture; 0 for others.
    """

    pixels: NDArray[np.uint8]
    how: tuple[str, ...]
    largest: int


@dataclass(frozen=True)
class Header:
    """The facts in a picture's header.

    width, height : pixels, after the orientation tag is obeyed.
    is_grey : whether it is stored as grey. A palette counts as colour.
    """

    width: int
    height: int
    is_grey: bool


@contextmanager
def _as_unusable() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Unusable, FileNotFoundError, PermissionError):
        raise
    except Image.DecompressionBombError as error:
        raise Unusable(f"its header promises more than {MAX_PIXELS} pixels; not decoded") from error
    # Pillow raises nearly any error on a damaged file (struct.error, KeyError, SyntaxError ...).
    except Exception as error:
        raise Unusable(f"damaged or cut off ({type(error).__name__}: {error})") from error


@cache
def _formats() -> tuple[str, ...]:
    """The formats in _FORMATS that this Pillow can read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open(stream: IO[bytes]) -> Image.Image:
    head = stream.read(16)
    if not head:
        raise Unusable("empty file (0 bytes)")
    stream.seek(0)
    try:
        image = Image.open(stream, formats=_formats())
    except UnidentifiedImageError as error:
        raise Unusable(_other_kind(head)) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Unusable(f"its header promises more than {MAX_PIXELS} pixels; not decoded")
    if min(width, height) < 2:
        raise Unusable(f"{width}x{height} is too small for a picture")
    # Mode I of Pillow has 16 bits from a PNG or PPM, and 32 bits from other formats.
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise Unusable("32-bit values, which have no agreed range; save it with 8 bits")
    return image


_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_OTHERS = (
    (b"\x93NUMPY", "an array of numpy, not a picture; name the .npy file itself"),
    (b"PK\x03\x04", "an archive, not a picture; name the .zip or .npz file itself"),
    (b"%PDF", "a PDF, not a picture; save its pages as PNG"),
    (b"8BPS", "a PSD of Photoshop, which cannot be read; save it as PNG"),
    (b"<svg", "an SVG, which has no pixels; save it as PNG"),
)


def _other_kind(head: bytes) -> str:
    """The reason why a file that begins with `head` cannot be read, with its kind if it is known."""
    if head[4:8] == b"ftyp":
        if head[8:12] in _HEIC:
            return "HEIC, which Pillow cannot read; save it as JPEG or PNG (heif-convert does)"
        return "not an image but a video or sound file (MP4); save its frames as PNG"
    return next(
        (f"not an image in a known format: {kind}" for start, kind in _OTHERS if head.startswith(start)),
        "not an image in a known format, or cut off within its header",
    )


def _orientation(image: Image.Image) -> int:
    return _tag_of(image.getexif)


def _tag_of(exif: Callable[[], Image.Exif]) -> int:
    try:
        return int(exif().get(_ORIENTATION, 1))
    # The pixels may be good although the tag is damaged.
    except Exception:
        return 1


def _orientation_without_decoding(image: Image.Image, stream: IO[bytes]) -> int:
    # Pillow decodes a whole PNG to find tags that follow its pixels, and few PNG files have any.
    if image.format != "PNG" or _has_tags_after_pixels(stream):
        return _orientation(image)
    return _tag_of(lambda: Image.Image.getexif(image))


def _has_tags_after_pixels(stream: IO[bytes]) -> bool:
    """Whether a PNG has an orientation, or data that may contain one, in a chunk after its pixels."""
    before, at, pixels = stream.tell(), 8, False
    while len(start := _read_at(stream, at, 8 + 24)) >= 8:
        kind = start[4:8]
        pixels = pixels or kind == b"IDAT"
        if pixels and (kind == b"eXIf" or start[8:].startswith(_EXIF_KEYWORDS)):
            break
        # A chunk is its size, its kind, its content, and a checksum of 4 bytes.
        at += 12 + int.from_bytes(start[:4], "big")
    # Pillow goes on from here if it decodes.
    stream.seek(before)
    return len(start) >= 8


def _read_at(stream: IO[bytes], at: int, size: int) -> bytes:
    stream.seek(at)
    return stream.read(size)


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """The size before the orientation tag is obeyed. New versions of Pillow turn the size of a TIFF."""
    tags: Any = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    return (int(tags[256]), int(tags[257])) if 256 in tags and 257 in tags else image.size


def read_header(stream: IO[bytes]) -> Header:
    """Read the header of a picture; the pixels are not decoded.

    Raises Unusable. A PNG with an orientation after its pixels is decoded: Pillow finds the tag in no other way.
    """
    with _as_unusable():
        image = _open(stream)
        width, height = _stored_size(image)
        if 5 <= _orientation_without_decoding(image, stream) <= 8:
            width, height = height, width
        return Header(width, height, image.mode in ("1", "L", "LA", "La", "I") or image.mode.startswith("I;16"))


def decode(stream: IO[bytes], channels: int, size: int | None) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Decode a picture.

    channels : 1, 3 or 4.
    size : the picture becomes size x size; None keeps its size.
    Returns (uint8 [C, H, W], the conversions). Raises Unusable.
    """
    return decode_picture(stream, channels, size, None)[:2]


def decode_picture(stream: IO[bytes], channels: int, size: int | None, bits: int | None) -> Decoded:
    """Decode a picture, and report the largest value of 16-bit grey.

    channels : 1, 3 or 4.
    size : the picture becomes size x size; None keeps its size.
    bits : the number of bits in use in 16-bit grey; None for 16.
    Raises Unusable.
    """
    how: list[str] = []
    with _as_unusable():
        image = _open(stream)
        if getattr(image, "is_animated", False):
            image.seek(0)
            how.append("several frames: the first was taken")
        wide = _is_wide(image)
        tag = _orientation(image)
        image.load()
        if tag in _TURNS:
            how.append("turned as its orientation tag says")
            # New versions of Pillow turn a TIFF and drop its tag while they load it, so the tag is read again.
            turn = _TURNS.get(_orientation(image))
            image = image if turn is None else image.transpose(turn)
        largest = 0
        if wide:
            image, largest = _eight_bit(image, bits)
            how.append(REDUCED if bits is None else f"{bits} of 16 bits reduced to 8")
        image = to_mode(image, MODES[channels], how)
        return Decoded(to_array(fit(image, size)), tuple(how), largest)


def _is_wide(image: Image.Image) -> bool:
    # Pillow reduces 16-bit colour while it decodes. Only the arguments of the decoder show the 16 bits.
    modes = [
        text
        for tile in getattr(image, "tile", ())
        for text in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))
        if isinstance(text, str)
    ]
    return image.mode.startswith("I") or any(";16" in text for text in modes)


def _eight_bit(image: Image.Image, bits: int | None) -> tuple[Image.Image, int]:
    """Return (a picture of 8 bits, the largest 16-bit value). Raises Unusable if a value needs more than `bits`
    bits.
    """
    if not image.mode.startswith("I"):
        if bits is not None:
            raise Unusable("16-bit colour, which is reduced to 8 bits as it is read: bits are for grey; save it with 8")
        return image, 0
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    largest = int(values.max())
    if bits is not None and largest >= 1 << bits:
        raise Unusable(f"a value of {largest}, which {bits} bits do not hold")
    return Image.fromarray(bits_to_pixels(values, bits or 16)), largest


def to_mode(image: Image.Image, mode: str, how: list[str]) -> Image.Image:
    """Convert a picture to mode L, RGB or RGBA.

    how : the list that conversions are added to.
    Raises Unusable.
    """
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if mode == "RGBA":
            return image
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
    """Crop the centre square and resize it to size x size by Lanczos' filter. A size of None keeps the picture.

    Raises Unusable if it would be enlarged more than MAX_ENLARGED times.
    """
    width, height = image.size
    if size is None or (width, height) == (size, size):
        return image
    side = min(width, height)
    if side * MAX_ENLARGED < size:
        raise Unusable(f"{width}x{height} is too small to be enlarged to {size}x{size} (at most {MAX_ENLARGED} times)")
    left, top = (width - side) // 2, (height - side) // 2
    # resize(box=...) would let the filter use pixels outside of the box.
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.LANCZOS)


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 [C, H, W] of a picture of mode L, RGB or RGBA."""
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
