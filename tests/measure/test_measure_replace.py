"""Elements of a sample replaced by measured ones."""

from __future__ import annotations

import torch

from softmix.data.toys import ToyMixture
from softmix.measure import replacing
from softmix.oracle import MixtureProblem, correlated, ks
from softmix.process import VP, few
from softmix.rng import Rng
from softmix.sampler import drive
from softmix.sampler.drive import finish

F64 = torch.float64
SEEN = torch.tensor([True, False])


def independent(means: list[float]) -> MixtureProblem:
    """Two independent elements."""
    factors = torch.diag(torch.tensor([0.5, 0.3], dtype=F64))[None]
    law = ToyMixture("independent", torch.ones(1, dtype=F64), torch.tensor([means], dtype=F64), factors)
    return MixtureProblem("independent", law, VP(), (2,))


def sampled(problem: MixtureProblem, y: torch.Tensor, seen: torch.Tensor, n: int, steps: int = 20) -> torch.Tensor:
    x = problem.process.prior((n, 2), Rng(0, n)).double()
    return finish(drive(problem.denoiser(), replacing(y, seen), x, few(VP(), steps), Rng(1, n)))


def test_measured_elements_come_out_exactly() -> None:
    y = correlated().sample(30, Rng(3, 30))
    x = sampled(correlated(), y, SEEN, 30)
    assert torch.equal(x[:, SEEN], y[:, SEEN]) and not torch.isclose(x[:, ~SEEN], y[:, ~SEEN]).any()


def test_an_element_independent_of_the_measured_one_has_its_own_law() -> None:
    """2,000 items, 60 steps: Kolmogorov's statistic of the unmeasured element; the measured one is at 3 sds."""
    problem, n = independent([0.2, -0.4]), 2000
    x = sampled(problem, torch.tensor([[1.7, 0.0]], dtype=F64).expand(n, -1), SEEN, n, 60)
    mean, sd = (torch.tensor([[value]], dtype=F64) for value in (-0.4, 0.3))
    alone = ToyMixture("alone", torch.ones(1, dtype=F64), mean, sd[None])
    assert ks(x[:, 1:], alone) < 2


def test_a_measured_element_pulls_a_correlated_one() -> None:
    """In a Gaussian of correlation 0.9 towards 0.9 y, but less far: replacement does not condition exactly."""
    factor = torch.linalg.cholesky(torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=F64))[None]
    law = ToyMixture("pair", torch.ones(1, dtype=F64), torch.zeros(1, 2, dtype=F64), factor)
    x = sampled(MixtureProblem("pair", law, VP(), (2,)), torch.full((2000, 2), 1.5, dtype=F64), SEEN, 2000, 100)
    assert 0.5 * 0.9 * 1.5 < float(x[:, 1].mean()) < 0.9 * 1.5


def test_without_measured_elements_the_law_is_that_of_the_problem() -> None:
    """The noise of y is drawn in any case: the law is that of the sampler, and the items are not."""
    problem, n = correlated(), 3000
    x = sampled(problem, torch.zeros(n, 2, dtype=F64), torch.zeros(2, dtype=torch.bool), n, 60)
    assert ks(x, problem.law) < 2
