"""Precision, recall, density and coverage where their values are known."""

import numpy as np
import pytest
import torch

from softmix.evaluate import coverage
from softmix.evaluate.coverage import _squares

pytestmark = pytest.mark.usefixtures("on_device")


def normal(count: int, seed: int, dim: int = 5) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clusters(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """Tight clusters of points, far apart on a line."""
    x = 0.1 * normal(len(labels), seed)
    x[:, 0] += 10 * labels
    return x


def by_definition(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """Loops over the definitions of the two papers, nothing shared with the code under test."""

    def radius(x: np.ndarray, i: int) -> float:
        return sorted(np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if j != i)[k - 1]

    inside = np.array([[np.linalg.norm(r - f) <= radius(real, i) for f in fake] for i, r in enumerate(real)])
    reached = np.array([[np.linalg.norm(r - f) <= radius(fake, j) for r in real] for j, f in enumerate(fake)])
    return inside.any(0).mean(), reached.any(0).mean(), inside.sum() / (k * len(fake)), inside.any(1).mean()


@pytest.mark.parametrize("k", [1, 3])
def test_the_definitions(k):
    real, fake = normal(25, 0, 2), 0.7 * normal(18, 1, 2) + 0.5
    assert tuple(coverage(real, fake, k)) == pytest.approx(
        by_definition(real.cpu().numpy(), fake.cpu().numpy(), k), rel=1e-12
    )


@pytest.mark.parametrize("chunk", [7, 512])
def test_a_set_against_itself_is_perfect_even_far_from_the_origin(chunk):
    x = normal(100, 2) + 1000
    assert tuple(coverage(x, x, chunk=chunk)) == (1, 1, 1, 1)


def test_balls_of_radius_zero_hold_what_lies_at_their_centre():
    x = normal(100, 2, 64) + 1000
    result = coverage(x.repeat_interleave(6, 0), x, k=5)
    assert (result.precision, result.coverage) == (1, 1)
    assert coverage(x.repeat_interleave(6, 0), x + 1e-3, k=5).precision == 0


def test_squares_are_those_of_differences_and_copies_are_at_exactly_zero():
    x, y = normal(50, 3, 64), normal(40, 4, 64)
    expected = (x[:, None] - y).square().sum(2)
    torch.testing.assert_close(_squares(x, y), expected, rtol=1e-12, atol=0)
    assert (_squares(x, x).diagonal() == 0).all()


def test_disjoint_sets_share_nothing():
    assert tuple(coverage(normal(200, 3), normal(200, 4) + 100)) == (0, 0, 0, 0)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_one_law_meets_the_reference_points_of_the_docstring(k):
    n = 150
    results = np.array([coverage(normal(n, 2 * i), normal(n, 2 * i + 1), k) for i in range(60)])
    i = np.arange(1, k + 1)
    assert results[:, 3].mean() == pytest.approx(1 - np.prod((n - i) / (2 * n - i)), abs=0.01)
    assert results[:, 2].mean() == pytest.approx(1, abs=0.04)


def test_a_lost_mode_costs_recall_and_coverage_but_not_precision():
    labels = torch.arange(200) % 4
    runs = [(clusters(labels, 3 * i), clusters(labels, 3 * i + 1), clusters(labels % 3, 3 * i + 2)) for i in range(20)]
    good = np.mean([coverage(real, full) for real, full, _ in runs], axis=0)
    bad = np.mean([coverage(real, lost) for real, _, lost in runs], axis=0)
    assert bad[0] == pytest.approx(good[0], abs=0.015)
    assert bad[1] == pytest.approx(0.75 * good[1], abs=0.03)
    assert bad[3] == pytest.approx(0.75 * good[3], abs=0.03)


def test_samples_off_the_data_cost_precision_and_density_but_not_recall():
    real, fake = normal(400, 8), normal(400, 9)
    polluted = torch.cat([fake, 50 * normal(400, 10)])
    clean, dirty = coverage(real, fake), coverage(real, polluted)
    assert dirty.precision == pytest.approx(clean.precision / 2, abs=0.03)
    assert dirty.density == pytest.approx(clean.density / 2, abs=0.03)
    assert dirty.recall >= clean.recall


def test_the_chunk_does_not_matter():
    real, fake = normal(230, 11), normal(170, 12) + 0.3
    assert coverage(real, fake, chunk=1) == coverage(real, fake, chunk=64) == coverage(real, fake, chunk=1000)


def test_what_it_cannot_measure_it_names():
    with pytest.raises(ValueError, match="at least 6"):
        coverage(normal(5, 0), normal(50, 1))
    with pytest.raises(ValueError, match="k = 0"):
        coverage(normal(5, 0), normal(50, 1), k=0)
    with pytest.raises(ValueError, match="5 and 4 numbers"):
        coverage(normal(50, 0), normal(50, 1, 4))
