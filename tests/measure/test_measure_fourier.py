"""Masked Fourier transforms: places of the origin, real images, coils, and the masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from operator_list import F64, dense, numbers, pattern

from softmix.measure import (
    MaskedFourier,
    MultiCoilFourier,
    OversampledFourier,
    coil_maps,
    radial_lines,
    random_columns,
    uniform_columns,
)
from softmix.measure.fourier import opposite
from softmix.rng import Rng

SIZES = [(4, 6), (5, 7), (4, 5)]
each_size = pytest.mark.parametrize("size", SIZES, ids=str)


def everything(size: tuple[int, int]) -> torch.Tensor:
    return torch.ones(1, *size)


@each_size
def test_a_point_in_the_middle_has_a_constant_transform(size: tuple[int, int]) -> None:
    x = torch.zeros(1, 2, *size, dtype=F64)
    x[0, 0, size[0] // 2, size[1] // 2] = 1
    y = MaskedFourier(everything(size), (2, *size))(x)
    assert torch.allclose(y[0, 0], torch.full(size, (size[0] * size[1]) ** -0.5, dtype=F64)) and not y[0, 1].any()


@each_size
def test_a_constant_has_only_the_frequency_in_the_middle_and_the_mask_means_that_place(size: tuple[int, int]) -> None:
    x = torch.ones(1, 1, *size, dtype=F64)
    only = torch.zeros(1, *size)
    only[0, size[0] // 2, size[1] // 2] = 1
    y = MaskedFourier(only, (1, *size))(x)
    assert float(y[0, 0, size[0] // 2, size[1] // 2]) == pytest.approx((size[0] * size[1]) ** 0.5)
    assert torch.allclose(y, MaskedFourier(everything(size), (1, *size))(x), atol=1e-14)
    assert float(MaskedFourier(1 - only, (1, *size))(x).abs().max()) < 1e-14


@each_size
def test_each_frequency_is_at_its_place(size: tuple[int, int]) -> None:
    """y(k) = sum x(n) exp(-2 pi i k.(n - origin) / N) / sqrt(N), by the sum itself."""
    x = numbers(1, 2, *size)
    value = torch.complex(x[0, 0], x[0, 1])
    down, right = (torch.arange(n, dtype=F64) - n // 2 for n in size)
    turn = [torch.exp(-2j * torch.pi * k[:, None] * k / n) / n**0.5 for k, n in zip((down, right), size, strict=True)]
    expected = turn[0] @ value @ turn[1].T
    y = MaskedFourier(everything(size), (2, *size))(x)[0]
    assert torch.allclose(torch.complex(y[0], y[1]), expected, atol=1e-12)


@each_size
def test_the_opposite_of_a_frequency_is_the_conjugate_of_a_real_image(size: tuple[int, int]) -> None:
    y = MaskedFourier(everything(size), (1, *size))(numbers(1, 1, *size))[0]
    c = torch.complex(y[0], y[1])
    assert torch.allclose(opposite(c), c.conj(), atol=1e-12)
    assert torch.equal(opposite(opposite(c)), c)


@each_size
def test_a_frequency_of_a_real_image_is_known_from_its_opposite(size: tuple[int, int]) -> None:
    """s^2 is the mean of the mask and its reflection: 0, 1/2 or 1, and the seen half gives back the image."""
    place = torch.arange(size[0] * size[1])
    middle = (size[0] // 2) * size[1] + size[1] // 2
    half = (place.reshape(1, *size) >= middle).double()
    operator = MaskedFourier(torch.maximum(half, (opposite(half) == 0).double()), (1, *size))
    assert set(operator.singular.square().unique().mul(2).round().tolist()) <= {1.0, 2.0}
    x = numbers(2, 1, *size)
    assert torch.allclose(operator.pseudo_inverse(operator(x)), x, atol=1e-12)
    assert torch.allclose(
        torch.linalg.svdvals(dense(operator)), operator.singular.flatten().sort(descending=True).values, atol=1e-12
    )


def test_a_frequency_that_is_seen_twice_has_half_the_variance() -> None:
    """The pseudo-inverse of noise alone: its power is that of 1 / s^2 over the frequencies that are seen."""
    seen = pattern(1, 6, 6)
    operator = MaskedFourier(seen, (1, 6, 6))
    n = 3000
    y = numbers(n, 2, 6, 6) * seen
    power = operator.pseudo_inverse(y).square().flatten(1).sum(1)
    s = operator.singular.flatten()
    expected = float((1 / s[s > 0].square()).sum())
    assert float(power.mean()) == pytest.approx(expected, abs=5 * float(power.std()) / n**0.5)


def test_the_picture_has_0_in_place_of_what_is_not_seen() -> None:
    seen, x = pattern(1, 4, 5), numbers(2, 2, 4, 5)
    operator = MaskedFourier(seen, (2, 4, 5))
    whole = MaskedFourier(everything((4, 5)), (2, 4, 5))
    assert torch.allclose(operator.picture(operator(x)), whole.adjoint(whole(x) * seen), atol=1e-12)


def test_masks_for_each_item() -> None:
    masks, x = random_columns(8, 2, 0.25, Rng(0, 3)), numbers(3, 1, 4, 8)
    together = MaskedFourier(masks, (1, 4, 8))
    alone = torch.cat([MaskedFourier(mask, (1, 4, 8))(one[None]) for mask, one in zip(masks, x, strict=True)])
    assert torch.allclose(together(x), alone, atol=1e-14) and together.items == 3
    solved = torch.cat([MaskedFourier(m, (1, 4, 8)).solve(one[None], 0.1) for m, one in zip(masks, x, strict=True)])
    assert torch.allclose(together.solve(x, 0.1), solved, atol=1e-12)
    with pytest.raises(ValueError, match="for each of 3 items"):
        together(x[:2])


@pytest.mark.parametrize("shape", [(3, 4, 4), (4, 4), (2, 4, 4, 4)])
def test_images_of_other_channels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"1 channel \(real\)|\(C, H, W\)"):
        MaskedFourier(torch.ones(1, 4, 4), shape)


# Several coils.


def test_each_coil_measures_the_image_times_its_map() -> None:
    seen, maps, x = pattern(1, 4, 5), coil_maps(3, (4, 5)), numbers(2, 2, 4, 5)
    y = MultiCoilFourier(seen, maps, (2, 4, 5))(x)
    single = MaskedFourier(seen, (2, 4, 5))
    for coil, one in enumerate(maps.to(x.device)):
        times = torch.complex(x[:, 0], x[:, 1]) * one
        expected = single(torch.stack([times.real, times.imag], 1))
        assert torch.allclose(y[:, 2 * coil : 2 * coil + 2], expected, atol=1e-12)


def test_one_coil_of_1_is_the_operator_of_one_coil() -> None:
    seen, x = pattern(1, 4, 5), numbers(2, 1, 4, 5)
    many = MultiCoilFourier(seen, torch.ones(1, 4, 5, dtype=torch.complex128), (1, 4, 5))
    one = MaskedFourier(seen, (1, 4, 5))
    assert torch.allclose(many(x), one(x), atol=1e-12) and torch.allclose(many.solve(x, 0.3), one.solve(x, 0.3))


def test_all_frequencies_of_coils_give_back_the_image() -> None:
    operator, x = MultiCoilFourier(everything((4, 6)), coil_maps(4, (4, 6)), (2, 4, 6)), numbers(2, 2, 4, 6)
    assert torch.allclose(operator.adjoint(operator(x)), x, atol=1e-12)
    assert torch.allclose(operator.picture(operator(x)), x, atol=1e-12)
    assert torch.allclose(operator.pseudo_inverse(operator(x)), x, atol=1e-8)


def test_the_picture_of_coils_is_right_for_maps_that_are_not_normalised() -> None:
    maps = 3 * coil_maps(2, (4, 6))
    maps[:, 0, 0] = 0
    operator, x = MultiCoilFourier(everything((4, 6)), maps, (2, 4, 6)), numbers(2, 2, 4, 6)
    x[:, :, 0, 0] = 0
    assert torch.allclose(operator.picture(operator(x)), x, atol=1e-12)


def test_maps_for_each_item() -> None:
    maps = torch.stack([coil_maps(2, (3, 4)), coil_maps(2, (3, 4)).flip(0)])
    operator, x = MultiCoilFourier(everything((3, 4)), maps, (1, 3, 4)), numbers(2, 1, 3, 4)
    second = MultiCoilFourier(everything((3, 4)), maps[1], (1, 3, 4))
    assert torch.allclose(operator(x)[1:], second(x[1:])) and operator.items == 2
    with pytest.raises(ValueError, match="masks for 3 items, and maps for 2"):
        MultiCoilFourier(torch.ones(3, 1, 3, 4), maps, (1, 3, 4))


@pytest.mark.parametrize("maps", [torch.ones(2, 3, 4), torch.ones(2, 4, 4) * 1j, torch.ones(3, 4) * 1j])
def test_maps_that_do_not_fit_are_refused(maps: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"complex maps \[J, 3, 4\]"):
        MultiCoilFourier(everything((3, 4)), maps, (1, 3, 4))


@pytest.mark.parametrize("count", [1, 4])
def test_the_squares_of_maps_sum_to_1_and_coils_differ(count: int) -> None:
    maps = coil_maps(count, (6, 8))
    assert torch.allclose(maps.abs().square().sum(0), torch.ones(6, 8, dtype=F64))
    # the coil on the right is the strongest there
    assert count == 1 or (int(maps.abs()[:, 3, 7].argmax()) == 0 and int(maps.abs()[:, 3, 0].argmax()) == count // 2)
    with pytest.raises(ValueError, match="at least 1"):
        coil_maps(0, (4, 4))


# Oversampling.


@pytest.mark.parametrize("oversampling", [1.0, 1.5, 2.0, 3.0])
def test_an_oversampled_transform_is_that_of_the_image_among_zeros(oversampling: float) -> None:
    x = numbers(2, 1, 3, 4)
    operator = OversampledFourier((1, 3, 4), oversampling)
    _, height, width = operator.measured
    assert (height, width) == (-int(-3 * oversampling // 1), -int(-4 * oversampling // 1))
    around = torch.zeros(2, 1, height, width, dtype=F64)
    top, left = height // 2 - 1, width // 2 - 2
    around[:, :, top : top + 3, left : left + 4] = x
    expected = MaskedFourier(everything((height, width)), (1, height, width))(around)
    assert torch.allclose(operator(x), expected, atol=1e-12)
    assert torch.allclose(operator.picture(operator(x)), x, atol=1e-12)


def test_an_oversampling_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="give 1 or more"):
        OversampledFourier((1, 3, 4), 0.9)


# Masks.


@pytest.mark.parametrize(("width", "acceleration", "centre"), [(64, 4, 0.08), (65, 4, 0.08), (64, 8, 0.04), (30, 2, 0)])
def test_random_columns_have_the_number_and_the_middle(width: int, acceleration: float, centre: float) -> None:
    masks = random_columns(width, acceleration, centre, Rng(0, 50))
    assert masks.shape == (50, 1, 1, width)
    assert masks.sum(3).unique().tolist() == [round(width / acceleration)]
    count = round(centre * width)
    start = width // 2 - count // 2
    assert bool((masks[..., start : start + count] == 1).all()) and (count == 0 or start <= width // 2 < start + count)
    # the others are seen equally often: 50 masks, within 5 standard errors
    rest = torch.cat([masks[..., :start], masks[..., start + count :]], 3)[:, 0, 0].mean(0)
    share = (round(width / acceleration) - count) / (width - count)
    assert float((rest - share).abs().max()) < 5 * (share * (1 - share) / 50) ** 0.5


def test_the_mask_of_an_item_is_a_function_of_its_stream() -> None:
    whole = random_columns(32, 4, 0.1, Rng(0, 5))
    assert torch.equal(whole[3:4], random_columns(32, 4, 0.1, Rng(0, [3])))
    assert len({tuple(mask.flatten().tolist()) for mask in whole}) == 5


def test_a_middle_larger_than_the_acceleration_allows_is_kept() -> None:
    assert float(random_columns(20, 10, 0.5, Rng(0, 1)).sum()) == 10


@pytest.mark.parametrize("offset", [0, 1, -2])
def test_uniform_columns_are_every_ath_one_and_the_middle(offset: int) -> None:
    mask = uniform_columns(17, 4, 0.18, offset)
    assert mask.shape == (1, 1, 17)
    seen = set(mask[0, 0].nonzero()[:, 0].tolist())
    assert seen == {k for k in range(17) if (k - 8 - offset) % 4 == 0} | {7, 8, 9}


@pytest.mark.parametrize("size", [(9, 9), (8, 12), (12, 7)], ids=str)
def test_radial_lines_pass_through_the_middle_and_reach_the_border(size: tuple[int, int]) -> None:
    one, two = (radial_lines(size, count).to(torch.empty(0)) for count in (1, 2))
    row, column = size[0] // 2, size[1] // 2
    expected = torch.zeros(1, *size)
    expected[0, row] = 1
    assert torch.equal(one, expected)
    expected[0, :, column] = 1
    assert torch.equal(two, expected)
    many = radial_lines(size, 9)
    assert float(many[0, row, column]) == 1 and float(two.sum()) < float(many.sum()) <= 9 * max(size)


@pytest.mark.parametrize(
    "make",
    [
        lambda: random_columns(8, 0.5, 0.1, Rng(0, 1)),
        lambda: random_columns(8, 2, 1.1, Rng(0, 1)),
        lambda: uniform_columns(8, 2, -0.1),
        lambda: uniform_columns(8, 2.5, 0.1),  # type: ignore[arg-type]
        lambda: radial_lines((4, 4), 0),
    ],
)
def test_masks_that_cannot_be_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="give"):
        make()
