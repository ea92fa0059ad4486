"""The kernel distance is unbiased, its error is honest, and it grows with the difference."""

import numpy as np
import pytest
import torch

from softmix.evaluate import kernel_distance

pytestmark = pytest.mark.usefixtures("on_device")


def normal(count: int, seed: int, dim: int = 4) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def repeats(shift: float, runs: int = 150) -> tuple[np.ndarray, np.ndarray]:
    results = [kernel_distance(normal(300, 2 * i) + shift, normal(400, 2 * i + 1), i, subsets=10) for i in range(runs)]
    values, errors = zip(*results, strict=True)
    return np.array(values), np.array(errors)


def true_distance(shift: float, dim: int = 4) -> float:
    """E k(x,x') + E k(y,y') - 2 E k(x,y) for N(shift, I) and N(0, I), by moments of the inner product s = x.y / dim.

    For independent x ~ N(p, I), y ~ N(q, I): s | x ~ N(x.q, |x|^2) / dim, and x is integrated on a large sample.
    """
    x = normal(500_000, 10_001, dim)

    def mean_kernel(p: float, q: float) -> float:
        mean, var = (x + p).sum(1) * q / dim, (x + p).square().sum(1) / dim**2
        return float(((mean + 1) ** 3 + 3 * (mean + 1) * var).mean())

    return mean_kernel(shift, shift) + mean_kernel(0, 0) - 2 * mean_kernel(shift, 0)


def test_by_hand_in_one_dimension():
    # k(x, y) = (x y + 1)^3. Both blocks are {0, 1} and {2, 2}: 1 + 125 - 2 (1 + 1 + 27 + 27) / 4.
    a, b = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None], torch.full((4, 1), 2.0)
    values = {round(kernel_distance(a, b, seed, subsets=2).value, 9) for seed in range(20)}
    # Depending on the seed the blocks of a are {0,1} twice, or {0,0} and {1,1}: (1 + 8) / 2 in place of 1.
    assert values == {98.0, 101.5}


def test_one_law_is_zero_on_average_and_negative_half_the_time():
    values, _ = repeats(0.0)
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert 0.3 < (values < 0).mean() < 0.7


def test_different_laws_give_the_true_distance_and_an_honest_error():
    values, errors = repeats(0.5)
    standard_error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - true_distance(0.5)) < 3.5 * standard_error
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.25)


def test_it_grows_with_the_difference():
    values = [kernel_distance(normal(2000, 1) + shift, normal(2000, 2), 0).value for shift in (0, 0.3, 0.6, 1.2)]
    assert values == sorted(values)
    assert values[0] < 0.2 * values[1]


def test_one_pixel_of_shift_changes_it():
    a, b = normal(1000, 1, 36).reshape(-1, 6, 6).cumsum(2), normal(1000, 2, 36).reshape(-1, 6, 6).cumsum(2)
    value, error = kernel_distance(a.flatten(1), b.roll(1, 2).flatten(1), 0)
    assert value > 5 * error


def test_the_seed_decides_the_blocks_and_nothing_else_does():
    a, b = normal(200, 1), normal(200, 2) + 1
    assert kernel_distance(a, b, 3) == kernel_distance(a.float().double() * 0 + a, b, 3)
    torch.manual_seed(1)
    assert kernel_distance(a, b, 3) == kernel_distance(a, b, 3)
    assert kernel_distance(a, b, 3) != kernel_distance(a, b, 4)


def test_a_set_against_itself_is_below_zero_by_what_the_docstring_says():
    x = normal(100, 1)
    gram = (x @ x.T / 4 + 1) ** 3
    same, other = gram.diagonal().mean(), (gram.sum() - gram.trace()) / (100 * 99)
    values = np.array([kernel_distance(x, x, seed, subsets=5).value for seed in range(200)])
    assert abs(values.mean() + 2 / 100 * float(same - other)) < 3 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize(
    ("subsets", "size", "message"), [(1, 5, "at least 2"), (20, 6, "120 items"), (60, None, "fewer")]
)
def test_blocks_that_do_not_fit_are_refused(subsets, size, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(normal(100, 0), normal(150, 1), 0, subsets, size)


def test_the_usual_number_of_blocks():
    a, b = normal(200, 1), normal(200, 2) + 1
    assert kernel_distance(a, b, 3) == kernel_distance(a, b, 3, 20, 10) != kernel_distance(a, b, 3, 19, 10)
