"""For all tests: one thread, fixed examples of properties, the device, and the checks of contracts.

Two processes with two threads each on two cores are far slower than two processes with one thread each.
"""

from __future__ import annotations

import contextlib
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

_ON_THE_CPU = frozenset(
    f"test_{name}.py"
    for name in (
        # they choose their devices themselves, or test settings of the process on the CPU
        *("device_guard", "pretend_device", "agreement", "deterministic", "precision", "evaluate_memory"),
        # it counts kernels with a stand-in for an accelerator
        "net_kernels",
        # a source reads and stores its items on the host
        *("data_load", "data_resident", "data_sources", "data_torch_dataset"),
    )
)

# They test the steps that the host decides, and the lanes of a batch, which are those of a CPU. Their trainings run on
# the CPU on every machine. test_train_recorded.py and test_deterministic.py test the steps that a card decides.
_TRAININGS_ON_THE_CPU = frozenset(
    f"test_train_{name}.py" for name in ("changes", "feature", "modules", "resume", "step", "trial")
)

# they make data for runs, which live on the host: a run takes them to its device itself. An edit runs on the CPU.
_DATA_ON_THE_HOST = _TRAININGS_ON_THE_CPU | frozenset(
    f"test_{name}.py"
    for name in (
        "cli_edit",
        "train_checkpoint",
        # it replaces the accelerator by the device meta, and the items of a step are then numbers of the host
        "train_device",
        "train_feed",
        "train_progress_bar",
        "train_recorded",
    )
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--contracts", action="store_true", help="check shapes at every call of a contract method")
    parser.addoption(
        "--device",
        default="cpu",
        help="the device of the tensors that tests make: cpu, cuda, or pretend (see tests/pretend_device.py)",
    )
    parser.addoption("--device-guard", action="store_true", help="run every test with the fixture on_device")
    parser.addoption(
        "--no-device-guard", action="store_true", help="allow tensors that the library makes without a device"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the device "pretend" known before any backward pass: torch starts a thread for each device in the first."""
    if config.getoption("--device") == "pretend":
        from pretend_device import NoCompilerError, install

        with contextlib.suppress(NoCompilerError):  # the fixture `device` skips the tests
            install()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --device-guard, or on another device than the CPU, every test uses the fixture on_device, and those of the
    commands always: they reach tensors through every room."""
    for item in items:
        if item.path.name in _TRAININGS_ON_THE_CPU:
            item.fixturenames.insert(0, "no_accelerator")  # type: ignore[attr-defined]
    every = config.getoption("--device") != "cpu" or config.getoption("--device-guard")
    for item in items:
        if item.path.name in _ON_THE_CPU or not (every or item.path.parent.name == "cli"):
            continue
        if item.path.name in _DATA_ON_THE_HOST and config.getoption("--device") != "cpu":
            # not on_device: only the run itself is on the device
            item.fixturenames.insert(0, "device")  # type: ignore[attr-defined]
            continue
        item.add_marker(pytest.mark.usefixtures("on_device"))
        # first, so that the fixtures of a test file make their tensors on the device too
        item.fixturenames.insert(0, "on_device")  # type: ignore[attr-defined]
    if config.getoption("--device") == "pretend":
        skip_where_pretend_cannot(items)


def skip_where_pretend_cannot(items: list[pytest.Item]) -> None:
    """Skip the tests that the device "pretend" cannot run, with the reason."""
    from pretend_device import NOT_HERE

    for item in items:
        for (file, name), reason in NOT_HERE.items():
            if item.path.as_posix().endswith(file) and item.name.startswith(name):
                item.add_marker(pytest.mark.skip(reason=f"on the device 'pretend': {reason}"))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of the option --device; the test is skipped if this machine has none."""
    name = request.config.getoption("--device")
    try:
        if name == "pretend":
            from pretend_device import install

            install()
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        pytest.skip(f"--device {name} was asked for, and this machine has none: {error}")
    return device


@pytest.fixture
def on_device(request: pytest.FixtureRequest, device: torch.device) -> Iterator[None]:
    """Make all tensors of the test on `device`, and refuse tensors that the library makes without a device.

    The device "pretend" refuses the use of such a tensor, so the making is only refused with --device-guard.
    """
    from device_guard import on_device
    from device_move import constants_on

    refuse = device.type != "pretend" or request.config.getoption("--device-guard")
    refuse = refuse and not request.config.getoption("--no-device-guard")
    with constants_on(device), on_device(device, refuse=refuse):
        yield


@pytest.fixture
def no_accelerator() -> Iterator[None]:
    """`softmix.train.find_device` returns the CPU, under every name that a module imports it by.

    A process that the test starts needs CUDA_VISIBLE_DEVICES="".
    """
    # not the fixture monkeypatch, because a test may undo that
    with pytest.MonkeyPatch.context() as here:
        here.setattr(torch.accelerator, "is_available", lambda: False)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Move the parameters of a test, and the values of its fixtures, to the device."""
    from device_move import moved

    arguments: dict[str, object] = getattr(item, "funcargs", {})
    device = arguments.get("device")
    if "on_device" in arguments and isinstance(device, torch.device) and device.type != "cpu":
        arguments.update(moved(arguments, device))


@pytest.fixture(scope="session", autouse=True)
def contracts(request: pytest.FixtureRequest) -> Iterator[None]:
    """With --contracts, every call of a contract method is checked, see tests/contracts.py."""
    if not request.config.getoption("--contracts"):
        yield
        return
    from contracts import held

    with held():
        yield


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a file system of a given size, such as "256k", at tmp_path / "disk"."""
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
