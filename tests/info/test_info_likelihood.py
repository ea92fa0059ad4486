"""The log density along the ODE against exact densities."""

from __future__ import annotations

import math

import pytest
import torch

from softmix.data import toys
from softmix.denoiser import mean_only
from softmix.info import log_density
from softmix.oracle import between, correlated, order
from softmix.process import VP, Flow, Gaussian, Interpolant, PerElement
from softmix.rng import Rng

F64 = torch.float64
STEPS = [20, 40, 80]


@pytest.mark.parametrize("process", [VP(), Flow()], ids=str)
@pytest.mark.parametrize("shape", [(2,), (1, 2, 1)], ids=str)
def test_order_of_the_density_of_a_gaussian_process(process: Gaussian, shape: tuple[int, ...]) -> None:
    """Of x at t = 0.1, with the exact law at t = 0.9 as the last one: fourth order."""
    problem, errors = correlated(shape, process), []
    x = problem.sample(20, Rng(0, 20))
    end = problem.at(0.9)
    for n in STEPS:
        grid = torch.linspace(0.1, 0.9, n + 1, dtype=F64)
        found = log_density(problem.denoiser(), x, grid, lambda y: end.log_prob(y.flatten(1)))
        errors.append(float((found - problem.at(0.1).log_prob(x.flatten(1))).abs().mean()))
    assert order(STEPS, errors) == pytest.approx(4, abs=0.3) and errors[-1] < 1e-3


@pytest.mark.parametrize("process", [Interpolant("trig"), Interpolant("linear", "smooth"), Interpolant(c=0.0)], ids=str)
def test_order_of_the_density_of_an_interpolant(process: Interpolant) -> None:
    problem, errors = between(toys.unequal(2, 3, 1), toys.ring(4, 1.0, 0.3), process), []
    x = problem.draw(20, Rng(0, 20))[0]
    model = problem.denoiser() if process.c else mean_only(problem.denoiser())
    for n in (counts := [16, 32, 64]):
        grid = torch.linspace(0.3, 0.8, n + 1, dtype=F64)
        found = log_density(model, x, grid, problem.at(0.8).log_prob)
        errors.append(float((found - problem.at(0.3).log_prob(x)).abs().mean()))
    assert order(counts, errors) == pytest.approx(4, abs=0.3) and errors[-1] < 1e-4


def test_from_noise_the_density_is_that_of_the_data() -> None:
    """From t = 1e-3 on, with N(0, sigma^2) at 1 - 1e-4: what is left of the signal is neglected (measured 0.005)."""
    problem = correlated((2,), VP())
    x = problem.sample(20, Rng(0, 20))
    grid = torch.linspace(1e-3, 1 - 1e-4, 81, dtype=F64)
    assert float((log_density(problem.denoiser(), x, grid) - problem.law.log_prob(x)).abs().max()) < 0.02


def test_hutchinson_estimates_the_divergence_and_depends_on_the_item_alone() -> None:
    """With 400 signs within 4.5 standard errors of their mean, which is measured with 40 sets of 10 signs."""
    problem = correlated((3,), VP())
    x, grid = problem.sample(4, Rng(0, 4)), torch.linspace(0.1, 0.9, 9, dtype=F64)
    end = problem.at(0.9).log_prob
    exact = log_density(problem.denoiser(), x, grid, end)
    sets = torch.stack([log_density(problem.denoiser(), x, grid, end, (10, Rng(k, 4))) for k in range(40)])
    assert bool(((sets.mean(0) - exact).abs() < 4.5 * sets.std(0) / math.sqrt(40)).all()) and float(sets.std()) > 1e-3
    alone = log_density(problem.denoiser(), x[2:3], grid, end, (10, Rng(0, [2])))
    assert torch.allclose(alone[0], sets[0, 2], atol=1e-10)
    # in one dimension a sign squared is 1
    line = correlated((1,), VP())
    y = line.sample(4, Rng(0, 4))
    found = [log_density(line.denoiser(), y, grid, line.at(0.9).log_prob, probes) for probes in (None, (1, Rng(0, 4)))]
    assert torch.allclose(*found, atol=1e-10)


def test_the_density_needs_rising_times_and_a_last_law() -> None:
    problem, x = correlated((2,), VP()), torch.zeros(3, 2, dtype=F64)
    for times in ([0.9, 0.1], [0.0, 0.5], [0.5, 1.0], [0.5]):
        with pytest.raises(ValueError, match=r"times that rise inside \(0, 1\)"):
            log_density(problem.denoiser(), x, torch.tensor(times, dtype=F64))
    pairs = between(toys.unequal(2, 3, 1), toys.ring(4, 1.0, 0.3), Interpolant())
    grid = torch.linspace(0.1, 0.9, 3, dtype=F64)
    with pytest.raises(ValueError, match="not noise for Interpolant: give its log density as `last`"):
        log_density(pairs.denoiser(), x, grid)
    with pytest.raises(TypeError, match="needs the mean of the latent noise"):
        log_density(mean_only(pairs.denoiser()), x, grid, pairs.at(0.9).log_prob)
    apart = correlated((2,), PerElement(VP(), torch.tensor([0.8, 1.2])))
    with pytest.raises(TypeError, match="one alpha and one sigma"):
        log_density(apart.denoiser(), x, grid, end := problem.at(0.9).log_prob)
    assert end(x).isfinite().all()
