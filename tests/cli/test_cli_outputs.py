"""Tests of output files and of the bounds of numbers."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from softmix.cli.common import (
    INT64,
    UsageError,
    require_memory,
    require_positive,
    require_real,
    require_some,
    require_whole,
)
from softmix.cli.outputs import (
    OutputError,
    atomic_file,
    atomic_folder,
    require_empty_folder,
    require_writable_file,
    require_writable_folder,
    write_text,
)

CHECKS = [require_writable_file, require_writable_folder, require_empty_folder]


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("check", CHECKS)
def test_a_writable_output_passes_and_nothing_is_left(check: Callable[[Path], None], tmp_path: Path) -> None:
    check(tmp_path / "a" / "b" / "c.png")
    check(tmp_path / "d")
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    check(tmp_path / "link" / "f")
    assert below(tmp_path) == ["link", "there"]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    "name", ["/proc/x.png", "/proc/self/x/y.png", "n" * 300, "a/" + "n" * 300 + ".png", "nul\0.png"]
)
def test_an_output_that_cannot_be_written_is_refused(check: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        check(tmp_path / name)
    assert below(tmp_path) == []


@pytest.mark.parametrize("check", CHECKS)
def test_a_file_as_parent_is_refused(check: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UsageError, match="Not a directory"):
        check(tmp_path / "file" / "x.png")
    assert (tmp_path / "file").read_text() == "kept"


def test_an_output_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is a folder"):
        require_writable_file(tmp_path)
    with pytest.raises(UsageError, match="a pipe"):
        require_writable_file(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is a file"):
        require_writable_folder(tmp_path / "file")
    with pytest.raises(UsageError, match="not empty"):
        require_empty_folder(tmp_path)
    require_writable_file(tmp_path / "file")
    require_writable_folder(tmp_path)


def test_a_read_only_place_is_refused(small_disk: Callable[[str], Path]) -> None:
    import subprocess

    disk = small_disk("64k")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for check in CHECKS:
        with pytest.raises(UsageError, match="Read-only"):
            check(disk / "x" / "y.png")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "new" / "x.txt"
    with atomic_file(out) as part:
        part.write_text("one")
        assert not out.exists()
        assert part.suffix == ".txt"
        made = part.stat().st_ino
    # The same file under another name: a copy could be cut off.
    assert out.read_text() == "one"
    assert out.stat().st_ino == made
    for error in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(error), atomic_file(out) as part:
            part.write_text("two")
            raise error
    assert out.read_text() == "one"
    assert below(tmp_path) == ["new", "new/x.txt"]
    (tmp_path / "link").symlink_to(out)
    write_text(tmp_path / "link", "three")
    assert (tmp_path / "link").is_symlink()
    assert out.read_text() == "three"
    assert stat.S_IMODE(out.stat().st_mode) & 0o077 == stat.S_IMODE((out.parent).stat().st_mode) & 0o044


def test_a_full_disk_leaves_nothing(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("64k")
    with pytest.raises(OutputError, match="No space left"), atomic_file(disk / "x.bin") as part:
        part.write_bytes(b"x" * 100_000)
    assert below(disk) == []
    with pytest.raises(OutputError, match="No space left"), atomic_folder(disk / "x") as folder:
        for k in range(10):
            (folder / str(k)).write_bytes(b"x" * 10_000)
    assert below(disk) == []


def test_all_files_move_into_the_folder_or_none(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with atomic_folder(out) as part:
        (part / "0").touch()
    with atomic_folder(out) as part:
        (part / "1").touch()
        assert below(out) == ["0"]
    assert below(tmp_path) == ["a", "a/b", "a/b/0", "a/b/1"]


def test_bounds_of_whole_numbers() -> None:
    require_whole(0, 5, first=0, last=5, unsaid=None)
    require_positive(n=1, steps=INT64)
    for bad, says in (({"to_class": -1}, "--to-class -1 .* at least 0"), ({"n": 6}, "--n 6 .* at most 5")):
        with pytest.raises(UsageError, match=says):
            require_whole(0, 5, **bad)
    for n in (0, INT64 + 1):
        with pytest.raises(UsageError, match="--n"):
            require_positive(n=n)


def test_bounds_of_real_numbers() -> None:
    require_real(0, 1, a=0.0, b=1.0, unsaid=None)
    require_real(a=-1e300)
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(UsageError, match=r"--guidance .* a finite number"):
            require_real(guidance=value)
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="at least 0 and at most 1"):
            require_real(0, 1, eta=value)
    with pytest.raises(UsageError, match=r"at least 0$"):
        require_real(0, minutes=-1)


def test_an_empty_list_and_too_much_memory_are_refused() -> None:
    require_some(steps=(1,))
    with pytest.raises(UsageError, match="--steps was given nothing"):
        require_some(steps=())
    require_memory("two bytes", 2)
    with pytest.raises(UsageError, match=r"such samples take 1,024.0 GB of memory, and this machine has"):
        require_memory("such samples", 2**40)
