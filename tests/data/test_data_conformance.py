"""The protocol of every source."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from every_source import COUNT, RANDOM, SOURCES

from softmix.cond import Cond
from softmix.data import Source
from softmix.rng import Rng

INDICES = ([3], [0, 8], [5, 5, 1], [8, 0, 3, 3, 7, 2, 6])


@pytest.fixture(params=SOURCES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(name: str, tmp_path: Path) -> Source:
    return SOURCES[name](tmp_path, 0)


def same(a: Cond | None, b: Cond | None) -> bool:
    """Whether two conditions have the same bits; a mask that is True everywhere is none."""
    if a is None or b is None:
        return a is b
    pairs = [(getattr(a, part), getattr(b, part)) for part in ("label", "image", "value")]
    if any((x is None) != (y is None) or (x is not None and not torch.equal(x, y)) for x, y in pairs):
        return False
    return same_tokens(a, b)


def same_tokens(a: Cond, b: Cond) -> bool:
    if a.context is None or b.context is None:
        return a.context is b.context
    masks = [
        c.mask if c.mask is not None else torch.ones(c.context.shape[:2], dtype=torch.bool, device=c.context.device)
        for c in (a, b)
    ]  # type: ignore[union-attr]
    return torch.equal(a.context[masks[0]], b.context[masks[1]])


def test_every_source_follows_the_protocol(source: Source) -> None:
    assert isinstance(source, Source)
    assert len(source) >= COUNT
    assert source.name


@pytest.mark.parametrize("index", INDICES, ids=len)
def test_x0_has_the_shape_of_the_source(source: Source, index: list[int]) -> None:
    x0, _ = source.batch(torch.tensor(index), Rng(0, index))
    assert tuple(x0.shape) == (len(index), *source.shape)
    assert x0.dtype == (torch.int64 if getattr(source, "vocabulary", 0) else torch.float32)


@pytest.mark.parametrize("index", INDICES, ids=len)
def test_a_batch_is_batches_of_one(source: Source, index: list[int]) -> None:
    # Items with the same number have other draws, by their place in the run.
    rng = Rng(4, [10 + i for i in range(len(index))])
    x0, cond = source.batch(torch.tensor(index), rng)
    for i, number in enumerate(index):
        one, told = source.batch(torch.tensor([number]), rng.take(slice(i, i + 1)))
        assert torch.equal(x0[i : i + 1], one)
        assert same(None if cond is None else cond.take(slice(i, i + 1)), told)


def test_a_batch_is_a_function_of_rng(source: Source, name: str) -> None:
    index = torch.arange(COUNT)
    first, again, other = (source.batch(index, Rng(seed, COUNT)) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert same(first[1], again[1])
    assert (torch.equal(first[0], other[0]) and same(first[1], other[1])) == (name not in RANDOM)


def test_a_batch_does_not_draw_from_its_rng(source: Source) -> None:
    """Later draws from the same rng must not depend on the source."""
    rng = Rng(0, 3)
    source.batch(torch.arange(3), rng)
    assert rng.draws == 0


def test_conditions_match_the_specification(source: Source) -> None:
    _, cond = source.batch(torch.arange(COUNT), Rng(0, COUNT))
    source.cond.check(cond, source.shape[1:])
    assert (cond.parts if cond is not None else ()) == source.cond.parts


def test_labels_are_below_the_classes(source: Source) -> None:
    _, cond = source.batch(torch.arange(COUNT), Rng(0, COUNT))
    if source.cond.labels:
        assert cond is not None
        assert cond.label is not None
        assert [name for name, _ in source.cond.labels] == ["class"]
        assert 0 <= int(cond.label.min()) <= int(cond.label.max()) < source.cond.classes


def test_images_are_pictures_in_range(source: Source) -> None:
    x0, _ = source.batch(torch.arange(COUNT), Rng(0, COUNT))
    if source.is_image:
        assert x0.ndim == 4
        assert float(x0.abs().max()) <= 1


def test_the_fingerprint_changes_with_the_content(name: str, source: Source, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    again, changed = SOURCES[name](tmp_path / "other", 0), SOURCES[name](tmp_path, 1)
    assert again.fingerprint == source.fingerprint != changed.fingerprint
    assert len(source.fingerprint) == 16


def test_the_global_generators_do_not_change(source: Source) -> None:
    before = torch.get_rng_state()
    source.batch(torch.arange(3), Rng(0, 3))
    assert torch.equal(torch.get_rng_state(), before)
