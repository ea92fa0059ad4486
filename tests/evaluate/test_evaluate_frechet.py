"""The Fréchet distance against its closed form, its floor, and what must change it."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from softmix.evaluate import Moments, frechet, frechet_error, moments
from softmix.evaluate.frechet import _halves

pytestmark = pytest.mark.usefixtures("on_device")


def normal(count: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def textbook(a: Moments, b: Moments) -> float:
    """The formula as printed, with scipy's matrix square root: for covariances of full rank."""
    cross = scipy.linalg.sqrtm(a.covariance.cpu().numpy() @ b.covariance.cpu().numpy()).real
    return float((a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * np.trace(cross))


def test_one_dimension_by_hand():
    # Means 1 and 4, standard deviations 2 and 5: 3^2 + 3^2.
    a = Moments(torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double(), 10)
    b = Moments(torch.tensor([4.0]).double(), torch.tensor([[25.0]]).double(), 10)
    assert frechet(a, b) == pytest.approx(18.0, rel=1e-12)


def test_correlated_gaussians_meet_the_formula_and_order_does_not_matter():
    a = normal(400, 6, 0) @ normal(6, 6, 1)
    b = normal(300, 6, 2) @ normal(6, 6, 3) + 1
    assert frechet(a, b) == pytest.approx(textbook(moments(a), moments(b)), rel=1e-9)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-12)


def test_samples_approach_the_law_they_came_from():
    # Diagonal Gaussians: |shift|^2 + sum (sd_a - sd_b)^2.
    a, b = normal(200_000, 3, 4), normal(200_000, 3, 5) * torch.tensor([1.0, 2.0, 0.5]) + torch.tensor([1.0, 0.0, -1.0])
    assert frechet(a, b) == pytest.approx(2 + 1 + 0.25, abs=0.05)


def test_the_moments_are_numpys():
    x = normal(50, 4, 6) * 3 + 2
    fitted = moments(x.float())
    assert fitted.count == 50
    values = x.cpu().float().double()
    np.testing.assert_allclose(fitted.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(fitted.covariance, np.cov(values.T), rtol=1e-10)


@pytest.mark.parametrize("count", [5, 64, 500])
def test_a_set_against_itself_is_zero_of_any_rank(count):
    x = 100 * normal(count, 64, 7)
    assert 0 <= frechet(x, x) < 1e-8
    assert 0 <= frechet(x, moments(x.flip(0))) < 1e-8


def test_covariances_of_low_rank_on_different_lines():
    # Variances 4 and 9 along perpendicular lines share nothing: 4 + 9. Along one line: (3 - 2)^2.
    line = torch.zeros(5, 5, dtype=torch.float64)
    first, second = line.clone(), line.clone()
    first[0, 0], second[1, 1] = 4, 9
    mean = torch.zeros(5, dtype=torch.float64)
    assert frechet(Moments(mean, first, 9), Moments(mean, second, 9)) == pytest.approx(13, rel=1e-12)
    assert frechet(Moments(mean, first, 9), Moments(mean, first * 9 / 4, 9)) == pytest.approx(1, rel=1e-12)


def test_the_floor_is_where_the_docstring_puts_it():
    dim, n, m = 8, 1000, 2000
    floors = [frechet(normal(n, dim, 2 * i), normal(m, dim, 2 * i + 1)) for i in range(40)]
    assert np.mean(floors) == pytest.approx((1 / n + 1 / m) * dim * (dim + 5) / 4, rel=0.1)


def test_one_pixel_of_shift_changes_it_beyond_the_floor():
    images = normal(2000, 64, 8).reshape(2000, 8, 8).cumsum(2).flatten(1)
    other = normal(2000, 64, 9).reshape(2000, 8, 8).cumsum(2)
    floor = frechet(images, other.flatten(1))
    assert frechet(images, other.roll(1, 2).flatten(1)) > 3 * floor


def test_what_it_cannot_measure_it_names():
    with pytest.raises(ValueError, match="4 and 5 features"):
        frechet(normal(9, 4, 0), normal(9, 5, 0))
    with pytest.raises(ValueError, match="at least 2"):
        frechet(normal(1, 4, 0), normal(9, 4, 0))
    bad = normal(9, 4, 0)
    bad[3, 1] = torch.nan
    with pytest.raises(ValueError, match="item 3"):
        frechet(bad, normal(9, 4, 0))


def both(shift: float, seed: int, n: int = 200, m: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    return normal(n, 6, 2 * seed) + shift, normal(m, 6, 2 * seed + 1)


def test_the_error_by_halves_is_the_spread_over_repeats():
    """Sixty pairs of samples: the error that each pair finds by itself is how much the sixty distances differ."""
    pairs = [both(0.5, seed) for seed in range(60)]
    values = [frechet(a, b) for a, b in pairs]
    errors = [frechet_error(a, b, seed) for seed, (a, b) in enumerate(pairs)]
    # a spread of sixty values is known to 9 %
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values, ddof=1), rel=0.25)


def test_on_the_floor_the_error_is_too_large_by_what_the_docstring_says():
    pairs = [both(0.0, seed) for seed in range(60)]
    values = [frechet(a, b) for a, b in pairs]
    errors = [frechet_error(a, b, seed) for seed, (a, b) in enumerate(pairs)]
    assert np.sqrt(np.mean(np.square(errors))) / np.std(values, ddof=1) == pytest.approx(1.4, abs=0.35)


def test_the_error_by_hand():
    # Four items each, so that a half has two.
    a, b = torch.tensor([[0.0], [2.0], [0.0], [2.0]]), torch.zeros(4, 1)
    # Halves of a: {0, 2} twice, distance 1 + 2 each; or {0, 0} and {2, 2}, distances 0 and 4: (0 - 4)^2 / 4 = 4.
    found = {round(frechet_error(a, b, seed, splits=1), 9) for seed in range(30)}
    assert found == {0.0, 2.0}
    many = frechet_error(a, b, 0, splits=300)
    # one in three ways to cut four items puts the equal ones together
    assert many == pytest.approx(math.sqrt(4 / 3), rel=0.12)


def test_halves_share_no_item_and_leave_at_most_one_out():
    x = torch.arange(9.0)[:, None]
    first, second = _halves(x, 0, "a")
    assert len(first) == len(second) == 4
    assert len({*first[:, 0].tolist(), *second[:, 0].tolist()}) == 8


def test_the_error_is_a_function_of_the_sets_and_the_seed():
    a, b = both(0.5, 0)
    assert frechet_error(a, b, 1) == frechet_error(a, b, 1) != frechet_error(a, b, 2)
    # both sets are cut: each alone decides
    assert frechet_error(a, b, 1) != frechet_error(a, b.flip(0), 1)
    assert frechet_error(a.flip(0), b, 1) != frechet_error(a, b, 1)


def test_an_error_that_cannot_be_had_is_refused():
    with pytest.raises(ValueError, match="at least 4"):
        frechet_error(normal(3, 2, 0), normal(9, 2, 1), 0)
    with pytest.raises(ValueError, match="0 splits"):
        frechet_error(normal(9, 2, 0), normal(9, 2, 1), 0, splits=0)


def test_the_usual_number_of_splits():
    a, b = both(0.5, 0)
    assert frechet_error(a, b, 1) == frechet_error(a, b, 1, 16) != frechet_error(a, b, 1, 15)
