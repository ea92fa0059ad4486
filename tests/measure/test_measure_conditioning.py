"""Guidance by moments, data consistency and DDRM, against exact posteriors given x_t and y."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from softmix.cond import Cond
from softmix.data.toys import ToyMixture
from softmix.denoiser import Denoiser, Wrap, adjusted, mean_only
from softmix.measure import (
    Conditioned,
    Convolution,
    GaussianNoise,
    Instrument,
    Mask,
    MatrixOperator,
    Operator,
    PoissonNoise,
    ddrm,
    guided_by_jacobian,
    guided_by_mean,
    guided_by_moments,
    guided_by_pseudo_inverse,
    of_data,
    of_noise,
    own_variance,
    projected,
    proximal,
    stepped,
)
from softmix.measure.misfit import data_residual
from softmix.oracle import MixtureProblem, ObservedProblem, gaussian
from softmix.posterior import Implicit, Normal, Point, Posterior
from softmix.process import VE, VP, Flow, Gaussian, uniform
from softmix.rng import Rng
from softmix.sampler import ancestral, ddim, sample

F64 = torch.float64
SD, DIM = 0.3, 4
TIMES = (0.05, 0.4, 0.8)


def one_gaussian(var: float | None = None, process: Gaussian | None = None) -> MixtureProblem:
    """x0 ~ N(mu, S) in 4 dimensions; with `var`, S = var I."""
    root = torch.tril(Rng(1, DIM, "root").normal((DIM, DIM), F64)) * 0.3 + 0.5 * torch.eye(DIM, dtype=F64)
    root = root if var is None else var**0.5 * torch.eye(DIM, dtype=F64)
    mean = Rng(2, 1, "mean").normal((1, DIM), F64) * (0.0 if var else 0.3)
    law = ToyMixture("one Gaussian", torch.ones(1, dtype=F64), mean, root[None])
    return MixtureProblem("one Gaussian", law, process or VP(), (DIM,))


def matrix() -> Tensor:
    return Rng(3, 2, "A").normal((2, DIM), F64)


def instrument(a: Tensor | None = None) -> Instrument:
    return Instrument(MatrixOperator(matrix() if a is None else a, (DIM,)), GaussianNoise(SD))


class Observed:
    """States x_t with a measurement each, and the exact E[x0 | x_t, y]."""

    def __init__(self, problem: MixtureProblem, t: float, n: int = 50, a: Tensor | None = None):
        self.observed = ObservedProblem(problem, matrix() if a is None else a, SD)
        self.denoiser = problem.denoiser()
        x0, cond = self.observed.draw(n, Rng(0, n))
        self.y, self.t = cast(Tensor, cond.value), t
        self.xt = problem.process.noise(x0, t, Rng(1, n)).xt

    @property
    def exact(self) -> Any:
        return self.observed.denoiser()(self.xt, self.t, Cond(value=self.y))

    def by(self, wrap: Wrap, denoiser: Denoiser | None = None) -> Any:
        return wrap(denoiser or self.denoiser)(self.xt, self.t)


def largest(x: Tensor) -> float:
    return float(x.detach().abs().max())


def test_elements_of_y_that_do_not_exist_have_no_residual() -> None:
    seen, x0 = torch.tensor([1.0, 0, 1, 0]), torch.zeros(1, DIM, dtype=F64)
    y = torch.tensor([[0.5, 7.0, -0.5, 7.0]], dtype=F64)
    assert data_residual(Mask(seen, (DIM,)), y, x0).tolist() == [[0.5, 0, -0.5, 0]]


# guidance by moments


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=["vp", "ve", "flow"])
def test_the_covariance_of_one_gaussian_gives_its_exact_mean(process: Gaussian, t: float) -> None:
    one = Observed(one_gaussian(process=process), t)
    for wrap in (guided_by_moments(instrument(), one.y), guided_by_jacobian(instrument(), one.y, 50)):
        assert largest(one.by(wrap).mean - one.exact.mean) < 1e-7


def test_variances_of_elements_are_exact_for_independent_elements() -> None:
    one = Observed(one_gaussian(var=0.7), 0.5)
    diagonal = adjusted(lambda p, xt, t: Normal(cast(Any, p).mean, cast(Any, p).var))
    found = one.by(guided_by_moments(instrument(), one.y), diagonal(one.denoiser))
    assert largest(found.mean - one.exact.mean) < 1e-8


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("var", [0.5, 1.0, 2.0])
def test_pseudo_inverse_guidance_is_exact_for_gaussian_data_of_its_variance(var: float, t: float) -> None:
    one = Observed(one_gaussian(var), t)
    found = one.by(guided_by_pseudo_inverse(instrument(), one.y, data_var=var))
    assert largest(found.mean - one.exact.mean) < 1e-8
    assert largest(found.prior - one.denoiser(one.xt, t).mean) < 1e-12


@pytest.mark.parametrize("t", TIMES)
def test_the_log_evidence_of_pseudo_inverse_guidance_is_that_of_one_gaussian(t: float) -> None:
    var, a = 0.8, matrix()
    one = Observed(one_gaussian(var), t)
    posterior = one.denoiser(one.xt, t)
    law = torch.distributions.MultivariateNormal(
        posterior.mean @ a.T, a @ posterior.covariance @ a.T + SD**2 * torch.eye(len(a), dtype=F64)
    )
    found = one.by(guided_by_pseudo_inverse(instrument(), one.y, data_var=var))
    assert largest(found.log_evidence - law.log_prob(one.y)) < 1e-8


def test_the_log_evidence_counts_the_elements_that_a_mask_shows() -> None:
    seen = torch.tensor([1.0, 0, 1, 0])
    one = Observed(one_gaussian(0.8), 0.5, a=torch.eye(DIM, dtype=F64)[seen > 0])
    whole = torch.zeros(len(one.y), DIM, dtype=F64)
    whole[:, seen > 0] = one.y
    masked = Instrument(Mask(seen, (DIM,)), GaussianNoise(SD))
    rows = instrument(torch.eye(DIM, dtype=F64)[seen > 0])
    by_mask = one.by(guided_by_pseudo_inverse(masked, whole, data_var=0.8))
    by_rows = one.by(guided_by_pseudo_inverse(rows, one.y, data_var=0.8))
    assert largest(by_mask.log_evidence - by_rows.log_evidence) < 1e-6
    assert largest(by_mask.mean - by_rows.mean) < 1e-6


def test_the_derivative_of_pseudo_inverse_guidance_in_the_state_is_that_of_differences() -> None:
    """A sampler with gradients differentiates the guided mean, and so the gradient of the evidence once more."""
    one = Observed(MixtureProblem("pair", ToyMixture("pair", *pair()), VP(), (DIM,)), 0.5, n=3)
    guided = guided_by_pseudo_inverse(instrument(), one.y, data_var=0.8)(one.denoiser)
    way = Rng(4, 3).normal((3, DIM), F64)
    x = one.xt.clone().requires_grad_()
    (slope,) = torch.autograd.grad((cast(Any, guided(x, 0.5)).mean * way).sum(), x)
    ends = [cast(Any, guided(one.xt + step * way, 0.5)).mean for step in (1e-5, -1e-5)]
    assert float((slope * way).sum()) == pytest.approx(float(((ends[0] - ends[1]) * way).sum()) / 2e-5, rel=1e-5)


def pair() -> tuple[Tensor, Tensor, Tensor]:
    """Two Gaussians, so that the mean is not linear in x_t."""
    means = torch.stack([torch.full((DIM,), 0.6, dtype=F64), torch.full((DIM,), -0.4, dtype=F64)])
    return torch.tensor([0.3, 0.7], dtype=F64), means, (0.4 * torch.eye(DIM, dtype=F64)).expand(2, DIM, DIM)


def test_the_jacobian_refuses_a_state_that_records_gradients() -> None:
    one = Observed(one_gaussian(), 0.5)
    with pytest.raises(ValueError, match="no derivative of its own"):
        guided_by_jacobian(instrument(), one.y)(one.denoiser)(one.xt.requires_grad_(), 0.5)


def test_the_scale_multiplies_the_shift() -> None:
    one = Observed(one_gaussian(), 0.5)
    shift = [
        found.mean - found.prior
        for found in (one.by(guided_by_pseudo_inverse(instrument(), one.y, scale=s)) for s in (1.0, 0.5))
    ]
    assert largest(shift[0] - 2 * shift[1]) < 1e-12


def test_few_iterations_of_the_jacobian_shift_less_far() -> None:
    one = Observed(one_gaussian(), 0.6)
    prior = one.denoiser(one.xt, one.t).mean
    errors = [float((one.by(guided_by_jacobian(instrument(), one.y, k)).mean - one.exact.mean).norm()) for k in (1, 2)]
    assert errors[1] < 1e-6 < errors[0] < float((prior - one.exact.mean).norm())


def test_a_guided_mean_is_one_of_its_prior_and_its_evidence() -> None:
    one = Observed(one_gaussian(), 0.5)
    found = one.by(guided_by_mean(instrument().likelihood(one.y)))
    assert isinstance(found, Conditioned)
    expected = instrument().log_lik(one.y, found.prior)
    assert largest(found.log_evidence - expected) < 1e-12


# data consistency


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("var", [0.5, 2.0])
def test_the_proximal_step_is_exact_for_equal_variances(var: float, t: float) -> None:
    one = Observed(one_gaussian(var), t)
    for wrap in (proximal(instrument(), one.y), proximal(instrument(), one.y, of_data(var))):
        assert largest(one.by(wrap).mean - one.exact.mean) < 1e-8


def test_own_variance_is_the_mean_over_the_elements_of_an_item() -> None:
    one = Observed(one_gaussian(), 0.5)
    posterior = one.denoiser(one.xt, 0.5)
    found = own_variance(one.denoiser, posterior, 0.5)
    assert largest(found - torch.diagonal(posterior.covariance, 0, 1, 2).mean(1)) < 1e-12


def test_the_strength_of_diffpir_divides_the_noise_of_the_state() -> None:
    one = Observed(one_gaussian(), 0.5)
    alpha, sigma = one.denoiser.process.levels(0.5)
    nu = float(sigma**2 / alpha**2) / 7
    mean = one.denoiser(one.xt, 0.5).mean
    a, eye = matrix(), torch.eye(DIM, dtype=F64)
    exact = torch.linalg.solve(a.T @ a / SD**2 + eye / nu, (one.y @ a / SD**2 + mean / nu)[..., None])[..., 0]
    assert largest(one.by(proximal(instrument(), one.y, of_noise(7.0))).mean - exact) < 1e-10


def test_a_projected_mean_fits_y_and_keeps_the_null_space() -> None:
    one = Observed(one_gaussian(), 0.5)
    operator, mean = instrument().operator, one.denoiser(one.xt, 0.5).mean
    found = one.by(projected(cast(MatrixOperator, operator), one.y)).mean
    null = torch.linalg.svd(matrix()).Vh[2:]
    assert largest(operator(found) - one.y) < 1e-10
    assert largest((found - mean) @ null.T) < 1e-12


def test_proximal_steps_of_a_sure_measurement_are_projections() -> None:
    one = Observed(one_gaussian(), 0.5)
    operator = cast(MatrixOperator, instrument().operator)
    sure = one.by(proximal(Instrument(operator, GaussianNoise(1e-3)), one.y, of_data(1.0))).mean
    assert largest(sure - one.by(projected(operator, one.y)).mean) < 1e-4


def test_a_step_is_that_of_gradient_descent() -> None:
    one = Observed(one_gaussian(), 0.5)
    a, mean = matrix(), one.denoiser(one.xt, 0.5).mean
    found = one.by(stepped(cast(MatrixOperator, instrument().operator), one.y, 0.1)).mean
    assert largest(found - (mean + 0.1 * (one.y - mean @ a.T) @ a)) < 1e-12


def test_the_draws_of_a_soft_mixture_are_changed_each() -> None:
    one = Observed(one_gaussian(), 0.5)
    eta = Rng(5, len(one.y), "eta")
    soft = adjusted(lambda p, xt, t: Implicit(lambda z: cast(Any, p).mean + z, len(xt), (DIM,), xt))(one.denoiser)
    found = one.by(projected(cast(MatrixOperator, instrument().operator), one.y), soft)
    draws = found.draws(3, eta)
    assert largest(instrument().operator(draws.flatten(0, 1)) - one.y.repeat(3, 1)) < 1e-10
    assert largest(draws[0] - draws[1]) > 0.1


# DDRM

PLAIN = Convolution(torch.tensor([[0.2, 0.5, 0.3]], dtype=F64), (1, 2, 3))


def by_ddrm(eta: float, eta_b: float, n: int = 4000) -> tuple[Tensor, Any]:
    """Draws for data N(0, I) of which two elements are measured, and the exact posterior."""
    a = torch.diag(torch.tensor([2.0, 1.0, 0.0, 0.0], dtype=F64))
    problem, y = one_gaussian(1.0), torch.tensor([[0.8, -0.5, 0.0, 0.0]], dtype=F64)
    sampler = ddrm(instrument(a), y, eta, eta_b)
    x = sample(problem.denoiser(), n, sampler=sampler, grid=uniform(VP(), 200), batch=n).double()
    return x, ObservedProblem(problem, a, SD).given(y)


def test_ddrm_without_fresh_noise_leaves_unmeasured_elements_their_law() -> None:
    """4,000 draws: the error of a mean is 0.016, of a standard deviation 0.011."""
    x, _ = by_ddrm(eta=0.0, eta_b=1.0)
    assert largest(x[:, 2:].mean(0)) < 0.07
    assert largest(x[:, 2:].std(0) - 1) < 0.05


def test_ddrm_puts_measured_elements_near_their_posterior_mean() -> None:
    x, exact = by_ddrm(eta=0.85, eta_b=1.0)
    assert largest(x[:, :2].mean(0) - exact.mean[0, :2]) < 0.05


def test_the_fresh_noise_of_ddrm_takes_spread_from_unmeasured_elements() -> None:
    """eta keeps its share of noise in every step, however short: the law is not reached by more steps."""
    spread = [float(by_ddrm(eta, 1.0)[0][:, 2:].std()) for eta in (0.0, 0.5, 0.85)]
    assert spread[0] > spread[1] + 0.01 > spread[2] + 0.02


def test_ddrm_copies_a_measurement_without_noise() -> None:
    sharp = Instrument(MatrixOperator(matrix(), (DIM,)), GaussianNoise(1e-4))
    one = Observed(one_gaussian(), 0.5, n=20)
    off = [
        largest(
            sharp.operator(sample(one.denoiser, 20, sampler=ddrm(sharp, one.y), grid=uniform(VP(), k), batch=20))
            - one.y
        )
        for k in (20, 200)
    ]
    # what is left is the noise of the state at the last question
    assert off[1] < off[0] / 4


def test_ddrm_starts_at_the_measurement_with_the_noise_that_it_lacks() -> None:
    """5,000 items: a mean is off by 0.014 of the noise, which is 2 here."""
    n, a = 5000, torch.diag(torch.tensor([2.0, 1.0, 0.0, 0.0], dtype=F64))
    y, grid = torch.tensor([[8.0, -6.0, 0.0, 0.0]], dtype=F64), VP().time(-2 * torch.tensor([2.0, 0.5]).log())
    x = Rng(0, n).normal((n, DIM), F64)
    ask = next(ddrm(instrument(a), y)(VP(), x, grid, Rng(1, n)))
    alpha, sigma = VP().levels(grid[0])
    found = ask.x / float(alpha)
    assert float(sigma / alpha) == pytest.approx(2)
    assert largest(found[:, :2].mean(0) - torch.tensor([4.0, -6.0])) < 0.15
    assert largest(found[:, :2].std(0) - torch.tensor([4 - 0.15**2, 4 - 0.3**2]).sqrt()) < 0.1
    assert largest(found[:, 2:] - x[:, 2:] / float(alpha)) < 1e-12


# what is refused


class Square(Operator):
    shape = measured = (DIM,)

    def __call__(self, x0: Tensor) -> Tensor:
        return x0**2


Y = torch.zeros(1, 2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: guided_by_pseudo_inverse(Instrument(Square(), GaussianNoise(1.0)), Y), "needs a LinearOperator"),
        (lambda: guided_by_moments(Instrument(PLAIN, PoissonNoise(10)), Y), "Gaussian noise of one size is needed"),
        (lambda: ddrm(Instrument(PLAIN @ PLAIN, GaussianNoise(1.0)), Y), "needs the singular values"),
        (lambda: proximal(Instrument(Square(), GaussianNoise(1.0)), Y), "proximal needs a LinearOperator"),
    ],
)
def test_instruments_that_do_not_suit_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: guided_by_pseudo_inverse(instrument(), Y, data_var=0), "variance of the data is above 0"),
        (lambda: guided_by_jacobian(instrument(), Y, 0), "take at least 1"),
        (lambda: stepped(PLAIN, Y, -1.0), "a step of -1.0"),
        (lambda: ddrm(instrument(), Y, eta=1.5), "both are in"),
    ],
)
def test_settings_outside_their_range_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_a_y_of_another_shape_is_refused() -> None:
    one = Observed(one_gaussian(), 0.5)
    with pytest.raises(ValueError, match="y has shape"):
        _ = one.by(proximal(instrument(), one.y[:, :1])).mean


def test_a_posterior_without_a_variance_is_refused() -> None:
    one = Observed(one_gaussian(), 0.5)
    for wrap in (guided_by_moments(instrument(), one.y), proximal(instrument(), one.y)):
        with pytest.raises(TypeError, match="needs a variance"):
            one.by(wrap, mean_only(one.denoiser))


# a batch


WRAPS: dict[str, Callable[[Tensor], Wrap]] = {
    "pseudo-inverse": lambda y: guided_by_pseudo_inverse(instrument(), y),
    "moments": lambda y: guided_by_moments(instrument(), y),
    "jacobian": lambda y: guided_by_jacobian(instrument(), y, 3),
    "proximal": lambda y: proximal(instrument(), y),
    "projected": lambda y: projected(cast(MatrixOperator, instrument().operator), y),
    "stepped": lambda y: stepped(cast(MatrixOperator, instrument().operator), y, 0.1),
}


@pytest.mark.parametrize("name", WRAPS)
def test_a_batch_of_k_equals_k_batches_of_one(name: str) -> None:
    one = Observed(one_gaussian(), 0.5, n=3)
    whole = one.by(WRAPS[name](one.y)).mean
    for k in range(3):
        alone = WRAPS[name](one.y[k : k + 1])(one.denoiser)(one.xt[k : k + 1], 0.5).mean
        assert largest(alone - whole[k : k + 1]) < 1e-9


@pytest.mark.parametrize("name", WRAPS)
def test_guidance_reaches_the_posterior_of_one_gaussian_by_a_sampler(name: str) -> None:
    """Only wraps that are exact for one Gaussian: 2,000 draws, 4.5 standard errors and the error of 100 steps."""
    if name in ("projected", "stepped"):
        pytest.skip("not a posterior")
    n, problem = 2000, one_gaussian(1.0)
    y = torch.tensor([[0.7, -0.4]], dtype=F64)
    wrap = guided_by_jacobian(instrument(), y, 10) if name == "jacobian" else WRAPS[name](y)
    x = sample(wrap(problem.denoiser()), n, sampler=ancestral, grid=uniform(VP(), 100), batch=n).double()
    exact = ObservedProblem(problem, matrix(), SD).given(y)
    sd = exact.covariance[0].diagonal().sqrt()
    assert largest((x.mean(0) - exact.mean[0]) / sd) < 4.5 / n**0.5 + 0.03
    assert largest(torch.cov(x.T) - exact.covariance[0]) < 0.08


def test_ddim_takes_the_wraps(device: torch.device) -> None:
    problem = gaussian()
    a = torch.ones(1, 2, dtype=F64, device=device)
    own = Instrument(MatrixOperator(a, (2,)), GaussianNoise(SD))
    y = torch.zeros(1, 1, dtype=F64, device=device)
    x = sample(guided_by_pseudo_inverse(own, y)(problem.denoiser()), 5, 4, sampler=ddim, batch=5, device=device)
    assert x.device.type == device.type and bool(x.isfinite().all())


def test_points_stay_points() -> None:
    one = Observed(one_gaussian(), 0.5)
    found: Posterior = one.by(projected(cast(MatrixOperator, instrument().operator), one.y), mean_only(one.denoiser))
    assert isinstance(found, Point)
