"""Malicious files and folders: headers that promise too much, and entries that are no plain files."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import struct
import subprocess
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from file_helpers import encoded, fill, flat, saved, zipped

from softmix.data import DataError, entries, idx, limits, load

MIB = 1 << 20


@contextmanager
def little_memory(most: int = 64 * MIB) -> Iterator[None]:
    """Fails if more than `most` bytes were ever in use beyond those at the start."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most, f"{peak / MIB:.0f} MiB were taken"


def test_the_memory_guard_can_fail() -> None:
    with pytest.raises(AssertionError, match="MiB were taken"), little_memory(MIB):
        np.zeros(2 * MIB, np.uint8)


def header(kind: int, *shape: int) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def sparse(path: Path, start: bytes, size: int) -> Path:
    """A sparse file of `size` bytes."""
    path.write_bytes(start)
    os.truncate(path, size)
    return path


FORGED_IDX: dict[str, tuple[bytes, str]] = {
    "255 axes": (header(8, *[1] * 255) + b"x", "promises 255 axes, above the limit of 8"),
    "9 axes": (header(8, *[1] * 9) + b"x", "promises 9 axes"),
    "2^32 items": (header(8, 2**32 - 1, 2) + b"x", "promises 8589934590 bytes, shape .*, but it holds only 1"),
    "a product beyond 64 bits": (header(0x0E, *[2**32 - 1] * 8), "above the limit"),
    "15 GB in gzip": (gzip.compress(header(8, 150_000_000, 100) + bytes(MIB)), "above the limit of 268435456 for"),
    "few in gzip": (gzip.compress(header(8, 200, MIB) + bytes(MIB)), "but it holds only 1048576"),
    "more in gzip": (gzip.compress(header(8, 3) + bytes(64 * MIB)), "promises 3 bytes, .* but it holds more"),
}


@pytest.mark.parametrize("case", FORGED_IDX)
def test_forged_idx_headers_are_refused(tmp_path: Path, case: str) -> None:
    content, words = FORGED_IDX[case]
    (tmp_path / "a.idx").write_bytes(content)
    with little_memory(), pytest.raises(DataError, match=words):
        load(tmp_path / "a.idx")


def test_eight_axes_are_still_read(tmp_path: Path) -> None:
    array: np.ndarray = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 1, 1, 2, 1, 1)
    idx.write(tmp_path / "a.idx", array)
    assert np.array_equal(idx.read(tmp_path / "a.idx"), array)


def test_labels_are_counted_before_they_are_read(tmp_path: Path) -> None:
    idx.write(tmp_path / "train-images-idx3-ubyte", np.zeros((5, 4, 4), np.uint8))
    sparse(tmp_path / "train-labels-idx1-ubyte", header(8, 2**31), 2**31 + 8)
    with little_memory(), pytest.raises(DataError, match="5 items but 2147483648 labels"):
        load(tmp_path)


def test_data_that_do_not_fit_into_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits.free_bytes() is None or limits.free_bytes() > 1 << 20  # type: ignore[operator]
    monkeypatch.setattr(limits, "free_bytes", lambda: 8 << 30)
    sparse(tmp_path / "a.idx", header(8, 9 << 20, 1024), (9 << 30) + 12)
    saved(tmp_path / "labels.npy", np.zeros(3, int))
    with little_memory(), pytest.raises(DataError, match=r"needs 9\.0 GiB of memory, and 8\.0 GiB are free"):
        load(tmp_path / "a.idx")
    fill(tmp_path / "x", {"1.png": flat(1), "2.png": flat(2)})
    monkeypatch.setattr(limits, "free_bytes", lambda: 2 * 144 - 1)
    with pytest.raises(DataError, match="x of 2 pictures needs"):
        load(tmp_path / "x")
    assert len(load(tmp_path / "x", limit=1)) == 1
    monkeypatch.setattr(limits, "free_bytes", lambda: 2 * 144)
    assert len(load(tmp_path / "x")) == 2
    os.remove(tmp_path / "labels.npy")
    saved(tmp_path / "a.npy", np.zeros((289, 1), np.uint8)[:, :, None])
    with pytest.raises(DataError, match="give a smaller size, or a limit"):
        load(tmp_path / "a.npy")
    assert len(load(tmp_path / "a.npy", limit=9)) == 9
    monkeypatch.setattr(limits, "free_bytes", lambda: None)
    assert len(load(tmp_path / "a.npy")) == 289


def test_the_limit_of_a_packed_file() -> None:
    assert limits.unpacked_limit(0) == limits.unpacked_limit(100) == 256 * MIB
    assert limits.unpacked_limit(3 * MIB) == 300 * MIB


def npy_header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(2**40,), (2**31, 2**31, 4), (10,), (-3, -4), (1,) * 200])
def test_forged_npy_headers_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "a.npy").write_bytes(npy_header(shape) + b"abc")
    zipped(tmp_path / "a.npz", {"images.npy": npy_header(shape) + b"abc"})
    for name in ("a.npy", "a.npz"):
        with little_memory(), pytest.raises(DataError, match=r"a\.np"):
            load(tmp_path / name)


def test_forged_archives_of_arrays_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PACKED_BYTES", MIB)
    zipped(tmp_path / "a.npz", {"images.npy": npy_header((2, MIB)) + bytes(2 * MIB)})
    with little_memory(MIB), pytest.raises(DataError, match="promises 2097152 bytes, more than it can hold"):
        load(tmp_path / "a.npz")
    objects = io.BytesIO()
    np.savez(objects, images=np.array([{}], dtype=object))
    bad = {
        "objects": (objects.getvalue(), "Python objects, which are never unpickled"),
        "text": (zipped(tmp_path / "t.npz", {"images.npy": b"hello"}).read_bytes(), "without pickle"),
        "cut": (objects.getvalue()[:-30], "cannot be read as a zip archive"),
        "empty": (zipped(tmp_path / "e.npz", {}).read_bytes(), "holds nothing"),
    }
    for content, words in bad.values():
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(DataError, match=words):
            load(tmp_path / "b.npz")


def test_a_zip_lists_refused_members_with_reasons(tmp_path: Path) -> None:
    source = zipped(tmp_path / "x.zip", {"a.png": flat(1), "b.png": flat(2), "c.png": flat(3)})
    content = bytearray(source.read_bytes())
    place = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", place + 1)
    content[place + 8] |= 1
    content[second + 24 : second + 28] = struct.pack("<I", entries.MAX_BYTES + 1)
    source.write_bytes(content)
    data = load(source)
    assert dict(data.report.skipped) == {"a.png": "encrypted", "b.png": "larger than 268435456 bytes; not opened"}
    assert data.values[:, 0, 0, 0].tolist() == [3]
    content[second + 24 : second + 28] = struct.pack("<I", entries.MAX_BYTES)
    source.write_bytes(content)
    assert "larger" not in dict(load(source).report.skipped).get("b.png", "")


def test_hidden_members_of_a_zip(tmp_path: Path) -> None:
    files = {"a/1.png": flat(91), "a/2.png": flat(92), "a/.x.png": b"", "__MACOSX/a/1.png": b"", ".git/a/x": b""}
    data = load(zipped(tmp_path / "x.zip", files | {"a/Thumbs.db": b""}))
    assert data.report.notes == ("4 hidden files were not read",)
    assert not data.report.skipped


def deep(root: Path, levels: int) -> None:
    """Nested folders, made one at a time, since their path becomes too long."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        there = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)


@pytest.fixture
def swept(tmp_path: Path) -> Iterator[Path]:
    """A folder that is removed at the end: pytest removes folders by recursion, which fails here."""
    yield tmp_path / "x"
    subprocess.run(["rm", "-rf", str(tmp_path / "x")], check=True)


@pytest.mark.parametrize("levels", [1200, 2500])
def test_a_folder_of_a_thousand_levels(swept: Path, levels: int) -> None:
    root = fill(swept, {"1.png": flat(1), "d0/2.png": flat(2)})
    deep(root, levels)
    data = load(root)
    assert len(data) == 2
    # A path has at most 4096 characters: what lies deeper is listed.
    assert [reason for _, reason in data.report.skipped] == ["cannot be read (File name too long)"] * (levels > 2000)
    if levels == 1200:
        (root / ("d/" * levels) / "deep.png").write_bytes(flat(3))
        assert load(root).classes == ("d", "d0")
        assert load(root).values[:, 0, 0, 0].tolist() == [3, 2]


def test_only_plain_files_are_opened(tmp_path: Path) -> None:
    root = fill(tmp_path / "top/x", {"1.png": flat(1), "2.png": flat(2)})
    os.mkfifo(root / "fifo.png")
    os.mkfifo(root / "config.json")
    os.mkfifo(root / "dataset.json")
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(root)
    try:
        server.bind("socket.png")
    finally:
        os.chdir(here)
    (root / "zero.png").symlink_to("/dev/zero")
    (root / "round.png").symlink_to("circle.png")
    (root / "circle.png").symlink_to("round.png")
    (root / "up").symlink_to("..", target_is_directory=True)
    (root / "again").symlink_to(".", target_is_directory=True)
    data = load(root)
    server.close()
    assert len(data) == 2
    plain = dict.fromkeys(["fifo.png", "config.json", "dataset.json", "socket.png", "zero.png"], "not a plain file")
    circle = "cannot be read (Too many levels of symbolic links)"
    # the way up leads back into this folder, which has been visited
    assert dict(data.report.skipped) == plain | {"round.png": circle, "circle.png": circle}


@pytest.mark.parametrize("name", ["fifo", "fifo.npy", "fifo.zip", "fifo.csv"])
def test_a_source_that_is_no_plain_file(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="neither a file nor a folder"):
        load(tmp_path / name)


def test_labels_that_are_no_plain_file_are_not_used(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.npy")
    assert load(saved(tmp_path / "a.npy", np.zeros((3, 2)))).labels is None
    (tmp_path / "list.txt").write_text("fifo.png\na.png\n")
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "a.png").write_bytes(flat(1))
    assert load(tmp_path / "list.txt").report.skipped == (("fifo.png", "not a plain file"),)


def closed(monkeypatch: pytest.MonkeyPatch, name: str, error: OSError) -> None:
    """Listing a folder of this name raises `error` (the tests may run as a user who may read everything)."""
    real = os.scandir

    def fake(path: str) -> object:
        if str(path).endswith(name):
            raise error
        return real(path)

    monkeypatch.setattr(os, "scandir", fake)


def test_folders_that_cannot_be_read_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {"a/1.png": flat(1), "b/2.png": flat(2)})
    closed(monkeypatch, "b", PermissionError(13, "Permission denied"))
    assert load(tmp_path).report.skipped == (("b", "no permission to read it"),)
    closed(monkeypatch, tmp_path.name, OSError(5, "Input/output error"))
    with pytest.raises(DataError, match=r"1 x cannot be read \(Input/output error\): \."):
        load(tmp_path)


RUN = {"config": {"net": {}}, "facts": {"fingerprint": "0123", "version": "0.1"}}


FOLDERS = ("cat", "dog", "runs/one/samples", "runs/two")


@pytest.mark.parametrize("pack", ["folder", "zip"])
def test_run_folders_are_left_out(tmp_path: Path, pack: str) -> None:
    files = {f"{name}/{i}.png": flat(10 * i) for i, name in enumerate(FOLDERS, 4)}
    files |= {"runs/one/config.json": json.dumps(RUN).encode(), "runs/two/config.json": json.dumps(RUN).encode()}
    source = fill(tmp_path / "x", files) if pack == "folder" else zipped(tmp_path / "x.zip", files)
    data = load(source)
    assert data.classes == ("cat", "dog")
    assert data.values[:, 0, 0, 0].tolist() == [40, 50]
    ends = "" if pack == "folder" else "/"
    assert data.report.notes == (
        f"run folders of softmix, which are no data, were left out: runs/one{ends}, runs/two{ends}",
    )
    assert not data.report.skipped


OTHER_CONFIGS = [
    b"{}",
    b"[]",
    b"[" * 100_000,
    b"\xff",
    b"",
    b'{"config": {}, "facts": {}}',
    b'{"config": 1, "facts": {"fingerprint": 1}}',
]


@pytest.mark.parametrize("config", OTHER_CONFIGS)
def test_the_config_of_another_program_does_not_make_a_run_folder(tmp_path: Path, config: bytes) -> None:
    data = load(fill(tmp_path, {"a/1.png": flat(1), "a/config.json": config, "b/2.png": flat(2)}))
    assert len(data) == 2
    assert [name for name, _ in data.report.skipped] == ["a/config.json"]


def test_a_run_folder_itself_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"config.json": json.dumps(RUN).encode(), "grid.png": flat(1)})
    with pytest.raises(DataError, match="is a run folder of softmix, not data; name the data that it was trained on"):
        load(tmp_path)


def test_a_run_of_today_is_recognised(tmp_path: Path) -> None:
    from softmix.config import from_json
    from softmix.train import Config, training

    fill(tmp_path, {f"pictures/{i}.png": encoded(np.full((8, 8), i, np.uint8)) for i in range(8)})
    tree = {"net": {"kind": "UNetSpec", "width": 8}, "head": {"kind": "PointHead"}, "loss": {"kind": "Square"}}
    config = from_json(Config, {"task": {"kind": "Denoise"} | tree, "steps": 1, "batch": 2})
    before = load(tmp_path)
    list(training(before, config, tmp_path / "run"))
    assert (tmp_path / "run/config.json").is_file()
    fill(tmp_path, {"run/samples.png": flat(200, 8)})
    after = load(tmp_path)
    assert after.fingerprint == before.fingerprint
    assert "were left out: run" in after.report.notes[0]


def test_a_zip_of_members_that_cannot_be_opened(tmp_path: Path) -> None:
    source = zipped(tmp_path / "x.zip", {"a.png": flat(1), "run/config.json": json.dumps(RUN).encode()})
    content = bytearray(source.read_bytes())
    at = zipfile.ZipFile(source).getinfo("run/config.json").header_offset
    content[at : at + 4] = b"XXXX"
    source.write_bytes(content)
    data = load(source)
    assert len(data) == 1
    assert [name for name, _ in data.report.skipped] == ["run/config.json"]
