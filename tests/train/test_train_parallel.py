"""Several processes make the same run as one, and if one is lost the others say so and end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from softmix.data import load
from softmix.train import TrainingError, preset, training

pytestmark = pytest.mark.slow
# a net whose loss asks for part of it first, keeps a copy half way, and compares items of a piece with each other
RUN = ["train", "digits", "--steps", "32", "--limit", "400"]
SET = ["--set", "net.width=8", "batch=16", "save=8", "show=100", "precision=fp32", "optimiser.warmup=2"]
# the order of sums; measured: 1e-5 for DDP and 4e-5 for FSDP2, and 1e-2 where the pieces of a batch are others
NEAR = 2e-4


def command(out: Path, processes: int, *more: str) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    return [sys.executable, *launch, "-m", "softmix", *RUN, "--out", str(out), *more, *SET]


def env() -> dict[str, str]:
    # torch takes MKL's number where the environment has one
    count = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return os.environ | count | {"OMP_WAIT_POLICY": "passive", "PYTHONWARNINGS": "ignore"}


def run(out: Path, processes: int, *more: str) -> None:
    done = subprocess.run(command(out, processes, *more), env=env(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def end(run: Path, entry: str = "model") -> dict[str, torch.Tensor]:
    last = sorted((run / "checkpoints").glob("step-??????"))[-1]
    assert last.name == "step-000032"
    return load_file(last / f"{entry}.safetensors")


def apart(a: Path, b: Path, entry: str = "model") -> float:
    left, right = end(a, entry), end(b, entry)
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process with two pieces of each batch, as two processes have."""
    out = tmp_path_factory.mktemp("one") / "run"
    run(out, 1, "--set", "optimiser.accumulate=2")
    return out


@pytest.mark.parametrize("more", [(), ("--shard",)], ids=["DDP", "FSDP2"])
def test_two_processes_make_the_run_of_one(alone: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    run(tmp_path / "two", 2, *more)
    for entry in ("model", "ema-0.050", "ema-0.100", "optimizer", "kept"):
        assert apart(alone, tmp_path / "two", entry) < NEAR


def test_weights_are_not_shared_out_among_one(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="start it with torchrun"):
        next(training(load("digits"), preset("plain", (1, 8, 8)), tmp_path / "run", shard=True))
    assert not (tmp_path / "run").exists()


def test_the_tolerance_detects_another_division_of_the_batch(alone: Path, tmp_path: Path) -> None:
    run(tmp_path / "whole", 1)
    assert apart(alone, tmp_path / "whole") > 5 * NEAR


def until(what: Callable[[], bool], seconds: float = 60) -> None:
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds, "it did not come to that"
        time.sleep(0.02)


def workers(launcher: int) -> list[int]:
    """The processes that a launcher has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == launcher:
            found.append(int(path.parent.name))
    return sorted(found)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the workers are found in /proc")
def test_a_lost_process_ends_the_run_and_any_number_resumes_it(tmp_path: Path) -> None:
    plain, out = ("--model", "plain"), tmp_path / "run"
    run(tmp_path / "alone", 1, *plain)
    with (tmp_path / "said").open("w") as said:
        launcher = subprocess.Popen(command(out, 2, *plain), env=env(), stderr=said, stdout=said)
        until(lambda: (out / "checkpoints" / "step-000008").is_dir() or launcher.poll() is not None)
        os.kill(workers(launcher.pid)[-1], signal.SIGKILL)
        began = time.monotonic()
        assert launcher.wait(60) != 0
        assert time.monotonic() - began < 60
    assert "lost the connection to the others" in (tmp_path / "said").read_text()
    assert not (out / "checkpoints" / "step-000032").exists()
    middle = shutil.copytree(out, tmp_path / "middle")
    run(out, 1, *plain)
    assert apart(tmp_path / "alone", out) < NEAR
    # more processes than it began with, each with parts of the weights
    run(middle, 3, *plain, "--shard")
    assert apart(tmp_path / "alone", middle) < NEAR


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the workers are found in /proc")
def test_several_processes_save_on_a_signal_and_resume(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with (tmp_path / "said").open("w") as said:
        launcher = subprocess.Popen(command(out, 2), env=env(), stderr=said, stdout=said)
        until(lambda: (out / "checkpoints" / "step-000008").is_dir() or launcher.poll() is not None)
        # held while the launcher passes the signal on: a quick machine would be at the end before it
        held = workers(launcher.pid)
        for worker in held:
            os.kill(worker, signal.SIGSTOP)
        launcher.send_signal(signal.SIGTERM)
        time.sleep(1)
        for worker in held:
            os.kill(worker, signal.SIGCONT)
        assert launcher.wait(60) != 0
    assert "and saved" in (tmp_path / "said").read_text()
    run(out, 2)
    assert apart(alone, out) < NEAR
