"""Tests of `softmix sample` and `softmix evaluate`: the model moves to the accelerator before it is used.

The accelerator is the "meta" device of torch, which computes nothing. Spies replace the functions that compute.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import softmix.evaluate
from softmix.cli import main
from softmix.train.model import Model

# The package has a function with the name of the room.
TRAIN = sys.modules["softmix.train"]
META = torch.device("meta")


class Enough(Exception):
    """The spy has seen the device; the rest of the command is skipped."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    np.save(folder / "data.npy", np.random.default_rng(0).integers(0, 255, (100, 8, 8), dtype=np.uint8))
    tiny = ["--steps", "1", "--set", "net.width=8", "batch=4", "optimiser.warmup=1"]
    main(["train", str(folder / "data.npy"), "--model", "plain", "--out", str(folder / "run"), *tiny])
    return folder / "run"


def devices(denoiser: Any) -> set[torch.device]:
    return {weight.device for weight in denoiser.parameters()}


def test_samples_are_drawn_on_the_device_of_the_model(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def draw(asked: Any, denoiser: Any, sampler: Any, cond: Any, device: torch.device) -> torch.Tensor:
        seen.append((devices(denoiser), device))
        return torch.zeros(asked.n, 1, 8, 8)

    monkeypatch.setattr(TRAIN, "find_device", lambda: META)
    monkeypatch.setattr("softmix.cli.sample.draw", draw)
    main(["sample", str(run), "--out", str(tmp_path / "x.npy"), "--n", "2"])
    assert seen == [({META}, META)]
    assert np.load(tmp_path / "x.npy").shape == (2, 8, 8)


def test_a_run_is_measured_on_the_device_of_its_model(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def evaluate_model(denoiser: Any, *_: Any, **__: Any) -> None:
        seen.append(devices(denoiser))
        raise Enough

    monkeypatch.setattr(TRAIN, "find_device", lambda: META)
    monkeypatch.setattr(softmix.evaluate, "evaluate_model", evaluate_model)
    # "meta" has no numbers to take a hash of
    monkeypatch.setattr(Model, "fingerprint", property(lambda self: "0" * 12))
    with pytest.raises(Enough):
        main(["--debug", "evaluate", str(run), "--steps", "1", "--out", str(tmp_path / "x.html")])
    assert seen == [{META}]
