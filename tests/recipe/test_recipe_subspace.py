"""The recipe of subspace clustering: its problems, its two ways to the bases, and its checks."""

from __future__ import annotations

import math

import pytest
import torch

from softmix.denoiser import LowRankMixture, wiener
from softmix.oracle import digits
from softmix.process import VP
from softmix.recipe import subspace as recipe
from softmix.recipe import subspace_jacobian as jacobians
from softmix.recipe.frame import Numbers, row
from softmix.rng import Rng

F64 = torch.float64


@pytest.mark.parametrize("angle", [15.0, 90.0])
def test_subspaces_have_the_angle_that_was_asked_for(angle: float) -> None:
    bases = recipe.subspaces(recipe.Cell(3, 4, 8), 0, angle)
    assert torch.allclose(bases.mT @ bases, torch.eye(4, dtype=F64).expand(20, 3, 4, 4), atol=1e-9)
    for other in (1, 2):
        cosines = torch.linalg.svdvals(bases[:, 0].mT @ bases[:, other])
        assert torch.allclose(cosines, torch.full_like(cosines, math.cos(math.radians(angle))), atol=1e-9)


def test_items_lie_in_their_subspaces_and_have_unit_variance_there() -> None:
    bases = recipe.subspaces(recipe.Cell(2, 3, 500), 0)
    x0 = recipe.drawn(bases, 500, 0).unflatten(1, (2, 500))
    inside = torch.einsum("tkid,tkde->tkie", x0, bases)
    assert torch.allclose(torch.einsum("tkie,tkde->tkid", inside, bases), x0, atol=1e-9)
    assert float((inside.var(2) - 1).abs().mean()) < 0.08
    # the trials are not alike
    assert not torch.allclose(x0[0], x0[1])


def test_the_share_held_is_the_least_of_all_subspaces_in_the_best_order() -> None:
    right = recipe.subspaces(recipe.Cell(3, 4, 8), 0, 90.0)
    assert torch.allclose(recipe.held(right, right), torch.ones(20, dtype=F64))
    assert torch.allclose(recipe.held(right[:, [2, 0, 1]], right), torch.ones(20, dtype=F64))
    # one basis has one direction of another subspace in the place of its own
    wrong = right.clone()
    wrong[:, 1, :, 0] = right[:, 0, :, 0]
    assert torch.allclose(recipe.held(wrong, right), torch.full((20,), 0.75, dtype=F64))


@pytest.mark.parametrize("hard", [False, True])
def test_the_error_is_that_of_the_low_rank_mixture(hard: bool) -> None:
    model = LowRankMixture(VP(), 2, 3, (recipe.SIZE,), hard=hard).double()
    x0 = Rng(0, 1).normal((1, 7, recipe.SIZE), F64)
    found = recipe._errors(model.bases.detach()[None], x0, Rng(5, 1), hard, recipe.ALL_TIMES)
    rng = Rng(5, 1)
    t = recipe.ALL_TIMES[0] + (recipe.ALL_TIMES[1] - recipe.ALL_TIMES[0]) * rng.uniform((1, 7))[0]
    z = rng.normal(x0.shape)[0].double()
    alpha, sigma = (part(t)[:, None].to(F64) for part in (VP().alpha, VP().sigma))
    mean = model(alpha * x0[0] + sigma * z, t).mean
    assert float(found[0]) == pytest.approx(float((mean.detach() - x0[0]).square().sum(1).mean()), rel=1e-4)


def test_both_ways_find_subspaces_of_many_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five trials with ten times as many items as dimensions; with fewer than d items neither can."""
    monkeypatch.setattr(recipe, "TRIALS", 5)
    monkeypatch.setattr(recipe, "STEPS", 120)
    many, few = recipe.Cell(2, 3, 30), recipe.Cell(2, 3, 2)
    right = recipe.subspaces(many, 0)
    for cell, found in ((many, True), (few, False)):
        x0 = recipe.drawn(right, cell.items, 0)
        for bases in (recipe.by_denoising(x0, 2, 3, 0), recipe.by_clustering(x0, 2, 3, 0)):
            share = (recipe.held(bases, right) > recipe.SHARE).double().mean()
            assert float(share) >= 0.6 if found else float(share) == 0


def test_three_subspaces_are_clustered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "TRIALS", 6)
    right = recipe.subspaces(recipe.Cell(3, 2, 30), 0)
    found = recipe.by_clustering(recipe.drawn(right, 30, 0), 3, 2, 0)
    assert float((recipe.held(found, right) > 0.999).double().mean()) >= 0.6


def test_a_trial_keeps_its_restart_of_the_least_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two restarts without a step: the second one has the data's subspace."""
    right = recipe.subspaces(recipe.Cell(1, 2, 20), 0)[:3]
    other = recipe.subspaces(recipe.Cell(1, 2, 20), 1)[:3]
    starts = torch.stack([other, right], 1).flatten(0, 1)
    monkeypatch.setattr(recipe, "STEPS", 0)
    monkeypatch.setattr(recipe, "RESTARTS", 2)
    monkeypatch.setattr(recipe, "Rng", Starts(starts))
    found = recipe.by_denoising(recipe.drawn(right, 20, 0), 1, 2, 0)
    assert torch.allclose(recipe.held(found, right), torch.ones(3, dtype=F64), atol=1e-5)


class Starts:
    """Random streams of which "first" gives the given bases."""

    def __init__(self, bases: torch.Tensor):
        self.bases = bases

    def __call__(self, seed: int, n: int, role: str = "") -> object:
        return self if role == "first" else Rng(seed, n, role)

    def normal(self, shape: tuple[int, ...]) -> torch.Tensor:
        return self.bases.float().reshape(shape)


def test_a_cell_has_its_items_and_each_way_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bool, tuple[float, float]]] = []

    def denoised(
        x0: torch.Tensor, components: int, rank: int, seed: int, hard: bool = False, times: tuple[float, float] = (0, 0)
    ) -> torch.Tensor:
        asked.append((x0.shape[1], hard, times))
        return recipe.subspaces(recipe.Cell(components, rank, 1), seed)

    monkeypatch.setattr(recipe, "by_denoising", denoised)
    values = recipe.transition(0, ((1, 4),))
    items = [4 + extra for extra in recipe.EXTRA]
    ways = ((False, (0, 0)), (True, (0, 0)), (False, recipe.ALL_TIMES))
    assert asked == [(count, *way) for count in items for way in ways]
    # the stand-in answers the right bases
    assert values[f"{recipe.SOFT}, 1 of 4", "success@0"] == 1
    assert [values[f"{recipe.PRINCIPAL}, 1 of 4", f"success@{extra}"] for extra in recipe.EXTRA] == [0, 0, 1, 1, 1, 1]


def test_an_empty_cluster_keeps_its_basis_and_principal_components_are_those_about_zero() -> None:
    before = torch.eye(6, dtype=F64)[:, :2]
    assert torch.equal(recipe._principal(torch.zeros(0, 6, dtype=F64), 2, before), before)
    items = Rng(0, 30).normal((30, 6), F64) * torch.tensor([1, 1, 1, 5, 5, 1], dtype=F64) + 0.1
    vectors = torch.linalg.eigh(items.mT @ items).eigenvectors[:, -2:]
    found = recipe._principal(items, 2, before)
    assert torch.allclose(found @ found.mT, vectors @ vectors.mT, atol=1e-8)


def test_the_rank_of_a_linear_denoiser_is_that_of_its_gains() -> None:
    values = jacobians.ranks(0, 3)
    problem = digits()
    for level in jacobians.LEVELS:
        snr = math.exp(level)
        variances = torch.linalg.eigvalsh(problem.law.covariance).flip(0)
        gains = (snr * variances / (snr * variances + 1)).square()
        share = gains.cumsum(0) / gains.sum()
        assert values[jacobians.LINEAR, f"rank@{level:g}"] == int((share < 0.99).sum()) + 1


def test_edits_of_one_norm_cost_least_along_the_own_class() -> None:
    """20 items: 13 nats by the first principal component, 0.4 by that of the own class, about 50 at random; the
    Jacobian at logsnr 2 is near the second, and at the paper's time near the first."""
    found = jacobians.edits(0, 20)
    value = {name: found[name, f"nats@{jacobians.EDITED[0]:g}"] for name in jacobians._EDITS}
    assert value[jacobians.OWN] < 1 < 5 < value[jacobians.PRINCIPAL] < value[jacobians.ANY] / 2
    assert found[jacobians.FIRST, "nats@2"] < 2 < value[jacobians.FIRST]


def test_the_answer_to_a_step_is_the_change_of_the_mean() -> None:
    """For a linear denoiser: the first principal component, at every noise level."""
    law = digits().law
    model = wiener(VP(), law.mean, law.covariance)
    x0 = digits().sample(2, Rng(0, 2))
    found = jacobians._answered(model, x0, 0.0, 0)
    first = torch.linalg.eigh(law.covariance).eigenvectors[:, -1]
    assert torch.allclose((found @ first).abs(), torch.ones(2, dtype=F64), atol=1e-6)


def made_up(**changed: list[float]) -> Numbers:
    """Rows of a claim that holds; `changed` replaces the line of an arm."""
    step = [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    lines: dict[str, tuple[str, list[float], tuple[float, ...]]] = {}
    for components, rank in recipe.QUICK:
        for name in (recipe.SOFT, recipe.HARD, recipe.CLUSTERED, recipe.PRINCIPAL):
            lines[f"{name}, {components} of {rank}"] = ("success", step, recipe.EXTRA)
        lines[f"{recipe.NOISY}, {components} of {rank}"] = ("success", [0.0] * 5 + [1.0], recipe.EXTRA)
    for name in (recipe.SOFT, recipe.CLUSTERED):
        lines[f"{name}, at an angle"] = ("success", [0.5, 0.5, 1.0, 1.0], recipe.ANGLES)
    lines[jacobians.EXACT] = ("rank", [10.0, 10.0, 12.0, 20.0], jacobians.LEVELS)
    lines[jacobians.LINEAR] = ("rank", [20.0, 20.0, 30.0, 40.0], jacobians.LEVELS)
    lines[jacobians.FIRST] = ("nats", [5.0, 3.0, 1.0], jacobians.EDITED)
    for name, nats in ((jacobians.PRINCIPAL, 12.0), (jacobians.OWN, 0.5), (jacobians.ANY, 50.0)):
        lines[name] = ("nats", [nats], jacobians.EDITED[:1])
    lines[jacobians.NETWORK] = ("rank", [10.0, 10.0, 12.0, 20.0], jacobians.LEVELS)
    lines[jacobians.FLAT] = ("rank", [20.0, 20.0, 30.0, 40.0], jacobians.LEVELS)
    lines[jacobians._on_pictures(jacobians.FIRST)] = ("change", [0.5, 0.4, 0.3], jacobians.EDITED)
    for name in (jacobians.PRINCIPAL, jacobians.ANY):
        lines[jacobians._on_pictures(name)] = ("change", [0.2], jacobians.EDITED[:1])
    rows = [
        row(arm, "ours", f"{kind}@{count:g}", [value], "x")
        for arm, (kind, line, counts) in lines.items()
        for value, count in zip(changed.get(arm, line), counts, strict=True)
    ]
    return Numbers(rows)


@pytest.mark.parametrize(
    ("arm", "line", "failed"),
    [
        (f"{recipe.SOFT}, 2 of 3", [0.0, 0.0, 0.0, 0.0, 0.0, 0.4], {0, 2, 3, 4}),
        (f"{recipe.SOFT}, 1 of 4", [0.0, 0.0, 0.8, 1.0, 1.0, 1.0], {1}),
        (f"{recipe.CLUSTERED}, 2 of 3", [0.0, 0.0, 0.0, 0.0, 1.0, 1.0], {2}),
        (f"{recipe.HARD}, 1 of 4", [0.0, 0.0, 0.0, 0.0, 1.0, 1.0], {3}),
        (f"{recipe.NOISY}, 1 of 4", [0.0, 0.0, 1.0, 1.0, 1.0, 1.0], {4}),
        (f"{recipe.SOFT}, at an angle", [0.2, 0.5, 1.0, 1.0], {5}),
        (jacobians.LINEAR, [12.0, 20.0, 30.0, 40.0], {6}),
        (jacobians.EXACT, [10.0, 10.0, 12.0, 40.0], {6}),
        (jacobians.FIRST, [9.0, 3.0, 1.0], {7}),
        (jacobians.FIRST, [5.0, 3.0, 7.0], {8}),
        (jacobians.PRINCIPAL, [9.0], {7}),
        (jacobians.NETWORK, [10.0, 10.0, 12.0, 100.0], {9}),
        (jacobians.FLAT, [14.0, 20.0, 30.0, 40.0], {9}),
        (jacobians._on_pictures(jacobians.ANY), [0.49], {10}),
    ],
)
def test_each_check_follows_its_numbers(arm: str, line: list[float], failed: set[int]) -> None:
    assert all(recipe.checks(made_up()).values())
    outcomes = list(recipe.checks(made_up(**{arm: line})).values())
    assert {k for k, true in enumerate(outcomes) if not true} == failed
