"""A mixture with a measurement y = A x0 + n, against integrals and samplers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softmix.cond import Cond
from softmix.data.toys import ToyMixture
from softmix.oracle import MixtureProblem, ObservedProblem, correlated, gaussian, ks
from softmix.posterior import FullMixture
from softmix.process import VP, uniform_logsnr
from softmix.rng import Rng
from softmix.sampler import adams, sample

F64 = torch.float64
A = torch.tensor([[0.6, -0.8]], dtype=F64)


def lattice() -> tuple[Tensor, float]:
    """Points of the plane, [N, 2], and the area of each."""
    line = torch.linspace(-6, 6, 801, dtype=F64)
    return torch.cartesian_prod(line, line), float(line[1] - line[0]) ** 2


def log_density(law: ToyMixture, x: Tensor) -> Tensor:
    law = law.to(x.device)
    parts = [
        weight.log() + torch.distributions.MultivariateNormal(mean, scale_tril=factor).log_prob(x)
        for weight, mean, factor in zip(law.weights, law.means, law.factors, strict=True)
    ]
    return torch.logsumexp(torch.stack(parts), 0)


def integrated(logs: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the covariance of a density on the lattice, up to a constant."""
    shares = logs.softmax(0)
    mean = shares @ points
    return mean, (shares[:, None] * (points - mean)).T @ (points - mean)


@pytest.mark.parametrize("y", [-0.7, 0.2, 1.1])
def test_the_law_given_y_is_bayes_rule(y: float) -> None:
    observed, (points, _) = ObservedProblem(correlated(), A, 0.2), lattice()
    logs = log_density(observed.problem.law, points) - (y - points @ A[0]) ** 2 / (2 * 0.04)
    mean, covariance = integrated(logs, points)
    posterior = observed.given(torch.tensor([[y]], dtype=F64))
    assert torch.allclose(posterior.mean[0], mean, atol=1e-6)
    assert torch.allclose(posterior.covariance[0], covariance, atol=1e-6)


@pytest.mark.parametrize("t", [0.2, 0.6, 0.95])
def test_the_denoiser_is_bayes_rule_for_x_t_and_y(t: float) -> None:
    observed, (points, _) = ObservedProblem(correlated(), A, 0.3), lattice()
    xt, y = torch.tensor([[0.4, -0.3], [-0.9, 0.8]], dtype=F64), torch.tensor([[0.5], [-0.2]], dtype=F64)
    alpha, sigma = float(VP().alpha(t)), float(VP().sigma(t))
    posterior = observed.denoiser()(xt, t, Cond(value=y))
    for k in range(2):
        logs = log_density(observed.problem.law, points) - (y[k] - points @ A[0]) ** 2 / (2 * 0.09)
        logs = logs - (xt[k] - alpha * points).square().sum(1) / (2 * sigma**2)
        mean, covariance = integrated(logs, points)
        assert torch.allclose(posterior.mean[k], mean, atol=1e-6)
        assert torch.allclose(posterior.covariance[k], covariance, atol=1e-6)


def test_times_of_items_are_their_own() -> None:
    observed = ObservedProblem(correlated(), A, 0.3)
    xt, y = torch.tensor([[0.4, -0.3], [-0.9, 0.8]], dtype=F64), torch.tensor([[0.5], [-0.2]], dtype=F64)
    times = torch.tensor([0.3, 0.7], dtype=F64)
    both = observed.denoiser()(xt, times, Cond(value=y)).mean
    alone = [observed.denoiser()(xt[k : k + 1], float(times[k]), Cond(value=y[k : k + 1])).mean[0] for k in range(2)]
    assert torch.allclose(both, torch.stack(alone), atol=1e-12)


def test_a_draw_given_y_and_a_draw_of_the_pair_have_the_same_law() -> None:
    """x0 -> y -> x0': the second has the law of the first, by Kolmogorov's statistic."""
    observed = ObservedProblem(correlated((2, 2, 2)), torch.eye(8, dtype=F64)[:3], 0.1)
    y = observed.observe(observed.problem.sample(4000, Rng(0, 4000)), Rng(1, 4000))
    assert ks(observed.given(y).sample(Rng(2, 4000)), observed.problem.law) < 2


def test_an_element_measured_without_noise_is_known() -> None:
    seen = torch.tensor([[True, False], [False, True]])
    observed = ObservedProblem.elements(correlated((2, 2)), seen)
    x0 = observed.problem.sample(50, Rng(0, 50))
    y = observed.observe(x0, Rng(1, 50))
    assert torch.equal(y, x0[:, seen])
    posterior = observed.given(y)
    assert torch.allclose(posterior.mean[:, seen], y, atol=1e-9)
    assert float(posterior.var[:, seen].abs().max()) < 1e-9 and float(posterior.var[:, ~seen].min()) > 1e-3


def test_a_measurement_has_its_noise() -> None:
    observed = ObservedProblem(gaussian(), A, 0.5)
    x0 = observed.problem.sample(20_000, Rng(0, 20_000))
    off = observed.observe(x0, Rng(1, 20_000)) - x0 @ A.T
    assert float(off.std()) == pytest.approx(0.5, rel=5 * (1 / 40_000) ** 0.5)


@pytest.mark.parametrize("part", ["value", "image"])
def test_a_sampler_with_y_as_condition_reaches_the_law_given_y(part: str) -> None:
    """y of an image may be on the grid of x_t: here the image itself in much noise."""
    shape = (2,) if part == "value" else (1, 2, 2)
    problem: MixtureProblem = correlated(shape)
    matrix = A if part == "value" else torch.eye(4, dtype=F64)
    observed, n = ObservedProblem(problem, matrix, 0.4), 4000
    y = observed.observe(problem.sample(1, Rng(5, 1)), Rng(6, 1))
    all_y = y.expand(n, -1)
    cond = Cond(value=all_y) if part == "value" else Cond(image=all_y.reshape(n, 1, 2, 2))
    grid = uniform_logsnr(VP(), 100, last=12.0)
    x = sample(observed.denoiser(), n, sampler=adams, grid=grid, cond=cond, seed=0, batch=n)
    (law,) = _laws(observed.given(y))
    assert ks(x, law) < 2
    assert ks(x, problem.law) > 4, "the control: without y the law is another"


def _laws(posterior: FullMixture) -> list[ToyMixture]:
    weights = posterior.log_weights.exp()
    return [
        ToyMixture("given", w / w.sum(), means, torch.linalg.cholesky(factors @ factors.mT))
        for w, means, factors in zip(weights, posterior._means, posterior._factors, strict=True)
    ]


def test_a_matrix_of_other_items_is_refused() -> None:
    with pytest.raises(ValueError, match=r"items of 2 elements a matrix \[K, 2\] was expected.*not \[1, 3\]"):
        ObservedProblem(gaussian(), torch.zeros(1, 3, dtype=F64))


@pytest.mark.parametrize("cond", [None, torch.zeros(2, dtype=torch.long), Cond(value=torch.zeros(2, 3))])
def test_a_condition_that_is_not_y_is_refused(cond: Cond | Tensor | None) -> None:
    with pytest.raises(ValueError, match=r"the condition must be y, 1 numbers an item, as Cond\(value=y\)"):
        ObservedProblem(gaussian(), A).denoiser()(torch.zeros(2, 2), 0.5, cond)
