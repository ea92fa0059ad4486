"""Codes give the image back, have the strength of the theory, and give exact edits on Gaussians."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from softmix.data.toys import ToyMixture
from softmix.denoiser import Denoiser, Network, SoftHead
from softmix.net import UNetSpec
from softmix.oracle import MixtureProblem, correlated, gaussian, order
from softmix.process import VE, VP, Flow, Gaussian, karras
from softmix.rng import Rng
from softmix.sampler import ColourEdit, NoiseCode, ddim, ddim_inversion, dpm_encoder, drive, edit_friendly, replay
from softmix.sampler.drive import finish
from softmix.sampler.latent import decoded, steered

F64 = torch.float64
BOTH = pytest.mark.parametrize("encoder", [edit_friendly, dpm_encoder], ids=["edit-friendly", "dpm-encoder"])
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)


def line(mean: float, var: float, process: Gaussian, size: int = 1) -> MixtureProblem:
    """Independent elements, each N(mean, var)."""
    factor = var**0.5 * torch.eye(size, dtype=F64)
    law = ToyMixture("line", torch.ones(1, dtype=F64), torch.full((1, size), mean, dtype=F64), factor[None])
    return MixtureProblem("line", law, process, (size,))


def encoded(encoder: Callable[..., object], denoiser: Denoiser, x0: Tensor, grid: Tensor, seed: int = 0) -> NoiseCode:
    code = finish(drive(denoiser, encoder, x0, grid, Rng(seed, len(x0), "code")))  # type: ignore[arg-type]
    assert isinstance(code, NoiseCode)
    return code


def replayed(code: NoiseCode, denoiser: Denoiser, skip: int = 0, **options: object) -> Tensor:
    rng = Rng(99, code.path.shape[1], "not looked at")
    sampler = replay(code, skip, **options)  # type: ignore[arg-type]
    return finish(drive(denoiser, sampler, code.start(skip), code.grid[skip:], rng))


def steps(process: Gaussian, n: int, low: float = -6.0, high: float = 6.0) -> Tensor:
    """n steps even in logsnr and one to t = 0."""
    times = process.time(torch.linspace(low, high, n + 1, dtype=F64))
    return torch.cat([times, times.new_zeros(1)])


@BOTH
@THREE
@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_a_code_gives_the_image_back(encoder: Callable[..., object], process: Gaussian, eta: float) -> None:
    """To 1e-5 in float32, from the first step and with steps left out."""
    for problem in (correlated((2, 2, 2), process), gaussian((5,), process)):
        x0 = problem.sample(4, Rng(0, 4)).float()
        for n in (2, 20, 100):
            code = encoded(partial(encoder, eta=eta), problem.denoiser(), x0, steps(process, n))
            for skip in (0, n // 2, n):
                assert (replayed(code, problem.denoiser(), skip) - x0).abs().max() < 1e-5
        assert (replayed(code, problem.denoiser(), rest=False) - x0).abs().max() > 1e-4


@BOTH
def test_a_soft_mixture_has_codes_too(encoder: Callable[..., object]) -> None:
    """Its draws are repeated, one for each step. The code of another draw is another code."""
    torch.manual_seed(0)
    network = Network(VP(), UNetSpec(width=16, depth=1), SoftHead(mean="none"), (1, 8, 8)).eval()
    x0 = Rng(0, 3).uniform((3, 1, 8, 8)) * 2 - 1
    code = encoded(encoder, network, x0, steps(VP(), 10))
    assert (replayed(code, network) - x0).abs().max() < 1e-5
    other = encoded(encoder, network, x0, steps(VP(), 10), seed=1)
    assert (code.noise - other.noise).abs().max() > 0.1


@BOTH
def test_a_code_does_not_depend_on_the_batch(encoder: Callable[..., object]) -> None:
    problem = correlated((2, 2, 2))
    x0 = problem.sample(3, Rng(0, 3))
    whole = encoded(encoder, problem.denoiser(), x0, steps(VP(), 7))
    for k in range(3):
        run = drive(problem.denoiser(), encoder, x0[k : k + 1], steps(VP(), 7), Rng(0, [k], "code"))  # type: ignore[arg-type]
        assert (whole.noise[:, k : k + 1] - finish(run).noise).abs().max() < 1e-9  # type: ignore[attr-defined]


@THREE
def test_the_strength_of_the_noise(process: Gaussian) -> None:
    """E z^2 in closed form for both, and the correlation of neighbours: 20,000 items, standard error 1 %."""
    problem, n = line(0.3, 0.5, process), 20_000
    x0, grid = problem.sample(n, Rng(0, n)), steps(process, 24)
    snr = process.logsnr(grid[:-1]).exp()
    gap = snr[1:] - snr[:-1]
    left = 0.5 / (1 + snr[:-1] * 0.5)  # the variance of the posterior at each time
    friendly = encoded(edit_friendly, problem.denoiser(), x0, grid).noise[:-1, :, 0]
    expected = (snr[1:] + snr[:-1]) * (1 / gap + left)
    assert torch.allclose(friendly.square().mean(1), expected, rtol=0.06)
    white = encoded(dpm_encoder, problem.denoiser(), x0, grid).noise[:-1, :, 0]
    assert torch.allclose(white.square().mean(1), 1 + gap * left, rtol=0.06)
    near = [float(torch.corrcoef(noise)[range(1, 24), range(23)].mean()) for noise in (friendly, white)]
    assert -0.6 < near[0] < -0.4 and abs(near[1]) < 0.01
    # CycleDiffusion's own choice of eta
    weak = encoded(partial(dpm_encoder, eta=0.1), problem.denoiser(), x0, grid).noise[:-1, :, 0]
    assert float((weak.square().mean(1) - 1 - gap * left)[5:15].min()) > 0.2


@BOTH
@THREE
def test_an_edit_between_gaussians_is_the_closed_form(encoder: Callable[..., object], process: Gaussian) -> None:
    """From N(m, C) to N(m', C) an image moves by (m' - m) / (1 + snr l), with the snr of the start and the variance l,
    for each element: exactly, on any grid, with any number of steps left out.
    """
    source, target = line(0.3, 0.5, process, 3), line(-0.9, 0.5, process, 3)
    x0 = source.sample(5, Rng(0, 5))
    code = encoded(encoder, source.denoiser(), x0, steps(process, 12))
    for skip in (0, 4, 9):
        moved = replayed(code, target.denoiser(), skip) - x0
        share = 1 / (1 + float(process.logsnr(code.grid[skip]).exp()) * 0.5)
        assert (moved + 1.2 * share).abs().max() < 1e-9


def test_a_code_carries_the_image_to_another_law_and_new_noise_does_not() -> None:
    """Between laws of unequal spread. The control has the same amount of new noise."""
    source, target = line(0.0, 0.5, VP()), line(1.0, 0.2, VP())
    x0 = source.sample(4000, Rng(0, 4000))
    for encoder in (edit_friendly, dpm_encoder):
        code = encoded(encoder, source.denoiser(), x0, steps(VP(), 60))

        def kin(used: NoiseCode) -> float:
            made = replayed(used, target.denoiser(), rest=False)
            return float(torch.corrcoef(torch.stack([made[:, 0], x0[:, 0]]))[0, 1])

        assert kin(code) > 0.85 and abs(kin(code.mixed(Rng(5, 4000)))) < 0.1


def test_a_shifted_code_gives_the_shifted_image() -> None:
    """Identical, independent elements. The region that enters may have new noise."""
    law = line(0.1, 0.4, VP(), 36).law
    problem = MixtureProblem("shift", law, VP(), (1, 6, 6))
    x0 = problem.sample(2, Rng(0, 2))
    code = encoded(edit_friendly, problem.denoiser(), x0, steps(VP(), 20, high=9.0))
    assert (replayed(code.shifted(2, -1), problem.denoiser()) - x0.roll((2, -1), (-2, -1))).abs().max() < 1e-9
    filled = replayed(code.shifted(2, -1, fill=Rng(1, 2)), problem.denoiser(), rest=False)
    gap = (filled - x0.roll((2, -1), (-2, -1))).abs().amax((0, 1))
    assert float(gap[2:, :-1].max()) < 0.1 and float(gap[:2].mean()) > 0.2 and float(gap[:, -1].mean()) > 0.2


@BOTH
def test_the_region_that_enters_has_the_law(encoder: Callable[..., object]) -> None:
    """Identical, independent elements: the region that enters has the mean and spread of the law, in spite of the
    stronger noise of the code. The rest stays. (Measured over ten seeds: spread 0.96 to 1.01, mean within 0.024.)
    """
    problem = MixtureProblem("shift", line(0.1, 0.4, VP(), 36).law, VP(), (1, 6, 6))
    x0 = problem.sample(400, Rng(0, 400))
    code = encoded(encoder, problem.denoiser(), x0, steps(VP(), 200, high=12.0))
    moved = replayed(code.shifted(2, 0, fill=Rng(1, 400)), problem.denoiser())
    real = problem.sample(4000, Rng(2, 4000))
    new = moved[..., :2, :]
    assert abs(float(new.std() / real.std()) - 1) < 0.08 and abs(float(new.mean() - real.mean())) < 0.05
    assert (moved - x0.roll(2, -2))[..., 2:, :].abs().max() < 1e-6


def test_an_edit_of_a_code_does_not_depend_on_other_items() -> None:
    """A neighbour with large values changes nothing in the others."""
    problem = correlated((2, 2, 2))
    x0 = torch.cat([problem.sample(2, Rng(0, 2)), torch.full((1, 2, 2, 2), 300.0, dtype=F64)])
    several = encoded(edit_friendly, problem.denoiser(), x0, steps(VP(), 5))
    alone = encoded(edit_friendly, problem.denoiser(), x0[:2], steps(VP(), 5))
    for edit in (lambda code, n: code.mixed(Rng(1, n)), lambda code, n: code.shifted(1, fill=Rng(1, n))):
        mine, other = edit(several, 3), edit(alone, 2)  # type: ignore[no-untyped-call]
        assert (mine.noise[:, :2] - other.noise).abs().max() < 1e-9
        assert (mine.path[:, :2] - other.path).abs().max() < 1e-9


def test_the_latents_of_a_code_belong_to_its_items() -> None:
    torch.manual_seed(0)
    network = Network(VP(), UNetSpec(width=16, depth=1), SoftHead(mean="none"), (1, 8, 8)).eval()
    grid = steps(VP(), 3)
    z = Rng(0, 2).normal((2, len(grid) - 1, 1, 8, 8))
    with torch.no_grad():
        both = decoded(network, z, grid, latents=Rng(5, 2))
        second = decoded(network, z[1:], grid, latents=Rng(5, [1]))
        again = decoded(network, z, grid, latents=Rng(6, 2))
    assert not both.requires_grad and (both[1:] - second).abs().max() < 1e-5
    assert (both - again).abs().max() > 1e-3


def test_a_colour_edit_acts_inside_its_mask() -> None:
    """Independent elements: a step covers (a / 2) fresh K_s of the distance to the colour, K_s = dm/dx at its end."""
    problem = MixtureProblem("tint", line(0.0, 0.5, VP(), 16).law, VP(), (1, 4, 4))
    x0 = problem.sample(3, Rng(0, 3))
    grid = steps(VP(), 30, high=8.0)
    code = encoded(edit_friendly, problem.denoiser(), x0, grid)
    mask = torch.zeros(1, 4, 4)
    mask[..., :2] = 1
    colour_edit = ColourEdit(torch.full((1, 1, 1), 0.9, dtype=F64), mask, strength=2.0, low=-4.0, high=2.0)
    tinted = replayed(code, problem.denoiser(), colour_edit=colour_edit)
    assert (tinted - x0)[..., 2:].abs().max() < 1e-9
    means, plain = [], []
    for found, options in ((means, {"colour_edit": colour_edit}), (plain, {})):
        finish(
            drive(problem.denoiser(), replay(code, **options), code.start(), grid, Rng(0, 3)),  # type: ignore[arg-type]
            lambda step, found=found: found.append(step.posterior.mean),  # type: ignore[misc]
        )
    shift = torch.zeros_like(x0)
    for i, (t, s) in enumerate(zip(grid[:-2].tolist(), grid[1:-1].tolist(), strict=True)):
        slope = float(VP().alpha(s)) * 0.5 / float(VP().alpha(s) ** 2 * 0.5 + VP().sigma(s) ** 2)
        if -4 <= float(VP().logsnr(t)) <= 2:
            pull = (2 * 0.9 - 1) - plain[i] - shift
            shift = shift + float(VP().shares(t, s)[2]) * slope * 2.0 / 2 * pull
        assert (means[i + 1] - plain[i + 1] - shift)[..., :2].abs().max() < 1e-9
    assert (
        replayed(code, problem.denoiser(), colour_edit=ColourEdit(colour_edit.colour, mask, 0.0)) - x0
    ).abs().max() < 1e-9


@THREE
def test_ddim_inversion_is_of_first_order(process: Gaussian) -> None:
    problem = correlated((2,), process)
    x0, counts, errors = problem.sample(32, Rng(0, 32)), [50, 100, 200], []
    for n in counts:
        grid = karras(process, n, last=8.0)[1:]
        noise = finish(drive(problem.denoiser(), ddim_inversion, x0, grid, Rng(0, 32)))
        again = finish(drive(problem.denoiser(), ddim, noise, grid, Rng(0, 32)))
        errors.append(float((again - x0).norm(dim=1).mean()))
    assert order(counts, errors) == pytest.approx(1, abs=0.35) and errors[-1] < 0.2


def test_a_replay_on_other_times_is_refused() -> None:
    problem = gaussian()
    x0, grid = problem.sample(2, Rng(0, 2)), steps(VP(), 5)
    with pytest.raises(ValueError, match="without fresh noise"):
        encoded(partial(edit_friendly, eta=0.0), problem.denoiser(), x0, grid)
    code = encoded(edit_friendly, problem.denoiser(), x0, grid)
    with pytest.raises(ValueError, match=r"take grid=code.grid\[1:\]"):
        finish(drive(problem.denoiser(), replay(code, 1), code.start(1), grid, Rng(0, 2)))


# the walk in codes


def test_a_walk_with_zero_energy_keeps_the_law_of_the_sampler() -> None:
    """Each number of the code has variance 1 / (1 - h / 4)."""
    problem = line(0.2, 0.5, VP())
    grid = steps(VP(), 3)
    plain = finish(drive(problem.denoiser(), replay(white(4000, grid)), white(4000, grid).start(), grid, Rng(0, 4000)))
    walked = steered(problem.denoiser(), lambda x: 0 * x.sum(1), (1,), grid, Rng(1, 4000), steps=60, size=0.1)
    assert float(walked.var() / plain.var()) == pytest.approx(1 / (1 - 0.1 / 4), abs=0.08)


def white(n: int, grid: Tensor) -> NoiseCode:
    """The code of a sampler, of items with one number."""
    z = Rng(9, n).normal((n, len(grid), 1), F64)
    noise = torch.cat([z[:, 1:-1], 0 * z[:, :1]], 1).transpose(0, 1)
    start = float(VP().sigma(grid[0])) * z[:, 0]
    return NoiseCode(grid, torch.stack([start] * (len(grid) - 1)), noise, 1.0, Rng(0, n))


def test_a_steered_code_has_the_posterior() -> None:
    """A Gaussian prior and one noisy measurement: the law of G(z) times the likelihood, in closed form."""
    problem, y, noise = line(0.0, 0.5, VP()), 0.9, 0.4
    grid = steps(VP(), 3)
    prior = finish(
        drive(problem.denoiser(), replay(white(20_000, grid)), white(20_000, grid).start(), grid, Rng(0, 20_000))
    )
    mean, var = float(prior.mean()), float(prior.var())
    found = steered(
        problem.denoiser(),
        lambda x: ((x - y) ** 2).sum(1) / (2 * noise**2),
        (1,),
        grid,
        Rng(2, 4000),
        steps=150,
        size=0.08,
    )
    share = var / (var + noise**2)
    assert float(found.mean()) == pytest.approx(mean + share * (y - mean), abs=0.03)
    assert float(found.var()) == pytest.approx(var * (1 - share), rel=0.12)


def test_gradients_through_a_run_are_those_of_differences() -> None:
    problem, grid = correlated((2,)), steps(VP(), 4)
    z = Rng(0, 3).normal((3, len(grid) - 1, 2), F64).requires_grad_()
    (slope,) = torch.autograd.grad(decoded(problem.denoiser(), z, grid).square().sum(), z)
    way = Rng(1, 3).normal(z.shape, F64)
    with torch.no_grad():
        ends = [decoded(problem.denoiser(), z + side * way, grid).square().sum() for side in (1e-5, -1e-5)]
    assert float((slope * way).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-5)
