"""Schedules with a number for each element of x, and the inputs of `column`."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from softmix.process import PROCESSES, VE, VP, Flow, Gaussian, PerElement
from softmix.rng import Rng
from softmix.shape import column, take

F64 = torch.float64
EVERY = pytest.mark.parametrize("base", PROCESSES, ids=str)
PACES = torch.tensor([[[0.5]], [[1.0]], [[2.0]]], dtype=F64)
SHAPE = (3, 3, 3, 3)


def own(base: Gaussian, k: int, t: Tensor | float) -> Tensor:
    return torch.as_tensor(t, dtype=F64) ** float(PACES[k])


@EVERY
def test_each_channel_has_its_own_pace(base: Gaussian) -> None:
    process, t = PerElement(base, PACES), torch.tensor([0.1, 0.5, 1.0], dtype=F64)
    for mine, its in ((process.alpha, base.alpha), (process.sigma, base.sigma)):
        assert mine(t).shape == (3, 3, 1, 1) and mine(0.5).shape == (1, 3, 1, 1)
        for k in range(3):
            assert torch.allclose(mine(t)[:, k, 0, 0], its(own(base, k, t)), rtol=1e-12)
            assert torch.allclose(mine(0.5)[0, k, 0, 0], its(own(base, k, 0.5)), rtol=1e-12)


@EVERY
def test_the_clock_is_that_of_the_noisiest_element(base: Gaussian) -> None:
    process, t = PerElement(base, PACES), torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    assert process.per_element and not base.per_element
    assert torch.allclose(process.logsnr(t), base.logsnr(t.sqrt()), rtol=1e-12)
    assert torch.equal(process.logsnr(t), process.element_logsnr(t).amin((1, 2, 3)))
    assert torch.allclose(process.time(process.logsnr(t)), t, rtol=1e-9) and float(process.time(torch.inf)) == 0
    for k in range(3):
        assert torch.allclose(process.element_logsnr(t)[:, k, 0, 0], base.logsnr(own(base, k, t)), rtol=1e-12)
    assert torch.equal(base.element_logsnr(t), base.logsnr(t))


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_noise_uses_the_schedule_of_each_element(base: Gaussian, dtype: torch.dtype) -> None:
    """With B = C = H = W: an array is aligned with its channel, a time with its item."""
    process, t = PerElement(base, PACES), torch.tensor([0.2, 0.6, 1.0], dtype=F64)
    x0 = Rng(0, 3).normal(SHAPE, dtype)
    noised = process.noise(x0, t, Rng(1, 3))
    assert noised.xt.dtype == dtype and noised.t.shape == (3,)
    for item in range(3):
        for k in range(3):
            right = base.noise(x0, own(base, k, t), Rng(1, 3)).xt[item, k]
            assert torch.allclose(noised.xt[item, k], right, rtol=1e-5)


@EVERY
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_step_uses_the_schedule_of_each_element(base: Gaussian, eta: float) -> None:
    """Between scalar times, and between times per item."""
    process, (t, s) = PerElement(base, PACES), (0.8, 0.3)
    x, x0 = Rng(0, 3).normal(SHAPE, F64), Rng(1, 3).normal(SHAPE, F64)
    found = process.bridge(x, x0, t, s, Rng(2, 3), eta=eta)
    times = [torch.full((3,), each, dtype=F64) for each in (t, s)]
    assert torch.allclose(process.bridge(x, x0, *times, Rng(2, 3), eta=eta), found, rtol=1e-12)
    for k in range(3):
        ends = float(own(base, k, t)), float(own(base, k, s))
        right = base.bridge(x, x0, *ends, Rng(2, 3), eta=eta)[:, k]
        assert torch.allclose(found[:, k], right, rtol=1e-9)
        moved = base.transfer(x, x0, *ends)[:, k]
        assert torch.allclose(process.transfer(x, x0, t, s)[:, k], moved, rtol=1e-9)


@EVERY
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_bridge_to_zero_is_x0_in_every_element(base: Gaussian, eta: float) -> None:
    x, x0 = Rng(0, 3).normal(SHAPE), Rng(1, 3).normal(SHAPE)
    assert torch.equal(PerElement(base, PACES).bridge(x, x0, 0.5, 0.0, Rng(0, 3), eta=eta), x0)


@EVERY
def test_equal_pace_equals_the_base(base: Gaussian) -> None:
    process, x, x0 = PerElement(base, torch.ones(1, 1, 1)), Rng(0, 3).normal(SHAPE), Rng(1, 3).normal(SHAPE)
    assert torch.allclose(
        process.bridge(x, x0, 0.8, 0.3, Rng(2, 3)), base.bridge(x, x0, 0.8, 0.3, Rng(2, 3)), rtol=1e-5
    )
    assert torch.equal(process.prior(SHAPE, Rng(0, 3)), base.prior(SHAPE, Rng(0, 3)))


def test_an_invalid_step_of_arrays_is_refused() -> None:
    process, x = PerElement(VP(), PACES), torch.zeros(SHAPE)
    with pytest.raises(ValueError, match="s < t"):
        process.bridge(x, x, 0.4, 0.5, Rng(0, 3))
    with pytest.raises(ValueError, match="eta"):
        process.bridge(x, x, 0.5, 0.4, Rng(0, 3), eta=1.1)


@pytest.mark.parametrize(
    "power", [torch.zeros(2), torch.tensor([1.0, -1.0]), torch.tensor([1.0, torch.inf]), torch.tensor(2.0)]
)
def test_an_invalid_power_is_refused(power: Tensor) -> None:
    with pytest.raises(ValueError, match="powers above 0 were expected"):
        PerElement(VP(), power)


def test_a_base_per_element_is_refused() -> None:
    with pytest.raises(ValueError, match="PerElement has a schedule for each element already"):
        PerElement(PerElement(VP(), PACES), PACES)


@dataclass(frozen=True)
class Nameless(Gaussian):
    """A custom process with arrays and without a clock."""

    def alpha(self, t: Tensor | float) -> Tensor:
        return 1 - self.sigma(t) / 2

    def sigma(self, t: Tensor | float) -> Tensor:
        return torch.as_tensor(t, dtype=F64).reshape(-1, 1) * torch.tensor([1.0, 0.5], dtype=F64)

    def time(self, logsnr: Tensor | float) -> Tensor:
        return torch.as_tensor(logsnr)


def test_arrays_without_a_clock_are_refused() -> None:
    with pytest.raises(TypeError, match=r"clock of Nameless .* number for each element.*`logsnr` and `time`"):
        Nameless().logsnr(0.5)
    right = 2 * (torch.tensor([0.75, 0.875]) / torch.tensor([0.5, 0.25])).log()
    assert torch.allclose(Nameless().element_logsnr(0.5), right.double()[None])


# `column` and `take`


def test_an_array_of_the_rank_of_x_is_unchanged() -> None:
    x = torch.zeros(SHAPE)
    for shape in ((1, 3, 1, 1), (3, 3, 3, 3), (1, 1, 3, 3), (3, 1, 1, 1)):
        value = Rng(0, shape[0]).normal(shape, F64)
        assert torch.equal(column(value, x), value.float())
    assert column(torch.arange(3), x).shape == (3, 1, 1, 1)


@pytest.mark.parametrize("shape", [(3, 3), (3, 3, 3), (2, 3, 1, 1), (1, 2, 3, 3), (4,), (1,)])
def test_an_array_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    """[3, 3] would align with the last axes of [3, 3, 3, 3] without an error."""
    with pytest.raises(ValueError, match=r"one number per item was expected, shape \[3\], or an array"):
        column(torch.ones(shape), torch.zeros(SHAPE))


@dataclass(frozen=True)
class Record:
    """A condition that is not a tensor."""

    label: Tensor

    def take(self, items: Tensor | slice) -> Record:
        return Record(self.label[items])


def test_take_selects_items_of_a_tensor_a_record_or_none() -> None:
    label, items = torch.tensor([5, 6, 7]), torch.tensor([2, 0])
    assert take(label, items).tolist() == [7, 5] and take(label, slice(1, 3)).tolist() == [6, 7]
    assert take(Record(label), items).label.tolist() == [7, 5]
    assert take(None, items) is None


def test_noised_take_works_with_conditions_that_are_not_tensors() -> None:
    noised = Flow().noise(torch.zeros(3, 2), 0.5, Rng(0, 3), Record(torch.tensor([5, 6, 7])))  # type: ignore[arg-type]
    assert noised.take(torch.tensor([2, 0])).cond.label.tolist() == [7, 5]  # type: ignore[union-attr]


def test_ve_keeps_its_signal_in_every_element() -> None:
    assert torch.equal(PerElement(VE(), PACES).alpha(torch.tensor(0.3)), torch.ones(1, 3, 1, 1, dtype=F64))
