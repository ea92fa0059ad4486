"""No operation of the library is without a fixed order of sums on a GPU, and a run resumes there with the same bits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import softmix
from agreement import PARTS, Part, components
from softmix.data import load
from softmix.train import preset

# cuBLAS reads it when the first product runs
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# the operations that torch refuses on a GPU under use_deterministic_algorithms, by the beginning of their names in aten
REFUSED = (
    "_adaptive_avg_pool",
    "adaptive_max_pool2d_backward",
    "avg_pool3d_backward",
    "fractional_max_pool",
    "max_unpool",
    "upsample_linear1d_backward",
    "upsample_bilinear2d_backward",
    "upsample_bicubic2d_backward",
    "upsample_trilinear3d_backward",
    "reflection_pad",
    "nll_loss2d",
    "_ctc_loss_backward",
    "put_",
    "histc",
    "median.dim",
    "grid_sampler",
    "scatter_reduce.two",
)


class Refused(TorchDispatchMode):
    """Collects the names of operations that a GPU refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        of_floats = name.startswith("cumsum") and args[0].is_floating_point() and "dtype" not in (kwargs or {})
        if of_floats or name.startswith(REFUSED):
            self.names.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("part", [part for part in PARTS if part.kind not in ("metric", "hub", "codec")], ids=str)
def test_a_part_has_no_operation_that_a_gpu_refuses(part: Part) -> None:
    with Refused() as refused:
        part.compute(torch.device("cpu"))
    assert not refused.names


def test_a_draw_of_a_category_has_none_either() -> None:
    with Refused() as refused:
        components(torch.device("cpu"))
    assert not refused.names


def test_the_list_finds_a_pooling_and_a_sum_of_floats() -> None:
    x = torch.ones(1, 1, 7, 7, requires_grad=True)
    with Refused() as refused:
        torch.nn.functional.adaptive_avg_pool2d(x, 4).sum().backward()
        torch.ones(3).cumsum(0)
    assert refused.names == {"_adaptive_avg_pool2d.default", "_adaptive_avg_pool2d_backward.default", "cumsum.default"}


@pytest.fixture
def fixed_order() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("fixed_order")
@pytest.mark.parametrize("name", ["smd", "plain", "mixture", "meanflow"])
def test_a_run_resumes_on_a_card_with_the_same_bits(name: str, device: torch.device, tmp_path: Path) -> None:
    if device.type == "cpu":
        pytest.skip("give a card by --device cuda; tests/train/test_train_resume.py has this test for the CPU")
    data = load("digits")
    config = preset(name, data.shape).but(steps=8, batch=32, save=4)  # type: ignore[arg-type]
    whole = softmix.train(data, config, tmp_path / "whole")
    for step in softmix.training(data, config, tmp_path / "parts"):
        if step.step == 5:
            break
    parts = softmix.train(data, config, tmp_path / "parts")
    assert whole.fingerprint == parts.fingerprint
