"""Draws against the declared means and variances; densities against scipy and torch; `need`."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor, distributions

from softmix.posterior import (
    Categorical,
    Empirical,
    FullMixture,
    HasDensity,
    HasMean,
    HasVariance,
    Implicit,
    ImplicitMean,
    Joint,
    Mixture,
    Normal,
    Point,
    Posterior,
    ValuedCategorical,
    need,
)
from softmix.posterior.implicit import spread
from softmix.rng import Rng

pytestmark = pytest.mark.usefixtures("on_device")
F64 = torch.float64
SHAPES = pytest.mark.parametrize("shape", [(3,), (3, 2, 3), (3, 3, 3), (5,)], ids=str)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, F64])


def noise(name: str, *size: int, dtype: torch.dtype = F64) -> Tensor:
    return Rng(0, size[0], name).normal(size, dtype)


Draw = Callable[..., Tensor]


def source(dtype: torch.dtype = F64, times: int = 1) -> Draw:
    """`noise`, with the three items of the batch repeated a number of times."""

    def draw(name: str, *size: int) -> Tensor:
        x = noise(name, *size, dtype=dtype)
        return x.repeat(times, *(1,) * (len(size) - 1)) if size[0] == 3 else x

    return draw


PLAIN = source()


def normal(shape: tuple[int, ...], draw: Draw) -> Normal:
    return Normal(draw("mean", 3, *shape), draw("var", 3, *shape).exp())


def item_normal(shape: tuple[int, ...], draw: Draw) -> Normal:
    ones = (1,) * len(shape)
    return Normal(draw("mean", 3, *shape), draw("var", 3, *ones).exp())


def mixture(shape: tuple[int, ...], draw: Draw) -> Mixture:
    var = draw("var", 3, 4, *shape).exp()
    return Mixture(draw("weight", 3, 4), draw("mean", 3, 4, *shape), 0.1 * var)


def pixel_mixture(shape: tuple[int, ...], draw: Draw) -> Mixture:
    """An independent component for each pixel, shared by the channels (on points the same as `mixture`)."""
    weight = draw("weight", 3, 4, *((1, *shape[1:]) if len(shape) > 1 else ()))
    ones = (1,) * len(shape)
    return Mixture(weight, draw("mean", 3, 4, *shape), 0.1 * draw("v", 3, 1, *ones).exp())


def full(shape: tuple[int, ...], draw: Draw) -> FullMixture:
    dim = math.prod(shape)
    factors = draw("factor", 3, 4, dim, dim)
    factors = 0.3 * factors + 0.5 * torch.eye(dim).to(factors)
    return FullMixture(draw("weight", 3, 4), draw("mean", 3, 4, dim), factors, shape)


def shared_full(shape: tuple[int, ...], draw: Draw) -> FullMixture:
    dim = math.prod(shape)
    factors = draw("factor", 1, 4, dim, dim)
    factors = 0.3 * factors + 0.5 * torch.eye(dim).to(factors)
    return FullMixture(draw("weight", 3, 4), draw("mean", 3, 4, dim), factors, shape)


def empirical(shape: tuple[int, ...], draw: Draw) -> Empirical:
    return Empirical(draw("weight", 3, 6), draw("points", 6, *shape))


def levels(shape: tuple[int, ...], draw: Draw) -> ValuedCategorical:
    return ValuedCategorical(draw("logits", 3, 5, *shape), torch.tensor([-1.0, -0.2, 0.1, 0.6, 2.0]))


def categorical(shape: tuple[int, ...], draw: Draw) -> Categorical:
    return Categorical(draw("logits", 3, 5, *shape))


KINDS = (normal, item_normal, mixture, pixel_mixture, full, shared_full, empirical, levels)
Make = Callable[[tuple[int, ...], Draw], HasVariance]
EVERY = pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
DENSE = pytest.mark.parametrize("make", KINDS[:-2], ids=lambda make: make.__name__)


def deviation(draws: Tensor, mean: Tensor, var: Tensor) -> float:
    """The largest deviation of the means and variances of the draws [m, B, ...] from the declared ones, in standard
    errors.
    """
    off = (draws - mean).double()
    root = math.sqrt(len(draws))
    first = off.mean(0) / off.std(0).clamp(min=1e-300) * root
    second = (off**2 - var).mean(0) / (off**2).std(0).clamp(min=1e-300) * root
    return float(torch.stack([first, second]).abs().max())


@EVERY
@SHAPES
@DTYPES
def test_draws_have_the_mean_and_variance_declared(make: Make, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """1500 draws for each of 3 items: below 5 standard errors (measured at most 4.2). 5 detects a small error."""
    many, posterior = make(shape, source(dtype, 1500)), make(shape, source(dtype))
    draws = many.sample(Rng(1, 4500)).reshape(1500, 3, *shape)
    assert draws.dtype == posterior.mean.dtype == dtype
    var = posterior.var.expand(3, *shape)
    assert deviation(draws, posterior.mean, var) < 5
    assert deviation(draws, posterior.mean + 0.2 * var.sqrt(), var) > 5
    assert deviation(draws, posterior.mean, 1.4 * var) > 5
    several = posterior.draws(4, Rng(2, 3))
    assert several.shape == (4, 3, *shape) and all(not torch.equal(several[0], other) for other in several[1:])


@EVERY
@SHAPES
def test_a_draw_is_a_function_of_the_rng(make: Make, shape: tuple[int, ...]) -> None:
    posterior = make(shape, PLAIN)
    assert torch.equal(posterior.sample(Rng(1, 3)), posterior.sample(Rng(1, 3)))
    assert not torch.equal(posterior.sample(Rng(1, 3)), posterior.sample(Rng(2, 3)))


def test_an_item_alone_has_the_same_draw() -> None:
    weight, mean, var = noise("w", 3, 4), noise("m", 3, 4, 2, 3), noise("v", 3, 4, 2, 3).exp()
    points, log_weights = noise("p", 6, 2, 3), noise("lw", 3, 6)
    factors = noise("f", 3, 4, 6, 6)
    for k in range(3):
        one = slice(k, k + 1)
        pairs = [
            (Normal(mean[:, 0], var[:, 0]), Normal(mean[one, 0], var[one, 0])),
            (Mixture(weight, mean, var), Mixture(weight[one], mean[one], var[one])),
            (Empirical(log_weights, points), Empirical(log_weights[one], points)),
            (ValuedCategorical(mean, mean[0, :, 0, 0]), ValuedCategorical(mean[one], mean[0, :, 0, 0])),
            (Categorical(mean), Categorical(mean[one])),
            (
                FullMixture(weight, mean.flatten(2), factors, (2, 3)),
                FullMixture(weight[one], mean[one].flatten(2), factors[one], (2, 3)),
            ),
        ]
        for several, alone in pairs:
            assert (several.sample(Rng(5, 3))[k] - alone.sample(Rng(5, [k]))[0]).abs().max() < 1e-12


@pytest.mark.parametrize("make", [mixture, full], ids=["mixture", "full"])
def test_components_are_drawn_by_their_weights(make: Callable[..., Mixture | FullMixture]) -> None:
    """Chi square of the nearest component's counts over 4000 draws, components far apart: p > 0.001."""
    logs = make((2,), PLAIN).log_weights
    many, means = logs.repeat(4000, 1), (torch.arange(4, dtype=F64) * 100)[None, :, None].expand(12_000, 4, 2)
    unit = torch.eye(2, dtype=F64).expand(1, 4, 2, 2)
    far = Mixture(many, means, unit.new_ones(())) if make is mixture else FullMixture(many, means, unit, (2,))
    drawn = (far.sample(Rng(2, 12_000))[:, 0] / 100).round().long().reshape(4000, 3)
    counts = torch.stack([row.bincount(minlength=4) for row in drawn.T])
    assert (
        stats.chisquare(counts.flatten().cpu().numpy(), (logs.exp() * 4000).flatten().cpu().numpy(), ddof=2).pvalue
        > 1e-3
    )


# densities


def test_the_normal_density_equals_that_of_torch() -> None:
    for make in (normal, item_normal):
        for shape in ((3,), (3, 3, 3)):
            posterior, x = make(shape, PLAIN), noise("x", 3, *shape)
            truth = distributions.Normal(posterior.mean, posterior.var.sqrt()).log_prob(x).flatten(1).sum(1)
            assert posterior.log_prob(x).shape == (3,) and (posterior.log_prob(x) - truth).abs().max() < 1e-10


@SHAPES
def test_the_mixture_density_equals_that_of_torch(shape: tuple[int, ...]) -> None:
    posterior, x = mixture(shape, PLAIN), noise("x", 3, *shape)
    assert isinstance(posterior, Mixture)
    var = 0.1 * noise("var", 3, 4, *shape).exp()
    parts = distributions.Independent(distributions.Normal(posterior.means, var.sqrt()), len(shape))
    truth = distributions.MixtureSameFamily(distributions.Categorical(logits=posterior.log_weights), parts).log_prob(x)
    assert (posterior.log_prob(x) - truth).abs().max() < 1e-10


def test_pixel_mixture_density_is_pixel_by_pixel() -> None:
    posterior, x = pixel_mixture((3, 3, 3), PLAIN), noise("x", 3, 3, 3, 3)
    assert isinstance(posterior, Mixture)
    var = 0.1 * noise("v", 3, 1, 1, 1, 1).exp().flatten()
    truth = torch.zeros(3, dtype=F64)
    for b in range(3):
        for i in range(3):
            for j in range(3):
                logs = [
                    float(posterior.log_weights[b, k, 0, i, j])
                    + float(
                        distributions.Normal(posterior.means[b, k, :, i, j], var[b].sqrt())
                        .log_prob(x[b, :, i, j])
                        .sum()
                    )
                    for k in range(4)
                ]
                truth[b] += torch.tensor(logs, dtype=F64).logsumexp(0)
    assert (posterior.log_prob(x) - truth).abs().max() < 1e-10


def test_the_full_mixture_density_and_covariance_equal_those_of_scipy() -> None:
    for make in (full, shared_full):
        posterior, x = make((2, 1, 2), PLAIN), noise("x", 3, 2, 1, 2)
        mean, factor = noise("mean", 3, 4, 4), 0.3 * noise("factor", 1 if make is shared_full else 3, 4, 4, 4)
        factor = (factor + 0.5 * torch.eye(4, dtype=F64)).expand(3, 4, 4, 4)
        own = factor @ factor.mT
        weights = posterior.log_weights.exp()
        for b in range(3):
            parts = [stats.multivariate_normal(mean[b, k].cpu().numpy(), own[b, k].cpu().numpy()) for k in range(4)]
            truth = math.log(sum(float(weights[b, k]) * parts[k].pdf(x[b].flatten().cpu().numpy()) for k in range(4)))
            assert float(posterior.log_prob(x)[b]) == pytest.approx(truth, abs=1e-9)
        second = torch.einsum("bk,bkij->bij", weights, own + mean[..., :, None] * mean[..., None, :])
        flat = posterior.mean.flatten(1)
        assert (posterior.covariance - (second - flat[:, :, None] * flat[:, None, :])).abs().max() < 1e-12
        assert (posterior.covariance.diagonal(dim1=1, dim2=2) - posterior.var.flatten(1)).abs().max() < 1e-12


def test_draws_of_a_full_mixture_have_its_covariance() -> None:
    """Every entry of the covariance from 4000 draws, below 5 standard errors."""
    posterior = full((3,), PLAIN)
    off = full((3,), source(times=4000)).sample(Rng(3, 12_000)).reshape(4000, 3, 3) - posterior.mean
    products = off[..., :, None] * off[..., None, :]
    error = (products - posterior.covariance).mean(0) / products.std(0) * math.sqrt(4000)
    assert error.abs().max() < 5


@DENSE
def test_densities_integrate_to_one(make: Callable[..., HasDensity]) -> None:
    line = torch.linspace(-12, 12, 1201, dtype=F64)
    posterior = make((1,), PLAIN)
    total = sum(posterior.log_prob(point.expand(3, 1)).exp() for point in line) * 24 / 1200
    assert (total - 1).abs().max() < 1e-6


@pytest.mark.parametrize("make", [levels, categorical], ids=lambda make: make.__name__)
@SHAPES
def test_probabilities_of_all_values_of_a_place_sum_to_one(
    make: Callable[..., HasDensity], shape: tuple[int, ...]
) -> None:
    """Summed over the values of all places at once: the product over places of sums that are 1."""
    posterior = make(shape, PLAIN)
    values = posterior.values if isinstance(posterior, ValuedCategorical) else torch.arange(5)
    each = torch.stack([posterior.log_prob_each(value.expand(3, *shape)) for value in values])  # type: ignore[attr-defined]
    assert (each.exp().sum(0) - 1).abs().max() < 1e-12
    assert (posterior.log_prob(values[1].expand(3, *shape)) - each[1].flatten(1).sum(1)).abs().max() < 1e-12


@EVERY
@SHAPES
@DTYPES
def test_a_joint_equals_its_parts(make: Make, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Beside a label: the draws equal those of the part alone with the next random numbers, and the abilities are the
    same.
    """
    part, label = make(shape, source(dtype)), categorical((), source(dtype))
    belief, numbers = Joint({"label": label, "signal": part}), Rng(1, 3)
    drawn = belief.sample(Rng(1, 3))
    assert torch.equal(drawn["label"], label.sample(numbers)) and torch.equal(drawn["signal"], part.sample(numbers))
    assert not isinstance(belief, HasMean) and isinstance(belief, HasDensity) == isinstance(part, HasDensity)
    if isinstance(part, HasDensity) and isinstance(belief, HasDensity):
        total = part.log_prob(drawn["signal"]) + label.log_prob(drawn["label"])
        assert (belief.log_prob(drawn) - total).abs().max() < 1e-12
    twice = Joint({"a": part, "b": part})
    assert isinstance(twice, HasVariance) and torch.equal(twice.mean["b"], part.mean)
    assert torch.equal(twice.var["a"], part.var)


@SHAPES
def test_blurred_is_the_law_with_added_noise(shape: tuple[int, ...]) -> None:
    """One variance per item, also with B = C = H = W: same mean, added variance, equal draws, density of the sum."""
    extra = torch.tensor([0.3, 1.0, 5.0], dtype=F64)
    column = extra.reshape(3, *(1,) * len(shape))
    for make in (normal, item_normal, mixture, pixel_mixture):
        posterior = make(shape, PLAIN)
        blurred = posterior.blurred(extra)
        assert (blurred.mean - posterior.mean).abs().max() < 1e-12
        assert (blurred.var - (posterior.var + column)).abs().max() < 1e-12
        draws = make(shape, source(times=1500)).sample(Rng(1, 4500)).reshape(1500, 3, *shape)
        noisy = draws + column.sqrt() * Rng(2, 1500).normal(draws.shape, F64)
        assert deviation(noisy, blurred.mean, blurred.var.expand(3, *shape)) < 5
    plain = normal(shape, PLAIN)
    truth = distributions.Normal(plain.mean, (plain.var + column).sqrt())
    x = noise("x", 3, *shape)
    assert (plain.blurred(extra).log_prob(x) - truth.log_prob(x).flatten(1).sum(1)).abs().max() < 1e-10


# the others


@SHAPES
def test_the_moments_and_draws_of_an_empirical_posterior(shape: tuple[int, ...]) -> None:
    posterior = empirical(shape, PLAIN)
    weights, points = noise("weight", 3, 6).softmax(1), noise("points", 6, *shape)
    mean = torch.einsum("bn,n...->b...", weights, points)
    assert (posterior.mean - mean).abs().max() < 1e-12
    second = torch.einsum("bn,n...->b...", weights, points**2)
    assert (posterior.var - (second - mean**2)).abs().max() < 1e-12
    for draw in posterior.sample(Rng(0, 3)):
        assert any(torch.equal(draw, point) for point in points)


def test_a_weight_of_zero_is_never_chosen() -> None:
    logs = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf]).expand(4000, 5)
    for dtype in (torch.float32, F64):
        drawn = Empirical(logs.to(dtype), torch.arange(5, dtype=dtype)[:, None]).sample(Rng(0, 4000))
        assert set(drawn.flatten().tolist()) == {1.0, 3.0}


def test_a_point_is_certain() -> None:
    point = Point(noise("x", 3, 2, 2))
    assert torch.equal(point.sample(Rng(0, 3)), point.mean) and point.draws(4, Rng(0, 3)).shape == (4, 3, 2, 2)
    assert float(spread(point.draws(4, Rng(0, 3))).max()) == 0


def scaled(like: Tensor) -> Implicit:
    """x0 = like + (1 + item) eta, with as many latents as elements."""
    scale = torch.arange(1, len(like) + 1).to(like).reshape(-1, *(1,) * (like.ndim - 1))
    size = like[0].numel()
    return Implicit(lambda eta: like + scale * eta.reshape(len(eta), *like.shape), len(like), (size,), like)


@SHAPES
@DTYPES
def test_an_implicit_posterior_is_its_draws(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    like = noise("like", 3, *shape, dtype=dtype)
    posterior = scaled(like)
    draws = posterior.draws(1500, Rng(1, 3))
    var = torch.tensor([1.0, 4.0, 9.0]).to(like).reshape(3, *(1,) * len(shape)).expand_as(like)
    assert draws.shape == (1500, 3, *shape) and draws.dtype == dtype and deviation(draws, like, var) < 5
    assert torch.equal(draws, posterior.head(posterior.latents(1500, Rng(1, 3))))
    assert torch.equal(posterior.sample(Rng(2, 3)), posterior.draws(1, Rng(2, 3))[0])
    alone = scaled(like[:1]).draws(4, Rng(1, [0]))
    assert torch.equal(alone[:, 0], posterior.draws(4, Rng(1, 3))[:, 0])
    truth = torch.tensor([1.0, 4.0, 9.0]).to(dtype) * like[0].numel()
    assert (spread(draws) / truth - 1).abs().max() < 0.15
    with pytest.raises(ValueError, match="at least two"):
        spread(draws[:1])


def test_an_average_is_the_average_of_the_head_and_computed_once() -> None:
    like, calls = noise("like", 3, 4), []

    def head(eta: Tensor) -> Tensor:
        calls.append(len(eta))
        return like + eta**2

    posterior = Implicit(head, 3, (4,), like)
    latents = noise("latents", 7, 4)
    averaged = posterior.averaged(latents)
    assert not calls and isinstance(averaged, ImplicitMean) and not isinstance(posterior, HasMean)
    assert (averaged.mean - (like + (latents**2).mean(0))).abs().max() < 1e-12
    assert averaged.mean is averaged.mean and calls == [7]
    assert torch.equal(averaged.draws(2, Rng(0, 3)), posterior.draws(2, Rng(0, 3)))


def test_combined_implicit_posteriors_share_their_latents() -> None:
    a, b = scaled(noise("a", 3, 2)), scaled(noise("b", 3, 2))
    joined = a.combined(b, lambda x, y: x - y)
    assert (joined.draws(50, Rng(0, 3)) - (noise("a", 3, 2) - noise("b", 3, 2))).abs().max() < 1e-12
    assert not isinstance(joined, HasMean)
    both = a.averaged(noise("l", 2, 2)).combined(b.averaged(noise("l", 2, 2)), lambda x, y: x - y)
    assert isinstance(both, ImplicitMean)
    assert (both.mean - (noise("a", 3, 2) - noise("b", 3, 2))).abs().max() < 1e-12


# abilities


def test_the_abilities_of_each_posterior() -> None:
    shape = (3, 3, 3)
    for make in KINDS:
        posterior = make(shape, PLAIN)
        assert need(posterior, HasMean, "x") is posterior and need(posterior, HasVariance, "x") is posterior
        assert isinstance(posterior, HasDensity) == (make is not empirical)
    assert isinstance(Point(torch.zeros(1, 1)), HasMean) and not isinstance(Point(torch.zeros(1, 1)), HasVariance)


@pytest.mark.parametrize(
    ("ability", "words"),
    [
        (HasMean, r"the test needs a mean of the posterior, and Implicit has none\. .*averaged\(n\).*ancestral"),
        (HasVariance, r"the test needs a variance of the posterior, and Implicit has none\. .*exact denoiser"),
        (HasDensity, r"the test needs a density of the posterior, and Implicit has none\. .*energy score"),
    ],
)
def test_the_error_for_a_missing_ability_names_a_remedy(ability: type[Posterior], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        need(scaled(torch.zeros(2, 2)), ability, "the test")


def test_a_mixture_with_weights_that_do_not_fit_is_refused() -> None:
    for weights in (torch.zeros(3), torch.zeros(3, 5), torch.zeros(3, 4, 1)):
        with pytest.raises(ValueError, match="do not fit"):
            Mixture(weights, torch.zeros(3, 4, 2, 2, 2), torch.ones(()))
