"""`InductiveMomentMatching` against its formulas written out, and at the flow map of a Gaussian."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmix.denoiser import MapHead, PointHead
from softmix.denoiser.parameterise import affine
from softmix.loss import InductiveMomentMatching, Stage
from softmix.loss.moments import mmd
from softmix.posterior import Point, Posterior
from softmix.process import VE, VP, Flow, Gaussian, Noised
from softmix.rng import Rng
from softmix.shape import column

F64 = torch.float64
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)


def normal(*shape: int, role: str = "") -> Tensor:
    return Rng(0, shape[0], role).normal(shape, F64)


def ratio(process: Gaussian, t: Tensor) -> Tensor:
    return process.sigma(t) / process.alpha(t)


def kernel(x: Tensor, y: Tensor, bandwidth: float) -> float:
    return math.exp(-math.sqrt(float((x - y).square().sum())) / (bandwidth * x.numel()))


def brute(a: Tensor, b: Tensor, bandwidth: float) -> float:
    """The V-statistic of two sets of items, pair by pair."""
    total = 0.0
    for j in range(len(a)):
        for k in range(len(a)):
            total += kernel(a[j], a[k], bandwidth) + kernel(b[j], b[k], bandwidth) - 2 * kernel(a[j], b[k], bandwidth)
    return total / len(a) ** 2


# the discrepancy


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 4, 4)], ids=str)
@pytest.mark.parametrize("m", [1, 2, 5])
def test_mmd_is_the_sum_over_all_pairs(m: int, shape: tuple[int, ...]) -> None:
    a, b = normal(3, m, *shape), 0.5 + normal(3, m, *shape, role="b")
    bandwidth = torch.tensor([0.1, 0.7, 2.0], dtype=F64)
    right = [brute(a[i], b[i], float(bandwidth[i])) for i in range(3)]
    assert torch.allclose(mmd(a, b, bandwidth), torch.tensor(right, dtype=F64), rtol=1e-10)


def test_mmd_of_two_points_is_known() -> None:
    """Sets of M copies of 0 and of M copies of x: 2 - 2 exp(-|x| / (c D))."""
    x = torch.tensor([3.0, 4.0], dtype=F64)
    found = mmd(torch.zeros(1, 4, 2, dtype=F64), x.expand(1, 4, 2), torch.tensor([0.8], dtype=F64))
    assert float(found) == pytest.approx(2 - 2 * math.exp(-5 / 1.6), rel=1e-12)


def test_mmd_does_not_depend_on_the_order_of_a_set() -> None:
    a, b, c = normal(2, 6, 3), normal(2, 6, 3, role="b"), torch.ones(2, dtype=F64)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.allclose(mmd(a[:, order], b, c), mmd(a, b, c), rtol=1e-12)
    assert torch.allclose(mmd(a, b[:, order], c), mmd(a, b, c), rtol=1e-12)
    assert torch.allclose(mmd(a, a[:, order], c), torch.zeros(2, dtype=F64), atol=1e-14)


def test_mmd_is_symmetric_and_scales_with_its_bandwidth() -> None:
    a, b, c = normal(2, 5, 3), normal(2, 5, 3, role="b"), torch.tensor([0.5, 2.0], dtype=F64)
    assert torch.allclose(mmd(b, a, c), mmd(a, b, c), rtol=1e-12)
    assert torch.allclose(mmd(7 * a + 1, 7 * b + 1, 7 * c), mmd(a, b, c), rtol=1e-10)


def test_mmd_has_a_finite_gradient_for_equal_items() -> None:
    a = torch.ones(1, 3, 2, dtype=F64, requires_grad=True)
    (found,) = torch.autograd.grad(mmd(a, torch.ones(1, 3, 2, dtype=F64), torch.ones(1, dtype=F64)).sum(), a)
    assert torch.equal(found, torch.zeros_like(a))


def test_a_small_discrepancy_keeps_its_digits_in_float32() -> None:
    """784 elements that differ by about 1e-3 have kernels of 1 - 4e-5. Measured: 2e-4; by the sum of kernels 1.1e-3."""
    a = normal(4, 4, 784)
    b = a + 1e-3 * normal(4, 4, 784, role="b")
    c = torch.full((4,), 1.0, dtype=F64)
    exact = mmd(a, b, c)
    found = mmd(a.float(), b.float(), c).double()
    assert float(((found - exact) / exact).abs().max()) < 5e-4


# the times


@THREE
@pytest.mark.parametrize("decrement", [0.01, 0.3])
def test_the_middle_time_is_a_decrement_of_sigma_over_alpha(process: Gaussian, decrement: float) -> None:
    t = process.time(torch.tensor([-8.0, -3.0, 0.0, 1.5], dtype=F64))
    found = InductiveMomentMatching(decrement=decrement).before(process, t)
    assert torch.allclose(ratio(process, found), ratio(process, t) - decrement, rtol=1e-8)


@THREE
def test_a_decrement_below_zero_ends_at_the_clean_item(process: Gaussian) -> None:
    t = process.time(-2 * torch.tensor([0.9, 1.1], dtype=F64).mul(0.3).log())
    found = InductiveMomentMatching(decrement=0.3).before(process, t)
    assert float(found[0]) == 0 and float(ratio(process, found[1])) == pytest.approx(0.03, rel=1e-6)


@THREE
def test_above_the_top_the_step_begins_at_the_top(process: Gaussian) -> None:
    loss = InductiveMomentMatching(decrement=0.5, top=20.0)
    high = process.time(torch.tensor([-6.5, -8.0], dtype=F64))
    assert torch.allclose(ratio(process, loss.before(process, high)), torch.tensor(19.5, dtype=F64), rtol=1e-6)


@THREE
@pytest.mark.parametrize("n", [1, 4, 7, 400])
def test_the_three_times_of_a_group_are_equal_and_in_order(process: Gaussian, n: int) -> None:
    loss = InductiveMomentMatching(group=4)
    given = 1e-3 + 0.999 * Rng(3, n).uniform((n,), F64)
    s, r, t = loss.times(process, given, Rng(2, n))
    assert bool(((s >= 0) & (s <= r) & (r < t)).all())
    for times in (s, r, t):
        assert all(len(set(group.tolist())) == 1 for group in times.split(4))
    assert torch.equal(t[::4], given[::4])


def test_the_end_of_the_step_is_zero_for_a_share_and_else_uniform() -> None:
    """10,000 groups, within five standard errors."""
    n = 40_000
    t = 0.1 + 0.9 * Rng(3, n).uniform((n,), F64)
    s, _, t = InductiveMomentMatching(group=4, clean=0.3).times(VP(), t, Rng(2, n))
    share = (s / t)[::4]
    inside = share[share > 0]
    assert float((share == 0).double().mean()) == pytest.approx(0.3, abs=5 * math.sqrt(0.3 * 0.7 / 10_000))
    assert float(inside.mean()) == pytest.approx(0.5, abs=5 / math.sqrt(12 * len(inside)))
    assert float(inside.var()) == pytest.approx(1 / 12, abs=5 * math.sqrt(1 / 180 / len(inside)))
    assert bool((InductiveMomentMatching(clean=1.0).times(VP(), t, Rng(2, n))[0] == 0).all())
    assert bool((InductiveMomentMatching(clean=0.0).times(VP(), t, Rng(2, n))[0] > 0).all())


# the weight and the bandwidth


@THREE
@pytest.mark.parametrize(("power", "shift"), [(1.0, 5.0), (2.0, 4.0)])
def test_the_weight_is_that_of_the_paper(process: Gaussian, power: float, shift: float) -> None:
    t = process.time(torch.tensor([-6.0, -1.0, 0.0, 3.0, 6.0], dtype=F64))
    logsnr = process.logsnr(t)
    slope = (process.logsnr(t + 1e-6) - process.logsnr(t - 1e-6)) / 2e-6
    alpha, sigma = process.alpha(t), process.sigma(t)
    right = 0.5 / (1 + (logsnr - shift).exp()) * -slope * alpha**power / (alpha**2 + sigma**2)
    found = InductiveMomentMatching(power=power, shift=shift).weight(process, t)
    assert torch.allclose(found, right, rtol=1e-5)


@pytest.mark.parametrize(("process", "output"), [(VP(), "v"), (Flow(end=0.0), "flow")], ids=["VP", "Flow"])
def test_the_bandwidth_is_the_effect_of_the_network_on_the_jump(process: Gaussian, output: str) -> None:
    """|d x_s / d F| of the step of DDIM; for `Flow` over the norm of (alpha, sigma), as in the paper."""
    t, s = torch.tensor([0.3, 0.6, 0.9], dtype=F64), torch.tensor([0.0, 0.5, 0.1], dtype=F64)
    zero = torch.zeros(3, 1, dtype=F64)
    _, b = affine(output, process.alpha(t), process.sigma(t))  # type: ignore[arg-type]
    effect = process.transfer(zero, column(b, zero), t, s)[:, 0].abs()
    norm = (process.alpha(t) ** 2 + process.sigma(t) ** 2).sqrt()
    found = InductiveMomentMatching.bandwidth(process, s, t)
    assert torch.allclose(found, effect / norm, rtol=1e-8)


# the loss


class RecordingMap:
    """A flow map: mean = gain (0.3 t + 0.7 s^2) x. It records its calls."""

    two_times = True

    def __init__(self, process: Gaussian, gain: Tensor | float = 1.0) -> None:
        self.process, self.gain = process, gain
        self.asked: list[tuple[Tensor, Tensor, Tensor, object, bool]] = []

    def __call__(
        self, xt: Tensor, t: Tensor | float, cond: object = None, to: Tensor | float | None = None
    ) -> Posterior:
        t, s = torch.as_tensor(t), torch.as_tensor(to)
        self.asked.append((xt, t, s, cond, torch.is_grad_enabled()))
        return Point(self.gain * column(0.3 * t + 0.7 * s**2, xt) * xt)


def given(process: Gaussian, n: int, shape: tuple[int, ...] = (2,), cond: Tensor | None = None) -> Noised:
    t = 0.05 + 0.9 * Rng(3, n).uniform((n,), F64)
    return process.noise(Rng(0, n, "x0").normal((n, *shape), F64), t, Rng(1, n), cond)


@THREE
@pytest.mark.parametrize("shape", [(2,), (3, 2, 2)], ids=str)
@pytest.mark.parametrize("n", [3, 8, 10])
def test_the_loss_is_its_formula_group_by_group(process: Gaussian, shape: tuple[int, ...], n: int) -> None:
    """For groups of 4 and a smaller last one."""
    loss, noised = InductiveMomentMatching(group=4, decrement=0.2), given(process, n, shape)
    found = loss.ask(RecordingMap(process), noised, Rng(2, n), Stage())
    s, r, t = loss.times(process, noised.t, Rng(2, n))

    def jump(x: Tensor, at: Tensor) -> Tensor:
        return process.transfer(x, column(0.3 * at + 0.7 * s**2, x) * x, at, s)

    def state(at: Tensor) -> Tensor:
        return column(process.alpha(at), noised.x0) * noised.x0 + column(process.sigma(at), noised.x0) * noised.z

    here, target = jump(state(t), t), jump(state(r), r)
    for first in range(0, n, 4):
        items = slice(first, min(first + 4, n))
        goal = state(s)[items] if s[first] == r[first] else target[items]
        (alpha_s, sigma_s), (alpha, sigma) = process.levels(s[first]), process.levels(t[first])
        bandwidth = float((alpha_s * sigma - alpha * sigma_s) / (alpha**2 + sigma**2).sqrt())
        right = float(loss.weight(process, t)[first]) * brute(here[items], goal, bandwidth)
        assert found[items].tolist() == pytest.approx([right] * len(found[items]), rel=1e-8)


def test_both_calls_have_the_condition_and_one_noise() -> None:
    process, cond = VP(), torch.arange(8)
    noised, model, loss = given(process, 8, cond=cond), RecordingMap(process), InductiveMomentMatching()
    loss.ask(model, noised, Rng(2, 8), Stage())
    s, r, t = loss.times(process, noised.t, Rng(2, 8))
    (here, at, end, first, _), (earlier, before, end_too, second, _) = model.asked
    assert torch.equal(at, t) and torch.equal(before, r) and torch.equal(end, s) and torch.equal(end_too, s)
    assert first is cond and second is cond
    for x, when in ((here, t), (earlier, r)):
        assert torch.allclose(x, noised.at(when).xt)


def test_the_gradient_flows_through_the_longer_jump_alone() -> None:
    """The gradient is that of the formula with the other jump as a constant."""
    process, n = Flow(), 8
    gain = torch.ones((), dtype=F64, requires_grad=True)
    model, noised, loss = RecordingMap(process, gain), given(process, n), InductiveMomentMatching(decrement=0.3)
    (found,) = torch.autograd.grad(loss.ask(model, noised, Rng(2, n), Stage()).sum(), gain)
    assert [graded for *_, graded in model.asked] == [True, False]
    s, r, t = loss.times(process, noised.t, Rng(2, n))

    def total(value: float) -> float:
        here = loss.jumps(RecordingMap(process, value), noised, s, r, t)[0]
        target = loss.jumps(RecordingMap(process), noised, s, r, t)[1]
        bandwidth = loss.bandwidth(process, s, t)
        return float((loss.weight(process, t) * loss.groups_mmd(here, target, bandwidth)).sum())

    assert float(found) == pytest.approx((total(1 + 1e-5) - total(1 - 1e-5)) / 2e-5, rel=1e-5)
    assert abs(float(found)) > 1e-3


def test_groups_do_not_depend_on_each_other() -> None:
    """The groups of a batch in another order have the same losses."""
    process, n, loss = VP(), 12, InductiveMomentMatching(group=4)
    noised = given(process, n)
    order = torch.tensor([2, 0, 1]).mul(4)[:, None].add(torch.arange(4)).flatten()
    found = loss.ask(RecordingMap(process), noised.take(order), Rng(2, n).take(order), Stage())
    assert torch.allclose(found, loss.ask(RecordingMap(process), noised, Rng(2, n), Stage())[order], rtol=1e-10)
    alone = loss.ask(RecordingMap(process), noised.take(slice(4, 8)), Rng(2, n).take(slice(4, 8)), Stage())
    assert torch.allclose(alone, found[8:], rtol=1e-10)


# at the flow map of a Gaussian


class GaussianMap:
    """The flow map of x0 ~ N(0, spread^2), x_s = x_t psi_s / psi_t with psi^2 = alpha^2 spread^2 + sigma^2, times gain.

    forgets : between 0 and 1. With 1 it ignores s, and returns the mean of the posterior.
    """

    two_times = True

    def __init__(self, process: Gaussian, gain: Tensor | float = 1.0, forgets: float = 0.0, spread: float = 0.7):
        self.process, self.gain, self.forgets, self.spread = process, gain, forgets, spread

    def psi(self, t: Tensor) -> Tensor:
        return (self.process.alpha(t) ** 2 * self.spread**2 + self.process.sigma(t) ** 2).sqrt()

    def __call__(
        self, xt: Tensor, t: Tensor | float, cond: object = None, to: Tensor | float | None = None
    ) -> Posterior:
        t, s = torch.as_tensor(t, dtype=F64), torch.as_tensor(to, dtype=F64)
        mean = self.process.alpha(t) * self.spread**2 / self.psi(t) ** 2
        of_xt = self.process.sigma(s) / self.process.sigma(t)
        exact = (self.psi(s) / self.psi(t) - of_xt) / (self.process.alpha(s) - of_xt * self.process.alpha(t))
        return Point(self.gain * column((1 - self.forgets) * exact + self.forgets * mean, xt) * xt)


def of_gaussian(process: Gaussian, n: int, seed: int = 0) -> Noised:
    t = process.time(-4 + 6 * Rng(seed, n, "t").uniform((n,), F64))
    return process.noise(0.7 * Rng(seed, n, "x0").normal((n, 1), F64), t, Rng(seed, n, "noise"))


def discrepancies(process: Gaussian, m: int, forgets: float, n: int = 12_000) -> tuple[Tensor, Tensor, Tensor]:
    """MMD^2 of each group, the two jumps, and the bandwidth of each item."""
    noised, loss = of_gaussian(process, n), InductiveMomentMatching(group=m, decrement=2.0, clean=0.0)
    s, r, t = loss.times(process, noised.t, Rng(2, n))
    here, target = loss.jumps(GaussianMap(process, forgets=forgets), noised, s, r, t)
    bandwidth = loss.bandwidth(process, s, t)
    return loss.groups_mmd(here, target, bandwidth)[::m], (here - target)[:, 0], bandwidth


@THREE
def test_the_laws_of_both_jumps_are_equal_for_the_exact_map(process: Gaussian) -> None:
    """Only the pairs j = k are left in the mean: (2 / M) (1 - E k(y_j, y'_j)), whose items share x0 and noise.

    The rest is 0 within 4.5 standard errors over 600 groups, and not for a map that ignores s (measured: 7.6 to 13.6).
    """
    m, errors = 20, []
    for forgets in (0.0, 1.0):
        found, difference, bandwidth = discrepancies(process, m, forgets)
        same = (2 / m) * (1 - (-difference.abs() / bandwidth).exp()).unflatten(0, (-1, m)).mean(1)
        rest = found - same
        errors.append(float(rest.mean() / rest.std() * math.sqrt(len(rest))))
    assert abs(errors[0]) < 4.5 < errors[1]


@THREE
def test_the_loss_falls_towards_the_exact_map(process: Gaussian) -> None:
    """From a map that ignores s to the exact one, in groups of 200; there it is of the order of 1 / M."""
    means = [float(discrepancies(process, 200, forgets, 6000)[0].mean()) for forgets in (1.0, 0.5, 0.25, 0.0)]
    assert means == sorted(means, reverse=True) and means[0] > 1.5 * means[-1]
    assert 50 * float(discrepancies(process, 50, 0.0, 6000)[0].mean()) == pytest.approx(200 * means[-1], rel=0.2)


@THREE
def test_the_gradient_is_zero_at_the_exact_map(process: Gaussian) -> None:
    """Within 4.5 standard errors over 200 groups of 100; for a map that ignores s it is 8.7 to 12.7 from 0."""
    n, m, errors = 20_000, 100, []
    noised, loss = of_gaussian(process, n), InductiveMomentMatching(group=m, decrement=0.2, clean=0.0)
    s, r, t = loss.times(process, noised.t, Rng(2, n))
    for forgets in (0.0, 1.0):
        gain = torch.ones(n // m, 1, dtype=F64, requires_grad=True)
        model = GaussianMap(process, gain.repeat_interleave(m, 0), forgets)
        here, target = loss.jumps(model, noised, s, r, t)
        value = loss.groups_mmd(here, target, loss.bandwidth(process, s, t))[::m]
        (slope,) = torch.autograd.grad(value.sum(), gain)
        errors.append(float(slope.mean() / slope.std() * math.sqrt(n // m)))
    assert abs(errors[0]) < 4.5 < abs(errors[1])


# refusals


def test_the_defaults_are_the_documented_ones() -> None:
    right = InductiveMomentMatching(group=16, decrement=160 / 4096, power=2.0, shift=5.0, clean=0.25, top=160.0)
    assert InductiveMomentMatching() == right and right.whole and not right.proper


@pytest.mark.parametrize(
    "changes", [{"group": 0}, {"decrement": 0.0}, {"top": 0.01}, {"clean": 1.1}, {"clean": -0.1}], ids=str
)
def test_impossible_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="groups of at least 1 item, a decrement above 0"):
        InductiveMomentMatching(**changes)  # type: ignore[arg-type]


def test_it_needs_a_map_head_and_a_denoiser_of_two_times() -> None:
    InductiveMomentMatching().fits(MapHead(), VP())
    with pytest.raises(ValueError, match="needs a MapHead; found PointHead"):
        InductiveMomentMatching().fits(PointHead(), VP())
    model = RecordingMap(VP())
    model.two_times = False
    with pytest.raises(ValueError, match="needs a flow map"):
        InductiveMomentMatching().ask(model, given(VP(), 4), Rng(2, 4), Stage())
