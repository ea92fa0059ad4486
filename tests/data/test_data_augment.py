"""Views of an image for self-supervised learning: each change by itself, from its random numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmix.data import random_view
from softmix.rng import Rng

pytestmark = pytest.mark.usefixtures("on_device")

F64 = torch.float64


class ChosenRng(Rng):
    """Given uniform numbers, and no noise."""

    def __init__(self, uniform: Tensor):
        super().__init__(0, len(uniform), device=uniform.device)
        self.given = uniform

    def uniform(self, shape: object, dtype: torch.dtype | None = None) -> Tensor:  # type: ignore[override]
        return self.given

    def normal(self, shape: object, dtype: torch.dtype | None = None) -> Tensor:  # type: ignore[override]
        return torch.ones(tuple(shape), dtype=dtype)  # type: ignore[arg-type]


def view(x0: Tensor, **numbers: float) -> Tensor:
    """The view by these of its nine numbers. The others change nothing, and the erased square is off the image."""
    names = ["angle", "scale", "right", "down", "contrast", "brightness", "row", "column", "noise"]
    still = dict.fromkeys(names, 0.5) | {"row": -5.0, "noise": 0.0} | numbers
    return random_view(x0, ChosenRng(torch.tensor([[still[name] for name in names]], dtype=F64)))


def blob(row: float, column: float, wide: float = 2.0) -> Tensor:
    """A Gaussian of height 1 on a 40 x 40 image, [1, 1, 40, 40]; its centre is in pixels from the middle."""
    at = torch.arange(40, dtype=F64) - 19.5
    return torch.exp(-((at[:, None] - row) ** 2 + (at - column) ** 2) / (2 * wide**2))[None, None]


def centre(x: Tensor) -> tuple[float, float]:
    at = torch.arange(40, dtype=F64) - 19.5
    share = x[0, 0] / x.sum()
    return float(share.sum(1) @ at), float(share.sum(0) @ at)


def test_a_view_without_a_change_is_the_image() -> None:
    x0 = Rng(0, 1).normal((1, 2, 9, 7), F64)
    assert torch.allclose(view(x0), x0, atol=1e-12)


def test_an_image_moves_by_a_tenth_of_its_side() -> None:
    # grid_sample takes the place from which a pixel comes
    assert centre(view(blob(0, 0), right=1.0)) == pytest.approx((0, -4), abs=1e-3)
    assert centre(view(blob(0, 0), right=0.0)) == pytest.approx((0, 4), abs=1e-3)
    assert centre(view(blob(0, 0), down=1.0)) == pytest.approx((-4, 0), abs=1e-3)


def test_an_image_is_scaled_and_turned() -> None:
    assert centre(view(blob(0, 10), scale=1.0)) == pytest.approx((0, 12), abs=0.05)
    assert centre(view(blob(0, 10), scale=0.0)) == pytest.approx((0, 8), abs=0.05)
    ten = math.radians(10)
    row, column = centre(view(blob(0, 10), angle=1.0))
    assert (abs(row), column) == pytest.approx((10 * math.sin(ten), 10 * math.cos(ten)), abs=0.05)


def test_contrast_brightness_and_noise() -> None:
    x0 = Rng(0, 1).normal((1, 1, 8, 8), F64)
    assert torch.allclose(view(x0, contrast=1.0), 1.3 * x0) and torch.allclose(view(x0, contrast=0.0), 0.7 * x0)
    assert torch.allclose(view(x0, brightness=1.0), x0 + 0.2)
    assert torch.allclose(view(x0, noise=1.0), x0 + 0.2)


def test_a_third_of_each_side_is_erased_before_the_noise() -> None:
    x0 = torch.full((1, 2, 12, 6), 0.9, dtype=F64)
    # around row 3 of 12 and column 4 of 6
    found, right = view(x0, row=3 / 12, column=4 / 6, noise=0.5), x0.clone()
    right[:, :, 1:5, 3:5] = 0
    assert torch.allclose(found, right + 0.1)


def test_a_view_does_not_depend_on_its_batch() -> None:
    x0 = Rng(0, 5, "x0").normal((5, 1, 8, 8), F64)
    views, two = random_view(x0, Rng(1, 5)), slice(2, 4)
    assert torch.allclose(views[two], random_view(x0[two], Rng(1, 5).take(two)), atol=1e-12)
    assert not torch.allclose(views, random_view(x0, Rng(2, 5)))
