"""The device of the tests: their tensors go to the device, and a tensor of the library without a device is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import device_guard
from device_guard import LIBRARY, NoDeviceError, on_device
from softmix.rng import Rng

# It computes nothing, so it is on every machine.
META = torch.device("meta")


def library_function(body: str, file: str = "net/made_up.py") -> Callable[..., Any]:
    """A function `f(x)` that seems to be in a file of the library."""
    names: dict[str, Any] = {"torch": torch, "Rng": Rng}
    exec(compile(f"def f(x=None):\n    return {body}\n", str(LIBRARY / file), "exec"), names)
    made: Callable[..., Any] = names["f"]
    return made


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(2),
        lambda: torch.tensor([1.0, 2.0]),
        lambda: torch.arange(3),
        lambda: torch.randn(2, generator=torch.Generator().manual_seed(0)),
        lambda: Rng(0, 3),
        lambda: Rng(0, 3).normal((3, 2)),
    ],
)
def test_tensors_of_a_test_are_made_on_the_device(make: Callable[[], torch.Tensor]) -> None:
    with on_device(META):
        assert make().device == META
    assert make().device == torch.device("cpu")


def test_a_device_given_by_the_test_is_kept() -> None:
    with on_device(META):
        assert torch.zeros(2, device="cpu").device == torch.device("cpu")
        assert Rng(0, 3, device="cpu").device == torch.device("cpu")
        assert Rng(0, 3, "role", "cpu").device == torch.device("cpu")


def test_tensors_and_rng_of_the_library_are_not_moved() -> None:
    with on_device(META):
        assert library_function("torch.zeros(2)")().device == torch.device("cpu")
        assert library_function("Rng(0, 3)")().device == torch.device("cpu")


@pytest.mark.parametrize("body", ["torch.zeros(2)", "torch.arange(len(x))", "torch.tensor([1, 2])", "torch.eye(3)"])
def test_a_tensor_of_the_library_without_a_device_is_refused(body: str) -> None:
    with (
        on_device(torch.device("cpu"), refuse=True),
        pytest.raises(NoDeviceError, match=r"net/made_up\.py:2, f: .* without a device"),
    ):
        library_function(body)(torch.zeros(4))


@pytest.mark.parametrize(
    "body",
    [
        "torch.zeros(2, device=x.device)",
        "torch.zeros_like(x)",
        "torch.as_tensor(x)",
        "torch.tensor(0.5)",
        "x.new_ones(2)",
    ],
)
def test_a_tensor_with_a_device_and_a_scalar_are_allowed(body: str) -> None:
    with on_device(torch.device("cpu"), refuse=True):
        assert library_function(body)(torch.zeros(4)) is not None


def test_the_tensors_of_a_module_under_construction_are_allowed() -> None:
    class Holder(torch.nn.Module):
        def __init__(self, make: Callable[[], torch.Tensor]):
            super().__init__()
            self.register_buffer("values", make())

    with on_device(torch.device("cpu"), refuse=True):
        assert Holder(library_function("torch.zeros(2)")).values.shape == (2,)


def test_a_listed_function_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    make = library_function("torch.zeros(2)")
    for key in (("net/made_up.py", "f"), ("net/made_up.py", "*")):
        monkeypatch.setattr(device_guard, "ALLOWED", {key: "a reason"})
        with on_device(torch.device("cpu"), refuse=True):
            assert make().shape == (2,)
    monkeypatch.setattr(device_guard, "ALLOWED", {("net/made_up.py", "g"): "a reason"})
    with on_device(torch.device("cpu"), refuse=True), pytest.raises(NoDeviceError):
        make()


def test_every_allowed_function_has_a_reason_and_its_file() -> None:
    assert [key for key, reason in device_guard.ALLOWED.items() if not reason or not (LIBRARY / key[0]).is_file()] == []


def test_rng_and_mode_are_removed_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="inside"), on_device(META):
        raise RuntimeError("inside")
    assert Rng(0, 3).device == torch.device("cpu")
    assert torch.zeros(2).device == torch.device("cpu")
