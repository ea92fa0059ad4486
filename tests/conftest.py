"""For all tests: one thread, since two processes with two threads each on two cores are far slower, and properties
whose examples are the same in every run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile(
    "fixed", derandomize=True, deadline=None, database=None, max_examples=100, suppress_health_check=[]
)
hypothesis.settings.load_profile("fixed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--contracts", action="store_true", help="check shapes at every call of a contract method")


@pytest.fixture(scope="session", autouse=True)
def contracts(request: pytest.FixtureRequest) -> Iterator[None]:
    """With --contracts, what tests/contracts.py says holds for every call that a test makes."""
    if not request.config.getoption("--contracts"):
        yield
        return
    from contracts import held

    with held():
        yield


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that gives a file system of this size, such as "256k", at tmp_path / "disk"."""
    disk = tmp_path / "disk"

    def mounted(size: str) -> Path:
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("a small tmpfs cannot be mounted here")
        return disk

    yield mounted
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)
