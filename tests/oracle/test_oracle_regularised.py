"""The closed form of the fixed point of regularisation by denoising."""

from __future__ import annotations

import pytest
import torch

from softmix.oracle import ObservedProblem, correlated, denoising_fixed_point, denoising_pull, gaussian
from softmix.process import VP
from softmix.rng import Rng

F64 = torch.float64
MATRIX = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]], dtype=F64)
OBSERVED = ObservedProblem(gaussian((3,)), MATRIX, 0.3)
Y = torch.tensor([[0.4, -1.0], [2.0, 0.1]], dtype=F64)


def test_the_pull_is_the_expected_error_of_the_noise() -> None:
    """At t and mu the mean over eps of alpha (mu - E[x0 | x_t]) / sigma, of 40,000 eps and their negatives: an affine
    function of eps has no error left."""
    law, t = OBSERVED.problem.law, 0.37
    mu = torch.tensor([[0.9, -0.2, 0.5]], dtype=F64)
    z = Rng(0, 4).normal((4, 3), F64)
    z = torch.cat([z, -z])
    process = OBSERVED.process
    alpha, sigma = process.alpha(t), process.sigma(t)
    mean = OBSERVED.problem.denoiser()(alpha * mu + sigma * z, t).mean
    expected = (alpha / sigma * (mu - mean)).mean(0)
    pull = denoising_pull(law.covariance, process, torch.tensor([t], dtype=F64), torch.ones(1, dtype=F64))
    assert torch.allclose(pull @ (mu[0] - law.mean), expected, atol=1e-10)


def test_the_weights_and_times_are_averaged() -> None:
    covariance, times = OBSERVED.problem.law.covariance, torch.tensor([0.2, 0.6], dtype=F64)
    each = [denoising_pull(covariance, VP(), times[k : k + 1], torch.ones(1, dtype=F64)) for k in (0, 1)]
    both = denoising_pull(covariance, VP(), times, torch.tensor([3.0, 5.0], dtype=F64))
    assert torch.allclose(both, (3 * each[0] + 5 * each[1]) / 2)


@pytest.mark.parametrize("means", [True, False])
def test_the_inverse_covariance_in_the_place_of_the_pull_gives_the_posterior_mean(means: bool) -> None:
    inverse = torch.linalg.inv(OBSERVED.problem.law.covariance)
    pull = inverse * (3 * 0.3**2 / 2) if means else inverse
    assert torch.allclose(denoising_fixed_point(OBSERVED, Y, pull, means), OBSERVED.given(Y).mean)


def test_a_mixture_is_refused() -> None:
    with pytest.raises(ValueError, match="take a law of one Gaussian"):
        denoising_fixed_point(
            ObservedProblem(correlated(), torch.ones(1, 2, dtype=F64), 0.1), Y[:, :1], torch.eye(2), True
        )
