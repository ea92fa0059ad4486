"""RDDM and Resfusion against their published chains, and their laws on exact pairs."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from softmix import Cond
from softmix.cond import CondError, CondSpec
from softmix.denoiser import (
    MixtureHead,
    Network,
    NormalHead,
    Output,
    PointHead,
    ResidualAndNoisePoint,
    ResidualHead,
    SoftHead,
)
from softmix.denoiser.head import HeadSpec
from softmix.denoiser.network import Jump
from softmix.denoiser.parameterise import affine_with_shift
from softmix.loss import ResidualAndNoise, Square
from softmix.net import MLPSpec
from softmix.oracle import PairedProblem, pairs
from softmix.posterior import FullMixture, HasMean, need
from softmix.process import (
    RDDM,
    VP,
    Fading,
    Flow,
    Gaussian,
    Halved,
    Resfusion,
    Residual,
    ShiftDDPM,
    Shifted,
)
from softmix.rng import Rng
from softmix.sampler import Sampler, adams, ancestral, contraction, ddim, drive, sample
from softmix.sampler.drive import finish
from softmix.train import Denoise

F64 = torch.float64
EACH = [RDDM(), RDDM(1.0, 0.5), RDDM(sd=0.1), Resfusion(), Resfusion("cosine")]
RESIDUAL = pytest.mark.parametrize("process", EACH, ids=str)


def some(name: str, n: int = 6, d: int = 3) -> Tensor:
    return Rng(0, n, name).normal((n, d), F64)


def rows(n: int = 6) -> tuple[Tensor, Tensor, Tensor, Cond]:
    """A state, x0, x_in, and x_in as a condition."""
    x_in = some("in", n)
    return some("x", n), some("x0", n), x_in, Cond(value=x_in)


# the schedules


@RESIDUAL
def test_a_residual_process_begins_clean_and_ends_without_signal(process: Shifted) -> None:
    base, ends = process.base, torch.tensor([0.0, 1.0], dtype=F64)
    assert base.alpha(ends).tolist() == pytest.approx([1.0, 0.0], abs=5e-5) and float(base.sigma(0.0)) == 0
    assert float(base.alpha(0.0)) == 1 and float(process.k(0.0)) == 0
    inner = torch.linspace(0, 1, 50, dtype=F64)
    assert bool((base.logsnr(inner).diff() < 0).all()) and float(base.logsnr(1.0)) == pytest.approx(-20)


@RESIDUAL
def test_the_clock_has_an_inverse(process: Shifted) -> None:
    t = torch.linspace(0.01, 0.98, 40, dtype=F64)
    assert torch.allclose(process.time(process.logsnr(t)), t, atol=1e-9)


def test_the_schedules_of_rddm_are_those_of_its_code_for_many_steps() -> None:
    """a_i falls linearly and sums to 1, b_i^2 rises linearly and sums to S; i of T = 1000 is t = i / T."""
    i = torch.arange(1, 1001, dtype=F64)
    for variance in (1.0, 0.01):
        a, b = (1001 - i) / i.sum(), variance * i / i.sum()
        process = RDDM(sd=math.sqrt(variance))
        assert float((process.k(i / 1000) - a.cumsum(0)).abs().max()) < 3e-4
        assert float((process.base.sigma(i / 1000) - b.cumsum(0).sqrt()).abs().max()) < 5e-4 * math.sqrt(variance)
    constant = RDDM(1.0, 0.5)
    assert torch.allclose(constant.k(i / 1000), i / 1000, atol=5e-5) and torch.allclose(
        constant.base.sigma(i / 1000) ** 2, i / 1000
    )


def test_resfusion_is_ddpm_on_the_residual_until_half_of_the_signal_is_left() -> None:
    """a(t)^2 = exp(-(0.1 w + 9.95 w^2)), w = t w_1 and a(w_1) = 1/2."""
    t = torch.linspace(0, 1, 11, dtype=F64)
    w = 0.36827 * t
    a = (-(0.1 * w + 9.95 * w**2) / 2).exp()
    assert torch.allclose(Halved().a(t), a, atol=2e-5) and float(Halved().a(1.0)) == pytest.approx(0.5, abs=2e-5)


# the states and steps of the papers


def published_rddm(t: Tensor, s: Tensor, process: RDDM) -> tuple[Tensor, ...]:
    """abar_t, abar_s, bbar_t^2, bbar_s^2."""
    return process.k(t), process.k(s), process.base.sigma(t) ** 2, process.base.sigma(s) ** 2


STEPS = [(1.0, 0.8), (0.9, 0.1), (0.5, 0.499), (0.3, 0.0)]


@pytest.mark.parametrize("sd", [1.0, 0.1])
@pytest.mark.parametrize(("t", "s"), STEPS)
def test_the_step_of_rddm_is_its_posterior(t: float, s: float, sd: float) -> None:
    """mean = bbar_s^2 / bbar_t^2 x_t + (b^2 abar_s - bbar_s^2 a) / bbar_t^2 R + b^2 / bbar_t^2 x0, and its variance."""
    process = RDDM(sd=sd)
    x, x0, x_in, cond = rows()
    at, before, high, low = published_rddm(torch.tensor(t, dtype=F64), torch.tensor(s, dtype=F64), process)
    a, b = at - before, high - low
    right = low / high * x + (b * before - low * a) / high * (x_in - x0) + b / high * x0
    mean, found = process.base.kernel(process.enter(x, t, cond), x0, t, s, eta=1.0)
    assert torch.allclose(process.leave(mean, s, cond), right, rtol=1e-10, atol=1e-10)
    assert float(found) == pytest.approx(math.sqrt(float(b * low / high)), abs=1e-12)


@pytest.mark.parametrize(("t", "s"), STEPS)
def test_the_implicit_step_of_rddm_removes_residual_and_noise(t: float, s: float) -> None:
    """x_s = x_t - (abar_t - abar_s) R - (bbar_t - bbar_s) z, with z from x0 = x_in - R."""
    process = RDDM()
    x, x0, x_in, cond = rows()
    at, before, high, low = published_rddm(torch.tensor(t, dtype=F64), torch.tensor(s, dtype=F64), process)
    z = (x - x0 - at * (x_in - x0)) / high.sqrt()
    right = x - (at - before) * (x_in - x0) - (high.sqrt() - low.sqrt()) * z
    found = process.bridge(x, x0, t, s, Rng(0, 6), cond, eta=0.0)
    assert torch.allclose(found, right, rtol=1e-10, atol=1e-10)


def test_rddm_with_the_schedules_of_ddim_and_no_second_image_is_ddim() -> None:
    """abar = 1 - alpha and bbar = sigma of a usual process: here of Flow, for ten steps of exact means."""
    problem = pairs((2,), RDDM(1.0, 1.0))
    plain = PairedProblem("plain", problem.law, Flow(), (2,), (2,))
    x_in, n = torch.zeros(32, 2, dtype=F64), 32
    noise = Rng(0, n).normal((n, 2), F64)
    ends = [
        finish(drive(each.denoiser(), ddim, noise, plain.process.grid(10), Rng(1, n), cond=each.cond(x_in)))
        for each in (problem, plain)
    ]
    assert torch.allclose(*ends, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("t", "s"), STEPS)
def test_the_step_of_resfusion_is_that_of_ddpm_on_shifted_data(t: float, s: float) -> None:
    """The posterior of DDPM for x - R and the data x0 - R, with R added to the result."""
    process = Resfusion()
    x, x0, x_in, cond = rows()
    residual = x_in - x0
    a_t, a_s = process.base.a(t), process.base.a(s)
    kept, beta = a_t**2 / a_s**2, 1 - a_t**2 / a_s**2
    right = (kept.sqrt() * (1 - a_s**2) * (x - residual) + a_s * beta * (x0 - residual)) / (1 - a_t**2) + residual
    mean, sd = process.base.kernel(process.enter(x, t, cond), x0, t, s, eta=1.0)
    assert torch.allclose(process.leave(mean, s, cond), right, rtol=1e-9, atol=1e-9)
    assert float(sd) == pytest.approx(math.sqrt(float((1 - a_s**2) / (1 - a_t**2) * beta)), abs=1e-12)


def test_a_chain_of_the_published_forward_steps_has_the_states_of_resfusion() -> None:
    """x_t = sqrt(alpha_t) x_(t-1) + (1 - sqrt(alpha_t)) R + sqrt(beta_t) z, the mean and the variance over 20 steps."""
    process, times = Resfusion(), torch.linspace(0, 1, 21, dtype=F64)
    x0, x_in = 0.3, -1.1
    mean, variance = torch.tensor(x0, dtype=F64), torch.zeros((), dtype=F64)
    for before, t in pairwise(times):
        root = process.base.a(t) / process.base.a(before)
        mean, variance = root * mean + (1 - root) * (x_in - x0), root**2 * variance + 1 - root**2
        assert float(process.base.alpha(t) * x0 + process.k(t) * x_in) == pytest.approx(float(mean), abs=1e-12)
        assert float(process.base.sigma(t) ** 2) == pytest.approx(float(variance), abs=1e-12)


# their laws


def law_of(process: Shifted, sampler: object, n: int, steps: int) -> tuple[Tensor, FullMixture]:
    problem = pairs((2,), process)
    x_in = problem.draw(1, Rng(5, 1))[1].value
    assert x_in is not None
    cond = problem.cond(x_in.expand(n, -1))
    start = process.prior((n, 2), Rng(0, n), cond).double()
    x = finish(drive(problem.denoiser(), sampler, start, process.grid(steps), Rng(1, n), cond=cond))  # type: ignore[arg-type]
    return x, problem.given(x_in)


@RESIDUAL
@pytest.mark.parametrize(("steps", "eta"), [(1, 1.0), (3, 0.0), (3, 1.0), (5, 0.5)])
def test_draws_of_the_exact_posterior_have_the_law_given_x_in_in_any_number_of_steps(
    process: Shifted, steps: int, eta: float
) -> None:
    """Mean and second moments over 20,000 items, in standard errors (fixed seed)."""
    n = 20_000
    x, truth = law_of(process, partial(ancestral, eta=eta), n, steps)
    mean, covariance = truth.mean[0], truth.covariance[0]
    off = x - mean
    products = torch.cat([off, off[:, :1] * off - covariance[0], off[:, 1:] ** 2 - covariance[1, 1]], 1)
    assert float((products.mean(0) / products.std(0)).abs().max()) * math.sqrt(n) < 4


@RESIDUAL
def test_the_ode_of_a_residual_process_ends_in_the_law_given_x_in(process: Shifted) -> None:
    """The exact mean at x_1 and 200 steps: the mean and covariance to 5 %."""
    x, truth = law_of(process, adams, 4000, 200)
    assert torch.allclose(x.mean(0), truth.mean[0], atol=0.06)
    assert torch.allclose(x.T.cov(), truth.covariance[0], atol=0.1)


def test_a_condition_that_is_not_given_is_no_shift() -> None:
    x, _, x_in, _ = rows()
    missing = Cond(value=torch.full_like(x_in, torch.nan))
    assert torch.equal(RDDM().enter(x, 0.5, missing), x)
    with pytest.raises(ValueError, match="Resfusion leads to the other item of a pair"):
        Resfusion().enter(x, 0.5, None)


@pytest.mark.parametrize("wrong", [{"fade": 0.0}, {"rise": -1.0}, {"sd": 0.0}])
def test_numbers_of_rddm_are_above_0(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="are above 0"):
        Fading(**wrong)


# networks


@pytest.mark.parametrize("process", [RDDM(), RDDM(sd=0.1), Resfusion()], ids=str)
@pytest.mark.parametrize("output", ["residual", "resnoise"])
def test_x0_is_recovered_from_the_outputs_of_pairs(process: Residual, output: Output) -> None:
    """x0 = a y + b F + c u for F = u - x0, and for F = z + sigma / 2 (u - x0)."""
    t = torch.linspace(1, 0, 51, dtype=F64)[:-1]
    x0, z, u = (Rng(0, 50, name).normal((50, 3), F64) for name in ("x0", "z", "u"))
    alpha, sigma = process.base.alpha(t), process.base.sigma(t)
    y = alpha[:, None] * x0 + sigma[:, None] * z
    f = u - x0 if output == "residual" else z + sigma[:, None] / 2 * (u - x0)
    a, b, c = (part[:, None] for part in affine_with_shift(output, alpha, sigma))
    assert torch.allclose(a * y + b * f + c * u, x0, rtol=1e-10, atol=1e-10)
    # with little noise the residual noise is small beside x0, and its errors count more
    assert float(b.abs().max()) < (21 if sigma.max() < 0.2 else 3)


@pytest.mark.parametrize("output", ["residual", "resnoise"])
@pytest.mark.parametrize("head", [PointHead(), MixtureHead(3, "item"), SoftHead(), NormalHead()], ids=str)
def test_every_head_takes_the_outputs_of_pairs(output: Output, head: HeadSpec) -> None:
    """With a net whose output is 0, x0 is u for the residual, and (y + sigma kappa u) / n for the residual noise."""
    process, x_in = RDDM(), some("in", 4)
    torch.manual_seed(0)
    model = Network(process, MLPSpec(width=16, depth=2), head, (3,), CondSpec(values=3), output).double()
    for part in model.modules():
        if isinstance(part, torch.nn.Linear):
            torch.nn.init.zeros_(part.weight)
            torch.nn.init.zeros_(part.bias)
    x, t = some("x", 4), 0.6
    mean = need(model(x, t, Cond(value=x_in)), HasMean, "test").mean
    right = x_in
    if output == "resnoise":
        alpha, sigma = process.base.alpha(t), process.base.sigma(t)
        right = (x - process.k(t) * x_in + sigma**2 / 2 * x_in) / (alpha + sigma**2 / 2)
    assert torch.allclose(mean, right, atol=1e-9)


@pytest.mark.parametrize("process", [VP(), Flow()], ids=str)
def test_the_outputs_of_pairs_need_a_shift(process: Gaussian) -> None:
    with pytest.raises(ValueError, match=r"'residual' is a function of the other .*, and (VP|Flow) has none"):
        Network(process, MLPSpec(width=16, depth=2), PointHead(), (3,), output="residual")


# two heads


@pytest.mark.parametrize("process", [RDDM(), RDDM(1.0, 0.5, 0.3), Resfusion()], ids=str)
@pytest.mark.parametrize(("t", "s"), STEPS)
def test_a_step_of_two_heads_removes_a_part_of_the_residual_and_of_the_noise(
    process: Residual, t: float, s: float
) -> None:
    """x_s = x_t - (k_t - k_s) R - (sigma_t - sigma_s) z for R and z that disagree, where alpha + k = 1 (RDDM). With
    another k it is the step in the frame."""
    x, _, x_in, cond = rows()
    model = two_heads(process)
    posterior = model(x, t, cond, to=s)
    assert isinstance(posterior, ResidualAndNoisePoint)
    found = process.bridge(x, posterior.mean, t, s, Rng(0, 6), cond, eta=0.0)
    base = process.base
    right = (
        process.enter(x, t, cond)
        + (base.alpha(s) - base.alpha(t)) * (x_in - posterior.residual)
        - (base.sigma(t) - base.sigma(s)) * posterior.noise
        + process.k(s) * x_in
    )
    assert torch.allclose(found, right, rtol=1e-8, atol=1e-8)
    if isinstance(process, RDDM):
        published = x - (process.k(t) - process.k(s)) * posterior.residual
        published = published - (base.sigma(t) - base.sigma(s)) * posterior.noise
        assert torch.allclose(found, published, rtol=1e-8, atol=1e-8)


def two_heads(process: Residual) -> Network:
    torch.manual_seed(0)
    return Network(process, MLPSpec(width=16, depth=2), ResidualHead(), (3,), CondSpec(values=3)).double()


def test_heads_that_agree_have_one_x0_for_every_end() -> None:
    process = RDDM()
    x0, z, x_in = some("x0"), some("z"), some("in")
    t = torch.full((6,), 0.6, dtype=F64)
    y = process.base.state(x0, 0.6, z)
    for to in (None, torch.full((6,), 0.3, dtype=F64), torch.zeros(6, dtype=F64)):
        step = Jump(process.base, y, x_in, t, to)
        assert torch.allclose(ResidualAndNoisePoint(x_in - x0, z, step).mean, x0, rtol=1e-9)


def test_without_an_end_the_two_heads_have_the_limit_of_short_steps() -> None:
    """The weight of the residual is 2 t / (1 + t) for the default schedules."""
    process, t = RDDM(), 0.5
    at = torch.full((6,), t, dtype=F64)
    y, u, r, z = some("y"), some("u"), some("r"), some("z")
    found = ResidualAndNoisePoint(r, z, Jump(process.base, y, u, at, None)).mean
    by_noise = (y - process.base.sigma(t) * z) / process.base.alpha(t)
    w = 2 * t / (1 + t)
    assert torch.allclose(found, w * (u - r) + (1 - w) * by_noise, atol=3e-3)
    short = ResidualAndNoisePoint(r, z, Jump(process.base, y, u, at, at - 1e-6)).mean
    assert torch.allclose(found, short, atol=1e-4)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_loss_of_two_heads_is_the_sum_of_their_errors(power: float) -> None:
    process, x0, x_in = RDDM(), some("x0"), some("in")
    noised = process.noise(x0, 0.4, Rng(1, 6), Cond(value=x_in))
    posterior = two_heads(process)(noised.xt, noised.t, noised.cond)
    assert isinstance(posterior, ResidualAndNoisePoint)
    right = [(posterior.residual - x_in + x0).abs() ** power, (posterior.noise - noised.z).abs() ** power]
    found = ResidualAndNoise(power)(posterior, noised, Rng(0, 6))
    assert torch.allclose(found, right[0].mean(1) + right[1].mean(1))


def test_two_heads_need_a_pair_and_their_own_loss() -> None:
    with pytest.raises(ValueError, match="needs a ResidualHead and a process to the other item"):
        ResidualAndNoise().fits(PointHead(), RDDM())
    with pytest.raises(ValueError, match="needs a ResidualHead and a process to the other item"):
        Denoise(process=ShiftDDPM(), head=ResidualHead(), loss=ResidualAndNoise(), output="residual")
    with pytest.raises(ValueError, match="Square trains one mixture of them"):
        Denoise(process=RDDM(), head=ResidualHead(), loss=Square(), output="residual")
    with pytest.raises(ValueError, match="has the output \"residual\"; found 'v'"):
        Denoise(process=RDDM(), head=ResidualHead(), loss=ResidualAndNoise())
    Denoise(process=RDDM(), head=ResidualHead(), loss=ResidualAndNoise(), output="residual")
    with pytest.raises(ValueError, match="is 1 or 2"):
        ResidualAndNoise(3.0)
    plain = Network(VP(), MLPSpec(width=16, depth=2), ResidualHead(), (3,))
    with pytest.raises(ValueError, match="take RDDM"):
        plain(torch.zeros(2, 3), 0.5)


@pytest.mark.parametrize("sampler", [ddim, adams], ids=["ddim", "adams"])
def test_two_heads_are_finite_where_alpha_falls_at_once(sampler: Sampler) -> None:
    """With fade = 1/2 the derivative of alpha at t = 1 is infinite."""
    model = two_heads(RDDM(0.5)).float()
    x = sample(model, 4, 3, sampler=sampler, cond=Cond(value=torch.zeros(4, 3)))
    assert bool(x.isfinite().all())


# data, and parts that use the step


@pytest.mark.parametrize(
    ("cond", "shape", "fits"),
    [
        (CondSpec(image=1), (1, 8, 8), True),
        (CondSpec(image=3), (1, 8, 8), False),
        (CondSpec(values=1), (1, 8, 8), False),
        (CondSpec(values=3), (3,), True),
        (CondSpec(values=1), (3,), False),
        (CondSpec(image=2), (16, 2), True),
        (CondSpec(), (1, 8, 8), False),
    ],
)
def test_the_other_item_has_the_shape_of_the_first(cond: CondSpec, shape: tuple[int, ...], fits: bool) -> None:
    if fits:
        RDDM().require_pair(cond, shape, "data")
        return
    with pytest.raises(CondError, match="RDDM leads from x0 to the other item of a pair"):
        RDDM().require_pair(cond, shape, "data")


@pytest.mark.parametrize("process", [Fading(), Halved(), VP()], ids=str)
def test_contraction_is_that_of_the_ancestral_step(process: Gaussian) -> None:
    """Two states that differ by e come to differ by kept e, for a model that knows x0."""
    x, x0, t, s = some("x"), some("x0"), 0.5, 0.25
    apart = process.kernel(x + 1, x0, t, s)[0] - process.kernel(x, x0, t, s)[0]
    assert torch.allclose(apart, torch.full_like(apart, contraction(process, t, s)), rtol=1e-9)


def test_the_steps_are_computed_on_the_device_of_the_state(device: torch.device) -> None:
    x, x_in = some("x").to(device).float(), some("in").to(device).float()
    for process in (RDDM(), Resfusion()):
        t = torch.linspace(0.2, 0.9, 6, device=device)
        noised = process.noise(x, t, Rng(0, 6, device=device), Cond(value=x_in))
        assert noised.xt.device.type == device.type and process.time(process.logsnr(t)).device.type == device.type
        assert torch.allclose(process.time(process.logsnr(t)).cpu().float(), t.cpu(), atol=1e-5)
