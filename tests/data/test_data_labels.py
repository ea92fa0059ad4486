"""Labels from every kind of file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from file_helpers import encoded, fill, flat, saved, zipped

from softmix.data import Data, DataError, NoSplitError, idx, load

IMAGES = np.arange(6, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2) * 20 + 140


def named(data: Data) -> list[str]:
    assert data.labels is not None
    return [data.classes[i] for i in data.labels.tolist()]


LABELS: dict[str, tuple[np.ndarray, list[str]]] = {
    "numbers": (np.array([0, 2, 1, 2, 0, 0]), ["0", "2", "1", "2", "0", "0"]),
    "bytes": (np.array([0, 2, 1, 2, 0, 0], np.uint8), ["0", "2", "1", "2", "0", "0"]),
    "a column": (np.array([[0], [2], [1], [2], [0], [0]]), ["0", "2", "1", "2", "0", "0"]),
    "whole floats": (np.array([0.0, 2, 1, 2, 0, 0]), ["0", "2", "1", "2", "0", "0"]),
    "names": (np.array(["dog", "cat", "dog", "cat", "cow", "cow"]), ["dog", "cat", "dog", "cat", "cow", "cow"]),
    "names in bytes": (np.array([b"dog", b"cat"] * 3), ["dog", "cat"] * 3),
    "digits": (np.array(["0", "10", "2", "2", "2", "2"]), ["0", "10", "2", "2", "2", "2"]),
}


@pytest.mark.parametrize("case", LABELS)
@pytest.mark.parametrize("name", ["labels.npy", "a_labels.npy", "a-labels.npy"])
def test_labels_beside_a_npy(tmp_path: Path, case: str, name: str) -> None:
    array, truth = LABELS[case]
    saved(tmp_path / name, array)
    data = load(saved(tmp_path / "a.npy", IMAGES))
    assert named(data) == truth
    assert data.classes == (tuple(map(str, range(11))) if case == "digits" else tuple(sorted(set(truth))))
    some = load(tmp_path / "a.npy", limit=3)
    assert named(some) == [truth[(level - 140) // 20] for level in some.values[:, 0, 0, 0].tolist()]


def test_the_nearest_name_of_labels_counts(tmp_path: Path) -> None:
    saved(tmp_path / "a.npy", IMAGES)
    saved(tmp_path / "labels.npy", np.zeros(5, int))
    with pytest.raises(DataError, match="there are 6 items but 5 labels"):
        load(tmp_path / "a.npy")
    saved(tmp_path / "a-labels.npy", np.ones(6, int))
    assert named(load(tmp_path / "a.npy")) == ["1"] * 6
    saved(tmp_path / "a_labels.npy", np.full(6, 2))
    assert named(load(tmp_path / "a.npy")) == ["2"] * 6
    assert load(saved(tmp_path / "labels.npy", np.zeros((5, 2)))).labels is None


BAD_LABELS: dict[str, tuple[np.ndarray, str]] = {
    "negative": (np.array([0, 1, 2, 3, 4, -1]), "they run from -1 to 4"),
    "too many classes": (np.array([0, 1, 2, 3, 4, 1 << 16]), "from 0 to 65535, but they run from 0 to 65536"),
    "huge": (np.array([0, 1, 2, 3, 4, 2**31 - 1], np.int32), "but they run from 0 to 2147483647"),
    "wrapped round": (np.array([0, 1, 2, 3, 4, 2**64 - 1], np.uint64), "they run from -1"),
    "fractions": (np.array([0, 1, 2, 3, 4, 0.5]), "labels must be whole numbers from 0 or names"),
    "not finite": (np.array([0, 1, 2, 3, 4, np.inf]), "labels must be whole numbers from 0 or names"),
    "pairs": (np.zeros((6, 2), int), "one number or name per item"),
    "one": (np.array(3), "one number or name per item"),
    "times": (np.zeros(6, "datetime64[s]"), "labels must be whole numbers from 0 or names"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_invalid_labels_are_refused(tmp_path: Path, case: str, kind: str) -> None:
    array, words = BAD_LABELS[case]
    if kind == "npy":
        saved(tmp_path / "labels.npy", array)
        saved(tmp_path / "a.npy", IMAGES)
    else:
        np.savez(tmp_path / "a.npz", images=IMAGES, labels=array)
    with pytest.raises(DataError, match=words):
        load(tmp_path / f"a.{kind}")


def test_the_largest_number_of_classes(tmp_path: Path) -> None:
    saved(tmp_path / "labels.npy", np.array([0, 1, 2, 3, 4, (1 << 16) - 1]))
    assert len(load(saved(tmp_path / "a.npy", IMAGES)).classes) == 1 << 16


NPZ: dict[str, tuple[dict[str, np.ndarray], list[str] | None]] = {
    "guided diffusion's": ({"arr_0": IMAGES, "arr_1": np.arange(6)}, list("012345")),
    "two arrays": ({"arr_0": IMAGES, "arr_1": np.zeros((6, 2))}, None),
    "two arrays of other lengths": ({"arr_0": IMAGES, "arr_1": np.arange(5)}, None),
    "one array": ({"anything": IMAGES}, None),
    "names": ({"images": IMAGES, "labels": np.array(list("abcabc")), "more": np.zeros(2)}, list("abcabc")),
    "x and y": ({"X": IMAGES, "y": np.arange(6)}, list("012345")),
    "data and targets": ({"data": IMAGES, "targets": np.arange(6)[:, None]}, list("012345")),
    "fortran": ({"images": np.asfortranarray(IMAGES)}, None),
}


@pytest.mark.parametrize("case", NPZ)
@pytest.mark.parametrize("packed", [False, True])
def test_npz(tmp_path: Path, case: str, packed: bool) -> None:
    arrays, truth = NPZ[case]
    (np.savez_compressed if packed else np.savez)(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    data = load(tmp_path / "a.npz")
    assert data.name == "a"
    assert np.array_equal(data.values[:, 0].numpy(), IMAGES)
    assert (data.labels is None) if truth is None else named(data) == truth
    not_used = any("arr_1 was not used as labels" in note for note in data.report.notes)
    assert not_used == case.startswith("two arrays")


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("images_training", "labels_training", "images_val", "labels_val"),
    ],
)
def test_npz_with_splits(tmp_path: Path, keys: tuple[str, ...]) -> None:
    arrays = [IMAGES[:4], np.array([0, 1, 2, 0]), IMAGES[4:], np.array([2, 1])]
    np.savez(tmp_path / "a.npz", **dict(zip(keys, arrays, strict=True)))  # type: ignore[arg-type]
    train, test = load(tmp_path / "a.npz"), load(tmp_path / "a.npz", split="test")
    assert (len(train), named(train)) == (4, list("0120"))
    assert (len(test), named(test)) == (2, list("21"))
    assert np.array_equal(test.values[:, 0].numpy(), IMAGES[4:])
    with pytest.raises(DataError, match="split of its own"):
        load(tmp_path / "a.npz", hold_out=0.5)


def test_npz_without_splits(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES)
    with pytest.raises(NoSplitError, match="give a share to hold out"):
        load(tmp_path / "a.npz", split="test")
    assert len(load(tmp_path / "a.npz", split="test", hold_out=0.5)) == 3
    np.savez(tmp_path / "b.npz", this=IMAGES, that=IMAGES)
    with pytest.raises(DataError, match="b holds this, that; call the array that is meant images"):
        load(tmp_path / "b.npz")


# What of the folders 00000 and 00001 of EDM is a class? None: they are no more than the first digits of a number.
EDM = {f"0000{i // 3}/img{i}.png": flat(10 * i) for i in range(6)}
EDM_LABELS = [[name, number] for name, number in zip(EDM, (6, 0, 6, 1, 1, 0), strict=True)]


@pytest.mark.parametrize("pack", ["folder", "zip", "wrapped"])
def test_dataset_json(tmp_path: Path, pack: str) -> None:
    files = EDM | {"dataset.json": json.dumps({"labels": EDM_LABELS}).encode()}
    if pack == "wrapped":
        files = {f"top/{name}": content for name, content in files.items()}
    source = zipped(tmp_path / "x.zip", files) if pack == "zip" else fill(tmp_path / "x", files)
    data = load(source)
    assert data.labels is not None
    assert data.labels.tolist() == [6, 0, 6, 1, 1, 0]
    assert data.classes == tuple("0123456")
    assert not data.report.skipped
    assert data.values[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]


def test_dataset_json_without_labels(tmp_path: Path) -> None:
    data = load(fill(tmp_path, EDM | {"dataset.json": b'{"labels": null}'}))
    assert data.labels is None
    assert data.classes == ()
    assert "dataset.json gives no labels, and subfolders are no classes" in data.report.notes
    # another file of that name says nothing
    other = load(fill(tmp_path, {"dataset.json": b'{"name": "mine"}'}))
    assert other.classes == ("00000", "00001")
    assert dict(other.report.skipped).keys() == {"dataset.json"}


def test_pictures_missing_in_the_list_are_skipped(tmp_path: Path) -> None:
    fill(tmp_path, EDM | {"dataset.json": json.dumps({"labels": EDM_LABELS[:4]}).encode()})
    data = load(tmp_path)
    assert data.labels is not None
    assert data.labels.tolist() == [6, 0, 6, 1]
    assert dict(data.report.skipped) == dict.fromkeys(list(EDM)[4:], "no class: the list gives it no label")
    fill(tmp_path, {"dataset.json": json.dumps({"labels": EDM_LABELS[:3]}).encode()})
    assert load(tmp_path).labels is None
    assert len(load(tmp_path)) == 6
    assert "no labels: 3 of 6 pictures have none in the list" in load(tmp_path).report.notes


@pytest.mark.parametrize(
    "text", ["{", '{"labels": 3}', '{"labels": [["a"]]}', '{"labels": [["a", 0.5]]}', "[" * 100_000]
)
def test_damaged_dataset_json(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"dataset\.json"):
        load(fill(tmp_path, EDM | {"dataset.json": text.encode()}))


LISTED = {f"{name}.png": flat(level) for name, level in (("a", 10), ("b b", 20), ("deep/c,1", 30))}
LISTS = {
    "bare.csv": ('a.png,cat\nb b.png,dog\n"deep/c,1.png",cat\n', ["cat", "dog", "cat"]),
    "named.csv": ('label,file_name,size\ncat,a.png,1\ndog,b b.png,2\ncat,"deep/c,1.png",3\n', ["cat", "dog", "cat"]),
    "bom.csv": ("\ufeffpath,class\r\na.png,1\r\n\r\nb b.png,0\r\n", ["1", "0"]),
    "paths.csv": ("a.png\nb b.png\n", None),
    "tabs.tsv": ("a.png\tcat\nb b.png\tdog\ndeep/c,1.png\tcat\n", ["cat", "dog", "cat"]),
    "spaces.txt": ("a.png cat\n\nb b.png dog\n", ["cat", "dog"]),
    "commas.txt": ("a.png,cat\ndeep/c,1.png,the dog\n", ["cat", "the dog"]),
    "tabs.txt": ("a.png\tthe cat, grey\nb b.png\tdog\n", ["the cat, grey", "dog"]),
    "paths.txt": ("a.png\nb b.png\ndeep/c,1.png\n", None),
    "a.jsonl": ('{"path": "a.png", "label": 7}\n\n{"path": "b b.png", "label": 2}\n', ["7", "2"]),
    "hf.jsonl": ('{"file_name": "a.png", "Class": "x", "text": 1}\n{"file_name": "b b.png", "class": "y"}', ["x", "y"]),
    "bare.jsonl": ('{"image": "a.png"}\n{"image": "b b.png", "label": null}\n', None),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_pictures(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, truth = LISTS[name]
    fill(tmp_path, LISTED | {name: text.encode()})
    monkeypatch.chdir("/")
    data = load(tmp_path / name)
    assert not data.report.skipped
    assert data.name == name.partition(".")[0]
    assert (data.labels is None) if truth is None else named(data) == truth
    order = {"commas.txt": [10, 30], "bom.csv": [10, 20]}.get(name, [10, 20, 30][: len(data)])
    assert data.values[:, 0, 0, 0].tolist() == order
    unused = [note for note in data.report.notes if "not used" in note]
    assert unused == {
        "named.csv": ["columns of named.csv that were not used: size"],
        "hf.jsonl": ["columns of hf.jsonl that were not used: text"],
    }.get(name, [])


def test_lists_keep_their_order_and_take_options(tmp_path: Path) -> None:
    fill(tmp_path, LISTED | {"l.csv": f"b b.png,x\n{tmp_path}/a.png,y\nb b.png,y\n".encode()})
    data = load(tmp_path / "l.csv", size=6, channels=3)
    assert data.shape == (3, 6, 6)
    assert data.values[:, 0, 0, 0].tolist() == [20, 10, 20]
    assert named(data) == list("xyy")


def test_a_column_of_splits(tmp_path: Path) -> None:
    rows = 'path,label,split\na.png,x,train\nb b.png,x,Valid\n"deep/c,1.png",y,train\n'
    fill(tmp_path, LISTED | {"l.csv": rows.encode()})
    train, val = load(tmp_path / "l.csv"), load(tmp_path / "l.csv", split="test")
    assert train.values[:, 0, 0, 0].tolist() == [10, 30]
    assert val.values[:, 0, 0, 0].tolist() == [20]
    assert "2 of 3 lines are in the split train" in train.report.notes
    with pytest.raises(DataError, match="a val split of its own"):
        load(tmp_path / "l.csv", hold_out=0.5)
    fill(tmp_path, {"l.csv": b"a.png,x\nb b.png,y\n"})
    with pytest.raises(NoSplitError):
        load(tmp_path / "l.csv", split="test")
    assert len(load(tmp_path / "l.csv", split="test", hold_out=0.5)) == 1


def test_lines_with_missing_files_are_reported(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    fill(tmp_path, LISTED | {"l.txt": b"a.png x\ngone.png x\nsub y\nbad\0.png y\nl.txt y\n"})
    data = load(tmp_path / "l.txt")
    reasons = dict(data.report.skipped)
    assert len(data) == 1
    assert set(reasons) == {"gone.png", "sub", "bad\\x00.png", "l.txt"}
    assert "leads nowhere" in reasons["gone.png"]
    assert reasons["sub"] == "not a plain file"
    assert "null" in reasons["bad\\x00.png"]
    assert "not an image" in reasons["l.txt"]


BAD_LISTS: dict[str, tuple[bytes, str]] = {
    "empty.csv": (b"\n\n", "lists no pictures"),
    "three.csv": (b"a.png,x,y\n", "3 columns without names"),
    "bytes.txt": (b"\xff\xfe\0", "text in UTF-8"),
    "prose.txt": (b"hello\nyou\n", "none of its 2 lines names a file .*2 x vanished"),
    "broken.jsonl": (b"{\n", "line 1 is not JSON"),
    "deep.jsonl": (b"[" * 100_000, "line 1 is not JSON"),
    "list.jsonl": (b"[1]\n", "line 1 is not an object"),
    "nothing.jsonl": (b'{"label": 1}\n', "line 1: no path is given"),
    "number.jsonl": (b'{"path": 1}\n', "line 1: no path is given"),
    "vector.jsonl": (b'{"path": "a.png", "label": [1]}\n', "is neither a whole number nor a name"),
    "wide.csv": (b"path,label\n" + b"x" * 200_000 + b",1\n", "cannot be read as a table"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_invalid_lists_are_refused(tmp_path: Path, name: str) -> None:
    content, words = BAD_LISTS[name]
    with pytest.raises(DataError, match=words):
        load(fill(tmp_path, LISTED | {name: content}) / name)


def test_idx_labels_follow_the_same_rules(tmp_path: Path) -> None:
    idx.write(tmp_path / "train-images-idx3-ubyte", IMAGES)
    for labels, words in (
        (np.array([0, 1, 2, 3, 4, 2**31 - 1], np.int32), "from 0 to 65535, but they run from 0 to 2147483647"),
        (np.array([0, 1, 2, 3, 4, -5], np.int8), "they run from -5 to 4"),
        (np.zeros(6, np.float32), "labels must be whole numbers"),
        (np.zeros((6, 1), np.uint8), r"is of shape \(6, 1\)"),
    ):
        idx.write(tmp_path / "train-labels-idx1-ubyte", labels)
        with pytest.raises(DataError, match=words):
            load(tmp_path)


def test_fashion_has_no_eleventh_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTMIX_DATA", str(tmp_path))
    (tmp_path / "fashion-mnist").mkdir()
    idx.write(tmp_path / "fashion-mnist/train-images-idx3-ubyte", IMAGES)
    idx.write(tmp_path / "fashion-mnist/train-labels-idx1-ubyte", np.array([0, 1, 2, 3, 4, 10], np.uint8))
    with pytest.raises(DataError, match="a label is 10, but there are 10 classes"):
        load("fashion-mnist")


def test_an_array_in_a_folder_is_reported_with_a_remedy(tmp_path: Path) -> None:
    saved(tmp_path / "a.npy", IMAGES)
    with pytest.raises(DataError, match=r"an array of numpy, not a picture; name the \.npy file itself"):
        load(tmp_path)
    assert encoded(IMAGES[0])[:4] == b"\x89PNG"
