"""The gain of a start at each noise level, against the integral written out."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Tensor

from softmix.denoiser import wiener
from softmix.info import where_to_start
from softmix.posterior import Point, Posterior
from softmix.process import VP
from softmix.rng import Rng

F64 = torch.float64


class GaussianMean:
    """The mean of N(0, var). It records its conditions and batches."""

    def __init__(self, var: float):
        self.inner, self.process = wiener(VP(), torch.zeros(1).double(), torch.full((1, 1), var).double()), VP()
        self.asked: list[tuple[Tensor, Tensor | None]] = []

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        self.asked.append((xt, cond))
        return Point(self.inner(xt, t).mean)


def test_the_gain_is_the_integral_of_the_difference_of_errors() -> None:
    """1/2 int (mse_start - mse_model) d snr by the trapezoid rule in logsnr."""
    x0, levels = Rng(0, 50).normal((50, 1), F64), torch.linspace(-3, 2, 11, dtype=F64)
    found = where_to_start(GaussianMean(1.0), GaussianMean(0.3), x0, Rng(1, 50), levels)
    height = []
    for level in levels.tolist():
        t = float(VP().time(level))
        xt, rate = VP().noise(x0, t, Rng(1, 50)).xt, math.exp(level) / 2
        wrong = [(GaussianMean(var)(xt, t).mean - x0).square().sum(1).mean() for var in (0.3, 1.0)]  # type: ignore[attr-defined]
        height.append(float(wrong[0] - wrong[1]) * rate)
    right = [sum((height[j] + height[j + 1]) / 2 * 0.5 for j in range(k, 10)) for k in range(11)]
    assert found.tolist() == pytest.approx(right, abs=1e-9)


def test_the_gain_does_not_depend_on_batches_and_the_model_gets_the_conditions() -> None:
    x0, levels, cond = Rng(0, 10).normal((10, 1), F64), torch.tensor([-1.0, 1.0]), torch.arange(10)
    model = GaussianMean(1.0)
    parts = where_to_start(model, GaussianMean(0.3), x0, Rng(1, 10), levels, cond, batch=4)
    assert torch.allclose(parts, where_to_start(GaussianMean(1.0), GaussianMean(0.3), x0, Rng(1, 10), levels))
    assert [given.tolist() for _, given in model.asked[:3]] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]  # type: ignore[union-attr]
    assert inspect.signature(where_to_start).parameters["batch"].default == 256
