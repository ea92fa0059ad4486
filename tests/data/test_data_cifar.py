"""CIFAR's files as written by Python 2 and Python 3, and attacks by pickles."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_helpers import fill

from softmix.data import DataError, NoSplitError, load
from softmix.data.cifar import read

PIXELS = np.random.RandomState(0).randint(0, 256, (12, 3072)).astype(np.uint8)
NAMES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def old(value: Any) -> bytes:
    """A pickle of Python 2 with its numpy: byte strings, and the array as a call with a state."""
    if isinstance(value, dict):
        body = b"".join(old(key) + old(each) for key, each in value.items())
        return b"}q\x01(" + body + b"u"
    if isinstance(value, list):
        return b"]q\x02(" + b"".join(map(old, value)) + b"e"
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()
    if isinstance(value, int):
        return b"K" + bytes([value])
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    shape = b"M" + len(value).to_bytes(2, "little") + b"M\x00\x0c\x86"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    body = b"T" + value.nbytes.to_bytes(4, "little") + value.tobytes()
    return start + b"(K\x01" + shape + dtype + b"\x89" + body + b"tb"


def written(value: Any, how: str) -> bytes:
    return b"\x80\x02" + old(value) + b"." if how == "python 2" else pickle.dumps(value, protocol=int(how))


HOW = ["python 2", "0", "1", "2", "3", "4"]


def ten(root: Path, how: str = "2") -> Path:
    files = {}
    for k in range(1, 6):
        part = {"batch_label": "b", "labels": [k, 9], "data": PIXELS[2 * k : 2 * k + 2], "filenames": ["a", "b"]}
        files[f"data_batch_{k}"] = written(part, how)
    files["test_batch"] = written({"labels": [0, 1], "data": PIXELS[:2]}, how)
    files["batches.meta"] = written({"label_names": NAMES, "num_vis": 200}, how)
    return fill(root, files)


@pytest.mark.parametrize("how", HOW)
def test_ten_classes(tmp_path: Path, how: str) -> None:
    root = ten(tmp_path / "cifar-10-batches-py", how)
    train, test = load(root), load(root, split="test")
    assert train.name == "cifar-10"
    assert train.classes == tuple(NAMES)
    assert train.shape == (3, 32, 32)
    assert np.array_equal(train.values.numpy(), PIXELS[2:].reshape(-1, 3, 32, 32))
    assert train.labels is not None
    assert train.labels.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert np.array_equal(test.values.numpy(), PIXELS[:2].reshape(-1, 3, 32, 32))
    assert test.labels is not None
    assert test.labels.tolist() == [0, 1]
    assert load(root, limit=3, size=16).shape == (3, 16, 16)


@pytest.mark.parametrize("how", HOW)
def test_a_hundred_classes(tmp_path: Path, how: str) -> None:
    names = [f"kind {k}" for k in range(100)]
    part = {"data": PIXELS, "fine_labels": list(range(12)), "coarse_labels": [0] * 12}
    files = {"train": written(part, how), "test": written(part | {"data": PIXELS[::-1].copy()}, how)}
    root = fill(tmp_path, files | {"meta": written({"coarse_label_names": ["x"], "fine_label_names": names}, how)})
    data = load(root)
    assert data.name == "cifar-100"
    assert data.classes == tuple(names)
    assert data.labels is not None
    assert data.labels.tolist() == list(range(12))
    assert np.array_equal(load(root, split="test").values.numpy(), PIXELS[::-1].reshape(-1, 3, 32, 32))


def test_missing_files(tmp_path: Path) -> None:
    root = ten(tmp_path)
    (root / "data_batch_4").unlink()
    data = load(root)
    assert len(data) == 8
    assert "data_batch_4 is not there" in data.report.notes
    with pytest.raises(DataError, match="a test split of its own"):
        load(root, hold_out=0.5)
    (root / "test_batch").unlink()
    with pytest.raises(NoSplitError, match="fetch the missing file"):
        load(root, split="test")
    assert len(load(root, split="test", hold_out=0.25)) == 2


def test_nothing_in_the_file_is_run_or_imported(tmp_path: Path) -> None:
    witness = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (witness,)

    for how in HOW[1:]:
        ten(tmp_path)
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": Evil(), "labels": [0]}, protocol=int(how)))
        with pytest.raises(DataError, match="data_batch_1"):
            load(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(b"cno.such.module\nname\n(S'x'\ntR.")
    with pytest.raises(DataError, match="not CIFAR's dictionary"):
        load(tmp_path)
    assert not witness.exists()
    pickle.loads(pickle.dumps(Evil()))
    assert witness.exists()


FORGED = {
    "empty": b"",
    "ends early": b"\x80\x02}",
    "unknown operation": b"\x80\x02}\x94Q.",
    "endless text": b"\x80\x02T\xff\xff\xff\x7f",
    "nothing to take": b"\x80\x02R.",
    "no mark": b"\x80\x02]e.",
    "never memoised": b"\x80\x02h\x07.",
    "an odd pair": b"\x80\x02}(K\x01u.",
    "a number": b"\x80\x02K\x01.",
    "no array": written({"data": 3, "labels": [1]}, "2"),
    "no data": written({"labels": [1]}, "2"),
    "no labels": written({"data": PIXELS[:1]}, "2"),
    "other numbers": written({"data": PIXELS[:1].astype(np.int16), "labels": [1]}, "2"),
    "other shape": written({"data": PIXELS[:1, :3000], "labels": [1]}, "2"),
    "more labels": written({"data": PIXELS[:1], "labels": [1, 2]}, "2"),
    "a class too many": written({"data": PIXELS[:1], "labels": [10]}, "2"),
    "labels of text": written({"data": PIXELS[:1], "labels": ["x"]}, "2"),
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_and_damaged_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    ten(tmp_path)
    for k in range(1, 6):
        (tmp_path / f"data_batch_{k}").write_bytes(FORGED[case])
    with pytest.raises(DataError, match=r"data_batch_1|cifar-10"):
        load(tmp_path)


def test_arrays_in_fortran_order(tmp_path: Path) -> None:
    part = {"data": np.asfortranarray(PIXELS[:2]), "labels": [1, 2]}
    ten(tmp_path)
    for k in range(1, 6):
        (tmp_path / f"data_batch_{k}").write_bytes(pickle.dumps(part, protocol=2))
    assert np.array_equal(load(tmp_path).values[:2].numpy(), PIXELS[:2].reshape(-1, 3, 32, 32))


def test_reading_random_bytes_ends(tmp_path: Path) -> None:
    whole, noise = (
        bytearray(written({"labels": [1, 2], "data": PIXELS[:1]}, "python 2")[:300]),
        np.random.RandomState(0),
    )
    for _ in range(300):
        blob = bytearray(whole)
        for _ in range(3):
            blob[noise.randint(len(blob))] = noise.randint(256)
        (tmp_path / "x").write_bytes(blob)
        try:
            read(tmp_path / "x")
        except DataError as error:
            assert "x" in str(error)
