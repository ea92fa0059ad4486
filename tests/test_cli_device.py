"""The command line: a model goes to the accelerator before it is asked there.

The accelerator is torch's "meta" device, which computes nothing: what would compute is replaced by spies.
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

# rooms that have a function of the same name
DRAW, TRAIN = sys.modules["softmix.cli.draw"], sys.modules["softmix.train"]
META = torch.device("meta")


class Enough(Exception):
    """What was to be seen has been seen."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    np.save(folder / "data.npy", np.random.default_rng(0).integers(0, 255, (100, 8, 8), dtype=np.uint8))
    tiny = ["--steps", "1", "--set", "net.width=8", "batch=4", "optimiser.warmup=1"]
    main(["train", str(folder / "data.npy"), "--model", "plain", "--out", str(folder / "run"), *tiny])
    return folder / "run"


def devices(denoiser: Any) -> set[torch.device]:
    return {weight.device for weight in denoiser.parameters()}


def test_samples_are_drawn_where_the_model_was_brought(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def drawn(denoiser: Any, sampler: Any, n: int, *more: Any) -> torch.Tensor:
        seen.append((devices(denoiser), more[-1]))
        return torch.zeros(n, 1, 8, 8)

    monkeypatch.setattr(TRAIN, "find_device", lambda: META)
    monkeypatch.setattr(DRAW, "drawn", drawn)
    main(["sample", str(run), "--out", str(tmp_path / "x.npy"), "--n", "2"])
    assert seen == [({META}, META)]
    assert np.load(tmp_path / "x.npy").shape == (2, 8, 8)


def test_a_run_is_measured_where_its_model_was_brought(
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
