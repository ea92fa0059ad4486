"""Magnitudes, low light and clipping: values, symmetries, derivatives at the edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from operator_list import F64, dense, numbers, pattern

from softmix.measure import (
    Clipping,
    LowLight,
    Magnitude,
    MaskedFourier,
    MatrixOperator,
    PoissonNoise,
    coil_maps,
    gaussian_matrix,
    phase_retrieval,
)
from softmix.measure.fourier import MultiCoilFourier
from softmix.rng import Rng


def test_magnitudes_are_those_of_the_transform_among_zeros() -> None:
    x = numbers(2, 1, 3, 5)
    expected = torch.fft.fftshift(torch.fft.fft2(x, s=(6, 10), norm="ortho").abs(), (-2, -1))
    assert torch.allclose(phase_retrieval((1, 3, 5))(x), expected, atol=1e-12)


@pytest.mark.parametrize("oversampling", [1.5, 2.0])
def test_the_symmetries_of_phase_retrieval(oversampling: float) -> None:
    """The other sign, a turn by 180 degrees, and a move within a border of 0. Other changes are seen."""
    operator, x = phase_retrieval((2, 5, 6), oversampling), torch.zeros(1, 2, 5, 6, dtype=F64)
    x[:, :, 1:4, 1:4] = numbers(1, 2, 3, 3)
    y = operator(x)
    for same in (-x, x.flip(2, 3), x.roll((1, 2), (2, 3)), x.roll(-1, 2)):
        assert torch.allclose(operator(same), y, atol=1e-12) and not torch.equal(same, x)
    for other in (x.flip(2), x.abs(), x + 0.1, 2 * x):
        assert not torch.allclose(operator(other), y, atol=1e-2)


def test_a_move_over_a_background_of_minus_1_is_seen() -> None:
    operator, x = phase_retrieval((1, 6, 6)), torch.full((1, 1, 6, 6), -1.0, dtype=F64)
    x[:, :, 2:4, 2:4] = 1
    assert not torch.allclose(operator(x.roll(1, 2)), operator(x), atol=1e-2)


def test_a_phase_of_a_complex_image_is_not_seen() -> None:
    operator, x = Magnitude(MaskedFourier(pattern(1, 4, 4), (2, 4, 4))), numbers(1, 2, 4, 4)
    turn = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=F64)
    assert torch.allclose(operator(torch.einsum("oc,bchw->bohw", turn, x)), operator(x), atol=1e-12)


def test_consecutive_elements_are_the_parts_of_a_number() -> None:
    matrix, x = gaussian_matrix(6, (4,), 0), numbers(2, 4)
    z = matrix(x)
    assert torch.allclose(Magnitude(matrix)(x), torch.stack([z[:, 2 * j : 2 * j + 2].norm(dim=1) for j in range(3)], 1))
    assert torch.allclose(Magnitude(matrix, parts=1)(x), z.abs())
    assert torch.allclose(Magnitude(matrix, parts=3)(x)[:, 0], z[:, :3].norm(dim=1))
    for parts in (4, 0):
        with pytest.raises(ValueError, match="measures 6 elements"):
            Magnitude(matrix, parts)


def test_magnitudes_of_coils_are_those_of_each_coil() -> None:
    linear, x = MultiCoilFourier(pattern(1, 3, 4), coil_maps(2, (3, 4)), (1, 3, 4)), numbers(2, 1, 3, 4)
    z = linear(x)
    expected = torch.stack([torch.complex(z[:, 0], z[:, 1]).abs(), torch.complex(z[:, 2], z[:, 3]).abs()], 1)
    assert torch.allclose(Magnitude(linear)(x), expected)


def test_a_magnitude_of_0_has_a_derivative_of_0() -> None:
    operator, x = phase_retrieval((1, 3, 3)), torch.zeros(1, 1, 3, 3, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(operator(x).sum(), x)
    assert not slope.any()


def test_masks_of_each_item_and_of_each_channel_pass_through_a_magnitude() -> None:
    masks = pattern(3, 1, 4, 4)
    operator = Magnitude(MaskedFourier(masks, (2, 4, 4)))
    assert operator.items == 3 and operator.seen is not None and torch.equal(operator.seen.double(), masks)

    class Hidden(MatrixOperator):
        seen = torch.tensor([[1.0, 1.0, 0.0, 0.0]])

    assert torch.equal(Magnitude(Hidden(numbers(4, 3), (3,))).seen, torch.tensor([[1.0, 0.0]]))  # type: ignore[arg-type]


def test_low_light_is_a_power_law_with_an_exposure() -> None:
    x = torch.tensor([[-1.0, 0.0, 1.0, -1.7, 3.0]], dtype=F64)
    expected = torch.tensor([[-1.0, 2 * 0.3 * 0.25 - 1, 2 * 0.3 - 1, -1.0, 2 * 0.3 * 4 - 1]], dtype=F64)
    assert torch.allclose(LowLight(2.0, 0.3, (5,))(x), expected)


@pytest.mark.parametrize("power", [1.0, 2.2])
def test_low_light_has_a_finite_derivative_at_no_light(power: float) -> None:
    x = torch.tensor([[-1.0, -2.0, -1 + 1e-12]], dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(LowLight(power, 0.5, (3,))(x).sum(), x)
    assert bool(slope.isfinite().all()) and float(slope[0, 1]) == 0


def test_a_bright_pixel_in_low_light_has_gain_times_peak_photons() -> None:
    """20,000 pixels of 12 photons: 4 standard errors."""
    clean = LowLight(2.0, 0.3, (1,))(torch.ones(20_000, 1, dtype=F64))
    noise = PoissonNoise(40.0, dark=0.0)
    count = (1 + noise.draw(clean, Rng(0, 20_000))) * 20
    assert float(count.mean()) == pytest.approx(12, abs=4 * (12 / 20_000) ** 0.5)


def test_clipping_keeps_what_fits() -> None:
    x = torch.tensor([[-0.9, -0.4, 0.0, 0.5, 0.6]], dtype=F64, requires_grad=True)
    y = Clipping(2.0, (5,))(x)
    assert torch.allclose(y, torch.tensor([[-1.0, -0.8, 0.0, 1.0, 1.0]], dtype=F64))
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope[0, :3].tolist() == [0.0, 2.0, 2.0] and float(slope[0, 4]) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: LowLight(0.5, 1.0, (2,)),
        lambda: LowLight(2.0, 0.0, (2,)),
        lambda: LowLight(math.inf, 1.0, (2,)),
        lambda: Clipping(0.0, (2,)),
        lambda: Clipping(-1.0, (2,)),
    ],
)
def test_laws_without_a_meaning_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="gain"):
        make()


def test_the_slope_of_a_magnitude_is_that_of_the_norm() -> None:
    """A^T (z / |z|) for real numbers in pairs."""
    linear, x = gaussian_matrix(4, (3,), 1), numbers(1, 3).requires_grad_()
    (slope,) = torch.autograd.grad(Magnitude(linear)(x).sum(), x)
    z = linear(x.detach()).reshape(2, 2)
    assert torch.allclose(slope[0], (z / z.norm(dim=1, keepdim=True)).flatten() @ dense(linear))
