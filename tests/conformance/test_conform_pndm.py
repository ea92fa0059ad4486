"""PNDM: the times of the paper, schedules with little signal, and tables."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from softmix.oracle import correlated, order
from softmix.posterior import Point
from softmix.process import PROCESSES, VE, VP, Flow, Gaussian, Table, few, uniform
from softmix.rng import Rng
from softmix.sampler import Sampler, adams, ddim, drive, f_pndm, fon, label, plms, s_pndm, sample
from softmix.sampler.drive import finish
from softmix.sampler.pndm import MAX_SIGNAL_GROWTH, chain

F64 = torch.float64
PSEUDO = pytest.mark.parametrize("sampler", [plms, s_pndm, f_pndm], ids=label)


def squaredcos(steps: int = 1000) -> Table:
    """The cosine schedule of discrete models, each beta at most 0.999."""
    kept = [math.cos((k / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(steps + 1)]
    return Table.of_betas(torch.tensor([min(1 - b / a, 0.999) for a, b in pairwise(kept)], dtype=F64))


def without_signal() -> Table:
    """A schedule rescaled to zero terminal SNR."""
    root = squaredcos().alphas_cumprod.sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return Table(root**2)


DDPM = Table.of_betas(torch.linspace(1e-4, 0.02, 1000, dtype=F64))
LITTLE = [squaredcos(), without_signal(), VP(), Flow(), Flow(end=0.0), VE()]


class Normal:
    """The posterior for x0 ~ N(0, 0.25)."""

    def __init__(self, process: Gaussian):
        self.process = process

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Point:
        alpha, sigma = float(self.process.alpha(t)), float(self.process.sigma(t))
        return Point(xt * alpha * 0.25 / (alpha**2 * 0.25 + sigma**2))


def trailing(n: int) -> Tensor:
    return torch.tensor([round(1000 - k * 1000 / n) for k in range(n)] + [0], dtype=F64) / 1000


def spread(process: Gaussian, sampler: Sampler, times: Tensor) -> float:
    """The standard deviation of the samples from pure noise. The sampler is linear, so that it is exact."""
    x = torch.full((1, 1), float(process.sigma(times[0])), dtype=F64)
    return abs(float(finish(drive(Normal(process), sampler, x, times, Rng(0, 1)))))


TIMES = pytest.mark.parametrize(
    "times", [trailing, partial(few, VP()), partial(uniform, VP())], ids=["trailing", "few", "uniform"]
)


@PSEUDO
@TIMES
@pytest.mark.parametrize("process", LITTLE, ids=str)
def test_little_signal_at_the_end_of_a_schedule(sampler: Sampler, process: Gaussian, times) -> None:  # type: ignore[no-untyped-def]
    """The standard deviation is 0.5. With the noise combined over the first step, 10 trailing steps of the squared
    cosine had 3.8 with PLMS and 1.7e6 with F-PNDM; DDIM has 0.43 and 0.488 with 10 and 50.
    """
    at_10, at_50 = (spread(process, sampler, times(n)) for n in (10, 50))
    assert at_10 == pytest.approx(0.5, abs=0.12) and at_50 == pytest.approx(0.5, abs=0.03)


@PSEUDO
@pytest.mark.parametrize("process", [*PROCESSES, *LITTLE, DDPM], ids=str)
def test_any_grid_of_any_process_stays_in_range(sampler: Sampler, process: Gaussian) -> None:
    """From the least number of steps on, on grids even in t and on the grid of the method."""
    for n in (5, 6, 8, 20):
        for grid in (chain, uniform):
            assert spread(process, sampler, grid(process, n)) < 1.0, (grid, n)


def test_the_first_step_of_a_cosine_is_by_the_mean_and_the_rule_begins_after_it() -> None:
    """Exactly: the step of DDIM, and then the steps of the sampler from there."""
    process, times = squaredcos(), trailing(10)
    x = Rng(0, 5).normal((5, 3)).double()
    there = finish(drive(Normal(process), ddim, x, times[:2], Rng(0, 5)))
    for sampler in (plms, f_pndm):
        whole, rest = (
            finish(drive(Normal(process), sampler, at, grid, Rng(0, 5)))
            for at, grid in ((x, times), (there, times[1:]))
        )
        assert torch.equal(whole, rest)


@PSEUDO
def test_after_a_long_step_in_the_middle_the_rule_begins_anew(sampler: Sampler) -> None:
    """A grid with one long step: two steps, a step by the mean, and the steps of the sampler from there."""
    process, x = VP(), Rng(0, 5).normal((5, 3)).double()
    times = process.time(torch.tensor([-19.0, -18.5, -18.0, -4.0, -2.0, 0.0, 2.0, 4.0], dtype=F64))
    before = finish(drive(Normal(process), sampler, x, times[:3], Rng(0, 5)))
    there = finish(drive(Normal(process), ddim, before, times[2:4], Rng(0, 5)))
    rest = finish(drive(Normal(process), sampler, there, times[3:], Rng(0, 5)))
    assert torch.equal(finish(drive(Normal(process), sampler, x, times, Rng(0, 5))), rest)


@pytest.mark.parametrize("n", [4, 10, 50, 1000])
def test_every_step_of_the_chains_of_the_paper_is_by_the_rule(n: int) -> None:
    """On DDPM's chain and on that of Stable Diffusion: the signal grows 9 times at most."""
    stable = Table.of_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=F64) ** 2)
    for process in (DDPM, stable):
        share = process.alpha(trailing(n))
        assert float((share[1:] / share[:-1]).max()) < 9.2 < MAX_SIGNAL_GROWTH


def test_the_authors_labels_are_visited() -> None:
    """With 50 steps their code visits k + 2 of 1000 for k = 980, ..., 20, 0, and then 1."""
    labels = [*range(982, 0, -20), 1, 0]
    assert torch.allclose(1000 * chain(VP("linear"), 51), torch.tensor(labels, dtype=F64, device="cpu"), atol=1e-9)
    ten = [*range(902, 0, -100), 1, 0]
    assert torch.allclose(1000 * chain(VP("linear"), 11), torch.tensor(ten, dtype=F64, device="cpu"), atol=1e-9)


@pytest.mark.parametrize("process", [*PROCESSES, *LITTLE], ids=str)
def test_the_chain_of_another_process_has_the_same_noise_levels(process: Gaussian) -> None:
    """It begins at the end of a process that ends earlier."""
    times, there = chain(process, 51), VP("linear").logsnr(chain(VP("linear"), 51)[:-1])
    assert bool((times.diff() < 0).all()) and times[-1] == 0
    last = float(process.logsnr(1.0))
    if last <= float(there[0]):
        assert torch.allclose(process.logsnr(times[:-1]), there, atol=1e-6)
    else:
        assert times[0] == pytest.approx(1)


def test_near_the_paper_s_claim() -> None:
    """F-PNDM at 59 evaluations is nearer to the end of the flow than DDIM at 250, on the labels. Without the label 2 it
    was as near.
    """
    problem = correlated((3,), VP("linear"))
    found = {}
    for name, sampler, n in (("f-pndm", f_pndm, 50), ("ddim", ddim, 250)):
        times = chain(problem.process, n)
        x = problem.process.prior((150, 3), Rng(1, 150)).double()
        end = finish(drive(problem.denoiser(), sampler, x, times, Rng(0, 150)))
        right = finish(drive(problem.denoiser(), partial(_fine, n=1000), x, times, Rng(0, 150)))
        found[name] = float((end - right).norm(dim=1).median())
    assert found["f-pndm"] < 0.6 * found["ddim"]


def _fine(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, n: int):  # type: ignore[no-untyped-def]
    """The end of the flow from grid[0], by many steps of `adams`."""
    low = float(process.logsnr(grid[0]))
    times = process.time(torch.linspace(low, 14, n, dtype=F64))
    times[0] = grid[0]
    return (yield from adams(process, x, torch.cat([times, times.new_zeros(1)]), rng))


@pytest.mark.parametrize("process", [VE(), Flow(), VP()], ids=str)
def test_pure_noise_has_the_size_of_the_first_time(process: Gaussian) -> None:
    """A grid may begin below t = 1, as these chains do."""
    seen: list[Tensor] = []
    times = torch.tensor([0.6, 0.3, 0.0], dtype=F64)
    sample(Normal(process), 2000, grid=times, shape=(2,), sampler=ddim, look=lambda step: seen.append(step.x))  # type: ignore[arg-type]
    assert float(seen[0].std()) == pytest.approx(float(process.sigma(0.6)), rel=0.05)


# tables


def test_rates_are_slopes() -> None:
    """For every process, by closed form or differences. For the table of DDPM, those of the continuous process."""
    t = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    for process in (VP(), VE(), Flow()):
        alpha, sigma = process.rates(t)
        for rate, part in ((alpha, process.alpha), (sigma, process.sigma)):
            assert torch.allclose(rate, (part(t + 1e-6) - part(t - 1e-6)) / 2e-6, rtol=1e-5, atol=1e-8)
    assert torch.allclose(Flow(end=0.0).rates(0.3)[0], torch.tensor(-1.0, dtype=F64))


def test_a_table_has_the_rates_of_its_continuous_process() -> None:
    """At integer times, between them, and at both ends. The slope of one segment, half a step aside, is wrong by 1e-2
    to 1e-1 there.
    """
    smooth = VP("linear")
    table = Table(smooth.alpha(torch.arange(1, 1001, dtype=F64) / 1000) ** 2)
    for t in (0.001, 0.003, 0.02, 0.2, 0.2004, 0.5, 0.9, 0.999, 1.0):
        for found, right in zip(table.rates(t), smooth.rates(t), strict=True):
            assert float(found) == pytest.approx(float(right), rel=2e-6)
    many = torch.tensor([0.1, 0.7], dtype=F64)
    # a number is computed on the CPU, and a card rounds otherwise
    assert torch.allclose(table.rates(many)[0][1].cpu(), table.rates(0.7)[0].cpu(), rtol=1e-12)


def test_the_rates_of_a_coarse_table_are_central() -> None:
    """A table of 40 steps: measured 6.1e-4 with two integer times on each side, 1.1e-3 with three on one of them."""
    smooth = VP("linear")
    table = Table(smooth.alpha(torch.arange(1, 41, dtype=F64) / 40) ** 2)
    middle = torch.arange(4, 37, dtype=F64) / 40
    worst = max(
        float((found / right - 1).abs().max())
        for found, right in zip(table.rates(middle), smooth.rates(middle), strict=True)
    )
    assert worst < 8e-4


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_short_table_has_rates_too(steps: int) -> None:
    table = Table(torch.linspace(0.9, 0.2, steps, dtype=F64))
    line = Table(torch.tensor([0.4], dtype=F64))
    assert all(rate.isfinite().all() for rate in table.rates(torch.tensor([0.3, 1.0], dtype=F64)))
    # through two points alpha^2 falls by 0.6
    assert float(line.rates(1.0)[0]) == pytest.approx(-0.6 / (2 * 0.4**0.5))


def test_fon_on_a_table_is_of_order_4() -> None:
    """The table of DDPM in 98, 245 and 490 steps: 1e-5, 3e-7 and 2.3e-8 by the median, as on the continuous process.
    With the slope of one segment it stayed at 4.3e-4.
    """
    problem, counts, errors = correlated((1,), DDPM), [98, 245, 490], []
    x = DDPM.noise(problem.sample(300, Rng(3, 300)), 1.0, Rng(4, 300)).xt
    right = problem.flow(x, 1.0, 0.02)
    for n in counts:
        times = torch.linspace(1000, 20, n + 1, dtype=F64).round() / 1000
        errors.append(float((finish(drive(problem.denoiser(), fon, x, times, Rng(0, 300))) - right).abs().median()))
    assert errors[-1] < 1e-7 and order(counts, errors) == pytest.approx(4, abs=0.3)


def test_fon_refuses_times_without_signal() -> None:
    with pytest.raises(ValueError, match="take plms or adams"):
        finish(drive(Normal(without_signal()), fon, torch.ones(1, 1), trailing(20), Rng(0, 1)))
