"""The meaning of the numbers and axes of an array: found, named or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from file_helpers import saved

from softmix.data import Data, DataError, load
from softmix.data.array_range import bits_for, bits_to_pixels

PIXELS = np.random.RandomState(0).randint(0, 256, (6, 3, 9, 5)).astype(np.uint8)
PIXELS[0, 0, 0, :2] = 0, 255
RANGES = {"0..1": PIXELS / 255, "-1..1": PIXELS / 127.5 - 1, "0..255": PIXELS * 1.0}


def read(tmp_path: Path, array: np.ndarray, **options: Any) -> Data:
    return load(saved(tmp_path / "a.npy", array), **options)


@pytest.mark.parametrize("values", RANGES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("asked", [False, True])
def test_float_pictures_are_the_pixels_that_they_were(tmp_path: Path, values: str, dtype: Any, asked: bool) -> None:
    data = read(tmp_path, RANGES[values].astype(dtype), **({"values": values} if asked else {}))
    assert data.is_image
    assert data.kind == "images"
    assert np.array_equal(data.values.numpy(), PIXELS)
    [note] = data.report.notes
    assert f"were taken as pictures in {values}" in note
    assert ("exactly" in note) == (dtype != np.float16 or values == "0..255")


def test_channels_last_floats_are_pictures_too(tmp_path: Path) -> None:
    last = RANGES["0..1"].transpose(0, 2, 3, 1)
    assert np.array_equal(read(tmp_path, last).values.numpy(), PIXELS)
    grey = read(tmp_path, RANGES["-1..1"][:, :1])
    assert np.array_equal(grey.values.numpy(), PIXELS[:, :1])


def test_the_report_gives_the_rounding_to_eight_bits(tmp_path: Path) -> None:
    array = RANGES["0..255"].copy()
    array[1, 1, 1, 1] = 100.4
    data = read(tmp_path, array)
    assert int(data.values[1, 1, 1, 1]) == 100
    assert "rounded to 8 bits (by 0.40 of a level at most)" in data.report.notes[0]


def test_a_filter_may_reach_half_a_level_beyond(tmp_path: Path) -> None:
    array = RANGES["0..1"].copy()
    array[0, 0, 0, :2] = -0.0015, 1.0015
    assert np.array_equal(read(tmp_path, array).values.numpy(), PIXELS)
    # exactly half a level beyond white is white, and not 256, which would be black
    ends = RANGES["0..255"].copy()
    ends[0, 0, 0, :2] = -0.5, 255.5
    assert np.array_equal(read(tmp_path, ends).values.numpy(), PIXELS)
    array[0, 0, 0, 0] = -0.003
    with pytest.raises(DataError, match=r"known: clip them to 0\.\.1, or give --values -1\.\.1 or --"):
        read(tmp_path, array)
    with pytest.raises(DataError, match=r"values 0\.\.1 were asked for, but values from -0.003 to 1.0015 were found"):
        read(tmp_path, array, values="0..1")


UNCLEAR = {
    "sixteen levels": (np.arange(6.0 * 45).reshape(6, 1, 9, 5) % 17, "--values 0..255, or --bits 5"),
    "beyond one": (RANGES["0..1"] * 2, "--values 0..255; --values as-is"),
    "standardised": (RANGES["-1..1"] * 2, "rescale them to 0..1; --values as-is"),
    "beyond 255": (RANGES["0..255"] + 1, "--bits 9; --values as-is"),
    "zeros": (np.zeros((6, 3, 9, 5)), "is not known: give --values 0..1 or --values -1..1 or --values 0..255"),
    "minus one to one": (np.sign(RANGES["-1..1"]), "give --values -1..1"),
    "integers": (PIXELS.astype(np.int64) * 16, "--bits 12; --values as-is"),
    "negative integers": (PIXELS.astype(np.int16) - 5, "rescale them to 0..1"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_an_ambiguous_range_is_refused_with_the_options_that_settle_it(tmp_path: Path, case: str) -> None:
    array, words = UNCLEAR[case]
    with pytest.raises(DataError, match="the value of white is not known") as caught:
        read(tmp_path, array)
    assert words in str(caught.value)


def test_an_ambiguous_array_with_a_named_range_is_read(tmp_path: Path) -> None:
    array = np.arange(6.0 * 45).reshape(6, 1, 9, 5) % 17
    assert int(read(tmp_path, array, values="0..255").values.max()) == 16
    assert read(tmp_path, array[:, :, :, :1] / 16, values="-1..1").values.min() == 128
    with pytest.raises(DataError, match=r"values -1\.\.1 were asked for, but whole numbers from 0 to 16 were found"):
        read(tmp_path, array, values="-1..1")


def test_whole_numbers_and_truth_values_become_pixels(tmp_path: Path) -> None:
    for dtype in (np.int16, np.uint16, np.int64):
        data = read(tmp_path, PIXELS.astype(dtype))
        assert np.array_equal(data.values.numpy(), PIXELS)
        assert "exactly" in data.report.notes[0]
    mask = PIXELS > 127
    for array in (mask, mask.astype(np.int32), mask * 1.0):
        data = read(tmp_path, array[:, 0] if array.dtype == bool else array[:, :1])
        assert np.array_equal(data.values.numpy(), mask[:, :1] * np.uint8(255))
    with pytest.raises(DataError, match="true and false"):
        read(tmp_path, mask, bits=1)


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float64])
def test_bits_make_the_largest_value_white(tmp_path: Path, dtype: type) -> None:
    array = np.array([0, 1, 2047, 2048, 4094, 4095] * 12).reshape(2, 6, 6).astype(dtype)
    data = read(tmp_path, array[:, None], bits=12)
    assert data.values[0, 0, 0].tolist() == [0, 0, 127, 128, 255, 255]
    assert "whole numbers from 0 to 4095 were taken as 12 bits" in data.report.notes[0]
    with pytest.raises(DataError, match="11 bits were asked for, which hold whole numbers from 0 to 2047, but whole"):
        read(tmp_path, array[:, None], bits=11)
    with pytest.raises(DataError, match="12 bits were asked for, which hold whole numbers from 0 to 4095, but whole"):
        read(tmp_path, array[:, None] + 1, bits=12)
    with pytest.raises(DataError, match=r"12 bits were asked for, .* but whole numbers from -1"):
        read(tmp_path, array[:, None].astype(np.int64) - 1, bits=12)
    with pytest.raises(DataError, match=r"but values from 0 to 2047\.5"):
        read(tmp_path, array[:, None] / 2, bits=12)


def test_bits_to_pixels_maps_the_ends_to_black_and_white() -> None:
    for bits in (1, 8, 10, 16):
        assert bits_to_pixels(np.array([0, (1 << bits) - 1]), bits).tolist() == [0, 255]
    assert bits_to_pixels(np.arange(256), 8).tolist() == list(range(256))
    assert [bits_for(high) for high in (0, 1, 2, 255, 256, 4095, 4096, 65535)] == [1, 1, 2, 8, 9, 12, 13, 16]


def test_nearly_black_bytes_give_a_warning(tmp_path: Path) -> None:
    array = (PIXELS % 32).astype(np.uint8)
    data = read(tmp_path, array)
    assert data.report.notes == (
        "all pictures are nearly black: the largest pixel is 31 of 255; if they hold fewer bits, give --bits",
    )
    assert read(tmp_path, array + np.uint8(1)).report.notes == ()
    assert np.array_equal(read(tmp_path, array, bits=5).values.numpy(), np.rint(array * (255 / 31)))
    assert np.array_equal(read(tmp_path, array % 2, values="0..1").values.numpy(), array % 2 * 255)
    assert read(tmp_path, PIXELS, values="0..255").report.notes == ()


def test_the_range_is_that_of_all_items_despite_a_limit(tmp_path: Path) -> None:
    array = np.full((40, 1, 4, 4), 0.25)
    array[7, 0, 0, 0] = -1
    chosen = read(tmp_path, array, limit=3)
    assert chosen.values.unique().tolist() == [round(127.5 * 1.25)]
    assert len(chosen) == 3
    assert "limit: 3 items" in chosen.report.notes[0]


def test_float_pictures_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    array = RANGES["0..1"].copy()
    array[2, 0, 0, 0], array[4, 1, 1, 1] = np.nan, np.inf
    data = read(tmp_path, array)
    assert np.array_equal(data.values.numpy(), PIXELS[[0, 1, 3, 5]])
    assert [name for name, _ in data.report.skipped] == ["item 2", "item 4"]
    saved(tmp_path / "labels.npy", np.arange(6))
    assert read(tmp_path, array).labels.tolist() == [0, 1, 3, 5]  # type: ignore[union-attr]
    with pytest.raises(DataError, match="none of 6 items is finite"):
        read(tmp_path, array * np.nan)


def test_float_pictures_take_size_and_channels(tmp_path: Path) -> None:
    data = read(tmp_path, RANGES["0..1"][..., :5, :], size=4, channels=1)
    assert data.shape == (1, 4, 4)
    assert data.values.dtype == torch.uint8


def test_as_is_keeps_floats(tmp_path: Path) -> None:
    array = RANGES["-1..1"] * 2
    data = read(tmp_path, array, values="as-is")
    assert data.kind == "grids"
    assert np.array_equal(data.x0().numpy(), array.astype(np.float32))
    assert "numbers that are no pixels, of shape (3, 9, 5)" in data.report.notes[0]
    last = read(tmp_path, array.transpose(0, 2, 3, 1), values="as-is", layout="channels-last")
    assert last.fingerprint == data.fingerprint
    assert read(tmp_path, array.transpose(0, 2, 3, 1), values="as-is", layout="channels-first").shape == (9, 5, 3)
    latents = np.random.RandomState(0).randn(4, 16, 8, 8)
    assert read(tmp_path, latents).kind == "grids"
    assert read(tmp_path, latents).shape == (16, 8, 8)
    for wrong in ({"size": 8}, {"channels": 3}):
        with pytest.raises(DataError, match="points, not images"):
            read(tmp_path, array, values="as-is", **wrong)  # type: ignore[arg-type]
    for whole in (PIXELS, PIXELS.astype(np.int64)):
        with pytest.raises(DataError, match="values as-is are for floats"):
            read(tmp_path, whole, values="as-is")


def test_floats_with_three_axes_are_sequences_unless_they_are_pixels(tmp_path: Path) -> None:
    waves = np.random.RandomState(0).rand(5, 40, 3)
    data = read(tmp_path, waves)
    assert data.kind == "sequences"
    assert data.shape == (40, 3)
    assert "sequences [N, L, D] with L = 40 and D = 3; give --layout channels-first if" in data.report.notes[0]
    assert np.array_equal(data.x0().numpy(), waves.astype(np.float32))
    turned = read(tmp_path, waves.transpose(0, 2, 1), layout="channels-first")
    assert turned.fingerprint == data.fingerprint
    assert read(tmp_path, waves, layout="channels-last").fingerprint == data.fingerprint
    for pixels in (PIXELS[:, 0] / 255, PIXELS[:, 0] * 1.0):
        grey = read(tmp_path, pixels)
        assert grey.is_image
        assert np.array_equal(grey.values[:, 0].numpy(), PIXELS[:, 0])
        assert read(tmp_path, pixels, layout="channels-last").kind == "sequences"
    for few in (PIXELS[:, 0] % 100 * 1.0, PIXELS[:, 0] % 100 / 255, -1.0 * PIXELS[:, 0], (PIXELS[:, 0] > 9) * 1.0):
        assert read(tmp_path, few).kind == "sequences"
    for options in ({"values": "0..1"}, {"size": 8}, {"channels": 3}):
        with pytest.raises(DataError, match="may be grey pictures or sequences; save pictures as"):
            read(tmp_path, waves, **options)
    scaled = read(tmp_path, waves, values="0..1", layout="channels-last").x0().numpy()
    assert np.allclose(scaled, 2 * waves - 1, atol=1e-6)


def test_pictures_are_dark_only_if_all_are(tmp_path: Path) -> None:
    array = np.full((3, 4, 4), 9, np.uint8)
    assert "nearly black: the largest pixel is 9 of 255" in read(tmp_path, array).report.notes[0]
    array[2, 3, 3] = 200
    assert read(tmp_path, array).report.notes == ()


def test_points_are_scaled_only_if_asked(tmp_path: Path) -> None:
    array = np.array([[0.0, 127.5], [255.0, 51.0]])
    assert read(tmp_path, array).kind == "points"
    assert read(tmp_path, array).x0().tolist() == array.tolist()
    assert read(tmp_path, array, values="0..255").x0().tolist() == [[-1, 0], [1, pytest.approx(-0.6)]]
    assert read(tmp_path, array / 255, values="0..1").x0().tolist() == [[-1, 0], [1, pytest.approx(-0.6)]]
    assert read(tmp_path, array, values="as-is").x0().tolist() == array.tolist()
    with pytest.raises(DataError, match=r"values 0\.\.1 were asked for, but values from 0 to 255 were found"):
        read(tmp_path, array, values="0..1")
    for options in ({"layout": "channels-last"}, {"bits": 8}):
        with pytest.raises(DataError, match="holds points"):
            read(tmp_path, array, **options)


def test_the_layout_is_by_size_or_as_asked(tmp_path: Path) -> None:
    both = np.random.RandomState(1).randint(0, 256, (2, 3, 64, 3)).astype(np.uint8)
    last = read(tmp_path, both)
    assert last.shape == (3, 3, 64)
    assert "give --layout channels-first for the other" in last.report.notes[0]
    first = read(tmp_path, both, layout="channels-first")
    assert first.shape == (3, 64, 3)
    assert np.array_equal(first.values.numpy(), both)
    assert not first.report.notes
    assert read(tmp_path, both, layout="channels-last").fingerprint == last.fingerprint
    # a size of 4 is a place for transparency only where no axis has a size of 1 or 3
    assert read(tmp_path, both[:, :, :8, :][..., [0, 1, 2, 0]]).shape == (3, 8, 4)
    with pytest.raises(DataError, match="images are uint8"):
        read(tmp_path, both[:, :2], layout="channels-first")
    with pytest.raises(DataError, match="pictures without an axis of channels, and has no layout"):
        read(tmp_path, both[:, 0], layout="channels-last")


def test_four_channels_keep_their_transparency(tmp_path: Path) -> None:
    array = np.random.RandomState(2).randint(0, 256, (3, 8, 8, 4)).astype(np.uint8)
    data = read(tmp_path, array)
    assert np.array_equal(data.values.numpy(), array.transpose(0, 3, 1, 2))
    assert read(tmp_path, array.transpose(0, 3, 1, 2)).fingerprint == data.fingerprint
    array[..., 3] = 51
    on_white = read(tmp_path, array, channels=3)
    exact = array[..., :3].transpose(0, 3, 1, 2) * 0.2 + 255 * 0.8
    assert np.abs(on_white.values.numpy() - exact).max() <= 1
    assert "transparency laid on white" in on_white.report.notes
    opaque = read(tmp_path, array[..., :3], channels=4)
    assert opaque.shape == (4, 8, 8)
    assert opaque.values[:, 3].unique().tolist() == [255]


def test_other_types_and_more_axes_are_refused(tmp_path: Path) -> None:
    for array in (PIXELS.astype(np.complex64), np.array(["a", "b"]), np.zeros((3, 2), np.int32)):
        with pytest.raises(DataError, match="give uint8 for images, or floats for points"):
            read(tmp_path, array)
    with pytest.raises(DataError, match="images are uint8"):
        read(tmp_path, PIXELS[..., None, None])


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "bits": ({"bits": 17}, "17 bits were asked for; give 1 to 16"),
    "no bits": ({"bits": 0}, "0 bits were asked for"),
    "values": ({"values": "0..2"}, "there are 0..1, -1..1, 0..255, as-is"),
    "layout": ({"layout": "sideways"}, "there are channels-first, channels-last"),
    "both": ({"bits": 8, "values": "0..1"}, "both define white"),
}


@pytest.mark.parametrize("case", WRONG)
def test_options_that_make_no_sense(tmp_path: Path, case: str) -> None:
    options, words = WRONG[case]
    with pytest.raises(DataError, match=words):
        read(tmp_path, PIXELS, **options)


@pytest.mark.parametrize("source", ["digits", "toy:ring"])
@pytest.mark.parametrize("options", [{"bits": 8}, {"values": "0..1"}, {"layout": "channels-first"}])
def test_named_sets_have_no_use_for_them(source: str, options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"has no {next(iter(options))} to choose; leave this out"):
        load(source, **options)
