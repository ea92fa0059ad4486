"""The chain of log-probabilities: exact for exact posteriors, a bound for others, the variational one for means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softmix.denoiser import Denoiser, adjusted, mean_only
from softmix.info import Grid, Nats, chain, variational
from softmix.oracle import MixtureProblem, ObservedProblem, correlated, eight, gaussian
from softmix.posterior import HasVariance, Normal, Posterior, need
from softmix.process import VE, Flow, Gaussian, Immiscible
from softmix.rng import Rng

F64 = torch.float64


def grid_of(steps: int, last: float = 1e-3) -> Tensor:
    return torch.linspace(1, last, steps + 1, dtype=F64)


class Drawn(Posterior):
    """A posterior of which only draws are known."""

    def __init__(self, inner: Posterior):
        self.inner = inner

    def sample(self, rng: Rng) -> Tensor:
        return self.inner.sample(rng)


def one_gaussian(denoiser: Denoiser) -> Denoiser:
    """The mean and the variance of each element, and nothing else."""

    def change(posterior: Posterior, xt: Tensor, t: Tensor | float) -> Normal:
        known = need(posterior, HasVariance, "test")
        return Normal(known.mean, known.var)

    return adjusted(change)(denoiser)


def drawn(denoiser: Denoiser) -> Denoiser:
    return adjusted(lambda posterior, xt, t: Drawn(posterior))(denoiser)


def above(problem: MixtureProblem, found: Nats, x: Tensor) -> Tensor:
    return found.each - -problem.law.log_prob(x)


@pytest.mark.parametrize("problem", [gaussian(), correlated(), eight()], ids=lambda problem: problem.name)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_exact_posteriors_give_log_p_along_each_path(problem: MixtureProblem, steps: int) -> None:
    """In any number of steps, and without a spread over paths. What is left is the distance of x_T from noise, below
    1.1e-4 for these laws."""
    x = problem.sample(32, Rng(0, 32))
    found = chain(problem.denoiser(), x, Rng(1, 32), grid_of(steps))
    assert float(above(problem, found, x).abs().max()) < 2e-4
    assert float(found.error.max()) < 2e-4
    assert found.dims == problem.law.dim and found.ends == (
        float(problem.process.logsnr(1.0)),
        pytest.approx(float(problem.process.logsnr(torch.tensor(1e-3, dtype=F64)))),
    )


@pytest.mark.parametrize("process", [VE(), Flow()], ids=lambda process: type(process).__name__)
def test_other_processes_agree(process: Gaussian) -> None:
    """VE ends at noise of a finite size: up to 0.025 nats of an item are left with a standard deviation of 80. Flow
    ends at a logsnr of -20, with 6e-5 left."""
    problem = correlated(process=process)
    x = problem.sample(32, Rng(0, 32))
    found = chain(problem.denoiser(), x, Rng(1, 32), grid_of(3))
    assert float(above(problem, found, x).abs().max()) < (0.05 if isinstance(process, VE) else 3e-4)


def test_one_gaussian_a_step_costs_nats_that_many_steps_save() -> None:
    """Eight narrow components in 16 dimensions: 19, 2.2 and 0.1 nats above the law at 1, 5 and 50 steps."""
    problem = eight()
    x = problem.sample(64, Rng(0, 64))
    extra = [
        float(above(problem, chain(one_gaussian(problem.denoiser()), x, Rng(1, 64), grid_of(k)), x).mean())
        for k in (1, 5, 50)
    ]
    assert extra[0] > 15 and 1 < extra[1] < 4 and 0 < extra[2] < 0.3


def test_draws_bound_the_law_from_above_and_approach_it() -> None:
    """The mean over 2,000 points of three Gaussians, at three steps: the bounds fall with the number of draws, each by
    more than its standard error, and none is below the law."""
    problem = correlated()
    x = problem.sample(2000, Rng(0, 2000))
    # at the last time the posterior itself would be needed: the law of x_0 rounded to a grid has no such end
    fine = Grid(step=1 / 32, low=-4.0, high=4.0)
    whole = fine.low + fine.step * fine.nearest(x)
    times = grid_of(3, 0.02)
    exact = chain(problem.denoiser(), whole, Rng(1, 2000), times, fine).mean
    bounds = [chain(drawn(problem.denoiser()), whole, Rng(1, 2000), times, fine, draws=m).mean for m in (4, 16, 128)]
    assert bounds[0] > bounds[1] > bounds[2] > exact - 0.02
    assert bounds[2] - exact < 0.3 * (bounds[0] - exact)


def test_means_give_the_variational_bound() -> None:
    """A point stands for one Gaussian of the variance of q(x_s | x_t, x_0). Both are means over noise:
    about 25 nats, and their difference has a standard deviation of 0.15 over seeds."""
    problem = correlated()
    fine = Grid(step=1 / 32, low=-4.0, high=4.0)
    x = problem.sample(4000, Rng(0, 4000))
    whole = fine.low + fine.step * fine.nearest(x)
    times = grid_of(12, 0.02)
    model = mean_only(problem.denoiser())
    ours = chain(model, whole, Rng(1, 4000), times, fine, repeats=6)
    other = variational(model, whole, Rng(2, 4000), times, fine, draws=12, repeats=6)
    assert ours.mean == pytest.approx(other.mean, abs=0.6)


def test_a_normal_of_draws_is_one_gaussian() -> None:
    """With 4,000 draws the Normal of their moments is that of the exact mean and variance, to 0.1 nats of 14 above the
    law; two draws are worse."""
    problem = eight()
    x = problem.sample(40, Rng(0, 40))
    fine = Grid(step=1 / 32, low=-4.0, high=4.0)
    whole = fine.low + fine.step * fine.nearest(x)
    times = grid_of(2, 0.02)
    right = chain(one_gaussian(problem.denoiser()), whole, Rng(1, 40), times, fine).mean
    model = drawn(problem.denoiser())
    many, few = (chain(model, whole, Rng(1, 40), times, fine, m, "normal").mean for m in (4000, 3))
    assert many == pytest.approx(right, abs=0.2) and few > right + 1
    with pytest.raises(ValueError, match="a normal of two"):
        chain(model, whole, Rng(1, 40), times, fine, 1, "normal")
    with pytest.raises(ValueError, match="'median'"):
        chain(model, whole, Rng(1, 40), times, fine, 8, "median")  # type: ignore[arg-type]


def test_an_item_does_not_depend_on_its_batch() -> None:
    problem = correlated()
    x = problem.sample(10, Rng(0, 10))
    whole = chain(problem.denoiser(), x, Rng(1, 10), grid_of(2)).each
    parts = chain(problem.denoiser(), x, Rng(1, 10), grid_of(2), batch=3).each
    assert torch.allclose(whole, parts, atol=1e-12)
    one = chain(drawn(problem.denoiser()), x, Rng(1, 10), grid_of(2), Grid(1e-3, -5, 5), draws=8)
    many = chain(drawn(problem.denoiser()), x, Rng(1, 10), grid_of(2), Grid(1e-3, -5, 5), draws=8, batch=3)
    assert torch.allclose(one.each, many.each, atol=1e-9)


def test_what_has_no_chain_is_refused() -> None:
    problem = correlated()
    x = problem.sample(4, Rng(0, 4))
    with pytest.raises(TypeError, match="density"):
        chain(drawn(problem.denoiser()), x, Rng(1, 4), grid_of(2))
    with pytest.raises(ValueError, match="fall"):
        chain(problem.denoiser(), x, Rng(1, 4), grid_of(2).flip(0))
    with pytest.raises(ValueError, match="two repeats"):
        chain(problem.denoiser(), x, Rng(1, 4), grid_of(2), draws=0)
    with pytest.raises(ValueError, match="two repeats"):
        chain(problem.denoiser(), x, Rng(1, 4), grid_of(2), repeats=1)
    with pytest.raises(TypeError, match="noise"):
        chain(correlated(process=Immiscible()).denoiser(), x, Rng(1, 4), grid_of(2))


def test_a_condition_gives_the_law_given_it() -> None:
    """y = A x0 + noise is given, another one for each item: the chain is -log p(x0 | y) along each path."""
    problem = ObservedProblem(correlated(), torch.tensor([[1.0, 0.5]], dtype=F64), 0.3)
    x, cond = problem.draw(12, Rng(0, 12))
    found = chain(problem.denoiser(), x, Rng(1, 12), grid_of(3), cond=cond, batch=5)
    assert cond.value is not None
    right = -problem.given(cond.value).log_prob(x)
    # x_T is not noise alone, which is what is left
    assert float((found.each - right).abs().max()) < 2e-4
