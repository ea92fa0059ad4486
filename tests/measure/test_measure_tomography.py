"""Tomography: closed forms of a pixel and of a disc, another program, and filtered back-projection."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from operator_list import F64, dense, numbers
from torch import Tensor

from softmix.measure import Tomography


def pixel(size: tuple[int, int], row: int, column: int) -> Tensor:
    x = torch.zeros(1, 1, *size, dtype=F64)
    x[0, 0, row, column] = 1
    return x


def chord(angle: float, place: Tensor) -> Tensor:
    """The length inside a square of side 1, around the origin, of lines at a distance `place` from it."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # along the line, (X, Y) = place (cos, sin) + r (-sin, cos): where both lie in [-1/2, 1/2]
    low, high = torch.full_like(place, -9.0), torch.full_like(place, 9.0)
    for start, step in ((place * cosine, -sine), (place * sine, cosine)):
        if abs(step) < 1e-12:
            outside = start.abs() > 0.5
            low, high = torch.where(outside, 9.0, low), torch.where(outside, 9.0, high)
        else:
            first, last = sorted(((-0.5 / step), (0.5 / step)))
            low = torch.maximum(low, first - start / step)
            high = torch.minimum(high, last - start / step)
    return (high - low).clamp(min=0)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 17.0, 45.0, 60.0, 90.0, 133.0, 180.0, -20.0])
@pytest.mark.parametrize("spacing", [1.0, 0.4, 1.7])
def test_a_pixel_has_the_mean_length_of_lines_over_each_bin(angle: float, spacing: float) -> None:
    """By 2,000 lines in each bin. At 0 and 90 degrees the length jumps, by one line in 2,000."""
    bins, lines = 9, 2000
    operator = Tomography((1, 3, 5), [angle], bins, spacing)
    row, column = 0, 3
    at = (column - 2) * math.cos(math.radians(angle)) + (1 - row) * math.sin(math.radians(angle))
    start = (torch.arange(bins, dtype=F64)[:, None] - bins / 2) * spacing
    place = start + (torch.arange(lines, dtype=F64) + 0.5) / lines * spacing
    expected = chord(angle, place - at).mean(1)
    found = operator(pixel((3, 5), row, column))[0, 0, 0]
    assert torch.allclose(found, expected, atol=2e-3 if angle % 90 < 1e-3 else 1e-5)


@pytest.mark.parametrize("spacing", [1.0, 0.37, 2.5])
def test_each_angle_keeps_the_sum_of_all_pixels(spacing: float) -> None:
    operator, x = Tomography((2, 5, 8), 13, spacing=spacing), numbers(3, 2, 5, 8)
    total = x.sum((2, 3))[..., None].expand(-1, -1, 13)
    assert torch.allclose(operator(x).sum(3) * spacing, total, atol=1e-11)


def test_at_0_degrees_columns_are_summed_from_left_to_right_and_at_90_rows_from_below() -> None:
    x = numbers(1, 1, 4, 4)
    y = Tomography((1, 4, 4), [0.0, 90.0, 180.0], 4)(x)[0, 0]
    assert torch.allclose(y[0], x[0, 0].sum(0), atol=1e-12)
    assert torch.allclose(y[1], x[0, 0].sum(1).flip(0), atol=1e-12)
    assert torch.allclose(y[2], y[0].flip(0), atol=1e-12)


def test_the_axes_are_not_mixed_up_off_the_main_angles() -> None:
    """At 30 degrees the centre of mass of a pixel to the right and up is at X cos + Y sin."""
    for row, column in ((0, 4), (3, 1)):
        y = Tomography((1, 5, 7), [30.0])(pixel((5, 7), row, column))[0, 0, 0]
        place = torch.arange(len(y), dtype=F64) - (len(y) - 1) / 2
        # the mean over bins and that of the shadow agree to the width of a bin
        expected = (column - 3) * math.cos(math.pi / 6) + (2 - row) * 0.5
        assert float((y * place).sum()) == pytest.approx(expected, abs=0.2)


def test_even_angles_are_those_below_180_degrees() -> None:
    assert Tomography((1, 2, 2), 4).angles == (0.0, 45.0, 90.0, 135.0)
    given = Tomography((1, 2, 2), torch.tensor([0.0, 45.0, 90.0, 135.0]))
    assert torch.equal(dense(given), dense(Tomography((1, 2, 2), 4)))


def test_the_default_bins_cover_the_image() -> None:
    assert Tomography((1, 3, 4), 2).measured == (1, 2, 5)
    assert Tomography((1, 3, 4), 2, spacing=0.5).measured == (1, 2, 10)


def test_bins_may_cover_a_part() -> None:
    whole, part = (Tomography((1, 5, 5), 6, bins)(numbers(2, 1, 5, 5)) for bins in (9, 3))
    assert torch.allclose(part, whole[..., 3:6], atol=1e-13)


def test_it_agrees_with_scikit_image() -> None:
    """A smooth image, of odd size, since the centre of scikit-image is a pixel. Its lines are interpolated: the
    largest difference is 0.25 % of the largest value, and none where a line follows the pixels."""
    transform = pytest.importorskip("skimage.transform")
    place = torch.arange(31, dtype=F64) - 15
    image = torch.exp(-(((place[:, None] - 3) / 4) ** 2) - ((place + 4) / 3) ** 2)
    angles = [0.0, 17.0, 45.0, 90.0, 120.0, 163.0]
    with warnings.catch_warnings():
        # the image is nearly 0 outside the circle
        warnings.simplefilter("ignore")
        other = torch.from_numpy(transform.radon(image.cpu().numpy(), theta=angles, circle=True)).T.to(image)
    own = Tomography((1, 31, 31), angles, detectors=31)(image[None, None])[0, 0]
    off = (own - other).abs().amax(1) / other.max()
    assert float(off.max()) < 0.005 and float(off[[0, 3]].max()) < 1e-9


def disc(size: int, radius: float) -> Tensor:
    """A disc, each pixel by the share of 16 x 16 points inside."""
    place = (torch.arange(16 * size, dtype=F64) + 0.5) / 16 - size / 2
    inside = (place[:, None] ** 2 + place**2 < radius**2).double()
    return torch.nn.functional.avg_pool2d(inside[None, None], 16)


def test_a_disc_has_the_length_of_its_chords_at_every_angle() -> None:
    """2 sqrt(R^2 - r^2), its mean over each bin within 10 of the radius 12, to 1 % of the diameter: the pixels at the
    border are grey."""
    y = Tomography((1, 32, 32), 7, 32)(disc(32, 12.0))[0, 0]
    place = torch.arange(3200, dtype=F64).add(0.5) / 100 - 16
    expected = (2 * (144 - place**2).clamp(min=0).sqrt()).reshape(32, 100).mean(1)
    assert float((y - expected)[:, 6:26].abs().max()) < 0.01 * 24


def test_filtered_back_projection_gives_back_a_disc_and_its_mean() -> None:
    x = disc(32, 11.0)
    operator = Tomography((1, 32, 32), 120)
    found = operator.filtered_back_projection(operator(x))
    assert float(found.mean()) == pytest.approx(float(x.mean()), rel=2e-3)
    inner = disc(32, 8.0) == 1
    assert float((found - 1)[inner].abs().max()) < 0.02 and float((found - x).square().mean().sqrt()) < 0.05
    assert torch.equal(operator.picture(operator(x)), found)


def test_filtered_back_projection_does_not_depend_on_the_width_of_bins() -> None:
    x = disc(24, 8.0)
    inner = disc(24, 5.0) == 1
    for spacing in (0.5, 1.0, 1.5):
        operator = Tomography((1, 24, 24), 90, spacing=spacing)
        found = operator.filtered_back_projection(operator(x))
        assert float((found - 1)[inner].abs().max()) < 0.04


def test_many_angles_give_back_the_image() -> None:
    operator, x = Tomography((1, 8, 8), 24), numbers(1, 1, 8, 8)
    assert torch.allclose(operator.pseudo_inverse(operator(x)), x, atol=1e-5)


def test_the_second_derivative_is_that_of_the_square() -> None:
    operator, x = Tomography((1, 3, 3), 4), numbers(1, 1, 3, 3).requires_grad_()
    matrix = dense(operator)
    (slope,) = torch.autograd.grad(operator(x).square().sum(), x, create_graph=True)
    weights = numbers(1, 1, 3, 3, seed=2)
    (second,) = torch.autograd.grad((slope * weights).sum(), x)
    assert torch.allclose(second.flatten(), 2 * matrix.T @ matrix @ weights.flatten(), atol=1e-11)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tomography((1, 4, 4), 0),
        lambda: Tomography((1, 4, 4), []),
        lambda: Tomography((1, 4, 4), 3, detectors=0),
        lambda: Tomography((1, 4, 4), 3, spacing=0.0),
        lambda: Tomography((4, 4), 3),
    ],
)
def test_geometries_that_cannot_be_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"at least one|above 0|\(C, H, W\)"):
        make()
