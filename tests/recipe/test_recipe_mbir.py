"""The recipe of DiffusionMBIR: its volumes, its laws, its arms, and its checks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from softmix.data import load
from softmix.denoiser import wiener
from softmix.measure import roughness
from softmix.oracle import digits
from softmix.process import VP
from softmix.recipe import mbir as recipe
from softmix.recipe import phantoms
from softmix.recipe.frame import Numbers, row
from softmix.rng import Rng

F64 = torch.float64


def test_a_phantom_changes_smoothly_and_stays_in_range() -> None:
    found = phantoms.volumes("test", 12, 12)[:50]
    assert found.shape == (50, 1, 12, 12, 12) and float(found.min()) >= -1 and float(found.max()) <= 1
    step, apart = roughness(found, -3), (found[:, :, 6] - found[:, :, 0]).abs().flatten(1).mean(1)
    # neighbours are similar, and slices far away are not
    assert float(step.mean()) < 0.5 * float(apart.mean()) and float(step.mean()) > 0.01
    assert not torch.equal(found[0], found[1])


def test_an_undeformed_digit_is_resized() -> None:
    """Without waves the middle of the law is the digit: the mean brightness is kept to a fifth."""
    images = load("digits", split="test").x0()[:20]
    found = phantoms.deformed(images, 8, 6, Rng(0, 20))
    ratio = (found + 1).flatten(1).mean(1) / (images + 1).flatten(1).mean(1)
    assert float(ratio.min()) > 0.5 and float(ratio.max()) < 1.5
    assert torch.allclose(phantoms.deformed(images[3:4], 8, 6, Rng(0, [3])), found[3:4], atol=1e-6)


def test_the_slices_are_those_of_the_training_subjects() -> None:
    data = phantoms.slices(12, 12)
    assert len(data) == 12 * len(load("digits")) and data.shape == (1, 12, 12)
    assert torch.equal(data.x0(slice(12, 24))[:, 0], phantoms.volumes("train", 12, 12)[1, 0])


def test_the_volumes_have_the_slices_of_the_digits_and_a_correlation_along_z() -> None:
    whole, within = recipe.law_of_volumes(3, 0.5)
    covariance = whole.covariances[0].reshape(3, 64, 3, 64)
    assert torch.allclose(covariance[1, :, 1], within) and torch.allclose(covariance[0, :, 2], 0.25 * within)
    assert torch.allclose(within, digits().law.covariance) and torch.allclose(whole.mean[64:128], digits().law.mean)
    alone = recipe._independent(whole, 3)
    apart = alone.covariances[0].reshape(3, 64, 3, 64)
    assert torch.allclose(apart[2, :, 2], within) and not apart[0, :, 1].any()


def test_the_posterior_mean_is_that_of_the_linear_equations() -> None:
    problem = recipe.MixtureProblem("volumes", recipe.law_of_volumes(2, 0.5)[0], VP(), (1, 2, 8, 8))
    for instrument in recipe.instruments(8, 2).values():
        y = instrument.observe(problem.sample(1, Rng(0, 1)), Rng(1, 1))
        matrix = instrument.operator(torch.eye(128, dtype=F64).reshape(128, *problem.shape)).flatten(1).T
        mean, covariance = problem.law.mean, problem.law.covariance
        left = matrix.T @ matrix / instrument.sd**2 + torch.linalg.inv(covariance)
        right = matrix.T @ y.flatten() / instrument.sd**2 + torch.linalg.solve(covariance, mean)
        found = recipe.posterior_mean(problem, instrument, y)
        assert torch.allclose(found.flatten(), torch.linalg.solve(left, right), atol=1e-6)


def test_scores_are_decibel_and_a_share_of_roughness() -> None:
    truth = Rng(0, 2).normal((2, 1, 3, 4, 4), F64)
    psnr, rough = recipe.scores(truth + 0.2, truth)
    assert psnr == pytest.approx(20) and rough == pytest.approx(1)
    assert recipe.scores(2 * truth, truth)[1] == pytest.approx(2)


def test_the_best_arguments_have_the_least_error() -> None:
    truth = torch.zeros(2, 3)
    assert recipe.best_of(lambda a, b: truth + a - b, [(1.0, 0.0), (0.5, 0.4), (math.nan, 0.0)], truth) == (0.5, 0.4)


def test_weights_are_chosen_on_the_tuning_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight of 30 flattens every volume: it is tried, and not taken."""
    monkeypatch.setattr(recipe, "WEIGHTS", (30.0, 0.1, 30.0))
    monkeypatch.setattr(recipe, "RHOS", (0.1,))
    problem, law = recipe._gaussian_volumes(), digits().law
    truth, tuning = problem.sample(2, Rng(0, 2)), problem.sample(1, Rng(1, 1))
    work = recipe.Problem3D(truth, tuning, wiener(VP(), law.mean, law.covariance), 6, 0)
    instrument = recipe.instruments(8, 8)["pixels"]
    found = work.compared(instrument)
    y = instrument.observe(truth, Rng(0, 2, "y"))
    operator: Any = instrument.operator
    wanted = work.sampled(recipe.mbir_of_means(operator, y, recipe.TotalVariation(0.1, 0.1)), truth)
    assert torch.equal(found[recipe.MEANS], wanted)
    # the control has the same steps, and no penalty
    bare = work.sampled(recipe.mbir(operator, y, recipe.TotalVariation(0.1, 0.1, ())), truth)
    assert torch.equal(found[recipe.NO_PENALTY], bare)


def test_every_arm_reconstructs_and_the_best_is_above_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "WEIGHTS", (0.1,))
    monkeypatch.setattr(recipe, "RHOS", (0.1,))
    found = recipe.on_gaussian_volumes(0, 2, 10)
    assert {name for name, _ in found} == set(recipe._WITH_TRUTH) and all(map(math.isfinite, found.values()))
    for kind in recipe.KINDS:
        psnr = {name: found[name, f"{kind} psnr"] for name in recipe._WITH_TRUTH}
        assert max(psnr, key=lambda name: psnr[name]) == recipe.BEST and psnr[recipe.SLICES] < psnr[recipe.BEST]
        assert psnr[recipe.INVERSE] < psnr[recipe.MEANS] and psnr[recipe.MEANS_ALONE] < psnr[recipe.MEANS]


def test_the_trained_arms_have_the_model_and_the_held_out_subjects(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the Wiener denoiser of the slices in the place of a training."""
    asked: dict[str, Any] = {}

    def model(seed: int, images: int, size: int, depth: int) -> Any:
        asked.update(seed=seed, images=images)
        flat = phantoms.slices(size, depth).x0(slice(0, 2000)).flatten(1).double()
        return wiener(VP(), flat.mean(0), flat.T.cov() + 1e-3 * torch.eye(flat.shape[1], dtype=F64))

    monkeypatch.setattr(recipe, "trained", model)
    monkeypatch.setattr(recipe, "WEIGHTS", (0.1,))
    monkeypatch.setattr(recipe, "RHOS", (0.1,))
    found = recipe.on_digit_volumes(1, 640, 2, 5, 8, 6)
    assert asked == {"seed": 1, "images": 640} and all(map(math.isfinite, found.values()))
    assert {name for name, _ in found} == {f"{name}, trained" for name in recipe._SAMPLED}


def numbers(**changed: float) -> Numbers:
    """Numbers for which every check is true on exact slices, with changes by arm."""
    psnr = dict.fromkeys(recipe._WITH_TRUTH, 15.0) | {recipe.OURS: 20.0, recipe.MEANS: 21.0} | changed
    rough = psnr.pop("rough", 0.5)
    rows = [
        row(name, "ours", f"{kind} {metric}", [value], "")
        for name in psnr
        for kind in recipe.KINDS
        for metric, value in (("psnr", psnr[name]), ("rough", rough if name == recipe.OURS else 0.5))
    ]
    return Numbers(rows)


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({}, set()),
        ({recipe.TV3: 19.5}, {0}),
        ({recipe.TVZ: 19.5}, {0}),
        ({recipe.NO_PENALTY: 19.5}, {0}),
        ({"rough": 0.6}, {1}),
        ({recipe.FRESH: 20.5}, {2}),
        ({recipe.ALL: 20.5}, {3}),
        ({recipe.MEANS: 19.0}, {4}),
    ],
)
def test_each_check_reads_its_numbers(changed: dict[str, float], failed: set[int]) -> None:
    outcomes = list(recipe.checks(numbers(**changed)).values())
    assert {place for place, true in enumerate(outcomes) if not true} == failed
