"""Every constant and option of the grids, by their noise levels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmix.process import (
    GRIDS,
    VE,
    VP,
    Flow,
    Gaussian,
    Table,
    after_draw,
    even_logsnr,
    few,
    karras,
    rest,
    trailing,
    uniform,
    uniform_logsnr,
)

F64 = torch.float64
WIDE = pytest.mark.parametrize("process", [VP(), VP("linear"), VE(), Flow()], ids=str)
# a process that ends with nearly all of its signal, at a logsnr of log(0.99 / 0.01) = 4.6
BRIGHT = Table(torch.linspace(0.999, 0.99, 50, dtype=F64))


def levels(process: Gaussian, times: Tensor) -> Tensor:
    return process.logsnr(times)


def even(first: float, last: float, n: int) -> Tensor:
    return torch.linspace(first, last, n, dtype=F64, device="cpu")  # grids are on the CPU


def same(found: Tensor, right: Tensor) -> bool:
    return found.shape == right.shape and bool((found - right.cpu()).abs().max() < 1e-6)


def test_the_list_of_grids() -> None:
    assert (uniform, uniform_logsnr, few, after_draw, karras, trailing) == GRIDS


@WIDE
def test_the_default_grid_of_a_process_is_uniform_in_time(process: Gaussian) -> None:
    eighths = torch.tensor([1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0], dtype=F64)
    assert torch.equal(process.grid(8), eighths.cpu())


@WIDE
@pytest.mark.parametrize("n", [6, 7, 20])
def test_few_has_equal_steps_from_logsnr_minus_6_to_6(process: Gaussian, n: int) -> None:
    times = few(process, n)
    assert len(times) == n + 1 and times[0] == 1 and times[-1] == 0
    assert same(levels(process, times[1:-1]), even(-6.0, 6.0, n)[1:])


@WIDE
@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_ends_at_logsnr_n_for_n_below_6(process: Gaussian, n: int) -> None:
    assert same(levels(process, few(process, n)[1:-1]), even(-6.0, n, n)[1:])


@pytest.mark.parametrize("n", [2, 3])
def test_few_has_at_least_a_range_of_1_in_logsnr(n: int) -> None:
    first = float(BRIGHT.logsnr(1.0))
    assert same(levels(BRIGHT, few(BRIGHT, n)[:-1]), even(first, first + 1, n))


def test_few_begins_at_the_end_of_a_process_that_ends_above_minus_6() -> None:
    stable = Table.of_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=F64) ** 2)
    first = float(stable.logsnr(1.0))
    assert -6 < first < -5
    assert same(levels(stable, few(stable, 9)[:-1]), even(first, 6.0, 9))


@WIDE
@pytest.mark.parametrize(
    ("n", "right"),
    [(2, [2.0]), (3, [0.5, 3]), (4, [-1, 1.5, 4]), (6, [-2, 0, 2, 4, 6]), (7, [-2, -0.4, 1.2, 2.8, 4.4, 6])],
)
def test_after_a_draw_no_step_is_longer_than_2_5(process: Gaussian, n: int, right: list[float]) -> None:
    times = after_draw(process, n)
    assert len(times) == n + 1 and times[0] == 1 and times[-1] == 0
    assert same(levels(process, times[1:-1]), torch.tensor(right, dtype=F64, device="cpu"))


def test_the_second_time_may_be_chosen() -> None:
    assert same(levels(VP(), after_draw(VP(), 6, second=-1.0)[1:-1]), even(-1.0, 6.0, 5))


@pytest.mark.parametrize(("process", "n"), [(VP(), 1), (VP(), 8), (VE(), 20), (BRIGHT, 4)])
def test_without_a_draw_it_is_few(process: Gaussian, n: int) -> None:
    assert torch.equal(after_draw(process, n), few(process, n))


@WIDE
def test_uniform_logsnr_has_equal_steps_up_to_10(process: Gaussian) -> None:
    times = uniform_logsnr(process, 9)
    assert times[0] == 1 and times[-1] == 0
    assert same(levels(process, times[:-1]), even(float(process.logsnr(1.0)), 10.0, 9))


def test_uniform_logsnr_ends_at_last() -> None:
    assert same(levels(VP(), uniform_logsnr(VP(), 5, last=3.0)[1:-1]), even(-20.0, 3.0, 5)[1:])


def test_uniform_logsnr_never_turns_back() -> None:
    """A last level below the process's own end cannot be reached by falling times."""
    for process in (VE(), BRIGHT):
        end = float(process.logsnr(1.0))
        times = uniform_logsnr(process, 3, last=end - 5)
        assert float(times.max()) <= 1 and same(levels(process, times[:-1]), torch.full((3,), end, dtype=F64))


@WIDE
def test_karras_has_equal_steps_of_the_seventh_root_of_the_noise(process: Gaussian) -> None:
    ratio = (-levels(process, karras(process, 6)[:-1]) / 2).exp()
    high, low = math.exp(-float(process.logsnr(1.0)) / 2), math.exp(-5.0)
    assert torch.allclose(ratio ** (1 / 7), even(high ** (1 / 7), low ** (1 / 7), 6), rtol=1e-7)


def test_karras_with_another_root_and_another_end() -> None:
    ratio = (-levels(VE(), karras(VE(), 5, last=4.0, rho=2.0)[:-1]) / 2).exp()
    assert torch.allclose(ratio**0.5, even(80**0.5, math.exp(-2.0) ** 0.5, 5), rtol=1e-6)


@pytest.mark.parametrize("grid", [uniform_logsnr, karras])
def test_the_first_time_is_exactly_1(grid: object) -> None:
    """Also if the inverse of the clock has a rounding error, or a table's clock ends before its times."""
    dark = Table(torch.tensor([0.9, 0.5, 1e-9, 0.0], dtype=F64))
    for process in (VP(), VP("sigmoid"), dark):
        assert float(grid(process, 4)[0]) == 1.0  # type: ignore[operator]


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_trailing_has_a_thousand_training_steps_by_default(n: int) -> None:
    assert same(trailing(VP(), n) * 1000, torch.linspace(1000, 0, n + 1, dtype=F64).round())


def test_trailing_rounds_to_integer_steps() -> None:
    assert (trailing(VP(), 3, 10) * 10).tolist() == [10, 7, 3, 0]
    assert (trailing(VP(), 7, 10) * 10).round().tolist() == [10, 9, 7, 6, 4, 3, 1, 0]


def test_trailing_has_at_most_all_training_steps() -> None:
    assert same(trailing(VP(), 10, 10), torch.linspace(1, 0, 11, dtype=F64))
    with pytest.raises(ValueError, match="11 steps were asked for, but the model has 10"):
        trailing(VP(), 11, 10)
    with pytest.raises(ValueError, match="1001 steps were asked for, but the model has 1000"):
        trailing(VP(), 1001)


@WIDE
@pytest.mark.parametrize("first", [0.9, 0.4])
def test_rest_has_equal_steps_from_its_start_to_logsnr_6(process: Gaussian, first: float) -> None:
    times = rest(process, 6, first)
    low = float(process.logsnr(first))
    assert len(times) == 7 and times[0] == first and times[-1] == 0
    assert same(levels(process, times[:-1]), even(low, max(6.0, low + 1), 6))


def test_rest_goes_1_further_from_a_start_above_6() -> None:
    first = float(VP().time(8.0))
    assert same(levels(VP(), rest(VP(), 4, first)[:-1]), even(8.0, 9.0, 4))


def test_rest_begins_exactly_at_its_start() -> None:
    for first in (0.1, 0.3, 0.7, 0.99, 1.0):
        for process in (VP(), VP("sigmoid"), VE(), Flow()):
            assert float(rest(process, 2, first)[0]) == first


@pytest.mark.parametrize("first", [0.0, -0.1, 1.1])
def test_an_invalid_start_is_refused(first: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        rest(VP(), 3, first)


@WIDE
@pytest.mark.parametrize("n", [1, 2, 7])
def test_even_logsnr_has_equal_steps_between_its_levels(process: Gaussian, n: int) -> None:
    times = even_logsnr(process, n, -4.0, 9.0)
    assert len(times) == n + 1 and times[-1] == 0 and times.dtype == F64
    assert same(levels(process, times[:-1]), even(-4.0, 9.0, n))


def test_even_logsnr_refuses_falling_levels_and_zero_steps() -> None:
    with pytest.raises(ValueError, match=r"from 3 to 2 were asked for; they have to rise"):
        even_logsnr(VP(), 4, 3.0, 2.0)
    with pytest.raises(ValueError, match="at least 1"):
        even_logsnr(VP(), 0, 2.0, 3.0)
