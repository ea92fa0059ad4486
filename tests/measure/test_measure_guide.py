"""Guidance by a likelihood, compared with the exact posterior given x_t and y."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from softmix.cond import Cond
from softmix.data.toys import ToyMixture
from softmix.denoiser import Network, SoftHead, adjusted, mean_only
from softmix.measure import (
    Likelihood,
    WeightedDraws,
    gaussian_likelihood,
    guided_by_draws,
    guided_by_mean,
    guided_through_draws,
)
from softmix.net import MLPSpec
from softmix.oracle import MixtureProblem, ObservedProblem, correlated, gaussian, ks, order
from softmix.oracle.observed import regression
from softmix.posterior import Categorical, Implicit, ImplicitMean, Joint, Point, Posterior
from softmix.process import VE, VP, Flow, InBasis, PerElement, cosine, few
from softmix.rng import Rng
from softmix.sampler import adams, ancestral, drive, sample
from softmix.sampler.drive import finish

F64 = torch.float64
SD, T = 0.5, 0.5


@dataclass(frozen=True)
class Case:
    """States x_t of a mixture, a measurement y = A x0 + sd z of each, and the exact answers."""

    observed: ObservedProblem
    xt: Tensor
    y: Tensor

    @property
    def denoiser(self) -> Any:
        return self.observed.problem.denoiser()

    @property
    def likelihood(self) -> Likelihood:
        matrix = self.observed.matrix
        return gaussian_likelihood(self.y, self.observed.sd, lambda x0: x0.flatten(1) @ matrix.to(x0).T)

    @property
    def mean(self) -> Tensor:
        """E[x0 | x_t]."""
        return self.denoiser(self.xt, T).mean

    @property
    def exact(self) -> Tensor:
        """E[x0 | x_t, y]."""
        return self.observed.denoiser()(self.xt, T, Cond(value=self.y)).mean

    def repeated(self, n: int) -> Case:
        """n copies of the first item."""
        return Case(self.observed, self.xt[:1].expand(n, -1), self.y[:1].expand(n, -1))

    def draws(self, m: int, seed: int = 2) -> Any:
        """The posterior of `guided_by_draws`."""
        return guided_by_draws(self.likelihood, m, Rng(seed, len(self.xt)))(self.denoiser)(self.xt, T)


def case(problem: MixtureProblem, n: int = 300, sd: float = SD) -> Case:
    matrix = torch.ones(1, problem.law.dim, dtype=F64)
    observed = ObservedProblem(problem, matrix, sd)
    x0, cond = observed.draw(n, Rng(0, n))
    assert cond.value is not None
    return Case(observed, problem.process.noise(x0, T, Rng(1, n)).xt, cond.value)


def rms(x: Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


def typical(x: Tensor) -> float:
    """The median over items of the length of x. A few items that hardly any draw fits would decide a mean."""
    return float(x.flatten(1).norm(dim=1).median())


def components(one: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [K], means of A x0 [K] and variances of A x0 [K] given the x_t of the first item."""
    problem, dim = one.observed.problem, one.xt.shape[1]
    alpha, sigma = (float(part(T)) for part in (problem.process.alpha, problem.process.sigma))
    matrix, noise = alpha * torch.eye(dim, dtype=F64)[None], torch.full((1, dim), sigma**2, dtype=F64)
    logs, means, factors = regression(problem.law, matrix, noise, one.xt[:1])
    row = one.observed.matrix[0]
    return logs[0].softmax(0), means[0] @ row, (factors[0].mT @ row).square().sum(1)


def normal(y: Tensor, mean: Tensor, var: Tensor | float) -> Tensor:
    return torch.exp(-((y - mean) ** 2) / (2 * var)) / (2 * math.pi * var) ** 0.5


def evidence(one: Case) -> float:
    """p(y | x_t) = sum_k w_k N(y; A m_k, A C_k A^T + sd^2) of the first item."""
    weights, means, var = components(one)
    return float(weights @ normal(one.y[0, 0], means, var + one.observed.sd**2))


def as_implicit(root: Tensor, mean: bool = True) -> Any:
    """A wrap: the posterior of one Gaussian by its reparametrised draws, x0 = mean(x_t) + F eta."""

    def change(posterior: Posterior[Any], xt: Tensor, t: object) -> Implicit:
        centre = posterior.mean  # type: ignore[attr-defined]
        head = lambda eta: centre + eta @ root.to(eta).T  # noqa: E731
        if not mean:
            return Implicit(head, len(xt), (2,), xt)
        return ImplicitMean(head, len(xt), (2,), xt, lambda: centre)

    return adjusted(change)


def root_of(one: Case) -> Tensor:
    """F with F F^T = Cov[x0 | x_t], for one Gaussian."""
    return torch.linalg.cholesky(one.denoiser(one.xt[:1], T).covariance[0])


def soft(seed: int = 0, head: str = "own") -> Network:
    torch.manual_seed(seed)
    return Network(VP(), MLPSpec(width=32, depth=2), SoftHead(mean=head), (2,)).double()  # type: ignore[arg-type]


# p(y | x_t)


@pytest.mark.parametrize("problem", [gaussian(), correlated()], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("m", [1, 3])
def test_the_evidence_by_draws_is_unbiased(problem: MixtureProblem, m: int) -> None:
    """20,000 repeats; the mean is within 4.5 standard errors of the closed form."""
    one = case(problem).repeated(20_000)
    p = one.draws(m).log_evidence.exp()
    assert abs(float(p.mean()) - evidence(one)) < 4.5 * float(p.std()) / len(p) ** 0.5


def test_the_log_evidence_is_too_low_by_the_variance_over_2_m() -> None:
    """m = 50, 4,000 repeats: the bias is 5 to 30 of its standard errors, and the next term is of order 1/m^2."""
    m, one = 50, case(correlated()).repeated(4000)
    found = one.draws(m).log_evidence
    p = one.repeated(100_000).draws(1, seed=9).log_evidence.exp()
    bias = float(p.var() / (2 * m * p.mean() ** 2))
    error = float(found.std()) / len(found) ** 0.5
    assert bias > 5 * error
    assert abs(float(found.mean()) - (math.log(evidence(one)) - bias)) < 4.5 * error + 0.1 * bias


def test_the_likelihood_at_the_mean_lacks_the_variance_of_the_posterior() -> None:
    """One Gaussian: N(y; A mean, sd^2) in the place of N(y; A mean, A C A^T + sd^2)."""
    one = case(gaussian())
    _, centre, var = components(one)
    at_mean = float(one.likelihood(one.mean)[0].exp())
    assert at_mean == pytest.approx(float(normal(one.y[0, 0], centre[0], SD**2)))
    ratio = normal(one.y[0, 0], centre[0], SD**2) / normal(one.y[0, 0], centre[0], var[0] + SD**2)
    assert at_mean / evidence(one) == pytest.approx(float(ratio)) and abs(float(ratio) - 1) > 0.05


# E[x0 | x_t, y]


@pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=["VP", "VE", "Flow"])
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_the_plug_in_of_one_gaussian_is_its_closed_form(process: Any, scale: float) -> None:
    """mean + scale C A^T (y - A mean) / sd^2; the exact answer has A C A^T + sd^2 in the place of sd^2."""
    one = case(gaussian(process=process))
    got = guided_by_mean(one.likelihood, scale)(one.denoiser)(one.xt, T).mean  # type: ignore[attr-defined]
    covariance, matrix = one.denoiser(one.xt, T).covariance[0], one.observed.matrix
    residual = (one.y - one.mean @ matrix.T) @ (matrix @ covariance)
    assert (got - (one.mean + scale * residual / SD**2)).abs().max() < 1e-10
    total = matrix @ covariance @ matrix.T + SD**2
    assert (one.exact - (one.mean + residual / total)).abs().max() < 1e-10


def test_the_error_of_the_plug_in_does_not_vanish_at_any_scale() -> None:
    """It is at least 0.36 of the whole change by y; that of 2,000 draws is 0.04 on four seeds."""
    one = case(correlated())
    errors = [
        rms(guided_by_mean(one.likelihood, scale)(one.denoiser)(one.xt, T).mean - one.exact)  # type: ignore[attr-defined]
        for scale in (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
    ]
    assert min(errors) > 0.25 * rms(one.mean - one.exact)
    assert rms(one.draws(2000).mean - one.exact) < 0.2 * min(errors)


def slope(errors: list[float], counts: tuple[int, ...]) -> None:
    """Over six seeds of each test the fitted order is 0.46 to 0.58."""
    assert order(counts, errors) == pytest.approx(0.5, abs=0.15), errors


@pytest.mark.parametrize("problem", [gaussian(), correlated(), correlated((1, 2, 2))], ids=["one", "mixture", "image"])
def test_the_weighted_mean_converges_with_the_root_of_m(problem: MixtureProblem) -> None:
    one, counts = case(problem), (30, 120, 480)
    slope([typical(one.draws(m).mean - one.exact) for m in counts], counts)


def test_the_gradient_through_draws_converges_with_the_root_of_m() -> None:
    one, counts = case(gaussian()), (30, 120, 480)
    denoiser, errors = as_implicit(root_of(one))(one.denoiser), []
    for m in counts:
        wrap = guided_through_draws(one.likelihood, m, Rng(2, len(one.xt)))
        errors.append(typical(wrap(denoiser)(one.xt, T).mean.detach() - one.exact))  # type: ignore[attr-defined]
    slope(errors, counts)
    assert errors[-1] < 0.1 * typical(one.mean - one.exact)


def test_the_weighted_mean_of_draws_without_a_mean_converges() -> None:
    one = case(gaussian())
    denoiser = as_implicit(root_of(one), mean=False)(one.denoiser)
    got = guided_by_draws(one.likelihood, 2000, Rng(2, len(one.xt)))(denoiser)(one.xt, T)
    assert rms(got.mean - one.exact) < 0.05 * rms(one.mean - one.exact)  # type: ignore[attr-defined]


def test_a_known_mean_makes_the_weighted_mean_nearer() -> None:
    """By a tenth and more at m = 4; with m = 1 the answer is the mean itself."""
    one = case(correlated())
    posterior, m, n = one.denoiser(one.xt, T), 4, len(one.xt)
    draws = posterior.draws(m, Rng(3, n))
    logs = torch.stack([one.likelihood(x) for x in draws])
    with_mean, without = (rms(WeightedDraws(logs, draws, c).mean - one.exact) for c in (one.mean, None))
    assert with_mean < 0.9 * without
    assert torch.allclose(one.draws(1).mean, one.mean, atol=1e-12)


def test_a_measurement_that_is_not_linear() -> None:
    """y = |x0|^2 + 0.3 z in the plane, against the sum over a fine grid."""
    problem, n = correlated(), 12
    x0 = problem.sample(n, Rng(0, n))
    xt = problem.process.noise(x0, T, Rng(1, n)).xt
    y = (x0.square().sum(1) + 0.3 * Rng(2, n).normal((n,), F64))[:, None]
    likelihood = gaussian_likelihood(y, 0.3, lambda x: x.square().sum(1, keepdim=True))
    line = torch.linspace(-4, 4, 161, dtype=F64)
    points = torch.cartesian_prod(line, line)
    posterior = problem.denoiser()(xt, T)
    each = problem.denoiser()(xt.repeat_interleave(len(points), 0), T).log_prob(points.repeat(n, 1))
    logs = each.reshape(n, -1) - (y - points.square().sum(1)) ** 2 / (2 * 0.3**2)
    exact = logs.softmax(1) @ points
    got = guided_by_draws(likelihood, 3000, Rng(3, n))(problem.denoiser())(xt, T)
    assert rms(got.mean - exact) < 0.1 * rms(posterior.mean - exact)  # type: ignore[attr-defined]


def test_draws_serve_a_process_with_a_number_for_each_element() -> None:
    one = case(correlated(process=PerElement(VP(), torch.tensor([1.0, 1.5]))))
    assert rms(one.draws(2000).mean - one.exact) < 0.1 * rms(one.mean - one.exact)


def test_the_gradient_through_draws_is_that_of_the_evidence_of_the_same_draws() -> None:
    """A network with a nonlinear head, by central differences of `WeightedDraws.log_evidence`."""
    net, n, likelihood = soft(), 5, gaussian_likelihood(torch.full((1, 2), 0.3, dtype=F64), SD)
    xt = Rng(0, n).normal((n, 2), F64)
    with torch.no_grad():
        found = guided_through_draws(likelihood, 3, Rng(1, n))(net)(xt, T).mean  # type: ignore[attr-defined]
        by_draws = guided_by_draws(likelihood, 3, Rng(1, n))(net)
        steps = 1e-5 * torch.eye(2, dtype=F64)
        ends = [[by_draws(xt + sign * step, T).log_evidence for sign in (1, -1)] for step in steps]  # type: ignore[attr-defined]
        slopes = torch.stack([(up - down) / 2e-5 for up, down in ends], 1)
        factor = float(VP().sigma(T) ** 2 / VP().alpha(T))
        assert (found - (net(xt, T).mean + factor * slopes)).abs().max() < 1e-7
    assert rms(slopes) > 0.01


@pytest.mark.parametrize("m", [1, 4])
def test_for_a_point_the_gradient_through_draws_is_the_plug_in(m: int) -> None:
    one = case(correlated())
    point = mean_only(one.denoiser)
    through = guided_through_draws(one.likelihood, m, Rng(0, len(one.xt)), scale=0.3)(point)(one.xt, T)
    assert torch.allclose(through.mean, guided_by_mean(one.likelihood, 0.3)(point)(one.xt, T).mean, atol=1e-12)  # type: ignore[attr-defined]


@pytest.mark.parametrize("t", [0.1, 0.9])
def test_a_y_without_information_changes_nothing(t: float) -> None:
    one = case(gaussian(), sd=1e6)
    rng, mean = Rng(2, len(one.xt)), one.denoiser(one.xt, t).mean
    soft_one = as_implicit(root_of(one))(one.denoiser)
    for guided in (
        guided_by_mean(one.likelihood)(one.denoiser),
        guided_by_draws(one.likelihood, 4, rng)(one.denoiser),
        guided_through_draws(one.likelihood, 4, rng)(soft_one),
    ):
        assert (guided(one.xt, t).mean - mean).abs().max() < 1e-5  # type: ignore[attr-defined]


# samples


def test_a_sample_is_a_draw_with_the_probability_of_its_weight() -> None:
    """40,000 items with three draws each, shares within 4.5 standard errors."""
    n, shares = 40_000, torch.tensor([0.6, 0.3, 0.1], dtype=F64)
    draws = torch.arange(3, dtype=F64)[:, None, None].expand(3, n, 1)
    posterior = WeightedDraws(shares.log()[:, None].expand(3, n), draws)
    got = torch.bincount(posterior.sample(Rng(0, n))[:, 0].long(), minlength=3) / n
    assert ((got - shares).abs() < 4.5 * (shares * (1 - shares) / n).sqrt()).all()
    # each item has its own draws and weights
    each = torch.arange(6, dtype=F64).reshape(2, 3, 1)
    logs = torch.tensor([[0.0, -torch.inf, 0.0], [-torch.inf, 0.0, -torch.inf]], dtype=F64)
    assert WeightedDraws(logs, each).sample(Rng(0, 3)).flatten().tolist() == [0, 4, 2]


def test_ancestral_steps_with_weighted_draws_reach_the_posterior_given_y() -> None:
    """1,500 items, six steps, 200 draws each: Kolmogorov's statistic. Without guidance it is above 10."""
    problem, n = correlated(), 1500
    observed = ObservedProblem(problem, torch.ones(1, 2, dtype=F64), SD)
    y = torch.tensor([[0.6]], dtype=F64)
    logs, means, factors = regression(problem.law, observed.matrix[None], torch.full((1, 1), SD**2, dtype=F64), y)
    roots = torch.linalg.cholesky(factors[0] @ factors[0].mT)
    law = ToyMixture("given y", logs[0].softmax(0), means[0], roots)
    likelihood = gaussian_likelihood(y, SD, lambda x0: x0.sum(1, keepdim=True))
    noise = problem.process.prior((n, 2), Rng(0, n)).double()

    def distance(denoiser: Any) -> float:
        return ks(finish(drive(denoiser, ancestral, noise, few(problem.process, 6), Rng(1, n))), law)

    assert distance(guided_by_draws(likelihood, 200, Rng(2, n))(problem.denoiser())) < 2
    assert distance(problem.denoiser()) > 5


# streams


def test_an_item_depends_on_its_own_stream_and_not_on_its_batch() -> None:
    one = case(correlated(), n=5)
    rng = Rng(7, 5)
    whole = guided_by_draws(one.likelihood, 6, rng)(one.denoiser)(one.xt, T).mean  # type: ignore[attr-defined]
    for k in range(5):
        part = Case(one.observed, one.xt[k : k + 1], one.y[k : k + 1])
        wrap = guided_by_draws(part.likelihood, 6, rng.take(slice(k, k + 1)))
        assert torch.allclose(wrap(one.denoiser)(part.xt, T).mean[0], whole[k], atol=1e-12)  # type: ignore[attr-defined]


def test_equal_items_have_different_draws() -> None:
    one = case(correlated(), n=1).repeated(4)
    assert len(one.draws(3).mean[:, 0].unique()) == 4


def test_a_call_depends_on_its_time_and_not_on_the_calls_before_it() -> None:
    """Other times have other draws, and a time for each item gives the same as calls with one time."""
    one = case(correlated(), n=2).repeated(2)
    wrapped = guided_by_draws(one.likelihood, 3, Rng(7, 2))(as_implicit(torch.eye(2), mean=False)(one.denoiser))
    first, other = (wrapped(one.xt, t)._draws for t in (0.5, 0.4))  # type: ignore[attr-defined]
    assert torch.equal(wrapped(one.xt, torch.tensor(0.5))._draws, first)  # type: ignore[attr-defined]
    noise = [draws - one.denoiser(one.xt, t).mean for draws, t in ((first, 0.5), (other, 0.4))]
    assert (noise[0] - noise[1]).abs().min() > 1e-6
    each = wrapped(one.xt, torch.tensor([0.5, 0.4], dtype=F64))._draws  # type: ignore[attr-defined]
    assert torch.allclose(each[:, 0], first[:, 0]) and torch.allclose(each[:, 1], other[:, 1])


def test_the_same_seed_gives_the_same_samples_and_another_seed_others() -> None:
    one = case(correlated(), n=20)

    def samples(seed: int) -> Tensor:
        wrap = guided_by_draws(one.likelihood, 4, Rng(seed, 20))
        return sample(wrap(one.denoiser), 20, 4, sampler=adams, batch=20)

    assert torch.equal(samples(0), samples(0)) and (samples(0) - samples(1)).abs().min() > 0


# types and gradients


@pytest.mark.parametrize("name", ["mean", "draws", "through"])
def test_float32_agrees_with_float64(name: str, device: torch.device) -> None:
    net, n = soft().to(device), 6
    xt = Rng(0, n, device=device).normal((n, 2), F64)
    y = Rng(1, n, device=device).normal((n, 2), F64)
    rng = Rng(2, n, device=device)
    wrap = {
        "mean": guided_by_mean(gaussian_likelihood(y, SD)),
        "draws": guided_by_draws(gaussian_likelihood(y, SD), 5, rng),
        "through": guided_through_draws(gaussian_likelihood(y, SD), 5, rng),
    }[name]
    double = wrap(net)(xt, T).mean  # type: ignore[attr-defined]
    single = wrap(net.float())(xt.float(), T).mean  # type: ignore[attr-defined]
    assert single.dtype == torch.float32 and double.dtype == F64 and single.device == xt.device
    assert (single - double).abs().max() < 2e-4 and (double - net.double()(xt, T).mean).abs().max() > 0.01


def test_a_sampler_gets_no_graph_and_a_caller_with_gradients_gets_the_true_derivative() -> None:
    one = case(correlated(), n=3)
    guided = guided_by_mean(one.likelihood, 0.3)(one.denoiser)
    with torch.no_grad():
        assert not guided(one.xt, T).mean.requires_grad  # type: ignore[attr-defined]
    x = one.xt.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: guided(x, T).mean, (x,))  # type: ignore[attr-defined]


# errors


def refused(error: type[Exception], match: str, wrap: Any, denoiser: Any, xt: Tensor, t: Any = T) -> None:
    with pytest.raises(error, match=match):
        wrap(denoiser)(xt, t)


def test_posteriors_that_lack_an_ability_are_refused() -> None:
    one = case(gaussian(), n=3)
    rng, likelihood = Rng(0, 3), one.likelihood
    without = as_implicit(root_of(one), mean=False)(one.denoiser)
    refused(TypeError, r"guided_by_mean needs a mean .*averaged", guided_by_mean(likelihood), without, one.xt)
    refused(TypeError, "needs a mean", guided_through_draws(likelihood, 2, rng), without, one.xt)
    through = guided_through_draws(likelihood, 2, rng)
    refused(TypeError, "FullMixture are not: use guided_by_draws", through, one.denoiser, one.xt)
    names = adjusted(lambda posterior, xt, t: Categorical(torch.zeros(len(xt), 3, dtype=xt.dtype)))(one.denoiser)
    refused(TypeError, "Categorical are not.*with_values", guided_by_draws(likelihood, 2, rng), names, one.xt)
    joint = adjusted(lambda posterior, xt, t: Joint({"a": Point(xt)}))(one.denoiser)
    refused(TypeError, "real numbers", guided_by_draws(likelihood, 2, rng), joint, one.xt)


def test_processes_without_one_clock_are_refused() -> None:
    likelihood, rng = gaussian_likelihood(torch.zeros(1, 2), SD), Rng(0, 3)
    for process, match in (
        (PerElement(VP(), torch.tensor([1.0, 2.0])), "one alpha"),
        (InBasis(VP(), (cosine(2),)), "frame"),
    ):
        denoiser = type("Of", (), {"process": process})()
        for wrap in (guided_by_mean(likelihood), guided_through_draws(likelihood, 2, rng)):
            with pytest.raises(TypeError, match=match):
                wrap(denoiser)


def test_a_time_without_signal_is_refused() -> None:
    one = case(gaussian(process=Flow(end=0.0)), n=3)
    refused(ValueError, "alpha = 0 at t = 1", guided_by_mean(one.likelihood), one.denoiser, one.xt, 1.0)


def test_likelihoods_that_do_not_serve_are_refused() -> None:
    one = case(gaussian(), n=3)
    rng = Rng(0, 3)
    for wrong in (lambda x: x, lambda x: x.sum()):
        refused(ValueError, r"one number per item, \[3\]", guided_by_mean(wrong), one.denoiser, one.xt)
        refused(ValueError, r"one number per item, \[3\]", guided_by_draws(wrong, 2, rng), one.denoiser, one.xt)
    detached = guided_by_mean(lambda x: x.detach().sum(1))
    refused(ValueError, "no gradient in x0: use guided_by_draws", detached, one.denoiser, one.xt)
    never = guided_by_draws(lambda x: torch.full_like(x[:, 0], -torch.inf), 2, rng)
    refused(ValueError, "3 of 3 items no draw of 2", never, one.denoiser, one.xt)


def test_senseless_settings_are_refused() -> None:
    one = case(gaussian(), n=3)
    for make in (guided_by_draws, guided_through_draws):
        with pytest.raises(ValueError, match="0 draws"):
            make(one.likelihood, 0, Rng(0, 3))
    refused(ValueError, "rng of 4 items", guided_by_draws(one.likelihood, 2, Rng(0, 4)), one.denoiser, one.xt)
    through = guided_through_draws(one.likelihood, 2, Rng(0, 4))
    refused(ValueError, "rng of 4 items", through, mean_only(one.denoiser), one.xt)
    for sd in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="above 0"):
            gaussian_likelihood(one.y, sd)
    for y in (torch.zeros(2, 2), torch.zeros(3), torch.zeros(3, 1), torch.zeros(3, 3)):
        with pytest.raises(ValueError, match="one for each item"):
            gaussian_likelihood(y, SD)(torch.zeros(3, 2))
