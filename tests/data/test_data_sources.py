"""Sources made from other sources, with exact values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from every_source import COUNT, Halved, images, noisy, numbers
from file_helpers import saved
from torch import Tensor, nn

from softmix.cond import Cond, CondSpec
from softmix.data import (
    Coarse,
    DataError,
    Degraded,
    Encoded,
    LatentScale,
    Paired,
    Report,
    Source,
    Unpaired,
    load,
    mirrored,
)
from softmix.data.store import make
from softmix.rng import Rng

ALL = torch.arange(COUNT)


def batch(source: Source, index: Tensor = ALL, seed: int = 0) -> tuple[Tensor, Cond]:
    x0, cond = source.batch(index, Rng(seed, index))
    assert cond is not None
    return x0, cond


# Data


def test_data_give_their_labels_as_the_class() -> None:
    data = images()
    x0, cond = batch(data, torch.tensor([4, 1]))
    assert torch.equal(x0, data.values[[4, 1]].float() / 127.5 - 1)
    assert data.cond == CondSpec((("class", 3),))
    assert cond.label is not None
    assert cond.label.tolist() == [1, 1]
    assert numbers(2).cond == CondSpec()
    assert numbers(2).batch(ALL, Rng(0, COUNT))[1] is None


def test_volumes_keep_the_size_of_a_voxel(tmp_path: Path) -> None:
    volumes = np.random.RandomState(0).randint(0, 256, (4, 2, 3, 5, 6)).astype(np.uint8)
    path = saved(tmp_path / "v.npy", volumes)
    data = load(path, spacing=(2.5, 1.0, 0.5))
    assert data.kind == "volumes"
    assert data.shape == (2, 3, 5, 6)
    assert not data.is_image
    assert torch.equal(data.x0(), torch.from_numpy(volumes).float() / 127.5 - 1)
    assert data.spacing == (2.5, 1.0, 0.5)
    assert data.origin is not None
    assert data.origin.spacing == (2.5, 1.0, 0.5)
    last = load(saved(tmp_path / "w.npy", np.moveaxis(volumes, 1, -1)), layout="channels-last")
    assert torch.equal(last.values, data.values)
    assert last.fingerprint != data.fingerprint == load(path, spacing=(2.5, 1.0, 0.5)).fingerprint
    halves = data.split(0.5, 0)
    assert [part.spacing for part in halves] == [(2.5, 1.0, 0.5)] * 2
    mask = load(saved(tmp_path / "m.npy", volumes > 99))
    assert torch.equal(mask.x0() > 0, torch.from_numpy(volumes > 99))
    assert mask.x0().unique().tolist() == [-1, 1]


def test_float_volumes_are_numbers_that_can_be_scaled(tmp_path: Path) -> None:
    volumes = np.random.RandomState(0).rand(4, 1, 3, 5, 6)
    volumes[2, 0, 0, 0, 0] = np.nan
    data = load(saved(tmp_path / "v.npy", volumes), values="0..1")
    assert data.kind == "volumes" and torch.allclose(
        data.x0(), torch.from_numpy(volumes[[0, 1, 3]] * 2 - 1).float(), atol=1e-6
    )
    assert data.report.skipped == (("item 2", "not finite in float32"),)


@pytest.mark.parametrize("spacing", [(1.0, 2.0), (1.0, 0.0, 1.0), (1.0, math.inf, 1.0)])
def test_a_spacing_is_three_lengths(tmp_path: Path, spacing: tuple[float, float, float]) -> None:
    path = saved(tmp_path / "v.npy", np.zeros((2, 1, 2, 2, 2), np.float32))
    with pytest.raises(DataError, match="give three lengths above 0"):
        load(path, spacing=spacing)


def test_a_spacing_is_for_volumes(tmp_path: Path) -> None:
    for array in (np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4), np.float32)):
        with pytest.raises(DataError, match=r"holds no volumes .* no spacing to choose"):
            load(saved(tmp_path / "a.npy", array), spacing=(1, 1, 1))
    with pytest.raises(DataError, match="no spacing to choose"):
        load("toy:ring", spacing=(1, 1, 1))


def test_whole_numbers_are_no_volumes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give uint8 for images, or floats"):
        load(saved(tmp_path / "v.npy", np.zeros((2, 1, 2, 2, 2), np.int16)))


# mirrored


def test_a_mirrored_item_has_a_mirrored_condition() -> None:
    rng, size = Rng(0, 64), (64, 1, 2, 3)
    x0 = rng.normal(size)
    told = Cond(label=torch.arange(64), image=torch.cat([x0, -x0], 1), value=x0[:, 0, 0])
    found, cond = mirrored(x0, told, Rng(1, 64))
    turned = (found == x0.flip(-1)).flatten(1).all(1)
    assert 20 < int(turned.sum()) < 44
    assert bool(((found == x0).flatten(1).all(1) ^ turned).all())
    assert cond is not None
    assert cond.image is not None
    assert cond.label is told.label
    assert cond.value is told.value
    assert torch.equal(cond.image, torch.cat([found, -found], 1))
    one, _ = mirrored(x0[7:8], None, Rng(1, [7]))
    assert torch.equal(one[0], found[7])


def test_only_images_can_be_mirrored() -> None:
    for shape in ((2, 3), (2, 3, 4), (2, 1, 2, 2, 2)):
        with pytest.raises(ValueError, match=r"images \[B, C, H, W\] can be mirrored"):
            mirrored(torch.zeros(shape), None, Rng(0, 2))


# pairs by number


def test_pairs_are_by_number_and_keep_labels() -> None:
    first, second = images(), images(1, seed=5)
    index = torch.tensor([5, 2])
    x0, cond = batch(Paired(first, second), index)
    assert torch.equal(x0, first.x0(index))
    assert cond.image is not None
    assert torch.equal(cond.image, second.x0(index))
    assert cond.label is not None
    assert cond.label.tolist() == [2, 2]
    pairs = Paired(first, second)
    assert pairs.cond == CondSpec((("class", 3),), image=1)
    assert pairs.is_image
    assert pairs.classes == ("a", "b", "c")
    assert any("not used: the label class (3 classes)" in note for note in pairs.report.notes)


@pytest.mark.parametrize(
    ("first", "second", "part"),
    [((2,), (3,), "value"), ((8, 2), (3, 5), "context"), ((1, 2, 2), (4,), "value"), ((1, 2, 2), (3, 5), "context")],
)
def test_the_part_of_a_pair_is_by_its_axes(first: tuple[int, ...], second: tuple[int, ...], part: str) -> None:
    other = numbers(*second, seed=1)
    pairs = Paired(numbers(*first), other)
    _, cond = batch(pairs)
    assert pairs.cond.parts == (part,) == cond.parts
    assert torch.equal(getattr(cond, part), other.x0())


def test_pairs_that_do_not_fit_are_refused() -> None:
    fewer = images(1).take(torch.arange(5), "five")
    with pytest.raises(DataError, match="there are 9 items and 5; each needs one partner"):
        Paired(images(), fewer)
    wide = make("wide", torch.zeros(COUNT, 1, 6, 5, dtype=torch.uint8), None, (), Report(COUNT))
    with pytest.raises(DataError, match=r"has the size \[6, 5\], and x0 has \[6, 4\]; bring both to one size"):
        Paired(images(), wide)
    with pytest.raises(DataError, match="cannot be a condition for items of shape"):
        Paired(numbers(2), images(1))
    with pytest.raises(DataError, match="the condition has the part image already"):
        Paired(Paired(images(), images(1)), images(1))
    tokens = make("t", torch.zeros(COUNT, 4, dtype=torch.int32), None, (), Report(COUNT), vocabulary=3)
    with pytest.raises(DataError, match="tokens cannot be a condition"):
        Paired(numbers(2), tokens)


# random partners


def test_each_item_has_a_random_partner_and_keeps_its_own_conditions() -> None:
    """Over 2,000 epochs each of the 5 partners of each item comes as often, by a chi-squared test of 4 degrees."""
    first, second = images(), images(1, seed=5).take(torch.arange(5), "five")
    source = Unpaired(first, second)
    assert source.cond == CondSpec((("class", 3),), image=1) and len(source) == COUNT and source.is_image
    counts = torch.zeros(COUNT, 5)
    for epoch in range(2000):
        x0, cond = batch(source, seed=epoch)
        assert cond.image is not None and cond.label is not None
        same = (cond.image[:, None] == second.x0()[None]).flatten(2).all(2)
        assert bool((same.sum(1) == 1).all())
        counts += same
    assert torch.equal(x0, first.x0()) and cond.label.tolist() == (ALL % 3).tolist()
    chi = ((counts - 400) ** 2 / 400).sum(1)
    # P(chi > 23.5) is 1e-4 for each of nine items
    assert float(chi.max()) < 23.5
    # the partners of two items are independent
    together = torch.stack([batch(source, seed=epoch)[1].image[:2].flatten(1)[:, 0] for epoch in range(500)])  # type: ignore[index]
    assert abs(float(torch.corrcoef(together.T)[0, 1])) < 4 / math.sqrt(500)


def test_random_partners_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="cannot be a condition for items of shape"):
        Unpaired(numbers(2), images(1))
    with pytest.raises(DataError, match="has no items"):
        Unpaired(images(), images(1).take(torch.arange(0), "none"))
    tokens = make("t", torch.zeros(COUNT, 4, dtype=torch.int32), None, (), Report(COUNT), vocabulary=3)
    with pytest.raises(DataError, match="tokens cannot be a condition"):
        Unpaired(numbers(2), tokens)
    with pytest.raises(DataError, match="the condition has the part image already"):
        Unpaired(Unpaired(images(), images(1)), images(1))


def test_a_part_of_pairs_keeps_partners_together() -> None:
    first = images()
    # The partner says which item it belongs to.
    second = make("numbers", torch.arange(COUNT).float()[:, None], None, (), Report(COUNT))
    kept, out = Paired(first, second).split(1 / 3, seed=2)
    assert (len(kept), len(out)) == (6, 3)
    # In proportion to the classes of the first.
    for seed in range(4):
        held = Paired(first, second).split(1 / 3, seed)[1]
        assert sorted(held.first.labels.tolist()) == [0, 1, 2]  # type: ignore[attr-defined]
    for part in (kept, out):
        x0, cond = batch(part, torch.arange(len(part)))
        assert cond.value is not None
        assert torch.equal(x0, first.x0(cond.value[:, 0].long()))
        assert cond.label is not None
        assert torch.equal(cond.label, cond.value[:, 0].long() % 3)
    with pytest.raises(DataError, match="take the part of both sources, then pair them"):
        Paired(Degraded(images(), noisy), numbers(2)).split(0.5, 0)


# measurements


def test_a_measurement_is_that_of_x0_and_rng() -> None:
    data = images()
    rng = Rng(3, ALL)
    x0, cond = Degraded(data, noisy).batch(ALL, rng)
    assert torch.equal(x0, data.x0())
    assert cond is not None
    assert cond.image is not None
    assert torch.equal(cond.image, noisy(x0, rng.child("measurement")))
    assert Degraded(data, noisy).cond == CondSpec((("class", 3),), image=1)


def test_a_measurement_has_new_noise_in_each_epoch() -> None:
    source = Degraded(images(), noisy)
    images_of = [source.batch(torch.tensor([2]), Rng(0, [number]))[1] for number in (2, 2 + COUNT)]
    assert not torch.equal(images_of[0].image, images_of[1].image)  # type: ignore[union-attr, arg-type]


def test_a_measurement_may_change_its_argument_in_place() -> None:
    data = images()
    x0, cond = batch(Degraded(data, lambda x, rng: x.mul_(0)))
    assert torch.equal(x0, data.x0())
    assert cond.image is not None
    assert not cond.image.any()


def not_finite(x0: Tensor, rng: Rng) -> Tensor:
    return torch.where(x0 > 0, x0, math.nan)


BAD_MEASUREMENTS = {
    "another grid": (lambda x0, rng: x0[..., ::2], r"has the size \[6, 2\], and x0 has \[6, 4\]"),
    "global noise": (lambda x0, rng: x0 + torch.randn(x0.shape), "draw from its rng"),
    "of the batch": (lambda x0, rng: x0 - x0.mean(0), "let no item depend on others"),
    "nan": (not_finite, "gave values that are not finite for 8 of 8 items"),
    "too few": (lambda x0, rng: x0[:1], "for 8 items; give a tensor of floats with an item for each"),
    "integers": (lambda x0, rng: x0.long(), "gave torch.int64"),
    "a number": (lambda x0, rng: 1.0, "gave float for 8 items"),
}


@pytest.mark.parametrize("case", BAD_MEASUREMENTS)
def test_measurements_that_cannot_be_conditions_are_refused(case: str) -> None:
    measurement, reason = BAD_MEASUREMENTS[case]
    with pytest.raises(DataError, match=reason):
        Degraded(images(), measurement)  # type: ignore[arg-type]


def test_a_measurement_that_fails_later_names_the_item() -> None:
    data = numbers(2)
    data.values[1] = 50.0
    # Items 1 is not among the eight that are tried.
    tried = Degraded(make("a", data.values, None, (), Report(COUNT)), lambda x, rng: x.clone())
    tried.measurement = lambda x, rng: torch.where(x > 40, math.inf, x)  # type: ignore[method-assign]
    with pytest.raises(DataError, match="not finite for the items 1;"):
        tried.batch(torch.tensor([0, 1]), Rng(0, 2))


def test_different_measurements_have_different_fingerprints() -> None:
    first, second = (Degraded(images(), lambda x, rng, by=by: by * x) for by in (0.5, 0.6))
    assert first.fingerprint != second.fingerprint == Degraded(images(), lambda x, rng: 0.6 * x).fingerprint
    mirrors = Degraded(images(), lambda x, rng: x.flip(-1)), Degraded(images(), lambda x, rng: x.flip(-2))
    assert mirrors[0].fingerprint != mirrors[1].fingerprint


# latents


def test_latents_have_mean_0_and_sd_1_and_decode_to_the_items() -> None:
    data = images()
    source = Encoded(data, Halved())
    z, cond = batch(source)
    assert source.shape == (6, 6, 2)
    assert cond.label is not None
    assert torch.allclose(z.mean((0, 2, 3)), torch.zeros(6), atol=1e-6)
    assert torch.allclose(z.std((0, 2, 3), correction=0), torch.ones(6), atol=1e-5)
    assert torch.allclose(source.decode(z), data.x0(), atol=1e-5)
    assert not source.is_image


def test_latents_of_points_have_one_scale() -> None:
    scale = LatentScale.of(torch.tensor([[1.0, 5.0], [3.0, 7.0]]))
    assert scale.mean.tolist() == [4.0]
    assert scale.sd.tolist() == pytest.approx([math.sqrt(5)])
    assert LatentScale.of(torch.full((4, 1, 2), 3.0)).sd.tolist() == [1.0]


def test_latents_of_a_codec_with_its_own_scale_are_unchanged() -> None:
    class Scaled(Halved):
        scale = (torch.zeros(1), torch.ones(1))

    data = images()
    source = Encoded(data, Scaled())
    assert source.scale is None
    assert torch.equal(batch(source)[0], Halved().encode(data.x0()))
    given = Encoded(data, Scaled(), LatentScale(torch.zeros(1), torch.full((1,), 2.0)))
    assert torch.equal(batch(given)[0], Halved().encode(data.x0()) / 2)
    assert given.fingerprint != source.fingerprint


def test_cached_latents_are_the_same(tmp_path: Path) -> None:
    source = Encoded(images(), Halved())
    z, _ = batch(source)
    for kept in (source.cached(), source.cached(tmp_path), source.cached(tmp_path)):
        assert torch.equal(batch(kept)[0], z)
        assert kept.fingerprint == source.fingerprint
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
    # What is kept is not computed again.
    kept = source.cached(tmp_path)
    kept.codec = None  # type: ignore[assignment]
    assert torch.equal(batch(kept, torch.tensor([3]))[0], z[3:4])


def test_an_image_condition_is_encoded_too() -> None:
    pairs = Paired(images(), images(3, seed=7))
    source = Encoded(pairs, Halved())
    _, cond = batch(source)
    assert cond.image is not None
    assert cond.image.shape == (COUNT, *source.shape)
    assert source.cond.image == 6
    assert source.scale is not None
    assert torch.equal(cond.image, source.scale.scaled(Halved().encode(pairs.second.x0())))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="the image condition has 1 channels and the codec takes 3"):
        Encoded(Paired(images(), images(1)), Halved())


def test_codecs_that_mix_items_or_change_are_refused() -> None:
    class Normed(Halved):
        def encode(self, x0: Tensor) -> Tensor:
            return nn.BatchNorm2d(3)(x0)

    with pytest.raises(DataError, match="the codec halved gives an item another result in a batch of its own"):
        Encoded(images(), Normed())


def test_another_codec_has_another_fingerprint() -> None:
    assert Encoded(images(), Halved()).fingerprint != Encoded(images(), Halved(4.0)).fingerprint
    named = Halved()
    named.fingerprint = "one"  # type: ignore[attr-defined]
    first = Encoded(images(), named).fingerprint
    named.fingerprint = "two"  # type: ignore[attr-defined]
    assert Encoded(images(), named).fingerprint != first


# coarse images


def test_a_coarse_image_is_the_mean_of_squares_of_pixels() -> None:
    data = images()
    x0, cond = batch(Coarse(data, 1), torch.tensor([2, 0]))
    right = torch.stack([data.x0()[k].double().unflatten(2, (2, 2)).unflatten(1, (3, 2)).mean((2, 4)) for k in (2, 0)])
    assert Coarse(data, 1).shape == (3, 3, 2) == tuple(x0.shape[1:])
    assert torch.allclose(x0.double(), right, atol=1e-6) and Coarse(data, 1).is_image and len(Coarse(data, 1)) == COUNT
    assert cond.label is not None and cond.label.tolist() == [2, 0] and Coarse(data, 1).classes == ("a", "b", "c")


def test_a_coarse_source_halves_the_image_of_a_condition() -> None:
    pairs = Coarse(Paired(images(), images(seed=5)), 1)
    x0, cond = batch(pairs)
    assert pairs.cond.image == 3 and cond.image is not None
    assert torch.equal(cond.image, batch(Coarse(images(seed=5), 1))[0])
    assert torch.equal(x0, batch(Coarse(images(), 1))[0])


def test_coarse_twice_is_coarse_by_two_levels() -> None:
    big = make("big", torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16), None, (), Report(1))
    one = torch.zeros(1, dtype=torch.long)
    twice, at_once = (each.batch(one, Rng(0, 1))[0] for each in (Coarse(Coarse(big, 1), 1), Coarse(big, 2)))
    assert torch.allclose(twice, at_once, atol=1e-6)
    assert len({big.fingerprint, Coarse(big, 0).fingerprint, Coarse(big, 1).fingerprint}) == 3


def test_items_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(DataError, match=r"numbers holds items of shape \(2,\); only images have a coarse form"):
        Coarse(numbers(2), 1)
    with pytest.raises(DataError, match="are 6 x 4, and cannot be halved 2 times; take fewer levels"):
        Coarse(images(), 2)
