"""The laws of the noise: exact probabilities, draws, derivatives, tails."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.stats
import torch
from operator_list import F64, numbers
from torch import Tensor

from softmix.measure import GaussianNoise, PoissonNoise, RoundingNoise
from softmix.measure.noise import _poisson
from softmix.rng import Rng

NOISES = [GaussianNoise(0.3), PoissonNoise(5.0), PoissonNoise(400.0, dark=2.0), RoundingNoise(0.25, 0.2)]
each_noise = pytest.mark.parametrize("noise", NOISES, ids=repr)
N = 20_000


def drawn(noise: Any, value: float, n: int = N, dtype: torch.dtype = F64) -> Tensor:
    """n values of y for one value of A(x0)."""
    found: Tensor = noise.draw(torch.full((n, 1), value, dtype=dtype), Rng(0, n))
    return found[:, 0]


def values_of(noise: Any, low: float = -6.0, high: float = 6.0) -> Tensor:
    """The values that y can take, at least from low to high."""
    if isinstance(noise, RoundingNoise):
        return torch.arange(round(low / noise.step), round(high / noise.step) + 1).double() * noise.step
    last = int((1 + high) * noise.peak / 2 + 40)
    return (torch.arange(last).double() - noise.dark) * 2 / noise.peak - 1


@each_noise
@pytest.mark.parametrize("value", [-0.8, 0.1, 0.9])
def test_draws_have_the_mean_and_the_standard_deviation(noise: Any, value: float) -> None:
    """Within 4 standard errors. The sd of rounding is for a uniform error: at a scale of 0.8 steps within 0.1 %."""
    y = drawn(noise, value)
    sd = float(noise.sd(torch.tensor([value], dtype=F64)))
    assert float(y.mean()) == pytest.approx(value, abs=4 * sd / N**0.5)
    fourth = float(((y - y.mean()) / sd).pow(4).mean())
    assert float(y.var()) == pytest.approx(sd**2, rel=4 * ((fourth - 1) / N) ** 0.5 + 1e-3)


@pytest.mark.parametrize("noise", NOISES[1:], ids=repr)
@pytest.mark.parametrize("value", [-1.0, -0.3, 0.9])
def test_draws_have_the_probabilities_of_the_law(noise: Any, value: float) -> None:
    """A test of chi squared over the values with 5 expected draws and more, at the level 1e-4."""
    y, values = drawn(noise, value), values_of(noise)
    expected = N * noise.log_prob(values, torch.tensor(value, dtype=F64)).exp()
    unit = float(values[1] - values[0])
    place = ((y - values[0]) / unit).round().long()
    assert torch.allclose(values[place], y, atol=1e-9), "a draw is not among the values"
    seen = torch.bincount(place, minlength=len(values)).double()
    often = expected >= 5
    rest = torch.stack([N - seen[often].sum(), N - expected[often].sum()])
    statistic = float(
        ((seen - expected)[often] ** 2 / expected[often]).sum() + (rest[0] - rest[1]) ** 2 / (rest[1] + 1)
    )
    assert statistic < scipy.stats.chi2.isf(1e-4, int(often.sum()))


def test_gaussian_draws_have_the_law() -> None:
    statistic = scipy.stats.kstest(drawn(GaussianNoise(0.3), 0.2).cpu().numpy(), scipy.stats.norm(0.2, 0.3).cdf)
    assert statistic.pvalue > 1e-4


def test_the_gaussian_density_is_that_of_scipy() -> None:
    y, clean = numbers(50), numbers(50, seed=1)
    expected = scipy.stats.norm.logpdf(y.cpu(), clean.cpu(), 0.3)
    assert torch.allclose(GaussianNoise(0.3).log_prob(y, clean).cpu(), torch.from_numpy(expected), atol=1e-12)


@pytest.mark.parametrize("noise", NOISES[1:], ids=repr)
@pytest.mark.parametrize("value", [-1.2, -0.9, 0.13, 1.0])
def test_probabilities_of_all_values_sum_to_1(noise: Any, value: float) -> None:
    log_prob = noise.log_prob(values_of(noise), torch.tensor(value, dtype=F64))
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_the_probability_of_a_count_is_that_of_poisson() -> None:
    noise, clean = PoissonNoise(30.0, dark=0.5), torch.linspace(-1, 1, 7, dtype=F64)
    for count in (0, 1, 17, 300):
        y = torch.full_like(clean, (count - 0.5) * 2 / 30 - 1)
        expected = scipy.stats.poisson.logpmf(count, ((1 + clean) * 15 + 0.5).cpu().numpy())
        assert torch.allclose(noise.log_prob(y, clean).cpu(), torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


def test_the_probability_of_a_large_count_is_right_in_single_precision() -> None:
    """Terms of 1e7 cancel: in float32 the error would be about 1."""
    noise = PoissonNoise(1e6, dark=0.0)
    y, clean = torch.tensor([0.2014]), torch.tensor([0.2])
    count = float((1 + y.double()) * 5e5)
    mean = float((1 + clean.double()) * 5e5)
    expected = count * math.log(mean) - mean - math.lgamma(count + 1)
    assert float(noise.log_prob(y, clean)) == pytest.approx(expected, abs=1e-3)
    assert noise.log_prob(y, clean).dtype == torch.float32


def test_a_count_below_0_is_impossible_and_no_light_is_not() -> None:
    noise = PoissonNoise(10.0, dark=0.2)
    zero, less = (torch.tensor([(count - 0.2) / 5 - 1]) for count in (0.0, -1.0))
    # A(x0) below -1 counts as no light: exp(-dark) for a count of 0
    assert float(noise.log_prob(zero, torch.tensor([-3.0]))) == pytest.approx(-0.2, abs=1e-6)
    assert float(noise.log_prob(less, torch.tensor([0.5]))) == -math.inf


@each_noise
def test_the_derivative_of_the_log_density_is_that_of_differences(noise: Any) -> None:
    clean = torch.tensor([[-0.83, -0.2, 0.31, 0.97]], dtype=F64, requires_grad=True)
    y = noise.draw(clean.detach(), Rng(0, 1))
    assert torch.autograd.gradcheck(lambda x: noise.log_prob(y, x), clean)


@each_noise
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_tails_are_finite_with_a_finite_derivative(noise: Any, dtype: torch.dtype) -> None:
    """y of 1,000 and of 1e5 for A(x0) = 0, and of 0 for A(x0) far away."""
    y = torch.tensor([[1e3, 1e5, 0.0, 0.0]], dtype=dtype)
    clean = torch.tensor([[0.0, 0.0, 1e4, -1e4]], dtype=dtype, requires_grad=True)
    found = noise.log_prob(y, clean)
    (slope,) = torch.autograd.grad(found.sum(), clean)
    assert bool(found.isfinite().all()) and bool(slope.isfinite().all()) and bool((found < -10).all())


def test_the_tail_of_rounding_is_that_of_scipy() -> None:
    """log [Phi(b) - Phi(a)] at 30 standard deviations, by the logarithms of the tails."""
    noise = RoundingNoise(0.5, 0.1)
    found = float(noise.log_prob(torch.tensor([3.25], dtype=F64), torch.tensor([0.0], dtype=F64)))
    assert found == pytest.approx(float(scipy.stats.norm.logsf(30)), rel=1e-12)


def test_a_step_much_smaller_than_the_noise_has_the_density_times_the_step() -> None:
    noise, clean = RoundingNoise(1e-5, 0.3), torch.linspace(-1, 1, 9)
    expected = GaussianNoise(0.3).log_prob(torch.zeros(9), clean) + math.log(1e-5)
    assert torch.allclose(noise.log_prob(torch.zeros(9), clean), expected, atol=1e-5)


@each_noise
def test_a_draw_of_an_item_does_not_depend_on_its_batch(noise: Any) -> None:
    clean = numbers(5, 2, 3).tanh()
    whole = noise.draw(clean, Rng(1, 5))
    assert torch.equal(whole[3:4], noise.draw(clean[3:4], Rng(1, [3])))
    assert not torch.equal(whole, noise.draw(clean, Rng(2, 5)))


@each_noise
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dtype_and_device_are_kept(noise: Any, dtype: torch.dtype) -> None:
    clean = numbers(2, 3, dtype=dtype).tanh()
    y = noise.draw(clean, Rng(0, 2))
    for found in (y, noise.log_prob(y, clean), noise.sd(clean)):
        assert found.dtype == dtype and found.device == clean.device
    assert noise.log_prob(y, clean).shape == y.shape == clean.shape


@pytest.mark.parametrize("mean", [0.0, 1e-3, 0.5, 3.0, 80.0, 1e3, 1e4])
def test_the_count_at_a_quantile_is_that_of_scipy(mean: float) -> None:
    u = torch.tensor([2.0**-53, 1e-9, 0.02, 0.5, 0.98, 1 - 1e-9], dtype=F64)
    exact = torch.from_numpy(scipy.stats.poisson.ppf(u.cpu().numpy(), mean))
    assert torch.equal(_poisson(torch.full_like(u, mean), u).cpu(), exact)


@pytest.mark.parametrize("mean", [1.001e4, 3e4, 1e6])
def test_the_count_at_a_quantile_of_a_large_mean_is_that_of_scipy(mean: float) -> None:
    """Now and then a count beside it. Above 1e6 scipy is off in the tails."""
    u = torch.cat([torch.tensor([1e-12, 1e-9, 1 - 1e-9], dtype=F64), torch.linspace(0.001, 0.999, 997, dtype=F64)])
    exact = torch.from_numpy(scipy.stats.poisson.ppf(u.cpu().numpy(), mean))
    off = (_poisson(torch.full_like(u, mean), u).cpu() - exact).abs()
    assert float(off.max()) <= 1 and float(off.mean()) < 0.01


def test_counts_of_huge_means_are_normal() -> None:
    u = torch.tensor([2.0**-53, 0.02, 0.5, 0.98, 1 - 2.0**-53], dtype=F64)
    z = (_poisson(torch.full_like(u, 1e14), u) - 1e14) / 1e7
    assert torch.allclose(z, torch.special.ndtri(u), atol=1e-5)


def test_the_two_forms_of_a_count_meet() -> None:
    """On both sides of a mean of 1e4 the count of the same u differs by at most one."""
    u = torch.linspace(1e-6, 1 - 1e-6, 501, dtype=F64)
    below, above = (_poisson(torch.full_like(u, mean), u) for mean in (1e4, 1e4 + 1e-8))
    assert float((below - above).abs().max()) <= 1 and float((below != above).double().mean()) < 0.01


@pytest.mark.parametrize("mean", [1e-6, 0.01, 1.0, 10.0, 100.0, 1e3])
def test_the_largest_count_is_not_cut_off(mean: float) -> None:
    """Above it lies about the mass of the last cell of u, to the rounding of Q near 1."""
    u = torch.full((1,), 1 - 2.0**-53, dtype=F64)
    assert scipy.stats.poisson.sf(float(_poisson(torch.full_like(u, mean), u)), mean) < 4 * 2.0**-53


def test_a_mean_that_is_not_finite_gives_nan_and_leaves_the_others() -> None:
    noise = PoissonNoise(10.0)
    clean = torch.tensor([[0.5, torch.nan, torch.inf]])
    y = noise.draw(clean, Rng(0, 1))
    assert bool(y[0, 1:].isnan().all()) and float(y[0, 0]) == float(noise.draw(clean[:, :1], Rng(0, 1))[0, 0])
    assert noise.draw(torch.zeros(2, 0), Rng(0, 2)).shape == (2, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianNoise(0.0),
        lambda: GaussianNoise(math.inf),
        lambda: PoissonNoise(0.0),
        lambda: PoissonNoise(1.0, dark=-0.1),
        lambda: PoissonNoise(math.nan),
        lambda: RoundingNoise(0.0, 1.0),
        lambda: RoundingNoise(1.0, 0.0),
    ],
)
def test_noise_without_a_law_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="above 0"):
        make()
