"""Particles with weights, against exact posteriors and exact evidence of Gaussians and mixtures."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import pytest
import torch
from torch import Tensor

from softmix.data.toys import ToyMixture
from softmix.evaluate import energy_distance
from softmix.measure import (
    GaussianNoise,
    Instrument,
    Mask,
    MatrixOperator,
    afdps,
    even_in_variance,
    guided_by_draws,
    guided_by_pseudo_inverse,
    systematic,
    twisted,
)
from softmix.measure.particles import Form, Population, _sde
from softmix.oracle import MixtureProblem, ObservedProblem
from softmix.process import VE, VP, Gaussian, few, uniform
from softmix.rng import Rng
from softmix.sampler import WeightedSamples, ancestral, sample

F64 = torch.float64
DIM, SD = 4, 0.3


def problem(components: int, process: Gaussian | None = None, sd: float = 0.25) -> MixtureProblem:
    """x0 ~ sum_k N(mu_k, sd^2 I) / K in 4 dimensions; with one component N(0, sd^2 I)."""
    means = Rng(1, components, "means").normal((components, DIM), F64) * float(components > 1)
    roots = (sd * torch.eye(DIM, dtype=F64)).expand(components, DIM, DIM)
    law = ToyMixture(f"{components} Gaussians", torch.full((components,), 1 / components, dtype=F64), means, roots)
    return MixtureProblem(law.name, law, process or VP(), (DIM,))


class Measured:
    """A problem, a measurement of it, and the exact posterior."""

    def __init__(self, of: MixtureProblem, sd: float = SD):
        a = Rng(3, 2, "A").normal((2, DIM), F64) / 2
        self.observed = ObservedProblem(of, a, sd)
        self.instrument = Instrument(MatrixOperator(a, (DIM,)), GaussianNoise(sd))
        self.denoiser = of.denoiser()
        self.y = cast(Tensor, self.observed.draw(1, Rng(4, 1))[1].value)
        self.exact = self.observed.given(self.y)
        self.likelihood = self.instrument.likelihood(self.y)

    @property
    def log_evidence(self) -> float:
        """log p(y)."""
        law, a = self.observed.problem.law, self.observed.matrix
        each = [
            torch.distributions.MultivariateNormal(
                a @ mean, a @ covariance @ a.T + self.observed.sd**2 * torch.eye(len(a), dtype=F64)
            ).log_prob(self.y[0])
            for mean, covariance in zip(law.means, law.covariances, strict=True)
        ]
        return float(torch.logsumexp(torch.stack(each) + law.weights.log(), 0))

    def draws(self, n: int) -> Tensor:
        return self.exact.draws(n, Rng(5, 1))[:, 0]

    def apart(self, found: Tensor) -> float:
        return energy_distance(found.double(), self.draws(len(found)))


# resampling


def test_systematic_resampling_takes_each_item_almost_as_often_as_its_weight_says() -> None:
    weights = Rng(0, 1, "weights").uniform((1, 50), F64)[0]
    weights = weights / weights.sum()
    for seed in range(20):
        counts = systematic(weights, Rng(seed, 50)).bincount(minlength=50)
        assert bool((counts - 50 * weights).abs().lt(1 + 1e-9).all())


def test_systematic_resampling_is_right_on_average() -> None:
    """1,000 repeats: a count has a standard error of at most 0.5 / sqrt(1000) = 0.016."""
    weights = torch.tensor([0.05, 0.15, 0.3, 0.5], dtype=F64)
    counts = torch.stack([systematic(weights, Rng(seed, 4)).bincount(minlength=4) for seed in range(1000)]).double()
    assert float((counts.mean(0) - 4 * weights).abs().max()) < 0.05


def test_an_item_without_weight_is_never_taken() -> None:
    weights = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0], dtype=F64)
    taken = torch.cat([systematic(weights, Rng(seed, 5)) for seed in range(50)])
    assert set(taken.tolist()) == {1, 3}


def test_resampling_keeps_the_mean_weight_and_levels_the_weights() -> None:
    x = torch.arange(4.0)[:, None]
    people = Population.of(x, 0.9, Rng(0, 4))
    log_factor = torch.tensor([0.0, 3.0, -1.0, -2.0], dtype=F64)
    people.weigh(log_factor)
    (kept,) = people.resampled(x)
    assert people.resamplings == 1
    assert float(people.log_weight.exp().mean()) == pytest.approx(float(log_factor.exp().mean()))
    assert float(people.log_weight.std()) == 0
    assert (kept == 1).sum() >= 3


def test_weights_are_kept_while_the_effective_size_suffices() -> None:
    x = torch.zeros(4, 1)
    people = Population.of(x, 0.5, Rng(0, 4))
    for _ in range(2):
        people.weigh(torch.tensor([0.0, 0.1, 0.2, 0.3], dtype=F64))
        assert people.resampled(x)[0] is x
    assert people.resamplings == 0
    assert people.log_weight.tolist() == pytest.approx([0, 0.2, 0.4, 0.6])


@pytest.mark.parametrize("weights", [[-math.inf, -math.inf], [0.0, math.nan], [0.0, math.inf]])
def test_undefined_weights_are_an_error(weights: list[float]) -> None:
    """One particle without a number is enough: its weight would decide the run in silence."""
    with pytest.raises(ValueError, match="none has a finite log weight"):
        Population.of(torch.zeros(2, 1), 0.5, Rng(0, 2)).weigh(torch.tensor(weights))


def test_the_last_weights_are_not_resampled() -> None:
    one = Measured(problem(3), sd=0.15)
    grid = even_in_variance(VP(), 40, 4.0)
    for found in (
        twisted(one.denoiser, one.likelihood, few(VP(), 10), Rng(0, 50), least=1.0, dtype=F64),
        afdps(one.denoiser, one.instrument, one.y, grid, Rng(0, 50), "ode", least=1.0, dtype=F64),
    ):
        assert float(found.log_weight.std()) > 0.1


# AFDPS


class NoNoise:
    """In the place of an Rng: steps without their noise."""

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize("sd", [0.5, 2.0])
def test_a_step_of_the_sde_carries_the_density(sd: float) -> None:
    """Data N(0, 1), y = x + sd z, by quadrature in place of particles: p_u(x) p(y | x) goes to the posterior of y.

    The step gives each place its next mean and its weight. The error falls with the length of steps.
    """
    y, top, x = 1.5, 4.0, torch.linspace(-11, 11, 601, dtype=F64)[:, None]
    errors = []
    for steps in (100, 200):
        clock = torch.linspace(top, 0, steps + 1, dtype=F64).tolist()
        density = torch.exp(-(x**2) / (2 * (1 + top)) - (x - y) ** 2 / (2 * sd**2))[:, 0]
        for u, after in pairwise(clock):
            score, steep = -x / (1 + u), (x - y) / sd**2
            to, log_factor = _sde(x, score, steep, u - after, cast(Rng, NoNoise()))
            kernel = torch.exp(-((x.T - to) ** 2) / (2 * (u - after)))
            density = (density * log_factor.exp()) @ kernel
            density = density / density.sum()
        mean = float(density @ x[:, 0])
        errors.append(abs(mean - y / (1 + sd**2)) + abs(float(density @ x[:, 0] ** 2) - mean**2 - 1 / (1 + sd**-2)))
    assert errors[1] < 0.03 and errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("process", [VP(), VE()], ids=["vp", "ve"])
def test_one_step_from_the_start_is_that_of_the_equations(process: Gaussian) -> None:
    """Data N(0, 1). The ode goes half the way from x to its mean x / (1 + u), so that x can be told from the end.

    The start has the law N(0, u I) times the likelihood: 20,000 particles, so that a mean is off by 0.01 of its spread.
    """
    one, u, n = Measured(problem(1, process, sd=1.0), sd=0.5), 2.0, 20_000
    found = afdps(one.denoiser, one.instrument, one.y, even_in_variance(process, 1, u), Rng(0, n), "ode", 0.0, F64)
    start = found.x / (0.5 + 0.5 / (1 + u))
    a, score = one.observed.matrix, -start / (1 + u)
    steep = (start @ a.T - one.y) @ a / 0.25
    assert float((found.log_weight + u / 2 * (score * steep).sum(1)).abs().max()) < 1e-9
    law = torch.linalg.inv(torch.eye(DIM, dtype=F64) / u + a.T @ a / 0.25)
    mean = law @ (a.T @ one.y[0]) / 0.25
    assert float(((start.mean(0) - mean) / law.diagonal().sqrt()).abs().max()) < 0.04
    assert float((torch.cov(start.T) - law).abs().max()) < 0.06


def test_weights_of_the_ode_telescope() -> None:
    """log w = log p(y | x_end) - log p(y | x_start) with short steps, so that it holds for differences of particles
    whose start is known: their error falls as 1 / n."""
    one = Measured(problem(1, sd=0.7))
    errors = []
    for steps in (50, 100, 200):
        grid = even_in_variance(VP(), steps, 4.0)
        start = afdps(one.denoiser, one.instrument, one.y, grid[:2], Rng(0, 50), "ode", least=0.0, dtype=F64)
        # one step of no length would be the start itself; undo the step of known length
        end = afdps(one.denoiser, one.instrument, one.y, grid, Rng(0, 50), "ode", least=0.0, dtype=F64)
        change = one.likelihood(end.x) - one.likelihood(start.x)
        off = (end.log_weight - start.log_weight) - change
        errors.append(float(off.abs().mean()))
    assert errors[1] < 0.62 * errors[0] and errors[2] < 0.62 * errors[1]


def test_without_resampling_few_particles_carry_the_weight() -> None:
    """Of 300 particles, over five seeds: 1 to 9 without resampling, and 50 to 222 with it."""
    one, grid = Measured(problem(6), sd=0.3), even_in_variance(VP(), 200, 8.0)
    size = [
        afdps(one.denoiser, one.instrument, one.y, grid, Rng(0, 300), least=least, dtype=F64).effective_size
        for least in (0.0, 0.5)
    ]
    assert size[0] < 10 and size[1] > 30


def test_a_mean_of_the_sde_can_be_far_off_because_its_weights_have_heavy_tails() -> None:
    """One Gaussian, y with noise of 1, 2,000 particles: the largest error of a mean, in exact standard deviations, is
    0.10 to 0.20 for five seeds, and 0.95 for one. Draws would be off by 0.02."""
    one, grid = Measured(problem(1, sd=0.7), sd=1.0), even_in_variance(VP(), 200, 8.0)
    sd, off = one.exact.covariance[0].diagonal().sqrt(), []
    for seed in range(6):
        found = afdps(one.denoiser, one.instrument, one.y, grid, Rng(seed, 2000), dtype=F64)
        off.append(float(((found.mean - one.exact.mean[0]) / sd).abs().max()))
    assert max(off) > 0.5 and sorted(off)[2] < 0.25


def test_an_unstable_explicit_step_is_an_error() -> None:
    one = Measured(problem(1), sd=0.01)
    with pytest.raises(ValueError, match="none has a finite log weight"):
        afdps(one.denoiser, one.instrument, one.y, even_in_variance(VP(), 200, 50.0), Rng(0, 20), "sde")


def test_even_in_variance_is_even() -> None:
    grid = even_in_variance(VP(), 10, 5.0)
    clock = torch.exp(-VP().logsnr(grid[:-1]))
    assert clock.tolist() == pytest.approx(torch.linspace(5, 0.5, 10).tolist(), rel=1e-6)
    assert float(grid[-1]) == 0


# twisted sequential Monte Carlo


def effective(found: WeightedSamples) -> float:
    return found.effective_size / len(found)


@pytest.mark.parametrize("guidance", ["pseudo-inverse", "draws", "none"])
def test_the_evidence_of_twisted_particles_is_that_of_y(guidance: str) -> None:
    """1,000 particles and 50 steps: over five seeds log p^(y) has a spread of 0.03 to 0.06, and one seed in five of
    the pseudo-inverse a particle of far too large a weight."""
    n, one = 1000, Measured(problem(3))
    wrap = {
        "pseudo-inverse": guided_by_pseudo_inverse(one.instrument, one.y),
        "draws": guided_by_draws(one.likelihood, 8, Rng(7, n)),
        "none": lambda denoiser: denoiser,
    }[guidance]
    found = twisted(wrap(one.denoiser), one.likelihood, few(VP(), 50), Rng(0, n), dtype=F64)
    assert found.log_z == pytest.approx(one.log_evidence, abs=0.2)
    assert one.apart(found.resampled(n, Rng(1, n))) < 0.015


@pytest.mark.parametrize("least", [0.0, 0.5])
def test_the_evidence_is_right_on_average_also_with_resampling(least: float) -> None:
    """24 seeds: the mean has a standard error of 0.03, and the median lies at 0.91 because weights are skewed."""
    one = Measured(problem(3))
    led = guided_by_pseudo_inverse(one.instrument, one.y)(one.denoiser)
    ratios = [
        math.exp(twisted(led, one.likelihood, few(VP(), 50), Rng(seed, 400), least, F64).log_z - one.log_evidence)
        for seed in range(24)
    ]
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.14)


def test_twisting_corrects_an_approximate_guidance() -> None:
    """The energy distance is 0.014 for the guidance alone, and 0.002 to 0.005 over three seeds of particles."""
    n, one = 600, Measured(problem(6), sd=0.15)
    led = guided_by_pseudo_inverse(one.instrument, one.y)(one.denoiser)
    alone = sample(led, n, sampler=ancestral, grid=uniform(VP(), 60), batch=n)
    found = twisted(led, one.likelihood, uniform(VP(), 60), Rng(1, n), dtype=F64)
    assert one.apart(found.resampled(n, Rng(1, n))) < 0.5 * one.apart(alone)


def test_a_guidance_costs_less_effective_size_than_none() -> None:
    n, one = 500, Measured(problem(6), sd=0.1)
    bare = twisted(one.denoiser, one.likelihood, few(VP(), 40), Rng(0, n), least=0.0, dtype=F64)
    led = guided_by_pseudo_inverse(one.instrument, one.y)(one.denoiser)
    found = twisted(led, one.likelihood, few(VP(), 40), Rng(0, n), least=0.0, dtype=F64)
    assert effective(found) > 2 * effective(bare)


def test_without_guidance_the_weights_are_the_likelihood() -> None:
    one = Measured(problem(3))
    found = twisted(one.denoiser, one.likelihood, few(VP(), 10), Rng(0, 30), least=0.0, dtype=F64)
    assert float((found.log_weight - one.likelihood(found.x)).abs().max()) < 1e-9


def test_masks_serve_particles() -> None:
    """The same as rows of a matrix, but for rounding."""
    of, seen = problem(1, sd=1.0), torch.tensor([1.0, 1, 0, 0])
    y = torch.tensor([[0.5, -0.5]], dtype=F64)
    rows = Instrument(MatrixOperator(torch.eye(DIM, dtype=F64)[:2], (DIM,)), GaussianNoise(SD))
    mask = Instrument(Mask(seen, (DIM,)), GaussianNoise(SD))
    by_mask, by_rows = (
        twisted(
            guided_by_pseudo_inverse(own, given)(of.denoiser()),
            own.likelihood(given),
            uniform(VP(), 10),
            Rng(0, 50),
            dtype=F64,
        )
        for own, given in ((mask, torch.cat([y, 7 + 0 * y], 1)), (rows, y))
    )
    assert float((by_mask.x - by_rows.x).abs().max()) < 1e-5
    assert float((by_mask.log_weight - by_rows.log_weight).abs().max()) < 1e-5


# what is refused


def test_particles_share_one_measurement() -> None:
    one = Measured(problem(1))
    with pytest.raises(ValueError, match="particles share one measurement"):
        afdps(one.denoiser, one.instrument, one.y.repeat(2, 1), few(VP(), 5), Rng(0, 10))


def test_other_arguments_outside_their_range_are_refused() -> None:
    one = Measured(problem(1))
    with pytest.raises(ValueError, match="the form 'heun'"):
        afdps(one.denoiser, one.instrument, one.y, few(VP(), 5), Rng(0, 10), cast(Form, "heun"))
    with pytest.raises(ValueError, match="a share of 2"):
        twisted(one.denoiser, one.likelihood, few(VP(), 5), Rng(0, 10), least=2)
    with pytest.raises(ValueError, match="the grid ends at"):
        twisted(one.denoiser, one.likelihood, few(VP(), 5)[:-1], Rng(0, 10))
    with pytest.raises(ValueError, match="both must be above 0"):
        even_in_variance(VP(), 0, 1.0)


def test_particles_live_where_the_denoiser_does(device: torch.device) -> None:
    one = Measured(problem(1))
    rng = Rng(0, 8, device=device)
    found = afdps(one.denoiser, one.instrument, one.y, even_in_variance(VP(), 5, 0.1), rng)
    assert len(found) == 8 and found.calls == 5 and math.isfinite(found.log_z)
