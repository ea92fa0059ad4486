"""A limit of the memory, so that a lack of it is an error and not the end of the process."""

from __future__ import annotations

import resource

import pytest
import torch

from softmix.memory import is_memory_error
from softmix.train import memory
from softmix.train.memory import within_free_memory

_FREE, _MORE = 200 * 2**20, 400 * 2**20


def limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_AS)


def test_more_memory_than_is_free_is_an_error_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    if memory.free_memory() is None:
        pytest.skip("this system does not say how much memory is free")
    monkeypatch.setattr(memory, "free_memory", lambda: _FREE)
    before = limits()
    with within_free_memory(torch.device("cpu")):
        torch.empty(_FREE // 4, dtype=torch.uint8, device="cpu")
        with pytest.raises(RuntimeError) as failed:
            torch.empty(_MORE, dtype=torch.uint8, device="cpu")
    assert is_memory_error(failed.value)
    assert limits() == before
    torch.empty(_MORE, dtype=torch.uint8, device="cpu")


def test_the_limit_is_that_of_before_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: _MORE)
    before = limits()
    with pytest.raises(KeyError), within_free_memory(torch.device("cpu")):
        raise KeyError
    assert limits() == before


@pytest.mark.parametrize(("device", "free"), [("cpu", None), ("meta", _FREE)])
def test_there_is_no_limit_for_an_accelerator_and_where_nothing_is_known(
    device: str, free: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    before = limits()
    with within_free_memory(torch.device(device)):
        assert limits() == before
