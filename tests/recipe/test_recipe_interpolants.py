"""The recipe of stochastic interpolants: its estimates, its errors, and one small run of the translation of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from softmix.data import load
from softmix.net import UNetSpec
from softmix.process import Interpolant
from softmix.recipe import stochastic_interpolants as recipe
from softmix.recipe import translation
from softmix.recipe.frame import Numbers, row
from softmix.recipe.translation import TRANSLATIONS, by
from softmix.rng import Rng
from softmix.sampler import velocity

F64 = torch.float64


def test_the_divergence_is_that_of_the_law_of_the_samples() -> None:
    """Against KL(p || q) by an integral, for samples of a law q that is p shifted; and its floor for exact samples."""
    problem = recipe.line(Interpolant())
    law, n = problem.at(0.0), 200_000
    x = law.sample(n, Rng(0, n))
    assert recipe.divergence(x, law) < 2 * recipe.BINS / n
    grid = torch.linspace(-5, 5, 20_001, dtype=F64)[:, None]
    p, q = law.log_prob(grid), law.log_prob(grid - 0.05)
    right = float(((p - q) * p.exp()).sum()) * 10 / 20_000
    # cells of finite width lose a little
    assert recipe.divergence(x + 0.05, law) == pytest.approx(right, rel=0.15)


@pytest.mark.parametrize("t", [0.2, 0.7])
def test_an_error_of_the_mean_is_an_error_of_the_velocity_of_its_size(t: float) -> None:
    problem = recipe.line(Interpolant())
    x = torch.linspace(-1, 1, 9, dtype=F64)[:, None]
    exact, wrong = problem.denoiser(), recipe.with_errors(problem.denoiser(), 0.3, 0.0)
    apart = velocity(problem.process, x, t, wrong(x, t)) - velocity(problem.process, x, t, exact(x, t))
    # b = (x - E[x0]) / t - c / (2 gamma) E[z] on the linear path
    assert torch.allclose(apart, -0.3 * torch.sin(6 * x + 3), atol=1e-9)
    assert torch.equal(wrong(x, t).noise, exact(x, t).noise)  # type: ignore[attr-defined]
    noisy = recipe.with_errors(problem.denoiser(), 0.0, 0.1)(x, t)
    assert torch.allclose(noisy.noise - exact(x, t).noise, 0.1 * torch.sin(6 * x + 3))  # type: ignore[attr-defined]


def test_a_wrong_velocity_harms_the_ode_more_than_the_sde_and_few_steps_harm_the_sde(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recipe, "CURVE", (0.0, 0.3, 10.0))
    monkeypatch.setattr(recipe, "MANY", 20)
    values = recipe.curves(0, 1500)
    wrong = [values[recipe.WRONG, f"kl@{eps:g}"] for eps in recipe.CURVE]
    assert wrong[0] > 3 * min(wrong) and wrong[-1] > 2 * min(wrong)
    assert values[recipe.EXACT, "kl@0"] < wrong[0] / 3


@pytest.mark.parametrize("holds", [True, False])
def test_the_first_check_decides_about_the_claim(holds: bool) -> None:
    """From made-up rows of all metrics: 1 everywhere, and the divergences of the wrong velocity by hand."""
    values = {(arm, f"kl@{eps:g}"): 1.0 for arm in (recipe.WRONG, recipe.NOISE, recipe.EXACT) for eps in recipe.CURVE}
    values |= {(recipe.WRONG, f"kl@{eps:g}"): (0.1 if holds else 0.6) for eps in recipe.CURVE[1:]}
    values |= {(arm, f"kl of {recipe.MANY} steps@10"): 1.0 for arm in (recipe.WRONG, recipe.NOISE, recipe.EXACT)}
    values |= {(arm, f"distance@t={t:g}"): 1.0 for arm in recipe.MARGINALS for t in (0.5, 0.0)}
    values |= {(arm, f"distance@{k}"): 1.0 for arm in recipe.FEW for k in recipe.COUNTS}
    rows = [row(arm, "ours", metric, [value], "x") for (arm, metric), value in values.items()]
    outcomes = recipe.checks(Numbers(rows))
    assert next(iter(outcomes.values())) == holds
    assert not any("coats" in sentence for sentence in outcomes)
    images = [
        row(by(name, way), each.role, f"frechet@{k}", [2.0 if name.endswith("mixture") else 3.0], "y")
        for name, each in TRANSLATIONS.items()
        for way in each.ways
        for k in recipe.COUNTS
    ]
    more = recipe.checks(Numbers([*rows, *images]))
    shown = [sentence for sentence in more if sentence not in outcomes]
    assert [more[sentence] for sentence in shown] == [True, False, True, False]


@pytest.mark.parametrize(("seeds", "gains"), [([3.2, 3.6], True), ([3.0, 3.6], False)])
def test_a_gain_of_latent_noise_is_larger_than_the_spread(seeds: list[float], gains: bool) -> None:
    """3.4 with a spread of 0.28, and 3.3 with 0.42, beside 3."""
    images = [
        row(by(name, way), each.role, f"frechet@{k}", seeds if "without" in name else [3.0, 3.0], "y")
        for name, each in TRANSLATIONS.items()
        for way in each.ways
        for k in recipe.COUNTS
    ]
    assert list(recipe.of_images(Numbers(images)).values())[-1] == gains


@pytest.mark.slow
def test_the_images_are_trained_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sevens become ones, in 12 steps of each training: all numbers are there, of all ways."""
    small = (*translation.DATA_SETS["digits"][:2], UNetSpec(width=16, mults=(1,), depth=1, patch=1, attention=False))
    monkeypatch.setitem(translation.DATA_SETS, "digits", small)
    small_run = {"images": 96, "n": 20, "batch": 8, "counts": (1, 4), "data": "digits", "classes": ("7", "1")}
    for name, each in TRANSLATIONS.items():
        values = translation.train_and_measure(name, tmp_path, 0, **small_run)  # type: ignore[arg-type]
        assert {(by(name, way), f"frechet@{k}") for way in each.ways for k in (1, 4)} == set(values)
        assert all(value > 0 for value in values.values())
    bounds = translation.untouched(tmp_path, 0, 30, "digits", ("7", "1"))
    assert bounds["real coats", "frechet@1"] < bounds["the shirts as they are", "frechet@1"]


def test_every_training_differs_from_the_others_by_its_parts() -> None:
    net = UNetSpec(width=16, depth=1, patch=1)
    made = {name: translation.configured(each, (1, 8, 8), net, 640, 0, 64) for name, each in TRANSLATIONS.items()}
    assert len({str(each.task) for each in made.values()}) == len(made)
    assert len({(each.steps, each.batch, str(each.optimiser)) for each in made.values()}) == 1
    assert len({str(replace(each.task.net)) for each in made.values()}) == 1
    digits = load("digits", limit=200)
    seven, one = translation.of_class(digits, "7"), translation.of_class(digits, "1")
    assert seven.labels is not None and set(seven.labels.tolist()) == {7}
    for name, each in TRANSLATIONS.items():
        source = translation.source_of(each, one, seven)
        assert bool(source.cond.image) == name.startswith("interpolant")
