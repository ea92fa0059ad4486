"""The control of a sampler of a density, and the same as a denoiser."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softmix.cond import CondError
from softmix.denoiser import Control, ControlledDenoiser, density_slope
from softmix.net import MLPSpec
from softmix.oracle import correlated
from softmix.process import StationaryOU
from softmix.rng import Rng
from softmix.sampler import ancestral, sample

pytestmark = pytest.mark.usefixtures("on_device")
F64 = torch.float64
SPEC = MLPSpec(width=16, depth=1, frequencies=0)
PROCESS = StationaryOU(1.7)


def control(shape: tuple[int, ...] = (3,), seed: int = 0, clip: float = 100.0) -> Control:
    """One with random weights everywhere, also in its last layers."""
    torch.manual_seed(seed)
    made = Control(PROCESS, SPEC, shape, clip).double()
    for layer in (made.net.leave, made.gain):
        torch.nn.init.normal_(layer.weight, std=0.3)
        torch.nn.init.normal_(layer.bias, std=0.3)
    return made


def test_an_untrained_control_is_zero() -> None:
    made = Control(PROCESS, SPEC, (3,))
    y, slope = (Rng(k, 5).normal((5, 3)) for k in (0, 1))
    assert all(torch.equal(made(y, t, slope), torch.zeros(5, 3)) for t in (1.0, 0.4, 0.0))


def test_the_control_is_that_of_its_equation() -> None:
    """u = alpha scale (NN1(y / scale) + NN2 * scale * slope), with the gradient of each element cut."""
    made, y = control(clip=2.0), Rng(0, 5).normal((5, 3), F64)
    slope = 3 * Rng(1, 5).normal((5, 3), F64)
    t, scale = 0.4, PROCESS.scale
    alpha = float(PROCESS.alpha(t))
    level = torch.full((5,), float(torch.logit(PROCESS.alpha(t) ** 2)), dtype=F64)
    free = made.net(y / scale, level)
    gain = made.gain(torch.nn.functional.silu(made.net.time(level)))
    right = alpha * scale * (free + gain * scale * slope.clamp(-2, 2))
    assert torch.allclose(made(y, t, slope), right, rtol=1e-10)
    assert (slope.abs() > 2).any()
    times = torch.full((5,), t, dtype=F64)
    assert torch.allclose(made(y, times, slope), right, rtol=1e-10)


def test_an_item_does_not_depend_on_its_batch_and_any_shape_is_a_point() -> None:
    made, y = control((2, 3)), Rng(0, 4).normal((4, 2, 3), F64)
    slope = Rng(1, 4).normal((4, 2, 3), F64)
    whole = made(y, 0.3, slope)
    assert whole.shape == y.shape
    assert torch.allclose(made(y[2:3], 0.3, slope[2:3]), whole[2:3], rtol=1e-12)


def test_the_slope_is_the_gradient_of_the_log_density_without_a_graph() -> None:
    x = Rng(0, 6).normal((6, 2), F64).requires_grad_()
    with torch.no_grad():
        found = density_slope(lambda y: -(y[:, 0] ** 4) + y[:, 0] * y[:, 1], x)
    assert torch.allclose(found, torch.stack([-4 * x[:, 0] ** 3 + x[:, 1], x[:, 0]], 1))
    assert not found.requires_grad


class BestControl(Control):
    """f = u / alpha with u = scale^2 grad log p_t + y, from the closed form of p_t."""

    def __init__(self, problem: object):
        super().__init__(PROCESS, SPEC, (2,))
        self.problem = problem

    def drift(self, y: Tensor, t: Tensor | float, slope: Tensor) -> Tensor:
        score = density_slope(self.problem.at(float(t)).log_prob, y)  # type: ignore[attr-defined]
        return (PROCESS.scale**2 * score + y) / float(PROCESS.alpha(t))


@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_the_best_control_is_the_exact_denoiser(t: float) -> None:
    problem = correlated((2,), PROCESS)
    view = ControlledDenoiser(BestControl(problem), problem.law.log_prob)
    xt = PROCESS.noise(problem.sample(50, Rng(0, 50)), t, Rng(1, 50)).xt
    assert torch.allclose(view(xt, t).mean, problem.denoiser()(xt, t).mean, atol=1e-8)


def test_the_view_gives_the_density_to_the_control_and_refuses_a_condition() -> None:
    made, y = control((2,)), Rng(0, 5).normal((5, 2), F64)
    view = ControlledDenoiser(made, lambda x: -(x**4).sum(1))
    alpha = float(PROCESS.alpha(0.6))
    right = alpha * y + (1 - alpha**2) * made.drift(y, 0.6, -4 * y**3)
    assert torch.allclose(view(y, 0.6).mean, right)
    assert torch.allclose(view(y, torch.full((5,), 0.6, dtype=F64)).mean, right)
    with pytest.raises(CondError, match="leave it out"):
        view(y, 0.6, torch.zeros(5, dtype=torch.int64))


def test_samplers_take_the_view() -> None:
    """With the best control of a mixture 16 ancestral steps reach its mean: 4 standard errors of 2,000 draws, and 0.02
    for the steps."""
    problem = correlated((2,), PROCESS)
    view = ControlledDenoiser(BestControl(problem), problem.law.log_prob)
    x = sample(view, 2000, 16, sampler=ancestral).double()
    law = problem.law.to(x.device)
    spread = law.covariance.diagonal().sqrt()
    assert ((x.mean(0) - law.mean).abs() < 4 * spread / 2000**0.5 + 0.02).all()
