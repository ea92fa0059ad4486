"""Tests of the settings that `softmix train` takes from another run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from softmix.cli.settings import BaseRun, items_of
from softmix.data import load
from softmix.train import Run, facts_of, preset


def colours(folder: Path, count: int, side: int) -> Path:
    folder.mkdir()
    for k, array in enumerate(np.random.default_rng(count).integers(0, 256, (count, side, side, 3), dtype=np.uint8)):
        Image.fromarray(array).save(folder / f"{k:03d}.png")
    return folder


def test_a_run_that_starts_from_another_reads_data_in_its_size_and_channels_without_its_limit(
    tmp_path: Path,
) -> None:
    first = load(colours(tmp_path / "first", 9, 10), size=8, channels=1, limit=5)
    config = preset("plain", first.shape)
    lender = BaseRun(tmp_path / "run", Run(config, facts_of(first, config)), "start")
    second = items_of(str(colours(tmp_path / "second", 12, 16)), lender, {"size": None})
    assert second.shape == (1, 8, 8)
    assert len(second) == 12
    assert second.fingerprint == load(tmp_path / "second", size=8, channels=1).fingerprint
    # Given options have precedence.
    assert items_of(str(tmp_path / "second"), lender, {"size": 4, "limit": 3}).shape == (1, 4, 4)
    # The limit is a part of a configuration that is repeated.
    again = items_of(str(tmp_path / "second"), BaseRun(lender.folder, lender.run, "config"), {})
    assert again.shape == (1, 8, 8)
    assert len(again) == 5
