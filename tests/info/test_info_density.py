"""Likelihoods by denoising errors: levels, the reference, densities, whole numbers, and the bound of a chain."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from torch import Tensor

from softmix.data.toys import ToyMixture
from softmix.denoiser import ExactMixture, adjusted, wiener
from softmix.info import (
    EvenLevels,
    GaussianReference,
    Grid,
    Levels,
    at_levels,
    best_rounding,
    curve,
    density,
    discrete,
    discrete_curve,
    pointwise_information,
    variational,
)
from softmix.info.density import offset_of
from softmix.oracle import MixtureProblem, correlated, eight, gaussian
from softmix.posterior import HasMean, Point, need
from softmix.process import VE, VP, Flow, Gaussian, Immiscible
from softmix.rng import Rng

F64 = torch.float64


def mean_of(posterior: object) -> Tensor:
    return need(posterior, HasMean, "test").mean  # type: ignore[arg-type]


def reference_of(problem: MixtureProblem) -> GaussianReference:
    return GaussianReference.of(problem.law.mean, problem.law.covariance)


# levels


def test_weights_make_sums_of_integrals() -> None:
    """A normal law of a, of which less than 1e-6 lies outside: 200 levels are right to 1e-4, wherever they begin."""
    for offset in (0.1, 0.5, 0.9):
        logsnr, weight = Levels(1.0, 2.0).draw(200, offset)
        assert float((weight * (-((logsnr - 2) ** 2) / 2).exp()).sum()) == pytest.approx(
            math.sqrt(2 * math.pi), rel=1e-4
        )
        assert float(weight.sum()) == pytest.approx(16, rel=0.02)


def test_even_levels_are_the_rule_of_the_midpoint() -> None:
    logsnr, weight = EvenLevels(-2.0, 4.0).draw(3)
    assert logsnr.tolist() == [-1.0, 1.0, 3.0] and weight.tolist() == [2.0, 2.0, 2.0]
    logsnr, weight = EvenLevels(-20.0, 20.0).inside(-5.0, 30.0).draw(100, 0.2)
    assert float(logsnr[0]) == pytest.approx(-4.95) and float(weight.sum()) == pytest.approx(25)
    for low, high in ((1.0, 1.0), (-math.inf, 0.0)):
        with pytest.raises(ValueError, match="even levels go"):
            EvenLevels(low, high)


def test_few_levels_are_unbiased_for_a_random_offset() -> None:
    """The mean over 1,000 even offsets of 2 levels, to 1e-3."""
    found = []
    for k in range(1000):
        logsnr, weight = Levels(0.0, 1.5).draw(2, (k + 0.5) / 1000)
        found.append(float((weight * (-((logsnr - 1) ** 2) / 2).exp()).sum()))
    assert sum(found) / 1000 == pytest.approx(math.sqrt(2 * math.pi), rel=1e-3) and max(found) > 2 * min(found)


def test_levels_beyond_the_ends_have_no_weight() -> None:
    levels = Levels(0.0, 1.0).inside(-1.0, 2.0)
    logsnr, weight = levels.draw(300)
    inside = (logsnr >= -1) & (logsnr <= 2)
    assert levels.ends == (-1.0, 2.0) and bool((weight[inside] > 0).all()) and not weight[~inside].any()
    assert float(weight.sum()) == pytest.approx(3, rel=0.03)
    assert levels.inside(-3.0, 1.0).ends == (-1.0, 1.0)
    asked = [at.logsnr for at in at_levels(VP(), torch.zeros(1, 2), Rng(0, 1), levels, 30)]
    assert len(asked) < 30 and min(asked) >= -1 and max(asked) <= 2


def test_no_model_is_asked_beyond_the_last_level_of_its_process() -> None:
    """VP's linear schedule ends at logsnr -10.05."""
    asked = list(at_levels(VP("linear"), torch.zeros(1, 2), Rng(0, 1), EvenLevels(-15.0, 5.0), 20))
    assert min(at.logsnr for at in asked) > -10.06 and len(asked) == 20
    assert sum(at.weight for at in asked) == pytest.approx(5 - float(VP("linear").logsnr(1.0)))


def test_repeats_have_levels_of_their_own() -> None:
    offsets = [offset_of(repeat) for repeat in range(8)]
    gaps = sorted(offsets)
    assert all(0 < each < 1 for each in offsets) and offsets[0] == 0.5
    assert all(0.05 < b - a < 0.2 for a, b in itertools.pairwise(gaps))


def test_the_levels_of_data_follow_their_variances() -> None:
    levels = Levels.of(torch.tensor([0.1, 1.0, 10.0], dtype=F64))
    spread = 2 / 3 * math.log(10) ** 2
    assert levels.loc == pytest.approx(0) and levels.scale == pytest.approx(math.sqrt(1 + 3 / math.pi * spread))
    assert levels.ends == (pytest.approx(-4 * levels.scale), pytest.approx(4 * levels.scale))


@pytest.mark.parametrize("bad", [{"scale": 0.0}, {"clip": -1.0}, {"loc": math.inf}, {"low": 9.0, "high": 8.0}])
def test_levels_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"levels have|no level is left"):
        Levels(**bad)


@pytest.mark.parametrize("process", [VP(), VE(), Flow()])
def test_items_are_noised_at_their_levels_whatever_the_batch(process: Gaussian) -> None:
    x0, levels = Rng(0, 7).normal((7, 3), F64), Levels(0.0, 1.0)
    whole = list(at_levels(process, x0, Rng(1, 7), levels, 3, batch=100))
    parts = list(at_levels(process, x0, Rng(1, 7), levels, 3, batch=2))
    for k, at in enumerate(whole):
        own = parts[4 * k : 4 * k + 4]
        assert torch.equal(torch.cat([each.noised.xt for each in own]), at.noised.xt)
        assert torch.allclose(at.noised.logsnr, torch.tensor(at.logsnr, dtype=F64), atol=1e-8)
        assert {each.logsnr for each in own} == {at.logsnr}
    assert not torch.equal(whole[0].noised.z, whole[1].noised.z)


# the reference


def test_the_reference_is_a_normal_law() -> None:
    problem = gaussian((4,))
    own, x = reference_of(problem), problem.sample(6, Rng(0, 6))
    law = torch.distributions.MultivariateNormal(problem.law.mean, problem.law.covariance)
    assert torch.allclose(own.nats(x), -law.log_prob(x)) and own.entropy == pytest.approx(float(law.entropy()))
    t = torch.linspace(0.1, 0.9, 6, dtype=F64)
    xt = VP().noise(x, t, Rng(1, 6)).xt
    alpha = VP().alpha(t)[:, None]
    right = mean_of(wiener(VP(), problem.law.mean, problem.law.covariance)(xt, t))
    assert torch.allclose(own.denoise(xt / alpha, VP().logsnr(t)), right, atol=1e-9)


def test_the_part_below_the_range_is_the_integral_of_the_errors() -> None:
    """Against a sum over snr, with E|x - denoised|^2 = bias^2 + variance along each axis."""
    problem = gaussian((3,))
    own, x = reference_of(problem), problem.sample(4, Rng(0, 4))
    snr = torch.linspace(0, 2.5, 4001, dtype=F64)
    c = ((x - own.mean) @ own.vectors).square()[:, None]
    gain = snr[:, None] * own.variances / (1 + snr[:, None] * own.variances)
    error = (c * (1 - gain) ** 2 + (gain**2 / snr[:, None].clamp(min=1e-12))).sum(2)
    right = torch.trapezoid(error, snr, dim=1) / 2
    assert torch.allclose(own.head_nats(x, 2.5), right, atol=1e-5)


def test_a_flat_direction_needs_a_floor() -> None:
    x = torch.cat([Rng(0, 50).normal((50, 2)), torch.zeros(50, 1)], 1)
    with pytest.raises(ValueError, match="give `fit` a floor"):
        GaussianReference.fit(x)
    assert float(GaussianReference.fit(x, 1e-3).variances.min()) == pytest.approx(1e-3)


# densities


@pytest.mark.parametrize("process", [VP(), VE(), Flow()])
def test_the_density_of_a_gaussian_is_exact(process: Gaussian) -> None:
    """The errors of the model and of the reference are the same, with the same noise."""
    problem = gaussian((3,), process)
    x = problem.sample(5, Rng(0, 5))
    found = density(problem.denoiser(), x, Rng(1, 5), reference_of(problem), n=4)
    assert torch.allclose(found.each, -problem.law.log_prob(x), atol=1e-9) and found.dims == 3


@pytest.mark.parametrize("problem", [correlated(), correlated((2, 2, 2)), eight()], ids=lambda each: each.name)
def test_the_density_of_a_mixture_is_that_of_its_items(problem: MixtureProblem) -> None:
    """Each of 12 items, and their mean, to five standard errors of 60 levels and 8 repeats."""
    x = problem.sample(12, Rng(0, 12))
    found = density(problem.denoiser(), x, Rng(1, 12), reference_of(problem), Levels(3.0, 3.0), n=60, repeats=8)
    off = found.each + problem.law.log_prob(x.flatten(1))
    assert bool((off.abs() < 5 * found.error + 0.01).all())
    assert abs(float(off.mean())) < 5 * float(found.error.mean()) / 12**0.5
    assert float(found.error.mean()) < 0.5


def test_a_worse_model_has_more_nats() -> None:
    """A mean that is off by 0.1 costs (1 / 2) int snr 0.01 d logsnr = 0.005 (snr_1 - snr_0) an element."""
    problem, levels = gaussian((3,)), Levels(0.0, 0.5)
    x = problem.sample(50, Rng(0, 50))
    worse = adjusted(lambda posterior, xt, t: Point(mean_of(posterior) + 0.1))(problem.denoiser())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, right = (
            density(each, x, Rng(1, 50), reference_of(problem), levels, n=100) for each in (worse, problem.denoiser())
        )
    low, high = levels.ends
    cost = 3 * 0.005 * (math.exp(high) - math.exp(low))
    assert found.mean - right.mean == pytest.approx(cost, rel=0.1)


def test_what_lies_beyond_the_range_is_told() -> None:
    """Eight narrow components: at the end of short levels much is left."""
    problem = eight()
    x = problem.sample(30, Rng(0, 30))
    with pytest.warns(UserWarning, match="lie above logsnr 2"):
        found = density(problem.denoiser(), x, Rng(1, 30), reference_of(problem), Levels(0.0, 0.5))
    assert found.cut[1] < -0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        density(problem.denoiser(), x, Rng(1, 30), reference_of(problem), Levels(2.0, 3.0))


def test_the_curve_is_the_error_at_each_level() -> None:
    """For a Gaussian: sum_i l_i snr / (1 + snr l_i), to 5 % with 4,000 items."""
    problem = gaussian((3,))
    x = problem.sample(4000, Rng(0, 4000))
    found = curve(problem.denoiser(), x, Rng(1, 4000), reference_of(problem), (-3.0, 0.0, 3.0))
    snr = found.logsnr.exp()[:, None]
    variances = torch.linalg.eigvalsh(problem.law.covariance)
    right = (snr * variances / (1 + snr * variances)).sum(1)
    assert torch.allclose(found.model, right, rtol=0.05) and torch.allclose(found.gaussian, found.model)
    assert torch.allclose(found.density, torch.zeros(3, dtype=F64), atol=1e-9)


def test_what_has_no_density_by_errors_is_refused() -> None:
    problem = gaussian()
    x, own = problem.sample(2, Rng(0, 2)), reference_of(problem)
    with pytest.raises(ValueError, match="two repeats"):
        density(problem.denoiser(), x, Rng(1, 2), own, repeats=1)
    with pytest.raises(TypeError, match="independent of x0"):
        density(gaussian(process=Immiscible()).denoiser(), x, Rng(1, 2), own)


# information


def two_components() -> MixtureProblem:
    """Means -1 and 1, standard deviations 0.5, equal weights."""
    half = torch.full((2,), 0.5, dtype=F64)
    law = ToyMixture("two", half, torch.tensor([[-1.0], [1.0]], dtype=F64), torch.full((2, 1, 1), 0.5, dtype=F64))
    return MixtureProblem("two", law, VP(), (1,))


class Told:
    """The denoiser of `two_components` given the component, or not."""

    process = VP()

    def __call__(self, xt: Tensor, t: object, cond: Tensor | None = None) -> Point:
        law = two_components().law
        if cond is None:
            return Point(mean_of(ExactMixture(self.process, law.weights, law.means, law.covariances)(xt, t)))  # type: ignore[arg-type]
        each = [mean_of(wiener(self.process, law.means[k], law.covariances[k])(xt, t)) for k in range(2)]  # type: ignore[arg-type]
        return Point(torch.where((cond == 0)[:, None], *each))


def test_pointwise_information_is_the_log_ratio_and_its_orthogonal_form_is_not() -> None:
    """At x = -1.5 the component at 1 is misinformation, -11.307 nats; the orthogonal form says +6.981."""
    n = 400
    x = torch.full((n, 1), -1.5, dtype=F64)
    law = two_components().law
    given = torch.ones(n, dtype=torch.int64)
    right = torch.distributions.Normal(1.0, 0.5).log_prob(x[0, 0]) - law.log_prob(x[:1])[0]
    assert float(right) == pytest.approx(-11.307, abs=1e-3)
    standard, orthogonal = pointwise_information(Told(), x, Rng(0, n), Levels(1.0, 3.0), given, n=64)
    assert float(standard.mean()) == pytest.approx(-11.307, abs=5 * float(standard.std()) / n**0.5)
    assert float(orthogonal.mean()) == pytest.approx(6.981, abs=5 * float(orthogonal.std()) / n**0.5)
    assert float(standard.std()) / n**0.5 < 0.15 and bool((orthogonal > 0).all())


def test_the_two_forms_agree_in_the_mean_over_the_condition() -> None:
    """Over x of the component at 1: 0.63272 nats, the divergence of the component from the mixture."""
    n = 4000
    x = 1 + 0.5 * Rng(5, n).normal((n, 1), F64)
    given = torch.ones(n, dtype=torch.int64)
    for found in pointwise_information(Told(), x, Rng(0, n), Levels(1.0, 3.0), given, n=32):
        assert float(found.mean()) == pytest.approx(0.63272, abs=5 * float(found.std()) / n**0.5)


def test_information_without_levels_or_repeats_is_refused() -> None:
    for n, repeats in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least one level and one repeat"):
            pointwise_information(
                Told(), torch.zeros(1, 1), Rng(0, 1), Levels(), torch.zeros(1).long(), None, n, repeats
            )


# whole numbers

COARSE = Grid(0.25)
SHARES = torch.tensor([0.05, 0.1, 0.2, 0.02, 0.03, 0.25, 0.15, 0.15, 0.05], dtype=F64)


class Coarse:
    """The exact denoiser of three independent numbers of nine values."""

    process = VP()

    def __call__(self, xt: Tensor, t: object, cond: object = None) -> Point:
        values = (-1 + 0.25 * torch.arange(9, dtype=F64)).to(xt.device)
        alpha, sigma = (part.reshape(-1, 1, 1) for part in self.process.levels(t))  # type: ignore[arg-type]
        logits = SHARES.to(xt.device).log() - (xt.double()[..., None] - alpha * values) ** 2 / (2 * sigma**2)
        return Point((logits.softmax(-1) * values).sum(-1))


def numbers(n: int) -> tuple[Tensor, Tensor]:
    """Items, and -log P of each."""
    u = Rng(0, n).uniform((n, 3), F64)
    k = torch.searchsorted(SHARES.cumsum(0), u).clamp(max=8)
    return -1 + 0.25 * k.double(), -SHARES.log()[k].sum(1)


def test_the_bits_of_whole_numbers_are_those_of_their_law() -> None:
    """In the mean over 1,500 items to five standard errors of the integral, which are 0.05 nats of 5.87."""
    x, right = numbers(1500)
    found = discrete(
        Coarse(), x, Rng(1, 1500), GaussianReference.fit(x), COARSE, rounded_from=math.inf, n=32, repeats=4
    )
    off = found.each - right
    size = float(off.std()) / 1500**0.5
    assert size < 0.03 and abs(float(off.mean())) < 5 * size
    assert found.bits_per_dim == pytest.approx(found.mean / 3 / math.log(2))


def test_the_map_holds_the_nats_of_each_element() -> None:
    """Three independent numbers: -log P of each is known. In the mean over 1,500 items to five standard errors, and the
    sum over an item is its value."""
    x, _ = numbers(1500)
    right = -SHARES.log()[((x + 1) / 0.25).round().long()]
    settings = {"rounded_from": math.inf, "n": 64, "repeats": 8}
    found = discrete(Coarse(), x, Rng(1, 1500), GaussianReference.fit(x), COARSE, maps=True, **settings)  # type: ignore[arg-type]
    plain = discrete(Coarse(), x, Rng(1, 1500), GaussianReference.fit(x), COARSE, **settings)  # type: ignore[arg-type]
    assert found.map is not None and plain.map is None
    assert torch.allclose(found.map.sum(1), found.each) and torch.allclose(plain.each, found.each)
    off = found.map - right
    for element in range(3):
        assert abs(float(off[:, element].mean())) < 5 * float(off[:, element].std()) / 1500**0.5
    # a rare value has more nats than a frequent one; over three seeds the correlation was 0.938 to 0.941
    assert float(torch.corrcoef(torch.stack([found.map.flatten(), right.flatten()]))[0, 1]) > 0.9


def test_half_the_curve_of_whole_numbers_is_their_integrand() -> None:
    """A sum over 200 even levels is the integral of `discrete` without its sides, to five standard errors of 0.01."""
    x, _ = numbers(1500)
    own = GaussianReference.fit(x)
    found = discrete(Coarse(), x, Rng(1, 1500), own, COARSE, n=64, repeats=4)
    low, high = found.ends
    logsnr = low + (high - low) * (torch.arange(200, dtype=F64) + 0.5) / 200
    shape = discrete_curve(Coarse(), x, Rng(2, 1500), own, logsnr.tolist(), COARSE)
    inside = float((shape.model / 2).sum()) * (high - low) / 200
    sides = float(own.head_nats(x, math.exp(low)).mean()) + 3 * COARSE.tail(math.exp(high))
    assert inside + sides == pytest.approx(found.mean, abs=0.05)
    # the Gaussian knows less, and where rounding is sure both are without errors
    assert float(shape.gaussian.sum()) > 1.05 * float(shape.model.sum())
    assert float(shape.model[-1]) < 1e-6
    # a model that may not be asked is replaced by rounding, at each level
    blind = discrete_curve(Coarse(), x, Rng(2, 1500), own, [1.0], COARSE, ends=(2.0, 3.0))
    assert float(blind.model) == pytest.approx(float(blind.gaussian)) and float(blind.model) > 1.02 * float(
        discrete_curve(Coarse(), x, Rng(2, 1500), own, [1.0], COARSE).model
    )


def test_without_errors_the_parts_beyond_the_range_remain() -> None:
    """A denoiser that knows the one item: left are the part of the Gaussian below, and that of rounding above."""
    x = torch.full((3, 3), 0.25, dtype=F64)
    own = GaussianReference.fit(numbers(100)[0])

    class Knows:
        process = VP()

        def __call__(self, xt: Tensor, t: object, cond: object = None) -> Point:
            return Point(torch.full_like(xt, 0.25))

    found = discrete(Knows(), x, Rng(0, 3), own, COARSE, rounded_from=math.inf, n=4)
    low, high = found.ends
    right = own.head_nats(x, math.exp(low)) + 3 * COARSE.tail(math.exp(high))
    assert torch.allclose(found.each, right, atol=1e-9) and 0.0003 < COARSE.tail(math.exp(high)) < 0.001 * math.log(2)


def test_the_part_below_the_range_is_shared_out_by_the_distance_from_the_mean() -> None:
    x = torch.tensor([[-0.75, 0.25, 1.0]], dtype=F64)
    own = GaussianReference.fit(numbers(400)[0])

    class Knows:
        process = VP()

        def __call__(self, xt: Tensor, t: object, cond: object = None) -> Point:
            return Point(x.expand_as(xt))

    found = discrete(Knows(), x, Rng(0, 1), own, COARSE, rounded_from=math.inf, n=4, maps=True)
    low, high = found.ends
    size = (x - own.mean) ** 2
    right = own.head_nats(x, math.exp(low)) * size / size.sum() + COARSE.tail(math.exp(high))
    assert found.map is not None and torch.allclose(found.map, right, atol=1e-9)


def test_every_way_to_round_gives_a_bound() -> None:
    """Too early, and blindly from logsnr 3 on: 0.2 and 0.4 nats above the law."""
    x, right = numbers(1500)
    own = GaussianReference.fit(x)
    early = discrete(Coarse(), x, Rng(1, 1500), own, COARSE, rounded_from=-9.0, n=16)
    short = Levels.of(own.variances).inside(-20, 3.0)
    blind = discrete(Coarse(), x, Rng(1, 1500), own, COARSE, short, rounded_from=math.inf, n=16)
    for found in (early, blind):
        assert 0.1 < found.mean - float(right.mean()) < 1.0


def test_rounding_helps_a_model_that_does_not_know_the_grid() -> None:
    """A Gaussian model: from about the logsnr at which a step is 4 standard deviations of the noise on."""
    x, _ = numbers(1000)
    own = GaussianReference.fit(x)
    law = wiener(VP(), own.mean, own.vectors @ torch.diag(own.variances) @ own.vectors.T)
    best = best_rounding(law, x, Rng(2, 1000), COARSE, tuple(range(-2, 12)))
    assert 2 <= best <= 5
    with_it, without = (
        discrete(law, x, Rng(1, 1000), own, COARSE, rounded_from=start, n=16).mean for start in (best, math.inf)
    )
    assert with_it < without - 0.3
    assert best_rounding(Coarse(), x, Rng(2, 1000), COARSE, tuple(range(-2, 12))) >= 5


def test_soft_rounding_is_the_mean_of_near_values() -> None:
    y = torch.tensor([[-0.9, 0.11, 2.0]], dtype=F64)
    values = -1 + 0.25 * torch.arange(9, dtype=F64)
    weights = (-40.0 * (y[..., None] - values) ** 2 / 2).softmax(-1)
    assert torch.allclose(COARSE.average(y, 40.0), (weights * values).sum(-1), atol=1e-9)
    assert COARSE.count == 9 and Grid().count == 256


def test_the_tail_bounds_the_error_of_hard_rounding() -> None:
    """(1 / 2) int of E|round(x + n) - x|^2 over snr, on an endless grid."""
    snr = torch.logspace(math.log10(30.0), 5, 20_000, dtype=F64)
    j = torch.arange(1, 30, dtype=F64)
    beyond = 2 * torch.special.ndtr(-(j - 0.5) * 0.25 * snr.sqrt()[:, None])
    error = ((2 * j - 1) * 0.25**2 * beyond).sum(1)
    right = float(torch.trapezoid(error, snr)) / 2
    assert right < COARSE.tail(30.0) < 4 * right


def test_values_off_the_grid_are_refused() -> None:
    x = torch.full((2, 3), 0.1, dtype=F64)
    own = GaussianReference(torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64), torch.eye(3, dtype=F64))
    with pytest.raises(ValueError, match=r"values on a grid of step 0\.25"):
        discrete(Coarse(), x, Rng(0, 2), own, COARSE)


# the bound of a chain


def test_the_bound_of_a_chain_falls_towards_the_law() -> None:
    """1,500 items: 6.9 nats with 100 steps and 5.94 with 1,000, and 5.87 of the law; standard errors of 0.07."""
    x, right = numbers(1500)
    found = [
        variational(Coarse(), x, Rng(3, 1500), torch.linspace(1, 0.01, steps + 1, dtype=F64), COARSE, draws=16)
        for steps in (100, 1000)
    ]
    size = [float((each.each - right).std()) / 1500**0.5 for each in found]
    assert found[0].mean > found[1].mean + 0.5
    assert -3 * size[1] < found[1].mean - float(right.mean()) < 0.1 + 5 * size[1]


def test_each_part_of_the_bound_is_known_for_one_step() -> None:
    """From t to s in one step: the three parts by hand, for a denoiser that answers 0."""
    x, times = torch.tensor([[0.5]], dtype=F64), torch.tensor([0.8, 0.1], dtype=F64)

    class Zero:
        process = VP()

        def __call__(self, xt: Tensor, t: object, cond: object = None) -> Point:
            return Point(torch.zeros_like(xt))

    found = variational(Zero(), x.expand(20_000, 1), Rng(0, 20_000), times, COARSE, draws=1)
    alpha, sigma = (float(part) for part in VP().levels(0.8))
    prior = (alpha**2 * 0.25 + sigma**2 - 1 - math.log(sigma**2)) / 2
    step = float(VP().logsnr(0.1).exp() - VP().logsnr(0.8).exp()) * 0.25 / 2
    # at snr 161 the value 0.5 is 3 standard deviations from its neighbours
    snr = float(VP().logsnr(0.1).exp())
    y = 0.5 + Rng(9, 100_000).normal((100_000,), F64) / snr**0.5
    values = -1 + 0.25 * torch.arange(9, dtype=F64)
    decoded = -(-snr * (y[:, None] - values) ** 2 / 2).log_softmax(1)[:, 6]
    assert found.mean == pytest.approx(prior + step + float(decoded.mean()), abs=5 * float(found.each.std()) / 140)


def test_times_that_do_not_fall_are_refused() -> None:
    x, _ = numbers(2)
    for times in (torch.tensor([0.1, 0.5]), torch.tensor([1.0, 0.0]), torch.tensor([0.5])):
        with pytest.raises(ValueError, match="times that fall inside"):
            variational(Coarse(), x, Rng(0, 2), times, COARSE)
