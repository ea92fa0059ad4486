"""`Consistency` and `MeanFlow` against their formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmix.loss import Consistency, MeanFlow, Stage
from softmix.loss.flowmap import chosen_pairs
from softmix.posterior import Point, Posterior
from softmix.process import VE, VP, Flow, Gaussian, Noised
from softmix.rng import Rng
from softmix.shape import column

F64 = torch.float64
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)


def ratio(process: Gaussian, t: Tensor) -> Tensor:
    return process.sigma(t) / process.alpha(t)


# Consistency


class RecordingDenoiser:
    """A denoiser that records its calls and returns sin(x_t)."""

    def __init__(self, process: Gaussian) -> None:
        self.process = process
        self.asked: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        self.asked.append((xt, torch.as_tensor(t), cond))
        return Point(xt.sin())


def test_the_defaults_are_the_documented_ones() -> None:
    assert Consistency() == Consistency(first=10, last=160) and not Consistency().proper
    assert MeanFlow() == MeanFlow(pairs=0.25, power=1.0, mean=-0.4, sd=1.0, direction="item") and not MeanFlow().proper


@THREE
@pytest.mark.parametrize("count", [10, 160])
def test_the_step_before_is_one_equal_step_of_the_seventh_root(process: Gaussian, count: int) -> None:
    """From sigma / alpha = 0.002 to 80, as in the grid of Karras. At 80 and above it begins at 80."""
    t = process.time(torch.tensor([-9.5, -8.0, -3.0, 0.0, 4.0], dtype=F64))
    step = (80 ** (1 / 7) - 0.002 ** (1 / 7)) / count
    right = (ratio(process, t).clamp(max=80.0) ** (1 / 7) - step) ** 7
    found = ratio(process, Consistency.before(process, t, count))
    assert torch.allclose(found, right, rtol=1e-6)


def test_the_step_before_the_least_noise_is_the_clean_image() -> None:
    """One level on each side of 0.002 plus a step."""
    step = (80 ** (1 / 7) - 0.002 ** (1 / 7)) / 20
    edge = (0.002 ** (1 / 7) + step) ** 7
    for share, clean in ((0.99, True), (1.01, False)):
        t = VE().time(torch.tensor([-2 * math.log(share * edge)], dtype=F64))
        assert bool(Consistency.before(VE(), t, 20)[0] == 0) == clean


def test_the_first_step_begins_at_80() -> None:
    """The clock of VP ends at sigma / alpha = 22,026. The step before that is the one before 80."""
    far, edge = VP().time(torch.tensor([-20.0, -2 * math.log(80)], dtype=F64))
    assert float(Consistency.before(VP(), far[None], 10)) == pytest.approx(
        float(Consistency.before(VP(), edge[None], 10)), abs=1e-9
    )


@pytest.mark.parametrize(
    "progress, count",
    [(0.0, 10), (0.19, 10), (0.21, 20), (0.39, 20), (0.41, 40), (0.61, 80), (0.79, 80), (0.81, 160), (1.0, 160)],
)
def test_the_grid_doubles_in_equal_parts_of_training(progress: float, count: int) -> None:
    """Four doublings make five parts of a fifth each."""
    given = VP().noise(torch.zeros(3, 2, dtype=F64), torch.tensor([0.3, 0.5, 0.9], dtype=F64), Rng(0, 3))
    asked = RecordingDenoiser(VP())
    Consistency().ask(asked, given, Rng(0, 3), Stage(progress))
    assert torch.equal(asked.asked[1][1], Consistency.before(VP(), given.t, count))


def test_the_grid_goes_from_the_first_count_to_the_last() -> None:
    given = VP().noise(torch.zeros(3, 2, dtype=F64), torch.tensor([0.3, 0.5, 0.9], dtype=F64), Rng(0, 3))
    for progress, count in ((0.0, 3), (0.5, 6), (1.0, 12)):
        asked = RecordingDenoiser(VP())
        Consistency(first=3, last=12).ask(asked, given, Rng(0, 3), Stage(progress))
        assert torch.equal(asked.asked[1][1], Consistency.before(VP(), given.t, count))
    asked = RecordingDenoiser(VP())
    Consistency(first=8, last=4).ask(asked, given, Rng(0, 3), Stage(1.0))
    assert torch.equal(asked.asked[1][1], Consistency.before(VP(), given.t, 8))


@THREE
@pytest.mark.parametrize("shape", [(2,), (3, 4, 4)], ids=str)
def test_the_loss_is_the_pseudo_huber_distance_over_the_step(process: Gaussian, shape: tuple[int, ...]) -> None:
    """Both calls have the condition, for x_t and for x_r with the same noise."""
    t = process.time(torch.tensor([-3.0, 0.0, 2.0], dtype=F64))
    cond = torch.tensor([1, 2, 3])
    given = process.noise(Rng(0, 3, "x0").normal((3, *shape), F64), t, Rng(1, 3), cond)
    asked = RecordingDenoiser(process)
    found = Consistency().ask(asked, given, Rng(2, 3), Stage(0.5))
    r = Consistency.before(process, t, 40)
    xr = column(process.alpha(r), given.x0) * given.x0 + column(process.sigma(r), given.x0) * given.z
    size = math.prod(shape)
    square = (given.xt.sin() - xr.sin()).square().flatten(1).sum(1)
    c = 0.00054 * math.sqrt(size)
    right = ((square + c**2).sqrt() - c) / math.sqrt(size) / (ratio(process, t) - ratio(process, r))
    assert torch.allclose(found, right, rtol=1e-6)
    assert torch.equal(asked.asked[0][0], given.xt) and torch.allclose(asked.asked[1][0], xr)
    assert all(said is cond for _, _, said in asked.asked)


def test_a_small_distance_is_squared() -> None:
    """Below c = 0.00054 sqrt(D) the pseudo-Huber distance d is d^2 / 2c."""
    x0 = torch.zeros(1, 4, dtype=F64)
    off = 1e-5

    class Near(RecordingDenoiser):
        def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
            return Point(x0 + off)

    given = VE().noise(x0, VE().time(torch.tensor([15.0], dtype=F64)), Rng(0, 1))
    found = Consistency().ask(Near(VE()), given, Rng(0, 1), Stage())
    c, d = 0.00054 * 2, 2 * off
    assert float(found) == pytest.approx(d**2 / (2 * c) / 2 / float(ratio(VE(), given.t)), rel=1e-3)


# MeanFlow


class Map:
    """A flow map: mean = a(t, to) x. It records its calls."""

    two_times = True

    def __init__(self, process: Gaussian | None = None) -> None:
        self.process = process or Flow(end=0.0)
        self.asked: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def __call__(
        self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None, to: Tensor | float | None = None
    ) -> Posterior:
        t, s = torch.as_tensor(t), torch.as_tensor(to)
        self.asked.append((t, s, cond))
        return Point(column(0.3 * t + 0.7 * s**2, xt) * xt)


def given_for_map(n: int = 400, cond: Tensor | None = None) -> Noised:
    t = Rng(3, n).uniform((n,), F64) * 0.9 + 0.05
    return Flow(end=0.0).noise(Rng(0, n, "x0").normal((n, 2), F64), t, Rng(1, n), cond)


def test_the_target_is_the_velocity_less_the_change_along_the_path() -> None:
    """u = (x - mean) / t and du/dt = (v . d_x + d_t) u, here by hand; the second time from the rng's own streams."""
    given, n = given_for_map(), 400
    loss = MeanFlow(pairs=0.6, mean=0.2, sd=0.5)
    other = torch.sigmoid(0.2 + 0.5 * Rng(2, n).child("other").normal((n,), F64))
    paired = Rng(2, n).child("pair").uniform((n,)) < 0.6
    t = torch.where(paired, torch.maximum(given.t, other), given.t)[:, None]
    r = torch.where(paired, torch.minimum(given.t, other), given.t)[:, None]
    x, v = (1 - t) * given.x0 + t * given.z, given.z - given.x0
    a = 0.3 * t + 0.7 * r**2
    u = (1 - a) * x / t
    moved = (1 - a) * v / t - 0.3 * x / t - (1 - a) * x / t**2
    target = torch.where(paired[:, None], v - (t - r) * moved, v)
    found = loss.velocities(Map(), given, Rng(2, n))
    for mine, right in zip(found, (x, u, target), strict=True):
        assert torch.allclose(mine, right, rtol=1e-8, atol=1e-8)


def test_the_mean_direction_is_the_velocity_of_the_network_itself() -> None:
    """u(x_t, t, t) in the place of v in the change, by hand; the rest of the target and its times are the same."""
    given, n = given_for_map(), 400
    x, u, target = MeanFlow(pairs=0.6, direction="mean").velocities(Map(), given, Rng(2, n))
    ask = Map()
    _, other_u, usual = MeanFlow(pairs=0.6).velocities(ask, given, Rng(2, n))
    t, r = (each[:, None] for each in ask.asked[0][:2])
    a, own = 0.3 * t + 0.7 * r**2, (1 - 0.3 * t - 0.7 * t**2) * x / t
    moved = (1 - a) * own / t - 0.3 * x / t - (1 - a) * x / t**2
    assert torch.equal(u, other_u) and torch.allclose(
        target, given.z - given.x0 - (t - r) * moved, rtol=1e-8, atol=1e-8
    )
    # where r = t both are v
    assert torch.equal((target - usual).abs().sum(1) == 0, (t == r)[:, 0])


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="found 'own'"):
        MeanFlow(direction="own")  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.7, 1.0])
def test_a_share_of_the_items_has_two_times(share: float) -> None:
    """Of 4000, within five standard errors. The others have one time."""
    ask = Map()
    MeanFlow(pairs=share).velocities(ask, given_for_map(4000), Rng(2, 4000))
    t, r, _ = ask.asked[0]
    assert float((t != r).double().mean()) == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 4000))
    assert bool((r <= t).all())


def test_the_choice_of_pairs_is_independent_of_the_second_time() -> None:
    """Independent streams: the second time of paired items has the law of all. logit(other) ~ N(-0.4, 1)."""
    n = 20_000
    paired = Rng(2, n).child("pair").uniform((n,)) < 0.25
    found = MeanFlow()._other(n, Rng(2, n)).logit()
    for some in (found[paired], found[~paired]):
        assert float(some.mean()) == pytest.approx(-0.4, abs=5 / math.sqrt(len(some)))
        assert float(some.std()) == pytest.approx(1.0, abs=5 / math.sqrt(2 * len(some)))
    ask = Map()
    MeanFlow(pairs=1.0).velocities(ask, given_for_map(n), Rng(2, n))
    t, r, _ = ask.asked[0]
    mine = given_for_map(n).t
    assert torch.allclose(torch.where(t == mine, r, t), found.sigmoid())
    ask = Map()
    MeanFlow().velocities(ask, given_for_map(n), Rng(2, n))
    assert torch.equal(ask.asked[0][0] != ask.asked[0][1], paired)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_error_is_divided_by_a_power_of_itself(power: float) -> None:
    given = given_for_map()
    _, u, target = MeanFlow().velocities(Map(), given, Rng(2, 400))
    error = (u - target).square().sum(1)
    found = MeanFlow(power=power).ask(Map(), given, Rng(2, 400), Stage())
    assert torch.allclose(found, error / (error + 0.01) ** power, rtol=1e-9)


def test_the_power_has_no_gradient() -> None:
    """The gradient is that of the error alone: d loss = d error / (error + 0.01)^power."""
    gain = torch.ones((), dtype=F64, requires_grad=True)

    class Learned(Map):
        def __call__(
            self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None, to: Tensor | float | None = None
        ) -> Posterior:
            return Point(gain * super().__call__(xt, t, cond, to).mean)  # type: ignore[attr-defined]

    given = given_for_map(1)
    (found,) = torch.autograd.grad(MeanFlow(pairs=0.0).ask(Learned(), given, Rng(2, 1), Stage()).sum(), gain)
    _, u, target = MeanFlow(pairs=0.0).velocities(Learned(), given, Rng(2, 1))
    error = (u - target).square().sum()
    (right,) = torch.autograd.grad(error, gain)
    assert float(found) == pytest.approx(float(right / (error.detach() + 0.01)), rel=1e-9)


def test_mean_flow_passes_the_condition() -> None:
    cond = torch.arange(400)
    ask = Map()
    MeanFlow(pairs=0.5).ask(ask, given_for_map(cond=cond), Rng(2, 400), Stage())
    first, second = ask.asked
    u = Rng(2, 400).child("pair").uniform((400,))
    right = cond[u < 0.5]
    assert torch.equal(first[2], cond) and second[2] is not None  # type: ignore[arg-type]
    # on an accelerator items without a pair follow, so that the length is fixed
    assert torch.equal(second[2][: len(right)], right) and len(second[2]) == len(chosen_pairs(u, 0.5)[1])


def test_mean_flow_refuses_other_processes_and_denoisers() -> None:
    with pytest.raises(ValueError, match="found VP and a denoiser of two times"):
        given = VP().noise(torch.zeros(3, 2), 0.5, Rng(0, 3))
        MeanFlow().ask(Map(VP()), given, Rng(0, 3), Stage())
    with pytest.raises(ValueError, match="found Flow and a denoiser of one time"):
        MeanFlow().ask(RecordingDenoiser(Flow()), given_for_map(3), Rng(0, 3), Stage())
