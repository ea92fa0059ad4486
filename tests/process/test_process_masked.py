"""The masking process: its schedule, its marginals, its bridge, and the errors that it raises."""

from __future__ import annotations

import math

import pytest
import torch

from softmix.process import Masked
from softmix.process.gaussian import slope
from softmix.process.masked import MaskSchedule
from softmix.rng import Rng

pytestmark = pytest.mark.usefixtures("on_device")
F64 = torch.float64
SCHEDULES: tuple[MaskSchedule, ...] = ("linear", "cosine")
EVERY = pytest.mark.parametrize("schedule", SCHEDULES)
N = 40_000


@EVERY
def test_the_clock_and_its_inverses(schedule: MaskSchedule) -> None:
    process, t = Masked(4, schedule), torch.linspace(0.01, 0.99, 50, dtype=F64)
    assert float(process.alpha(0.0)) == 1 and float(process.alpha(1.0)) == pytest.approx(0, abs=1e-15)
    assert torch.allclose(process.time(process.logsnr(t)), t)
    assert torch.allclose(process.time_of_share(1 - process.alpha(t)), t)
    assert torch.allclose(process.logsnr(t).sigmoid(), process.alpha(t))
    assert float(process.logsnr(0.0)) == math.inf and float(process.time(-math.inf)) == 1


@EVERY
def test_the_rate_is_the_derivative_of_the_schedule(schedule: MaskSchedule) -> None:
    process, t = Masked(4, schedule), torch.linspace(0.01, 0.99, 50, dtype=F64)
    by_hand = -slope(process.alpha, t) / (1 - process.alpha(t))
    assert torch.allclose(process.unmasking_rate(t), by_hand)


def test_the_schedules_are_those_of_the_papers() -> None:
    """alpha = 1 - t, and 1 - cos(pi (1 - t) / 2)."""
    t = torch.tensor([0.0, 0.2, 0.7], dtype=F64)
    assert torch.allclose(Masked(4).alpha(t), 1 - t)
    assert torch.allclose(Masked(4, "cosine").alpha(t), 1 - (math.pi / 2 * (1 - t)).cos())


@EVERY
@pytest.mark.parametrize("places", [(), (5,), (3, 2)])
def test_tokens_of_any_shape_are_masked_with_the_share_of_their_time(
    schedule: MaskSchedule, places: tuple[int, ...], device: torch.device
) -> None:
    """Half of the items at one time, half at another: within 5 standard errors."""
    process, x0 = Masked(3, schedule), torch.arange(N, device=device).remainder(3)
    x0 = x0.reshape(-1, *(1,) * len(places)).expand(N, *places)
    t = torch.tensor([0.3, 0.8], dtype=F64, device=device).repeat_interleave(N // 2)
    noised = process.noise(x0, t, Rng(0, N, device=device))
    hidden = noised.xt == 3
    assert torch.equal(noised.z, hidden) and torch.equal(noised.xt[~hidden], x0[~hidden])
    for half, time in ((hidden[: N // 2], 0.3), (hidden[N // 2 :], 0.8)):
        share = float(1 - process.alpha(time))
        assert abs(float(half.double().mean()) - share) < 5 * (share * (1 - share) / half.numel()) ** 0.5


def test_places_are_masked_independently() -> None:
    """The covariance of two places is 0 to within 5 standard errors, and items do not share their masks."""
    hidden = Masked(3).noise(torch.zeros(N, 2, dtype=torch.int64), 0.4, Rng(0, N)).z.double()
    apart = hidden - hidden.mean(0)
    assert abs(float((apart[:, 0] * apart[:, 1]).mean())) < 5 * 0.24 / N**0.5
    assert 0.2 < float(hidden[:, 0].std()) < 0.6


@EVERY
def test_a_step_back_gives_the_marginal_of_the_earlier_time(schedule: MaskSchedule) -> None:
    """Visible tokens stay, and the share of masks is that of s; each item has a time of its own."""
    process, x0 = Masked(3, schedule), torch.ones(N, 4, dtype=torch.int64)
    t = torch.tensor([0.6, 0.95], dtype=F64).repeat_interleave(N // 2)
    s = torch.tensor([0.3, 0.5], dtype=F64).repeat_interleave(N // 2)
    xt = process.noise(x0, t, Rng(0, N)).xt
    # at visible places the estimate of x_0 has no effect
    xs = process.bridge(xt, torch.where(xt == 3, x0, 0), t, s, Rng(1, N))
    assert torch.equal(xs[xt != 3], xt[xt != 3]) and bool(((xs == 1) | (xs == 3)).all())
    for half, time in ((xs[: N // 2], 0.3), (xs[N // 2 :], 0.5)):
        share = float(1 - process.alpha(time))
        assert abs(float((half == 3).double().mean()) - share) < 5 * (share * (1 - share) / half.numel()) ** 0.5


def test_a_step_to_zero_unmasks_every_token() -> None:
    x0 = torch.arange(30).reshape(10, 3) % 3
    for schedule in SCHEDULES:
        process = Masked(3, schedule)
        assert torch.equal(process.bridge(process.prior((10, 3), Rng(0, 10)), x0, 1.0, 0.0, Rng(0, 10)), x0)


def test_an_item_does_not_depend_on_its_batch() -> None:
    process, x0 = Masked(3), torch.arange(28).reshape(7, 4) % 3
    whole = process.noise(x0, 0.5, Rng(0, 7)).xt
    back = process.bridge(whole, x0, 0.5, 0.2, Rng(1, 7))
    for k in range(7):
        one = process.noise(x0[k : k + 1], 0.5, Rng(0, [k])).xt
        assert torch.equal(one[0], whole[k])
        assert torch.equal(process.bridge(one, x0[k : k + 1], 0.5, 0.2, Rng(1, [k]))[0], back[k])


def test_the_prior_is_all_masks(device: torch.device) -> None:
    x = Masked(5).prior((2, 3), Rng(0, 2, device=device))
    assert x.dtype == torch.int64 and x.device.type == device.type and bool((x == 5).all())


def test_the_number_of_symbols_comes_from_the_data_once() -> None:
    assert Masked().of(7) == Masked(7) == Masked(7).of(7)
    assert Masked(schedule="cosine").of(7).schedule == "cosine"
    with pytest.raises(ValueError, match=r"Masked\(symbols=4.* is for 4 symbols, and the data have 7"):
        Masked(4).of(7)


def test_wrong_settings_and_states_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'sigmoid'.*linear, cosine"):
        Masked(3, "sigmoid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="-1 symbols"):
        Masked(-1)
    with pytest.raises(ValueError, match=r"no symbols yet.*Masked\(symbols=65\)"):
        Masked().prior((1, 2), Rng(0, 1))
    process, x = Masked(3), torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"whole numbers from 0 to 2; found torch.float32"):
        process.noise(x.float(), 0.5, Rng(0, 1))
    with pytest.raises(ValueError, match=r"eta = 0.*no share of fresh noise"):
        process.bridge(x, x, 0.5, 0.2, Rng(0, 1), eta=0.0)
    with pytest.raises(ValueError, match="s < t"):
        process.bridge(x, x, 0.5, 0.5, Rng(0, 1))
