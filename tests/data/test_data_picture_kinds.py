"""Orientation, bits, transparency and sizes of pictures, and kinds that are refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from file_helpers import encoded, fill, png
from PIL import Image

from softmix.data import Data, DataError, load
from softmix.data.picture import Unusable, decode, read_header

GREY = np.random.RandomState(0).randint(0, 256, (12, 12)).astype(np.uint8)
COLOUR = np.random.RandomState(1).randint(0, 256, (12, 12, 3)).astype(np.uint8)
GOOD = {"good-1.png": encoded(COLOUR), "good-2.png": encoded(255 - COLOUR)}


def one(tmp_path: Path, content: bytes) -> Data:
    return load(fill(tmp_path, {"odd": content}))


KINDS_WITH_ORIENTATION = ["PNG", "JPEG", "TIFF", "WEBP"]


@pytest.mark.parametrize("kind", KINDS_WITH_ORIENTATION)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_in_every_kind_of_file(tmp_path: Path, kind: str, orientation: int) -> None:
    from PIL import ImageOps

    # Pillow's own reading is the truth for a PNG; by it all other kinds are judged.
    exif = Image.Exif()
    exif[0x0112] = orientation
    corners = np.zeros((48, 32, 3), np.uint8)
    corners[:24, :16], corners[:24, 16:], corners[24:, :16] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = one(tmp_path, encoded(corners, kind, exif=exif, **options))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(corners, exif=exif)))))
    difference = data.values[0].numpy().astype(int) - expected.transpose(2, 0, 1)
    assert np.abs(difference[:, 8:12, 8:12]).max() < 10
    assert np.abs(difference[:, -12:-8, -12:-8]).max() < 10
    assert data.report.converted == ((("odd", "turned as its orientation tag says"),) if orientation > 1 else ())


TWELVE = np.random.RandomState(3).randint(0, 4096, (12, 12)).astype(np.uint16)
TWELVE[0, :3] = 0, 2048, 4095


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_twelve_bits_in_sixteen(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, {"a": encoded(TWELVE, kind), "b": encoded(TWELVE // 2, kind), "c": encoded(GREY)})
    data = load(tmp_path)
    assert data.report.notes == (
        "no value of 2 16-bit pictures is above 4095, which 12 bits hold, so they come out 16 times too dark if these "
        "are all their bits: give --bits 12",
    )
    right = load(tmp_path, bits=12)
    assert np.array_equal(right.values[0, 0].numpy(), np.rint(TWELVE * (255 / 4095)))
    assert np.array_equal(right.values[2, 0].numpy(), GREY)
    assert right.report.notes == ()
    assert right.report.converted == (("a", "12 of 16 bits reduced to 8"), ("b", "12 of 16 bits reduced to 8"))
    few = load(tmp_path, bits=11)
    assert few.report.skipped == (("a", "a value of 4095, which 11 bits do not hold"),)
    assert len(few) == 2
    # who says that all 16 bits are in use is believed
    assert load(tmp_path, bits=16).fingerprint == data.fingerprint
    assert not load(tmp_path, bits=16).report.notes


@pytest.mark.parametrize(("largest", "bits"), [(32768, None), (32767, 15), (1023, 10), (1, 1), (0, None)])
def test_the_warning_offers_the_right_number_of_bits(tmp_path: Path, largest: int, bits: int | None) -> None:
    wide = np.full((12, 12), largest, np.uint16)
    wide[0, 0] = 0
    notes = one(tmp_path, encoded(wide)).report.notes
    assert [note.split()[-1] for note in notes if "--bits" in note] == ([str(bits)] if bits else [])


def test_bits_are_for_sixteen_bit_grey(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="12 bits were asked for, which is for 16-bit grey pictures, but there is none"):
        load(fill(tmp_path / "a", GOOD), bits=12)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in COLOUR.astype(np.uint16))
    fill(tmp_path / "b", {"grey.png": encoded(TWELVE), "colour.png": png(12, 12, 16, 2, rows)})
    data = load(tmp_path / "b", bits=12)
    assert len(data) == 1
    assert "bits are for grey" in dict(data.report.skipped)["colour.png"]
    for options in ({"values": "0..255"}, {"layout": "channels-last"}):
        with pytest.raises(DataError, match="holds pictures with known pixel values"):
            load(tmp_path / "a", **options)


def test_nearly_black_pictures_give_a_warning(tmp_path: Path) -> None:
    dim = {f"{i}.png": encoded(COLOUR // 8) for i in range(2)}
    assert "all pictures are nearly black: the largest pixel is 31 of 255" in load(fill(tmp_path, dim)).report.notes
    fill(tmp_path, {"2.png": encoded(COLOUR // 8 + 1)})
    assert not any("black" in note for note in load(tmp_path).report.notes)


def test_sixteen_bit_colour_of_few_bits_says_that_bits_do_not_help(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + (row * 16).astype(">u2").tobytes() for row in COLOUR.astype(np.uint16))
    data = load(fill(tmp_path, {"a.png": png(12, 12, 16, 2, rows)}))
    assert data.report.converted == (("a.png", "16 bits reduced to 8"),)
    [warning] = data.report.warnings
    assert (
        "nearly black: the largest pixel is 15 of 255; --bits is for grey" in warning and "save them with 8" in warning
    )
    assert data.report.lines()[-1] == f"  WARNING    {warning}"
    assert warning in data.report.to_json()["notes"]


def test_four_channels_keep_transparency(tmp_path: Path) -> None:
    clear = np.dstack([COLOUR, GREY])
    fill(tmp_path, {"a.png": encoded(clear), "b.png": encoded(COLOUR), "c.png": encoded(GREY)})
    data = load(tmp_path, channels=4)
    assert data.shape == (4, 12, 12)
    assert data.report.converted == ()
    assert np.array_equal(data.values[0].numpy(), clear.transpose(2, 0, 1))
    assert np.array_equal(data.values[1, :3].numpy(), COLOUR.transpose(2, 0, 1))
    assert data.values[1:, 3].unique().tolist() == [255]
    assert np.array_equal(data.values[2, 1].numpy(), GREY)
    assert load(tmp_path).shape == (3, 12, 12)
    # a clear pixel's colour must not bleed into its neighbours
    half = np.zeros((12, 12, 4), np.uint8)
    half[:, :6] = 200, 100, 50, 255
    half[:, 6:] = 0, 255, 0, 0
    small = load(fill(tmp_path / "x", {"a.png": encoded(half)}), channels=4, size=4).values[0]
    assert small[:, 0, 1].tolist() == pytest.approx([200, 100, 50, 240], abs=1)


OTHER_KINDS = {
    "HEIC, which Pillow cannot read; save it as JPEG or PNG": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
    "HEIC, which Pillow cannot": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(40),
    "a video or sound file": b"\0\0\0\x18ftypisom\0\0\0\0isomavc1" + bytes(40),
    "a PDF, not a picture": b"%PDF-1.7\n" + bytes(40),
    "a PSD of Photoshop": b"8BPS\0\1" + bytes(40),
    "an SVG, which has no pixels": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "an archive, not a picture": b"PK\x03\x04" + bytes(40),
    "an array of numpy": b"\x93NUMPY\x01\0" + bytes(40),
}


@pytest.mark.parametrize("reason", OTHER_KINDS)
def test_kinds_that_cannot_be_read_are_named(tmp_path: Path, reason: str) -> None:
    data = load(fill(tmp_path, GOOD | {"other": OTHER_KINDS[reason]}))
    assert len(data) == 2
    assert reason in dict(data.report.skipped)["other"]


def test_sixteen_bit_ppm_is_read_by_its_own_largest_value(tmp_path: Path) -> None:
    header = b"P5 12 12 4095\n"
    data = one(tmp_path, header + TWELVE.astype(">u2").tobytes())
    assert np.abs(data.values[0, 0].numpy().astype(float) - TWELVE * (255 / 4095)).max() <= 0.51


def test_the_report_lists_the_sizes_before_resizing(tmp_path: Path) -> None:
    files = {f"{i}.png": encoded(COLOUR[:height]) for i, height in enumerate([12, 12, 11, 10, 9])}
    files["1.png"] = encoded(255 - COLOUR)
    data = load(fill(tmp_path, files), size=8)
    assert data.report.notes == (
        "resized to 8x8, the centre square, from 12x12 (2), 12x9 (1), 12x10 (1) and 1 more sizes",
    )
    assert load(fill(tmp_path / "same", GOOD), size=12).report.notes == ()


def test_pictures_are_enlarged_at_most_four_times(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": encoded(GREY), "b.png": encoded(GREY[:11])})
    data = load(tmp_path, size=48)
    assert len(data) == 1
    assert "12x11 is too small to be enlarged to 48x48" in dict(data.report.skipped)["b.png"]


def test_decoding_raises_only_unusable() -> None:
    noise = np.random.RandomState(7)
    blobs = [encoded(COLOUR, kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]
    refused = 0
    for number in range(350):
        blob = bytearray(blobs[number % len(blobs)])
        for _ in range(noise.randint(1, 6)):
            blob[noise.randint(min(len(blob), 80))] = noise.randint(256)
        try:
            read_header(io.BytesIO(blob))
            assert decode(io.BytesIO(blob), 3, 16)[0].shape == (3, 16, 16)
        except Unusable as reason:
            refused += bool(str(reason))
    assert 50 < refused < 350
