"""Sampling with too little memory: `sample` halves its batch, and the samples stay the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softmix.memory import NotEnoughMemoryError
from softmix.oracle import gaussian
from softmix.posterior import Posterior
from softmix.sampler import ancestral, sample


class Small:
    """The exact denoiser of a Gaussian with memory for `most` items at a time."""

    def __init__(self, most: int, message: str = "CUDA out of memory. Tried to allocate 2.00 GiB"):
        self.most, self.message = most, message
        self.exact = gaussian().denoiser()
        self.process, self.shape = self.exact.process, (2,)
        self.batches: list[int] = []

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        self.batches.append(len(xt))
        if len(xt) > self.most:
            raise RuntimeError(self.message)
        return self.exact(xt, t)


def drawn(denoiser: Small, n: int = 21, batch: int = 16) -> Tensor:
    return sample(denoiser, n, 1, sampler=ancestral, seed=3, batch=batch)


def test_the_batch_is_halved_until_it_fits_and_stays_so() -> None:
    small = Small(5)
    with pytest.warns(UserWarning, match="do not fit into the memory"):
        drawn(small)
    assert small.batches == [16, 8, 4, 4, 4, 4, 4, 1]


def test_the_samples_do_not_depend_on_the_memory() -> None:
    with pytest.warns(UserWarning):
        few = drawn(Small(3))
    assert torch.equal(few, drawn(Small(100)))


def test_a_warning_names_both_batch_sizes() -> None:
    with pytest.warns(UserWarning, match="16 samples at a time do not fit into the memory; now 8"):
        drawn(Small(8))


def test_a_last_small_batch_that_fails_is_divided_too() -> None:
    small = Small(2)
    with pytest.warns(UserWarning):
        assert len(drawn(small, n=3, batch=16)) == 3
    assert small.batches == [3, 2, 1]


def test_a_memory_too_small_for_one_item_is_an_error_with_a_sentence() -> None:
    with (
        pytest.warns(UserWarning),
        pytest.raises(NotEnoughMemoryError, match=r"one sample at a time .*Tried to allocate"),
    ):
        drawn(Small(0))


def test_no_other_error_is_taken_for_a_lack_of_memory() -> None:
    small = Small(5, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        drawn(small)
    assert small.batches == [16]


def test_nothing_is_drawn_for_no_items() -> None:
    small = Small(5)
    assert drawn(small, n=0).shape == (0, 2)
    assert small.batches == []
