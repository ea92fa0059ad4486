"""Stochastic interpolants against their exact laws, and what the steps, the networks and the samplers promise."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor

from softmix import Cond
from softmix.cond import CondError, CondSpec
from softmix.data import toys
from softmix.denoiser import (
    OUTPUTS,
    MixtureHead,
    Network,
    NoiseHead,
    NormalHead,
    Output,
    PointHead,
    SoftHead,
    affine,
    in_frame,
    mean_only,
)
from softmix.denoiser.head import HeadSpec
from softmix.loss import Energy, MeanAndNoise, Square, loss_of
from softmix.net import DiTSpec, MLPSpec, NetSpec, SequenceSpec, UNetSpec
from softmix.oracle import PairedProblem, between, ks, pairs, standardised
from softmix.posterior import HasMean, Point, PointAndNoise, need
from softmix.process import RDDM, VP, Flow, Interpolant, unframed
from softmix.rng import Rng
from softmix.sampler import (
    SAMPLERS,
    SamplerError,
    ancestral,
    drive,
    edit_friendly,
    epsilon,
    noised,
    sample,
    traits,
)
from softmix.sampler.drive import finish
from softmix.train import Denoise

F64 = torch.float64
NS = (1, 2, 3, 7, 260)
# the paths whose bridge needs draws of x0 alone
BRIDGED = [
    Interpolant(),
    Interpolant(c=0.3),
    Interpolant(c=0.0),
    Interpolant("linear", "smooth"),
    Interpolant("trig"),
    Interpolant("trig", "smooth"),
    Interpolant("encoding"),
    Interpolant("encoding", "sine"),
    Interpolant("mirror"),
]
EACH = [*BRIDGED, Interpolant("linear", "sine"), Interpolant("trig", "sine", 0.5), Interpolant("mirror", "sine", 2.0)]
EVERY = pytest.mark.parametrize("process", EACH, ids=str)
BRIDGES = pytest.mark.parametrize("process", BRIDGED, ids=str)


def problem_of(process: Interpolant, shape: tuple[int, ...] = (2,)) -> PairedProblem:
    """Two unequal laws, independent; for a mirror one law twice."""
    size = math.prod(shape)
    first = toys.unequal(size, 3, 1)
    return between(first, first if process.path == "mirror" else toys.unequal(size, 2, 5), process, shape)


def starts(problem: PairedProblem, n: int, seed: int = 3) -> Tensor:
    cond = problem.draw(n, Rng(seed, n))[1]
    x1 = cond.image if cond.image is not None else cond.value
    assert x1 is not None
    return x1


def some(name: str, n: int = 6, d: int = 3) -> Tensor:
    return Rng(0, n, name).normal((n, d), F64)


# the coefficients


@EVERY
def test_an_interpolant_is_x0_at_the_one_end_and_x1_at_the_other(process: Interpolant) -> None:
    x0, z, x1 = some("x0"), some("z"), some("x1")
    x1 = x0 if process.path == "mirror" else x1
    for t, right in ((0.0, x0), (1.0, x1)):
        assert torch.allclose(process.state(x0, t, z, Cond(value=x1)), right, atol=1e-12)
    assert process.gamma(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.parametrize(
    ("process", "t", "right"),
    [
        (Interpolant(c=2.0), 0.3, (0.7, 0.3, math.sqrt(2 * 0.3 * 0.7))),
        (Interpolant("linear", "smooth", 4.0), 0.3, (0.7, 0.3, 2 * 0.21)),
        (Interpolant("linear", "sine", 0.25), 1 / 6, (5 / 6, 1 / 6, 0.5 * 0.25)),
        (
            Interpolant("trig", "brownian", 1.0),
            1 / 3,
            (math.sqrt(7 / 9) * math.sqrt(3) / 2, math.sqrt(7 / 9) / 2, math.sqrt(2) / 3),
        ),
        (Interpolant("encoding"), 0.25, (0.5, 0.0, math.sqrt(3) / 4)),
        (Interpolant("encoding"), 2 / 3, (0.0, 0.25, math.sqrt(2) / 3)),
        (Interpolant("mirror", "smooth"), 0.5, (1.0, 0.0, 0.25)),
    ],
    ids=str,
)
def test_the_coefficients_are_those_of_the_paper(
    process: Interpolant, t: float, right: tuple[float, float, float]
) -> None:
    assert [float(part) for part in process.parts(t)] == pytest.approx(right, abs=1e-12)


@EVERY
def test_the_rates_are_the_slopes_of_the_coefficients(process: Interpolant) -> None:
    t = torch.tensor([0.05, 0.3, 0.45, 0.7, 0.95], dtype=F64)
    ends = zip(process.parts(t + 1e-6), process.parts(t - 1e-6), strict=True)
    for found, (above, below) in zip(process.rates(t), ends, strict=True):
        assert torch.allclose(found, (above - below) / 2e-6, atol=1e-6)


@EVERY
def test_the_clock_falls_and_has_an_inverse(process: Interpolant) -> None:
    t = torch.linspace(0, 1, 4001, dtype=F64)
    level = process.logsnr(t)
    assert bool((level.diff() < 0).all()) and float(level[0]) == math.inf and float(level[-1]) == pytest.approx(-20)
    inner = torch.linspace(0.001, 0.999, 50, dtype=F64)
    assert torch.allclose(process.time(process.logsnr(inner)), inner, atol=1e-12)


def test_the_clock_of_the_linear_path_counts_x1_and_z_as_noise() -> None:
    for process in (Interpolant(), Interpolant("linear", "smooth", 2.0)):
        a, rest = process.levels(0.3)
        assert float(process.logsnr(0.3)) == pytest.approx(2 * math.log(float(a / rest)), abs=1e-12)
    assert float(Interpolant().logsnr(0.3)) == pytest.approx(math.log(0.7**2 / 0.3), abs=1e-12)


@EVERY
@pytest.mark.parametrize("n", NS)
def test_the_grid_falls_from_1_to_0(process: Interpolant, n: int) -> None:
    grid = process.grid(n)
    assert grid[0] == 1 and grid[-1] == 0 and bool((grid.diff() < 0).all()) and len(grid) == n + 1
    if process.latent == "brownian" and process.c > 0 and n > 2:
        # even steps on the half circle of gamma
        angle = torch.acos(1 - 2 * grid)
        assert torch.allclose(angle.diff(), angle.diff()[0].expand(n), atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"path": "straight"}, "the path 'straight' .* there are linear"),
        ({"latent": "sigmoid"}, "brownian, smooth, sine"),
        ({"c": -1.0}, "at least 0"),
        ({"c": math.inf}, "at least 0"),
        ({"path": "mirror", "c": 0.0}, "nothing without latent noise"),
        ({"path": "encoding", "c": 0.0}, "nothing without latent noise"),
        ({"path": "trig", "c": 4.0}, "give c below 4"),
        ({"path": "trig", "latent": "smooth", "c": 16.0}, "give c below 16"),
        ({"path": "trig", "latent": "sine"}, "give c below 1"),
        ({"latent": "sine", "c": 5.0}, "up to 3"),
    ],
    ids=str,
)
def test_numbers_without_a_path_are_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Interpolant(**wrong)  # type: ignore[arg-type]


def test_the_clock_with_a_strong_sine_would_rise() -> None:
    """At c = 3 it falls, and the bound is near: at 5 it would not."""
    t = torch.linspace(0, 1, 20_001, dtype=F64)[:-1]
    for c, falls in ((3.0, True), (5.0, False)):
        level = 2 * (1 - t).log() - (t**2 + c * (math.pi * t).sin() ** 4).log()
        assert bool((level.diff() < 0).all()) == falls
    Interpolant("linear", "sine", 3.0)


# states and steps


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("shape", [(3,), (3, 3, 3), (2, 4)], ids=str)
def test_a_batch_of_states_and_steps_is_its_items(
    process: Interpolant, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> None:
    """A time for each item, with B = C = H = W among the shapes."""
    n = 3
    x0, x1 = (Rng(0, n, name, device).normal((n, *shape), dtype) for name in ("x0", "x1"))
    cond = Cond(value=x1) if len(shape) == 1 else Cond(image=x1)
    t, s = (torch.tensor(times, dtype=F64, device=device) for times in ([0.9, 0.55, 0.2], [0.3, 0.5, 0.0]))
    if process.latent == "sine":
        s = torch.tensor([0.6, 0.5, 0.0], dtype=F64, device=device)
    whole = process.noise(x0, t, Rng(1, n, device=device), cond)
    assert whole.xt.dtype == dtype and whole.xt.shape == x0.shape and whole.xt.device.type == device.type
    assert torch.equal(whole.at(t).xt, whole.xt)
    steps = process.bridge(whole.xt, x0, t, s, Rng(2, n, device=device), cond)
    for k in range(n):
        one = cond.take(slice(k, k + 1))
        alone = process.noise(x0[k : k + 1], float(t[k]), Rng(1, [k], device=device), one)
        assert torch.allclose(alone.xt, whole.xt[k : k + 1], atol=1e-6 if dtype == torch.float32 else 1e-14)
        a, b, gamma = (float(part) for part in process.parts(float(t[k])))
        right = a * x0[k] + b * x1[k] + gamma * whole.z[k]
        assert torch.allclose(whole.xt[k], right, atol=1e-6 if dtype == torch.float32 else 1e-14)
        found = process.bridge(alone.xt, x0[k : k + 1], float(t[k]), float(s[k]), Rng(2, [k], device=device), one)
        assert torch.allclose(found[0], steps[k], atol=1e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("c", [0.3, 2.0])
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.4), (0.7, 0.69), (0.5, 0.1), (0.3, 0.0)])
def test_the_step_of_the_linear_brownian_path_is_a_brownian_bridge(c: float, t: float, s: float) -> None:
    """Its mean and variance, and those of a chain of two steps, which is one step: the bridge is a Markov process."""
    n = 200_000
    x, x0 = torch.tensor([[0.8]], dtype=F64).expand(n, 1), torch.tensor([[-0.3]], dtype=F64).expand(n, 1)
    process, middle = Interpolant(c=c), (t + s) / 2
    once = process.bridge(x, x0, t, s, Rng(0, n))
    twice = process.bridge(process.bridge(x, x0, t, middle, Rng(1, n)), x0, middle, s, Rng(2, n))
    mean, var = -0.3 + s / t * 1.1, c * s * (t - s) / t
    for found in (once, twice):
        assert float(found.mean()) == pytest.approx(mean, abs=4.5 * math.sqrt(var / n) + 1e-12)
        assert float(found.var()) == pytest.approx(var, abs=4.5 * var * math.sqrt(2 / n) + 1e-12)


@BRIDGES
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.6), (0.9, 0.2), (0.45, 0.1), (0.6, 0.0)])
def test_a_step_from_a_true_pair_has_the_law_of_the_process_given_both_ends(
    process: Interpolant, t: float, s: float
) -> None:
    """x_s ~ N(a_s x0 + b_s x1, gamma_s^2), for fixed x0 and x1 and a fresh x_t."""
    n = 100_000
    x0, x1 = (torch.full((n, 1), value, dtype=F64) for value in (0.7, -0.4))
    x1 = x0 if process.path == "mirror" else x1
    cond = Cond(value=x1)
    x = process.bridge(process.noise(x0, t, Rng(0, n), cond).xt, x0, t, s, Rng(1, n), cond)
    a, b, gamma = (float(part) for part in process.parts(s))
    right, var = a * float(x0[0]) + b * float(x1[0]), gamma**2
    assert float(x.mean()) == pytest.approx(right, abs=4.5 * gamma / math.sqrt(n) + 1e-9)
    assert float(x.var()) == pytest.approx(var, abs=4.5 * var * math.sqrt(2 / n) + 1e-9)


def test_a_step_that_does_not_exist_is_refused() -> None:
    process, x = Interpolant("linear", "sine"), some("x")
    with pytest.raises(ValueError, match=r"gamma / b rises with t: take the latent brownian"):
        process.bridge(x, x, 0.3, 0.1, Rng(0, 6))
    assert process.bridge(x, x, 0.9, 0.6, Rng(0, 6)).isfinite().all()
    with pytest.raises(ValueError, match=r"s < t"):
        Interpolant().bridge(x, x, 0.3, 0.3, Rng(0, 6))
    for eta in (0.0, 0.5):
        with pytest.raises(ValueError, match="one share of fresh noise: leave eta at 1"):
            Interpolant().bridge(x, x, 0.3, 0.1, Rng(0, 6), eta=eta)


# laws


@BRIDGES
@pytest.mark.parametrize("n", NS)
def test_draws_of_the_exact_posterior_have_the_law_in_any_number_of_steps(process: Interpolant, n: int) -> None:
    """sqrt(N) KS below 2.2 and moments within 4.7 standard errors, as for Gaussian processes (fixed seeds)."""
    problem, count = problem_of(process), 2000
    steps = min(n, 40)
    x = finish(drive(problem.denoiser(), ancestral, starts(problem, count), process.grid(steps), Rng(n, count, "run")))
    assert ks(x, problem.at(0.0)) < 2.2 and standardised(x, problem.at(0.0)) < 4.7


@pytest.mark.parametrize("process", [Interpolant(), Interpolant("trig", "smooth"), Interpolant(c=0.0)], ids=str)
@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 1), (3,)], ids=str)
def test_the_law_is_reached_in_any_shape_and_from_the_condition(process: Interpolant, shape: tuple[int, ...]) -> None:
    """By `sample`, which begins at the item of the condition. Another law is not reached."""
    problem = problem_of(process, shape)
    x1 = starts(problem, 2000)
    x = sample(problem.denoiser(), 2000, 3, sampler=ancestral, cond=problem.cond(x1), batch=2000, seed=4)
    assert x.shape == (2000, *shape)
    assert ks(x, problem.at(0.0)) < 2.2 and standardised(x, problem.at(0.0)) < 4.7
    assert ks(x, problem.at(1.0)) > 3


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("process", [Interpolant(), Interpolant("trig"), Interpolant("encoding")], ids=str)
def test_every_state_of_a_run_has_its_law(process: Interpolant, t: float) -> None:
    """Three steps of draws to t; and the states of training at t."""
    problem, n = problem_of(process), 2000
    grid = torch.linspace(1, t, 4, dtype=F64)
    x = finish(drive(problem.denoiser(), ancestral, starts(problem, n), grid, Rng(1, n, "run")))
    x0, cond = problem.draw(n, Rng(8, n))
    for found in (x, process.noise(x0, t, Rng(9, n), cond).xt):
        assert ks(found, problem.at(t)) < 2.2 and standardised(found, problem.at(t)) < 4.7
    assert ks(x, problem.at(0.0 if process.path == "encoding" else 1.0)) > 2.5


def joint(process: Interpolant, n: int, steps: int) -> tuple[Tensor, PairedProblem]:
    """(x0, x1) of a run from coupled pairs."""
    problem = pairs((1,), process)
    x1 = starts(problem, n)
    x0 = finish(drive(problem.denoiser(), ancestral, x1, process.grid(steps), Rng(1, n, "run")))
    return torch.cat([x0, x1], 1), problem


def test_one_step_keeps_the_pairs_and_more_steps_keep_the_marginal_law() -> None:
    """A chain that forgets x_1 does not keep the coupling, as the docstring of `bridge` says."""
    n = 20_000
    once, problem = joint(Interpolant(), n, 1)
    assert standardised(once, problem.law) < 4.7 and ks(once, problem.law) < 2.2
    for steps in (2, 8):
        more, _ = joint(Interpolant(), n, steps)
        assert standardised(more, problem.law) > 8
        assert standardised(more[:, :1], problem.at(0.0)) < 4.7 and ks(more[:, :1], problem.at(0.0)) < 2.2


def test_a_chain_of_independent_pairs_couples_them() -> None:
    """Two Gaussians of variance 1, linear Brownian path, two steps through s: x0 depends on x1 through x_s alone.

    x_s = (1 - s) x0' + s x1 + gamma z, and the last draw has the mean (1 - s) x_s / v, v = (1-s)^2 + s^2 + c s (1 - s).
    So the covariance of x0 and x1 is (1 - s) s / v.
    """
    n, s, c = 100_000, 0.4, 1.0
    law = toys.ToyMixture("one", torch.ones(1, dtype=F64), torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, 1, dtype=F64))
    problem = between(law, law, Interpolant(c=c))
    x1 = starts(problem, n)
    grid = torch.tensor([1.0, s, 0.0], dtype=F64)
    x0 = finish(drive(problem.denoiser(), ancestral, x1, grid, Rng(1, n, "run")))
    v = (1 - s) ** 2 + s**2 + c * s * (1 - s)
    assert float((x0 * x1).mean()) == pytest.approx((1 - s) * s / v, abs=4.5 * 1.1 / math.sqrt(n))


# items of the condition


def test_sampling_needs_whole_items_to_start_from() -> None:
    model = problem_of(Interpolant()).denoiser()
    with pytest.raises(ValueError, match="leads to the other item of a pair"):
        sample(model, 3, 2)
    with pytest.raises(ValueError, match="not given or not finite: give whole items"):
        sample(model, 3, 2, cond=Cond(value=torch.tensor([[0.0, torch.nan]]).expand(3, 2)))
    with pytest.raises(ValueError, match=r"of the same shape, and the condition has \[3, 4\]"):
        sample(model, 3, 2, cond=Cond(value=torch.zeros(3, 4)))
    with pytest.raises(ValueError, match="leads to the other item of a pair"):
        Interpolant().noise(some("x"), 0.5, Rng(0, 6))
    with pytest.raises(SamplerError, match=r"a start at t = 0.5 was asked for, and Interpolant has no pure noise"):
        sample(model, 3, grid=torch.tensor([0.5, 0.0]), cond=Cond(value=torch.zeros(3, 2)))
    with pytest.raises(ValueError, match="leads to the other item"):
        sample(model, 3, 2, start=noised(torch.zeros(3, 2)), at=0.5, cond=Cond(value=torch.zeros(3, 2)))
    assert sample(model, 0, 2, cond=Cond(value=torch.zeros(0, 2))).shape == (0, 2)


@pytest.mark.parametrize(
    ("cond", "shape", "says"),
    [
        (CondSpec(), (1, 8, 8), "leads from x0 to the other item"),
        (CondSpec(image=3), (1, 8, 8), "leads from x0 to the other item"),
        (CondSpec(values=1), (1, 8, 8), "leads from x0 to the other item"),
        (CondSpec((("class", 3),), image=1), (1, 8, 8), "receives x_t and no condition, and data has label"),
        (CondSpec(image=1, values=2), (1, 8, 8), "receives x_t and no condition, and data has value"),
        (CondSpec(image=1), (1, 8, 8), ""),
        (CondSpec(image=2), (6, 2), ""),
        (CondSpec(values=3), (3,), ""),
    ],
    ids=str,
)
def test_data_for_an_interpolant_are_pairs_without_other_conditions(
    cond: CondSpec, shape: tuple[int, ...], says: str
) -> None:
    if not says:
        Interpolant().require_pair(cond, shape, "data")
        return
    with pytest.raises(CondError, match=says):
        Interpolant().require_pair(cond, shape, "data")


# parts for Gaussian processes


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s is not ancestral], ids=lambda s: traits(s).name)
def test_samplers_of_gaussian_processes_refuse_an_interpolant(sampler: object) -> None:
    model = problem_of(Interpolant()).denoiser()
    with pytest.raises(SamplerError, match="take ancestral, epsilon, interpolant-heun"):
        sample(model, 2, 30, sampler=sampler, cond=Cond(value=torch.zeros(2, 2)))  # type: ignore[arg-type]


def test_other_parts_refuse_an_interpolant() -> None:
    model, x = problem_of(Interpolant()).denoiser(), torch.zeros(2, 2)
    with pytest.raises(TypeError, match="x needs a Gaussian process, and found Interpolant"):
        unframed(Interpolant(), "x")
    with pytest.raises(SamplerError, match="Interpolant leads to other data"):
        finish(drive(model, edit_friendly, x, Interpolant().grid(3).flip(0).flip(0), Rng(0, 2)))
    assert in_frame(model) is model


# networks


@EVERY
@pytest.mark.parametrize("output", [name for name in OUTPUTS if name != "eps"])
def test_the_table_of_outputs_holds_for_x0_and_the_rest(process: Interpolant, output: Output) -> None:
    """x_t = a x0 + r u with r = sqrt(b^2 + gamma^2): x0 follows from every row at every time, t = 1 included."""
    t = torch.linspace(0.02, 1, 50, dtype=F64)
    x0, u = Rng(0, 50, "x0").normal((50, 1), F64), Rng(0, 50, "u").normal((50, 1), F64)
    a, r = (part[:, None] for part in process.levels(t))
    if process.path in ("mirror", "encoding") or output == "edm":
        # where x_t is x0 itself, or has nothing of it, the row has other divisions
        a, r = a[:-1], r[:-1]
        x0, u = x0[:-1], u[:-1]
    xt = a * x0 + r * u
    first, second = affine(output, a, r, 0.5)
    f = {"x0": x0, "v": a * u - r * x0, "flow": u - x0, "edm": (x0 - first * xt) / second.clamp(min=1e-300)}[output]
    assert torch.allclose(first * xt + second * f, x0, atol=1e-9)


NETS: list[tuple[NetSpec, tuple[int, ...]]] = [
    (MLPSpec(16, 2), (3,)),
    (UNetSpec(8, (1, 2), 1), (3, 4, 4)),
    (DiTSpec(16, 2, 2), (3, 4, 4)),
    (SequenceSpec(16, 2), (4, 3)),
]
HEADS: list[HeadSpec] = [PointHead(), NormalHead(), MixtureHead(3), SoftHead(latent=5, local=2), NoiseHead()]


def network(
    spec: NetSpec, shape: tuple[int, ...], head: HeadSpec, process: Interpolant | None = None, output: Output = "v"
) -> Network:
    torch.manual_seed(0)
    own = CondSpec(values=shape[0]) if len(shape) == 1 else CondSpec(image=shape[-1] if len(shape) == 2 else shape[0])
    return Network(process or Interpolant(), spec, head, shape, own, output)


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize(("spec", "shape"), NETS, ids=["mlp", "unet", "dit", "sequence"])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_a_network_takes_every_head_and_does_not_see_x1(
    spec: NetSpec, shape: tuple[int, ...], head: HeadSpec, dtype: torch.dtype, device: torch.device
) -> None:
    """The answer is the same for any x1, and for items one by one; all times have finite answers."""
    model = network(spec, shape, head).to(device, dtype)
    x, other = (Rng(0, 3, name, device).normal((3, *shape), dtype) for name in ("x", "x1"))
    cond = Cond(value=other) if len(shape) == 1 else Cond(image=other)
    t = torch.tensor([1.0, 0.5, 0.001], dtype=F64, device=device)
    with torch.no_grad():
        draws = model(x, t, cond).draws(2, Rng(5, 3, device=device))
        assert draws.dtype == dtype and draws.shape == (2, 3, *shape) and draws.isfinite().all()
        assert torch.equal(model(x, t, None).draws(2, Rng(5, 3, device=device)), draws)
        for k in range(3):
            alone = model(x[k : k + 1], t[k : k + 1], cond.take(slice(k, k + 1)))
            apart = (alone.draws(2, Rng(5, [k], device=device))[:, 0] - draws[:, k]).abs().max()
            assert float(apart) < (1e-11 if dtype == F64 else 1e-4)
    with pytest.raises(CondError, match="the condition has label"):
        model(x, t, torch.zeros(3, dtype=torch.int64, device=device))


def test_the_input_of_a_network_has_unit_size() -> None:
    """c_in = 1 / sqrt(a^2 sd^2 + b^2 + gamma^2), of x_t itself."""
    model, seen = network(MLPSpec(16, 2), (3,), PointHead()).double(), []
    model.net.register_forward_pre_hook(lambda net, given: None)
    inner = model.net.side

    def side(x: Tensor, *rest: object) -> object:
        seen.append(x)
        return inner(x, *rest)  # type: ignore[arg-type]

    model.net.side = side  # type: ignore[method-assign, assignment]
    x, t = some("x"), 0.3
    model(x, t)
    right = x / math.sqrt(0.7**2 + 0.3**2 + 0.21)
    assert torch.allclose(seen[0], right, atol=1e-12)
    half = Network(Interpolant(), MLPSpec(16, 2), PointHead(), (3,), data_sd=0.5).double()
    assert float(half._unit(*Interpolant().levels(0.3))) == pytest.approx((0.7**2 / 4 + 0.3) ** -0.5)


def test_x0_of_a_network_follows_from_its_output_by_the_table() -> None:
    """With a net whose output is 0, x0 is a x_t / (a^2 + r^2) for "v", and z is 0; features need no condition."""
    model = network(MLPSpec(16, 2), (3,), NoiseHead()).double()
    for part in model.modules():
        if isinstance(part, torch.nn.Linear):
            torch.nn.init.zeros_(part.weight)
            torch.nn.init.zeros_(part.bias)
    x = some("x")
    answer = model(x, 0.3)
    assert isinstance(answer, PointAndNoise) and not answer.noise.any()
    assert torch.allclose(answer.mean, 0.7 * x / (0.7**2 + 0.3), atol=1e-12)
    pictures = network(UNetSpec(8, (1, 2), 1), (3, 4, 4), PointHead())
    assert all(each.isfinite().all() for each in pictures.features(torch.zeros(2, 3, 4, 4), 0.3))


def test_the_output_eps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at t = 1 nothing of x0 is left .* take one of x0, v, flow, edm"):
        network(MLPSpec(16, 2), (3,), PointHead(), output="eps")


# the loss


def test_the_loss_of_both_fields_is_the_sum_of_their_errors() -> None:
    process, x0 = Interpolant(), some("x0")
    noised_items = process.noise(x0, torch.linspace(0.1, 0.9, 6, dtype=F64), Rng(1, 6), Cond(value=some("x1")))
    mean, noise = some("mean"), some("noise")
    weight = 1 + process.logsnr(noised_items.t).exp()
    right = weight * (mean - x0).square().mean(1) + (noise - noised_items.z).square().mean(1)
    found = MeanAndNoise()(PointAndNoise(mean, noise), noised_items, Rng(0, 6))
    assert torch.allclose(found, right, rtol=1e-12)
    plain = MeanAndNoise("x0")(PointAndNoise(mean, noise), noised_items, Rng(0, 6))
    assert torch.allclose(plain, right - (weight - 1) * (mean - x0).square().mean(1), rtol=1e-10)
    with pytest.raises(TypeError, match=r"MeanAndNoise needs the mean of the latent noise .* Point has none. Train a"):
        MeanAndNoise()(Point(mean), noised_items, Rng(0, 6))


def test_the_exact_fields_are_the_optimum_of_the_loss() -> None:
    """Over 20,000 items: an error in either field raises the mean loss by its square, within 4.5 standard errors."""
    problem, n = problem_of(Interpolant()), 20_000
    x0, cond = problem.draw(n, Rng(0, n))
    items = Interpolant().noise(x0, 0.4, Rng(1, n), cond)
    exact = problem.denoiser()(items.xt, 0.4)
    wave = items.xt.sin()
    loss = MeanAndNoise("x0")
    best = loss(exact, items, Rng(0, n))
    for of_mean, of_noise in ((0.2, 0.0), (0.0, 0.2)):
        other = PointAndNoise(exact.mean + of_mean * wave, exact.noise + of_noise * wave)
        rise = loss(other, items, Rng(0, n)) - best - 0.04 * wave.square().mean(1)
        assert abs(float(rise.mean())) < 4.5 * float(rise.std()) / math.sqrt(n)


def test_two_fields_need_an_interpolant_with_noise_and_their_own_loss() -> None:
    both = {"head": NoiseHead(), "loss": MeanAndNoise(), "drop": 0.0}
    Denoise(process=Interpolant(), **both)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a NoiseHead and an Interpolant; found PointHead"):
        Denoise(process=Interpolant(), head=PointHead(), loss=MeanAndNoise(), drop=0.0)
    with pytest.raises(ValueError, match="needs a NoiseHead and an Interpolant; found NoiseHead and RDDM"):
        Denoise(process=RDDM(), **both)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Square trains one output of a NoiseHead"):
        Denoise(process=Interpolant(), head=NoiseHead(), loss=Square(), drop=0.0)
    with pytest.raises(ValueError, match=r"has none: take an Interpolant with c above 0"):
        Denoise(process=Interpolant(c=0.0), **both)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"has none: take an Interpolant with c above 0"):
        NoiseHead().fits(MeanAndNoise(), VP())
    with pytest.raises(ValueError, match=r"cannot be dropped; found drop = 0.1: give drop=0.0"):
        Denoise(process=Interpolant())


@pytest.mark.parametrize(
    ("head", "loss", "name"),
    [
        (PointHead(), Square(), "ancestral"),
        (SoftHead(), Energy(), "ancestral"),
        (MixtureHead(), Energy(), "ancestral"),
        (NoiseHead(), MeanAndNoise(), "epsilon"),
    ],
    ids=str,
)
def test_the_suited_sampler_takes_an_interpolant(head: object, loss: object, name: str) -> None:
    task = Denoise(process=Interpolant(), head=head, loss=loss, drop=0.0)  # type: ignore[arg-type]
    assert traits(task.suited()).name == name and not isinstance(task.suited(), partial)


def test_a_soft_mixture_learns_the_law_of_the_other_set() -> None:
    """The energy score on the line: 2 evaluations by draws are nearer than by means. Measured KS of 2,000 items: 1.7
    and 13.
    """
    torch.manual_seed(0)
    process = Interpolant()
    problem = between(toys.unequal(1, 3, 1), toys.unequal(1, 2, 5), process)
    head = SoftHead("all", latent=4, local=0, mean="none")
    model = Network(process, MLPSpec(64, 2), head, (1,), CondSpec(values=1))
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(600):
        n = 256
        x0, cond = problem.draw(n, Rng(step, n, "data"))
        t = 1e-3 + (1 - 1e-3) * Rng(step, n, "t").uniform((n,), F64)
        cond = Cond(value=cond.value.float() if cond.value is not None else None)
        items = process.noise(x0.float(), t, Rng(step, n, "noise"), cond)
        loss = loss_of(Energy(m=4, weight="v", mean=0.0), model, items, Rng(step, n, "loss")).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x1 = starts(problem, 2000).float()
    gaps = {}
    for name, made in (("draws", model), ("means", mean_only(averaged_of(model)))):
        x = finish(drive(made, ancestral, x1, process.grid(2), Rng(1, 2000), Cond(value=x1)))
        gaps[name] = ks(x, problem.at(0.0))
    assert gaps["draws"] < 4 and gaps["means"] > 2 * gaps["draws"]


def averaged_of(model: Network) -> object:
    from softmix.denoiser import averaged

    return averaged(32)(model)


def test_one_sided_processes_are_interpolants_without_latent_noise() -> None:
    """`Flow(end=0)` has the states of the linear path with x1 = z and c = 0."""
    x0, z = some("x0"), some("z")
    for t in (0.0, 0.3, 1.0):
        found = Interpolant(c=0.0).state(x0, t, z, Cond(value=z))
        assert torch.allclose(Flow(end=0.0).state(x0, t, z), found, atol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("eps", [0.0, 0.7])
def test_an_item_of_a_run_does_not_depend_on_its_batch(n: int, eps: float) -> None:
    """Images with B = C = W, and points; float64 to 1e-11."""
    for shape, sampler in itertools.product(((3, 2, 3), (4,)), (ancestral, partial(epsilon, eps=eps))):
        problem = problem_of(Interpolant(), shape)
        x1, times = starts(problem, 3), Interpolant().grid(n)
        whole = finish(drive(problem.denoiser(), sampler, x1, times, Rng(0, 3)))
        assert whole.dtype == F64
        for k in range(3):
            one = finish(drive(problem.denoiser(), sampler, x1[k : k + 1], times, Rng(0, [k])))
            assert float((whole[k] - one[0]).abs().max()) < 1e-11


def test_a_posterior_mean_is_computed_on_the_device_of_the_state(device: torch.device) -> None:
    problem = problem_of(Interpolant())
    answer = problem.denoiser()(torch.zeros(4, 2, device=device), 0.5)
    mean = need(answer, HasMean, "test").mean
    assert mean.device.type == answer.noise.device.type == device.type
