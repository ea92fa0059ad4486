"""Shortest Path Diffusion: its path, its basis, and the lengths and energies of paths."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmix.data import DataError, load
from softmix.data.toys import ToyMixture
from softmix.oracle import MixtureProblem
from softmix.process import SPD, VP, ConstantSpeed, Flow, Gaussian, ShortestPath, fisher, fourier, spectrum_of
from softmix.process.spectrum import power_of_radii, radii
from softmix.rng import Rng
from softmix.sampler import ancestral, drive
from softmix.sampler.drive import finish

F64 = torch.float64
POWERS = torch.tensor([21498.0, 49.5, 1.5, 1.0, 1.0 + 1e-12, 0.785, 0.003], dtype=F64)
SIZES = pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 27, 28])


def fashion_power() -> Tensor:
    """The power of each complex frequency, of the first 4000 training images, centred."""
    try:
        x0 = load("fashion-mnist").x0(torch.arange(4000)).double()
    except DataError as error:
        pytest.skip(str(error))
    return torch.fft.fft2(x0 - x0.mean(0), norm="ortho").abs().square().mean((0, 1))


# the path


def test_the_variance_is_the_power_to_1_minus_t() -> None:
    process = ShortestPath(POWERS)
    for t in (0.0, 1e-6, 0.1, 0.5, 0.9, 1 - 1e-6):
        alpha, sigma = process.levels(t)
        right = POWERS ** (1 - t)
        assert torch.allclose((alpha**2 * POWERS + sigma**2)[0], right, rtol=1e-8 + 2.1e-9 * 21498 / float(right.min()))
    assert float(process.sigma(0.0).max()) == 0 and bool((process.alpha(0.0) == 1).all())


def test_a_power_of_1_has_noise_in_proportion_to_t_and_so_have_its_neighbours() -> None:
    process = ShortestPath(POWERS)
    share = process.sigma(0.3)[0] ** 2
    assert float(share[3]) == pytest.approx(0.3, rel=3e-9)
    assert float(share[4]) == pytest.approx(0.3, rel=3e-9)


def test_small_shares_of_noise_keep_their_digits() -> None:
    """sigma^2 = t u / (1 - S^-1) for small t, u = log S."""
    share = ShortestPath(POWERS).sigma(1e-12)[0] ** 2
    u = POWERS.log()
    right = torch.where(u.abs() < 1e-9, torch.ones_like(u), u / -torch.expm1(-u)) * 1e-12
    assert torch.allclose(share, right, rtol=1e-7)


def test_the_clock_is_that_of_the_noisiest_element_and_has_an_inverse() -> None:
    process, t = ShortestPath(POWERS), torch.linspace(1e-3, 1, 50, dtype=F64)
    each = process.element_logsnr(t)
    assert torch.allclose(process.logsnr(t), each.amin(1)) and bool((each.diff(dim=0) < 0).all())
    assert torch.allclose(process.time(process.logsnr(t)), t, rtol=1e-10)
    assert float(process.logsnr(1.0)) == pytest.approx(-20)
    even = ShortestPath(torch.ones(2, dtype=F64))
    assert torch.allclose(even.time(even.logsnr(t)), t, rtol=1e-10)


@pytest.mark.parametrize("bad", [torch.tensor([1.0, 0.0]), torch.tensor(2.0), torch.tensor([1.0, math.inf])])
def test_powers_are_above_0(bad: Tensor) -> None:
    for process in (ShortestPath, ConstantSpeed.of):
        with pytest.raises(ValueError, match="powers above 0"):
            process(bad)
    with pytest.raises(ValueError, match="all powers are 1"):
        ConstantSpeed((1.0, 1.0, 1.0))


# the basis


@SIZES
def test_the_waves_are_orthonormal_and_in_order(n: int) -> None:
    turn = fourier(n)
    assert turn.shape == (n, n) and torch.allclose(turn @ turn.T, torch.eye(n, dtype=F64), atol=1e-12)
    peaks = torch.fft.rfft(turn, dim=1).abs().argmax(1)
    assert torch.equal(peaks.double(), radii(n)[0])


@pytest.mark.parametrize("size", [7, 8])
def test_a_state_is_that_of_the_complex_fourier_transform(size: int) -> None:
    """The published form: each complex frequency with its own alpha and sigma, the real part of the inverse."""
    spectrum = tuple(50.0 / (1 + 3 * r) ** 2.5 for r in range(8))
    process, t = SPD(spectrum, size), 0.4
    x0, z = Rng(0, 3, "x0").normal((3, 2, size, size), F64), Rng(0, 3, "z").normal((3, 2, size, size), F64)
    k = torch.fft.fftfreq(size, 1 / size, dtype=F64)
    at = (k[:, None] ** 2 + k**2).sqrt()
    logs = torch.tensor(spectrum, dtype=F64).log()
    low = at.floor().long().clamp(max=len(logs) - 2)
    power = (logs[low] + (at - low) * (logs[low + 1] - logs[low])).exp()
    alpha2 = (1 - power ** (1 - t)) / (1 - power)
    mixed = alpha2.sqrt() * torch.fft.fft2(x0) + (1 - alpha2).sqrt() * torch.fft.fft2(z)
    right = torch.fft.ifft2(mixed).real
    found = process.leave(process.base.state(process.enter(x0, 0.0), t, process.enter(z, 0.0)), t)
    assert torch.allclose(found, right, atol=1e-6)


def test_the_power_is_that_of_the_spectrum_at_whole_radii() -> None:
    spectrum = tuple(float(9 - r) for r in range(8))
    power = power_of_radii(spectrum, 8)
    assert torch.allclose(power[0], torch.tensor([9.0, 8, 8, 7, 7, 6, 6, 5], dtype=F64))
    between = math.exp(math.log(8) + (math.sqrt(2) - 1) * math.log(7 / 8))
    assert float(power[1, 2]) == pytest.approx(between)
    with pytest.raises(ValueError, match="a spectrum of 7 numbers above 0 was expected for images of 8 x 8"):
        SPD(spectrum[:6], 8)


def test_the_spectrum_of_images_with_a_known_one_is_found() -> None:
    spectrum = tuple(50.0 / (1 + r) ** 2 for r in range(9))
    turn, n = fourier(11), 4000
    power = power_of_radii(spectrum, 11)
    x0 = turn.T @ (power.sqrt() * Rng(0, n).normal((n, 1, 11, 11), F64)) @ turn + 0.3
    found = torch.tensor(spectrum_of(x0), dtype=F64)
    for radius in range(8):
        inside = power.log()[(radii(11) - radius).abs() <= 0.5]
        # the standard error of one power is 2.2 %
        assert float(found[radius].log()) == pytest.approx(float(inside.mean()), abs=0.1 / len(inside) ** 0.5)
    with pytest.raises(ValueError, match="square images"):
        spectrum_of(torch.zeros(2, 3, 4))


# lengths and energies


def test_the_published_figures_of_fashion_mnist() -> None:
    """One schedule for all is 4 % longer, and at constant speed it costs 8 % more energy."""
    power = fashion_power()
    length, energy = fisher(ShortestPath(power), power)
    assert length == pytest.approx(65.6482, abs=2e-3) and energy == pytest.approx(4309.69, rel=1e-4)
    same, constant = fisher(ConstantSpeed.of(power), power)
    assert same == pytest.approx(68.3376, abs=2e-3) and constant == pytest.approx(4670.03, rel=2e-4)
    for process, found in ((VP(), 7367.96), (VP("linear"), 14293.78), (Flow(), 5585.56)):
        assert fisher(process, power)[1] == pytest.approx(found, rel=2e-4)


def test_constant_speed_is_constant_and_has_an_inverse() -> None:
    process = ConstantSpeed.of(POWERS[1:])
    t = torch.linspace(0.01, 0.99, 99, dtype=F64)
    assert torch.allclose(process.time(process.logsnr(t)), t, atol=1e-9)
    variance = process.alpha(t)[:, None] ** 2 * POWERS[1:] + process.sigma(t)[:, None] ** 2
    speed = variance.log().diff(dim=0).square().sum(1).sqrt()
    assert float(speed.max() / speed.min()) < 1.01
    assert float(process.sigma(0.0)) == 0 and float(process.logsnr(1.0)) == pytest.approx(-20)


# its law


@pytest.mark.parametrize("steps", [1, 4])
def test_draws_of_the_exact_posterior_have_the_law_of_the_data(steps: int) -> None:
    """Gaussian images of a known spectrum: the power of samples at each element, in standard errors over 4,000."""
    spectrum, size, n = tuple(20.0 / (1 + r) ** 2 for r in range(5)), 5, 4000
    process = SPD(spectrum, size)
    power = power_of_radii(spectrum, size).flatten()
    law = ToyMixture("waves", torch.ones(1, dtype=F64), torch.zeros(1, size**2, dtype=F64), power.sqrt().diag()[None])
    exact = MixtureProblem("waves", law, process.base, (1, size, size)).denoiser()
    noise = process.prior((n, 1, size, size), Rng(0, n)).double()
    end = finish(drive(exact, ancestral, process.enter(noise, 1.0), process.grid(steps), Rng(1, n)))
    ratio = end.flatten(1).square() / power - 1
    assert float((ratio.mean(0) / ratio.std(0)).abs().max()) * math.sqrt(n) < 4.2


def test_a_gaussian_of_one_schedule_is_not_the_shortest_path() -> None:
    process: Gaussian = VP()
    assert fisher(process, POWERS[1:4])[0] > fisher(ShortestPath(POWERS[1:4]), POWERS[1:4])[0]
