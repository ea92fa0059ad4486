"""Categorical posteriors: exact probabilities, the law of the draws, and moments."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor, distributions

from softmix.posterior import Categorical, HasDensity, HasMean, Point, ValuedCategorical, combined
from softmix.rng import Rng

F64 = torch.float64
PLACES = pytest.mark.parametrize("places", [(), (5,), (3, 3, 3), (3, 2)], ids=str)
PIXELS = torch.tensor([-1.0, 0.25, 3.0, 0.5], dtype=F64)


def logits(*places: int, items: int = 3, count: int = 4, dtype: torch.dtype = F64) -> Tensor:
    return 2 * Rng(0, items, "logits").normal((items, count, *places), dtype)


def by_torch(given: Tensor) -> distributions.Categorical:
    """The same law by torch, with the values on the last axis."""
    return distributions.Categorical(logits=given.movedim(1, -1))


# probabilities


@PLACES
def test_probabilities_are_the_softmax_over_axis_1(places: tuple[int, ...]) -> None:
    given = logits(*places)
    assert torch.allclose(Categorical(given).probabilities.movedim(1, -1), by_torch(given).probs, rtol=1e-12)


@PLACES
def test_the_log_probability_of_an_item_is_the_sum_over_its_places(places: tuple[int, ...]) -> None:
    given = logits(*places)
    x0 = Rng(1, 3).integers(4, (3, *places))
    right = by_torch(given).log_prob(x0)
    assert torch.allclose(Categorical(given).log_prob_each(x0), right, rtol=1e-12)
    assert torch.allclose(Categorical(given).log_prob(x0), right.reshape(3, -1).sum(1), rtol=1e-12)


def test_probabilities_of_all_items_sum_to_one() -> None:
    """Four values at each of three places: 64 items."""
    every = torch.cartesian_prod(*[torch.arange(4)] * 3)
    belief = Categorical(logits(3, items=1).expand(64, 4, 3))
    assert float(belief.log_prob(every).exp().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_any_integers_are_values(dtype: torch.dtype) -> None:
    x0 = Rng(1, 3).integers(4, (3, 5))
    belief = Categorical(logits(5))
    assert torch.equal(belief.log_prob(x0.to(dtype)), belief.log_prob(x0))


@pytest.mark.parametrize("wrong", [-1, 4])
def test_an_unknown_value_has_probability_zero(wrong: int) -> None:
    """A label that is not given (-1), a mask (K). No gradient flows to another value."""
    x0 = torch.tensor([[0, 1], [0, wrong], [3, 2]])
    given = logits(2).requires_grad_()
    found = Categorical(given).log_prob(x0)
    assert found.isneginf().tolist() == [False, True, False]
    (slope,) = torch.autograd.grad(found[[0, 2]].sum(), given)
    assert slope.isfinite().all() and not slope[1].any()


def test_the_gradient_is_that_of_the_cross_entropy() -> None:
    given, x0 = logits(5).requires_grad_(), Rng(1, 3).integers(4, (3, 5))
    (mine,) = torch.autograd.grad(-Categorical(given).log_prob(x0).sum(), given)
    (right,) = torch.autograd.grad(torch.nn.functional.cross_entropy(given, x0, reduction="sum"), given)
    assert torch.allclose(mine, right, atol=1e-12)


# entropy and mode


@PLACES
def test_the_entropy_is_computed_at_each_place(places: tuple[int, ...]) -> None:
    given = logits(*places)
    assert torch.allclose(Categorical(given).entropy, by_torch(given).entropy(), rtol=1e-10)


def test_an_impossible_value_adds_nothing_to_the_entropy_nor_to_its_gradient() -> None:
    given = torch.tensor([[0.0, -math.inf, 0.0], [-math.inf, 0.0, -math.inf]], dtype=F64, requires_grad=True)
    entropy = Categorical(given).entropy
    assert entropy.tolist() == pytest.approx([math.log(2), 0], abs=1e-12)
    (slope,) = torch.autograd.grad(entropy.sum(), given)
    assert slope.abs().max() < 1e-12


@PLACES
def test_the_mode_is_the_most_probable_value_of_each_place(places: tuple[int, ...]) -> None:
    given = logits(*places)
    belief = Categorical(given)
    assert torch.equal(belief.mode, given.argmax(1)) and belief.mode.dtype == torch.int64
    assert torch.equal(ValuedCategorical(given, PIXELS).mode, PIXELS[given.argmax(1)])


# draws


@PLACES
def test_draws_have_their_probabilities_at_each_place(places: tuple[int, ...]) -> None:
    """Chi square over 4000 draws of each place of each item, p > 0.001 / 100. A tilted law is detected."""
    given = logits(*places)
    drawn = Categorical(given.repeat(4000, *(1,) * (given.ndim - 1))).sample(Rng(2, 12_000))
    counts = torch.nn.functional.one_hot(drawn, 4).reshape(4000, -1, 4).sum(0)
    right = Categorical(given).probabilities.movedim(1, -1).reshape(-1, 4)
    assert drawn.dtype == torch.int64 and drawn.shape == (12_000, *places)

    def least(law: Tensor) -> float:
        return min(
            float(stats.chisquare(c.cpu().numpy(), (p * 4000).cpu().numpy()).pvalue)
            for c, p in zip(counts, law, strict=True)
        )

    assert least(right) > 1e-5
    assert least(0.9 * right + 0.025) < 1e-5


def test_places_are_drawn_independently() -> None:
    """The joint law of two places is the product of their laws, over 20,000 draws."""
    given = logits(2, items=1)
    drawn = Categorical(given.expand(20_000, 4, 2)).sample(Rng(3, 20_000))
    found = torch.zeros(4, 4, dtype=F64).index_put_((drawn[:, 0], drawn[:, 1]), torch.tensor(1.0, dtype=F64), True)
    p = Categorical(given).probabilities[0]
    right = p[:, 0, None] * p[None, :, 1] * 20_000
    assert stats.chisquare(found.flatten().cpu().numpy(), right.flatten().cpu().numpy()).pvalue > 1e-3


def test_impossible_values_are_never_drawn() -> None:
    given = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf])
    for dtype in (torch.float32, F64):
        drawn = Categorical(given.to(dtype).expand(4000, 5)).sample(Rng(0, 4000))
        assert set(drawn.tolist()) == {1, 3}


def test_half_precision_logits_do_not_bias_the_draws() -> None:
    """bfloat16 has 128 numbers between 1/2 and 1: of 600 equal values a third would never be drawn."""
    belief = Categorical(torch.zeros(6000, 600, dtype=torch.bfloat16))
    counts = belief.sample(Rng(0, 6000)).bincount(minlength=600)
    assert stats.chisquare(counts.cpu().numpy()).pvalue > 1e-3
    assert float(belief.entropy[0]) == pytest.approx(math.log(600), rel=1e-5)


@pytest.mark.parametrize("items", [1, 2, 3, 7, 260])
@PLACES
def test_a_batch_of_k_is_k_batches_of_one(items: int, places: tuple[int, ...]) -> None:
    given = logits(*places, items=items)
    several = Categorical(given).draws(2, Rng(5, items))
    for k in {0, items // 2, items - 1}:
        alone = Categorical(given[k : k + 1]).draws(2, Rng(5, [k]))
        assert torch.equal(several[:, k], alone[:, 0])


def test_draws_differ() -> None:
    first, second = Categorical(torch.zeros(3, 50, 9)).draws(2, Rng(0, 3))
    assert not torch.equal(first, second)


# averages


def test_the_average_of_a_table_is_weighted_by_the_probabilities() -> None:
    """Numbers, and embeddings, which become channels: E[e(token)] [B, D, *places]."""
    given, table = logits(3, 2), Rng(3, 4).normal((4, 6), F64)
    belief = Categorical(given)
    assert torch.allclose(belief.average(table[:, 0]), torch.einsum("bkhw,k->bhw", belief.probabilities, table[:, 0]))
    assert torch.allclose(belief.average(table), torch.einsum("bkhw,kd->bdhw", belief.probabilities, table))
    labels = Categorical(logits())
    assert torch.allclose(labels.average(table), labels.probabilities @ table)
    assert torch.allclose(labels.average(table.reshape(4, 2, 3)), (labels.probabilities @ table).reshape(3, 2, 3))


def test_averages_keep_their_precision_under_bf16_autocast() -> None:
    belief, table = Categorical(logits(3, 2, dtype=torch.float32)), Rng(3, 4).normal((4, 6))
    with torch.autocast("cpu", torch.bfloat16):
        found = belief.average(table)
    assert torch.equal(found, belief.average(table))


@pytest.mark.parametrize("places", [(), (5,)], ids=str)
def test_an_empty_batch_has_empty_log_probabilities(places: tuple[int, ...]) -> None:
    assert Categorical(torch.zeros(0, 4, *places)).log_prob(torch.zeros(0, *places, dtype=torch.int64)).shape == (0,)


# combinations


def weighted(first: Tensor, second: Tensor) -> Tensor:
    return second + 1.5 * (first - second)


def test_two_categoricals_are_combined_by_their_log_probabilities() -> None:
    """p ~ p_1^1.5 p_2^-0.5 at each place."""
    first, second = logits(5), Rng(7, 3).normal((3, 4, 5), F64)
    right = first.softmax(1) ** 1.5 * second.softmax(1) ** -0.5
    right = right / right.sum(1, keepdim=True)
    both = combined(Categorical(first), Categorical(second), weighted, "the test")
    assert isinstance(both, Categorical) and torch.allclose(both.probabilities, right, rtol=1e-10)
    numbers = combined(ValuedCategorical(first, PIXELS), ValuedCategorical(second, PIXELS), weighted, "the test")
    assert isinstance(numbers, ValuedCategorical) and torch.allclose(
        numbers.mean, ValuedCategorical(right.log(), PIXELS).mean, rtol=1e-10
    )


def test_impossible_values_in_a_combination() -> None:
    """Value 0 is impossible in both. Value 1 only with the condition: impossible. Value 2 only without it: certain."""
    first = torch.tensor([[-math.inf, -math.inf, 0.0, 0.0], [-math.inf, -math.inf, -math.inf, 0.0]])
    second = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0], [-math.inf, 0.0, -math.inf, 0.0]])
    both = combined(Categorical(first), Categorical(second), weighted, "the test")
    assert both.probabilities.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]  # type: ignore[attr-defined]
    assert both.log_prob(torch.tensor([0, 2])).isneginf().all()  # type: ignore[attr-defined]


def test_posteriors_over_other_values_are_combined_by_their_means() -> None:
    first, second = ValuedCategorical(logits(5), PIXELS), ValuedCategorical(logits(5), -PIXELS)
    both = combined(first, second, weighted, "the test")
    assert isinstance(both, Point) and torch.allclose(both.mean, weighted(first.mean, second.mean))
    for other in (Categorical(logits(5, count=3)), first):
        with pytest.raises(TypeError, match="the test needs a mean of the posterior, and Categorical has none"):
            combined(Categorical(logits(5)), other, weighted, "the test")


# abilities and refusals


def test_a_categorical_has_a_density_and_no_mean() -> None:
    belief = Categorical(logits(5))
    assert isinstance(belief, HasDensity) and not isinstance(belief, HasMean)
    assert not hasattr(belief, "mean") and not hasattr(belief, "var")


@pytest.mark.parametrize("given", [torch.zeros(3), torch.zeros(3, 4, dtype=torch.int64), torch.tensor(0.0)], ids=str)
def test_logits_without_an_axis_of_values_are_refused(given: Tensor) -> None:
    with pytest.raises(ValueError, match=r"give real numbers of shape \[B, K\] for one choice"):
        Categorical(given)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 5, 1), (2, 5), (1, 5)], ids=str)
def test_an_item_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    for belief in (Categorical(logits(5)), ValuedCategorical(logits(5), PIXELS)):
        with pytest.raises(ValueError, match=r"posterior of 3 items with places \[5\]; give shape \[3, 5\]"):
            belief.log_prob(torch.zeros(shape, dtype=torch.int64))


def test_items_that_are_not_integers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float32 was given.*give integers.*with_values"):
        Categorical(logits(5)).log_prob(torch.zeros(3, 5))


def test_a_table_of_another_length_is_refused() -> None:
    for table in (torch.zeros(3, 2), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="for 4 values; give one entry for each"):
            Categorical(logits(5)).average(table)
