"""Paths of a model of two clocks: their laws, their order, held signals, and the estimators of two speeds."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from softmix import Cond
from softmix.denoiser import Network, PointHead, given
from softmix.denoiser.wrap import CallCounter, Wrapped
from softmix.net import MLPSpec, TwoStreamsSpec
from softmix.oracle import JointProblem, gaussian, joint, ks, order, standardised
from softmix.posterior import Point
from softmix.process import CONTROL, ESTIMATION, JOINT, VP, TimePath, TwoClocks, few, slower
from softmix.rng import Rng
from softmix.sampler import (
    SAMPLERS,
    Sampler,
    SamplerError,
    adams,
    along,
    ancestral,
    ddim,
    dpm_solver_2m,
    label,
    multi_speed,
    on_grid,
    renoise,
    sample,
    traits,
)

F64 = torch.float64
N = 8000
PATHS = [
    JOINT,
    TimePath(((1.0, 1.0), (1.0, 0.0), (0.0, 0.0))),
    TimePath(((1.0, 1.0), (0.0, 1.0), (0.0, 0.0))),
    TimePath(((1.0, 1.0), (0.6, 1.0), (0.6, 0.3), (0.2, 0.1), (0.0, 0.0))),
]


SLANT = TimePath(((1.0, 0.6), (0.0, 0.0)))


def both(pair: tuple[Tensor, Tensor]) -> Tensor:
    return torch.cat([part.double() for part in pair], 1)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("sampler", [ancestral, partial(ancestral, eta=0.0), renoise], ids=label)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{len(path.legs)} legs, {path.corners[1]}")
def test_draws_of_the_pair_have_its_law_on_every_path(path: TimePath, sampler: Sampler, steps: int) -> None:
    """Largest of 24 runs: 3.5 standard errors and a KS of 1.9 (fixed seed)."""
    problem = joint()
    pair = both(along(problem.denoiser(), path, N, steps, sampler=sampler, batch=N))
    assert standardised(pair, problem.law) < 4 and ks(pair, problem.law) < 2.2


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("sampler", [ancestral, renoise], ids=label)
def test_a_clean_signal_gives_the_law_of_the_other(sampler: Sampler, steps: int) -> None:
    problem = joint()
    z, _ = problem.draw(1, Rng(5, 1))
    x, y = z[:, :2], z[:, 2:]
    made, kept = along(problem.denoiser(), CONTROL, N, steps, sampler=sampler, y=y, batch=N)
    assert standardised(made, problem.given(0, y)) < 4 and torch.equal(kept, y.float().expand(N, 2))
    kept, made = along(problem.denoiser(), ESTIMATION, N, steps, sampler=sampler, x=x, batch=N)
    assert standardised(made, problem.given(1, x)) < 4 and torch.equal(kept, x.float().expand(N, 2))


def coarse(problem: JointProblem, y: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x given y_t, for a joint Gaussian: [B, D_x] and [D_x, D_x]."""
    alpha, sigma = float(VP().alpha(t)), float(VP().sigma(t))
    cov, mean = problem.law.covariance, problem.law.mean
    gain = alpha * cov[:2, 2:] @ torch.linalg.inv(alpha**2 * cov[2:, 2:] + sigma**2 * torch.eye(2, dtype=F64))
    return mean[:2] + (y - alpha * mean[2:]) @ gain.T, cov[:2, :2] - alpha * gain @ cov[2:, :2]


@pytest.mark.parametrize("steps", [1, 4])
def test_a_held_noisy_signal_gives_the_law_given_it(steps: int) -> None:
    problem = joint(components=1)
    z, _ = problem.draw(N, Rng(6, N))
    x, y_half = along(problem.denoiser(), TimePath(((1.0, 0.5), (0.0, 0.5))), N, steps, y=z[:, 2:], batch=N)
    y_half = y_half.double()
    mean, covariance = coarse(problem, y_half, 0.5)
    off = x.double() - mean
    assert float((off.mean(0) / (covariance.diagonal() / N).sqrt()).abs().max()) < 4
    assert float((off.T @ y_half).abs().max()) / N < 0.03, "the residual knows nothing of y"
    assert torch.allclose(off.T.cov(), covariance, atol=0.06 * float(covariance.diagonal().max()))
    noise = (y_half - float(VP().alpha(0.5)) * z[:, 2:]) / float(VP().sigma(0.5))
    assert torch.allclose(noise.T.cov(), torch.eye(2, dtype=F64), atol=0.08)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=label)
def test_every_sampler_walks_a_path_with_a_held_signal(sampler: Sampler) -> None:
    """The mean of x given y after 60 steps to within 5 standard errors, and y untouched."""
    problem = joint(components=1)
    z, _ = problem.draw(1, Rng(7, 1))
    n, y = 1000, z[:, 2:]
    x, kept = along(problem.denoiser(), CONTROL, n, 60, sampler=sampler, y=y, batch=n)
    law = problem.given(0, y)
    off = (x.double().mean(0) - law.mean) / (law.covariance.diagonal() / n).sqrt()
    assert torch.equal(kept, y.float().expand(n, 2)) and float(off.abs().max()) < 5
    pair = along(problem.denoiser(), PATHS[1], n, 60, sampler=sampler, batch=n)
    off = (both(pair).mean(0) - problem.law.mean) / (problem.law.covariance.diagonal() / n).sqrt()
    assert float(off.abs().max()) < 5


@pytest.mark.parametrize(
    ("path", "sampler"),
    [
        pytest.param(SLANT, ddim, marks=pytest.mark.slow),
        (SLANT, dpm_solver_2m),
        (SLANT, adams),
        pytest.param(PATHS[1], ddim, marks=pytest.mark.slow),
        (PATHS[1], dpm_solver_2m),
        (PATHS[1], adams),
        pytest.param(PATHS[3], adams, marks=pytest.mark.slow),
    ],
    ids=["slant-1", "slant-2", "slant-3", "turns-1", "turns-2", "turns-3", "many-3"],
)
def test_a_solver_keeps_its_order_along_a_path(path: TimePath, sampler: Sampler) -> None:
    """The error against 400 steps from 20 to 80 steps on each leg. A mean from before a corner would give order 1."""
    problem, n = joint(components=1), 16
    y = problem.draw(n, Rng(8, n))[0][:, 2:] if path.start[1] < 1 else None

    def end(steps: int) -> Tensor:
        return both(along(problem.denoiser(), path, n, steps, sampler=on_grid(sampler, even), seed=3, y=y))

    counts = [20, 40, 80]
    fine = end(400 if traits(sampler).order != 1 else 2000)
    found = [float((end(count) - fine).norm()) for count in counts]
    assert order(counts, found) == pytest.approx(traits(sampler).order or 0, abs=0.3)


def even(process: object, n: int) -> Tensor:
    """Times from 1 down to 0 with short steps at both ends."""
    u = torch.linspace(1, 0, n + 1, dtype=F64)
    return (1 - (math.pi * u).cos()) / 2


def test_the_number_of_evaluations_is_that_of_the_legs() -> None:
    for path, count in ((JOINT, 3), (PATHS[1], 6), (PATHS[3], 12)):
        counter = CallCounter(joint().denoiser())
        along(counter, path, 4, 3)
        assert counter.calls == count


def test_the_legs_of_a_path_have_noise_of_their_own() -> None:
    """x and y of independent signals stay independent when one is made after the other."""
    law = joint(components=1).law
    apart = torch.block_diag(law.covariance[:2, :2], law.covariance[2:, 2:])
    law = type(law)("apart", law.weights, law.means, torch.linalg.cholesky(apart)[None])
    problem = JointProblem("apart", law, TwoClocks(VP(), (2, 2), 1), (4,))
    pair = both(along(problem.denoiser(), PATHS[1], N, 2, batch=N))
    assert standardised(pair, problem.law) < 4


def test_an_item_does_not_depend_on_its_batch() -> None:
    denoiser = joint().denoiser()
    z, _ = joint().draw(5, Rng(9, 5))
    for path, known in ((PATHS[3], None), (CONTROL, z[:, 2:])):
        whole = both(along(denoiser, path, 5, 2, y=known))
        parts = both(along(denoiser, path, 5, 2, y=known, batch=2))
        later = both(along(denoiser, path, 2, 2, y=None if known is None else known[3:], first=3))
        assert torch.allclose(whole, parts, atol=1e-6) and torch.allclose(whole[3:], later, atol=1e-6)
    y = z[:, 2:]
    whole = multi_speed(denoiser, lambda t: 0.5 * t, 5, 3, y=y)
    assert torch.allclose(multi_speed(denoiser, lambda t: 0.5 * t, 2, 3, y=y[3:], first=3), whole[3:], atol=1e-6)


def test_guidance_between_the_signals_makes_them_agree_more_or_not_at_all() -> None:
    """With 0 each signal has its own law, and knows nothing of the other; with 2 they correlate more than they do."""
    problem = joint(components=1)
    walked = partial(along, problem.denoiser(), JOINT, N, 40, sampler=adams, batch=N)
    apart, plain, more = (both(walked(guidance=scale)) for scale in (0.0, 1.0, 2.0))
    cross = [each.T.cov()[:2, 2:] for each in (apart, plain, more)]
    right = problem.law.covariance
    noise = (right.diagonal()[:2, None] * right.diagonal()[2:] / N).sqrt()
    assert float((cross[0] / noise).abs().max()) < 4
    for part in (slice(2), slice(2, 4)):
        assert torch.allclose(apart.T.cov()[part, part], right[part, part], atol=0.06 * float(right.diagonal().max()))
    assert cross[2].norm() > 1.3 * cross[1].norm() > 1.3 * right[:2, 2:].norm() * 0.95
    assert torch.equal(plain, both(walked()))


def test_guided_items_do_not_depend_on_their_batch() -> None:
    problem = joint()
    whole = both(along(problem.denoiser(), CONTROL, 6, 3, y=torch.ones(1, 2), guidance=2.0, batch=6))
    parts = both(along(problem.denoiser(), CONTROL, 6, 3, y=torch.ones(1, 2), guidance=2.0, batch=2))
    assert torch.allclose(whole, parts, atol=1e-6)
    assert not torch.allclose(whole, both(along(problem.denoiser(), CONTROL, 6, 3, y=torch.ones(1, 2))), atol=1e-2)
    # a model that shows the noise in the place of the other signal
    model = Wrapped(problem.denoiser(), lambda inner, xt, t, cond: Point(xt.roll(2, 1)))
    whole, parts = (both(along(model, JOINT, 6, 2, guidance=0.0, batch=size, seed=5)) for size in (6, 2))
    assert torch.allclose(whole, parts, atol=1e-6)


def test_a_signal_that_is_missing_or_not_used_is_refused() -> None:
    denoiser, z = joint().denoiser(), torch.zeros(3, 2)
    with pytest.raises(ValueError, match="begins at t_y = 0: give y"):
        along(denoiser, CONTROL, 3)
    with pytest.raises(ValueError, match="x is pure noise there: leave x out"):
        along(denoiser, CONTROL, 3, x=z, y=z)
    for wrong in (torch.zeros(2, 2), torch.zeros(3, 3)):
        with pytest.raises(ValueError, match=r"y was expected as \[3, 2\] or \[1, 2\]"):
            along(denoiser, CONTROL, 3, y=wrong)
        with pytest.raises(ValueError, match=r"y was expected as \[3, 2\]"):
            multi_speed(denoiser, lambda t: t, 3, y=wrong)
    with pytest.raises(TypeError, match="along needs a model of two signals"):
        along(gaussian().denoiser(), JOINT, 3)  # type: ignore[arg-type]
    with pytest.raises(SamplerError, match="on a leg were asked for"):
        along(denoiser, JOINT, 3, 2, sampler=next(each for each in SAMPLERS if traits(each).least > 2))
    with pytest.raises(ValueError, match="at least 1"):
        along(denoiser, JOINT, 0)
    with pytest.raises(SamplerError, match="one alpha and one sigma"):
        along(
            denoiser,
            TimePath(((1.0, 0.5), (0.0, 0.0))),
            3,
            y=z,
            sampler=next(s for s in SAMPLERS if not traits(s).per_element),
        )


def test_a_model_of_two_clocks_is_not_sampled_at_one_time() -> None:
    for sampler in (ancestral, adams):
        with pytest.raises(SamplerError, match="walks one time, and this model has one for x and one for y"):
            sample(joint().denoiser(), 3, 4, sampler=sampler)


def test_x_given_y_is_sampled_as_by_any_model_of_one_signal() -> None:
    z, _ = joint().draw(1, Rng(12, 1))
    y = z[:, 2:]
    x = sample(given(0)(joint().denoiser()), N, 2, cond=Cond(value=y.expand(N, 2)))
    assert standardised(x, joint().given(0, y)) < 4


# the estimators of two speeds


def test_a_clean_condition_is_the_path_of_control() -> None:
    problem, n = joint(), 50
    z, _ = problem.draw(n, Rng(10, n))
    for sampler in (ancestral, adams):
        x, _ = along(problem.denoiser(), CONTROL, n, 5, y=z[:, 2:], sampler=sampler)
        assert torch.allclose(
            multi_speed(problem.denoiser(), torch.zeros_like, n, 5, y=z[:, 2:], sampler=sampler), x, atol=1e-5
        )


def test_a_fresh_condition_in_one_step_gives_the_law_of_its_own_noise() -> None:
    """One draw at t = 1 from q(x0 | y_t'): the law of x given y is that of x through y_t'."""
    problem, n, ratio = joint(components=1), N, 1e-9
    z, _ = problem.draw(1, Rng(11, 1))
    y = z[:, 2:]
    ratio = float(((VP().logsnr(0.4) - VP().logsnr(1.0)) / -2).exp())
    x = multi_speed(problem.denoiser(), lambda t: slower(VP(), ratio, t), n, 1, y=y)
    alpha, sigma = float(VP().alpha(0.4)), float(VP().sigma(0.4))
    mean, left = coarse(problem, alpha * y, 0.4)
    cov = problem.law.covariance
    gain = alpha * cov[:2, 2:] @ torch.linalg.inv(alpha**2 * cov[2:, 2:] + sigma**2 * torch.eye(2, dtype=F64))
    whole = left + sigma**2 * gain @ gain.T
    off = (x.double().mean(0) - mean[0]) / (whole.diagonal() / n).sqrt()
    assert float(off.abs().max()) < 4 and torch.allclose(x.double().T.cov(), whole, rtol=0.08, atol=0.01)


def test_a_path_is_walked_on_the_device_of_the_model(device: torch.device) -> None:
    clocks = TwoClocks(VP(), (2, 2), 1)
    model = Network(clocks, TwoStreamsSpec(MLPSpec(width=16, depth=2)), PointHead(), (4,)).to(device)
    y = torch.zeros(1, 2)
    for path, known in ((PATHS[3], None), (CONTROL, y), (TimePath(((1.0, 0.5), (0.0, 0.0))), y)):
        pair = along(model, path, 3, 4, y=known, sampler=on_grid(adams, few))
        assert all(part.device.type == device.type and bool(part.isfinite().all()) for part in pair)
    assert multi_speed(model, lambda t: 0.3 * t, 3, 4, y=y).device.type == device.type
