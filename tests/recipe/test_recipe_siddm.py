"""The recipe of SIDDM: its problem, its measurements of known posteriors, its trainings, and its checks."""

from __future__ import annotations

import math

import pytest
import torch

from softmix.denoiser import mean_only
from softmix.loss import SIDDM
from softmix.posterior import Point
from softmix.process import VP
from softmix.recipe import siddm as recipe
from softmix.recipe.frame import Numbers, row
from softmix.recipe.siddm import ANCESTRAL, ENERGY, MARGINAL, OURS, REGRESSION, ROWS, SHARED, SOLVERS, STRONG
from softmix.rng import Rng


def test_the_grid_is_that_of_the_paper_in_units_of_its_deviation() -> None:
    """5 x 5 modes, 15 standard deviations apart, with unit variance."""
    law = recipe.problem().law
    assert len(law.weights) == 25
    apart = torch.pdist(law.means).min()
    assert float(apart) / recipe.SD == pytest.approx(15)
    assert torch.allclose(law.covariance, torch.eye(2, dtype=torch.float64), atol=0.02)


def test_the_exact_posterior_has_the_floor_of_every_number() -> None:
    """Over 5 seeds: distance up to 0.002, weights up to 0.06, posteriors up to 0.004, spread within 3 %."""
    found = recipe.exact(0, 2000, (1, 4))
    for count in (1, 4):
        assert abs(found[f"distance@{count}"]) < 0.006 and found[f"tv@{count}"] < 0.09
        assert abs(found[f"posterior@{count}"]) < 0.01
        assert found[f"spread@{count}"] == pytest.approx(1, abs=0.08)


def test_a_mean_has_right_means_and_no_spread() -> None:
    """Its posterior is apart by 2 E|X - m| - E|X - X'|, here computed from draws of the exact one."""
    exact = recipe.problem().denoiser()
    distances, shares, variances = recipe.posteriors(mean_only(exact), 0.75, 0)
    assert float(shares.abs().max()) < 1e-12 and float(variances.min()) > 0.05
    x0 = recipe.problem().sample(recipe.ITEMS, Rng(0, recipe.ITEMS, "items"))
    xt = VP().noise(x0, 0.75, Rng(0, recipe.ITEMS, "state 0.75")).xt
    posterior = exact(xt.float().double(), 0.75)
    draws = posterior.draws(4000, Rng(1, recipe.ITEMS, "more"))
    right = 2 * (draws - posterior.mean).norm(dim=2).mean(0) - (draws[:2000] - draws[2000:]).norm(dim=2).mean(0)
    # 128 draws each: a deviation of 0.05 for an item, and 0.006 for the mean of 64
    assert float((distances - right).mean()) == pytest.approx(0, abs=0.03)
    assert isinstance(mean_only(exact)(xt, 0.75), Point)


@pytest.mark.parametrize("name", [ANCESTRAL, ENERGY, OURS])
def test_a_training_is_measured_at_its_count(name: str) -> None:
    found = recipe.measure(name, 0, 100, (2,), 3)
    assert set(found) == {"distance@2", "tv@2", "posterior@2", "spread@2"}
    assert all(math.isfinite(each) for each in found.values())
    loss = ROWS[name].loss(2)
    assert not isinstance(loss, SIDDM) or loss.steps == 2


def test_rows_with_one_training_for_all_counts_train_once() -> None:
    before = recipe._trained.cache_info().misses
    recipe.measure(SOLVERS, 7, 50, (1, 2), 2)
    recipe.measure(ANCESTRAL, 7, 50, (1, 2), 2)
    assert recipe._trained.cache_info().misses == before + 1


def test_the_controls_differ_from_ours_by_one_part() -> None:
    ours = ROWS[OURS].loss(4)
    assert isinstance(ours, SIDDM)
    changes = {
        MARGINAL: {"conditional": 0.0},
        REGRESSION: {"adversarial": 0.0},
        SHARED: {"cross": "shared"},
        STRONG: {"conditional": 30.0},
    }
    for name, change in changes.items():
        other = ROWS[name].loss(4)
        differing = {key: value for key, value in vars(other).items() if value != getattr(ours, key)}
        assert differing == change and ROWS[name].head == ROWS[OURS].head


def numbers(**ours: float) -> Numbers:
    """Rows in which every check holds, but for the given numbers of our row at 4 steps."""
    good = {"distance": 0.01, "tv": 0.05, "posterior": 0.05, "spread": 1.0}
    bad = {"distance": 0.2, "tv": 0.5, "posterior": 0.5, "spread": 0.0}
    rows = []
    for name in ROWS:
        values = good | ours if name == OURS else bad
        rows += [row(name, ROWS[name].role, f"{kind}@4", [value], "") for kind, value in values.items()]
    return Numbers(rows)


def test_the_checks_see_each_failure() -> None:
    assert all(recipe.checks(numbers()).values())
    assert [*recipe.checks(numbers(spread=0.5)).values()].count(False) == 1
    assert [*recipe.checks(numbers(posterior=0.6)).values()].count(False) == 4
    far = list(recipe.checks(numbers(distance=0.3)).items())
    assert not far[0][1] and sum(not true for _, true in far) == 3
    assert ROWS[OURS].ways == recipe.BY_DRAWS == ROWS[ANCESTRAL].ways


def test_a_difference_within_two_standard_deviations_is_none() -> None:
    rows = [each for each in numbers()._rows.values() if (each.name, each.metric) != (OURS, "distance@4")]
    wide = row(OURS, "ours", "distance@4", [0.0, 0.2], "")
    assert sum(not true for true in recipe.checks(Numbers([*rows, wide])).values()) == 3


def test_a_row_without_a_game_has_as_much_work() -> None:
    """A step of the game has two turns with three nets."""
    assert ROWS[OURS].share == ROWS[MARGINAL].share == 1
    assert ROWS[ANCESTRAL].share == ROWS[SOLVERS].share == ROWS[ENERGY].share == 3
