"""The recipe of MMD-DDM: its measurements, its trainings, and its checks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from softmix.data import toys
from softmix.denoiser import TunedDenoiser
from softmix.loss import ChainMMD, CubicKernel, GaussianKernel
from softmix.oracle import grid_of_modes
from softmix.recipe import mmd_ddm as recipe
from softmix.recipe import mmd_ddm_images as images
from softmix.recipe.frame import Numbers, row
from softmix.rng import Rng


def test_each_number_is_that_of_the_best_set() -> None:
    """One set has every mode and no item at one; the other has one mode alone."""
    law = toys.mode_grid()
    exact = law.sample(1000, Rng(0, 1000, "exact"))
    wide = law.means[torch.arange(980) % 49] + 5 * recipe.SD
    single = law.means[:1].expand(980, 2)
    found = recipe.measured([wide.float(), single.float()], 4, exact)
    assert set(found) == {"distance@4", "tv@4", "good@4"}
    assert found["tv@4"] == pytest.approx(0.0, abs=1e-6) and found["good@4"] == 1.0
    assert recipe.measured([single], 4, exact)["tv@4"] == pytest.approx(48 / 49)
    assert recipe.measured([wide], 4, exact)["good@4"] == 0.0
    assert found["distance@4"] == recipe.measured([wide], 4, exact)["distance@4"]


def test_exact_samples_are_at_the_floor() -> None:
    found = recipe.measure(recipe.FLOOR, 0, 2000, 0, 0)
    assert abs(found["distance@2"]) < 0.005 and found["good@8"] > 0.995
    assert pytest.approx(float(grid_of_modes().law.covariances[0, 0, 0].sqrt())) == recipe.SD


def test_tunings_start_from_one_model_and_know_their_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    true = recipe._trained

    def recorded(settings: object, seed: int, start: Mapping[str, torch.Tensor] | None = None) -> object:
        network = true(settings, seed, start)  # type: ignore[arg-type]
        started.append((settings.task.loss, settings.steps, settings.optimiser.rate, start))  # type: ignore[attr-defined]
        return network

    monkeypatch.setattr(recipe, "_trained", recorded)
    recipe._before.cache_clear()
    recipe._tuned.cache_clear()
    tuned = recipe._tuned(recipe.CUBIC, 2, 0, 3, 2)
    assert isinstance(tuned, TunedDenoiser) and tuned.steps == 2
    (_, first, _, none), (loss, then, rate, start) = started
    assert (first, none, then, rate) == (3, None, 2, recipe.RATE)
    assert loss == ChainMMD(steps=2, kernel=CubicKernel())
    before = recipe._before(False, 0, 3).state_dict()
    assert start is not None and all(torch.equal(start[name], each) for name, each in before.items())
    # the control: as many evaluations, at two rates, each four ways
    started.clear()
    assert len(recipe._ends(recipe.LONGER, 2, 0, 20, 3, 2)) == 8
    assert [(steps, rate) for _, steps, rate, _ in started] == [(4, recipe.RATE), (4, recipe.FIRST_RATE)]
    # draws are tuned as draws
    started.clear()
    draws = recipe._tuned(recipe.MIXED, 2, 0, 2, 1, True)
    assert draws.suits == ("ancestral", {"eta": 0.0}) and started[-1][0].kernel == GaussianKernel()
    assert len(recipe._ends(recipe.MOVED, 8, 0, 20, 3, 2)) == 1


def numbers(changed: Mapping[tuple[str, str], float] | None = None) -> Numbers:
    """Numbers with which all checks are true, with some changed."""
    distance = {
        recipe.BEFORE: 0.2,
        recipe.BEST: 0.1,
        recipe.LONGER: 0.09,
        recipe.MIXED: 0.001,
        recipe.ENERGY: 0.01,
        recipe.CUBIC: 0.05,
        recipe.MOVED: 0.3,
        recipe.EXACT: 0.1,
        recipe.DRAWS: 0.02,
        recipe.DRAWS_TUNED: 0.01,
        recipe.FLOOR: 0.0,
    }
    values: dict[tuple[str, str], float] = {}
    for name, value in distance.items():
        for k in (*recipe.STEPS, recipe.MANY):
            values |= {(name, f"distance@{k}"): value, (name, f"tv@{k}"): value, (name, f"good@{k}"): 1 - value}
    frechet = {images.BEFORE: 20.0, images.LONGER: 15.0, images.PIXELS: 12.0, images.BOTH: 5.0, images.PAPER_LIKE: 8.0}
    for name, value in frechet.items():
        for k in images.COUNTS:
            values |= {(name, f"frechet@{k}"): value, (name, f"recall@{k}"): 0.5, (name, f"nearest_ratio@{k}"): 1.0}
    values |= {(images.REAL, f"frechet@{k}"): 1.0 for k in images.COUNTS}
    values |= changed or {}
    return Numbers([row(name, "ours", metric, [value], "x") for (name, metric), value in values.items()])


def test_all_checks_are_true_of_numbers_that_fit() -> None:
    found = recipe.checks(numbers())
    assert len(found) == 15 and all(found.values())


@pytest.mark.parametrize(
    ("name", "metric", "value", "which"),
    [
        (recipe.BEFORE, "distance@32", 0.0005, 0),
        (recipe.BEST, "distance@2", 0.0005, 1),
        (recipe.BEFORE, "distance@8", 0.0005, 2),
        (recipe.BEFORE, "tv@4", 0.0005, 2),
        (recipe.BEST, "tv@8", 0.0005, 3),
        (recipe.BEST, "good@4", 0.9999, 3),
        (recipe.LONGER, "distance@2", 0.0005, 4),
        (recipe.EXACT, "distance@2", 0.0005, 5),
        (recipe.ENERGY, "distance@4", 0.3, 6),
        (recipe.CUBIC, "distance@4", 0.0005, 7),
        (recipe.CUBIC, "tv@2", 0.0005, 7),
        (recipe.MOVED, "distance@32", 0.1, 8),
        (recipe.DRAWS_TUNED, "distance@4", 0.1, 9),
        (images.BEFORE, "frechet@2", 4.0, 10),
        (images.LONGER, "frechet@4", 4.0, 11),
        (images.PAPER_LIKE, "frechet@2", 25.0, 12),
        (images.BOTH, "recall@4", 0.4, 13),
        (images.BOTH, "nearest_ratio@2", 0.7, 14),
    ],
)
def test_a_check_is_false_for_its_number(name: str, metric: str, value: float, which: int) -> None:
    found = list(recipe.checks(numbers({(name, metric): value})).values())
    assert not found[which]


def test_the_losses_on_images_are_those_of_their_names() -> None:
    assert images.loss_of_arm(images.PIXELS, 2) == ChainMMD(steps=2)
    assert images.loss_of_arm(images.BOTH, 4) == ChainMMD(steps=4, features=1.0)
    own = images.loss_of_arm(images.PAPER_LIKE, 4)
    assert own == ChainMMD(steps=4, kernel=CubicKernel(), pixels=0.0, features=1.0, cells=1)


@pytest.mark.slow
def test_images_are_trained_tuned_and_measured_and_continued(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On digits, in a few steps: every arm has its numbers, and a second call reads the same from the folders."""
    monkeypatch.setattr(images, "DATA", "digits")
    monkeypatch.setattr(images, "BATCH", 8)
    monkeypatch.setattr(images, "COUNTS", (2,))
    found = images.train_and_measure(tmp_path, 0, 128, 2, 32)
    assert {name for name, _ in found} == set(images.ROLES)
    assert all((name, "frechet@2") in found for name in images.ROLES)
    assert images.train_and_measure(tmp_path, 0, 128, 2, 32) == found
    folders = {path.name for path in tmp_path.glob("digits-128/*") if (path / "run").is_dir()}
    # the first training, three tunings, and two longer trainings
    assert len(folders) == 6
