"""Named data sets, arrays, splits, units, and the message of every refusal."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from softmix.data import Data, DataError, Report, idx, load, to_uint8
from softmix.data.builtin import fashion_places
from softmix.data.store import make


def rows(data: Data) -> set[bytes]:
    return {value.numpy().tobytes() for value in data.values}


def test_digits_are_complete_and_deterministic() -> None:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    train, test = load("digits"), load("digits", split="test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.shape == (1, 8, 8)
    assert train.values.dtype == torch.uint8
    assert int(train.values.max()) == 255
    raw = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    both = torch.cat([train.values, test.values])[:, 0].numpy()
    assert sorted(image.tobytes() for image in both) == sorted(image.tobytes() for image in raw)
    assert load("digits").fingerprint == train.fingerprint != test.fingerprint


def test_digits_are_stratified_and_keep_their_labels() -> None:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    raw = load_digits()
    truth: dict[bytes, int] = {}
    for image, target in zip(np.rint(raw.images * (255 / 16)).astype(np.uint8), raw.target, strict=True):
        truth[image.tobytes()] = int(target)
    test = load("digits", split="test")
    assert test.labels is not None
    assert [truth[image.numpy().tobytes()] for image in test.values] == test.labels.tolist()
    exact = torch.bincount(torch.from_numpy(raw.target)) * (360 / 1797)
    assert bool(((torch.bincount(test.labels) - exact).abs() < 1).all())


def test_digits_take_size_channels_and_limit() -> None:
    data = load("digits", size=16, channels=3, limit=50)
    assert data.values.shape == (50, 3, 16, 16)
    assert data.report.read == 50
    assert torch.equal(data.values[:, 0], data.values[:, 2])
    assert len(set(load("digits", limit=50).labels.tolist())) > 5  # type: ignore[union-attr]
    with pytest.raises(DataError, match="8x8 is too small to be enlarged to 64x64"):
        load("digits", size=64)


def test_units() -> None:
    data = make("all bytes", torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16), None, (), Report(1))
    x = data.x0()
    assert x.dtype == torch.float32
    assert float(x.min()) == -1
    assert float(x.max()) == 1
    assert float(x[0, 0, 1, 0]) == pytest.approx(16 / 127.5 - 1)
    assert torch.equal(to_uint8(x), data.values)
    assert to_uint8(torch.tensor([-3.0, 3.0, 0.001])).tolist() == [0, 255, 128]
    with pytest.raises(ValueError, match="1 of 2 values"):
        to_uint8(torch.tensor([0.0, float("nan")]))


def test_x0_takes_an_index() -> None:
    data = load("digits", limit=20)
    assert torch.equal(data.x0(torch.tensor([3, 1])), data.x0()[[3, 1]])
    assert torch.equal(data.x0(slice(2, 5)), data.x0()[2:5])


def test_fingerprint_sees_values_labels_and_shape() -> None:
    values, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    report, changed = Report(4), values.clone()
    changed[3, 0, 1, 1] = 1
    prints = {
        make("a", values, labels, ("x", "y"), report).fingerprint,
        make("a", values, None, (), report).fingerprint,
        make("a", values, labels.flip(0), ("x", "y"), report).fingerprint,
        make("a", values.reshape(4, 1, 1, 4), labels, ("x", "y"), report).fingerprint,
        make("a", changed, labels, ("x", "y"), report).fingerprint,
    }
    assert len(prints) == 5
    assert all(len(text) == 16 for text in prints)
    assert make("b", values.clone(), labels.clone(), ("x", "y"), report).fingerprint in prints


@pytest.mark.parametrize("held_out", [0.1, 1 / 3, 0.5, 0.9])
def test_split_is_a_stratified_partition(held_out: float) -> None:
    values = torch.arange(101.0)[:, None]
    labels = torch.tensor([0] * 70 + [2] * 30 + [5])
    data = make("points", values, labels, tuple("abcdef"), Report(101))
    kept, out = data.split(held_out, seed=3)
    assert len(out) == round(held_out * 101)
    assert out.report.read == len(out)
    assert rows(kept) | rows(out) == rows(data)
    assert not rows(kept) & rows(out)
    for part in (kept, out):
        assert part.labels is not None
        assert torch.equal(part.labels, labels[part.values[:, 0].long()])
    counts = torch.bincount(out.labels, minlength=6) if out.labels is not None else torch.zeros(6)
    assert bool(((counts - torch.bincount(labels, minlength=6) * held_out).abs() <= 1).all())
    again, other = data.split(held_out, seed=3)[1], data.split(held_out, seed=4)[1]
    assert again.fingerprint == out.fingerprint != other.fingerprint


def test_split_refuses_an_empty_part() -> None:
    data = make("points", torch.zeros(3, 2), None, (), Report(3))
    assert [len(part) for part in data.split(0.34, 0)] == [2, 1]
    for share in (0.0, 0.1, 1.0, -1.0):
        with pytest.raises(DataError, match="at least one item"):
            data.split(share, 0)


def test_fashion_mnist_is_found_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTMIX_DATA", str(tmp_path))
    assert fashion_places()[0] == tmp_path / "fashion-mnist"
    (tmp_path / "fashion-mnist").mkdir()
    images = np.arange(3 * 28 * 28, dtype=np.int64).reshape(3, 28, 28).astype(np.uint8)
    idx.write(tmp_path / "fashion-mnist/t10k-images-idx3-ubyte.gz", images)
    idx.write(tmp_path / "fashion-mnist/t10k-labels-idx1-ubyte.gz", np.array([9, 0, 3], np.uint8))
    data = load("fashion-mnist", split="test")
    assert np.array_equal(data.values[:, 0].numpy(), images)
    assert [data.classes[i] for i in data.labels.tolist()] == ["Ankle boot", "T-shirt/top", "Dress"]  # type: ignore[union-attr]


def test_fashion_mnist_missing_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softmix.data.builtin.fashion_places", lambda: [tmp_path])
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        load("fashion-mnist")


def save(tmp_path: Path, array: np.ndarray) -> Path:
    np.save(tmp_path / "a.npy", array)
    return tmp_path / "a.npy"


def test_npy_images_in_every_layout(tmp_path: Path) -> None:
    colour = np.random.RandomState(0).randint(0, 256, (5, 3, 8, 6)).astype(np.uint8)
    first = load(save(tmp_path, colour))
    last = load(save(tmp_path, colour.transpose(0, 2, 3, 1)))
    assert np.array_equal(first.values.numpy(), colour)
    assert first.fingerprint == last.fingerprint
    grey = load(save(tmp_path, colour[:, 0]))
    assert np.array_equal(grey.values[:, 0].numpy(), colour[:, 0])
    assert load(save(tmp_path, colour[:, 0, :, :, None])).fingerprint == grey.fingerprint
    assert load(save(tmp_path, np.zeros((2, 3, 64, 3), np.uint8))).shape == (3, 3, 64)


def test_npy_points_and_sequences(tmp_path: Path) -> None:
    points = np.random.RandomState(0).randn(6, 4, 2)
    points[2, 0, 0], points[4, 1, 1] = np.nan, 1e300
    data = load(save(tmp_path, points.astype(">f8")))
    assert data.shape == (4, 2)
    assert data.values.dtype == torch.float32
    assert len(data) == 4
    assert [name for name, _ in data.report.skipped] == ["item 2", "item 4"]
    assert np.array_equal(data.x0().numpy(), points[[0, 1, 3, 5]].astype(np.float32))
    assert load(save(tmp_path, np.zeros(5, np.float16))).shape == (1,)
    assert "rescale" in load(save(tmp_path, np.full((5, 2), 99.0))).report.notes[0]


def test_npy_limit_is_a_fixed_choice(tmp_path: Path) -> None:
    path = save(tmp_path, np.arange(1000.0)[:, None] / 1000)
    some = load(path, limit=100).values[:, 0]
    assert torch.equal(some, load(path, limit=100).values[:, 0])
    assert torch.equal(some, some.sort().values)
    assert len(some.unique()) == 100
    assert float(some.max()) > 0.8


BAD_ARRAYS: dict[str, tuple[np.ndarray, str]] = {
    "whole numbers": (np.zeros((4, 8, 8), np.int64), "int64"),
    "five channels": (np.zeros((4, 8, 8, 5), np.uint8), "with C = 1 or 3"),
    "one axis": (np.zeros(4, np.uint8), "with C = 1 or 3"),
    "no items": (np.zeros((0, 8, 8), np.uint8), "no items"),
    "one number": (np.array(1.0), "no items"),
    "nothing finite": (np.full((3, 2), np.inf), "none of 3 items is finite"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_npy_refused(tmp_path: Path, case: str) -> None:
    array, reason = BAD_ARRAYS[case]
    with pytest.raises(DataError, match=reason):
        load(save(tmp_path, array))


def test_pickles_are_never_run(tmp_path: Path) -> None:
    witness = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (witness,)

    np.save(tmp_path / "evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.npy", "bare.npy"):
        with pytest.raises(DataError, match="without pickle"):
            load(tmp_path / name)
    assert not witness.exists()
    np.load(tmp_path / "evil.npy", allow_pickle=True)
    assert witness.exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"hello", b"\x93NUMPY\x01\x00\x04\x00{'a("])
def test_damaged_npy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npy"):
        load(tmp_path / "a.npy")


def test_an_archive_of_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(DataError, match="archive of arrays"):
        load(tmp_path / "a.npy")


@pytest.mark.parametrize("source", ["no-such-thing", "", "a\0b", "~nobody-of-that-name/x", "x" * 5000, Path("digits")])
def test_unknown_sources_name_what_exists(source: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="digits, fashion-mnist, photographs, toy:grid"):
        load(source)


WRONG = {
    "toy": (("toy:spiral", {}), "there are toy:grid"),
    "split": (("digits", {"split": "dev"}), "there are 'train'"),
    "size": (("digits", {"size": 1}), "2 to 8192"),
    "channels": (("digits", {"channels": 2}), r"1 \(grey\), 3 \(colour\) or 4"),
    "limit": (("digits", {"limit": 0}), "1 or more"),
    "size of points": (("toy:grid", {"size": 8}), "points, not images"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests(case: str) -> None:
    (source, options), words = WRONG[case]
    with pytest.raises(DataError, match=words):
        load(source, **options)  # type: ignore[arg-type]


def test_files_of_no_known_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(DataError, match="no kind"):
        load(tmp_path / "a.txt")
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    with pytest.raises(DataError, match=r"call \.split"):
        load(tmp_path / "a.npy", split="test")


def test_a_report_groups_by_reason_and_drops_nothing() -> None:
    report = Report(3, tuple((f"{i}.png", "empty file") for i in range(9)), (("x.gif", "first frame"),), ("a note",))
    text = "\n".join(report.lines())
    assert "read 3, skipped 9, converted 1" in text
    assert "9 x empty file: 0.png, 1.png, 2.png and 6 more" in text
    assert "first frame: x.gif" in text
    assert "a note" in text
    whole = json.loads(json.dumps(report.to_json()))
    assert whole["read"] == 3
    assert len(whole["skipped"]) == 9
    assert whole["skipped"][8]["name"] == "8.png"


def test_a_share_is_held_out_and_the_origin_reads_the_same_again(tmp_path: Path) -> None:
    path = save(tmp_path, np.arange(100.0)[:, None])
    train, test = load(path, hold_out=0.2), load(path, split="test", hold_out=0.2)
    assert (len(train), len(test)) == (80, 20)
    assert rows(train) | rows(test) == rows(load(path))
    assert [part.fingerprint for part in load(path).split(0.2, 0)] == [train.fingerprint, test.fingerprint]
    for part in (train, test):
        assert part.origin is not None
        assert part.origin.hold_out == 0.2
        assert load(part.origin.source, **part.origin.options()).fingerprint == part.fingerprint  # type: ignore[arg-type]
    with pytest.raises(DataError, match="a test split of its own"):
        load("digits", hold_out=0.2)


def test_a_data_set_is_shown_in_a_line(tmp_path: Path) -> None:
    digits = load("digits")
    shown = f"Data('digits': 1437 images of shape (1, 8, 8), 10 classes, fingerprint {digits.fingerprint})"
    assert repr(digits) == shown
    points = load(save(tmp_path, np.zeros((3, 2))))
    assert repr(points) == f"Data({points.name!r}: 3 points of shape (2,), fingerprint {points.fingerprint})"
