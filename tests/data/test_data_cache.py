"""Tests of room `data`: what is kept on the disk is what was read, and is read again only while it is."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import encoded, fill, saved, zipped

from softmix.data import Data, DataError, load
from softmix.data.aside import HEAD, header
from softmix.data.cache import _SAMPLE

PICTURES = np.random.RandomState(0).randint(0, 256, (14, 7, 6, 3)).astype(np.uint8)


def folder(root: Path) -> Path:
    files = {f"{'abc'[i % 3]}/{i:02}.png": encoded(picture) for i, picture in enumerate(PICTURES)}
    half = encoded(PICTURES[0], compress_level=0)[:-60]
    bad = {"a/broken.png": b"no", "b/small.png": encoded(PICTURES[0, :3]), "c/half.png": half}
    return fill(root / "photos", files | bad)


def stores(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())


def equal(cached: Data, plain: Data) -> bool:
    """Whether two sets have the same bits and say the same of what was read."""
    notes = [note for note in cached.report.notes if "cache" not in note]
    labels = [None if each.labels is None else each.labels.tolist() for each in (cached, plain)]
    return (
        cached.values.dtype == plain.values.dtype
        and torch.equal(cached.values, plain.values)
        and labels[0] == labels[1]
        and cached.fingerprint == plain.fingerprint
        and (cached.classes, cached.name, cached.kind) == (plain.classes, plain.name, plain.kind)
        and (cached.vocabulary, cached.alphabet, cached.spacing) == (plain.vocabulary, plain.alphabet, plain.spacing)
        and notes == list(plain.report.notes)
        and (cached.report.skipped, cached.report.converted) == (plain.report.skipped, plain.report.converted)
    )


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


def test_each_choice_of_options_is_kept_for_itself(tmp_path: Path) -> None:
    photos = folder(tmp_path)
    for options in OPTIONS:
        load(photos, cache=tmp_path / "cache", **options)
    assert len(stores(tmp_path / "cache")) == len(OPTIONS)


def test_what_is_kept_is_mapped_and_reads_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = folder(tmp_path)
    first = load(photos, cache=tmp_path / "cache")
    monkeypatch.setattr("softmix.data.source.from_folder", None)
    again = load(photos, cache=tmp_path / "cache")
    assert equal(again, load_plain(first)) and again.report.notes[-1].startswith("read from the cache")
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(stores(tmp_path / "cache")[0] / "0.npy") in maps.read_text()
    # What is written into a mapped tensor is not written into the file.
    again.values[0] = 7
    assert equal(load(photos, cache=tmp_path / "cache"), load_plain(first))


def load_plain(data: Data) -> Data:
    """The set without what its report says of the cache."""
    notes = tuple(note for note in data.report.notes if "cache" not in note)
    return replace(data, report=replace(data.report, notes=notes))


def test_what_is_kept_is_a_file_of_numpy(tmp_path: Path) -> None:
    data = load(folder(tmp_path), cache=tmp_path / "cache")
    array = np.load(stores(tmp_path / "cache")[0] / "0.npy", mmap_mode="r")
    assert array.dtype == np.uint8 and np.array_equal(array, data.values.numpy())
    shapes = [(10**12, 3, 4096, 4096, 4096), (1, 1)]
    assert [len(header(np.dtype("float32"), shape)) for shape in shapes] == [HEAD, HEAD]


def changed(photos: Path, case: str) -> None:
    path = photos / "a/00.png"
    if case == "content":
        path.write_bytes(encoded(255 - PICTURES[0]))
    elif case == "time":
        os.utime(path, (1, 1))
    elif case == "added":
        fill(photos, {"a/99.png": encoded(PICTURES[1])})
    elif case == "removed":
        path.unlink()
    else:
        path.rename(photos / "b/00.png")


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
def test_damage_is_named_and_mended(tmp_path: Path, case: str) -> None:
    damage, reason = DAMAGE[case]
    photos = folder(tmp_path)
    load(photos, cache=tmp_path / "cache")
    damage(stores(tmp_path / "cache")[0])
    again = load(photos, cache=tmp_path / "cache")
    assert equal(again, load(photos)) and len(stores(tmp_path / "cache")) == 1
    assert re.search(reason, again.report.notes[-1]) and "built again" in again.report.notes[-1]


BUILD = """
import sys, time
from pathlib import Path
import softmix.data.pictures as pictures
from softmix.data import load
real, done = pictures.decoded, [0]
def decoded(*given):
    if done[0] == {stop}:
        print("here", flush=True)
        time.sleep(60)
    done[0] += 1
    return real(*given)
pictures.decoded = decoded
print(load(Path(sys.argv[1]), cache=Path(sys.argv[2])).fingerprint)
"""


def building(photos: Path, cache: Path, stop: int) -> subprocess.Popen[str]:
    """A process that builds a cache and stands still before picture number `stop`."""
    child = subprocess.Popen(
        [sys.executable, "-c", BUILD.format(stop=stop), str(photos), str(cache)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "here\n"
    return child


def test_a_process_that_is_killed_leaves_no_half_cache(tmp_path: Path) -> None:
    photos, cache = folder(tmp_path), tmp_path / "cache"
    child = building(photos, cache, 9)
    left = [path.name for path in stores(cache)]
    assert len(left) == 1 and left[0].endswith(".aside")
    child.send_signal(signal.SIGKILL)
    child.wait()
    plain = load(photos)
    assert equal(load(photos, cache=cache), plain)
    assert [path.name.startswith("photos-") for path in stores(cache)] == [True]


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    photos, cache = folder(tmp_path), tmp_path / "cache"
    load(photos, cache=cache)
    store = stores(cache)[0]
    changed(photos, "content")
    store.rename(cache / f".{store.name}.old")
    fill(cache / f".{store.name}.aside", {"0.npy": b"whole, and not yet in its place"})
    assert equal(load(photos, cache=cache), load(photos)) and stores(cache) == [store]


def test_a_cache_that_cannot_be_written_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, cache = folder(tmp_path), tmp_path / "cache"
    load(photos, cache=cache)
    monkeypatch.setattr("softmix.data.cache.FileLock", None)
    assert equal(load(photos, cache=cache), load(photos))


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    photos, cache = folder(tmp_path), tmp_path / "cache"
    child = building(photos, cache, 9)
    found: list[Data] = []

    def second() -> None:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found.append(load(photos, cache=cache))
        heard.extend(str(one.message) for one in said)

    heard: list[str] = []
    thread = threading.Thread(target=second)
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive() and not found
    # Whoever waits goes on when the builder is gone, and builds it.
    child.send_signal(signal.SIGKILL)
    child.wait()
    thread.join(20)
    assert equal(found[0], load(photos))
    assert any("is being built by another process; waiting until it has ended" in one for one in heard)


@pytest.mark.parametrize("step", ["values", "labels", "json", "away", "here"])
def test_a_build_that_fails_at_any_step_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    photos, cache = folder(tmp_path), tmp_path / "cache"
    old = load(photos, cache=cache)
    changed(photos, "content")

    def fails(*given: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        where = {"away": ".old", "here": "photos-"}.get(step, "nowhere")
        if str(target).endswith(where) or Path(target).name.startswith(where):
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        if step == "values":
            patch.setattr("softmix.data.aside.Aside.kept", fails)
        elif step == "labels":
            patch.setattr("softmix.data.cache.np.save", fails)
        elif step == "json":
            patch.setattr("softmix.data.cache._write", fails)
        else:
            patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            load(photos, cache=cache)
    again = load(photos, cache=cache)
    assert equal(again, load(photos)) and again.fingerprint != old.fingerprint
    assert len(stores(cache)) == 1


def test_files_that_change_while_they_are_read_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = folder(tmp_path)
    from softmix.data import pictures

    real = pictures._decode

    def decode(*given: Any) -> Any:
        changed(photos, "time")
        return real(*given)

    monkeypatch.setattr(pictures, "_decode", decode)
    with pytest.raises(DataError, match="photos: its files changed while they were read; try again when they rest"):
        load(photos, cache=tmp_path / "cache")
    assert stores(tmp_path / "cache") == []


def test_a_cache_without_room_is_refused(small_disk: Any, tmp_path: Path) -> None:
    disk = small_disk("256k")
    path = saved(tmp_path / "a.npy", np.random.RandomState(0).randint(0, 256, (200, 3, 32, 32)).astype(np.uint8))
    with pytest.raises(DataError, match="GiB are free there; name another folder as cache"):
        load(path, cache=disk / "cache")
    assert stores(disk / "cache") == []
    assert len(load(path, cache=disk / "cache", limit=20)) == 20
    # What is mapped holds the disk.
    gc.collect()


def test_what_cannot_be_a_cache(tmp_path: Path) -> None:
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
    assert not (photos / "cache").exists() and len(load(photos, cache=tmp_path / "photos-kept")) == 14


def test_a_damaged_byte_that_an_open_does_not_see_is_found_by_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from softmix.cli.check import check
    from softmix.cli.common import UsageError

    # Large enough for gaps between the pieces that are compared when a cache is opened.
    array = np.random.RandomState(0).randint(0, 256, (400, 3, 32, 32)).astype(np.uint8)
    path = saved(tmp_path / "a.npy", array)
    load(path, cache=tmp_path / "cache")
    check(str(path), cache=tmp_path / "cache")
    assert "every byte of the cache" in capsys.readouterr().out
    with (stores(tmp_path / "cache")[0] / "0.npy").open("r+b") as file:
        file.seek(HEAD + _SAMPLE + 1000)
        byte = file.read(1)[0]
        file.seek(HEAD + _SAMPLE + 1000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(UsageError, match=r"what .*cache keeps of a is damaged: remove it"):
        check(str(path), cache=tmp_path / "cache")


MEASURE = """
import sys, threading, time
from pathlib import Path
import torch
from softmix.data import load
from softmix.rng import Rng

def own():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10

def passed_over(source, **options):
    start, most, going = own(), [0], [True]

    def watch():
        while going[0]:
            most[0] = max(most[0], own())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    data = load(source, **options)
    total = 0.0
    for k in range(0, len(data), 8):
        total += float(data.batch(torch.arange(k, k + 8), Rng(0, 8))[0].sum())
    going[0] = False
    thread.join()
    print(most[0] - start, data.values.numel(), data.fingerprint, total)

torch.set_num_threads(1)
load("digits", limit=3)
source, cache = map(Path, sys.argv[1:])
passed_over(source, cache=cache)
passed_over(source, cache=cache)
passed_over(source)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured in /proc")
@pytest.mark.parametrize("kind", ["pictures", "array"])
def test_a_set_that_is_larger_than_its_memory(tmp_path: Path, kind: str) -> None:
    """36 MiB of values take less than two fifths of that with a cache, and most of it without."""
    side, count = 128, 768
    if kind == "pictures":
        rows = np.arange(side)
        for i in range(count):
            picture = np.stack([np.add.outer(rows, rows * j + i) % 256 for j in range(3)], 2).astype(np.uint8)
            fill(tmp_path / "source", {f"{i}.png": encoded(picture, compress_level=1)})
    else:
        array = np.lib.format.open_memmap(tmp_path / "source.npy", "w+", np.uint8, (count, side, side, 3))
        array[:] = np.arange(count).astype(np.uint8)[:, None, None, None]
        array[:, 0] = 255
        array.flush()
    source = tmp_path / ("source" if kind == "pictures" else "source.npy")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(source), str(tmp_path / "cache")], capture_output=True, text=True,
        check=True, env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )  # fmt: skip
    built, kept, plain = (line.split() for line in done.stdout.splitlines())
    whole = count * side * side * 3
    assert built[1:] == kept[1:] == plain[1:] and int(plain[1]) == whole
    # In 8 runs 34 to 41 MiB without a cache, and 6 to 9 with one.
    assert int(plain[0]) > 0.8 * whole
    assert max(int(built[0]), int(kept[0])) < 0.4 * whole, (built, kept)


def test_training_on_what_is_kept_gives_the_same_bits(tmp_path: Path) -> None:
    from softmix.net import UNetSpec
    from softmix.train import Config, training
    from softmix.train import load as load_run

    path = saved(tmp_path / "a.npy", np.random.RandomState(0).randint(0, 256, (20, 8, 8)).astype(np.uint8))
    config = Config(net=UNetSpec(width=8, depth=1, patch=2), steps=3, batch=4, flip=True)
    prints = []
    for name, options in (("plain", {}), ("cached", {"cache": tmp_path / "cache"})):
        data = load(path, **options)  # type: ignore[call-overload]
        for _ in training(data, config, tmp_path / name):
            pass
        prints.append(load_run(tmp_path / name, "model").fingerprint)
    assert prints[0] == prints[1]


def test_the_command_line_trains_from_a_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from softmix.cli import main
    from softmix.train import data_of, read_run

    path = saved(tmp_path / "a.npy", np.random.RandomState(0).randint(0, 256, (20, 8, 8)).astype(np.uint8))
    given = ["train", str(path), "--out", str(tmp_path / "run"), "--steps", "2", "--cache", str(tmp_path / "cache")]
    tiny = ["--set", "net.width=8", "batch=4"]
    main([*given, *tiny])
    origin = read_run(tmp_path / "run").facts.origin
    assert origin is not None and origin.cache == "../cache" and len(stores(tmp_path / "cache")) == 1
    capsys.readouterr()
    main(["train", "--out", str(tmp_path / "run"), "--more", "1"])
    assert "read from the cache" in capsys.readouterr().out
    assert data_of(tmp_path / "run").report.notes[-1].startswith("read from the cache")


def test_a_bar_shows_what_is_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from softmix.data import aside

    shown: list[tuple[str, int]] = []

    def bar(items: Any, **options: Any) -> Any:
        shown.append((options["desc"], len(items)))
        # Shown on a terminal, and nowhere else.
        assert options["disable"] is None
        return items

    monkeypatch.setattr(aside, "tqdm", bar)
    photos = folder(tmp_path)
    load(photos, cache=tmp_path / "cache", limit=8)
    assert shown == [("cache: headers", 17), ("cache: pictures", 15), ("cache: parts", 1)]
    load(photos, cache=tmp_path / "cache", limit=8)
    load(photos)
    assert len(shown) == 3
