"""`ValuedCategorical`: moments, draws and probabilities, and samplers with it."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor, distributions

from softmix.posterior import Categorical, Empirical, HasDensity, HasVariance, Posterior, ValuedCategorical
from softmix.process import VP
from softmix.rng import Rng
from softmix.sampler import SAMPLERS, Sampler, ancestral, sample, traits

F64 = torch.float64
PLACES = pytest.mark.parametrize("places", [(), (5,), (3, 3, 3), (3, 2)], ids=str)
PIXELS = torch.tensor([-1.0, 0.25, 3.0, 0.5], dtype=F64)


def logits(*places: int, items: int = 3, count: int = 4, dtype: torch.dtype = F64) -> Tensor:
    return 2 * Rng(0, items, "logits").normal((items, count, *places), dtype)


def by_torch(given: Tensor) -> distributions.Categorical:
    """The same law by torch, with the values on the last axis."""
    return distributions.Categorical(logits=given.movedim(1, -1))


@PLACES
def test_moments_of_levels_are_sums_over_their_values(places: tuple[int, ...]) -> None:
    given = logits(*places)
    p, belief = by_torch(given).probs, ValuedCategorical(given, PIXELS)
    mean = (p * PIXELS).sum(-1)
    assert torch.allclose(belief.mean, mean, rtol=1e-12)
    assert torch.allclose(belief.var, (p * PIXELS**2).sum(-1) - mean**2, rtol=1e-10)


def test_the_variance_of_levels_far_from_zero_is_not_lost() -> None:
    """E x^2 - (E x)^2 would be a difference of numbers of size 1e8 in float32. One certain level has variance 0."""
    values = torch.tensor([10_000.0, 10_001.0])
    given = torch.tensor([[0.0, 0.0], [0.0, -math.inf]])
    assert ValuedCategorical(given, values).var.tolist() == [0.25, 0.0]


def test_draws_are_the_values_of_the_drawn_indices() -> None:
    given = logits(3, 2)
    numbers, names = ValuedCategorical(given, PIXELS).sample(Rng(0, 3)), Categorical(given).sample(Rng(0, 3))
    assert torch.equal(numbers, PIXELS[names])


def test_the_probability_of_a_value_is_that_of_its_index() -> None:
    given, x0 = logits(3, 2), Rng(1, 3).integers(4, (3, 3, 2))
    assert torch.allclose(
        ValuedCategorical(given, PIXELS).log_prob(PIXELS[x0]), Categorical(given).log_prob(x0), rtol=1e-12
    )


def test_a_value_is_recognised_despite_rounding() -> None:
    """256 levels of a pixel, computed in another order of operations. A number half way between two is not a value."""
    given = logits(count=256, dtype=torch.float32)
    belief = ValuedCategorical(given, torch.linspace(-1, 1, 256))
    index = torch.tensor([3, 128, 254])
    right = Categorical(given).log_prob(index)
    assert torch.equal(belief.log_prob((index.float() / 255 - 0.5) * 2), right)
    assert belief.log_prob((index.float() + 0.5) / 127.5 - 1).isneginf().all()


def test_a_repeated_value_has_the_sum_of_both_probabilities() -> None:
    belief = ValuedCategorical(torch.zeros(1, 4, dtype=F64), torch.tensor([0.0, 1.0, 0.0, 2.0], dtype=F64))
    assert float(belief.log_prob(torch.zeros(1, dtype=F64)).exp()) == pytest.approx(0.5)


def test_a_single_level_is_certain() -> None:
    for value in (0.0, 3.0):
        belief = ValuedCategorical(torch.zeros(2, 1, 3), torch.tensor([value]))
        assert float(belief.mean[0, 0]) == value and not belief.var.any()
        assert belief.log_prob(torch.full((2, 3), value)).tolist() == [0, 0]
        assert belief.log_prob(torch.full((2, 3), value + 1)).isneginf().all()


def test_values_make_levels_of_a_categorical() -> None:
    given = logits(5)
    belief = Categorical(given).with_values(PIXELS)
    assert isinstance(belief, ValuedCategorical) and torch.equal(belief.values, PIXELS)
    assert torch.allclose(belief.mean, ValuedCategorical(given, PIXELS).mean, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_levels_have_the_type_of_the_logits(dtype: torch.dtype) -> None:
    belief = ValuedCategorical(logits(5, dtype=dtype), torch.arange(4))
    assert belief.mean.dtype == belief.var.dtype == belief.sample(Rng(0, 3)).dtype == belief.mode.dtype == dtype


@pytest.mark.parametrize("values", [torch.zeros(3), torch.zeros(4, 1), torch.zeros(4, dtype=torch.complex64)], ids=str)
def test_values_that_are_not_one_number_each_are_refused(values: Tensor) -> None:
    with pytest.raises(ValueError, match="give one real number for each of the 4 values"):
        ValuedCategorical(logits(5), values)


def test_numbers_have_a_density_and_a_variance() -> None:
    belief = ValuedCategorical(logits(5), PIXELS)
    assert isinstance(belief, HasDensity) and isinstance(belief, HasVariance)


# under the samplers


class ByLevels:
    """The exact posterior of independent pixels with one of three levels each."""

    process, shape = VP(), (2,)
    values, chances = torch.tensor([-1.0, 0.0, 1.0], dtype=F64), torch.tensor([0.5, 0.2, 0.3], dtype=F64)

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        values, chances = self.values.to(xt.device), self.chances.to(xt.device)
        off = xt[:, None].double() - alpha * values[:, None]
        return ValuedCategorical(chances.log()[:, None] - 0.5 * (off / sigma) ** 2, values)


class ByRows(ByLevels):
    """The same posterior for both pixels at once, as one of nine known items."""

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        values, chances = self.values.to(xt.device), self.chances.to(xt.device)
        rows = torch.cartesian_prod(values, values)
        chances = torch.cartesian_prod(chances, chances).log().sum(1)
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        return Empirical(chances - 0.5 * (((xt[:, None].double() - alpha * rows) / sigma) ** 2).sum(2), rows)


def test_levels_agree_with_whole_items_for_independent_pixels() -> None:
    x = torch.linspace(-2, 2, 14, dtype=F64).reshape(7, 2)
    for t in (0.1, 0.5, 0.9):
        levels, rows = ByLevels()(x, t), ByRows()(x, t)
        assert torch.allclose(levels.mean, rows.mean, rtol=1e-9)  # type: ignore[attr-defined]
        assert torch.allclose(levels.var, rows.var, atol=1e-12)  # type: ignore[attr-defined]


@pytest.mark.parametrize("steps", [1, 3])
def test_ancestral_sampling_with_levels_reaches_their_law(steps: int) -> None:
    """Chi square of the nine pairs in 100,000 draws, p > 0.001.

    Exact in any number of steps, since pixels are independent.
    """
    x = sample(ByLevels(), 100_000, steps, sampler=ancestral, batch=100_000)  # type: ignore[arg-type]
    index = (x + 1).round().long()
    assert torch.allclose(ByLevels.values.to(x.device)[index], x.double())
    counts = (3 * index[:, 0] + index[:, 1]).bincount(minlength=9)
    chances = torch.cartesian_prod(ByLevels.chances, ByLevels.chances).prod(1)
    assert stats.chisquare(counts.cpu().numpy(), (100_000 * chances).cpu().numpy()).pvalue > 1e-3


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda each: traits(each).name)
def test_every_sampler_works_with_levels_as_with_whole_items(sampler: Sampler) -> None:
    """Equal means give equal results. Samplers that draw are held to the law by the test above."""
    ends = [sample(each(), 4, max(6, traits(sampler).least), sampler=sampler) for each in (ByLevels, ByRows)]  # type: ignore[arg-type]
    assert all(end.isfinite().all() for end in ends)
    if issubclass(HasVariance, traits(sampler).needs) and traits(sampler).needs is not Posterior:
        assert torch.allclose(*ends, rtol=1e-4, atol=1e-5)
