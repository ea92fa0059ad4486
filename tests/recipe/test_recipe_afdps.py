"""The recipe of AFDPS: the observations, the measures, and the checks."""

from __future__ import annotations

import pytest
import torch

from softmix.recipe import Scale
from softmix.recipe import afdps as recipe
from softmix.recipe.frame import Numbers, row


@pytest.fixture(scope="module")
def one() -> recipe.Observation:
    return recipe.Observation(*recipe.CASES[0], seed=0)


def test_exact_draws_have_the_measures_of_the_posterior(one: recipe.Observation) -> None:
    """2,000 draws: coverage has an error of 0.01, a share of modes of at most 0.011."""
    found = one.measured(one.exact(2000, "test"), seed=0)
    assert found["coverage of 90 %"] == pytest.approx(0.9, abs=0.03)
    assert found["TV of modes"] < 0.05 and found["sliced W1"] < 0.03


def test_draws_of_the_prior_fit_no_posterior(one: recipe.Observation) -> None:
    found = one.measured(one.problem.sample(2000, recipe.Rng(0, 2000)), seed=0)
    assert found["sliced W1"] > 0.3 and found["TV of modes"] > 0.3


def test_points_have_no_coverage(one: recipe.Observation) -> None:
    mean = one.observed.given(one.y).mean.expand(100, -1)
    assert one.measured(mean, seed=0)["coverage of 90 %"] < 0.01


def test_an_observation_is_the_same_each_time() -> None:
    again = recipe.Observation(*recipe.CASES[0], seed=0)
    other = recipe.Observation(*recipe.CASES[0], seed=1)
    first = recipe.Observation(*recipe.CASES[0], seed=0)
    assert torch.equal(first.y, again.y) and not torch.equal(first.y, other.y)


def numbers(sde: float, guidance: float, twisted: float, last: float) -> Numbers:
    rows = []
    for case in recipe.CASES:
        where = recipe.case_name(*case)
        for name, role in recipe.NAMES.items():
            value = {recipe.SDE: sde, recipe.TWISTED: twisted, recipe.PRIOR: 0.2}.get(name, guidance)
            rows.append(row(name, role, f"sliced W1, {where}", [value], recipe.WHERE))
        rows.append(row(recipe.PRIOR, "baseline", f"effective share, {where}", [0.005], recipe.WHERE))
        rows.append(row(recipe.SDE, "ours", f"evaluations, {where}", [1000.0], recipe.WHERE))
    for count, value in zip(recipe.COUNTS, (0.3, 0.2, last), strict=True):
        rows.append(row(recipe.FALLING, "ours", f"particles@{count}", [value], recipe.WHERE))
    return Numbers(rows)


@pytest.mark.parametrize(
    ("values", "failing"),
    [
        ((0.1, 0.15, 0.12, 0.1), 0),
        ((0.15, 0.16, 0.18, 0.1), 3),
        ((0.1, 0.09, 0.12, 0.1), 3),
        ((0.1, 0.15, 0.05, 0.1), 3),
        ((0.1, 0.15, 0.12, 0.29), 1),
    ],
    ids=["all hold", "importance sampling", "guidance", "twisted", "rate"],
)
def test_each_part_of_the_claim_can_fail(values: tuple[float, ...], failing: int) -> None:
    assert sum(not good for good in recipe.checks(numbers(*values)).values()) == failing


def test_the_quick_recipe_has_all_roles() -> None:
    """Without the slow rows the frame is that of the study."""
    names = {name for arms in recipe.run.arms for name in arms.roles if arms.runs(Scale.quick)}
    assert names == set(recipe.NAMES)


def test_every_method_returns_its_draws(one: recipe.Observation) -> None:
    slow = {recipe.SDE, recipe.ODE, recipe.PRIOR}
    for name, draw in recipe.methods(one, 8, 0).items():
        if name not in slow:
            found = draw()
            x = found.x if isinstance(found, recipe.WeightedSamples) else found
            assert x.shape == (8, recipe.DIM) and bool(x.isfinite().all()), name
