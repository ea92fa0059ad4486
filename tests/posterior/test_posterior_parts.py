"""Draws, averages and edge cases of each posterior, by closed forms and brute force."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor

from softmix.posterior import (
    Empirical,
    FullMixture,
    HasMean,
    Implicit,
    ImplicitMean,
    Mixture,
    Normal,
    Point,
)
from softmix.posterior.implicit import spread
from softmix.posterior.mixture import draw_index
from softmix.rng import Rng

F64 = torch.float64


def soft(items: int = 3, dtype: torch.dtype = F64) -> Implicit:
    return Implicit(lambda eta: 2 * eta + 1, items, (4,), torch.zeros(items, 4, dtype=dtype))


# draws


def test_draws_equal_repeated_samples() -> None:
    """Each draw has its own numbers, in the order of repeated calls of `sample`."""
    normal, rng = Normal(torch.zeros(3, 4), torch.ones(1)), Rng(0, 3)
    assert torch.equal(normal.draws(3, Rng(0, 3)), torch.stack([normal.sample(rng) for _ in range(3)]))
    several = normal.draws(2, Rng(0, 3))
    assert not torch.equal(several[0], several[1])


def test_all_draws_of_a_point_are_the_point() -> None:
    mean = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(Point(mean).draws(5, Rng(0, 3)), torch.stack([mean] * 5))


def test_the_latents_of_an_item_do_not_depend_on_its_batch() -> None:
    several, alone = soft(3).latents(5, Rng(0, 3)), soft(1).latents(5, Rng(0, [2]))
    assert several.shape == (5, 3, 4) and torch.equal(several[:, 2], alone[:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_latents_have_the_type_of_x(dtype: torch.dtype) -> None:
    assert soft(3, dtype).latents(2, Rng(0, 3)).dtype == dtype


# spread


def test_the_spread_is_the_unbiased_trace_of_the_covariance() -> None:
    draws = Rng(0, 5).normal((5, 3, 2, 2), F64)
    right = torch.stack([torch.cov(draws[:, k].flatten(1).T, correction=1).trace() for k in range(3)])
    assert torch.allclose(spread(draws), right, rtol=1e-12)


def test_the_spread_of_two_draws_has_the_right_mean() -> None:
    """For N(0, 1) in 3 dimensions it is 3, with a standard error of sqrt(6 / 20,000) = 0.017."""
    draws = Rng(0, 2).normal((2, 20_000, 3), F64)
    assert float(spread(draws).mean()) == pytest.approx(3, abs=5 * 0.017)


def test_the_spread_of_one_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        spread(torch.zeros(1, 3, 2))


# means of implicit posteriors


def test_an_average_is_over_all_of_its_latents() -> None:
    eta = Rng(0, 6).normal((6, 4), F64)
    assert torch.allclose(soft().averaged(eta).mean, (2 * eta + 1).mean(0).expand(3, 4), rtol=1e-12)


def test_a_mean_is_computed_once() -> None:
    asked: list[int] = []

    def mean() -> Tensor:
        asked.append(1)
        return torch.zeros(3, 4)

    believed = ImplicitMean(lambda eta: eta, 3, (4,), torch.zeros(3, 4), mean)
    assert not asked
    assert torch.equal(believed.mean, believed.mean) and len(asked) == 1


def test_combined_means_keep_their_order() -> None:
    first, second = (
        ImplicitMean(lambda eta, k=k: k * eta, 3, (4,), torch.zeros(3, 4), lambda k=k: torch.full((3, 4), k))  # type: ignore[misc]
        for k in (3.0, 1.0)
    )
    combined = first.combined(second, lambda a, b: a - 10 * b)
    assert isinstance(combined, ImplicitMean) and torch.equal(combined.mean, torch.full((3, 4), -7.0))
    eta = combined.latents(2, Rng(0, 3))
    assert torch.allclose(combined.draws(2, Rng(0, 3)), -7 * eta)


def test_a_combination_has_a_mean_only_if_both_have_one() -> None:
    with_mean = soft().averaged(torch.zeros(1, 4))
    assert not isinstance(with_mean.combined(soft(), lambda a, b: a), HasMean)
    assert not isinstance(soft().combined(with_mean, lambda a, b: a), HasMean)


# components


def test_a_component_is_drawn_by_inverting_the_cumulative_weights() -> None:
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    logs = weights.log().expand(1000, 3) + 7
    u = Rng(0, 1000).uniform((1000, 1), F64)[:, 0]
    right = (u > 0.2).long() + (u > 0.7).long()
    assert torch.equal(draw_index(logs, Rng(0, 1000))[:, 0], right)


def test_rounded_weights_still_give_a_valid_component() -> None:
    """Half precision: the cumulative weights of 300 equal parts end at 0.99, and an index beyond them is invalid."""
    logs = torch.zeros(4000, 300, dtype=torch.bfloat16)
    choice = draw_index(logs, Rng(0, 4000))
    assert int(choice.min()) >= 0 and int(choice.max()) <= 299
    means = torch.arange(300.0, dtype=torch.bfloat16)[None, :, None].expand(4000, 300, 1)
    assert Mixture(logs, means, torch.zeros(1, dtype=torch.bfloat16)).sample(Rng(0, 4000)).isfinite().all()


def test_half_precision_weights_do_not_bias_the_choice() -> None:
    """bfloat16 has 128 numbers between 1/2 and 1, so that of 600 equal parts a third would never be chosen."""
    counts = draw_index(torch.zeros(6000, 600, dtype=torch.bfloat16), Rng(0, 6000))[:, 0].bincount(minlength=600)
    assert stats.chisquare(counts.cpu().numpy()).pvalue > 1e-3


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_weights_need_not_be_normalised(shift: float) -> None:
    logs = Rng(0, 3).normal((3, 2), F64) + shift
    weights, points = logs.softmax(1), Rng(1, 2).normal((2, 4), F64)
    right = weights @ points
    means = points[None].expand(3, 2, 4)
    factors = torch.eye(4, dtype=F64).expand(1, 2, 4, 4)
    var = torch.ones(1, dtype=F64)
    for posterior in (Empirical(logs, points), Mixture(logs, means, var), FullMixture(logs, means, factors, (4,))):
        assert torch.allclose(posterior.mean, right, rtol=1e-12)
        assert torch.allclose(posterior.log_weights.exp(), weights, rtol=1e-12)
    x = torch.zeros(3, 4, dtype=F64)
    density = (weights * (-0.5 * (points**2).sum(1)).exp()).sum(1).log() - 2 * math.log(2 * math.pi)
    assert torch.allclose(Mixture(logs, means, var).log_prob(x), density, rtol=1e-10)
    assert torch.allclose(FullMixture(logs, means, factors, (4,)).log_prob(x), density, rtol=1e-10)


@pytest.mark.parametrize("shape", [(3, 3), (3, 2, 1)], ids=str)
def test_weights_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"give shape \[B, K\]"):
        Mixture(torch.zeros(shape), torch.zeros(3, 2, 1, 4, 4), torch.ones(1))


def test_a_mixture_of_numbers_has_a_density() -> None:
    """Items without axes, [B]: weights [B, K] are not taken for weights per pixel."""
    mixture = Mixture(torch.zeros(3, 2), torch.tensor([[0.0, 1.0]]).expand(3, 2), torch.ones(1))
    right = math.log(0.5 * (1 + math.exp(-0.5)) / math.sqrt(2 * math.pi))
    assert torch.allclose(mixture.log_prob(torch.zeros(3)), torch.full((3,), right))


def test_each_item_has_its_own_covariances() -> None:
    scale = torch.tensor([0.1, 1.0, 10.0], dtype=F64)
    factors = scale[:, None, None, None] * torch.eye(2, dtype=F64)
    posterior = FullMixture(torch.zeros(3, 1, dtype=F64), torch.zeros(3, 1, 2, dtype=F64), factors, (2,))
    z = Rng(0, 3).normal((3, 2), F64)
    rng = Rng(0, 3)
    draw_index(torch.zeros(3, 1, dtype=F64), rng)
    assert torch.allclose(posterior.sample(Rng(0, 3)), scale[:, None] * rng.normal((3, 2), F64), rtol=1e-12)
    assert torch.allclose(posterior.var, (scale**2)[:, None].expand(3, 2)) and z.isfinite().all()


def test_a_variance_is_never_below_zero() -> None:
    """For nearly equal points far from 0, E x^2 - (E x)^2 is a difference of large numbers."""
    points = 1000 + 1e-3 * Rng(0, 50).normal((50, 3))
    assert float(Empirical(torch.zeros(20, 50), points).var.min()) >= 0
    logs = Rng(1, 20).normal((20, 50))
    assert float(Empirical(logs, points).var.min()) >= 0


def test_blurring_adds_a_variance_to_each_item() -> None:
    var = torch.tensor([0.0, 0.5, 2.0], dtype=F64)
    mean, own = torch.zeros(3, 2, 2, dtype=F64), torch.full((1,), 0.25, dtype=F64)
    for blurred in (
        Normal(mean, own).blurred(var),
        Mixture(torch.zeros(3, 1, dtype=F64), mean[:, None], own).blurred(var),
    ):
        assert torch.allclose(blurred.var, (0.25 + var)[:, None, None].expand(3, 2, 2), rtol=1e-12)
