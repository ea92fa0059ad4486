"""Pictures above the size limit are refused by their headers, before any picture is decoded."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_helpers import encoded, fill, flat, png, saved, zipped
from PIL import Image, ImageFile

from softmix.cli import main
from softmix.data import DataError, load
from softmix.data.picture import read_header

SENTENCE = "the pictures are 4000x3000, and at most 4194304 pixels each were asked for"
LIMIT = 2048 * 2048
# A header of 12 megapixels without pixels: to decode it is an error.
PHOTOGRAPH = png(4000, 3000, 8, 2, b"")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures that Pillow decodes during a test."""
    names: list[str] = []
    load_pixels = ImageFile.ImageFile.load

    def load_and_note(image: Any) -> Any:
        names.append(str(image))
        return load_pixels(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load_and_note)
    return names


def photographs(folder: Path, count: int = 20) -> Path:
    return fill(folder, {f"{'ab'[i % 2]}/{i}.png": PHOTOGRAPH for i in range(count)})


def source(kind: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Photographs in a folder, a zip, a list, two folders of pairs, or a folder with a cache."""
    photos = photographs(folder / "photos")
    if kind == "zip":
        return zipped(folder / "photos.zip", {f"{i}.png": PHOTOGRAPH for i in range(20)}), {}
    if kind == "list":
        (folder / "photos.csv").write_text("\n".join(f"photos/a/{i}.png,a" for i in range(0, 20, 2)))
        return folder / "photos.csv", {}
    if kind == "pairs":
        return photos, {"beside": photographs(folder / "others")}
    return photos, {"cache": folder / "cache"} if kind == "cache" else {}


@pytest.mark.parametrize("kind", ["folder", "zip", "list", "pairs", "cache"])
def test_large_pictures_are_refused_and_none_is_decoded(kind: str, tmp_path: Path, decoded: list[str]) -> None:
    path, options = source(kind, tmp_path)
    with pytest.raises(DataError, match=SENTENCE):
        load(path, max_pixels=LIMIT, **options)
    assert decoded == []


def test_the_fixture_sees_a_decoded_picture(tmp_path: Path, decoded: list[str]) -> None:
    load(fill(tmp_path, {"a.png": flat(3)}), max_pixels=LIMIT)
    assert decoded != []


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


TURNED = Image.Exif()
TURNED[0x0112] = 6
XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
TAGS = {"exif": chunk(b"eXIf", TURNED.tobytes()[6:]), "xmp": chunk(b"iTXt", XMP)}


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("place", ["before", "after"])
def test_an_orientation_before_or_after_the_pixels_of_a_png_is_obeyed(tag: str, place: str, tmp_path: Path) -> None:
    content = encoded(np.arange(24, dtype=np.uint8).reshape(4, 6))
    at = content.index(b"IDAT" if place == "before" else b"IEND") - 4
    data = load(fill(tmp_path, {"a.png": content[:at] + TAGS[tag] + content[at:]}))
    assert data.values[0, 0].tolist() == np.rot90(np.arange(24).reshape(4, 6), -1).tolist()


@pytest.mark.parametrize("extra", ["", "text after the pixels", "exif before the pixels", "xmp before the pixels"])
def test_the_header_of_a_png_is_read_without_decoding(extra: str, decoded: list[str]) -> None:
    content = encoded(np.zeros((4, 6), np.uint8))
    before = TAGS.get(extra.partition(" ")[0], b"")
    after = chunk(b"tEXt", b"date:create\0today") if extra.startswith("text") else b""
    pixels, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    header = read_header(io.BytesIO(content[:pixels] + before + content[pixels:end] + after + content[end:]))
    assert (header.width, header.height) == ((4, 6) if before else (6, 4))
    assert decoded == []


@pytest.mark.parametrize("verb", [["train", "--steps", "2", "--out", "run"], ["check"]], ids=["train", "check"])
def test_the_command_line_decodes_no_large_picture(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str], capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "photos")
    with pytest.raises(SystemExit) as stopped:
        main([verb[0], "photos", *verb[1:]])
    assert stopped.value.code == 2
    assert SENTENCE in capsys.readouterr().err
    assert decoded == []
    assert not (tmp_path / "run").exists()


def test_pictures_at_the_limit_are_taken(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": encoded(np.zeros((30, 20), np.uint8)), "b.png": encoded(np.ones((30, 20), np.uint8))})
    assert load(tmp_path, max_pixels=600).shape == (1, 30, 20)
    with pytest.raises(DataError, match="the pictures are 20x30, and at most 599 pixels"):
        load(tmp_path, max_pixels=599)


def test_pictures_that_are_resized_have_no_limit(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": flat(3, side=40)})
    assert load(tmp_path, max_pixels=100, size=16).shape == (1, 16, 16)


def test_a_cache_that_was_built_without_the_limit_is_judged(tmp_path: Path) -> None:
    fill(tmp_path / "photos", {"a.png": flat(3, side=40)})
    load(tmp_path / "photos", cache=tmp_path / "cache")
    with pytest.raises(DataError, match="the pictures are 40x40, and at most 1599 pixels"):
        load(tmp_path / "photos", cache=tmp_path / "cache", max_pixels=1599)


def test_a_large_array_is_refused_before_its_values_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "a.npy", np.zeros((3, 1, 40, 50), np.float32))
    monkeypatch.setattr("softmix.data.array_pictures.find_range", None)
    with pytest.raises(DataError, match="a: the pictures are 50x40, and at most 1999 pixels"):
        load(tmp_path / "a.npy", max_pixels=1999)


def test_a_limit_below_four_pixels_makes_no_sense(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at most 3 pixels a picture were asked for; give 4 or more"):
        load("digits", max_pixels=3)
