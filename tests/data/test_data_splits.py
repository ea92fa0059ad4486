"""The choice of a split; the folder of a split is never a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from file_helpers import encoded, fill, flat, saved, zipped

from softmix.data import Data, DataError, NoSplitError, idx, load


def levels(data: Data) -> list[int]:
    return data.values[:, 0, 0, 0].tolist()


def folders(root: Path, *names: str) -> Path:
    """One picture in each folder, of the level 10, 20 and so on."""
    return fill(root, {f"{name}/1.png": flat(10 * i) for i, name in enumerate(names, 1)})


TRAIN = ("train", "Training", "TRAIN")
OTHERS = {
    **dict.fromkeys(("test", "testing", "Test"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "eval", "VAL"), "val"),
}


@pytest.mark.parametrize("train", TRAIN)
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("pack", ["folder", "zip"])
def test_a_split_is_never_a_class(tmp_path: Path, train: str, other: str, pack: str) -> None:
    files = {f"{train}/1.png": flat(10), f"{train}/2.png": flat(20), f"{other}/1.png": flat(30)}
    source = fill(tmp_path / "x", files) if pack == "folder" else zipped(tmp_path / "x.zip", files)
    data = load(source)
    assert levels(data) == [10, 20]
    assert data.labels is None
    assert data.classes == ()
    assert f"2 files are in {train}/, 1 elsewhere were not looked at" in data.report.notes
    test = load(source, split="test")
    assert levels(test) == [30]
    assert (f"there is no test split: {other}/ is used instead" in test.report.notes) == (OTHERS[other] == "val")


@pytest.mark.parametrize("asked", ["val", "valid", "validation", "eval"])
def test_val_is_a_split_of_its_own_beside_test(tmp_path: Path, asked: str) -> None:
    root = folders(tmp_path, "train", "valid", "test")
    assert [levels(load(root, split=split)) for split in ("train", "test", asked)] == [[10], [30], [20]]
    assert load(root, split=asked).origin.split == asked  # type: ignore[union-attr]


def test_classes_are_found_within_a_split(tmp_path: Path) -> None:
    root = folders(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog")
    train, val = load(root), load(root, split="val")
    assert (train.classes, levels(train)) == (("cat", "dog"), [10, 20])
    assert (val.classes, levels(val)) == (("cat", "dog"), [30, 40])


def test_splits_below_the_classes_are_splits(tmp_path: Path) -> None:
    root = folders(tmp_path, "cat/train", "cat/val", "dog/train", "dog/val")
    train, test = load(root), load(root, split="test")
    assert train.classes == test.classes == ("cat", "dog")
    assert levels(train) == [10, 30]
    assert levels(test) == [20, 40]


def test_splits_beside_files_and_below_wrappers(tmp_path: Path) -> None:
    fill(tmp_path, {"readme.txt": b"x", "set/images/train/1.png": flat(10), "set/images/val/1.png": flat(20)})
    assert levels(load(tmp_path)) == [10]
    assert levels(load(tmp_path, split="val")) == [20]


def test_a_single_split_name_is_a_class_or_a_wrapper(tmp_path: Path) -> None:
    rails = folders(tmp_path / "rails", "car", "plane", "train")
    assert load(rails).classes == ("car", "plane", "train")
    wrapped = folders(tmp_path / "wrapped", "train/cat", "train/dog")
    assert load(wrapped).classes == ("cat", "dog")
    # deeper down, only folders with nothing else beside them are splits
    mixed = folders(tmp_path / "mixed", "a/train", "a/val", "b/other")
    assert load(mixed).classes == ("a", "b")
    assert len(load(mixed)) == 3


def test_two_folders_for_one_split(tmp_path: Path) -> None:
    root = folders(tmp_path, "training", "train", "test")
    data = load(root)
    assert levels(data) == [20]
    assert "the train split is train/, and training/ is left out" in data.report.notes


def test_a_missing_split_is_refused(tmp_path: Path) -> None:
    root = folders(tmp_path / "a", "val", "test")
    with pytest.raises(NoSplitError, match="its train split was asked for, but there are 'test' and 'val'"):
        load(root)
    with pytest.raises(NoSplitError, match="its val split was asked for, but there are 'train' and 'test'"):
        load(folders(tmp_path / "b", "train", "test"), split="valid")
    with pytest.raises(NoSplitError, match="it has none; it has no subfolders train and test: load it whole"):
        load(folders(tmp_path / "c", "cat", "dog"), split="test")
    for source in ("digits", "toy:ring"):
        with pytest.raises(NoSplitError, match="there are 'train' and 'test'"):
            load(source, split="val")


def test_the_train_split_decides_size_and_channels_of_all(tmp_path: Path) -> None:
    grey, colour = np.full((12, 12), 7, np.uint8), np.full((12, 12, 3), 9, np.uint8)
    large = np.full((16, 16), 8, np.uint8)
    files = {f"train/{i}.png": encoded(colour) for i in range(3)}
    files |= {f"test/{i}.png": encoded(grey) for i in range(20)} | {"test/x.png": encoded(large)}
    fill(tmp_path, files)
    assert load(tmp_path, split="test").shape == load(tmp_path).shape == (3, 12, 12)
    fill(tmp_path, {f"train/{i}.png": encoded(large) for i in range(3)})
    with pytest.raises(DataError, match=r"20 of 21 pictures do not have the commonest, 16x16"):
        load(tmp_path, split="test")
    # what is asked for is not looked up
    assert load(tmp_path, split="test", size=8, channels=1).shape == (1, 8, 8)
    assert load(tmp_path, split="test", size=8).shape == (1, 8, 8)


def test_a_share_held_out_of_a_folder_is_a_partition_with_labels(tmp_path: Path) -> None:
    files = {f"{c}/{i}.png": flat(100 * c + i) for c in range(2) for i in range(20)}
    fill(tmp_path, files)
    train, test = load(tmp_path, hold_out=0.25), load(tmp_path, split="test", hold_out=0.25)
    assert sorted(levels(train) + levels(test)) == sorted(levels(load(tmp_path)))
    assert len(test) == 10
    assert load(tmp_path, split="val", hold_out=0.25).fingerprint == test.fingerprint
    for part in (train, test):
        assert part.labels is not None
        assert torch.equal(part.labels, part.values[:, 0, 0, 0].long() // 100)
    assert torch.bincount(test.labels).tolist() == [5, 5]  # type: ignore[arg-type]
    assert load(tmp_path, hold_out=0.25).fingerprint == train.fingerprint
    # the limit says how many items are in use, and the share is of these
    some = load(tmp_path, limit=20, hold_out=0.25), load(tmp_path, limit=20, hold_out=0.25, split="test")
    assert list(map(len, some)) == [15, 5]
    assert sorted(levels(some[0]) + levels(some[1])) == sorted(levels(load(tmp_path, limit=20)))
    assert any("split(held_out=0.25, seed=0)" in note for note in test.report.notes)


@pytest.mark.parametrize("names", [("train", "test"), ("train", "val"), ("val", "test")])
def test_no_share_is_held_out_of_a_set_with_a_test_split(tmp_path: Path, names: tuple[str, ...]) -> None:
    own = "val" if "test" not in names else "test"
    with pytest.raises(DataError, match=f"a share of 0.1 was to be held out, but it has a {own} split of its own"):
        load(folders(tmp_path, *names), hold_out=0.1)


def test_a_share_of_idx_files(tmp_path: Path) -> None:
    images = np.arange(10 * 4, dtype=np.uint8).reshape(10, 2, 2)
    idx.write(tmp_path / "train-images-idx3-ubyte", images)
    train, test = load(tmp_path, hold_out=0.2), load(tmp_path, split="test", hold_out=0.2)
    assert sorted(levels(train) + levels(test)) == list(range(0, 40, 4))
    assert len(test) == 2
    single = load(tmp_path / "train-images-idx3-ubyte", hold_out=0.2)
    assert single.fingerprint == train.fingerprint
    idx.write(tmp_path / "t10k-images-idx3-ubyte", images + 1)
    with pytest.raises(DataError, match="a test split of its own"):
        load(tmp_path, hold_out=0.2)
    assert load(tmp_path, split="test").values.flatten().tolist() == list(range(1, 41))
    (tmp_path / "train-images-idx3-ubyte").unlink()
    with pytest.raises(NoSplitError, match="put train-images-idx3-ubyte"):
        load(tmp_path)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_must_be_at_least_0_and_below_1(tmp_path: Path, share: float) -> None:
    with pytest.raises(DataError, match="give 0 to below 1"):
        load(saved(tmp_path / "a.npy", np.zeros((9, 2))), hold_out=share)
