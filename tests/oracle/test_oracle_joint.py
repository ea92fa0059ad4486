"""The joint problem: its posterior at any pair of times against weighted draws, and its conditional laws."""

from __future__ import annotations

import pytest
import torch

from softmix import Cond
from softmix.oracle import DenoisingProblem, JointProblem, PairedProblem, joint
from softmix.process import VP, Flow, TwoClocks
from softmix.rng import Rng

F64 = torch.float64


@pytest.mark.parametrize("t", [(0.9, 0.7), (0.6, 0.95), (0.8, 0.8)])
def test_the_posterior_is_that_of_weighted_draws(t: tuple[float, float]) -> None:
    """400,000 draws of the law, weighted by N(z_t; alpha z_0, sigma^2), effective number above 2,000: within 5 standard
    errors of the mean."""
    problem = joint((1, 2), Flow())
    times, n = torch.tensor([t], dtype=F64), 400_000
    z0, _ = problem.draw(n, Rng(0, n))
    zt = torch.tensor([[0.3, -0.5, 0.4]], dtype=F64)
    alpha, sigma = problem.process.alpha(times), problem.process.sigma(times)
    weight = (-((zt - alpha * z0) / sigma).square().sum(1) / 2).softmax(0)
    count = float(1 / weight.square().sum())
    posterior = problem.denoiser()(zt, times)
    mean = weight @ z0
    covariance = ((z0 - mean) * weight[:, None]).T @ (z0 - mean)
    off = (posterior.mean[0] - mean) / (covariance.diagonal() / count).sqrt()
    assert count > 2000 and float(off.abs().max()) < 5
    assert float((posterior.covariance[0] - covariance).norm() / covariance.norm()) < 10 / count**0.5


def test_a_clean_signal_is_known_exactly() -> None:
    problem = joint()
    z, _ = problem.draw(4, Rng(1, 4))
    model = problem.denoiser()
    both = model(z, torch.zeros(1, 2, dtype=F64))
    assert torch.allclose(both.mean, z, atol=1e-9) and float(both.var.max()) < 1e-9
    half = model(z, torch.tensor([[0.7, 0.0]], dtype=F64))
    assert torch.allclose(half.mean[:, 2:], z[:, 2:], atol=1e-9) and float(half.var[:, 2:].max()) < 1e-9
    assert float(half.var[:, :2].min()) > 1e-4


def test_times_of_their_own_are_those_of_single_items() -> None:
    problem = joint()
    z, _ = problem.draw(3, Rng(2, 3))
    t = torch.tensor([[0.9, 0.1], [0.3, 0.8], [0.5, 0.0]], dtype=F64)
    together = problem.denoiser()(z, t)
    for k in range(3):
        alone = problem.denoiser()(z[k : k + 1], t[k : k + 1])
        assert torch.allclose(alone.mean[0], together.mean[k]) and torch.allclose(alone.var[0], together.var[k])


@pytest.mark.parametrize("stream", [0, 1])
def test_the_law_given_the_other_signal_is_that_of_pairs(stream: int) -> None:
    problem = joint((2, 2))
    z, _ = problem.draw(1, Rng(3, 1))
    law = problem.law
    if stream == 1:
        turn = torch.tensor([2, 3, 0, 1])
        covariance = law.covariances[:, turn][:, :, turn]
        law = type(law)("turned", law.weights, law.means[:, turn], torch.linalg.cholesky(covariance))
    other = z[:, 2:] if stream == 0 else z[:, :2]
    right = PairedProblem("pairs", law, VP(), (2,), (2,)).given(other)
    found = problem.given(stream, other)
    assert torch.allclose(found.mean, right.mean[0]) and torch.allclose(found.covariance, right.covariance[0])


def test_the_marginals_are_those_of_the_draws() -> None:
    problem = joint((1, 3))
    z, _ = problem.draw(100_000, Rng(4, 100_000))
    for stream, own in ((0, z[:, :1]), (1, z[:, 1:])):
        law = problem.marginal(stream)
        assert torch.allclose(own.mean(0), law.mean, atol=0.02)
        assert torch.allclose(own.T.cov().reshape(law.dim, -1), law.covariance, atol=0.02)


def test_images_have_the_elements_of_x_first() -> None:
    law = joint((4, 2)).law
    problem = JointProblem("images", law, TwoClocks(VP(), (2, 1)), (3, 2, 1))
    points = JointProblem("points", law, TwoClocks(VP(), (4, 2), 1), (6,))
    z, _ = problem.draw(3, Rng(5, 3))
    t = torch.tensor([[0.6, 0.2]], dtype=F64)
    right = points.denoiser()(z.flatten(1), t)
    assert torch.allclose(problem.denoiser()(z, t).mean.flatten(1), right.mean)
    assert isinstance(problem, DenoisingProblem)


def test_a_problem_that_cannot_be_is_refused() -> None:
    law = joint((4, 2)).law
    with pytest.raises(ValueError, match="take points or images"):
        JointProblem("sequences", law, TwoClocks(VP(), (1, 1), 2), (3, 2))
    with pytest.raises(ValueError, match="take points or images"):
        JointProblem("points", law, TwoClocks(VP(), (4, 3), 1), (6,))
    with pytest.raises(ValueError, match="a law of 6 dimensions"):
        JointProblem("images", law, TwoClocks(VP(), (2, 1)), (3, 2, 2))
    with pytest.raises(ValueError, match="has no condition"):
        joint().denoiser()(torch.zeros(1, 4, dtype=F64), torch.ones(1, 2, dtype=F64), Cond(value=torch.zeros(1, 2)))
