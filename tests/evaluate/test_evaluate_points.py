"""Distances between point sets against closed forms, and mode statistics by hand."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from softmix.evaluate import energy_distance, histogram_tv, mode_statistics, sliced_wasserstein

pytestmark = pytest.mark.usefixtures("on_device")


def normal(count: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_projection(dim: int) -> float:
    """E |<theta, u>| for theta uniform on the sphere of R^dim and a unit vector u."""
    return math.gamma(dim / 2) / (math.sqrt(math.pi) * math.gamma((dim + 1) / 2))


@pytest.mark.parametrize("dim", [1, 2, 3, 10])
def test_a_shifted_copy_is_at_the_closed_form(dim):
    x, shift = normal(200, dim, 0), torch.zeros(dim, dtype=torch.float64)
    shift[0] = 3.0
    assert sliced_wasserstein(x, x + shift, 20_000, seed=0) == pytest.approx(3 * mean_projection(dim), rel=0.02)


def test_shifted_gaussians_are_at_the_closed_form():
    a, b = normal(8_000, 2, 1), normal(10_000, 2, 2) + torch.tensor([1.0, -2.0])
    assert sliced_wasserstein(a, b, seed=0) == pytest.approx(math.sqrt(5) * 2 / math.pi, rel=0.06)


def test_a_wider_gaussian_is_at_the_closed_form():
    # W1 of N(0, 1) and N(0, 9) is (3 - 1) E|z|, in every direction.
    assert sliced_wasserstein(normal(10_000, 3, 3), 3 * normal(10_000, 3, 4), 64, seed=0) == pytest.approx(
        2 * math.sqrt(2 / math.pi), rel=0.02
    )


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (7, 7), (6, 9), (50, 33)])
def test_one_dimension_is_scipys_for_any_sizes(n, m):
    a, b = normal(n, 1, 5), 2 * normal(m, 1, 6) + 1
    expected = scipy.stats.wasserstein_distance(a[:, 0].cpu(), b[:, 0].cpu())
    assert sliced_wasserstein(a, b, 3, seed=0) == pytest.approx(expected, rel=1e-12)


def test_a_set_against_itself_is_zero_and_copies_of_all_items_change_nothing():
    x = normal(100, 4, 7)
    assert sliced_wasserstein(x, x.flip(0), seed=0) < 1e-14
    assert sliced_wasserstein(x, x.repeat(3, 1), seed=0) < 1e-14
    assert sliced_wasserstein(x, x.roll(1, 1), seed=0) > 0.05


def test_the_seed_decides_the_directions():
    a, b = normal(50, 3, 8), normal(50, 3, 9)
    assert sliced_wasserstein(a, b, 16, seed=1) == sliced_wasserstein(a, b, 16, seed=1)
    assert sliced_wasserstein(a, b, 16, seed=1) != sliced_wasserstein(a, b, 16, seed=2)


def test_projections_taken_in_parts_add_up(monkeypatch):
    a, b = normal(50, 3, 8), normal(40, 3, 9)
    whole = sliced_wasserstein(a, b, 33, seed=1)
    halves = [sliced_wasserstein(a, b, count, seed=1) * count for count in (32, 33)]
    assert 0 < halves[1] - halves[0] < 2
    monkeypatch.setattr(
        "softmix.evaluate.points.in_batches",
        lambda work, count, batch, noun: [work(i, i + 1) for i in range(count)],
    )
    assert sliced_wasserstein(a, b, 33, seed=1) == pytest.approx(whole, rel=1e-12)


def test_energy_distance_by_hand():
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [4.0]])
    # Between: (1 + 4 + 1 + 2) / 4 = 2. Within: 2 and 3.
    assert energy_distance(a, b) == pytest.approx(2 * 2 - 2 - 3)


def test_energy_distance_is_unbiased():
    same = np.array([energy_distance(normal(80, 1, 2 * i), normal(60, 1, 2 * i + 1)) for i in range(200)])
    assert abs(same.mean()) < 3 * same.std() / math.sqrt(len(same))
    assert (same < 0).any()
    # E|X - Y| for Y - X ~ N(shift, 2) is the mean of a folded normal.
    shift, sd = 0.8, math.sqrt(2)
    between = sd * math.sqrt(2 / math.pi) * math.exp(-((shift / sd) ** 2) / 2) + shift * math.erf(shift / sd / sd)
    truth = 2 * between - 2 * sd * math.sqrt(2 / math.pi)
    moved = np.array([energy_distance(normal(80, 1, 2 * i), normal(60, 1, 2 * i + 1) + shift) for i in range(200)])
    assert abs(moved.mean() - truth) < 3 * moved.std() / math.sqrt(len(moved))


def test_the_chunk_does_not_matter():
    a, b = normal(100, 3, 10), normal(70, 3, 11) + 1
    assert energy_distance(a, b, chunk=9) == pytest.approx(energy_distance(a, b), rel=1e-12)


def test_mode_statistics_by_hand():
    means = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    near = [[0.0, 0.49], [0.3, 0.0], [10.0, 0.51], [10.0, 0.0], [10.0, -0.5]]
    x = torch.tensor([*near, [9.0, 0.0], [4.0, 0.0], [100.0, 0.0]])
    modes = mode_statistics(x, means, 0.125)
    # Good: two near the first mode, one on the second and one on its edge. Counts: 3, 5, 0 of 8.
    assert modes.counts.tolist() == [3, 5, 0]
    assert modes.good == 4 / 8
    assert modes.total_variation == pytest.approx((3 / 8 - 1 / 3 + 5 / 8 - 1 / 3 + 1 / 3) / 2, abs=1e-6)
    assert mode_statistics(x, means, 0.125, within=5).good == 5 / 8


def test_each_mode_may_have_its_own_size_and_weight():
    means = torch.tensor([[0.0], [10.0]])
    x = torch.tensor([[1.0], [1.5], [9.0], [11.0]])
    modes = mode_statistics(x, means, torch.tensor([1.0, 0.01]), weights=torch.tensor([0.25, 0.75]))
    assert modes.good == 0.5
    assert modes.total_variation == pytest.approx(0.25)


def test_true_samples_are_good_and_well_spread():
    means = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)).double()
    pick = torch.randint(9, (20_000,), generator=torch.Generator().manual_seed(12))
    modes = mode_statistics(means[pick] + 0.05 * normal(20_000, 2, 13), means, 0.05)
    assert modes.good == pytest.approx(0.99966, abs=5e-4)
    floor = 9 * math.sqrt((1 / 9) * (8 / 9) / (2 * math.pi * 20_000))
    assert 0.2 * floor < modes.total_variation < 2.5 * floor


def test_histogram_tv_by_hand():
    labels = torch.tensor([0, 0, 1, 2])
    assert histogram_tv(labels, torch.tensor([0.5, 0.25, 0.25])) == 0
    assert histogram_tv(labels, torch.tensor([0.0, 0.5, 0.5])) == 0.5
    assert histogram_tv(labels, torch.tensor([0.0, 0.0, 0.0, 1.0])) == 1


def test_what_cannot_be_measured_is_named():
    x, means = normal(5, 2, 0), normal(3, 2, 1)
    with pytest.raises(ValueError, match="sum to 1"):
        mode_statistics(x, means, 0.1, weights=torch.tensor([0.5, 0.5, 0.5]))
    with pytest.raises(ValueError, match="3 modes"):
        mode_statistics(x, means, 0.1, weights=torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="positive number"):
        mode_statistics(x, means, torch.tensor([0.1, 0.1]))
    with pytest.raises(ValueError, match="0 to 1 only"):
        histogram_tv(torch.tensor([0, 2]), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="2 and 3 numbers"):
        sliced_wasserstein(x, normal(5, 3, 0), seed=0)
    with pytest.raises(ValueError, match="at least 2"):
        energy_distance(x, x[:1])


def test_the_usual_number_of_directions():
    a, b = normal(50, 3, 8), normal(50, 3, 9)
    assert (
        sliced_wasserstein(a, b, seed=1)
        == sliced_wasserstein(a, b, 256, seed=1)
        != sliced_wasserstein(a, b, 255, seed=1)
    )
