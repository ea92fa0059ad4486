"""alpha, sigma and logsnr agree, the bridge is the true law of x_s given x_t and x0, grids fall."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from softmix.process import GRIDS, PROCESSES, VE, VP, Flow, Gaussian, Table, karras, trailing, uniform_logsnr
from softmix.process.gaussian import LOGSNR_MIN
from softmix.rng import Rng

pytestmark = pytest.mark.usefixtures("on_device")
F64 = torch.float64
EVERY = pytest.mark.parametrize("process", PROCESSES, ids=str)
NS = (1, 2, 3, 7, 260)
ETAS = (0.0, 0.3, 1.0)


@dataclass
class Step:
    """x_s = c_x x_t + c_0 x0 + sd z."""

    c_x: float
    c_0: float
    sd: float

    def then(self, other: Step) -> Step:
        """This step, followed by another, with the same x0."""
        sd = math.hypot(other.c_x * self.sd, other.sd)
        return Step(other.c_x * self.c_x, other.c_x * self.c_0 + other.c_0, sd)


def read(process: Gaussian, t: float, s: float, eta: float = 1.0) -> Step:
    """The coefficients of `bridge`, read off its results: it is affine in x_t, x0 and the noise of a given seed."""

    def at(xt: float, x0: float) -> float:
        ones = torch.ones(1, 1, dtype=F64)
        return float(process.bridge(xt * ones, x0 * ones, t, s, Rng(0, 1), eta=eta))

    noise = at(0, 0)
    z = float(Rng(0, 1).normal((1, 1), F64))
    return Step(at(1, 0) - noise, at(0, 1) - noise, abs(noise / z))


def numbers(process: Gaussian, t: float) -> tuple[float, float, float]:
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    return alpha, sigma, (alpha / sigma) ** 2 if sigma else math.inf


def near(a: float, b: float, tolerance: float = 1e-9) -> bool:
    return abs(a - b) <= tolerance * max(abs(a), abs(b), 1.0)


times = st.floats(0.001, 1.0)


# alpha, sigma, logsnr


@EVERY
def test_the_signal_falls_and_the_noise_grows(process: Gaussian) -> None:
    t = torch.linspace(0, 1, 1001, dtype=F64)
    alpha, sigma, logsnr = process.alpha(t), process.sigma(t), process.logsnr(t)
    assert (alpha[1:] <= alpha[:-1]).all() and (sigma[1:] > sigma[:-1]).all() and (logsnr[1:] < logsnr[:-1]).all()
    assert (alpha > 0).all()
    assert torch.allclose(logsnr[1:], (alpha[1:] ** 2 / sigma[1:] ** 2).log(), rtol=1e-12, atol=1e-12)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_values_at_time_0_and_1(process: Gaussian, dtype: torch.dtype) -> None:
    """Exactly clean at 0. At 1 x0 can still be recovered, for any dtype of t."""
    for t in (torch.zeros(3, dtype=dtype), torch.tensor(0.0, dtype=dtype)):
        assert (process.alpha(t) == 1).all() and (process.sigma(t) == 0).all() and (process.logsnr(t) == math.inf).all()
    last = process.logsnr(torch.ones(2, dtype=dtype))
    assert (process.alpha(torch.ones(2, dtype=dtype)) > 4e-5).all() and (last >= LOGSNR_MIN - 1e-9).all()
    assert float(process.sigma(1.0)) == pytest.approx(80 if isinstance(process, VE) else 1, rel=3e-5)
    assert float(process.logsnr(1.0)) == float(process.logsnr(torch.ones((), dtype=dtype)))


@EVERY
def test_time_inverts_logsnr(process: Gaussian) -> None:
    t = torch.linspace(0, 1, 10_001, dtype=F64)[1:]
    assert (process.time(process.logsnr(t)) - t).abs().max() < 1e-11
    logsnr = torch.linspace(float(process.logsnr(1.0)), 15, 500, dtype=F64)
    assert (process.logsnr(process.time(logsnr)) - logsnr).abs().max() < 1e-6
    assert float(process.time(math.inf)) == 0
    assert float(process.time(float(process.logsnr(0.25)))) == pytest.approx(0.25, abs=1e-12)


def test_vp_preserves_variance_and_follows_its_formulas() -> None:
    t = torch.linspace(0, 1, 1001, dtype=F64)
    logistic = torch.sigmoid(6 * t - 3)
    formulas = {
        "cosine": (math.pi * t / 2).cos() ** 2,
        "linear": (-(0.1 * t + 9.95 * t**2)).exp(),
        "sigmoid": 1 - (logistic - logistic[0]) / (logistic[-1] - logistic[0]),
    }
    squeeze = 1 / (1 + math.exp(-LOGSNR_MIN))
    for process in (p for p in PROCESSES if isinstance(p, VP)):
        assert (process.alpha(t) ** 2 + process.sigma(t) ** 2 - 1).abs().max() < 1e-15
        assert (process.alpha(t) ** 2 - formulas[process.schedule]).abs().max() < 1.01 * squeeze


def test_linear_vp_is_the_limit_of_the_thousand_steps_of_ddpm() -> None:
    """prod (1 - beta_i), i = 1 .. 1000, against alpha^2 at i / 1000.

    Measured: alpha^2 within 7.9e-4 (beta is taken at the end of its step and not in its middle), log alpha^2 within
    0.068 (log(1 - beta) is not -beta), with a range down to -10.1.
    """
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    truth = torch.log1p(-beta).cumsum(0)
    ours = 2 * VP("linear").alpha(torch.arange(1, 1001, dtype=F64) / 1000).log()
    assert (truth.exp() - ours.exp()).abs().max() < 1e-3 and (truth - ours).abs().max() < 0.07
    other = 2 * VP("cosine").alpha(torch.arange(1, 1001, dtype=F64) / 1000).log()
    assert (truth.exp() - other.exp()).abs().max() > 0.1


def test_ve_and_flow_follow_their_formulas() -> None:
    t = torch.linspace(0, 1, 101, dtype=F64)
    assert torch.equal(VE().alpha(t), torch.ones_like(t))
    assert torch.allclose(VE().sigma(t) ** 2, 0.01**2 * (8000 ** (2 * t) - 1), rtol=1e-12, atol=1e-18)
    assert torch.allclose(VE(0.1, 3.0).sigma(t) ** 2, 0.1**2 * (30 ** (2 * t) - 1), rtol=1e-12, atol=1e-16)
    assert (Flow().alpha(t) - (1 - t)).abs().max() < 4.6e-5 and torch.equal(Flow().sigma(t), t)


# noise and prior


@EVERY
@pytest.mark.parametrize("shape", [(4, 3), (3, 3, 3, 3), (4, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_noise_records_its_draw(
    process: Gaussian, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    x0 = Rng(0, shape[0], "x0").normal(shape, dtype)
    t = torch.linspace(0.1, 1, shape[0], dtype=F64)
    label = torch.arange(shape[0])
    noised = process.noise(x0, t, Rng(1, shape[0]), label)
    assert noised.xt.dtype == noised.z.dtype == dtype and noised.xt.shape == shape and noised.cond is label
    assert torch.equal(noised.z, Rng(1, shape[0]).normal(shape, dtype)) and torch.equal(noised.x0, x0)
    assert noised.process is process and torch.equal(noised.logsnr, process.logsnr(t))
    for k in range(shape[0]):
        item = float(process.alpha(t[k])) * x0[k].double() + float(process.sigma(t[k])) * noised.z[k].double()
        assert (noised.xt[k].double() - item).abs().max() < 1e-6 * (1 + float(item.abs().max()))
        alone = process.noise(x0[k : k + 1], float(t[k]), Rng(1, [k]))
        # a number is a float on the CPU, and a tensor is computed where it is: a card rounds a cosine otherwise
        same = torch.equal if device.type == "cpu" else partial(torch.allclose, rtol=1e-14, atol=1e-14)
        assert same(alone.xt[0], noised.xt[k])


@EVERY
def test_the_prior_is_noise_without_signal(process: Gaussian) -> None:
    x = process.prior((3, 3, 3, 3), Rng(0, 3))
    assert torch.allclose(x, float(process.sigma(1.0)) * Rng(0, 3).normal((3, 3, 3, 3)), rtol=1e-6)
    assert float(process.noise(torch.zeros(2, 5), 1.0, Rng(0, 2)).xt.std()) == pytest.approx(
        float(process.prior((2, 5), Rng(0, 2)).std()), rel=1e-6
    )


# the bridge


@EVERY
@given(a=times, b=times)
def test_the_bridge_equals_bayes_rule(process: Gaussian, a: float, b: float) -> None:
    """Its coefficients, read off its results, with r = sigma_s / sigma_t, kappa = alpha_t / alpha_s:
    c_x = r^2 kappa,  c_0 = alpha_s (1 - r^2 kappa^2),  variance = sigma_s^2 (1 - r^2 kappa^2);
    and c_0^2 / variance = snr(s) - snr(t).
    """
    s, t = min(a, b), max(a, b)
    if t - s < 1e-3:
        return
    step = read(process, t, s)
    (alpha_t, sigma_t, snr_t), (alpha_s, sigma_s, snr_s) = numbers(process, t), numbers(process, s)
    r, kappa = sigma_s / sigma_t, alpha_t / alpha_s
    left = 1 - r**2 * kappa**2
    assert near(step.c_x, r**2 * kappa) and near(step.c_0, alpha_s * left)
    assert step.sd**2 == pytest.approx(sigma_s**2 * left, rel=1e-6)
    assert step.c_0**2 / step.sd**2 == pytest.approx(snr_s - snr_t, rel=1e-6)


@EVERY
@given(a=times, b=times, eta=st.floats(0, 1))
def test_the_bridge_keeps_the_marginal_for_any_eta(process: Gaussian, a: float, b: float, eta: float) -> None:
    """With x_t = alpha_t x0 + sigma_t z: the coefficient of x0 in x_s is alpha_s, and the variance of its noise
    sigma_s^2.
    """
    s, t = min(a, b), max(a, b)
    if t - s < 1e-3:
        return
    step = read(process, t, s, eta)
    (alpha_t, sigma_t, _), (alpha_s, sigma_s, _) = numbers(process, t), numbers(process, s)
    assert near(step.c_0 + step.c_x * alpha_t, alpha_s)
    assert (step.c_x * sigma_t) ** 2 + step.sd**2 == pytest.approx(sigma_s**2, rel=1e-8)
    assert step.sd == pytest.approx(eta * read(process, t, s).sd, rel=1e-9)


@EVERY
@given(a=times, b=times, c=times)
def test_two_bridges_make_one(process: Gaussian, a: float, b: float, c: float) -> None:
    """t to u and u to s with the same x0 has the law of t to s."""
    s, u, t = sorted((a, b, c))
    if min(t - u, u - s) < 1e-3:
        return
    two, one = read(process, t, u).then(read(process, u, s)), read(process, t, s)
    assert near(two.c_x, one.c_x) and near(two.c_0, one.c_0) and two.sd == pytest.approx(one.sd, rel=1e-6)


@EVERY
@pytest.mark.parametrize("eta", ETAS)
def test_a_chain_from_data_has_the_true_joint_law(process: Gaussian, eta: float) -> None:
    """x0, noise to t = 0.8, bridges to 0.5 and 0.2: mean, variance and covariance with x0 at the end.

    In standard errors over 40,000 items, fixed seed: measured at most 1.4; the test allows 4.
    """
    n, t = 40_000, 0.2
    x0 = 0.7 * Rng(0, n, "x0").normal((n, 1), F64) + 0.3
    rng = Rng(1, n)
    x = process.noise(x0, 0.8, rng).xt
    x = process.bridge(x, x0, 0.8, 0.5, rng, eta=eta)
    x = process.bridge(x, x0, 0.5, t, rng, eta=eta)
    alpha, sigma, _ = numbers(process, t)
    off, off_0 = x - alpha * 0.3, x0 - 0.3
    products = torch.cat([off, off**2 - alpha**2 * 0.49 - sigma**2, off * off_0 - alpha * 0.49], dim=1)
    assert (products.mean(0) / products.std(0)).abs().max() * math.sqrt(n) < 4


@EVERY
@pytest.mark.parametrize("eta", ETAS)
def test_a_bridge_to_zero_is_x0(process: Gaussian, eta: float) -> None:
    x0, xt = Rng(0, 3, "a").normal((3, 3, 3, 3)), Rng(0, 3, "b").normal((3, 3, 3, 3))
    for t in (1.0, 0.3, 1e-3):
        assert torch.equal(process.bridge(xt, x0, t, 0.0, Rng(0, 3), eta=eta), x0)


@EVERY
def test_eta_0_draws_no_random_number(process: Gaussian) -> None:
    x0, xt, rng = torch.ones(2, 3), torch.zeros(2, 3), Rng(0, 2)
    first = process.bridge(xt, x0, 0.7, 0.4, rng, eta=0)
    assert rng.draws == 0 and torch.equal(first, process.bridge(xt, x0, 0.7, 0.4, Rng(9, 2), eta=0))
    assert not torch.equal(process.bridge(xt, x0, 0.7, 0.4, Rng(0, 2)), process.bridge(xt, x0, 0.7, 0.4, Rng(9, 2)))


@EVERY
@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_time_per_item_is_each_items_time(process: Gaussian, eta: float, dtype: torch.dtype) -> None:
    """With B = C = H = W, each item alone."""
    x0, xt = Rng(0, 3, "a").normal((3, 3, 3, 3), dtype), Rng(0, 3, "b").normal((3, 3, 3, 3), dtype)
    t, s = torch.tensor([0.9, 0.6, 1.0], dtype=F64), torch.tensor([0.5, 0.1, 0.0], dtype=F64)
    several = process.bridge(xt, x0, t, s, Rng(2, 3), eta=eta)
    assert several.dtype == dtype
    for k in range(3):
        one = process.bridge(xt[k : k + 1], x0[k : k + 1], float(t[k]), float(s[k]), Rng(2, [k]), eta=eta)
        assert torch.equal(several[k], one[0])


@EVERY
def test_an_invalid_step_is_refused(process: Gaussian) -> None:
    x, rng = torch.zeros(2, 2), Rng(0, 2)
    for t, s in ((0.5, 0.5), (0.4, 0.5), (torch.tensor([0.9, 0.2]), torch.tensor([0.5, 0.5]))):
        with pytest.raises(ValueError, match="s < t"):
            process.bridge(x, x, t, s, rng)
    for eta in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="eta"):
            process.bridge(x, x, 0.5, 0.4, rng, eta=eta)


def test_reading_a_bridge_detects_a_wrong_one() -> None:
    class Wrong(VP):
        def bridge(self, *args: object, **more: object) -> Tensor:  # type: ignore[override]
            return 1.001 * super().bridge(*args, **more)  # type: ignore[arg-type]

    step, alpha_t = read(Wrong(), 0.8, 0.3), float(VP().alpha(0.8))
    assert not near(step.c_0 + step.c_x * alpha_t, float(VP().alpha(0.3)))


# grids


@EVERY
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("n", NS)
def test_a_grid_falls_from_one_to_zero(process: Gaussian, grid: object, n: int) -> None:
    for times in (grid(process, n), process.grid(n)):  # type: ignore[operator]
        assert times.shape == (n + 1,) and times.dtype == F64
        assert times[0] == 1 and times[-1] == 0 and (times[1:] < times[:-1]).all()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("n", [0, -1])
def test_a_grid_of_no_steps_is_refused(grid: object, n: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        grid(VP(), n)  # type: ignore[operator]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 260, 333, 999, 1000])
def test_trailing_takes_integer_steps_from_the_noisy_end(n: int) -> None:
    places = trailing(VP(), n) * 1000
    assert (places - places.round()).abs().max() < 1e-9 and len(set(places.round().tolist())) == n + 1
    assert (places[:-1] - places[1:] - 1000 / n).abs().max() <= 1


def test_trailing_with_another_number_of_training_steps() -> None:
    assert torch.equal(trailing(VP(), 1000), torch.arange(1000, -1, -1, dtype=F64, device="cpu") / 1000)
    assert torch.equal(trailing(VP(), 3, 8) * 8, torch.tensor([8.0, 5, 3, 0], dtype=F64, device="cpu"))
    with pytest.raises(ValueError, match="1001 steps"):
        trailing(VP(), 1001)


@EVERY
def test_karras_spacing(process: Gaussian) -> None:
    """sigma_i = (high^(1/7) + i / (n - 1) (low^(1/7) - high^(1/7)))^7 for sigma / alpha, and logsnr in equal steps."""
    n = 7
    grid = karras(process, n, last=8.0)[:-1]
    ratio = process.sigma(grid) / process.alpha(grid)
    high, low = float(ratio[0]) ** (1 / 7), math.exp(-4) ** (1 / 7)
    truth = [(high + i / (n - 1) * (low - high)) ** 7 for i in range(n)]
    assert torch.allclose(ratio, torch.tensor(truth, dtype=F64, device=ratio.device), rtol=1e-6)
    clock = process.logsnr(uniform_logsnr(process, n, last=8.0)[:-1])
    assert (clock.diff() - (8 - float(process.logsnr(1.0))) / (n - 1)).abs().max() < 1e-6


# tables


def test_a_table_equals_the_table_of_its_model() -> None:
    """At the integer times to the last digit of its float32; sigma / alpha is linear between them; and the inverse."""
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    table = Table(kept)
    places = torch.arange(1000, dtype=F64)
    assert torch.equal(table.alpha((places + 1) / 1000) ** 2, kept.double().sqrt() ** 2)
    assert table.alpha(0.0) == 1 and table.sigma(0.0) == 0
    ratio = [float(table.sigma(t) / table.alpha(t)) for t in (0.5, 0.5004, 0.501)]
    assert ratio[1] == pytest.approx(ratio[0] + 0.4 * (ratio[2] - ratio[0]), rel=1e-9)
    t = torch.linspace(0.001, 1, 777, dtype=F64)
    assert torch.allclose(table.time(table.logsnr(t)), t, atol=1e-9)
    assert "1000 steps" in repr(table)
    at = t.clone().requires_grad_()
    (slope,) = torch.autograd.grad(table.sigma(at).sum(), at)
    ends = [table.sigma((t + side).clamp(max=1)) for side in (1e-6, 0)]
    assert torch.allclose(slope[:-1], (ends[0] - ends[1])[:-1] / 1e-6, rtol=1e-3)
    for wrong in (kept.flip(0), kept[None], torch.ones(0), 1.5 * kept, kept - 0.5):
        with pytest.raises(ValueError, match="falling, below 1"):
            Table(wrong)


@pytest.mark.parametrize("process", [Table(torch.linspace(0.9, 0.0, 10)), Flow(end=0.0)], ids=["table", "flow"])
def test_a_schedule_may_end_at_no_signal(process: Gaussian) -> None:
    """alpha(1) is 0, the clock stays finite, and a step from there is the limit of the bridge: x0 and new noise."""
    assert float(process.alpha(1.0)) == 0 and math.isfinite(float(process.logsnr(1.0)))
    x0, xt = Rng(0, 3).normal((3, 4), F64), Rng(1, 3).normal((3, 4), F64)
    s = 0.5
    for eta in ETAS:
        clean, kept, fresh = process.shares(1.0, s, eta)
        assert near(float(clean), float(process.alpha(s)), 1e-6)
        assert near(float(kept) ** 2 + float(fresh) ** 2, float(process.sigma(s)) ** 2, 1e-6)
    assert process.bridge(xt, x0, 1.0, s, Rng(2, 3)).isfinite().all()
    assert torch.allclose(process.transfer(xt, x0, 1.0, s), process.bridge(xt, x0, 1.0, s, Rng(2, 3), eta=0), atol=1e-9)


@EVERY
def test_a_transfer_goes_both_ways(process: Gaussian) -> None:
    """DDIM's step, there and back with the same x0; downwards it is the bridge with eta = 0."""
    x0, xt = Rng(0, 3).normal((3, 4), F64), Rng(1, 3).normal((3, 4), F64)
    down = process.transfer(xt, x0, 0.7, 0.2)
    assert torch.allclose(down, process.bridge(xt, x0, 0.7, 0.2, Rng(0, 3), eta=0), atol=1e-12)
    assert torch.allclose(process.transfer(down, x0, 0.2, 0.7), xt, atol=1e-9)
