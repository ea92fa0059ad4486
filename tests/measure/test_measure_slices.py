"""Models of slices on volumes, and DiffusionMBIR beside its recursion in dense matrices and its fixed point."""

from __future__ import annotations

import warnings
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from softmix.cond import Cond
from softmix.denoiser import CallCounter, ExactMixture
from softmix.measure import (
    EachSlice,
    LinearOperator,
    Mask,
    SlicesPosterior,
    TotalVariation,
    blur,
    differences,
    mbir,
    mbir_of_means,
    roughness,
    shrink_absolute,
    shrink_square,
    slice_wise,
    smaller,
)
from softmix.measure.total_variation import LeastSquares
from softmix.oracle import MixtureProblem, correlated, gaussian
from softmix.posterior import HasMean, Implicit, Point
from softmix.process import VE, VP, Flow, Gaussian, PerElement, few
from softmix.rng import Rng
from softmix.sampler import adams, ancestral, drive, sample
from softmix.sampler.drive import finish

F64 = torch.float64
IMAGE, DEPTH = (1, 4, 4), 5
SHAPE = (1, DEPTH, 4, 4)


def normal(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return Rng(seed, shape[0]).normal(shape, F64)


def model(process: Gaussian | None = None) -> ExactMixture:
    return correlated(IMAGE, process).denoiser()


@pytest.mark.parametrize("limit", [256, 3, 1])
def test_every_slice_is_denoised_alone(limit: int) -> None:
    x, t = normal((3, *SHAPE)), torch.tensor([0.2, 0.5, 0.9])
    found = slice_wise(limit=limit)(model())(x, t)
    assert isinstance(found, HasMean) and found.mean.shape == x.shape
    for d in range(DEPTH):
        assert torch.allclose(found.mean[:, :, d], model()(x[:, :, d], t).mean, atol=1e-10)
    assert torch.allclose(slice_wise(limit=limit)(model())(x, 0.5).mean[1:], slice_wise()(model())(x[1:], 0.5).mean)


def test_no_more_slices_than_the_limit_are_evaluated_at_once() -> None:
    counter = CallCounter(model())
    slice_wise(limit=4)(counter)(normal((2, *SHAPE)), 0.5)
    assert (counter.calls, counter.items) == (3, 10)


def test_samples_are_those_of_the_slices_and_independent() -> None:
    """At t = 1 the posterior is the law of the data: the moments of 600 volumes, and no correlation of slices."""
    n, problem = 600, correlated(IMAGE)
    x = VP().prior((n, *SHAPE), Rng(0, n)).double()
    draws = slice_wise(limit=700)(model())(x, 1.0).sample(Rng(1, n)).flatten(3).movedim(2, 1)[:, :, 0]
    assert torch.allclose(draws.flatten(0, 1).mean(0), problem.law.mean, atol=0.1)
    assert torch.allclose(draws.flatten(0, 1).T.cov(), problem.law.covariance, atol=0.12)
    off = draws - problem.law.mean
    assert float((off[:, 0] * off[:, 1]).mean(0).abs().max()) < 0.15
    assert not torch.equal(draws[:, 0], draws[:, 1])


def test_a_draw_of_a_volume_does_not_depend_on_its_batch_or_the_limit() -> None:
    x = normal((3, *SHAPE))
    whole = slice_wise()(model())(x, 0.7).sample(Rng(5, 3))
    alone = slice_wise(limit=2)(model())(x[1:2], 0.7).sample(Rng(5, [1]))
    assert torch.allclose(whole[1:2], alone, atol=1e-10)
    rng = Rng(5, 3)
    posterior = slice_wise()(model())(x, 0.7)
    assert not torch.equal(posterior.sample(rng), posterior.sample(rng))


def test_the_condition_of_a_volume_is_that_of_all_its_slices() -> None:
    class Labelled:
        process, shape = VP(), IMAGE

        def __call__(self, xt: Tensor, t: Any, cond: Any = None) -> Point:
            return Point(cond.label.to(xt).reshape(-1, 1, 1, 1).expand_as(xt))

    found = slice_wise(limit=4)(Labelled())(normal((2, *SHAPE)), 0.5, Cond(label=torch.tensor([3, 8])))
    assert isinstance(found, HasMean)
    assert torch.equal(found.mean, torch.tensor([3.0, 8.0], dtype=F64).reshape(2, 1, 1, 1, 1).expand(2, *SHAPE))


def test_volumes_are_sampled_slice_by_slice() -> None:
    """With a depth `sample` knows the shape; each slice is a sample of the model of slices."""
    n = 300
    x = sample(slice_wise(depth=DEPTH)(gaussian(IMAGE).denoiser()), n, 12, sampler=ancestral, batch=n)
    assert x.shape == (n, *SHAPE)
    slices = x.double().movedim(2, 1).flatten(0, 1).flatten(1)
    assert torch.allclose(slices.mean(0), gaussian(IMAGE).law.mean, atol=0.12)
    with pytest.raises(ValueError, match="has no shape"):
        sample(slice_wise()(gaussian(IMAGE).denoiser()), 2, 2)


def test_a_posterior_without_a_mean_keeps_its_samples() -> None:
    class Drawn:
        process = VP()

        def __call__(self, xt: Tensor, t: Any, cond: Any = None) -> Implicit:
            return Implicit(lambda eta: xt.expand(len(eta), *xt.shape), len(xt), (2,), xt)

    x = normal((2, *SHAPE))
    found = slice_wise(limit=3)(Drawn())(x, 0.5)
    assert isinstance(found, SlicesPosterior) and not isinstance(found, HasMean)
    assert torch.equal(found.sample(Rng(0, 2)), x)
    steps = drive(slice_wise()(Drawn()), mbir(*few_views()[:2], TotalVariation(0.1)), x[:1], few(VP(), 3), Rng(0, 1))
    with pytest.raises(TypeError, match="mbir needs a mean"):
        finish(steps)


def test_a_lack_of_memory_halves_the_limit() -> None:
    class Small:
        process = VP()

        def __call__(self, xt: Tensor, t: Any, cond: Any = None) -> Point:
            if len(xt) > 3:
                raise RuntimeError("out of memory")
            return Point(2 * xt)

    x = normal((2, *SHAPE))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = slice_wise()(Small())(x, 0.5)
    assert (
        isinstance(found, HasMean) and torch.equal(found.mean, 2 * x) and "slices at a time" in str(caught[0].message)
    )


def test_what_is_no_volume_is_refused() -> None:
    with pytest.raises(ValueError, match=r"slice_wise takes volumes \[B, C, D, H, W\]"):
        slice_wise()(model())(normal((2, *IMAGE)), 0.5)
    with pytest.raises(ValueError, match=r"volumes \[B, C, 7, H, W\]"):
        slice_wise(depth=7)(model())(normal((2, *SHAPE)), 0.5)
    with pytest.raises(ValueError, match="take at least 1"):
        slice_wise(limit=0)
    with pytest.raises(TypeError, match="slice_wise needs one alpha"):
        slice_wise()(model(PerElement(VP(), torch.full(IMAGE, 2.0))))


# DiffusionMBIR


def one_law() -> MixtureProblem:
    """A Gaussian of slices."""
    return gaussian(IMAGE)


def few_views() -> tuple[LinearOperator, Tensor]:
    operator = EachSlice(smaller(2, IMAGE), DEPTH)
    return operator, normal((1, *operator.measured), 3)


def mean_map(t: float, process: Gaussian) -> tuple[Tensor, Tensor]:
    """E[x0 | x_t] = G x_t + g for a slice."""
    law, alpha, sigma = one_law().law, float(process.alpha(t)), float(process.sigma(t))
    gain = alpha * law.covariance @ torch.linalg.inv(alpha**2 * law.covariance + sigma**2 * torch.eye(16, dtype=F64))
    return gain, law.mean - alpha * gain @ law.mean


def dense(operator: LinearOperator) -> Tensor:
    return operator(torch.eye(80, dtype=F64).reshape(80, *SHAPE)).flatten(1).T


def by_hand(
    process: Gaussian, x: Tensor, grid: Tensor, on_means: bool, warm: bool, iterations: int, shrink: Any
) -> Tensor:
    """The recursion of `mbir` without noise and corrector, with dense matrices and exact solutions."""
    operator, y = few_views()
    matrix = dense(operator)
    norm = torch.linalg.matrix_norm(matrix, 2)
    matrix, target = matrix / norm, y.flatten() / norm
    steps = differences(torch.eye(80, dtype=F64).reshape(80, *SHAPE), -3).flatten(1).T
    left = matrix.T @ matrix + 0.5 * steps.T @ steps
    v = w = torch.zeros(len(steps), dtype=F64)

    def consistent(u: Tensor) -> Tensor:
        nonlocal v, w
        if not warm:
            v = w = torch.zeros_like(v)
        for _ in range(iterations):
            # the directions that neither term sees stay as they are
            u = u + torch.linalg.pinv(left, hermitian=True) @ (matrix.T @ target + 0.5 * steps.T @ (v - w) - left @ u)
            v = shrink(steps @ u + w, 0.2 / 0.5)
            w = w + steps @ u - v
        return u

    state = x.flatten()
    for t, s in pairwise(grid.tolist()):
        gain, shift = mean_map(t, process)
        # the volume as slices [D, 16], channels first
        mean = (state.reshape(DEPTH, 16) @ gain.T + shift).flatten()
        mean = consistent(mean) if on_means else mean
        ratio = float(process.sigma(s)) / float(process.sigma(t))
        alpha = float(process.alpha(s))
        state = alpha * mean + ratio * (state - float(process.alpha(t)) * mean)
        state = state if on_means else alpha * consistent(state / alpha)
    return state.reshape(1, *SHAPE)


@pytest.mark.parametrize("process", [VE(), VP(), Flow()])
@pytest.mark.parametrize("on_means", [False, True])
@pytest.mark.parametrize(
    ("warm", "iterations", "shrink"),
    [(True, 1, shrink_absolute), (True, 2, shrink_square), (False, 2, shrink_absolute)],
)
def test_a_run_without_noise_is_the_recursion_of_its_equations(
    process: Gaussian, on_means: bool, warm: bool, iterations: int, shrink: Any
) -> None:
    """Predictor at eta = 0, no corrector, and ADMM with exact solutions, to 1e-6 of the size of the result."""
    operator, y = few_views()
    times = torch.cat([process.time(torch.linspace(-4, 4, 6, dtype=F64)), torch.zeros(1, dtype=F64)])
    x = normal((1, *SHAPE), 7) * float(process.sigma(times[0]))
    variation = TotalVariation(0.2, 0.5, shrink=shrink)
    settings = {"iterations": iterations, "cg": 30, "eta": 0.0, "warm": warm}
    sampler: Any = mbir_of_means(operator, y, variation, **settings)  # type: ignore[arg-type]
    if not on_means:
        sampler = mbir(operator, y, variation, corrections=0, **settings)  # type: ignore[arg-type]
    denoiser = slice_wise()(MixtureProblem("slices", one_law().law, process, IMAGE).denoiser())
    found = finish(drive(denoiser, sampler, x, times, Rng(0, 1)))
    exact = by_hand(process, x, times, on_means, warm, iterations, shrink)
    assert float((found - exact).abs().max()) < 1e-6 * float(exact.abs().max())


def test_the_fixed_point_of_squares_and_a_gaussian_of_slices_is_a_linear_system() -> None:
    """Mean, then an iteration of ADMM, again and again at one noise level: with a prior P x + p on the directions that
    A and D do not see, x = P_0 (G x + g) + L^+ (A^T y + rho D^T (v - w)), v = (D x + w) / (1 + 2 lambda / rho), w = 2
    lambda v / rho."""
    process, t = VE(), float(VE().time(1.0))
    operator = EachSlice(Mask(torch.arange(16).reshape(IMAGE) % 4 == 0, IMAGE), DEPTH)
    y = normal((1, *operator.measured), 3)
    y = operator(operator.adjoint(y))
    denoiser = slice_wise()(MixtureProblem("slices", one_law().law, process, IMAGE).denoiser())
    variation, data = TotalVariation(0.2, 0.5, shrink=shrink_square), LeastSquares(operator, y)
    x = torch.zeros(1, *SHAPE, dtype=F64)
    split = variation.begin(x)
    for _ in range(100):
        posterior = denoiser(x, t)
        assert isinstance(posterior, HasMean)
        x, split = variation.step(data, posterior.mean, split, 40)
    matrix = dense(operator)
    steps = differences(torch.eye(80, dtype=F64).reshape(80, *SHAPE), -3).flatten(1).T
    left = matrix.T @ matrix + 0.5 * steps.T @ steps
    inverse = torch.linalg.pinv(left, hermitian=True)
    unseen = torch.eye(80, dtype=F64) - inverse @ left
    gain, shift = mean_map(t, process)
    whole = torch.kron(torch.eye(DEPTH, dtype=F64), gain)
    # at the fixed point w = D x + w - v gives v = D x, and the shrinkage gives w = 2 lambda v / rho
    pull = 0.5 * (1 - 2 * 0.2 / 0.5) * steps.T @ steps
    system = torch.eye(80, dtype=F64) - unseen @ whole - inverse @ pull
    right = unseen @ shift.repeat(DEPTH) + inverse @ (matrix.T @ y.flatten())
    exact = torch.linalg.solve(system, right)
    assert float((x.flatten() - exact).abs().max()) < 1e-6
    # the prior decides the directions that are not seen
    assert float((unseen @ (exact - matrix.T @ y.flatten())).abs().max()) > 0.1


def run(sampler: Any, steps: int = 20, process: Gaussian | None = None, n: int = 1) -> Tensor:
    chosen = process or VP()
    denoiser = slice_wise()(MixtureProblem("slices", one_law().law, chosen, IMAGE).denoiser())
    x = chosen.prior((n, *SHAPE), Rng(1, n)).double()
    return finish(drive(denoiser, sampler, x, few(chosen, steps), Rng(2, n)))


def test_the_penalty_makes_volumes_smooth_along_z_and_the_result_fits_y() -> None:
    operator, _ = few_views()
    truth = one_law().sample(1, Rng(4, 1))[:, :, None].expand(1, *SHAPE)
    y = operator(truth)
    found = {weight: run(mbir(operator, y, TotalVariation(weight, 0.2), cg=3)) for weight in (0.0, 0.3)}
    rough = {weight: float(roughness(x, -3)) for weight, x in found.items()}
    assert rough[0.3] < 0.6 * rough[0.0]
    alone = run(mbir(operator, y, TotalVariation(0.0, axes=()), cg=3))
    assert float((operator(alone) - y).abs().max()) < 0.05
    of_means = run(mbir_of_means(operator, y, TotalVariation(0.1, 0.2)))
    assert float((of_means - truth).square().mean()) < float((alone - truth).square().mean())


def test_the_corrector_keeps_the_law_of_a_level() -> None:
    """Without a measurement, and without a penalty, 10 corrections at each level of the exact score: the variance of
    the result is that of the law to 15 %. With a snr of 0.16 a Langevin step is biased by few percent."""
    nothing = Mask(torch.zeros(SHAPE), SHAPE)
    y, n, process = torch.zeros(1, *SHAPE, dtype=F64), 60, VP()
    sampler = mbir(nothing, y, TotalVariation(0.0, axes=()), corrections=10)
    x = run(sampler, 12, process, n).movedim(2, 1).flatten(0, 1).flatten(1)
    law = one_law().law
    assert float((x - law.mean).square().sum(1).mean() / law.covariance.trace()) == pytest.approx(1, abs=0.15)


def test_one_correction_by_hand() -> None:
    """VP: in x / alpha the score is (alpha mean - x) alpha / sigma^2, and the step 2 (snr |z| / |score|)^2."""
    from softmix.measure.slices import _langevin

    x, mean, s = normal((2, *SHAPE)), normal((2, *SHAPE), 1), 0.4
    alpha, sigma = float(VP().alpha(s)), float(VP().sigma(s))
    z = Rng(3, 2).normal((2, *SHAPE), F64)
    found = _langevin(VP(), x, mean, s, 0.16, Rng(3, 2))
    for i in range(2):
        u = x[i] / alpha
        score = (mean[i] - u) / (sigma / alpha) ** 2
        step = 2 * (0.16 * z[i].norm() / score.norm()) ** 2
        assert torch.allclose(found[i], alpha * (u + step * score + (2 * step) ** 0.5 * z[i]))


def test_a_level_costs_an_evaluation_and_one_for_each_correction() -> None:
    operator, y = few_views()
    for sampler, calls in (
        (mbir(operator, y, TotalVariation(0.1)), 2 * 6 - 1),
        (mbir(operator, y, TotalVariation(0.1), corrections=0), 6),
        (mbir(operator, y, TotalVariation(0.1), corrections=3), 4 * 6 - 3),
        (mbir_of_means(operator, y, TotalVariation(0.1)), 6),
    ):
        counter = CallCounter(one_law().denoiser())
        x = VP().prior((1, *SHAPE), Rng(1, 1)).double()
        finish(drive(slice_wise()(counter), sampler, x, few(VP(), 6), Rng(2, 1)))
        assert counter.calls == calls


@pytest.mark.parametrize("make", [mbir, mbir_of_means])
def test_a_volume_does_not_depend_on_its_batch_and_a_sampler_is_used_again(make: Any) -> None:
    operator, _ = few_views()
    y = normal((3, *operator.measured), 3)
    denoiser = slice_wise()(one_law().denoiser())

    def volumes(sampler: Any, items: list[int]) -> Tensor:
        x = VP().prior((len(items), *SHAPE), Rng(1, items)).double()
        return finish(drive(denoiser, sampler, x, few(VP(), 5), Rng(2, items)))

    sampler = make(operator, y, TotalVariation(0.1, 0.3))
    whole = volumes(sampler, [0, 1, 2])
    assert torch.equal(whole, volumes(sampler, [0, 1, 2]))
    assert torch.allclose(whole[1:2], volumes(make(operator, y[1:2], TotalVariation(0.1, 0.3)), [1]), atol=1e-8)


def test_settings_without_an_effect_are_refused() -> None:
    operator, y = few_views()
    for make in (mbir, mbir_of_means):
        with pytest.raises(ValueError, match="the weight of the penalty has no effect"):
            make(operator, y, TotalVariation(0.1), warm=False)
        with pytest.raises(ValueError, match="take 1 or more"):
            make(operator, y, TotalVariation(0.1), iterations=0)
    with pytest.raises(ValueError, match="corrections = -1"):
        mbir(operator, y, TotalVariation(0.1), corrections=-1)
    with pytest.raises(ValueError, match="snr = 0"):
        mbir(operator, y, TotalVariation(0.1), snr=0.0)


@pytest.mark.parametrize("make", [mbir, mbir_of_means])
def test_measurements_that_do_not_fit_are_refused(make: Any) -> None:
    operator, y = few_views()
    denoiser, x = slice_wise()(one_law().denoiser()), normal((3, *SHAPE))
    for wrong in (y.expand(2, *y.shape[1:]), y[:, :4]):
        with pytest.raises(ValueError, match="give y with one row, or one for each item"):
            finish(drive(denoiser, make(operator, wrong, TotalVariation(0.1)), x, few(VP(), 3), Rng(0, 3)))


def test_the_samplers_run_under_sample_on_the_device(device: torch.device) -> None:
    operator = EachSlice(blur(0.8, IMAGE), DEPTH)
    y = torch.zeros(1, *operator.measured, device=device)
    denoiser = slice_wise(depth=DEPTH)(one_law().denoiser())
    for make in (mbir, mbir_of_means):
        x = sample(denoiser, 2, 3, sampler=make(operator, y, TotalVariation(0.1)), device=device)
        assert x.shape == (2, *SHAPE) and x.device.type == device.type and bool(x.isfinite().all())
    x = sample(denoiser, 2, 3, sampler=partial(adams), device=device)
    assert x.device.type == device.type
