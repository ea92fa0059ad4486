"""The low-rank mixture against the exact one, and what its training finds."""

from __future__ import annotations

import pytest
import torch

from softmix.cond import CondError
from softmix.denoiser import ExactMixture, LowRankMixture
from softmix.posterior import Mixture
from softmix.process import VE, VP, Flow, Gaussian, PerElement
from softmix.rng import Rng

F64 = torch.float64


def model_of(process: Gaussian, hard: bool = False) -> LowRankMixture:
    means = Rng(1, 3).normal((3, 6), F64)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    return LowRankMixture(process, 3, 2, (6,), means, weights, hard).double()


@pytest.mark.parametrize("process", [VP(), VE(high=5.0), Flow()])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_it_is_the_exact_mixture_of_its_covariances(process: Gaussian, t: float) -> None:
    model = model_of(process)
    bases = model.bases.detach()
    exact = ExactMixture(process, model.log_weights.exp(), model.means, bases @ bases.mT)
    x = Rng(0, 5).normal((5, 6), F64)
    found, right = model(x, t), exact(x, t)
    assert torch.allclose(found.log_weights, right.log_weights, atol=1e-9)
    assert torch.allclose(found.mean, right.mean, atol=1e-9)
    assert torch.allclose(found.covariance, right.covariance, atol=1e-9)


def test_times_may_differ_between_items() -> None:
    model, x = model_of(VP()), Rng(0, 3).normal((3, 6), F64)
    t = torch.tensor([0.2, 0.5, 0.8], dtype=F64)
    each = torch.cat([model(x[k : k + 1], float(t[k])).mean for k in range(3)])
    assert torch.allclose(model(x, t).mean, each, atol=1e-12)
    one = torch.cat([model(x[k : k + 1], float(t[k])).covariance for k in range(3)])
    assert torch.allclose(model(x, t).covariance, one, atol=1e-12)


def test_a_hard_choice_is_the_likeliest_component() -> None:
    soft, hard = model_of(VP()), model_of(VP(), hard=True)
    x = Rng(0, 8).normal((8, 6), F64)
    best = soft(x, 0.4).log_weights.argmax(1)
    assert torch.equal(hard(x, 0.4).log_weights.exp(), torch.nn.functional.one_hot(best, 3).double())
    assert not torch.allclose(hard(x, 0.4).mean, soft(x, 0.4).mean)


def test_bases_are_orthonormal_and_follow_the_seed() -> None:
    first, same, other = (LowRankMixture(VP(), 2, 3, (1, 4, 4), seed=seed) for seed in (0, 0, 1))
    assert torch.allclose(first.bases.mT @ first.bases, torch.eye(3).expand(2, 3, 3), atol=1e-5)
    assert torch.equal(first.free, same.free) and not torch.equal(first.free, other.free)
    assert first(torch.zeros(2, 1, 4, 4), 0.5).mean.shape == (2, 1, 4, 4)
    assert not isinstance(first(torch.zeros(2, 1, 4, 4), 0.5), Mixture)


def test_the_squared_error_of_one_component_is_least_at_the_principal_components() -> None:
    """Trained by denoising on few items in 10 dimensions: the projector is that of the data's covariance."""
    root = Rng(3, 10).normal((10, 2), F64)
    x0 = Rng(0, 40).normal((40, 2), F64) @ root.mT
    model = LowRankMixture(VP(), 1, 2, (10,)).double()
    optimiser = torch.optim.Adam(model.parameters(), 0.05)
    for step in range(300):
        noised = VP().noise(x0, 0.3, Rng(step, 40))
        loss = (model(noised.xt, 0.3).mean - x0).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    vectors = torch.linalg.eigh(x0.mT @ x0).eigenvectors[:, -2:]
    found = model.bases[0].detach()
    assert torch.allclose(found @ found.mT, vectors @ vectors.mT, atol=2e-2)


def test_what_it_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="2 bases of rank 7 were asked for, in 6 dimensions: take ranks from 1 to 6"):
        LowRankMixture(VP(), 2, 7, (6,))
    with pytest.raises(ValueError, match=r"weights of shape \[3\] were expected; found \[1\]"):
        LowRankMixture(VP(), 3, 2, (6,), weights=torch.ones(1))
    with pytest.raises(ValueError, match=r"means of shape \[3, 6\] were expected; found \[6\]"):
        LowRankMixture(VP(), 3, 2, (6,), means=torch.ones(6))
    with pytest.raises(ValueError, match="one alpha for all elements, and PerElement has several"):
        LowRankMixture(PerElement(VP(), torch.ones(6)), 3, 2, (6,))
    with pytest.raises(CondError, match="train one for each class"):
        model_of(VP())(torch.zeros(2, 6), 0.5, torch.zeros(2, dtype=torch.long))


def test_it_answers_on_the_device_of_the_state(device: torch.device) -> None:
    model = LowRankMixture(VP(), 2, 2, (6,)).to(device)
    x = torch.zeros(3, 6, device=device)
    assert model(x, 0.5).mean.device == x.device and model.bases.device == x.device
