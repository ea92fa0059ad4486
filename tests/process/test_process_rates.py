"""d alpha / dt and d sigma / dt of every process, against finite differences."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from softmix.process import PROCESSES, VE, VP, Flow, Gaussian, PerElement, Table

F64 = torch.float64
SMOOTH = [process for process in PROCESSES if not isinstance(process, Table)]
PACES = torch.tensor([[[0.5]], [[1.0]], [[2.5]]], dtype=F64)


@dataclass(frozen=True)
class Written(Gaussian):
    """A custom process without its own rates: alpha = 1 - t^2 / 2, sigma = t^1.5, and arrays of it."""

    arrays: bool = False

    def _part(self, t: Tensor | float) -> Tensor:
        t = torch.as_tensor(t, dtype=F64)
        return t.reshape(-1, 1) * torch.tensor([1.0, 0.5], dtype=F64) if self.arrays else t

    def alpha(self, t: Tensor | float) -> Tensor:
        return 1 - self._part(t) ** 2 / 2

    def sigma(self, t: Tensor | float) -> Tensor:
        return self._part(t) ** 1.5

    def time(self, logsnr: Tensor | float) -> Tensor:
        raise NotImplementedError


def differences(process: Gaussian, t: Tensor, gap: float = 1e-6) -> tuple[Tensor, Tensor]:
    """(f(t + gap) - f(t - gap)) / (2 gap) of alpha and sigma, with an error of size gap^2 and rounding / gap."""
    found = [(part(t + gap) - part(t - gap)) / (2 * gap) for part in (process.alpha, process.sigma)]
    return found[0], found[1]


def same(found: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> bool:
    return all(
        mine.shape == true.shape and torch.allclose(mine, true, rtol=2e-6, atol=2e-8)
        for mine, true in zip(found, right, strict=True)
    )


INNER = torch.linspace(0.02, 0.99, 60, dtype=F64)


@pytest.mark.parametrize("process", [*SMOOTH, Flow(end=0.0), VE(0.1, 3.0), Written()], ids=str)
def test_rates_are_the_slopes(process: Gaussian) -> None:
    assert same(process.rates(INNER), differences(process, INNER))


@pytest.mark.parametrize("process", [*SMOOTH, Written()], ids=str)
def test_a_rate_at_one_time_is_a_number(process: Gaussian) -> None:
    for t in (0.3, torch.tensor(0.3, dtype=F64)):
        assert all(part.shape == () and part.dtype == F64 for part in process.rates(t))
    assert same(process.rates(0.3), differences(process, torch.tensor(0.3, dtype=F64)))


@pytest.mark.parametrize("process", SMOOTH, ids=str)
def test_rates_are_finite_at_the_end(process: Gaussian) -> None:
    """At t = 1 too, one-sided: (3 f(1) - 4 f(1 - h) + f(1 - 2 h)) / (2 h). The alpha of linear VP is 0.007 there."""
    gap = 1e-4
    for part, rate in zip((process.alpha, process.sigma), process.rates(1.0), strict=True):
        side = (3 * part(1.0) - 4 * part(1 - gap) + part(1 - 2 * gap)) / (2 * gap)
        # alpha of cosine and sigmoid falls as a root within 4.5e-5 of the end, too near for finite differences
        if (rate.abs() < 100 and float(process.alpha(1.0)) > 1e-3) or part == process.sigma:
            assert float(rate) == pytest.approx(float(side), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("base", [*SMOOTH, Flow(end=0.0)], ids=str)
def test_rates_per_element_are_the_slopes_of_each_element(base: Gaussian) -> None:
    process = PerElement(base, PACES)
    found = process.rates(INNER)
    assert same(found, differences(process, INNER)) and found[1].shape == (60, 3, 1, 1)


def test_rates_per_element_of_a_table_come_from_its_polynomial() -> None:
    table = Table.of_betas(torch.linspace(1e-4, 0.02, 1000, dtype=F64))
    process = PerElement(table, PACES)
    own = INNER[:, None, None, None] ** PACES
    right = PACES * own / INNER[:, None, None, None]
    for mine, its in zip(process.rates(INNER), table.rates(own), strict=True):
        assert torch.allclose(mine, right * its, rtol=1e-12)


def test_default_rates_work_per_element() -> None:
    found = Written(arrays=True).rates(INNER)
    assert same(found, differences(Written(arrays=True), INNER)) and found[0].shape == (60, 2)


def test_rates_need_no_gradients_and_carry_none() -> None:
    with torch.no_grad():
        inside = Written().rates(INNER)
    outside = Written().rates(INNER.clone().requires_grad_())
    assert torch.equal(inside[0], outside[0]) and not outside[0].requires_grad


def test_a_wrong_slope_is_detected() -> None:
    class Wrong(VP):
        def _share_slope(self, t: Tensor) -> Tensor:
            return 1.0001 * super()._share_slope(t)

    assert not same(Wrong().rates(INNER), differences(Wrong(), INNER))
