"""The IDX format, whole and damaged."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from softmix.data import DataError, idx, load

TYPES = [np.uint8, np.int8, np.int16, np.int32, np.float32, np.float64]


@pytest.mark.parametrize("name", ["a.idx", "a.idx.gz"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(7,), (2, 3), (3, 4, 5), (2, 3, 4, 5)])
def test_a_written_file_is_read_again(tmp_path: Path, name: str, dtype: type, shape: tuple[int, ...]) -> None:
    low, high = (0, 255) if dtype is np.uint8 else (-100, 100)
    array: np.ndarray = np.random.RandomState(0).randint(low, high, shape).astype(dtype)
    idx.write(tmp_path / name, array)
    back = idx.read(tmp_path / name)
    assert back.dtype == dtype
    assert back.dtype.isnative
    assert np.array_equal(back, array)


def test_the_bytes_follow_the_format(tmp_path: Path) -> None:
    path = tmp_path / "a.idx"
    path.write_bytes(b"\0\0\x0b\x02" + struct.pack(">II", 2, 1) + struct.pack(">hh", 258, -1))
    assert idx.read(path).tolist() == [[258], [-1]]
    idx.write(tmp_path / "b.idx", np.array([[258], [-1]], np.int16))
    assert (tmp_path / "b.idx").read_bytes() == path.read_bytes()


GOOD = b"\0\0\x08\x01\0\0\0\x03abc"
BAD = {
    "empty": (b"", "not an IDX file"),
    "other magic": (b"\x01\0\x08\x01\0\0\0\x03abc", "not an IDX file"),
    "unknown type": (b"\0\0\x0a\x01\0\0\0\x03abc", "not an IDX file"),
    "no axes": (b"\0\0\x08\0", "not an IDX file"),
    "cut header": (b"\0\0\x08\x02\0\0\0\x03", "within its IDX header"),
    "cut body": (GOOD[:-1], "only 2"),
    "too long": (GOOD + b"d", "holds more"),
    "no items": (b"\0\0\x08\x01\0\0\0\0", "no values"),
    "forged size": (b"\0\0\x08\x01\xff\xff\xff\xffabc", "only 3"),
    "enormous": (b"\0\0\x08\x03" + b"\xff" * 12, "above the limit"),
    "cut gzip": (gzip.compress(GOOD)[:-4], "cannot be read"),
    "damaged gzip": (gzip.compress(GOOD)[:-8] + b"\0" * 8, "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named(tmp_path: Path, case: str) -> None:
    content, reason = BAD[case]
    path = tmp_path / "bad.idx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        idx.read(path)
    assert "bad.idx" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.idx"):
        idx.read(tmp_path / "gone.idx")


def test_writer_refuses_other_types(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int64"):
        idx.write(tmp_path / "a.idx", np.zeros(3, np.int64))


@pytest.mark.parametrize("end", ["", ".gz"])
def test_folder_of_idx_files(tmp_path: Path, end: str) -> None:
    images = np.arange(5 * 6 * 4, dtype=np.uint8).reshape(5, 6, 4)
    idx.write(tmp_path / f"train-images-idx3-ubyte{end}", images)
    idx.write(tmp_path / f"train-labels-idx1-ubyte{end}", np.array([0, 2, 1, 0, 2], np.uint8))
    data = load(tmp_path)
    assert np.array_equal(data.values[:, 0].numpy(), images)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 2, 1, 0, 2]
    assert data.classes == ("0", "1", "2")
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte"):
        load(tmp_path, split="test")
    single = load(tmp_path / f"train-images-idx3-ubyte{end}")
    assert single.fingerprint == data.fingerprint


def test_labels_that_do_not_match(tmp_path: Path) -> None:
    idx.write(tmp_path / "train-images-idx3-ubyte", np.zeros((5, 6, 4), np.uint8))
    idx.write(tmp_path / "train-labels-idx1-ubyte", np.zeros(4, np.uint8))
    with pytest.raises(DataError, match="5 items but 4 labels"):
        load(tmp_path)
