"""The recipe of smd: its rows on images and given y, and the checks that follow from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from softmix.denoiser import Network
from softmix.net import MLPSpec
from softmix.posterior import Point
from softmix.process import VP
from softmix.recipe import Scale, VerdictRow, images, restoration, smd
from softmix.recipe.frame import Numbers
from softmix.recipe.images import by
from softmix.recipe.smd_grid import SOFT, silent
from softmix.recipe.trainings import TRAININGS
from softmix.rng import Rng


def never(*args: Any) -> None:
    raise AssertionError(f"measured again: {args}")


def refuted(checks: dict[str, bool]) -> list[str]:
    return [text for text, true in checks.items() if not true]


def on_images(
    out: Path, numbers: dict[str, float], recalls: dict[str, float] | None = None, far: float = 99.0
) -> Numbers:
    """The rows of images for saved numbers. In seed 0 each training has one distance at all counts by its first way to
    sample, and `far` by the others; in seed 1 it has 1 more."""
    place = images.folder(out, "fashion14", 1000)
    for name in smd.IMAGE_ROWS:
        ways = TRAININGS[name].ways
        for run in images.arms(name, "fashion14", out, 1000, 1000, seeds=2).runs(Scale.full):
            results = {(name, "parameters"): 1.0}
            for way, count in [(each, count) for each in ways for count in each.counts]:
                first = way is ways[0]
                results[by(name, way.name), f"frechet@{count}"] = numbers.get(name, 20.0) + run.seed if first else far
                results[by(name, way.name), f"recall@{count}"] = (recalls or {}).get(name, 0.4) if first else 1.0
            run.save(place, results)
    (floor,) = images.real_images("fashion14", out, 1000).runs(Scale.full)
    floor.save(place, {("real images", "frechet"): 0.4})
    rows = smd.on_images(2, 1000, out, never)
    assert {row.data for row in rows} == {"Fashion-MNIST, 14 x 14"} and len(rows) == 9 * 8 + 1
    return Numbers(rows)


@pytest.mark.parametrize(
    ("changed", "false"),
    [
        ({}, ()),
        # the standard deviation of two seeds is 0.71
        ({smd.CONTROL: 4.5}, ()),
        ({smd.CONTROL: 4.4}, ("it is ahead of the same", "and of every network")),
        ({"feature score, eta = 0": 4.4}, ("and of every network",)),
        ({"consistency": 6.6}, ()),
        ({"consistency": 6.4}, ("at 1, 2 and 4 its Frechet",)),
        ({"moment matching": 2.0}, ("on images the soft", "at 1, 2 and 4 its Frechet")),
        ({"plain": 2.0}, ("on images the soft", "at 1, 2 and 4 its Frechet")),
        ({"plain": 1.5}, ("on images the soft", "at 1, 2 and 4 its Frechet", "at 8 its distance")),
        ({"SMD as published": 2.0}, ()),
    ],
)
def test_the_checks_on_images_follow_the_distances(
    changed: dict[str, float], false: tuple[str, ...], tmp_path: Path
) -> None:
    value = on_images(tmp_path, {smd.OURS: 3.0} | changed)
    found = refuted(smd.of_images(value))
    assert len(found) == len(false) and all(text.startswith(start) for text, start in zip(found, false, strict=True))
    assert smd.draws_gain(value) == (not {"on images the soft", "and of every network"} & {*false})
    assert value[smd.OURS, "frechet@4"] == 3.5 and value.spread(smd.OURS, "frechet@4") == pytest.approx(0.5**0.5)
    assert value["real images", "frechet@1"] == 0.4


def test_recall_is_compared_with_the_best_rival(tmp_path: Path) -> None:
    """meanflow has more recall; consistency is nearer."""
    near = {smd.OURS: 3.0, "consistency": 10.0}
    low = on_images(tmp_path / "low", near, {"meanflow": 0.9, smd.OURS: 0.5})
    high = on_images(tmp_path / "high", near, {"consistency": 0.9, smd.OURS: 0.5})
    assert not refuted(smd.of_images(low))
    (text,) = refuted(smd.of_images(high))
    pairs = ", ".join(["0.50 and 0.90"] * 3)
    assert text == f"at 1, 2 and 4 its recall and that of the nearest other are {pairs} (not less)"


def test_the_goals_must_hold_at_every_count(tmp_path: Path) -> None:
    """A rival that is near at 2 alone refutes two sentences."""
    value = on_images(tmp_path, {smd.OURS: 3.0})
    assert smd.ahead(value) == [1, 2, 4, 8, 16] and smd.clear_of(value, [smd.CONTROL]) == [1, 2, 4]
    rows = [
        replace(row, value=3.4) if (row.name, row.metric) == ("consistency", "frechet@2") else row
        for row in value._rows.values()
    ]
    once = Numbers(rows)
    assert smd.ahead(once) == [1, 4, 8, 16] and not smd.draws_gain(once)
    first, second, *others = smd.of_images(once).items()
    assert first[0].endswith("at 1, 4, 8, 16 evaluations (1, 2 and 4 at least)") and not first[1]
    assert "0.17, 1.03, 0.17 of the nearest" in second[0] and not second[1] and all(true for _, true in others)


@pytest.mark.parametrize(("own", "other", "clear"), [(0.1, 0.1, True), (0.6, 0.1, False), (0.1, 0.6, False)])
def test_the_row_that_varies_more_decides_what_is_clear(own: float, other: float, clear: bool) -> None:
    rows = [VerdictRow("a", "ours", "m", 2.0, own, 3), VerdictRow("b", "control", "m", 3.0, other, 3)]
    assert smd.clearly(Numbers(rows), "m", "a", "b") == clear and not smd.clearly(Numbers(rows), "m", "b", "a")


def test_a_single_seed_is_never_clear() -> None:
    rows = [VerdictRow("a", "ours", "m", 2.0, 0.0, 1), VerdictRow("b", "control", "m", 30.0, 0.0, 1)]
    assert not smd.clearly(Numbers(rows), "m", "a", "b")


def given_y(out: Path, cells: dict[tuple[str, str], float]) -> Numbers:
    """The rows given y. All trainings have a CRPS of 0.2 and 0.5 of the truths inside; the soft mixture 0.1 and 0.9."""
    place = images.folder(out / "restoration", "digits", 1000)
    for name in smd.GIVEN_Y_ROWS:
        ways = restoration.TRAININGS[name].ways
        ours = name == smd.GIVEN_Y
        for run in restoration.arms(name, "digits", out / "restoration", 1000, 120, seeds=2).runs(Scale.full):
            results = {(name, "parameters"): 1.0}
            for way, kind, count in [
                (w, kind, k) for w in ways for kind in smd.KINDS for k in (1, 2, 4) if k <= w.most
            ]:
                for metric, usual in (("crps", 0.1 if ours else 0.2), ("inside 90", 0.9 if ours else 0.5)):
                    cell = cells.get((name, f"{kind} {metric}@{count}"), usual) + 0.01 * run.seed
                    # the other ways have the right share for the wrong reason
                    bad = 0.3 if metric == "crps" else 0.9
                    results[by(name, way.name), f"{kind} {metric}@{count}"] = cell if way is ways[0] else bad
            run.save(place, results)
    rows = smd.given_y(2, 1000, out, never)
    assert {row.data for row in rows} == {smd.MEASURED} and len(rows) == 5 * 18 + 6
    return Numbers(rows)


def test_all_cells_given_y_are_counted(tmp_path: Path) -> None:
    texts = smd.of_restoration(given_y(tmp_path, {}))
    assert all(texts.values()) and len(texts) == 3 and all("9" in text for text in texts)


@pytest.mark.parametrize(
    ("cell", "number", "sharp", "inside"),
    [
        # the standard deviation of two seeds is 0.0071
        ("coarse crps@4", 0.113, 8, 9),
        ("coarse crps@4", 0.115, 9, 9),
        ("half inside 90@1", 0.88, 9, 8),
        ("half inside 90@1", 0.92, 9, 9),
        ("half inside 90@1", 0.91, 9, 8),
        ("blurred crps@2", 0.05, 8, 9),
        ("blurred crps@4", 0.113, 8, 9),
        ("blurred inside 90@4", 0.88, 9, 8),
    ],
)
@pytest.mark.parametrize(("place", "other"), [(0, smd.GIVEN_Y_CONTROL), (1, "plain"), (2, smd.OWN_NOISE)])
def test_a_cell_given_y_counts_if_it_is_apart_by_two_standard_deviations(
    cell: str, number: float, sharp: int, inside: int, place: int, other: str, tmp_path: Path
) -> None:
    texts = list(smd.of_restoration(given_y(tmp_path, {(other, cell): number})).items())
    text, true = texts.pop(place)
    # own noise is compared in CRPS alone
    counts = (f"in {sharp} of 9 cells", f"in {sharp} and {inside} (all)", f"in {sharp} (all)")[place]
    assert counts in text and (place > 0 or f"0.9 in {inside} (all)" in text)
    assert true == (sharp == 9 and (inside == 9 or place == 2)) and all(true for _, true in texts)


def test_the_silent_network_has_the_mean_at_a_latent_of_zero() -> None:
    network = Network(VP(), MLPSpec(width=32, depth=2), SOFT, (2,))
    x = Rng(0, 5).normal((5, 2))
    with torch.no_grad():
        belief, right = (
            silent(network)(x, 0.4),
            network(x, 0.4).head(torch.zeros(1, 5, *network(x, 0.4).latent_shape))[0],
        )
    assert type(belief) is Point and torch.equal(belief.mean, right)
