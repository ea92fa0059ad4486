"""Instruments: likelihood, residual, pictures, fingerprints, and their use in training data and guidance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from operator_list import CUBE, F64, OPERATORS, numbers
from torch import Tensor

from softmix.data import Data, Degraded
from softmix.data.report import Report
from softmix.data.store import make
from softmix.data.toys import ToyMixture
from softmix.measure import (
    Channels,
    GaussianNoise,
    Instrument,
    LowLight,
    Mask,
    MaskedFourier,
    MatrixOperator,
    PoissonNoise,
    RoundingNoise,
    blur,
    gaussian_likelihood,
    guided_by_draws,
    guided_by_mean,
    phase_retrieval,
    smaller,
)
from softmix.oracle import MixtureProblem, ObservedProblem, correlated
from softmix.process import VP
from softmix.rng import Rng

SEEN = torch.tensor([[1.0, 0, 1], [0, 1, 1], [0, 0, 1]])[None]
INPAINTING = Instrument(Mask(SEEN, CUBE), GaussianNoise(0.2))


def test_y_is_the_operator_with_noise_at_the_elements_that_exist() -> None:
    x0 = numbers(4, *CUBE)
    y = INPAINTING.observe(x0, Rng(0, 4))
    assert not y[:, :, SEEN[0] == 0].any()
    off = (y - x0)[:, :, SEEN[0] == 1]
    # 60 draws: the standard error of the sd is 9 %
    assert float(off.std()) == pytest.approx(0.2, rel=0.4) and bool(off.all())


def test_the_likelihood_is_that_of_the_elements_that_exist() -> None:
    x0, y = numbers(3, *CUBE), numbers(3, *CUBE, seed=1)
    exact = torch.distributions.Normal(x0, 0.2).log_prob(y)[:, :, SEEN[0] == 1].flatten(1).sum(1)
    assert torch.allclose(INPAINTING.log_lik(y, x0), exact)
    assert torch.allclose(INPAINTING.likelihood(y)(x0), exact)


def test_values_at_elements_that_do_not_exist_are_ignored_also_by_the_derivative() -> None:
    x0, y = numbers(2, *CUBE).requires_grad_(), numbers(2, *CUBE, seed=1)
    broken = torch.where(SEEN > 0, y, torch.nan)
    assert torch.equal(INPAINTING.log_lik(broken, x0), INPAINTING.log_lik(y, x0))
    (slope,) = torch.autograd.grad(INPAINTING.log_lik(broken, x0).sum(), x0)
    assert torch.allclose(slope, torch.where(SEEN > 0, (y - x0) / 0.2**2, 0))
    assert torch.equal(INPAINTING.residual(broken, x0), INPAINTING.residual(y, x0))


def test_one_y_serves_all_items() -> None:
    x0, y = numbers(3, *CUBE), numbers(1, *CUBE, seed=1)
    whole = INPAINTING.log_lik(y, x0)
    assert torch.equal(whole, INPAINTING.log_lik(y.expand(3, -1, -1, -1), x0))
    assert torch.equal(INPAINTING.residual(y, x0), INPAINTING.residual(y.expand(3, -1, -1, -1), x0))
    for call in (INPAINTING.log_lik, INPAINTING.residual):
        with pytest.raises(ValueError, match="give y with one row"):
            call(y.expand(2, -1, -1, -1), x0)


@pytest.mark.parametrize("noise", [GaussianNoise(0.3), PoissonNoise(20.0), RoundingNoise(0.2, 0.2)], ids=repr)
@pytest.mark.parametrize("operator", [Mask(SEEN, CUBE), blur(1.0, CUBE)], ids=["mask", "blur"])
def test_the_residual_of_the_truth_is_about_1(operator: Any, noise: Any) -> None:
    """The mean square over 200 items of 15 elements and more: within 5 standard errors of 1."""
    x0 = numbers(200, *CUBE).tanh()
    instrument = Instrument(operator, noise)
    squares = instrument.residual(instrument.observe(x0, Rng(0, 200)), x0).square()
    assert float(squares.mean()) == pytest.approx(1, abs=5 * float(squares.std()) / 200**0.5 + 1e-3)
    assert float(squares.std()) < 1


def test_the_residual_of_another_item_is_larger_and_that_of_the_noise_itself_is_0() -> None:
    x0 = numbers(50, *CUBE)
    y = INPAINTING.observe(x0, Rng(0, 50))
    assert float(INPAINTING.residual(y, x0.flip(0)).mean()) > 4 and not INPAINTING.residual(y, y).any()


def test_an_element_without_noise_has_a_residual_of_0_or_infinity() -> None:
    dark = Instrument(Mask(torch.ones(2), (2,)), PoissonNoise(10.0, dark=0.0))
    x0 = torch.tensor([[-1.0, -1.0]])
    assert float(dark.residual(torch.tensor([[-1.0, -1.0]]), x0)) == 0
    assert float(dark.residual(torch.tensor([[-1.0, 0.2]]), x0)) == torch.inf


def test_the_picture_is_on_the_grid_of_the_item() -> None:
    instrument, x0 = Instrument(smaller(2, (1, 4, 4)), GaussianNoise(1e-6)), numbers(2, 1, 4, 4)
    means = torch.nn.functional.avg_pool2d(x0, 2)
    enlarged = means.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(instrument(x0, Rng(0, 2)), enlarged, atol=1e-5)


def test_an_operator_without_pictures_is_measured_by_observe() -> None:
    instrument = Instrument(phase_retrieval((1, 3, 3)), GaussianNoise(0.1))
    with pytest.raises(TypeError, match="use `observe`"):
        instrument(numbers(1, 1, 3, 3), Rng(0, 1))
    assert instrument.observe(numbers(1, 1, 3, 3), Rng(0, 1)).shape == (1, 1, 6, 6)


def test_the_sd_is_that_of_gaussian_noise_only() -> None:
    assert INPAINTING.sd == 0.2
    with pytest.raises(TypeError, match="has PoissonNoise"):
        _ = replace(INPAINTING, noise=PoissonNoise(3.0)).sd


def test_every_instrument_has_its_own_fingerprint() -> None:
    made = {name: Instrument(make(), GaussianNoise(0.1)).fingerprint for name, make in OPERATORS.items()}
    assert len(set(made.values())) == len(made)
    again = {name: Instrument(make(), GaussianNoise(0.1)).fingerprint for name, make in OPERATORS.items()}
    assert again == made


def test_the_fingerprint_sees_the_noise_and_the_order_of_rows() -> None:
    matrix = numbers(3, 4)
    found = [
        Instrument(MatrixOperator(rows, (4,)), noise).fingerprint
        for rows in (matrix, matrix.flip(0))
        for noise in (GaussianNoise(0.1), GaussianNoise(0.2))
    ]
    assert len(set(found)) == 4 and found[0].startswith("MatrixOperator with GaussianNoise(scale=0.1), ")


def test_an_instrument_with_a_mask_for_each_item_has_a_fingerprint() -> None:
    masks = torch.stack([SEEN, 1 - SEEN])
    found = [Instrument(Mask(each, CUBE), GaussianNoise(0.1)).fingerprint for each in (masks, masks.flip(0))]
    assert found[0] != found[1]


# In training data.


def pictures(n: int = 20) -> Data:
    values = (numbers(n, 1, 6, 6).tanh() * 127 + 128).to(torch.uint8)
    return make("made up", values, None, (), Report(n))


@pytest.mark.parametrize(
    "operator",
    [smaller(2, (1, 6, 6)), MaskedFourier(torch.ones(1, 1, 6), (1, 6, 6)), LowLight(2.0, 0.5, (1, 6, 6))],
    ids=lambda operator: type(operator).__name__,
)
def test_training_data_have_the_picture_as_their_condition(operator: Any) -> None:
    instrument = Instrument(operator, GaussianNoise(0.01))
    data = Degraded(pictures(), instrument)
    x0, cond = data.batch(torch.arange(4), Rng(0, 4))
    assert cond is not None and cond.image is not None
    assert torch.equal(cond.image, instrument(x0, Rng(0, 4).child("measurement")))
    assert data.fingerprint == Degraded(pictures(), instrument).fingerprint
    other = Degraded(pictures(), Instrument(operator, GaussianNoise(0.02)))
    assert data.fingerprint != other.fingerprint and "GaussianNoise(scale=0.01)" in data.name


# In guidance.


def test_guidance_is_that_of_the_same_gaussian_likelihood() -> None:
    problem, n = correlated(), 50
    matrix = torch.ones(1, 2, dtype=F64)
    instrument = Instrument(MatrixOperator(matrix, (2,)), GaussianNoise(0.5))
    observed = ObservedProblem(problem, matrix, 0.5)
    x0, cond = observed.draw(n, Rng(0, n))
    assert cond.value is not None
    y, xt = cond.value, problem.process.noise(x0, 0.5, Rng(1, n)).xt
    known = gaussian_likelihood(y, 0.5, lambda x: x @ matrix.to(x).T)
    for wrap in (guided_by_mean, lambda likelihood: guided_by_draws(likelihood, 8, Rng(2, n))):
        own, expected = (wrap(each)(problem.denoiser())(xt, 0.5).mean for each in (instrument.likelihood(y), known))
        assert torch.allclose(own, expected)


def grid_mean(xt: Tensor, y: Tensor, instrument: Instrument, problem: MixtureProblem, t: float) -> Tensor:
    """E[x0 | x_t, y] of one number, by a sum over a grid."""
    grid = torch.linspace(-3, 3, 6001, dtype=F64)[:, None]
    alpha, sigma = problem.process.levels(t)
    found = []
    for x, one in zip(xt, y, strict=True):
        log = problem.law.log_prob(grid) - 0.5 * ((x - alpha * grid[:, 0]) / sigma) ** 2
        log = log + instrument.log_lik(one[None], grid)
        found.append((log.softmax(0)[:, None] * grid).sum(0))
    return torch.stack(found)


def test_guidance_by_draws_of_counted_photons_is_right() -> None:
    """A mixture of two, five photons at the brightest. 1,500 draws: within 5 standard errors of the mean."""
    weights, means = torch.tensor([0.4, 0.6], dtype=F64), torch.tensor([[-0.6], [0.5]], dtype=F64)
    factors = torch.full((2, 1, 1), 0.25, dtype=F64)
    problem = MixtureProblem("two", ToyMixture("two", weights, means, factors), VP(), (1,))
    instrument = Instrument(Mask(torch.ones(1), (1,)), PoissonNoise(5.0))
    n, m, t = 6, 1500, 0.6
    x0 = problem.sample(n, Rng(0, n))
    y, xt = instrument.observe(x0, Rng(1, n)), problem.process.noise(x0, t, Rng(2, n)).xt
    plain = problem.denoiser()(xt, t).mean
    exact = grid_mean(xt, y, instrument, problem, t)
    found = guided_by_draws(instrument.likelihood(y), m, Rng(3, n))(problem.denoiser())(xt, t).mean
    # the sd of a weighted draw is at most about 0.6, and at least a third of the draws count
    assert float((found - exact).abs().max()) < 5 * 0.6 / (m / 3) ** 0.5
    assert float((plain - exact).abs().max()) > 0.2


def test_guidance_by_the_mean_follows_an_instrument_that_is_not_linear() -> None:
    problem, n = correlated(), 20
    instrument = Instrument(LowLight(2.0, 0.8, (2,)), PoissonNoise(200.0))
    x0 = problem.sample(n, Rng(0, n)).clamp(-1, 1)
    y, xt = instrument.observe(x0, Rng(1, n)), problem.process.noise(x0, 0.3, Rng(2, n)).xt
    plain = problem.denoiser()(xt, 0.3).mean
    guided = guided_by_mean(instrument.likelihood(y), 0.05)(problem.denoiser())(xt, 0.3).mean
    assert bool((instrument.log_lik(y, guided) > instrument.log_lik(y, plain)).double().mean() > 0.8)


def test_an_instrument_measures_channels_that_are_mixed() -> None:
    """y has other channels than x0, and its picture has those of y."""
    instrument = Instrument(Channels(numbers(2, 3), (4, 4)), GaussianNoise(0.1))
    assert instrument(numbers(2, 3, 4, 4), Rng(0, 2)).shape == (2, 2, 4, 4)
