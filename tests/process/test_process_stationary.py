"""The stationary Ornstein-Uhlenbeck process and the steps of its chain."""

from __future__ import annotations

import math

import pytest
import torch

from softmix.process import VP, StationaryOU, reference_step
from softmix.process.gaussian import slope

pytestmark = pytest.mark.usefixtures("on_device")
F64 = torch.float64
EVERY = pytest.mark.parametrize(
    "process", [StationaryOU(2.5), StationaryOU(0.3, "linear"), StationaryOU(4.0, "sigmoid")]
)


@EVERY
def test_a_state_of_normal_data_of_its_scale_keeps_their_law(process: StationaryOU) -> None:
    """alpha^2 scale^2 + sigma^2 = scale^2 at every time."""
    t = torch.linspace(0, 1, 101, dtype=F64)
    alpha, sigma = process.levels(t)
    assert torch.allclose((alpha * process.scale) ** 2 + sigma**2, torch.full_like(t, process.scale**2), rtol=1e-12)
    assert torch.equal(alpha, process.alpha(t)) and torch.equal(sigma, process.sigma(t))
    assert torch.equal(alpha, VP(process.schedule).alpha(t))


@EVERY
def test_time_inverts_logsnr_and_rates_are_derivatives(process: StationaryOU) -> None:
    t = torch.linspace(0.01, 0.99, 99, dtype=F64)
    assert torch.allclose(process.time(process.logsnr(t)), t, atol=1e-10)
    for found, part in zip(process.rates(t), (process.alpha, process.sigma), strict=True):
        assert torch.allclose(found, slope(part, t), rtol=1e-8, atol=1e-8)


@EVERY
def test_a_step_of_the_chain_is_the_transition_of_the_stationary_process(process: StationaryOU) -> None:
    """Two steps are one, and the correlation over a step is that of the noising from s to t: alpha(t) / alpha(s)."""
    one, (first, second) = (
        reference_step(process, 0.9, 0.2),
        (
            reference_step(process, 0.9, 0.5),
            reference_step(process, 0.5, 0.2),
        ),
    )
    assert one[0] == pytest.approx(float(process.alpha(0.9) / process.alpha(0.2)), rel=1e-12)
    assert one[0] == pytest.approx(first[0] * second[0], rel=1e-12)
    assert one[1] == pytest.approx(math.hypot(second[0] * first[1], second[1]), rel=1e-12)
    assert one[0] ** 2 + one[1] ** 2 == pytest.approx(1, rel=1e-12)


def test_a_wrong_scale_and_a_step_forward_are_refused() -> None:
    with pytest.raises(ValueError, match="standard deviation above 0; found -1"):
        StationaryOU(-1.0)
    with pytest.raises(ValueError, match="a step back needs s < t"):
        reference_step(StationaryOU(), 0.3, 0.3)
