"""A cache has the data that were read, and is rebuilt if the files change."""

from __future__ import annotations

import gc
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cache_helpers import PICTURES, changed, equal, folder, load_plain, stores
from file_helpers import saved, zipped

from softmix.data import DataError, disk_storage, load
from softmix.data.cache import _SAMPLE
from softmix.data.disk_storage import HEAD, header

ARRAYS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "pixels": (PICTURES, {"size": 4, "channels": 1}),
    "floats": (PICTURES / 255, {"limit": 9}),
    "latents": (PICTURES / 50 - 2, {"values": "as-is", "hold_out": 0.3}),
    "points": (np.random.RandomState(1).randn(300, 2), {"limit": 100, "hold_out": 0.1, "split": "test"}),
    "sequences": (np.random.RandomState(1).randn(30, 9, 2), {}),
    "volumes": (PICTURES[:, None], {"spacing": (1.0, 2.0, 3.0)}),
    "tokens": (PICTURES[:, 0, :, 0].astype(np.int64), {"tokens": 256}),
    "bits": (PICTURES.astype(np.uint16) * 16, {"bits": 12}),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_have_the_same_bits(tmp_path: Path, case: str) -> None:
    array, options = ARRAYS[case]
    if case == "points":
        array[7, 0] = np.nan
    path = saved(tmp_path / "a.npy", array)
    saved(tmp_path / "a_labels.npy", np.arange(len(array)) % 4)
    plain = load(path, **options)
    for _ in range(2):
        assert equal(load(path, cache=tmp_path / "cache", **options), plain)
    assert len(stores(tmp_path / "cache")) == 1


OPTIONS: list[dict[str, Any]] = [
    {}, {"size": 4}, {"limit": 6}, {"hold_out": 0.3}, {"hold_out": 0.3, "split": "test"}, {"channels": 1, "limit": 20}
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "none")
def test_pictures_have_the_same_bits(tmp_path: Path, options: dict[str, Any]) -> None:
    photos = folder(tmp_path)
    packed = {str(path.relative_to(photos)): path.read_bytes() for path in photos.rglob("*.png")}
    for source in (photos, zipped(tmp_path / "photos.zip", packed)):
        plain = load(source, **options)
        for _ in range(2):
            assert equal(load(source, cache=tmp_path / "cache", **options), plain)
    assert len(stores(tmp_path / "cache")) == 2


def test_other_sources_have_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("some words " * 20)
    found = sorted(folder(tmp_path).rglob("??.png"))
    names = [f"{path.relative_to(tmp_path)},{i % 2}" for i, path in enumerate(found)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *names]))
    sources: list[tuple[Any, dict[str, Any]]] = [
        (tmp_path / "t.txt", {"tokens": "characters", "length": 7}),
        (tmp_path / "list.csv", {}),
        ("digits", {"limit": 50}),
        ("toy:ring", {"limit": 50}),
    ]
    for source, options in sources:
        plain = load(source, **options)
        for _ in range(2):
            assert equal(load(source, cache=tmp_path / "cache", **options), plain)


def test_each_choice_of_options_has_its_own_cache(tmp_path: Path) -> None:
    photos = folder(tmp_path)
    for options in OPTIONS:
        load(photos, cache=tmp_path / "cache", **options)
    assert len(stores(tmp_path / "cache")) == len(OPTIONS)


def test_a_cache_is_mapped_and_reads_no_source_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = folder(tmp_path)
    first = load(photos, cache=tmp_path / "cache")
    monkeypatch.setattr("softmix.data.loading.from_folder", None)
    again = load(photos, cache=tmp_path / "cache")
    assert equal(again, load_plain(first))
    assert again.report.notes[-1].startswith("read from the cache")
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(stores(tmp_path / "cache")[0] / "0.npy") in maps.read_text()
    # What is written into a mapped tensor is not written into the file.
    again.values[0] = 7
    assert equal(load(photos, cache=tmp_path / "cache"), load_plain(first))


def test_a_cache_is_a_file_of_numpy(tmp_path: Path) -> None:
    data = load(folder(tmp_path), cache=tmp_path / "cache")
    array = np.load(stores(tmp_path / "cache")[0] / "0.npy", mmap_mode="r")
    assert array.dtype == np.uint8
    assert np.array_equal(array, data.values.numpy())
    shapes = [(10**12, 3, 4096, 4096, 4096), (1, 1)]
    assert [len(header(np.dtype("float32"), shape)) for shape in shapes] == [HEAD, HEAD]


@pytest.mark.parametrize("case", ["content", "time", "added", "removed", "moved"])
def test_files_that_changed_are_read_again(tmp_path: Path, case: str) -> None:
    photos = folder(tmp_path)
    load(photos, cache=tmp_path / "cache")
    changed(photos, case)
    again = load(photos, cache=tmp_path / "cache")
    assert equal(again, load(photos))
    assert "was built again: the files have changed (17 were read then, 1" in again.report.notes[-1]
    assert not any("built again" in note for note in load(photos, cache=tmp_path / "cache").report.notes)
    assert len(stores(tmp_path / "cache")) == 1


def test_labels_beside_an_array_that_changed_are_read_again(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", PICTURES)
    for labels in ([0] * 14, [1] * 14):
        saved(tmp_path / "a_labels.npy", np.array(labels))
        os.utime(tmp_path / "a_labels.npy", (9, labels[0] + 5))
        assert load(path, cache=tmp_path / "cache").labels.tolist() == labels  # type: ignore[union-attr]


def cut(store: Path) -> None:
    with (store / "0.npy").open("r+b") as file:
        file.truncate(1000)


def longer(store: Path) -> None:
    with (store / "0.npy").open("ab") as file:
        file.write(b"more")


def zeroed(store: Path) -> None:
    whole = (store / "0.npy").read_bytes()
    (store / "0.npy").write_bytes(whole[:HEAD] + bytes(len(whole) - HEAD))


def other_header(store: Path) -> None:
    with (store / "0.npy").open("r+b") as file:
        file.write(header(np.dtype("uint8"), (14 * 3, 1, 7, 6)))


def edited(key: str, value: Any) -> Any:
    def edit(store: Path) -> None:
        body = json.loads((store / "store.json").read_text())
        (body if key in body else body["sets"][0])[key] = value
        (store / "store.json").write_text(json.dumps(body))

    return edit


DAMAGE: dict[str, tuple[Any, str]] = {
    "cut": (cut, r"0\.npy has 1000 bytes, and 1892 were written"),
    "longer": (longer, "has 1896 bytes, and 1892 were written"),
    "zeroed": (zeroed, "has other bytes than were written"),
    "header": (other_header, "has another header than was written"),
    "no values": (lambda store: (store / "0.npy").unlink(), "No such file"),
    "no labels": (lambda store: (store / "0.labels.npy").unlink(), "labels.npy cannot be read"),
    "labels": (
        lambda store: saved(store / "0.labels.npy", np.zeros(14, np.int64)),
        "has other labels than were written",
    ),
    "no json": (lambda store: (store / "store.json").unlink(), "was damaged, it had no store.json"),
    "half a json": (lambda store: (store / "store.json").write_text('{"format": 1, '), "it was damaged"),
    "a list": (lambda store: (store / "store.json").write_text("[]"), "it was damaged"),
    "no shape": (edited("shape", None), "it was damaged"),
    "no type": (edited("dtype", "float64"), "it was damaged"),
    "another source": (edited("asked", {}), "its store.json is of something else"),
    "another format": (edited("format", 99), "its store.json is of something else"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_cache_is_reported_and_rebuilt(tmp_path: Path, case: str) -> None:
    damage, reason = DAMAGE[case]
    photos = folder(tmp_path)
    load(photos, cache=tmp_path / "cache")
    damage(stores(tmp_path / "cache")[0])
    again = load(photos, cache=tmp_path / "cache")
    assert equal(again, load(photos))
    assert len(stores(tmp_path / "cache")) == 1
    assert re.search(reason, again.report.notes[-1])
    assert "built again" in again.report.notes[-1]


def test_a_cache_without_disk_space_is_refused(small_disk: Any, tmp_path: Path) -> None:
    disk = small_disk("256k")
    path = saved(tmp_path / "a.npy", np.random.RandomState(0).randint(0, 256, (200, 3, 32, 32)).astype(np.uint8))
    with pytest.raises(DataError, match="GiB are free there; name another folder as cache"):
        load(path, cache=disk / "cache")
    assert stores(disk / "cache") == []
    assert len(load(path, cache=disk / "cache", limit=20)) == 20
    # What is mapped holds the disk.
    gc.collect()


def test_paths_that_cannot_be_a_cache_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be a cache: .*; name another folder as cache"):
        load(folder(tmp_path), cache=tmp_path / "file")
    with pytest.raises(DataError, match="there is no such name or path"):
        load(tmp_path / "nothing", cache=tmp_path / "cache")
    with pytest.raises(DataError, match="is no path"):
        load("digits", cache="~nobody-of-that-name/x")
    assert not (tmp_path / "cache").exists()


def test_a_cache_within_the_data_is_refused(tmp_path: Path) -> None:
    photos = folder(tmp_path)
    for cache in (photos, photos / "cache", photos / "a/cache"):
        with pytest.raises(DataError, match=r"lies within the data, .*photos; name a folder outside of them"):
            load(photos, cache=cache)
        with pytest.raises(DataError, match="lies within the data"):
            load(saved(tmp_path / "a.npy", PICTURES), beside=photos, cache=cache)
    assert not (photos / "cache").exists()
    assert len(load(photos, cache=tmp_path / "photos-kept")) == 14


def test_check_finds_a_damaged_byte_that_opening_misses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from softmix.cli.check import Check
    from softmix.cli.common import UsageError

    # Large enough for gaps between the pieces that are compared when a cache is opened.
    array = np.random.RandomState(0).randint(0, 256, (400, 3, 32, 32)).astype(np.uint8)
    path = saved(tmp_path / "a.npy", array)
    load(path, cache=tmp_path / "cache")
    Check(what=str(path), cache=tmp_path / "cache")()
    assert "every byte of the cache" in capsys.readouterr().out
    with (stores(tmp_path / "cache")[0] / "0.npy").open("r+b") as file:
        file.seek(HEAD + _SAMPLE + 1000)
        byte = file.read(1)[0]
        file.seek(HEAD + _SAMPLE + 1000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(UsageError, match=r"the copy of a in .*cache is damaged: remove it"):
        Check(what=str(path), cache=tmp_path / "cache")()


def test_the_command_line_trains_from_a_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from softmix.cli import main
    from softmix.train import data_of, read_run

    path = saved(tmp_path / "a.npy", np.random.RandomState(0).randint(0, 256, (20, 8, 8)).astype(np.uint8))
    given = ["train", str(path), "--out", str(tmp_path / "run"), "--steps", "2", "--cache", str(tmp_path / "cache")]
    tiny = ["--set", "net.width=8", "batch=4"]
    main([*given, *tiny])
    origin = read_run(tmp_path / "run").facts.origin
    assert origin is not None
    assert origin.cache == "../cache"
    assert len(stores(tmp_path / "cache")) == 1
    capsys.readouterr()
    main(["train", "--out", str(tmp_path / "run"), "--more", "1"])
    assert "read from the cache" in capsys.readouterr().out
    assert data_of(tmp_path / "run").report.notes[-1].startswith("read from the cache")


def test_a_progress_bar_is_shown_while_a_cache_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    shown: list[tuple[str, int]] = []

    def bar(items: Any, **options: Any) -> Any:
        shown.append((options["desc"], len(items)))
        # Shown on a terminal, and nowhere else.
        assert options["disable"] is None
        return items

    monkeypatch.setattr(disk_storage, "tqdm", bar)
    photos = folder(tmp_path)
    load(photos, cache=tmp_path / "cache", limit=8)
    assert shown == [("cache: headers", 17), ("cache: pictures", 15), ("cache: parts", 1)]
    load(photos, cache=tmp_path / "cache", limit=8)
    load(photos)
    assert len(shown) == 3
