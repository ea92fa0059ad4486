"""Building a cache: killed, shared by processes, larger than memory, used in training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cache_helpers import changed, equal, folder, stores
from file_helpers import encoded, fill, saved

from softmix.data import Data, DataError, load, picture_folder

BUILD = """
import sys, time
from pathlib import Path
import softmix.data.picture_folder as picture_folder
from softmix.data import load
real, done = picture_folder.decode_picture, [0]
def decode_picture(*given):
    if done[0] == {stop}:
        print("here", flush=True)
        time.sleep(60)
    done[0] += 1
    return real(*given)
picture_folder.decode_picture = decode_picture
print(load(Path(sys.argv[1]), cache=Path(sys.argv[2])).fingerprint)
"""


def building(photos: Path, cache: Path, stop: int) -> subprocess.Popen[str]:
    """A process that builds a cache and pauses before picture number `stop`."""
    child = subprocess.Popen(
        [sys.executable, "-c", BUILD.format(stop=stop), str(photos), str(cache)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "here\n"
    return child


def test_a_killed_process_leaves_no_incomplete_cache(tmp_path: Path) -> None:
    photos, cache = folder(tmp_path), tmp_path / "cache"
    child = building(photos, cache, 9)
    left = [path.name for path in stores(cache)]
    assert len(left) == 1
    assert left[0].endswith(".aside")
    child.send_signal(signal.SIGKILL)
    child.wait()
    plain = load(photos)
    assert equal(load(photos, cache=cache), plain)
    assert [path.name.startswith("photos-") for path in stores(cache)] == [True]


def test_a_kill_between_the_two_renames_is_repaired(tmp_path: Path) -> None:
    photos, cache = folder(tmp_path), tmp_path / "cache"
    load(photos, cache=cache)
    store = stores(cache)[0]
    changed(photos, "content")
    store.rename(cache / f".{store.name}.old")
    fill(cache / f".{store.name}.aside", {"0.npy": b"whole, and not yet in its place"})
    assert equal(load(photos, cache=cache), load(photos))
    assert stores(cache) == [store]


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
    assert thread.is_alive()
    assert not found
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
            patch.setattr("softmix.data.disk_storage.DiskStorage.finish", fails)
        elif step == "labels":
            patch.setattr("softmix.data.cache.np.save", fails)
        elif step == "json":
            patch.setattr("softmix.data.cache._write", fails)
        else:
            patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            load(photos, cache=cache)
    again = load(photos, cache=cache)
    assert equal(again, load(photos))
    assert again.fingerprint != old.fingerprint
    assert len(stores(cache)) == 1


def test_files_that_change_while_they_are_read_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = folder(tmp_path)

    real = picture_folder._decode

    def decode(*given: Any) -> Any:
        changed(photos, "time")
        return real(*given)

    monkeypatch.setattr(picture_folder, "_decode", decode)
    with pytest.raises(DataError, match="photos: its files changed while they were read; try again when they rest"):
        load(photos, cache=tmp_path / "cache")
    assert stores(tmp_path / "cache") == []


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

def not_used(source, **options):
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
not_used(source, cache=cache)
not_used(source, cache=cache)
not_used(source)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured in /proc")
@pytest.mark.parametrize("kind", ["pictures", "array"])
def test_a_data_set_larger_than_memory(tmp_path: Path, kind: str) -> None:
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
    assert built[1:] == kept[1:] == plain[1:]
    assert int(plain[1]) == whole
    # In 8 runs 34 to 41 MiB without a cache, and 6 to 9 with one.
    assert int(plain[0]) > 0.8 * whole
    assert max(int(built[0]), int(kept[0])) < 0.4 * whole, (built, kept)


def test_training_from_a_cache_gives_the_same_bits(tmp_path: Path) -> None:
    from softmix.net import UNetSpec
    from softmix.train import Config, Denoise, training
    from softmix.train import load as load_run

    path = saved(tmp_path / "a.npy", np.random.RandomState(0).randint(0, 256, (20, 8, 8)).astype(np.uint8))
    config = Config(Denoise(net=UNetSpec(width=8, depth=1, patch=2), flip=True), steps=3, batch=4)
    prints = []
    for name, options in (("plain", {}), ("cached", {"cache": tmp_path / "cache"})):
        data = load(path, **options)  # type: ignore[call-overload]
        for _ in training(data, config, tmp_path / name):
            pass
        prints.append(load_run(tmp_path / name, "model").fingerprint)
    assert prints[0] == prints[1]
