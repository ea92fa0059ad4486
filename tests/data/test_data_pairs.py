"""Pairs of pictures by file name, and of arrays by number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from file_helpers import encoded, fill, saved, zipped

from softmix.config import from_json, to_json
from softmix.data import DataError, Origin, Paired, load
from softmix.rng import Rng

PHOTOS = np.random.RandomState(0).randint(0, 256, (6, 5, 4, 3)).astype(np.uint8)
EDGES = PHOTOS[..., 0] ^ 255


def folders(root: Path) -> tuple[Path, Path]:
    """Six photos in two classes, and their edges: two have no partner, and one has a broken partner."""
    photos = {f"{'ab'[i % 2]}/{i}.png": encoded(picture) for i, picture in enumerate(PHOTOS)}
    edges = {f"{'ab'[i % 2]}/{i}.bmp": encoded(picture, "BMP") for i, picture in enumerate(EDGES)}
    edges["a/2.bmp"] = b"broken"
    edges["b/9.bmp"] = edges.pop("b/5.bmp")
    return fill(root / "photos", photos), fill(root / "edges", edges)


def numbers_of(pairs: Paired) -> list[int]:
    """Which photo each item is, after a look at its partner."""
    index = torch.arange(len(pairs))
    x0, cond = pairs.batch(index, Rng(0, index))
    assert cond is not None
    assert cond.image is not None
    found = []
    for item, partner in zip(x0, cond.image, strict=True):
        same = [i for i in range(6) if torch.equal(item, torch.from_numpy(PHOTOS[i]).permute(2, 0, 1) / 127.5 - 1)]
        assert torch.equal(partner[0], torch.from_numpy(EDGES[same[0]]) / 127.5 - 1)
        found += same
    return found


def test_partners_have_the_same_name(tmp_path: Path) -> None:
    photos, edges = folders(tmp_path)
    pairs = load(photos, beside=edges)
    assert numbers_of(pairs) == [0, 4, 1, 3]
    assert pairs.classes == ("a", "b")
    assert pairs.cond.image == 1
    assert pairs.shape == (3, 5, 4)
    assert pairs.name == "photos with edges"
    skipped = dict(pairs.report.skipped)
    assert skipped["photos/b/5.png"] == skipped["edges/b/9.bmp"] == "no partner of this name"
    assert skipped["photos/a/2.png"] == "its partner cannot be used"
    assert "edges/a/2.bmp" in skipped
    assert len(skipped) == 4
    assert pairs.report.read == 4
    assert "pairs of photos and edges, by the names of their files" in pairs.report.notes
    assert "not used: the label class (2 classes) of edges" in pairs.report.notes


def test_pairs_of_archives_are_those_of_folders(tmp_path: Path) -> None:
    photos, edges = folders(tmp_path)
    archive = zipped(tmp_path / "edges.zip", {str(p.relative_to(edges)): p.read_bytes() for p in edges.rglob("*.bmp")})
    assert load(photos, beside=archive).fingerprint == load(photos, beside=edges).fingerprint


def test_pairs_are_read_again_from_their_origin(tmp_path: Path) -> None:
    photos, edges = folders(tmp_path)
    pairs = load(photos, beside=edges, limit=3, cache=tmp_path / "cache")
    assert pairs.origin is not None
    kept = from_json(Origin, json.loads(json.dumps(to_json(pairs.origin.relative_to_folder(tmp_path / "run")))))
    assert (kept.source, kept.beside, kept.cache) == ("../photos", "../edges", "../cache")
    again = kept.absolute_from(tmp_path / "run")
    assert again == pairs.origin
    assert load(again.source, **again.options()).fingerprint == pairs.fingerprint  # type: ignore[call-overload]


@pytest.mark.parametrize("cache", [False, True])
def test_a_limit_and_a_held_out_part_are_of_pairs(tmp_path: Path, cache: bool) -> None:
    photos, edges = folders(tmp_path)
    kept = {"cache": tmp_path / "cache"} if cache else {}
    parts = [load(photos, beside=edges, hold_out=0.25, split=split, **kept) for split in ("train", "test")]  # type: ignore[arg-type]
    assert sorted(numbers_of(parts[0]) + numbers_of(parts[1])) == [0, 1, 3, 4]
    assert len(parts[1]) == 1
    assert len(numbers_of(load(photos, beside=edges, limit=2, **kept))) <= 2  # type: ignore[arg-type]


def test_splits_are_folders_of_both(tmp_path: Path) -> None:
    files = {f"{split}/{i}.png": encoded(PHOTOS[i]) for i, split in enumerate(["train"] * 4 + ["test"] * 2)}
    edges = {name: encoded(EDGES[int(name[-5])]) for name in files}
    first, second = fill(tmp_path / "p", files), fill(tmp_path / "e", edges)
    assert numbers_of(load(first, beside=second)) == [0, 1, 2, 3]
    assert numbers_of(load(first, beside=second, split="test")) == [4, 5]


def test_two_files_of_one_name_are_reported(tmp_path: Path) -> None:
    photos, edges = folders(tmp_path)
    fill(photos, {"a/0.jpg": encoded(PHOTOS[1], "JPEG")})
    said = dict(load(photos, beside=edges).report.skipped)
    assert [name for name, why in said.items() if "same name, but for its ending" in why] == ["photos/a/0.png"]


def test_impossible_pairs_are_refused(tmp_path: Path) -> None:
    photos, _ = folders(tmp_path)
    other = fill(tmp_path / "other", {"x.png": encoded(EDGES[0])})
    with pytest.raises(DataError, match="photos and other have no file of the same name, but for its ending"):
        load(photos, beside=other)
    wide = fill(tmp_path / "wide", {f"a/{i}.png": encoded(np.zeros((8, 9), np.uint8)) for i in (0, 2, 4)})
    with pytest.raises(DataError, match=r"size \[8, 9\], and x0 has \[5, 4\]; bring both to one size, .* --size"):
        load(photos, beside=wide)
    assert load(photos, beside=wide, size=4).cond.image == 1
    broken = fill(tmp_path / "broken", {"a/0.png": b"no", "a/2.png": b"no"})
    with pytest.raises(DataError, match="none of"):
        load(photos, beside=broken)


def test_arrays_are_paired_by_number(tmp_path: Path) -> None:
    first = np.random.RandomState(0).rand(10, 2).astype(np.float32)
    second = np.arange(10, dtype=np.float32)[:, None]
    a, b = saved(tmp_path / "a.npy", first), saved(tmp_path / "b.npy", second)
    for options in ({}, {"limit": 4}, {"hold_out": 0.3}, {"limit": 4, "cache": tmp_path / "c"}):
        pairs = load(a, beside=b, **options)  # type: ignore[arg-type]
        x0, cond = pairs.batch(torch.arange(len(pairs)), Rng(0, len(pairs)))
        assert cond is not None
        assert cond.value is not None
        assert np.array_equal(x0.numpy(), first[cond.value[:, 0].long()])
    assert "pairs of a and b, by their numbers" in load(a, beside=b).report.notes
    with pytest.raises(DataError, match="there are 10 items and 7; each needs one partner"):
        load(a, beside=saved(tmp_path / "c.npy", second[:7]), limit=5)
    second[3] = np.nan
    with pytest.raises(DataError, match="b: 1 items were left out, and pairs of arrays are by number"):
        load(a, beside=saved(tmp_path / "b.npy", second))
