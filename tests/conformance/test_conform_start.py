"""Starts below t = 1, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from softmix.denoiser import adjusted, wiener
from softmix.info import where_to_start
from softmix.oracle import correlated, gaussian, ks, order, standardised
from softmix.posterior import HasMean, Point, Posterior
from softmix.process import VE, VP, Flow, Gaussian, rest
from softmix.rng import Rng
from softmix.sampler import (
    GaussianFit,
    SemiDiscreteOT,
    adams,
    ancestral,
    contraction,
    ddim,
    drive,
    noised,
    sample,
)
from softmix.sampler.drive import finish

F64 = torch.float64
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)


@THREE
def test_a_gaussian_fit_of_a_gaussian_has_its_flow(process: Gaussian) -> None:
    """Teleported half way and solved from there: the end of the whole flow, at the order of the solver."""
    problem = gaussian((2, 2, 2), process)
    fit = GaussianFit(problem.law.mean, problem.law.covariance)
    start = process.prior((20, 2, 2, 2), Rng(0, 20)).double()
    end = problem.flow(start, 1.0, float(process.time(8.0)))
    counts, errors = [32, 64, 128], []
    for n in counts:
        t = float(process.time(0.0))
        x = fit(process, (20, 2, 2, 2), t, Rng(0, 20)).double()
        times = process.time(torch.linspace(0, 8, n + 1, dtype=F64))
        errors.append(float((finish(drive(problem.denoiser(), ddim, x, times, Rng(0, 20))) - end).abs().mean()))
    assert order(counts, errors) == pytest.approx(1, abs=0.15)
    flown = fit.flow(process, start, 1.0, 0.5)
    assert (fit.flow(process, flown, 0.5, 1.0) - start).abs().max() < 1e-9


@THREE
@pytest.mark.parametrize("n", [1, 3])
def test_a_start_from_the_true_law_is_exact(process: Gaussian, n: int) -> None:
    """Draws of a law with the right marginal at the start are exact from there, in any number of steps."""
    problem = gaussian((2, 2, 2), process)
    fit = GaussianFit(problem.law.mean, problem.law.covariance)
    for at in (0.2, 0.6):
        x = sample(problem.denoiser(), 2000, n, start=noised(fit.draw), at=at, batch=2000)
        assert ks(x, problem.law) < 2.2 and standardised(x, problem.law) < 4.5
    mixture = correlated((3,), process)
    x = sample(mixture.denoiser(), 2000, n, start=noised(lambda k, rng: mixture.sample(k, rng)), at=0.3, batch=2000)
    assert ks(x, mixture.law) < 2.2
    # the same law's fit is not it, and pure noise at that time is not either
    level = float(process.time(3.0))
    rough = GaussianFit(mixture.law.mean, mixture.law.covariance)
    wrong = sample(mixture.denoiser(), 2000, n, start=noised(rough.draw), at=level, batch=2000)
    none = sample(mixture.denoiser(), 2000, n, start=lambda p, shape, t, rng: p.prior(shape, rng), at=level, batch=2000)
    assert ks(wrong, mixture.law) > 2.5 and ks(none, mixture.law) > 2.5


def test_the_divergence_of_pure_noise(device: torch.device) -> None:
    """KL(N(alpha m, alpha^2 C + sigma^2) || N(0, 1)) in nats, against that of torch. It is 0 at t = 1 and grows as
    noise falls.
    """
    data = gaussian((3,)).law.to(device)
    fit = GaussianFit(data.mean, data.covariance)
    found = []
    for t in (1.0, 0.9, 0.5, 0.2):
        alpha, sigma = VP().alpha(t), VP().sigma(t)
        law = torch.distributions.MultivariateNormal(
            alpha * data.mean, alpha**2 * data.covariance + sigma**2 * torch.eye(3, dtype=F64)
        )
        noise = torch.distributions.MultivariateNormal(
            torch.zeros(3, dtype=F64), VP().sigma(1.0) ** 2 * torch.eye(3, dtype=F64)
        )
        found.append(fit.divergence(VP(), t))
        assert found[-1] == pytest.approx(float(torch.distributions.kl_divergence(law, noise)), rel=1e-6, abs=1e-9)
    assert found[0] < 1e-8 and found == sorted(found)


def test_a_start_between_the_estimate_and_the_prior() -> None:
    """CCDF without measurements, on a Gaussian with exact draws: w (x0' - m) + m, and variance l (1 - w^2), with w =
    snr l / (1 + snr l). With less noise it is nearer to the estimate.
    """
    law = gaussian((1,)).law
    variance, mean = float(law.covariance), float(law.mean)
    denoiser = wiener(VP(), law.mean, law.covariance)
    for at in (0.2, 0.5, 0.8):
        share = float(VP().logsnr(at).exp()) * variance
        w = share / (1 + share)
        x = sample(denoiser, 20_000, 3, shape=(1,), start=noised(torch.tensor([[1.5]])), at=at, batch=20_000)
        assert float(x.mean()) == pytest.approx(mean + w * (1.5 - mean), abs=0.03)
        assert float(x.var()) == pytest.approx(variance * (1 - w**2), rel=0.05)


def test_steps_from_a_start() -> None:
    for at in (1.0, 0.5, 0.01):
        for n in (1, 2, 7):
            times = rest(VP(), n, at)
            assert len(times) == n + 1 and times[0] == at and times[-1] == 0 and bool((times[1:] < times[:-1]).all())
    with pytest.raises(ValueError, match="above 0"):
        rest(VP(), 3, 0.0)


class Line:
    """Targets on the line, in no order."""

    points = torch.tensor([0.3, -1.2, 0.9, -0.1, 2.0, 0.5, -0.6, 1.4])[:, None]


def test_the_optimal_map_on_the_line_is_monotone(device: torch.device) -> None:
    """The k-th eighth of the noise goes to the k-th target."""
    points = Line.points.to(device)
    optimal = SemiDiscreteOT(points).fit(Rng(0, 1), steps=600, draws=4000)
    z = (torch.arange(800)[:, None] + 0.5) / 800
    target = points[optimal.index(z)][:, 0]
    assert bool((target[1:] >= target[:-1]).all())
    right = points[:, 0].sort().values[torch.arange(800) // 100]
    assert float((target == right).float().mean()) > 0.95
    assert float((SemiDiscreteOT(Line.points).shares(Rng(1, 1), 20_000) - 1 / 8).abs().sum()) > 0.5


def test_the_optimal_map_and_the_shuffled_control_have_equal_shares() -> None:
    """Shares within 3 times the noise of their measurement. The control draws the index, and has the same law at the
    end.
    """
    points = Rng(0, 64).normal((64, 2))
    optimal = SemiDiscreteOT(points).fit(Rng(0, 1), steps=800, draws=4000)
    draws = 40_000
    assert float((optimal.shares(Rng(2, 1), draws) - 1 / 64).norm()) < 3 / math.sqrt(draws)
    level = float(VP().time(2.0))

    def at_start(start: SemiDiscreteOT) -> Tensor:
        return start(VP(), (20_000, 2), level, Rng(3, 20_000))

    by_map, by_number = at_start(optimal), at_start(SemiDiscreteOT(points, shuffled=True))
    for moment in (lambda x: x.mean(0), lambda x: torch.cov(x.T).flatten()):
        assert float((moment(by_map) - moment(by_number)).abs().max()) < 0.05  # type: ignore[no-untyped-call]
    # the map moves the noise less
    z = Rng(3, 20_000).uniform((20_000, 2))
    assert float((points[optimal.index(z)] * z).sum(1).mean()) > float((points.mean(0) * z).sum(1).mean()) + 0.1


def test_an_item_starts_on_its_own() -> None:
    problem = correlated((2, 2, 2))
    fit = GaussianFit(problem.law.mean, problem.law.covariance)
    optimal = SemiDiscreteOT(problem.sample(16, Rng(0, 16)).float())
    for start in (fit, noised(fit.draw), optimal, SemiDiscreteOT(optimal.targets, shuffled=True)):
        several = sample(problem.denoiser(), 3, 2, start=start, at=0.5, sampler=adams)
        for k in range(3):
            alone = sample(problem.denoiser(), 1, 2, start=start, at=0.5, sampler=adams, first=k)
            assert (several[k] - alone[0]).abs().max() < 1e-5
    with_grid = sample(problem.denoiser(), 3, start=fit, grid=rest(VP(), 2, 0.5), sampler=ancestral)
    assert torch.equal(with_grid, sample(problem.denoiser(), 3, 2, start=fit, at=0.5))


@THREE
def test_an_error_of_the_start_contracts_as_the_closed_form_says(process: Gaussian) -> None:
    """Two chains with the same noise, over any number of steps: their distance at the end."""
    law = gaussian((1,), process).law
    variance = float(law.covariance)
    exact = wiener(process, law.mean, law.covariance)
    knows = wiener(process, torch.full((1,), 0.7, dtype=F64), 1e-12 * torch.eye(1, dtype=F64))
    t, s = float(process.time(-1.0)), float(process.time(2.0))
    for n in (1, 5, 20):
        times = process.time(torch.linspace(-1.0, 2.0, n + 1, dtype=F64))
        for denoiser, known in ((exact, variance), (knows, None)):
            ends = [
                finish(drive(adjusted(_mean)(denoiser), ancestral, x, times, Rng(0, 1)))
                for x in (torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=F64))
            ]
            assert float(ends[1] - ends[0]) == pytest.approx(contraction(process, t, s, known), rel=1e-5)
    wide = 1 / (float(process.alpha(t)) * float(process.alpha(s))) + 1.5
    assert contraction(process, t, s, wide) > contraction(process, t, s, 0.5 * wide)


def _mean(posterior: Posterior, xt: Tensor, t: Tensor | float) -> Point:
    assert isinstance(posterior, HasMean)
    return Point(posterior.mean)


def test_the_best_start_is_the_level_below_which_the_model_is_worse(device: torch.device) -> None:
    """The start is pure noise. The denoiser is exact above logsnr -3 and wrong by 0.5 in each element below. The best
    level is -3, and the gain there is the integral of the extra error of the start, in closed form.
    """
    problem = gaussian((4,))
    law, exact = problem.law.to(device), problem.denoiser()

    def wrong_below(posterior: Posterior, xt: Tensor, t: Tensor | float) -> Point:
        return Point(_mean(posterior, xt, t).mean + (0.5 if VP().logsnr(t) < -3.05 else 0.0))

    pure = wiener(VP(), torch.zeros(4, dtype=F64), torch.eye(4, dtype=F64))
    x0, levels = problem.sample(5000, Rng(0, 5000)), torch.linspace(-9, 3, 61, dtype=F64)
    gain = where_to_start(adjusted(wrong_below)(exact), pure, x0, Rng(1, 5000), levels)
    assert gain[-1] == 0 and float(levels[int(gain.argmax())]) == pytest.approx(-3, abs=0.01)

    spread, vectors = torch.linalg.eigh(law.covariance)
    snr = levels.exp()[:, None]
    alpha2, centre = snr / (1 + snr), vectors.T @ law.mean
    # error of alpha x in the place of the mean, for VP, less that of the mean
    more = (1 - alpha2) ** 2 * (spread + centre**2) + alpha2 * (1 - alpha2) - spread / (1 + snr * spread)
    known = torch.trapezoid((more.sum(1) * snr[:, 0] / 2)[30:], levels[30:])
    assert float(gain[30]) == pytest.approx(float(known), rel=0.05)
    # an exact one is best begun at once
    assert int(where_to_start(exact, pure, x0, Rng(1, 5000), levels).argmax()) < 6


def test_the_optimal_map_is_an_optimal_assignment() -> None:
    """512 noises to 64 targets, with the shares of the map: no assignment costs less."""
    points = Rng(0, 64).normal((64, 2)) * 0.5 + 0.5
    optimal = SemiDiscreteOT(points).fit(Rng(0, 1), steps=1000, draws=4000)
    z = Rng(1, 512).uniform((512, 2))
    taken = optimal.index(z)
    cost = (z[:, None] - points[taken]).square().sum(-1)
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    best = float(cost[rows, columns].mean())
    assert float(cost.diagonal().mean()) == pytest.approx(best, rel=1e-5)
    assert float(cost.diagonal(1).mean()) > 1.5 * best


def test_estimates_go_to_their_items_for_any_batch_size() -> None:
    problem = gaussian((2,))
    estimates = problem.sample(5, Rng(0, 5))

    def run(batch: int) -> Tensor:
        return sample(problem.denoiser(), 5, 3, start=noised(estimates), at=0.01, batch=batch)

    whole = run(5)
    assert (whole - estimates).abs().max() < 0.2
    assert all((run(batch) - whole).abs().max() < 1e-5 for batch in (1, 2, 3))
    with pytest.raises(ValueError, match="give one or as many"):
        sample(problem.denoiser(), 4, 3, start=noised(estimates), at=0.01)
    with pytest.raises(ValueError, match="start=noised"):
        sample(problem.denoiser(), 4, 3, at=0.01)


def test_a_start_takes_float32() -> None:
    problem = gaussian((2,))
    fit = GaussianFit(problem.law.mean.float(), problem.law.covariance.float())
    assert sample(problem.denoiser(), 3, 2, start=fit, at=0.5).dtype == torch.float32
