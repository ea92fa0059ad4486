"""Folders and archives of pictures, good, odd and damaged."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from file_helpers import encoded, fill, png, zipped
from PIL import Image

from softmix.data import Data, DataError, load
from softmix.data.picture import read_header

GREY = np.random.RandomState(0).randint(0, 256, (12, 12)).astype(np.uint8)
COLOUR = np.random.RandomState(1).randint(0, 256, (12, 12, 3)).astype(np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


GOOD = {"good-1.png": encoded(COLOUR), "good-2.png": encoded(255 - COLOUR)}
BAD = {
    "truncated.jpg": (encoded(COLOUR, "JPEG", quality=100)[:-60], "damaged or cut off"),
    "truncated.png": (encoded(COLOUR)[:200], "damaged or cut off"),
    "stub.png": (encoded(COLOUR)[:20], "cut off"),
    "zero.png": (b"", "empty file"),
    "text.png": (b"this is no picture", "not an image"),
    "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 12\n", "not an image"),
    "one.png": (encoded(COLOUR[:1, :1]), "1x1 is too small"),
    "bomb.png": (png(30_000, 30_000, 8, 2, b"\0"), "more than 67108864 pixels"),
    "large.png": (png(9_000, 9_000, 8, 2, b"\0"), "more than 67108864 pixels"),
    "float.tif": (encoded(GREY.astype(np.float32), "TIFF"), "no agreed range"),
    "lab.tif": (saved(Image.new("LAB", (12, 12)), "TIFF"), "no plain conversion"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("pack", ["folder", "zip"])
@pytest.mark.parametrize("size", [None, 12])
def test_bad_files_are_listed_and_good_ones_remain(tmp_path: Path, pack: str, size: int | None) -> None:
    files = GOOD | {name: content for name, (content, _) in BAD.items()}
    source = fill(tmp_path / "x", files) if pack == "folder" else zipped(tmp_path / "x.zip", files)
    data = load(source, size=size)
    assert len(data) == data.report.read == 2
    assert data.labels is None
    assert data.name == "x"
    assert np.array_equal(data.values[0].numpy(), COLOUR.transpose(2, 0, 1))
    reasons = dict(data.report.skipped)
    assert set(reasons) == set(BAD)
    for name, (_, words) in BAD.items():
        assert words in reasons[name], (name, reasons[name])


def one(tmp_path: Path, content: bytes, channels: int | None = None, size: int | None = None) -> Data:
    return load(fill(tmp_path, {"odd": content}), channels=channels, size=size)


def test_sixteen_bit_grey_is_reduced(tmp_path: Path) -> None:
    wide = GREY.astype(np.uint16) * 257
    wide[0, 0] = 200
    data = one(tmp_path, encoded(wide))
    expected = GREY.copy()
    expected[0, 0] = 1
    assert np.array_equal(data.values[0, 0].numpy(), expected)
    assert data.report.converted == (("odd", "16 bits reduced to 8"),)


def test_sixteen_bit_colour_is_reported(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in COLOUR.astype(np.uint16) * 257)
    data = one(tmp_path, png(12, 12, 16, 2, rows))
    assert np.array_equal(data.values[0].numpy(), COLOUR.transpose(2, 0, 1))
    assert data.report.converted == (("odd", "16 bits reduced to 8"),)


def test_cmyk_is_converted(tmp_path: Path) -> None:
    data = one(tmp_path, saved(Image.new("CMYK", (12, 12), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = data.values[0, :, 6, 6].tolist()
    assert red > 240
    assert green < 15
    assert blue < 15
    assert "CMYK converted" in data.report.converted[0][1]


def test_palette_with_transparency_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (12, 12), 0)
    image.putpalette([10, 20, 30, 200, 100, 50] + [0] * 762)
    image.paste(1, (6, 0, 12, 12))
    data = one(tmp_path, saved(image, transparency=0))
    assert data.values[0, :, 0, 0].tolist() == [255, 255, 255]
    assert data.values[0, :, 0, 11].tolist() == [200, 100, 50]
    assert data.report.converted == (("odd", "transparency laid on white"),)


def test_alpha_is_blended_and_opaque_alpha_is_not_reported(tmp_path: Path) -> None:
    half = np.dstack([COLOUR, np.full((12, 12), 51, np.uint8)])
    blended = one(tmp_path / "a", encoded(half)).values[0].numpy()
    exact = (COLOUR * 0.2 + 255 * 0.8).transpose(2, 0, 1)
    assert np.abs(blended - exact).max() <= 1
    opaque = one(tmp_path / "b", encoded(np.dstack([COLOUR, np.full((12, 12), 255, np.uint8)])))
    assert np.array_equal(opaque.values[0].numpy(), COLOUR.transpose(2, 0, 1))
    assert not opaque.report.converted


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_several(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("L", (12, 12), level).convert("RGB") for level in (250, 5, 100)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = one(tmp_path, saved(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert int(data.values.min()) == int(data.values.max()) == 250
    assert data.report.converted == (("odd", "several frames: the first was taken"),)


def test_orientation_tag_is_obeyed_in_every_way(tmp_path: Path) -> None:
    from PIL import ImageOps

    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(COLOUR[:, :7], exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content)))).transpose(2, 0, 1)
        data = one(tmp_path / str(orientation), content)
        assert np.array_equal(data.values[0].numpy(), expected)
        assert len(data.report.converted) == (orientation > 1)


def test_grey_and_colour(tmp_path: Path) -> None:
    both = fill(tmp_path / "both", {"a.png": encoded(GREY), "b.png": encoded(COLOUR)})
    grey = fill(tmp_path / "grey", {"a.png": encoded(GREY), "b.png": encoded(GREY > 127)})
    assert load(both).shape == (3, 12, 12)
    assert load(grey).shape == (1, 12, 12)
    assert load(both, channels=1).shape == (1, 12, 12)
    assert load(grey, channels=3).shape == (3, 12, 12)
    assert np.array_equal(load(both).values[0].numpy(), np.stack([GREY] * 3))
    assert load(grey).values[1].unique().tolist() == [0, 255]


def test_commonest_size_is_kept_and_others_are_listed(tmp_path: Path) -> None:
    files = {f"{i:02}.png": encoded(COLOUR[: 12 - i // 18]) for i in range(20)}
    data = load(fill(tmp_path, files))
    assert len(data) == 18
    assert data.shape == (3, 12, 12)
    assert dict(data.report.skipped).keys() == {"18.png", "19.png"}
    assert "12x12; give a size" in data.report.skipped[0][1]
    assert "2 sizes were found; 18 pictures have the commonest, 12x12, and 2 do not" in data.report.notes[0]
    assert len(load(tmp_path, size=8)) == 20


def test_more_than_a_tenth_is_not_dropped_for_its_size(tmp_path: Path) -> None:
    sizes = [(12, 12)] * 17 + [(11, 12), (12, 7), (2, 2)]
    for i, (height, width) in enumerate(sizes):
        fill(tmp_path, {f"{i:02}.png": encoded(COLOUR[:height, :width])})
    words = (
        "4 sizes were found, and 3 of 20 pictures do not have the commonest, 12x12; resize all with --size 8, by which"
    )
    with pytest.raises(DataError, match=f"{words} 20 of them are used"):
        load(tmp_path)
    # of 20 pictures the third smallest has a shortest side of 11, of which a network halves 8 best
    (tmp_path / "18.png").write_bytes(encoded(COLOUR[:3, :2]))
    for i in range(13):
        (tmp_path / f"{i:02}.png").write_bytes(encoded(np.tile(COLOUR, (9, 9, 1))[:100, :90]))
    with pytest.raises(DataError, match="--size 8, by which 20 of them"):
        load(tmp_path)
    for i in range(13, 18):
        (tmp_path / f"{i:02}.png").write_bytes(encoded(np.tile(COLOUR, (9, 9, 1))[:100, :80]))
    with pytest.raises(DataError, match="--size 64, by which 18 of them are used"):
        load(tmp_path)
    assert len(load(tmp_path, size=64)) == 18


def test_two_equally_common_sizes_give_the_larger(tmp_path: Path) -> None:
    files = {f"{i:02}.png": encoded(COLOUR[: 12 - i % 2]) for i in range(2)}
    with pytest.raises(DataError, match="1 of 2 pictures do not have the commonest, 12x12"):
        load(fill(tmp_path, files))


def test_size_takes_the_centre_square_without_aliasing(tmp_path: Path) -> None:
    wide = np.zeros((32, 96), np.uint8)
    wide[:, 32:64] = 120
    data = one(tmp_path / "a", encoded(wide), size=16)
    assert data.shape == (1, 16, 16)
    assert data.values.unique().tolist() == [120]
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    smooth = one(tmp_path / "b", encoded(stripes), size=16).values[0, 0, :, 2:-2].float()
    assert float((smooth - 127.5).abs().max()) < 10
    with pytest.raises(DataError, match="12x12 is too small to be enlarged to 49x49"):
        one(tmp_path / "c", encoded(GREY), size=49)


def test_classes_are_the_top_subfolders(tmp_path: Path) -> None:
    names = ["dog/1.png", "cat/1.png", "cat/deep/2.png"]
    files = {name: encoded(np.full((12, 12), 10 * i, np.uint8)) for i, name in enumerate(names)}
    data = load(fill(tmp_path / "pets", files))
    assert data.classes == ("cat", "dog")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1]
    assert data.labels.dtype == torch.int64
    assert data.values[:, 0, 0, 0].tolist() == [10, 20, 0]
    wrapped = load(zipped(tmp_path / "pets.zip", {f"pets/{name}": content for name, content in files.items()}))
    assert wrapped.fingerprint == data.fingerprint
    assert wrapped.classes == data.classes
    loose = load(fill(tmp_path / "pets", {"stray.png": encoded(GREY)}))
    assert loose.classes == ("cat", "dog")
    assert loose.report.skipped[0][0] == "stray.png"


def test_pictures_beside_a_small_subfolder_are_unlabelled(tmp_path: Path) -> None:
    data = load(fill(tmp_path, GOOD | {"thumbs/1.png": encoded(COLOUR)}))
    assert len(data) == 3
    assert data.labels is None
    assert "no labels: 2 of 3" in data.report.notes[0]


def test_train_and_test_folders(tmp_path: Path) -> None:
    names = ["train/a/1.png", "train/b/1.png", "test/a/1.png", "other/x.png"]
    fill(tmp_path, {name: encoded(np.full((12, 12), i, np.uint8)) for i, name in enumerate(names)})
    train, test = load(tmp_path), load(tmp_path, split="test")
    assert train.values[:, 0, 0, 0].tolist() == [0, 1]
    assert train.classes == ("a", "b")
    assert test.values[:, 0, 0, 0].tolist() == [2]
    with pytest.raises(DataError, match="no subfolders train and test"):
        load(tmp_path / "train", split="test")


def test_duplicates_are_reported_and_used(tmp_path: Path) -> None:
    data = load(fill(tmp_path, GOOD | {"copy.bmp": encoded(COLOUR, "BMP")}))
    assert len(data) == 3
    assert not data.report.skipped
    assert data.report.notes == ("1 x same pixels as another, both used: good-1.png = copy.bmp",)


def test_limit_is_met_in_spite_of_bad_files(tmp_path: Path) -> None:
    files = {f"{i:02}.png": encoded(np.full((12, 12), i, np.uint8)) for i in range(30)}
    files |= {f"{i:02}.png": encoded(GREY)[:100] for i in range(0, 30, 2)}
    data = load(fill(tmp_path, files), limit=10)
    levels = data.values[:, 0, 0, 0].tolist()
    assert len(levels) == 10
    assert levels == sorted(levels)
    assert all(level % 2 for level in levels)
    assert len(load(tmp_path, limit=99)) == 15
    assert load(tmp_path, limit=10).fingerprint == data.fingerprint


def test_limit_keeps_labels_with_their_pictures(tmp_path: Path) -> None:
    files = {f"{c}/{i}.png": encoded(np.full((12, 12), 10 * c + i, np.uint8)) for c in range(3) for i in range(9)}
    data = load(fill(tmp_path, files), limit=8)
    assert data.labels is not None
    assert torch.equal(data.labels, data.values[:, 0, 0, 0].long() // 10)
    assert len(data.labels.unique()) > 1


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, after: int) -> None:
    """Opening the file `name` raises `error` once it has been opened `after` times."""
    real, opened = Path.open, [0]

    def fake(self: Path, *args: Any, **options: Any) -> IO[Any]:
        if self.name == name:
            opened[0] += 1
            if opened[0] > after:
                raise error
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", fake)


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize(
    ("error", "words"),
    [(FileNotFoundError(), "vanished"), (PermissionError(), "no permission"), (OSError(5, "I/O"), "I/O")],
)
def test_files_that_vanish_or_become_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str, after: int
) -> None:
    fill(tmp_path, GOOD | {"gone.png": encoded(COLOUR)})
    failing(monkeypatch, "gone.png", error, after)
    data = load(tmp_path)
    assert len(data) == 2
    [(name, reason)] = data.report.skipped
    assert name == "gone.png"
    assert words in reason


def test_a_picture_that_changes_between_the_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(
        tmp_path,
        GOOD | {"new.png": encoded(255 - COLOUR[::-1])} | {f"z{i}.png": encoded(COLOUR + i) for i in range(1, 9)},
    )
    real: Callable[..., Any] = read_header
    new = (255 - COLOUR[::-1]).tolist()

    def swap(stream: IO[bytes]) -> Any:
        header = real(stream)
        if header.height == 12 and np.asarray(Image.open(stream)).tolist() == new:
            (tmp_path / "new.png").write_bytes(encoded(COLOUR[:6]))
        return header

    monkeypatch.setattr("softmix.data.picture_folder.read_header", swap)
    data = load(tmp_path)
    assert data.report.skipped == (("new.png", "changed while it was read"),)
    assert len(data) == 10


def test_unusual_entries_of_a_folder(tmp_path: Path) -> None:
    fill(tmp_path, GOOD | {".hidden.png": b"x", "__MACOSX/y.png": b"x"})
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "missing")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    os.truncate(os.open(tmp_path / "sparse.png", os.O_CREAT | os.O_WRONLY), (1 << 28) + 1)
    (tmp_path / "\x1b[31mred\udcff.png").write_bytes(b"")
    data = load(tmp_path)
    assert len(data) == 2
    assert "1 hidden file" in data.report.notes[0]
    reasons = dict(data.report.skipped)
    assert "not a plain file" in reasons["pipe.png"]
    assert "leads nowhere" in reasons["nowhere.png"]
    assert "larger than" in reasons["sparse.png"]
    assert "empty" in reasons["\\x1b[31mred\\udcff.png"]
    "\n".join(data.report.lines()).encode()


def test_a_folder_without_usable_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file in it; name a folder"):
        load(tmp_path)
    fill(tmp_path, {"a.png": b"", "b.png": b"", "c.txt": b"hello"})
    with pytest.raises(
        DataError, match=r"none of 3 files can be used \(2 x empty file .*: a.png, b.png; 1 x not an image"
    ):
        load(tmp_path)
