"""The recipe of RED-diff: the fixed point, the modes, the arms on images, and the checks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from softmix.oracle import digits
from softmix.recipe import red_diff as recipe
from softmix.recipe import red_diff_images as images
from softmix.recipe.frame import Numbers, row
from softmix.rng import Rng

F64 = torch.float64


def test_in_random_order_it_comes_near_the_posterior_mean_and_descending_it_does_not() -> None:
    found = recipe.at_the_fixed_point(0, 60, 500)
    metric = "rms to the posterior mean"
    near, far, start = (found[name, metric] for name in recipe.FIXED)
    assert near < 0.03 and far > 0.1 and start > 0.1


def test_runs_of_two_modes_are_counted() -> None:
    found = recipe.on_two_modes(0, 80, 150)
    assert {name for name, _ in found} == set(recipe.OF_MODES)
    assert found["exact posterior", "share in the heavier mode"] == pytest.approx(0.7, abs=0.15)
    assert found["exact posterior", "spread there / exact"] == pytest.approx(1, abs=0.3)
    assert found["runs", "share in the heavier mode"] > 0.85 and found["runs", "mean |x|"] == pytest.approx(1, abs=0.1)
    assert found["runs in random order", "mean |x|"] < 0.85


@pytest.mark.parametrize("size", [8, 14])
def test_the_instruments_measure_as_they_say(size: int) -> None:
    found = images.instruments(size, 2 if size == 8 else 4)
    assert list(found) == list(images.KINDS)
    x = Rng(0, 3).uniform((3, 1, size, size), F64)
    assert found["coarse"].operator(x).shape == (3, 1, 4, 4)
    half = found["half"].operator(x)
    assert torch.equal(half[:, :, : size // 2], x[:, :, : size // 2]) and not half[:, :, size // 2 :].any()
    assert found["blurred"].operator(x).std() < x.std() and found["blurred"].sd == 0.1


def small(steps: int = 20) -> images.Restorations:
    problem = digits()
    truth, tuning = problem.sample(3, Rng(0, 3)), problem.sample(2, Rng(1, 2))
    law = problem.law
    return images.Restorations(truth, tuning, problem.denoiser(), law.mean, law.covariance, steps, 4, 0)


def test_every_arm_is_measured_on_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "SIZES", (0.1, 0.3))
    monkeypatch.setattr(images, "SCALES", (0.03,))
    monkeypatch.setattr(images, "VARIATIONS", (0.01,))
    found = recipe.on_digits(0, 3, 2, 10, 3)
    names = {*images.ROLES, images.BEST}
    assert {name for name, _ in found} == names and all(math.isfinite(value) for value in found.values())
    for kind in images.KINDS:
        assert all((name, f"{kind} {metric}") in found for name in names for metric in ("psnr", "crps"))
        assert found[images.BEST, f"{kind} psnr"] > found[images.INVERSE, f"{kind} psnr"]


def test_the_ridge_is_the_posterior_mean_of_one_variance() -> None:
    """Its ridge is sd^2 / s^2 for a law N(mean, s^2 I): the estimate is centred, and no worse than the centre."""
    work = small()
    instrument = images.instruments(8, 2)["blurred"]
    operator: Any = instrument.operator
    y = instrument.observe(work.truth, Rng(0, 3, "y"))
    centre = work.mean.reshape(1, 1, 8, 8)
    by_hand = centre + operator.solve(operator.adjoint(y - operator(centre)), 0.03)
    matrix = operator(torch.eye(64, dtype=F64).reshape(64, 1, 8, 8)).flatten(1).T
    inverse = torch.linalg.inv(matrix.T @ matrix + 0.03 * torch.eye(64, dtype=F64))
    exact = work.mean + (y.flatten(1) - matrix @ work.mean) @ matrix @ inverse.T
    assert torch.allclose(by_hand.flatten(1), exact)


def test_parameters_are_chosen_on_the_tuning_images() -> None:
    """The chosen size has the least error there, and the result is that of a run with it."""
    work = small(15)
    instrument = images.instruments(8, 2)["coarse"]
    operator: Any = instrument.operator
    y, tune = (instrument.observe(x, Rng(0, len(x), "y")) for x in (work.truth, work.tuning))
    errors = [
        images._error(work.optimised(operator, work.denoiser, {}, tune, size), work.tuning) for size in images.SIZES
    ]
    best = images.SIZES[errors.index(min(errors))]
    wanted = work.optimised(operator, work.denoiser, {}, y, best)
    assert torch.equal(work.compared(instrument)[images.OURS], wanted)


def test_trained_arms_are_tuned_on_other_images_than_they_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 1 restores the images after those of seed 0, and no image is in both sets."""
    seen: dict[str, Any] = {}
    images_of = {"train": Rng(0, 300).uniform((300, 1, 14, 14)), "test": Rng(1, 300).uniform((300, 1, 14, 14))}

    class Loaded:
        def __init__(self, split: str = "train"):
            self.x = images_of[split]

        def x0(self, index: slice = slice(None)) -> Tensor:
            return self.x[index]

    monkeypatch.setattr(recipe, "load", lambda name, size, split="train": Loaded(split))
    monkeypatch.setattr(recipe, "trained", lambda seed, images: None)

    def compared(self: images.Restorations, instrument: Any) -> dict[str, Tensor]:
        seen.update(truth=self.truth, tuning=self.tuning, mean=self.mean)
        return {images.OURS: self.truth + 0.2}

    monkeypatch.setattr(images.Restorations, "compared", compared)
    found = recipe.on_fashion(1, 640, 5, 3, 2, 2)
    assert torch.equal(seen["truth"], images_of["test"][8:13]) and torch.equal(seen["tuning"], images_of["test"][13:16])
    assert torch.allclose(seen["mean"], images_of["train"].flatten(1).double().mean(0))
    assert found[f"{images.OURS}, trained", "half psnr"] == pytest.approx(20, abs=1e-4)


def test_runs_of_one_measurement_stand_together() -> None:
    work = small(5)
    instrument = images.instruments(8, 2)["coarse"]
    y = instrument.observe(work.truth, Rng(0, 3, "y"))
    runs = work.runs(instrument.operator, y, 0.3)
    assert runs.shape == (images.RUNS, 3, 1, 8, 8)
    assert float(runs.std(0).mean()) < 0.5 * float(runs.mean(0).std(0).mean())


def test_scores_of_points_and_of_draws() -> None:
    truth = torch.zeros(2, 1, 4, 4, dtype=F64)
    point, draws = truth + 0.2, torch.stack([truth - 0.2, truth + 0.2])
    found = images.scored({"point": point, "draws": draws}, truth, "half", 0)
    assert found["point", "half psnr"] == pytest.approx(20) and found["point", "half crps"] == pytest.approx(0.2)
    assert found["draws", "half psnr"] == math.inf and found["draws", "half crps"] == pytest.approx(0.0)


def numbers(**changed: float) -> Numbers:
    """Numbers for which every check is true, with changes by arm."""
    rows = []
    psnr = dict.fromkeys(images.ROLES, 15.0) | {images.OURS: 20.0, images.SIXTEEN: 20.2, images.BEST: 21.0}
    psnr |= {name: value for name, value in changed.items() if name in psnr}
    for name in psnr:
        for kind in images.KINDS:
            rows.append(row(name, "ours", f"{kind} psnr", [psnr[name]], ""))
            rows.append(row(name, "ours", f"{kind} crps", [0.1 if name == images.SIXTEEN else 0.2], ""))
    fixed = dict(zip(recipe.FIXED, (0.01, 0.2, 0.2), strict=True)) | changed
    rows += [row(name, "ours", "rms to the posterior mean", [fixed[name]], "") for name in recipe.FIXED]
    for name in recipe.OF_MODES:
        rows.append(row(name, "ours", "share in the heavier mode", [0.7 if "exact" in name else 1.0], ""))
        rows.append(row(name, "ours", "spread there / exact", [1.0 if "exact" in name else 0.4], ""))
    return Numbers(rows)


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({}, set()),
        ({images.ONE: 20.5}, {0}),
        ({images.SIXTEEN: 20.5}, {1}),
        ({images.TV: 19.5}, {2}),
        ({images.RIDGE: 20.5}, {3}),
        ({images.LINEAR: 20.5}, {4}),
        ({images.CONST: 20.5}, {5}),
        ({"in random order": 0.1}, {7}),
    ],
)
def test_each_check_reads_its_numbers(changed: dict[str, float], failed: set[int]) -> None:
    outcomes = list(recipe.checks(numbers(**changed)).values())
    assert {place for place, true in enumerate(outcomes) if not true} == failed


def test_a_model_that_divides_by_nothing_is_no_best_choice() -> None:
    x = torch.full((2, 3), math.nan)
    assert images._error(x, torch.zeros(2, 3)) == 1e9 and images._error(Tensor([1.0]), Tensor([0.0])) == 1
