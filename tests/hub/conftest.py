"""Models trained for a few steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import softmix
from softmix.data import load
from softmix.train import Model, preset


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """Preset name -> a model of digits after 8 steps."""
    data, folder = load("digits"), tmp_path_factory.mktemp("runs")

    def make(name: str, classes: bool = False, **more: Any) -> Model:
        config = preset(name, data.shape).but(steps=8, batch=32, classes=classes, **more)  # type: ignore[arg-type]
        return softmix.train(data, config, folder / f"{name}-{classes}-{len(more)}")

    return make
