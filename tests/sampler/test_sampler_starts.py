"""Starts that are not pure noise, and the optimal transport of DPM-OT, against closed forms."""

from __future__ import annotations

import inspect
import math
from itertools import pairwise

import pytest
import torch

from softmix.denoiser import wiener
from softmix.process import VE, VP, Flow, Gaussian
from softmix.rng import Rng
from softmix.sampler import GaussianFit, SemiDiscreteOT, contraction, noised

F64 = torch.float64
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)


# a first estimate, noised


@THREE
def test_a_start_is_the_estimate_with_the_noise_of_its_time(process: Gaussian) -> None:
    x0 = Rng(0, 3, "x0").normal((3, 2, 2))
    right = process.noise(x0, 0.6, Rng(1, 3)).xt
    assert torch.equal(noised(x0)(process, (3, 2, 2), 0.6, Rng(1, 3)), right)
    assert torch.equal(noised(x0.double())(process, (3, 2, 2), 0.6, Rng(1, 3)), right)


def test_one_estimate_serves_all_items_and_flat_ones_are_reshaped() -> None:
    x0 = torch.arange(4.0)
    right = VP().noise(x0.reshape(1, 2, 2).expand(3, 2, 2), 0.6, Rng(1, 3)).xt
    assert torch.equal(noised(x0[None])(VP(), (3, 2, 2), 0.6, Rng(1, 3)), right)
    assert torch.equal(noised(x0.reshape(1, 2, 2))(VP(), (3, 2, 2), 0.6, Rng(1, 3)), right)


def test_a_law_is_drawn_from_its_own_stream() -> None:
    """As many draws as items, independent of the added noise."""
    drawn = Rng(1, 3).child("x0").normal((3, 4))
    found = noised(lambda n, rng: rng.normal((n, 4)))(VP(), (3, 2, 2), 0.6, Rng(1, 3))
    assert torch.equal(found, VP().noise(drawn.reshape(3, 2, 2), 0.6, Rng(1, 3)).xt)


def test_a_wrong_number_of_estimates_is_refused() -> None:
    with pytest.raises(ValueError, match="3 items were asked for and 2 first estimates given"):
        noised(torch.zeros(2, 4))(VP(), (3, 4), 0.5, Rng(0, 3))


# contraction


@THREE
@pytest.mark.parametrize("variance", [None, 0.5])
@pytest.mark.parametrize("s", [0.0, 0.2])
def test_an_error_contracts_by_the_product_of_its_steps(process: Gaussian, variance: float | None, s: float) -> None:
    """Two runs with one noise: of a model that knows x0, and of one that knows the mean of N(0, variance)."""
    mean = None if variance is None else wiener(process, torch.zeros(1).double(), torch.full((1, 1), variance).double())
    x = torch.tensor([[0.3], [1.3]], dtype=F64)
    grid = torch.linspace(0.8, s, 9, dtype=F64).tolist()
    for t, after in pairwise(grid):
        x0 = torch.full((2, 1), 0.4, dtype=F64) if mean is None else mean(x, t).mean
        x = process.kernel(x, x0, t, after, 1.0)[0]
    assert float(x[1] - x[0]) == pytest.approx(contraction(process, 0.8, s, variance), rel=1e-8, abs=1e-12)


def test_the_default_contraction_goes_to_the_clean_image() -> None:
    for variance in (None, 0.5):
        assert contraction(VP(), 0.5, variance=variance) == contraction(VP(), 0.5, 0.0, variance)


# the fit


def test_a_gaussian_fit_has_the_mean_and_covariance_of_the_data() -> None:
    x0 = Rng(0, 7).normal((7, 1, 2, 2))
    fit, flat = GaussianFit.of(x0), x0.flatten(1).double()
    off = flat - flat.mean(0)
    found = fit.vectors @ fit.variances.diag() @ fit.vectors.mT
    assert torch.allclose(fit.mean, flat.mean(0)) and torch.allclose(found, off.T @ off / 7, atol=1e-9)


def test_a_gaussian_fit_of_rank_zero_has_no_negative_variance() -> None:
    """A covariance with an eigenvalue of 0, which rounding may make negative."""
    fit = GaussianFit(torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 1.0], [1.0, 1.0 - 1e-9]]).double())
    assert float(fit.variances.min()) >= 0 and fit.draw(5, Rng(0, 5)).isfinite().all()


def test_draws_of_a_gaussian_fit_have_its_law() -> None:
    """m + U sqrt(l) z, so that (draw - m) U / sqrt(l) is the noise of the rng."""
    fit = GaussianFit(torch.tensor([1.0, -2.0]), torch.tensor([[2.0, 0.6], [0.6, 1.0]]))
    found = (fit.draw(4, Rng(0, 4)) - fit.mean) @ fit.vectors / fit.variances.sqrt()
    assert torch.allclose(found, Rng(0, 4).normal((4, 2), F64))


@THREE
def test_the_divergence_of_a_gaussian_fit_is_that_of_torch(process: Gaussian) -> None:
    """The KL of torch between N(alpha m, alpha^2 C + sigma^2 I) and N(0, sigma_1^2 I)."""
    mean, covariance = torch.tensor([1.0, -2.0], dtype=F64), torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=F64)
    for t in (0.3, 0.8, 1.0):
        alpha, sigma, last = float(process.alpha(t)), float(process.sigma(t)), float(process.sigma(1.0))
        eye = torch.eye(2, dtype=F64)
        here = torch.distributions.MultivariateNormal(alpha * mean, alpha**2 * covariance + sigma**2 * eye)
        noise = torch.distributions.MultivariateNormal(0 * mean, last**2 * eye)
        right = float(torch.distributions.kl_divergence(here, noise))
        assert GaussianFit(mean, covariance).divergence(process, t) == pytest.approx(right, rel=1e-9, abs=1e-12)


@THREE
def test_a_gaussian_fit_takes_the_prior_to_its_time(process: Gaussian) -> None:
    """One direction: x_s = alpha_s m + psi (x_1 - alpha_1 m), psi^2 the ratio of the variances."""
    fit = GaussianFit(torch.tensor([0.5]), torch.tensor([[0.3]]))
    x, t = process.prior((4, 1), Rng(0, 4)).double(), 0.4
    (a, v), (b, w) = ((float(process.alpha(s)), float(process.sigma(s)) ** 2) for s in (1.0, t))
    right = b * 0.5 + math.sqrt((b**2 * 0.3 + w) / (a**2 * 0.3 + v)) * (x - a * 0.5)
    assert torch.allclose(fit(process, (4, 1), t, Rng(0, 4)).double(), right, rtol=1e-5)


# the transport


def transport(**options: object) -> SemiDiscreteOT:
    targets = torch.tensor([[0.2, 0.1], [0.9, 0.3], [0.4, 0.8], [-0.5, 0.5], [0.1, -0.9]])
    return SemiDiscreteOT(targets, **options)  # type: ignore[arg-type]


def test_a_noise_goes_to_the_target_of_largest_product_and_height() -> None:
    """argmax <z, y_j> + h_j, in one part of 1,024 rows and in several."""
    h = torch.tensor([0.3, -0.2, 0.0, 0.4, 0.1])
    z = Rng(0, 3000).uniform((3000, 2))
    for given, added in ((h, h), (None, 0 * h)):
        one = transport(h=given)
        right = torch.stack([(one.targets @ row + added).argmax() for row in z])
        assert torch.equal(one.index(z), right)


def test_shares_are_frequencies_of_uniform_noise() -> None:
    one = transport()
    z = Rng(0, 1).uniform((1, 2 * 600)).reshape(600, 2)
    right = torch.stack([(one.index(z) == j).float().mean() for j in range(5)])
    assert torch.allclose(one.shares(Rng(0, 1), 600), right) and float(right.sum()) == pytest.approx(1)


def test_a_fit_is_adam_on_the_shares_with_a_cosine_rate() -> None:
    """Heights of mean 0; new noise of the rng in every step."""
    one, rng = transport(), Rng(0, 1)
    h = torch.nn.Parameter(torch.zeros(5))
    adam = torch.optim.Adam([h], lr=0.3)
    for k in range(40):
        adam.param_groups[0]["lr"] = 0.3 * (1 + math.cos(math.pi * k / 40)) / 2
        h.grad = SemiDiscreteOT(one.targets, h.detach()).shares(rng, 100) - 1 / 5
        adam.step()
        with torch.no_grad():
            h -= h.mean()
    assert torch.allclose(one.fit(Rng(0, 1), steps=40, draws=100, rate=0.3).h, h.detach(), atol=1e-5)
    assert float(one.h.abs().max()) == 0


def test_a_fit_continues_from_the_given_heights() -> None:
    h = torch.tensor([0.3, -0.2, 0.0, 0.4, -0.5])
    assert torch.allclose(transport(h=h).fit(Rng(0, 1), steps=1, draws=10, rate=0.0).h, h)
    assert transport(h=h, shuffled=True).fit(Rng(0, 1), steps=1, draws=10).shuffled


def test_the_defaults_of_a_fit_are_those_of_the_documentation() -> None:
    known = inspect.signature(SemiDiscreteOT.fit).parameters
    assert [known[name].default for name in ("steps", "draws", "rate")] == [1500, 2000, 0.1]


@THREE
@pytest.mark.parametrize("shuffled", [False, True])
def test_optimal_transport_starts_at_its_target_with_the_noise_of_its_time(process: Gaussian, shuffled: bool) -> None:
    one, rng = transport(shuffled=shuffled), Rng(0, 6)
    chosen = rng.integers(5, (6, 1))[:, 0] if shuffled else one.index(rng.uniform((6, 2)))
    right = process.noise(one.targets[chosen], 0.6, rng).xt
    assert torch.equal(one(process, (6, 2), 0.6, Rng(0, 6)), right)
