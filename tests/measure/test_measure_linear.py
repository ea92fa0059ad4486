"""What each linear operator measures, by another computation."""

from __future__ import annotations

import pytest
import torch
from operator_list import CUBE, F64, IMAGE, dense, numbers

from softmix.measure import (
    Channels,
    Convolution,
    Mask,
    MatrixOperator,
    Separable,
    blur,
    crop,
    gaussian_matrix,
    grey,
    smaller,
)


def test_a_mask_keeps_the_elements_that_are_seen() -> None:
    seen = torch.tensor([[[True, False, True]]])
    x = numbers(2, 2, 1, 3)
    y = Mask(seen, (2, 1, 3))(x)
    assert torch.equal(y[..., [0, 2]], x[..., [0, 2]]) and not y[..., 1].any()


def test_a_mask_for_each_item() -> None:
    seen = torch.tensor([[1.0, 0, 0], [0, 1.0, 1.0]])
    operator, x = Mask(seen, (3,)), numbers(2, 3)
    assert torch.equal(operator(x), x * seen) and operator.items == 2
    assert torch.equal(operator.pseudo_inverse(x), x * seen)
    with pytest.raises(ValueError, match="for each of 2 items, and x0 has 3"):
        operator(numbers(3, 3))


def test_as_many_items_as_rows_do_not_make_a_mask_of_items() -> None:
    """A mask with the rank of an item serves every item."""
    seen = torch.tensor([[1.0, 0], [0, 1.0]])
    assert Mask(seen, (2, 2)).items is None and Mask(seen[None], (2, 2)).items is None


@pytest.mark.parametrize("shape", [(3,), (3, 3, 3), (1, 3, 3, 3), (2, 2, 2)])
def test_a_mask_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"for items \[2, 3\] a mask of that rank was expected"):
        Mask(torch.ones(shape), (2, 3))


def test_a_mask_with_other_values_is_refused() -> None:
    with pytest.raises(ValueError, match="holds 0 and 1"):
        Mask(torch.tensor([0.0, 0.5], device="cpu"), (2,))


def test_a_matrix_multiplies_the_flattened_item() -> None:
    matrix, x = numbers(4, 6), numbers(5, 2, 3)
    assert torch.allclose(MatrixOperator(matrix, (2, 3))(x), x.flatten(1) @ matrix.T, atol=1e-12)
    with pytest.raises(ValueError, match=r"\[K, 6\] was expected, found \[4, 5\]"):
        MatrixOperator(matrix[:, :5], (2, 3))


def test_separable_matrices_act_on_rows_and_columns() -> None:
    rows, columns, x = numbers(2, 4), numbers(6, 5, seed=1), numbers(3, 2, 4, 5)
    assert torch.allclose(Separable(rows, columns, 2)(x), rows @ x @ columns.T, atol=1e-12)
    with pytest.raises(ValueError, match="two matrices"):
        Separable(rows, columns[0])


def test_channels_are_mixed_at_each_pixel() -> None:
    matrix, x = numbers(2, 3), numbers(4, *IMAGE)
    assert torch.allclose(Channels(matrix, (4, 5))(x), torch.einsum("oc,bchw->bohw", matrix, x), atol=1e-12)
    with pytest.raises(ValueError, match=r"a matrix \[C', C\]"):
        Channels(matrix[0], (4, 5))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 2), (4, 5)])
def test_a_convolution_is_the_sum_over_the_torus(size: tuple[int, int]) -> None:
    kernel, x = numbers(*size), numbers(2, *IMAGE)
    expected = torch.zeros_like(x)
    for i in range(size[0]):
        for j in range(size[1]):
            expected += kernel[i, j] * x.roll((i - size[0] // 2, j - size[1] // 2), (2, 3))
    assert torch.allclose(Convolution(kernel, IMAGE)(x), expected, atol=1e-12)


def test_a_convolution_may_lose_frequencies() -> None:
    """A mean of two pixels has none of the highest one; the rest comes back."""
    operator = Convolution(torch.full((1, 2), 0.5), (1, 1, 4))
    stripes = torch.tensor([1.0, -1, 1, -1], dtype=F64).reshape(1, 1, 1, 4)
    assert float(operator(stripes).abs().max()) < 1e-15
    x = numbers(1, 1, 1, 4)
    kept = x - (x * stripes).mean() * stripes
    assert torch.allclose(operator.pseudo_inverse(operator(x)), kept, atol=1e-12)


def test_a_kernel_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 4 x 5 was expected"):
        Convolution(torch.ones(5, 5), IMAGE)
    with pytest.raises(ValueError, match=r"\(C, H, W\) of an image"):
        Convolution(torch.ones(2, 2), (4, 5))


def test_a_blur_keeps_a_constant_and_has_gaussian_weights() -> None:
    operator = blur(1.5, (1, 9, 9))
    assert torch.allclose(operator(torch.ones(1, 1, 9, 9, dtype=F64)), torch.ones(1, 1, 9, 9, dtype=F64), atol=1e-12)
    point = torch.zeros(1, 1, 9, 9, dtype=F64)
    point[0, 0, 4, 4] = 1
    seen = operator(point)[0, 0]
    # rows of the same weight sum, so that the ratio is exact
    assert float(seen[4, 4] / seen[4, 3]) == pytest.approx(
        float(torch.exp(torch.tensor(1 / (2 * 1.5**2), dtype=F64)) * _sum(3) / _sum(4)), rel=1e-9
    )
    with pytest.raises(ValueError, match="sd = 0"):
        blur(0.0, IMAGE)


def _sum(row: int) -> float:
    """The sum of the weights of a row of nine."""
    return float(torch.exp(-((torch.arange(9, dtype=F64) - row) ** 2) / (2 * 1.5**2)).sum())


@pytest.mark.parametrize(("factor", "size"), [(2, (4, 6)), (3, (9, 6)), (2, (7, 5))])
def test_smaller_images_are_those_of_adaptive_pooling(factor: int, size: tuple[int, int]) -> None:
    x = numbers(2, 3, *size)
    cells = tuple(round(n / factor) for n in size)
    expected = torch.nn.functional.adaptive_avg_pool2d(x, cells)
    assert torch.allclose(smaller(factor, (3, *size))(x), expected, atol=1e-12)


def test_cells_that_do_not_fit_are_refused() -> None:
    for factor in (1, 5):
        with pytest.raises(ValueError, match="give 2 to 4"):
            smaller(factor, IMAGE)


def test_a_crop_is_the_part() -> None:
    x = numbers(2, *IMAGE)
    assert torch.allclose(crop(1, 2, 3, 2, IMAGE)(x), x[:, :, 1:4, 2:4], atol=1e-12)
    for part in ((2, 0, 3, 2), (0, 4, 2, 2), (-1, 0, 2, 2), (0, 0, 0, 2)):
        with pytest.raises(ValueError, match="is not inside"):
            crop(*part, IMAGE)


def test_grey_is_the_brightness() -> None:
    x = numbers(2, *CUBE)
    expected = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    assert torch.allclose(grey(CUBE)(x), expected, atol=1e-12)
    with pytest.raises(ValueError, match="have 1"):
        grey((1, 3, 3))


def test_a_gaussian_matrix_keeps_lengths_on_average() -> None:
    """1,500 squared weights of mean 1/50: the standard error of their mean is 3.7 %."""
    matrix = dense(gaussian_matrix(50, (5, 6), 3))
    assert float(matrix.square().mean() * 50) == pytest.approx(1, abs=4 * (2 / 1500) ** 0.5)
    assert torch.equal(matrix, dense(gaussian_matrix(50, (5, 6), 3)))
    assert not torch.equal(matrix, dense(gaussian_matrix(50, (5, 6), 4)))


def test_singular_values_that_are_rounding_count_as_0() -> None:
    """A matrix of rank 1 with noise of 1e-9: the pseudo-inverse does not enlarge the noise."""
    matrix = torch.ones(3, 3, dtype=F64) + 1e-9 * numbers(3, 3)
    y = numbers(2, 3)
    assert torch.allclose(MatrixOperator(matrix, (3,)).pseudo_inverse(y), y.mean(1, keepdim=True).expand(-1, 3) / 3)
