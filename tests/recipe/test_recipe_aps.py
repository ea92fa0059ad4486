"""The recipe of APS: split Gibbs against sampling, particles, every arm with its numbers, and the checks."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from softmix.oracle import MeasuredTokens, measured_tokens
from softmix.process import Masked
from softmix.recipe import aps as recipe
from softmix.recipe import aps_digits as digits
from softmix.recipe.frame import Numbers, row
from softmix.rng import Rng

F64 = torch.float64


def small() -> tuple[MeasuredTokens, torch.Tensor]:
    measured = measured_tokens(Masked(3), 3, 3, 2, sd=1.0)
    y = measured.draw(1, Rng(0, 1))[1].value
    assert y is not None
    return measured, y


def test_a_sweep_of_split_gibbs_is_its_two_conditional_laws() -> None:
    """By sums over all pairs of sequences."""
    measured, y = small()
    every = measured.sequences
    fits = measured.likelihood(y)(measured.vectors(every)).exp()
    prior = measured.problem.log_prob(every).exp()
    kernel = torch.zeros(27, 27, dtype=F64)
    for i, j in product(range(27), repeat=2):
        kernel[i, j] = math.exp(-1.3 * int((every[i] != every[j]).sum()))
    z_given_x = kernel * fits[None]
    x_given_z = kernel * prior[None]
    step = (z_given_x / z_given_x.sum(1, keepdim=True)) @ (x_given_z / x_given_z.sum(1, keepdim=True))
    right = prior.clone()
    for sweeps in range(3):
        assert torch.allclose(recipe.split_gibbs(measured, fits, 1.3, sweeps), right)
        right = right @ step
    stationary = prior * (kernel @ fits)
    found = recipe.split_gibbs(measured, fits, 1.3, 200)
    assert torch.allclose(found, stationary / stationary.sum(), atol=1e-9)


def test_a_strong_coupling_has_the_law_given_y_at_last() -> None:
    measured, y = small()
    fits = measured.likelihood(y)(measured.vectors(measured.sequences)).exp()
    right = measured.given(y).probabilities[0]
    weak, strong = (recipe.split_gibbs(measured, fits, coupling, 1000) for coupling in (1.0, 6.0))
    assert float((strong - right).abs().sum()) < 0.01 < 0.1 * float((weak - right).abs().sum())
    # but few sweeps hardly move
    early = recipe.split_gibbs(measured, fits, 6.0, 3)
    assert float((early - right).abs().sum()) > 0.3


def test_one_item_has_every_arm_and_particles_and_exact_draws_are_nearest() -> None:
    """200 draws, 4 inner steps, 2 runs: only the order of magnitude is asked for."""
    measured = measured_tokens(Masked(4), 4, 6, 12, sd=1.0)
    y = measured.draw(1, Rng(1, [0], "y"))[1].value
    assert y is not None
    found = recipe.one_item(measured, y, 0, 200, 4, 2)
    assert {name for name, _ in found} == set(recipe.ROLES)
    tv = {name: value for (name, kind), value in found.items() if kind == "tv"}
    assert tv[recipe.DRAWS] < tv[recipe.PARTICLES] < 0.5 * tv[recipe.FREE] and tv[recipe.PARTICLES] < tv[recipe.BEST]
    best = float(measured.given(y).probabilities.max())
    assert found[recipe.DRAWS, "map"] == pytest.approx(best, abs=0.1)
    assert all(0 <= value <= 1 for value in found.values())


def test_the_rows_are_means_over_items_of_each_number_of_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, float]] = []

    def made_up(measured: MeasuredTokens, y: torch.Tensor, seed: int, *rest: int) -> dict[tuple[str, str], float]:
        calls.append((len(measured.matrix), float(y[0, 0])))
        return {("arm", "tv"): float(len(calls))}

    monkeypatch.setattr(recipe, "one_item", made_up)
    found = recipe.on_chain(0, 10, 2, 1, 1)
    assert found == {("arm", "tv@3"): 1.5, ("arm", "tv@12"): 3.5}
    assert [count for count, _ in calls] == [3, 3, 12, 12] and len({y for _, y in calls}) == 4


def test_digits_as_signs_are_the_pixels_above_the_middle() -> None:
    train, held_out = digits.signs()
    assert train.vocabulary == 2 and train.shape == (64,) and len(train) + len(held_out) == 1797
    x = train.x0()[:20]
    assert 0.2 < float(x.double().mean()) < 0.5
    assert torch.equal(digits.images_of(x).flatten(1), 2 * x.float() - 1)


def test_few_steps_on_digits_have_every_arm_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "STEPS", 3)
    found = digits.on_digits(0, 2, 4, 15, 3)
    assert {name for name, _ in found} == set(digits.ROLES) and all(map(math.isfinite, found.values()))
    for instrument in digits.INSTRUMENTS:
        assert found[digits.TRUTH, f"wrong@{instrument}"] == 0
        assert found[digits.TRUTH, f"misfit@{instrument}"] == pytest.approx(1, abs=0.4)
        # a gradient of the loss fits y better than no look at y
        assert found[digits.ALONE, f"misfit@{instrument}"] < found[digits.FREE, f"misfit@{instrument}"]


def made_up(**changed: list[float]) -> Numbers:
    """Rows of a claim that holds; `changed` replaces a line."""
    tv = {name: [0.6, 0.9] for name in recipe.ROLES}
    tv |= {recipe.OURS: [0.1, 0.1], recipe.SOFT: [0.2, 0.2], recipe.PARTICLES: [0.3, 0.3]}
    tv |= {f"{recipe.OURS}, {steps} inner steps": [0.5 - steps / 100] * 2 for steps in (10, 30)}
    wrong = {name: [0.3, 0.3] for name in digits.ROLES}
    wrong[digits.OURS] = [0.1, 0.1]
    made = [
        row(name, recipe.ROLES[name], f"tv@{count}", [value], "x")
        for name, line in tv.items()
        for count, value in zip(recipe.COUNTS, changed.get(name, line), strict=True)
    ]
    made += [
        row(name, digits.ROLES[name], f"{kind}@{instrument}", [value], "y")
        for name, line in wrong.items()
        for kind, numbers in (
            ("wrong", changed.get(name, line)),
            ("misfit", changed.get(f"{name}/misfit", [1.0, 1.0])),
        )
        for instrument, value in zip(digits.INSTRUMENTS, numbers, strict=True)
    ]
    return Numbers(made)


@pytest.mark.parametrize(
    ("name", "line", "failed"),
    [
        (recipe.USUAL, [0.2, 0.05], {0}),
        (recipe.FREE, [0.15, 0.9], {1}),
        ("expected, usual order", [0.6, 0.1], {2}),
        ("expected, random order", [0.1, 0.9], {2}),
        (recipe.SOFT, [0.2, 0.05], {3}),
        (f"{recipe.OURS}, 30 inner steps", [0.5, 0.2], {4}),
        (f"{recipe.OURS}, 10 inner steps", [0.4, 0.1], {4}),
        (recipe.LOOSE, [0.6, 0.05], {5}),
        (recipe.PARTICLES, [0.05, 0.3], {6}),
        (digits.ALONE, [0.3, 0.05], {7}),
        (digits.USUAL, [0.05, 0.3], {8}),
        (digits.SOFT, [0.05, 0.3], {9}),
        (digits.PARTICLES, [0.3, 0.05], {10}),
        (f"{digits.OURS}/misfit", [1.0, 1.6], {11}),
    ],
)
def test_each_check_follows_its_numbers(name: str, line: list[float], failed: set[int]) -> None:
    assert all(recipe.checks(made_up()).values())
    outcomes = list(recipe.checks(made_up(**{name: line})).values())
    assert {k for k, true in enumerate(outcomes) if not true} == failed


def test_without_digits_the_checks_are_those_of_the_chain() -> None:
    kept = [key for key in made_up() if key[0] in recipe.ROLES]
    chain = Numbers([row(name, recipe.ROLES[name], metric, [0.5], "x") for name, metric in kept])
    assert len(recipe.checks(chain)) == 7


def test_the_study_has_the_three_roles_of_an_argument() -> None:
    assert {"ours", "baseline", "control"} <= set(recipe.ROLES.values())
    assert {"ours", "baseline", "control"} <= set(digits.ROLES.values())
    assert recipe.run.arms[0].quick is not None and recipe.run.arms[1].quick is None
