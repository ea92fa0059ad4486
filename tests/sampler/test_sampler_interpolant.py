"""The ODE and the SDE of stochastic interpolants: orders against exact flows, laws, and the strength of the noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from softmix.data import toys
from softmix.data.toys import ToyMixture
from softmix.denoiser import CallCounter, Denoiser, mean_only
from softmix.denoiser.wrap import Wrapped
from softmix.oracle import MixtureProblem, PairedProblem, between, correlated, ks, monotone_flow, order, standardised
from softmix.posterior import Point, PointAndNoise
from softmix.process import VP, Flow, Immiscible, Interpolant, PerElement
from softmix.rng import Rng
from softmix.sampler import (
    FOR_INTERPOLANTS,
    Sampler,
    SamplerError,
    ancestral,
    ddim,
    drive,
    epsilon,
    interpolant_heun,
    sample,
    traits,
    velocity,
)
from softmix.sampler.drive import finish
from softmix.sampler.interpolant import renewal

F64 = torch.float64
PATHS = [
    Interpolant(),
    Interpolant("trig"),
    Interpolant("linear", "smooth"),
    Interpolant("trig", "smooth"),
    Interpolant("linear", "sine"),
    Interpolant("encoding"),
    Interpolant("encoding", "smooth"),
    Interpolant("mirror"),
    Interpolant(c=0.0),
]
EACH = pytest.mark.parametrize("process", PATHS, ids=str)
SOLVERS = pytest.mark.parametrize("sampler", FOR_INTERPOLANTS, ids=lambda s: traits(s).name)


def problem_of(process: Interpolant, dim: int = 1) -> PairedProblem:
    first = toys.unequal(dim, 3, 1)
    return between(first, first if process.path == "mirror" else toys.unequal(dim, 2, 5), process)


def starts(problem: PairedProblem, n: int) -> Tensor:
    x1 = problem.draw(n, Rng(3, n, "start"))[1].value
    assert x1 is not None
    return x1


def run(problem: PairedProblem, sampler: Sampler, n: int, grid: Tensor, model: Denoiser | None = None) -> Tensor:
    return finish(drive(model or problem.denoiser(), sampler, starts(problem, n), grid, Rng(1, n, "run")))


def distribution(law: ToyMixture) -> Callable[[Tensor], Tensor]:
    mean, sd = law.means[:, 0], law.factors[:, 0, 0]
    return lambda x: torch.special.ndtr((x[..., None] - mean) / sd) @ law.weights


# the exact fields


@EACH
@pytest.mark.parametrize("t", [0.15, 0.4, 0.8])
def test_the_exact_means_are_bayes_rule_by_integration(process: Interpolant, t: float) -> None:
    """E[x0 | x], E[x1 | x] and E[z | x] by sums over a lattice of x0 and x1 on the line; c = 0 has no z."""
    problem = problem_of(process)
    line = torch.linspace(-5, 5, 401, dtype=F64)
    x0, x1 = torch.cartesian_prod(line, line).T
    a, b, gamma = (float(part) for part in process.parts(t))
    if gamma < 0.1:
        pytest.skip("the lattice is too coarse for little noise")
    xt = torch.tensor([[-0.7], [0.2], [0.9]], dtype=F64)
    logs = problem.law.log_prob(torch.stack([x0, x1], 1)) - (xt - a * x0 - b * x1) ** 2 / (2 * gamma**2)
    weights = logs.softmax(1)
    answer = problem.denoiser()(xt, t)
    truth = {"mean": weights @ x0, "x1": weights @ x1, "noise": weights @ torch.ones_like(x0)}
    truth["noise"] = (xt[:, 0] - a * truth["mean"] - b * truth["x1"]) / gamma
    for name, right in truth.items():
        assert torch.allclose(getattr(answer, name)[:, 0], right, atol=1e-6), name
    assert torch.allclose(answer.var[:, 0], weights @ x0**2 - truth["mean"] ** 2, atol=1e-6)


@EACH
@pytest.mark.parametrize("t", [0.1, 0.4, 0.9])
def test_the_score_and_the_velocity_are_those_of_the_law(process: Interpolant, t: float) -> None:
    """-E[z | x] / gamma = grad log p_t. On the line the flux is b p = -dF/dt, for the distribution function F."""
    problem = problem_of(process)
    x = torch.linspace(-1.2, 1.2, 7, dtype=F64)[:, None].requires_grad_()
    law = problem.at(t)
    log_prob = law.log_prob(x)
    score = torch.autograd.grad(log_prob.sum(), x)[0]
    x = x.detach()
    answer = problem.denoiser()(x, t)
    if process.c > 0:
        assert torch.allclose(-answer.noise / float(process.gamma(t)), score, atol=1e-8)
    change = (distribution(problem.at(t + 1e-5))(x) - distribution(problem.at(t - 1e-5))(x))[:, 0] / 2e-5
    b = velocity(process, x, t, answer)[:, 0]
    assert torch.allclose(b, -change / log_prob.detach().exp(), atol=1e-5)


@pytest.mark.parametrize("process", [VP(), Flow()], ids=str)
def test_the_velocity_of_a_gaussian_process_is_that_of_its_law(process: Flow) -> None:
    problem = correlated((1,), process)
    x = torch.linspace(-1.2, 1.2, 7, dtype=F64)[:, None]
    b = velocity(process, x, 0.4, problem.denoiser()(x, 0.4))[:, 0]
    change = (distribution(problem.at(0.4 + 1e-5))(x) - distribution(problem.at(0.4 - 1e-5))(x))[:, 0] / 2e-5
    assert torch.allclose(b, -change / problem.at(0.4).log_prob(x).exp(), atol=1e-5)


# orders


@EACH
@SOLVERS
def test_order_over_the_whole_of_the_path(process: Interpolant, sampler: Sampler) -> None:
    """Against F_0^-1 o F_1, the map of the ODE on the line, from t = 1 to 0 on the grid of the process."""
    problem, counts = problem_of(process), [32, 64, 128]
    ends = (distribution(problem.at(1.0)), distribution(problem.at(0.0)))
    right = monotone_flow(*ends, starts(problem, 200), -30.0, 30.0)
    errors = [float((run(problem, sampler, 200, process.grid(n)) - right).abs().mean()) for n in counts]
    assert order(counts, errors) == pytest.approx(traits(sampler).order, abs=0.15)


@pytest.mark.parametrize("eps", [0.2, 1.0, lambda t: 2 * t * (1 - t)], ids=["0.2", "1", "2 t (1 - t)"])
def test_order_of_the_law_of_the_sde(eps: float | Callable[[Tensor], Tensor]) -> None:
    """Two Gaussians on the line: a run is affine in x_1 and in its noises, so that its law is exact. Order 1."""
    one = toys.unequal(1, 1, 1)
    problem = between(one, toys.unequal(1, 1, 4), Interpolant())
    errors = []
    for n in (counts := [256, 512, 1024]):
        mean, var = affine_law(problem, partial(epsilon, eps=eps), n)
        law = problem.at(0.0)
        errors.append(abs(mean - float(law.mean[0])) + abs(var - float(law.covariance[0, 0])))
    assert order(counts, errors) == pytest.approx(1, abs=0.15)


class Impulses:
    """Takes the place of an Rng: items 0 and 1 get no noise, item 2 + k gets 1 in the k-th draw."""

    def __init__(self) -> None:
        self.asked = 0

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        z = torch.zeros(shape, dtype=F64)
        z[2 + self.asked] = 1
        self.asked += 1
        return z


def affine_law(problem: PairedProblem, sampler: Sampler, n: int) -> tuple[float, float]:
    x = torch.zeros(n + 2, 1, dtype=F64)
    x[1] = 1
    end = finish(drive(problem.denoiser(), sampler, x, problem.process.grid(n), Impulses()))[:, 0]  # type: ignore[arg-type]
    gains, first = end[1:] - end[0], problem.at(1.0)
    mean = end[0] + gains[0] * first.mean[0]
    return float(mean), float(gains[0] ** 2 * first.covariance[0, 0] + gains[1:].square().sum())


# laws


@pytest.mark.parametrize("process", [Interpolant(), Interpolant("trig"), Interpolant("mirror")], ids=str)
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.5])
def test_every_strength_of_noise_has_the_marginals(process: Interpolant, eps: float) -> None:
    """At t = 1/2 and at the end of 100 steps, for 1,000 items in the plane. Measured at most 1.7 and 3.7 (KS, moments);
    without any step 4 and more."""
    problem = problem_of(process, 2)
    grid = process.grid(100)
    for t, part in ((0.5, grid[:51]), (0.0, grid)):
        x = run(problem, partial(epsilon, eps=eps), 1000, part)
        assert ks(x, problem.at(t)) < 2.2 and standardised(x, problem.at(t)) < 4.7
    if process.path != "mirror":
        assert ks(starts(problem, 1000), problem.at(0.0)) > 4


@pytest.mark.parametrize("eps", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_joint_draws_of_both_ends_have_exact_marginals_in_any_number_of_steps(eps: float, n: int) -> None:
    """With a draw of (x0, z) given x_t in the place of the means. The draws are those of the exact mixture."""
    problem = problem_of(Interpolant("linear", "smooth"), 2)
    model = Wrapped(problem.denoiser(), partial(drawn, problem, Rng(5, 2000, "joint")))
    x = run(problem, partial(epsilon, eps=eps), 2000, problem.process.grid(n), model)
    assert ks(x, problem.at(0.0)) < 2.2 and standardised(x, problem.at(0.0)) < 4.7
    half = run(problem, partial(epsilon, eps=eps), 2000, torch.linspace(1, 0.5, n + 1, dtype=F64), model)
    assert ks(half, problem.at(0.5)) < 2.2 and standardised(half, problem.at(0.5)) < 4.7


def drawn(problem: PairedProblem, rng: Rng, inner: object, xt: Tensor, t: Tensor, cond: object) -> PointAndNoise:
    """A draw of (x0, x1) given x_t by weights over 4,000 pairs of the joint law would be rough: draw x0, then x1 given
    x_t and x0 from the Gaussian of each component, by the same `regression`."""
    from softmix.oracle.observed import regression
    from softmix.posterior import FullMixture

    a, b, gamma = (float(part) for part in problem.process.parts(t))
    eye = torch.eye(2, dtype=F64)
    matrix = torch.cat([a * eye, b * eye], 1)[None]
    noise = torch.full((1, 2), max(gamma**2, 1e-14), dtype=F64)
    both = FullMixture(*regression(problem.law, matrix, noise, xt), (4,)).sample(rng)
    z = (xt - both @ matrix[0].T) / gamma if gamma > 0 else rng.normal(xt.shape, F64)
    return PointAndNoise(both[:, :2], z)


@pytest.mark.parametrize("c", [0.5, 2.0])
def test_half_of_c_is_the_step_of_the_brownian_bridge(c: float) -> None:
    """The same mean and the same noise as `ancestral` with the mean in the place of a draw."""
    problem = problem_of(Interpolant(c=c), 2)
    grid = torch.tensor([1.0, 0.7, 0.2, 0.05, 0.0], dtype=F64)
    one = run(problem, partial(epsilon, eps=c / 2), 50, grid)
    other = run(problem, ancestral, 50, grid, mean_only(problem.denoiser()))
    assert torch.allclose(one, other, atol=1e-5)


def test_without_noise_epsilon_is_ddim_on_a_gaussian_process() -> None:
    for process in (VP(), Flow()):
        problem = correlated((3,), process)
        x = process.prior((5, 3), Rng(0, 5)).double()
        ends = [
            finish(drive(problem.denoiser(), sampler, x, process.grid(7), Rng(1, 5))) for sampler in (epsilon, ddim)
        ]
        assert torch.allclose(*ends, atol=1e-9)


@pytest.mark.parametrize("eps", [0.3, lambda t: t * (1 - t)], ids=["0.3", "t (1 - t)"])
def test_a_one_sided_interpolant_has_any_strength_of_noise(eps: float | Callable[[Tensor], Tensor]) -> None:
    """On `Flow`, even steps in t: the law in 300 steps."""
    problem = MixtureProblem("unequal", toys.unequal(2, 3, 1), Flow(), (2,))
    x = sample(problem.denoiser(), 1000, 300, sampler=partial(epsilon, eps=eps), batch=1000)
    assert ks(x, problem.law) < 2.2 and standardised(x, problem.law) < 4.7


# the strength of the noise


@pytest.mark.parametrize(("t", "s"), [(0.9, 0.2), (0.6, 0.59), (0.05, 0.001)])
def test_the_renewal_is_the_integral_of_eps_over_gamma_squared(t: float, s: float) -> None:
    """Closed forms: (eps / c) log(t (1 - s) / (s (1 - t))) for Brownian gamma, and t - s for eps = gamma^2."""
    for c in (0.5, 2.0):
        right = 0.3 / c * math.log(t * (1 - s) / (s * (1 - t)))
        assert renewal(Interpolant(c=c), t, s, 0.3) == pytest.approx(right, rel=1e-9)
    for process in (Interpolant("trig"), Interpolant("linear", "smooth"), Interpolant("encoding", "sine")):
        own = renewal(process, t, s, lambda u, process=process: process.gamma(u) ** 2)
        assert own == pytest.approx(t - s, rel=1e-8)
    smooth = [1 / s - 1 / t + 2 * math.log(t / s) - 2 * math.log((1 - t) / (1 - s)) + 1 / (1 - t) - 1 / (1 - s)]
    assert renewal(Interpolant("linear", "smooth"), t, s, 0.3) == pytest.approx(0.3 * smooth[0], rel=1e-6)
    assert renewal(Interpolant(), t, s, 0.0) == 0


def test_at_the_ends_the_noise_is_renewed_at_once_or_by_an_integral_that_exists() -> None:
    assert math.exp(-renewal(Interpolant(), 1.0, 0.5, 1.0)) < 1e-12
    assert renewal(Interpolant(), 1.0, 0.5, lambda t: t * (1 - t)) == pytest.approx(0.5, rel=1e-6)
    assert renewal(Interpolant(), 0.5, 0.0, lambda t: t * (1 - t)) == pytest.approx(0.5, rel=1e-6)


def test_a_strength_without_effect_or_below_0_is_refused() -> None:
    problem, none = problem_of(Interpolant(), 2), problem_of(Interpolant(c=0.0), 2)
    with pytest.raises(SamplerError, match=r"c=0.0\) has none: leave eps at 0, or give c above 0"):
        run(none, partial(epsilon, eps=0.1), 3, Interpolant().grid(2))
    for eps in (-0.1, lambda t: t - 0.5):
        with pytest.raises(SamplerError, match="eps is at least 0 at all times"):
            run(problem, partial(epsilon, eps=eps), 3, Interpolant().grid(2))
    coupled = MixtureProblem("coupled", toys.unequal(2, 3, 1), Immiscible(), (2,)).denoiser()
    for eps in (0.1, lambda t: t):
        with pytest.raises(SamplerError, match="take a sampler with eta = 0"):
            sample(coupled, 3, 2, sampler=partial(epsilon, eps=eps))
    assert sample(coupled, 3, 2, sampler=epsilon).isfinite().all()


def test_a_model_without_the_noise_is_refused_with_advice() -> None:
    problem = problem_of(Interpolant(), 2)
    for sampler in FOR_INTERPOLANTS:
        name = traits(sampler).name
        with pytest.raises(TypeError, match=rf"{name} needs the mean of the latent noise .*NoiseHead .*ancestral"):
            run(problem, sampler, 3, Interpolant().grid(2), mean_only(problem.denoiser()))
    none = problem_of(Interpolant(c=0.0), 2)
    for sampler in (*FOR_INTERPOLANTS, ancestral):
        assert run(none, sampler, 3, Interpolant().grid(2), mean_only(none.denoiser())).isfinite().all()


def test_processes_that_these_samplers_do_not_take() -> None:
    with pytest.raises(SamplerError, match="interpolant-heun is for an Interpolant, and found VP: take heun"):
        sample(correlated().denoiser(), 3, 2, sampler=interpolant_heun)
    apart = MixtureProblem("apart", toys.unequal(2, 3, 1), PerElement(VP(), torch.tensor([0.8, 1.2])), (2,))
    with pytest.raises(SamplerError, match="epsilon needs one alpha and one sigma for all elements"):
        sample(apart.denoiser(), 3, 2, sampler=epsilon)


# the contract


@SOLVERS
@pytest.mark.parametrize("process", [Interpolant(), Interpolant("encoding", "smooth"), Interpolant(c=0.0)], ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 260])
def test_evaluations_are_counted_and_few_steps_stay_bounded(process: Interpolant, sampler: Sampler, n: int) -> None:
    problem = problem_of(process, 2)
    counted = CallCounter(problem.denoiser())
    x = run(problem, sampler, 50, process.grid(n), counted)
    assert counted.calls == traits(sampler).evaluations(n) and x.dtype == F64
    assert x.isfinite().all() and float(x.abs().max()) < 5


def test_one_step_is_the_mean_of_x0_given_x1() -> None:
    problem = problem_of(Interpolant(), 2)
    x1 = starts(problem, 20)
    for sampler in (*FOR_INTERPOLANTS, partial(epsilon, eps=2.0)):
        found = run(problem, sampler, 20, Interpolant().grid(1))
        assert torch.allclose(found, problem.denoiser()(x1, 1.0).mean, atol=1e-12)


def test_heun_is_the_trapezoid_rule_of_three_fields() -> None:
    """Of constant fields the step is exact: x_s = a_s x0 + b_s x1 + gamma_s z."""
    process = Interpolant("trig", "smooth")
    x0, x1, z = (Rng(0, 4, name).normal((4, 2), F64) for name in ("x0", "x1", "z"))

    class Constant:
        def __init__(self) -> None:
            self.process = process

        def __call__(self, xt: Tensor, t: Tensor | float, cond: object = None) -> Point:
            return PointAndNoise(x0, z)

    state = lambda t: sum(float(part) * each for part, each in zip(process.parts(t), (x0, x1, z), strict=True))  # noqa: E731
    times = torch.tensor([0.9, 0.5, 0.2], dtype=F64)
    for sampler in FOR_INTERPOLANTS:
        end = finish(drive(Constant(), sampler, state(0.9), times, Rng(0, 4)))  # type: ignore[arg-type]
        assert torch.allclose(end, state(0.2), atol=1e-12)
