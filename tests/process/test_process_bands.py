"""Non-uniform diffusion: Haar bands, the ends of their schedules, coarse processes, and the signal that is lost."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from softmix.config import from_json, to_json
from softmix.oracle import FramedProblem, correlated, gaussian, ks, order, standardised
from softmix.process import (
    VE,
    VP,
    EarlyNoise,
    Flow,
    Gaussian,
    InBasis,
    NonUniform,
    PerElement,
    band_of,
    from_pyramid,
    haar,
    karras,
    pyramid,
    terminal_kl,
    uniform,
)
from softmix.rng import Rng
from softmix.sampler import Sampler, adams, ancestral, ddim, drive, heun, sample, traits
from softmix.sampler.drive import finish
from softmix.train import Denoise, Times

F64 = torch.float64
pytestmark = pytest.mark.usefixtures("on_device")
EACH = pytest.mark.parametrize("each", [VP(), VP("linear"), VE(low=0.01, high=200.0), Flow()], ids=str)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Rng(seed, shape[0], "test").normal(shape, F64).to(torch.zeros(()).device)


# the transform


def test_the_bands_of_one_square_of_pixels() -> None:
    x = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]], dtype=F64)
    sums = (1 + 2 + 4 + 8, 1 - 2 + 4 - 8, 1 + 2 - 4 - 8, 1 - 2 - 4 + 8)
    assert pyramid(x, 1).flatten().tolist() == [each / 2 for each in sums]


@pytest.mark.parametrize(("size", "levels"), [((2, 2), 1), ((8, 8), 3), ((28, 20), 2), ((3, 5), 0), ((12, 4), 2)])
def test_the_pyramid_is_orthogonal_and_its_corner_holds_means(size: tuple[int, int], levels: int) -> None:
    x = normal(3, 2, *size)
    y = pyramid(x, levels)
    assert torch.allclose(from_pyramid(y, levels), x, atol=1e-13)
    # products with other images stay
    assert torch.allclose(y.flatten(1) @ y.flatten(1).T, x.flatten(1) @ x.flatten(1).T, atol=1e-11)
    side = 2**levels
    assert torch.allclose(y[..., : size[0] // side, : size[1] // side], side * avg_pool2d(x, side), atol=1e-13)


def test_each_scale_of_an_image_is_in_its_own_band() -> None:
    """Images that vary between squares of side 2^l alone have coefficients in band l alone."""
    bands = band_of((16, 16), 3)
    assert [int((bands == band).sum()) for band in range(4)] == [192, 48, 12, 4]
    for level in range(3):
        square = normal(5, 1, 16 >> level, 16 >> level)
        square = square - avg_pool2d(square, 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
        x = square.repeat_interleave(2**level, -1).repeat_interleave(2**level, -2)
        energy = [float(pyramid(x, 3)[..., bands == band].square().sum()) for band in range(4)]
        assert energy[level] == pytest.approx(float(x.square().sum()))
        assert sum(energy) == pytest.approx(energy[level])


def test_the_transform_keeps_the_dtype_and_has_a_derivative() -> None:
    x = normal(2, 1, 4, 4).float().requires_grad_()
    y = pyramid(x, 2)
    assert y.dtype == torch.float32
    (slope,) = torch.autograd.grad(y.square().sum() / 2, x)
    assert torch.allclose(slope, x, atol=1e-6)


@pytest.mark.parametrize(("n", "levels"), [(1, 0), (2, 1), (8, 3), (28, 2), (6, 1)])
def test_the_matrix_of_one_axis_is_orthogonal_with_means_first(n: int, levels: int) -> None:
    turn, side = haar(n, levels), 2**levels
    assert torch.allclose(turn @ turn.T, torch.eye(n, dtype=F64, device="cpu"), atol=1e-14)
    x = torch.arange(n, dtype=F64, device="cpu") ** 2
    assert torch.allclose((turn @ x)[: n // side], x.reshape(-1, side).mean(1) * math.sqrt(side))
    with pytest.raises(ValueError, match=f"{levels + 3} Haar levels halve an axis .* its size is {n}"):
        haar(n, levels + 3)


def test_one_level_of_the_pyramid_is_the_matrix_on_both_axes_and_two_levels_are_not() -> None:
    """Two matrices would mix the bands of different levels, so that none could be dropped."""
    x = normal(3, 1, 8, 12).cpu()
    basis = InBasis(VP(), (haar(8, 1), haar(12, 1)))
    assert torch.allclose(basis.enter(x, 0.5), pyramid(x, 1), atol=1e-14)
    assert not torch.allclose(InBasis(VP(), (haar(8, 2), haar(12, 2))).enter(x, 0.5), pyramid(x, 2), atol=1e-2)


# the schedules


def early(each: Gaussian = VP(), last: float = -6.0, gain: float = 1.0) -> EarlyNoise:  # noqa: B008
    return EarlyNoise(each, torch.tensor([0.25, 0.6, 1.0], dtype=F64), last, gain)


@EACH
def test_an_element_is_noise_at_its_end(each: Gaussian) -> None:
    process = early(each)
    for element, end in enumerate((0.25, 0.6)):
        assert float(process.element_logsnr(end)[0, element]) == pytest.approx(-6, abs=1e-9)
        # at a share of its end it is as the base at this share of c
        c = float(each.time(-6.0))
        assert float(process.alpha(end / 3)[0, element]) == pytest.approx(float(each.alpha(c / 3)))
    t = torch.linspace(0.01, 1, 30, dtype=F64)
    assert torch.allclose(process.element_logsnr(t)[:, 2], each.logsnr(t), rtol=1e-12)
    assert torch.allclose(process.sigma(t)[:, 2], each.sigma(t)) and process.sigma(t).shape == (30, 3)


@EACH
def test_the_signal_of_every_element_falls_from_1_to_that_of_the_base(each: Gaussian) -> None:
    process, t = early(each), torch.linspace(0, 1, 401, dtype=F64)
    logsnr = process.element_logsnr(t)
    assert bool((logsnr.diff(dim=0)[1:] < 0).all()) and bool((logsnr[0] == math.inf).all())
    assert bool((process.alpha(0.0) == 1).all()) and float(process.sigma(0.0).abs().max()) == 0
    assert torch.allclose(logsnr[-1, 2], each.logsnr(1.0).to(logsnr), rtol=1e-9)
    # behind its end an element has no more noise, and its logsnr is the tangent at the end
    assert torch.allclose(process.sigma(1.0)[0, :2], process.sigma(0.6)[0, 1])
    h = 1e-5
    before = (-6 - process.element_logsnr(0.6 - h)[0, 1]) / h
    assert float(process.element_logsnr(0.9)[0, 1]) == pytest.approx(-6 + 0.3 * float(before), rel=1e-3)
    assert torch.allclose(logsnr[1:], 2 * (process.alpha(t) / process.sigma(t)).log()[1:], atol=1e-9)


@EACH
def test_the_clock_is_the_mean_share_of_signal_and_has_an_inverse(each: Gaussian) -> None:
    process, t = early(each), torch.linspace(1e-3, 1, 60, dtype=F64)
    shares = torch.sigmoid(process.element_logsnr(t)).mean(1)
    assert torch.allclose(process.logsnr(t), torch.logit(shares), atol=1e-6)
    assert torch.allclose(process.time(process.logsnr(t)), t, atol=1e-7)
    assert process.logsnr(0.5).ndim == 0 and float(process.logsnr(0.0)) == math.inf


def test_the_clock_moves_with_the_last_element_at_high_noise_and_with_the_first_at_low_noise() -> None:
    """Near t = 1 its share of signal is a third of the last one's; near t = 0 its share of noise is a mean of three."""
    process = early(last=-10.0)
    for t in (0.75, 0.9):
        share = torch.sigmoid(VP().logsnr(t)) / 3
        assert float(process.logsnr(t)) == pytest.approx(float(torch.logit(share)), abs=0.01)
    shares = [float(math.pi / 2 * 0.01 * process._reached / end) ** 2 for end in (0.25, 0.6)]
    noise = (sum(shares) + (math.pi / 2 * 0.01) ** 2) / 3
    assert float(process.logsnr(0.01)) == pytest.approx(-math.log(noise), abs=0.01)


def test_many_elements_of_one_end_count_once_in_the_clock() -> None:
    many = EarlyNoise(VP(), torch.tensor([0.25] * 9 + [1.0], dtype=F64))
    few_ends = EarlyNoise(VP(), torch.tensor([0.25, 1.0], dtype=F64))
    t = torch.linspace(0.01, 1, 9, dtype=F64)
    assert torch.equal(many.logsnr(t), few_ends.logsnr(t))


@EACH
def test_rates_are_the_slopes_of_alpha_and_sigma(each: Gaussian) -> None:
    process, h = early(each, gain=4.0), 1e-6
    for t in (0.1, 0.24, 0.3, 0.59, 0.7, 0.9):
        for part, rate in zip((process.alpha, process.sigma), process.rates(t), strict=True):
            slope = (part(t + h) - part(t - h)) / (2 * h)
            assert torch.allclose(rate, slope, rtol=1e-4, atol=1e-4 * float(part(t).max()))
    assert all(bool(rate.isfinite().all()) for rate in process.rates(torch.ones(2, dtype=F64)))


def test_a_gain_divides_the_noise_alone() -> None:
    plain, loud = early(), early(gain=4.0)
    t = torch.tensor([0.1, 0.7], dtype=F64)
    assert torch.equal(plain.alpha(t), loud.alpha(t)) and torch.allclose(plain.sigma(t), 4 * loud.sigma(t))
    assert torch.allclose(loud.element_logsnr(t), plain.element_logsnr(t) + math.log(16))
    assert torch.allclose(loud.time(loud.logsnr(t)), t)
    assert float(loud.prior((4000, 3), Rng(0, 4000)).std()) == pytest.approx(0.25, rel=0.02)


def test_wrong_ends_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ends above 0 and at most 1 .* found \[0.0, 1.0\]"):
        EarlyNoise(VP(), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="ends above 0 and at most 1"):
        EarlyNoise(VP(), torch.tensor(0.5))
    with pytest.raises(ValueError, match="noise at logsnr = -30, and VP ends at -20"):
        EarlyNoise(VP(), torch.tensor([0.5]), last=-30.0)
    with pytest.raises(ValueError, match="divided by the gain, a number above 0; found 0"):
        EarlyNoise(VP(), torch.tensor([0.5]), gain=0.0)
    with pytest.raises(ValueError, match="EarlyNoise has a schedule for each element already"):
        EarlyNoise(early(), torch.tensor([0.5]))


# the process of images


def test_the_ends_are_in_equal_steps_and_each_band_has_its_own() -> None:
    process = NonUniform((8, 8), 2)
    assert process.ends == (1 / 3, 2 / 3, 1.0)
    bands = band_of((8, 8), 2)
    for band, end in enumerate((1 / 3, 2 / 3)):
        at_end = process.base.element_logsnr(end)[0, 0].to(bands.device)
        assert torch.allclose(at_end[bands == band], torch.full((), -10.0, dtype=F64, device=bands.device))
        assert float(at_end[bands > band].min()) > -5


def test_white_noise_stays_white() -> None:
    """Variances and correlations of 4,000 pure noises, in standard errors."""
    x = NonUniform((4, 4), 2).prior((4000, 1, 4, 4), Rng(0, 4000)).flatten(1)
    covariance = x.T @ x / 4000 - torch.eye(16)
    assert float(covariance.abs().max()) * math.sqrt(4000) < 5


@pytest.mark.parametrize("levels", [1, 2, 3])
@EACH
def test_the_means_of_a_state_are_a_state_of_the_coarse_process(levels: int, each: VP | VE | Flow) -> None:
    process = NonUniform((8, 16), 3, each=each, last=-7.0)
    coarse, side = process.coarse(levels), 2**levels
    assert coarse.size == (8 // side, 16 // side) and coarse.ends == process.ends[levels:]
    x0, z = normal(3, 2, 8, 16), pyramid(normal(3, 2, 8, 16, seed=1), 3)
    for t in (0.05, 0.4, 0.8, 1.0):
        xt = process.state(x0, t, z)
        own = z[..., : 8 // side, : 16 // side]
        right = coarse.state(avg_pool2d(x0, side), t, own)
        assert torch.allclose(avg_pool2d(xt, side), right, atol=1e-10)
    # and so are two halvings, or none
    assert process.coarse(1).coarse(levels - 1) == coarse and process.coarse(0) == process


def test_bands_that_are_not_the_first_to_be_noise_are_not_dropped() -> None:
    with pytest.raises(ValueError, match="2 bands were to be dropped, of 1 detail bands"):
        NonUniform((4, 4), 1).coarse(2)
    for ends in ((0.6, 0.3, 1.0), (0.3, 0.3, 1.0)):
        with pytest.raises(ValueError, match="dropped from the finest on, and their ends have to rise"):
            NonUniform((4, 4), 2, ends).coarse(1)
    with pytest.raises(ValueError, match="a band that stays ends before one that is dropped"):
        NonUniform((8, 8), 3, (0.5, 0.6, 0.4, 1.0)).coarse(1)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 Haar levels halve each side .* the size is 28 x 6"):
        NonUniform((28, 6), 2)
    with pytest.raises(ValueError, match="3 ends were expected"):
        NonUniform((4, 4), 2, (0.5, 1.0))
    with pytest.raises(ValueError, match="the largest 1"):
        NonUniform((4, 4), 1, (0.5, 0.9))
    with pytest.raises(ValueError, match=r"VE ends at -8\.76"):
        NonUniform((4, 4), 1, each=VE(low=0.01, high=80.0))
    with pytest.raises(ValueError, match=r"images of 4 x 4 were asked for, and the items have the shape \[1, 8, 8\]"):
        NonUniform((4, 4), 1).enter(torch.zeros(1, 1, 8, 8), 0.0)


def test_it_stands_in_a_configuration() -> None:
    task = Denoise(process=NonUniform((8, 8), 2, (0.2, 0.5, 1.0), -9.0, Flow(), 2.0), output="x0")
    assert from_json(Denoise, to_json(task)) == task
    times = Times(low=0.2, high=0.5)
    assert from_json(Times, to_json(times)) == times


# the signal that is lost


def test_the_lost_signal_is_the_divergence_of_two_gaussians() -> None:
    """Of data with independent coefficients: against the formula of torch.distributions, element by element."""
    process = NonUniform((4, 4), 2, (0.4, 0.7, 1.0), last=-2.0)
    y = normal(5000, 1, 4, 4) * torch.linspace(0.1, 4, 16, dtype=F64).reshape(4, 4) + 0.3
    found, bands = terminal_kl(process, from_pyramid(y, 2)), band_of((4, 4), 2)
    law = torch.distributions.Normal
    for band, end in enumerate((0.4, 0.7)):
        alpha, sigma = (part[0, 0][bands == band].to(y) for part in process.base.levels(end))
        here = y[:, 0, (bands == band).to(y.device)]
        spread = (alpha**2 * here.var(0, correction=0) + sigma**2).sqrt()
        nats = torch.distributions.kl_divergence(law(alpha * here.mean(0), spread), law(0 * sigma, sigma)).sum()
        assert found[band] == pytest.approx(float(nats), rel=1e-9) and found[band] > 0.01


def test_a_lower_last_loses_less_signal() -> None:
    x0 = normal(200, 1, 8, 8) + 0.5
    lost = [terminal_kl(NonUniform((8, 8), 1, last=last), x0)[0] for last in (-2.0, -6.0, -10.0)]
    # the divergence of little signal is snr^2 S^2 / 4 for centred elements, and snr m^2 / 2 for their mean
    assert lost[0] > 10 * lost[1] > 100 * lost[2] > 0


# laws and orders


@pytest.mark.parametrize("steps", [1, 3, 7])
@pytest.mark.parametrize("each", [VP(), Flow()], ids=str)
def test_draws_of_the_exact_posterior_have_the_law_of_the_data(steps: int, each: VP | Flow) -> None:
    """sqrt(N) KS and moments of 1000 images of a mixture."""
    problem = FramedProblem(correlated((1, 4, 4)), NonUniform((4, 4), 2, each=each))
    x = sample(problem.denoiser(), 1000, steps, sampler=ancestral, seed=steps, batch=1000)
    assert ks(x, problem.problem.law) < 2.2 and standardised(x, problem.problem.law) < 4.9


def test_a_basis_that_is_not_undone_fails_the_comparison() -> None:
    """The exact denoiser of the frame, asked with states of pixels."""
    problem = FramedProblem(correlated((1, 4, 4)), NonUniform((4, 4), 2))
    wrong = problem.inside().denoiser()
    x = sample(wrong, 1000, 3, sampler=ancestral, batch=1000)
    assert ks(x, problem.problem.law) > 3


@cache
def end_of(sampler: Sampler, n: int) -> Tensor:
    problem = FramedProblem(gaussian((1, 2, 2)), NonUniform((2, 2), 1))
    x, times = normal(8, 1, 2, 2), karras(problem.process, n)
    return finish(drive(problem.denoiser(), sampler, x, times, Rng(0, 8)))


@pytest.mark.parametrize(("sampler", "counts"), [(ddim, (32, 64)), (adams, (60, 120)), (heun, (32, 64))])
def test_solvers_keep_their_order(sampler: Sampler, counts: tuple[int, int]) -> None:
    """The end of the ODE against that of 400 steps of adams. Measured: 0.98, 3.1 and 2.09."""
    errors = [float((end_of(sampler, n) - end_of(adams, 400)).square().mean().sqrt()) for n in counts]
    assert order(counts, errors) == pytest.approx(traits(sampler).order or 0, abs=0.25)


def test_one_end_for_all_bands_is_the_uniform_process() -> None:
    """The samples of one problem are those of its plain process."""
    problem = correlated((1, 4, 4))
    uniform_process = NonUniform((4, 4), 2, (1.0, 1.0, 1.0), each=VP())
    x = normal(5, 1, 4, 4)
    runs = [
        finish(drive(each.denoiser(), adams, x, uniform(VP(), 8), Rng(0, 5)))
        for each in (problem, FramedProblem(problem, uniform_process))
    ]
    assert torch.allclose(*runs, atol=1e-9)


def test_a_region_with_a_power_of_its_own_keeps_its_signal_longer() -> None:
    """Schedules for regions are those of `PerElement`: the left half of an image at three times the pace."""
    power = torch.tensor([1.0, 3.0], dtype=F64).repeat_interleave(2).reshape(1, 1, 4).expand(1, 4, 4)
    process = PerElement(VP(), power)
    logsnr = process.element_logsnr(0.5)[0, 0]
    assert torch.allclose(logsnr[:, :2], VP().logsnr(0.5).to(logsnr))
    assert torch.allclose(logsnr[:, 2:], VP().logsnr(0.125).to(logsnr))
    problem = replace(correlated((1, 4, 4)), process=process)
    x = sample(problem.denoiser(), 1000, 3, sampler=ancestral, batch=1000)
    assert ks(x, problem.law) < 2.2 and standardised(x, problem.law) < 4.9
