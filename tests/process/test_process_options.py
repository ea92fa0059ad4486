"""Defaults, options and edge cases of the processes, and `Noised`."""

from __future__ import annotations

import math

import pytest
import torch

from softmix.process import GRIDS, PROCESSES, VE, VP, Flow, Gaussian, Noised, Table
from softmix.process.gaussian import LOGSNR_MIN
from softmix.rng import Rng

F64 = torch.float64
EVERY = pytest.mark.parametrize("process", PROCESSES, ids=str)


# defaults


def test_the_defaults_of_the_processes() -> None:
    assert VP() == VP("cosine") and VE() == VE(0.01, 80.0) and Flow() == Flow(math.exp(-10.0))


def test_the_clock_of_vp_and_flow_ends_at_minus_20() -> None:
    assert LOGSNR_MIN == -20.0
    for process in (VP(), VP("sigmoid"), Flow(), Flow(end=0.0)):
        assert float(process.logsnr(1.0)) == pytest.approx(-20.0, abs=1e-6)


def test_linear_vp_ends_with_the_betas_of_ddpm() -> None:
    """alpha(1)^2 = exp(-10.05). The scaling of sigma changes it by less than one part in 10,000."""
    assert float(VP("linear").alpha(1.0)) ** 2 == pytest.approx(math.exp(-10.05) + 2.06e-9, rel=1e-6)
    assert float(VP("linear").time(float(VP("linear").logsnr(1.0)))) == pytest.approx(1.0, abs=1e-12)


def test_a_clock_below_the_end_gives_the_end() -> None:
    for process in (VP(), VP("linear"), VP("sigmoid"), Table.of_betas(torch.linspace(1e-4, 0.02, 1000))):
        assert float(process.time(-60.0)) == pytest.approx(1.0, abs=1e-9)


def test_flow_with_end_0_has_no_signal_at_1() -> None:
    assert float(Flow(end=0.0).alpha(1.0)) == 0.0 and float(Flow(end=0.5).alpha(1.0)) == 0.5


def test_the_list_of_processes() -> None:
    assert PROCESSES[:5] == (VP(), VP("linear"), VP("sigmoid"), VE(), Flow())
    ddpm = PROCESSES[5]
    assert isinstance(ddpm, Table) and ddpm.steps == 1000
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    assert torch.allclose(ddpm.alphas_cumprod, (1 - betas).cumprod(0).cpu(), rtol=1e-4)


@EVERY
def test_the_prior_has_standard_deviation_sigma_1(process: Gaussian) -> None:
    found, z = process.prior((3, 4), Rng(0, 3)), Rng(0, 3).normal((3, 4))
    assert torch.allclose(found, (80.0 if isinstance(process, VE) else 1.0) * z, rtol=1e-4)


# records


def record() -> Noised:
    x0 = Rng(0, 4).normal((4, 3), F64)
    return VP().noise(x0, torch.tensor([0.2, 0.4, 0.6, 0.8]), Rng(1, 4), cond=torch.tensor([5, 6, 7, 8]))


def test_take_keeps_the_time_of_each_item_and_the_order() -> None:
    whole, some = record(), record().take(torch.tensor([3, 0, 2]))
    for name in ("x0", "xt", "t", "z", "cond"):
        assert torch.equal(getattr(some, name), getattr(whole, name)[[3, 0, 2]]), name
    assert some.process == whole.process == VP()


def test_take_accepts_booleans() -> None:
    whole, some = record(), record().take(torch.tensor([True, False, True, False]))
    assert torch.equal(some.t, whole.t[[0, 2]]) and torch.equal(some.xt, whole.xt[[0, 2]])


def test_take_without_a_condition() -> None:
    noised = VP().noise(torch.zeros(3, 2), 0.5, Rng(0, 3))
    assert noised.cond is None and noised.take(torch.tensor([1])).cond is None


@EVERY
def test_one_time_for_all_is_expanded(process: Gaussian) -> None:
    noised = process.noise(torch.zeros(3, 2), 0.3, Rng(0, 3))
    assert noised.t.tolist() == [0.3] * 3 and noised.t.dtype == F64


# steps


@EVERY
def test_a_bridge_is_ancestral_by_default(process: Gaussian) -> None:
    x, x0 = torch.ones(2, 3, dtype=F64), torch.zeros(2, 3, dtype=F64)
    told = process.bridge(x, x0, 0.8, 0.3, Rng(0, 2), eta=1.0)
    assert torch.equal(process.bridge(x, x0, 0.8, 0.3, Rng(0, 2)), told)
    assert all(torch.equal(a, b) for a, b in zip(process.shares(0.8, 0.3), process.shares(0.8, 0.3, 1.0), strict=True))
    mean, fresh = process.kernel(x, x0, 0.8, 0.3)
    known, right = process.kernel(x, x0, 0.8, 0.3, 1.0)
    assert torch.equal(mean, known) and float(fresh) == float(right) > 0


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_an_eta_outside_0_to_1_is_refused(eta: float) -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"runs from 0 \(deterministic\) to 1 \(ancestral\)"):
        VP().bridge(x, x, 0.5, 0.2, Rng(0, 2), eta=eta)


def test_a_step_to_the_same_time_is_refused() -> None:
    x = torch.zeros(2, 3)
    for t, s in ((0.5, 0.5), (torch.tensor([0.5, 0.6]), torch.tensor([0.2, 0.6]))):
        with pytest.raises(ValueError, match="s < t"):
            VP().bridge(x, x, t, s, Rng(0, 2))


def test_a_deterministic_step_draws_no_number() -> None:
    rng = Rng(0, 2)
    VP().bridge(torch.ones(2, 3), torch.zeros(2, 3), 0.5, 0.2, rng, eta=0)
    assert rng.draws == 0


@EVERY
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_the_coefficients_of_a_step_give_its_marginal(process: Gaussian, eta: float) -> None:
    """For x0: of_x0 + of_xt alpha_t = alpha_s. For the noise: (of_xt sigma_t)^2 + of_noise^2 = sigma_s^2."""
    clean, kept, fresh = process.shares(0.7, 0.2, eta)
    assert float(clean + kept * process.alpha(0.7)) == pytest.approx(float(process.alpha(0.2)), rel=1e-12)
    total = float((kept * process.sigma(0.7)) ** 2 + fresh**2)
    assert total == pytest.approx(float(process.sigma(0.2)) ** 2, rel=1e-10)


@EVERY
def test_the_fresh_noise_of_a_step_is_eta_times_that_of_the_true_reverse_law(process: Gaussian) -> None:
    """v = sigma_s^2 (1 - snr_t / snr_s)."""
    ratio = float((process.logsnr(0.7) - process.logsnr(0.2)).exp())
    right = float(process.sigma(0.2)) * math.sqrt(1 - ratio)
    for eta in (0.25, 1.0):
        assert float(process.shares(0.7, 0.2, eta)[2]) == pytest.approx(eta * right, rel=1e-10)


@EVERY
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_scalar_times_and_times_per_item_give_the_same_step(process: Gaussian, eta: float) -> None:
    x, x0 = Rng(0, 3).normal((3, 2), F64), Rng(1, 3).normal((3, 2), F64)
    clean, kept, fresh = (float(part) for part in process.shares(0.7, 0.2, eta))
    right = kept * x + clean * x0 + fresh * Rng(2, 3).normal((3, 2), F64)
    times = [torch.full((3,), time, dtype=F64) for time in (0.7, 0.2)]
    for t, s in ((0.7, 0.2), times):
        assert torch.allclose(process.bridge(x, x0, t, s, Rng(2, 3), eta=eta), right, rtol=1e-10)


@EVERY
@pytest.mark.parametrize("t, s", [(0.7, 0.2), (0.2, 0.7)])
def test_a_transfer_keeps_x0_and_the_noise(process: Gaussian, t: float, s: float) -> None:
    """x_t = alpha_t x0 + sigma_t z goes to x_s = alpha_s x0 + sigma_s z, in both directions."""
    x0, z = Rng(0, 3).normal((3, 2), F64), Rng(1, 3).normal((3, 2), F64)
    here, there = (process.alpha(time) * x0 + process.sigma(time) * z for time in (t, s))
    assert torch.allclose(process.transfer(here, x0, t, s), there, rtol=1e-10)


def test_noise_has_the_dtype_of_x0_and_grids_are_float64() -> None:
    for dtype in (torch.float32, F64):
        noised = VP().noise(torch.zeros(3, 2, dtype=dtype), 0.5, Rng(0, 3))
        assert torch.equal(noised.z, Rng(0, 3).normal((3, 2), dtype))
    for grid in GRIDS:
        assert grid(VP(), 5).dtype == F64 and grid(VP(), 1).dtype == F64
    assert VP().grid(3).tolist() == torch.linspace(1, 0, 4, dtype=F64).tolist()


# tables


def test_the_clock_of_a_table_ends_at_alpha_squared_2_to_the_minus_24() -> None:
    """Below it the clock is constant, so that it is finite at zero signal."""
    dark = Table(torch.tensor([0.5, 0.0], dtype=F64))
    assert float(dark.logsnr(1.0)) == pytest.approx(math.log(2.0**-24), rel=1e-12)
    assert float(dark.alpha(1.0)) == 0.0
    dim = Table(torch.tensor([0.5, 2.0**-22], dtype=F64))
    assert float(dim.logsnr(1.0)) == pytest.approx(math.log(2.0**-22), rel=1e-6)


@pytest.mark.parametrize("values", [[1.0, 0.5], [0.5, 0.5], [0.5, 0.6], [0.5, -0.1], [], [[0.5, 0.4]]], ids=str)
def test_an_invalid_table_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="falling, below 1 and not below 0"):
        Table(torch.tensor(values))


def test_a_float32_table_is_used_exactly() -> None:
    kept = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)
    t = torch.arange(1, 1001, dtype=F64) / 1000
    assert torch.equal(Table(kept).alpha(t), kept.double().sqrt())


def test_sigma_over_alpha_is_linear_between_integer_times() -> None:
    table = Table(torch.tensor([0.8, 0.4, 0.1], dtype=F64))
    ratio = [0.0, *(math.sqrt((1 - k) / k) for k in (0.8, 0.4, 0.1))]
    for place in (0.25, 1.5, 2.003, 2.75):
        low = int(place)
        right = ratio[low] + (place - low) * (ratio[low + 1] - ratio[low])
        assert float(table.sigma(place / 3) / table.alpha(place / 3)) == pytest.approx(right, rel=1e-12)
        assert float(table.time(-2 * math.log(right))) == pytest.approx(place / 3, rel=1e-12)


def test_a_table_has_a_slope_at_its_integer_times_too() -> None:
    table = Table(torch.tensor([0.8, 0.4, 0.1], dtype=F64))
    t = torch.tensor(2 / 3, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(table.alpha(t), t)
    assert float(slope) < 0


def test_times_beyond_the_table_are_clamped() -> None:
    table = Table(torch.tensor([0.8, 0.4, 0.1], dtype=F64))
    assert float(table.alpha(1.0)) ** 2 == pytest.approx(0.1) and float(table.alpha(0.0)) == 1.0
    assert float(table.time(-100.0)) == 1.0 and float(table.time(100.0)) == pytest.approx(0.0, abs=1e-12)


def test_the_repr_of_a_table() -> None:
    assert repr(Table(torch.tensor([0.8, 0.4, 0.125]))) == "Table(3 steps, alpha^2 from 0.8 to 0.125)"
