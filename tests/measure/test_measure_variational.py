"""RED-diff beside its fixed point in closed form, the exact posterior, and a posterior of two modes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from softmix.cond import Cond
from softmix.data.toys import ToyMixture
from softmix.denoiser import ExactMixture
from softmix.measure import (
    WEIGHT_FORMS,
    GaussianNoise,
    Instrument,
    Mask,
    MatrixOperator,
    Misfit,
    RedDiff,
    RedDiffStep,
    gaussian_matrix,
    likelihood_misfit,
    mean_misfit,
    red_diff,
    red_diff_particles,
    red_diff_steps,
    smaller,
)
from softmix.measure.variational import _repulsion
from softmix.oracle import MixtureProblem, ObservedProblem, denoising_fixed_point, denoising_pull
from softmix.posterior import Implicit, Point
from softmix.process import VP, Flow, Gaussian, PerElement
from softmix.rng import Rng

F64 = torch.float64
DIM, COUNT, SPREAD, SD, ITEMS = 8, 5, 0.7, 0.3, 60
OPERATOR = gaussian_matrix(COUNT, (DIM,), 0)


def isotropic(process: Gaussian | None = None, mean: float = 0.0) -> ObservedProblem:
    """x0 ~ N(mean, 0.49 I) in 8 dimensions, 5 numbers measured with noise of 0.3."""
    factor = SPREAD * torch.eye(DIM, dtype=F64)[None]
    law = ToyMixture("isotropic", torch.ones(1, dtype=F64), torch.full((1, DIM), mean, dtype=F64), factor)
    matrix = OPERATOR(torch.eye(DIM, dtype=F64)).T
    return ObservedProblem(MixtureProblem("isotropic", law, process or VP(), (DIM,)), matrix, SD)


def measured(problem: ObservedProblem, n: int = ITEMS) -> Tensor:
    return problem.observe(problem.problem.sample(n, Rng(0, n)), Rng(1, n))


def pull_of(problem: ObservedProblem, settings: RedDiff) -> Tensor:
    """The expected pull over times that are uniform between the ends."""
    first, last = settings.ends(problem.process)
    times = last + (first - last) * (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
    alpha, sigma = problem.process.levels(times)
    weights = settings.weight_of(sigma / alpha)
    return denoising_pull(problem.problem.law.covariance, problem.process, times, weights)


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


RANDOM = RedDiff(steps=500, size=0.5, order="random", rate=0.03, average=0.6)


@pytest.mark.parametrize("process", [VP(), Flow()])
def test_in_random_order_it_ends_at_the_fixed_point(process: Gaussian) -> None:
    """500 steps of 60 items; three seeds are off by 0.015, and after 10,000 steps by 0.004. A^+ y is 0.1 away."""
    problem = isotropic(process, 0.4)
    y = measured(problem)
    misfit = mean_misfit(OPERATOR, y)
    found = red_diff(problem.problem.denoiser(), misfit, OPERATOR.pseudo_inverse(y), Rng(2, ITEMS), RANDOM).mean
    fixed = denoising_fixed_point(problem, y, pull_of(problem, RANDOM), True)
    assert rms(found - fixed) < 0.03 < 0.1 < rms(OPERATOR.pseudo_inverse(y) - fixed)


@pytest.mark.slow
def test_the_last_point_of_ten_thousand_steps_is_near_it_too() -> None:
    """Without an average, at a rate of 0.01: 0.033, most of it the noise of the last steps."""
    problem, settings = isotropic(), RedDiff(steps=10_000, order="random", rate=0.01)
    y = measured(problem)
    misfit = mean_misfit(OPERATOR, y)
    found = red_diff(problem.problem.denoiser(), misfit, OPERATOR.pseudo_inverse(y), Rng(2, ITEMS), settings).mean
    assert rms(found - denoising_fixed_point(problem, y, pull_of(problem, settings), True)) < 0.04


@pytest.mark.parametrize("means", [True, False])
def test_the_right_size_of_the_weight_leads_to_the_posterior_mean(means: bool) -> None:
    """For sums K = C^-1, for means K = (D sd^2 / M) C^-1. The errors are 0.015; half of the size is off by 0.05."""
    problem = isotropic()
    y = measured(problem)
    wanted = (DIM * SD**2 / COUNT if means else 1.0) / SPREAD**2
    unit = float(pull_of(problem, replace(RANDOM, size=1.0))[0, 0])
    settings = replace(RANDOM, size=wanted / unit)
    instrument = Instrument(OPERATOR, GaussianNoise(SD))
    misfit = mean_misfit(OPERATOR, y) if means else likelihood_misfit(instrument.likelihood(y))
    found = red_diff(problem.problem.denoiser(), misfit, OPERATOR.pseudo_inverse(y), Rng(2, ITEMS), settings).mean
    exact = problem.given(y).mean
    assert rms(found - exact) < 0.03
    other = denoising_fixed_point(problem, y, pull_of(problem, settings) / 2, means)
    assert rms(other - exact) > 0.05


def test_the_descending_order_does_not_end_at_the_fixed_point() -> None:
    """The last steps have little noise and a vanishing pull, and return to y. It is 0.13 away; 0.14 after 10,000."""
    problem, settings = isotropic(), RedDiff(steps=400, rate=0.01)
    y = measured(problem)
    misfit = mean_misfit(OPERATOR, y)
    found = red_diff(problem.problem.denoiser(), misfit, OPERATOR.pseudo_inverse(y), Rng(2, ITEMS), settings).mean
    assert rms(found - denoising_fixed_point(problem, y, pull_of(problem, settings), True)) > 0.1
    # it fits y better than a posterior sample does: below the noise
    assert rms(OPERATOR(found) - y) < 0.5 * SD


def two_modes(weight: float) -> tuple[MixtureProblem, MatrixOperator, Tensor]:
    """Modes at (1, 0) and (-1, 0) with sd 0.2; the second coordinate is measured, and says nothing about the first."""
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=F64)
    weights = torch.tensor([weight, 1 - weight], dtype=F64)
    law = ToyMixture("two modes", weights, means, 0.2 * torch.eye(2, dtype=F64).repeat(2, 1, 1))
    operator = MatrixOperator(torch.tensor([[0.0, 1.0]], dtype=F64), (2,))
    return MixtureProblem("two modes", law, VP(), (2,)), operator, torch.full((150, 1), 0.1, dtype=F64)


def run_on_modes(weight: float, settings: RedDiff) -> Tensor:
    problem, operator, y = two_modes(weight)
    start = operator.pseudo_inverse(y)
    return red_diff(problem.denoiser(), mean_misfit(operator, y), start, Rng(1, len(y)), settings).mean


def test_the_runs_of_a_posterior_of_two_modes_do_not_have_its_weights_nor_its_spread() -> None:
    """Exact: 70 % in the heavier mode, sd 0.2 inside. Runs: 98 and 100 %, sd 0.08 and 0.045 by the rate."""
    for rate, steps, share, spread in ((0.1, 200, 0.93, 0.14), (0.03, 300, 0.99, 0.08)):
        u = run_on_modes(0.7, RedDiff(steps=steps, rate=rate))[:, 0]
        assert float((u > 0).double().mean()) >= share
        assert float((u.abs() - 1).abs().mean()) < 0.15 and float(u[u > 0].std()) < spread


def test_of_equal_modes_each_run_takes_one_and_in_random_order_the_runs_stay_between() -> None:
    u = run_on_modes(0.5, RedDiff(steps=200))[:, 0]
    assert float((u > 0).double().mean()) == pytest.approx(0.5, abs=0.12) and float((u.abs() - 1).abs().mean()) < 0.15
    between = run_on_modes(0.5, RedDiff(steps=250, order="random", rate=0.02))[:, 0]
    assert float(between.abs().mean()) < 0.25


def test_the_noise_error_is_that_of_the_noise() -> None:
    """At the first step from mu the reported size is the root mean square of eps_hat - eps, by hand."""
    problem, y = isotropic(), measured(isotropic())
    settings, start = RedDiff(steps=1), OPERATOR.pseudo_inverse(y)
    step = next(red_diff_steps(problem.problem.denoiser(), mean_misfit(OPERATOR, y), start, Rng(2, ITEMS), settings))
    t, z = settings.ends(VP())[0], Rng(2, ITEMS).normal((ITEMS, DIM), F64)
    alpha, sigma = VP().alpha(t), VP().sigma(t)
    xt = alpha * start + sigma * z
    eps = (xt - alpha * problem.problem.denoiser()(xt, t).mean) / sigma
    assert torch.allclose(step.regulariser, (eps - z).square().mean(1).sqrt())
    assert torch.allclose(step.misfit, (OPERATOR(start) - y).square().mean(1) / 2)
    assert (step.number, step.total) == (1, 1)


def test_the_first_step_of_adam_has_the_rate_and_the_sign_of_the_gradient() -> None:
    problem, y = isotropic(), measured(isotropic())
    start = torch.zeros(ITEMS, DIM, dtype=F64)
    settings = RedDiff(steps=1, rate=0.07, size=0.0)
    found = red_diff(problem.problem.denoiser(), mean_misfit(OPERATOR, y), start, Rng(2, ITEMS), settings).mean
    assert torch.allclose(found, 0.07 * OPERATOR.adjoint(y).sign(), atol=1e-4)


def test_a_variational_sd_is_in_both_terms() -> None:
    """With sd 0.5 the misfit of the first step is that of start + sd n, and x_t is made of it."""
    problem, y = isotropic(), measured(isotropic())
    start = OPERATOR.pseudo_inverse(y)
    settings, rng = RedDiff(steps=1, sd=0.5), Rng(2, ITEMS)
    step = next(red_diff_steps(problem.problem.denoiser(), mean_misfit(OPERATOR, y), start, rng, settings))
    again = Rng(2, ITEMS)
    x = start + 0.5 * again.normal((ITEMS, DIM), F64)
    assert torch.allclose(step.misfit, (OPERATOR(x) - y).square().mean(1) / 2)
    t, z = settings.ends(VP())[0], again.normal((ITEMS, DIM), F64)
    alpha, sigma = VP().alpha(t), VP().sigma(t)
    off = alpha / sigma * (x - problem.problem.denoiser()(alpha * x + sigma * z, t).mean)
    assert torch.allclose(step.regulariser, off.square().mean(1).sqrt())


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("linear", 1.5),
        ("sqrt", 1.5**0.5),
        ("square", 2.25),
        ("log", math.log(2.5)),
        ("clipped", 1.0),
        ("two thirds", 1.5 ** (2 / 3)),
        ("const", 1.0),
    ],
)
def test_the_weights_are_functions_of_sigma_by_alpha(form: str, value: float) -> None:
    assert float(RedDiff(weight=form, size=2.0).weight_of(torch.tensor(1.5))) == pytest.approx(2 * value)
    assert form in WEIGHT_FORMS
    assert float(RedDiff(weight="clipped", size=1.0).weight_of(torch.tensor(0.5))) == 0.5


def test_a_weight_of_the_users_own() -> None:
    assert float(RedDiff(weight=lambda r: r + 6, size=2.0).weight_of(torch.tensor(1.0))) == 14


def test_descending_times_run_once_through_the_range() -> None:
    seen: list[float] = []

    class Listener(ExactMixture):
        def __call__(self, xt: Tensor, t: Any, cond: Any = None) -> Any:
            seen.append(float(t))
            return super().__call__(xt, t, cond)

    law = isotropic().problem.law
    listener = Listener(VP(), law.weights, law.means, law.covariances)
    y = measured(isotropic())
    settings = RedDiff(steps=5, logsnr=(-4.0, 6.0))
    red_diff(listener, mean_misfit(OPERATOR, y), OPERATOR.pseudo_inverse(y), Rng(0, ITEMS), settings)
    first, last = float(VP().time(-4.0)), float(VP().time(6.0))
    assert seen == pytest.approx(torch.linspace(first, last, 5, dtype=F64).tolist())


def test_each_step_is_seen_and_the_average_is_that_of_the_last_ones() -> None:
    problem, y = isotropic(), measured(isotropic())
    steps: list[RedDiffStep] = []
    settings = RedDiff(steps=10, average=0.3)
    arguments = (problem.problem.denoiser(), mean_misfit(OPERATOR, y), OPERATOR.pseudo_inverse(y))
    found = red_diff(*arguments, Rng(2, ITEMS), settings, look=steps.append)
    assert isinstance(found, Point) and [step.number for step in steps] == list(range(1, 11))
    assert torch.allclose(found.mean, torch.stack([step.mu for step in steps[-3:]]).mean(0))
    last = red_diff(*arguments, Rng(2, ITEMS), replace(settings, average=0.0)).mean
    assert torch.equal(last, steps[-1].mu)


@pytest.mark.parametrize("order", ["descending", "random"])
def test_a_run_does_not_depend_on_its_batch(order: Any) -> None:
    problem, y = isotropic(), measured(isotropic(), 3)
    settings = RedDiff(steps=20, order=order, sd=0.1)

    def run(items: list[int]) -> Tensor:
        part = y[items]
        start = OPERATOR.pseudo_inverse(part)
        return red_diff(problem.problem.denoiser(), mean_misfit(OPERATOR, part), start, Rng(5, items), settings).mean

    assert torch.allclose(run([0, 1, 2])[1:2], run([1]), atol=1e-10)


def test_the_mean_misfit_counts_the_elements_that_exist() -> None:
    seen = torch.tensor([True, False, True, False, True, False, False, False])
    mask, x = Mask(seen, (DIM,)), Rng(0, 2).normal((2, DIM), F64)
    y = mask(Rng(1, 2).normal((2, DIM), F64))
    assert torch.allclose(mean_misfit(mask, y).loss(x), (x - y)[:, seen].square().mean(1) / 2)


def test_images_with_conditions_and_a_float32_model() -> None:
    """The condition of an item, and the images, reach the denoiser in their shape."""

    class Labelled:
        process = VP()

        def __call__(self, xt: Tensor, t: Any, cond: Any = None) -> Point:
            assert isinstance(cond, Cond) and cond.label is not None
            return Point(cond.label.to(xt).reshape(-1, 1, 1, 1).expand_as(xt))

    operator = smaller(2, (1, 4, 4))
    y = torch.zeros(2, 1, 2, 2)
    cond = Cond(label=torch.tensor([1, -1]))
    settings = RedDiff(steps=200, weight="const", size=100.0, logsnr=(-2.0, 2.0), rate=0.02)
    found = red_diff(Labelled(), mean_misfit(operator, y), torch.zeros(2, 1, 4, 4), Rng(0, 2), settings, cond).mean
    assert found.dtype == torch.float32 and torch.allclose(found[:, 0, 0, 0], torch.tensor([1.0, -1.0]), atol=0.05)
    many = red_diff_particles(
        Labelled(), mean_misfit(operator, y), torch.zeros(2, 1, 4, 4), Rng(0, 2), 3, 0.1, settings, cond
    )
    assert many.shape == (3, 2, 1, 4, 4)
    assert torch.allclose(many[:, :, 0, 0, 0], torch.tensor([1.0, -1.0]).expand(3, 2), atol=0.05)


def test_the_repulsion_is_minus_the_gradient_of_the_log_of_the_kernels() -> None:
    """By automatic differentiation, with the bandwidth held fixed."""
    m, x = 4, Rng(3, 4).normal((4, 2, 3), F64)
    found = _repulsion(x)
    for item in range(2):
        points = x[:, item]
        off = points[:, None] - points
        others = off.square().sum(-1)[~torch.eye(m, dtype=torch.bool)]
        wide = others.median() / math.log(m)
        for i in range(m):
            own = points[i].clone().requires_grad_()
            kernels = [(-(own - points[j]).square().sum() / wide).exp() for j in range(m) if j != i]
            (slope,) = torch.autograd.grad(torch.stack(kernels).sum().log(), own)
            assert torch.allclose(found[i, item], -slope)


def test_the_repulsion_is_weighed_with_sigma_and_the_weight_of_the_regulariser() -> None:
    """The sign of the first step of Adam is that of the gradient by hand; without sigma some would differ."""
    problem, settings = isotropic().problem, RedDiff(steps=1, repulsion=3.0, logsnr=(1.0, 2.0), rate=0.1)
    start, z = Rng(1, 40).normal((40, DIM), F64), Rng(2, 40).normal((40, DIM), F64)
    steps = red_diff_steps(
        problem.denoiser(), Misfit(lambda x: 0 * x.sum(1), True), start, Rng(2, 40), settings, particles=4
    )
    moved = next(steps).mu - start
    alpha, sigma = VP().levels(settings.ends(VP())[0])
    off = alpha / sigma * (start - problem.denoiser()(alpha * start + sigma * z, settings.ends(VP())[0]).mean)
    apart = _repulsion(start.unflatten(0, (4, 10))).flatten(0, 1)
    assert torch.equal(moved.sign(), -(off - 3 * sigma * apart).sign())
    assert not torch.equal(moved.sign(), -(off - 3 * apart).sign())


def test_the_repulsion_of_equal_points_is_zero_and_finite() -> None:
    assert torch.equal(_repulsion(torch.ones(3, 2, 4)), torch.zeros(3, 2, 4))


def test_particles_with_repulsion_stand_farther_apart_than_the_posterior() -> None:
    """sd of the first coordinate 1.02. Without repulsion 0.15, in random order; with repulsion 1.7."""
    problem, operator, y = two_modes(0.5)
    y, settings = y[:20], RedDiff(steps=200, order="random", rate=0.04)

    def spread(repulsion: float) -> float:
        start, chosen = operator.pseudo_inverse(y), replace(settings, repulsion=repulsion)
        misfit = mean_misfit(operator, y)
        x = red_diff_particles(problem.denoiser(), misfit, start, Rng(1, 20), 8, 0.3, chosen)
        return float(x[..., 0].std(0).mean())

    assert spread(0.0) < 0.3 and spread(0.5) > 1.2


def test_particles_of_an_item_do_not_depend_on_the_other_items() -> None:
    problem, operator, y = two_modes(0.5)
    settings = RedDiff(steps=10, repulsion=1.0)

    def run(items: list[int]) -> Tensor:
        part = y[items]
        start = operator.pseudo_inverse(part)
        return red_diff_particles(
            problem.denoiser(), mean_misfit(operator, part), start, Rng(5, items), 3, 0.3, settings
        )

    assert torch.allclose(run([0, 1, 2])[:, 1:2], run([1]), atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": "cubic"}, "the weight 'cubic' was asked for; there are linear"),
        ({"order": "rising"}, "the order 'rising' was asked for"),
        ({"steps": 0}, "at least one step"),
        ({"rate": 0.0}, "a rate above 0"),
        ({"logsnr": (2.0, 1.0)}, "a lower and an upper end"),
        ({"sd": -0.1}, "none may be below 0"),
        ({"size": -0.1}, "none may be below 0"),
        ({"repulsion": -0.1}, "none may be below 0"),
        ({"average": 1.5}, "the average is a share"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RedDiff(**settings)


def test_what_cannot_be_done_is_refused() -> None:
    problem, y = isotropic(), measured(isotropic())
    model, start, misfit = problem.problem.denoiser(), OPERATOR.pseudo_inverse(y), mean_misfit(OPERATOR, y)
    with pytest.raises(ValueError, match="use red_diff_particles"):
        red_diff(model, misfit, start, Rng(0, ITEMS), RedDiff(repulsion=1.0))
    with pytest.raises(ValueError, match="1 particles with a spread of 1"):
        red_diff_particles(model, misfit, start, Rng(0, ITEMS), 1)
    with pytest.raises(ValueError, match=f"an rng of 3 items for {len(start)} points"):
        red_diff(model, misfit, start, Rng(0, 3))
    with pytest.raises(ValueError, match="y has shape"):
        red_diff(model, mean_misfit(OPERATOR, y[:7]), start, Rng(0, ITEMS))
    with pytest.raises(ValueError, match=f"it must give \\[{len(start)}\\]"):
        red_diff(model, Misfit(lambda x: x.sum(), True), start, Rng(0, ITEMS))
    with pytest.raises(ValueError, match="no gradient in x"):
        red_diff(model, Misfit(lambda x: torch.ones(len(x)), True), start, Rng(0, ITEMS))


def test_models_without_a_mean_or_without_one_clock_are_refused() -> None:
    y = measured(isotropic())
    misfit, start = mean_misfit(OPERATOR, y), OPERATOR.pseudo_inverse(y)

    class Drawn:
        process = VP()

        def __call__(self, xt: Tensor, t: Any, cond: Any = None) -> Implicit:
            return Implicit(lambda eta: xt.expand(len(eta), *xt.shape), len(xt), (2,), xt)

    with pytest.raises(TypeError, match="red_diff needs a mean"):
        red_diff(Drawn(), misfit, start, Rng(0, ITEMS))
    slow = isotropic(PerElement(VP(), torch.ones(DIM, dtype=F64) * 2)).problem.denoiser()
    with pytest.raises(TypeError, match="needs one alpha and one sigma"):
        red_diff(slow, misfit, start, Rng(0, ITEMS))


def test_everything_stays_on_the_device(device: torch.device) -> None:
    law = isotropic().problem.law.to(device)
    problem = MixtureProblem("isotropic", law, VP(), (DIM,))
    y = torch.zeros(4, COUNT, device=device)
    start = torch.zeros(4, DIM, device=device)
    rng = Rng(0, 4, device=device)
    found = red_diff(problem.denoiser(), mean_misfit(OPERATOR, y), start, rng, RedDiff(steps=3, order="random"))
    assert found.mean.device.type == device.type
    many = red_diff_particles(problem.denoiser(), mean_misfit(OPERATOR, y), start, rng, 2, settings=RedDiff(steps=3))
    assert many.device.type == device.type
