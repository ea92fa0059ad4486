"""Papers written by an outsider, trained by several processes: the run equals that of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from softmix.data import load
from softmix.train import Config, training

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
STEPS = 32
# the order of sums: see tests/train/test_train_parallel.py
NEAR = 2e-4

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
import adversarial as paper
from softmix.train import TrainingError, join_processes, leave_processes, training
config = paper.config({steps})
try:
    for step in training(paper.source(Path()), config, sys.argv[2], shard=sys.argv[3] == "shard", parts=paper.PARTS):
        pass
except TrainingError as error:
    print(error, file=sys.stderr)
    raise SystemExit(3)
leave_processes()
"""


def several(out: Path, how: str = "") -> subprocess.CompletedProcess[str]:
    script = out.parent / "script.py"
    script.write_text(SCRIPT.format(steps=STEPS))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONWARNINGS": "ignore"}
    words = [sys.executable, *launch, str(script), str(HERE), str(out), how]
    return subprocess.run(words, env=os.environ | threads, capture_output=True, text=True, check=False)


def end(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {file.stem: load_file(file) for file in (run / f"checkpoints/step-{STEPS:06d}").glob("*.safetensors")}


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def alone(out: Path, config: Config, parts: Sequence[type]) -> None:
    for _ in training(load("toy:grid", limit=2000), config, out, parts=parts):
        pass


def test_two_processes_train_a_rival_like_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    paper = import_module("adversarial")
    done = several(tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    alone(tmp_path / "one", paper.config(STEPS), paper.PARTS)
    alone(tmp_path / "half", replace(paper.config(STEPS), batch=32), paper.PARTS)
    one, two, half = (end(tmp_path / name) for name in ("one", "two", "half"))
    assert one.keys() == two.keys() == {"model", "rival", "optimizer", "optimizer-rival", "ema-0.050", "ema-0.100"}
    for entry in one:
        assert apart(one[entry], two[entry]) < NEAR, entry
    # a wrong result: each process trained on its own half alone
    assert min(apart(one[entry], half[entry]) for entry in ("model", "rival")) > 5 * NEAR


def test_sharding_of_several_modules_is_refused(tmp_path: Path) -> None:
    done = several(tmp_path / "run", "shard")
    assert done.returncode != 0
    assert "shard divides the weights of one model, and this run trains model, rival: leave it out" in done.stderr
    assert not (tmp_path / "run").exists()
