"""The recipe of masked diffusion: its law, its table, its bound of n steps, and its checks."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from softmix.posterior import Categorical
from softmix.process import Masked
from softmix.recipe import masked_diffusion as recipe
from softmix.recipe.frame import Numbers, row
from softmix.sampler import sample

F64 = torch.float64


def test_the_table_answers_as_its_denoiser_does_and_is_made_once_for_each_time() -> None:
    asked: list[float] = []

    class Counting:
        def __call__(self, xt: torch.Tensor, t: torch.Tensor) -> Categorical:
            asked.append(float(t))
            logits = (xt[:, None] + torch.arange(recipe.SYMBOLS)[None, :, None]).double().sin() * float(t)
            return Categorical(logits)

    table, x = recipe.Tabled(Counting()), recipe.rows(recipe.SYMBOLS + 1)[::37]
    for t in (0.5, 0.25, 0.5):
        assert torch.equal(table(x, t).log_probabilities, Counting()(x, torch.tensor(t)).log_probabilities)
    assert asked.count(0.5) == 3 and asked.count(0.25) == 2


def test_the_law_has_sum_one_and_the_distance_of_its_own_rows() -> None:
    assert float(recipe.law().sum()) == pytest.approx(1)
    one = recipe.rows(recipe.SYMBOLS)[[5]].expand(10, -1)
    assert recipe.distance(one) == pytest.approx(1 - float(recipe.law()[5]))


def test_the_bound_of_one_step_is_the_sum_of_the_entropies_of_the_places() -> None:
    clean, total = recipe.rows(recipe.SYMBOLS), 0.0
    for place in range(recipe.LENGTH):
        marginal = torch.stack([recipe.law()[clean[:, place] == k].sum() for k in range(recipe.SYMBOLS)])
        total += float(-(marginal * marginal.log()).sum())
    assert recipe.bound_of_steps(1) == pytest.approx(total / recipe.LENGTH)


def test_the_bound_of_many_steps_falls_to_the_entropy_as_1_over_n() -> None:
    entropy = float(-(recipe.law() * recipe.law().log()).sum()) / recipe.LENGTH
    excess = [recipe.bound_of_steps(n) - entropy for n in (16, 32, 64)]
    orders = [math.log2(a / b) for a, b in pairwise(excess)]
    assert min(excess) > 0 and orders == pytest.approx([1, 1], abs=0.1)


def test_the_posterior_of_places_apart_knows_the_visible_tokens_and_nothing_else() -> None:
    x = torch.tensor([[3, 1, 3, 3, 0], [3, 2, 3, 3, 3]])
    p = recipe.apart(x, 0.5).probabilities
    assert torch.allclose(p[0][:, [0, 2, 3]], p[1][:, [0, 2, 3]])
    assert float(p[0, 1, 1]) == pytest.approx(1) and float(p[1, 2, 1]) == pytest.approx(1)
    assert not torch.allclose(p, recipe.exact()(x, 0.5).probabilities, atol=0.1)


def test_the_learned_network_is_of_the_law_of_its_seed() -> None:
    network = recipe.learned(1, 3)
    assert network.process == Masked(recipe.SYMBOLS)
    x = sample(recipe.Tabled(network), 4, 5)
    assert x.shape == (4, recipe.LENGTH) and int(x.max()) < recipe.SYMBOLS


def made_up(**changed: object) -> Numbers:
    """Rows of a claim that holds; `changed` replaces a line or a number."""
    few = [0.2, 0.1, 0.05, 0.015]
    lines: dict[str, list[float]] = {
        f"{model}, {way}": list(few) for model in (recipe.EXACT, recipe.LEARNED) for way in recipe.WAYS
    }
    for model in (recipe.EXACT, recipe.LEARNED):
        lines[f"{model}, random order, fixed counts"] = [0.1, 0.01, 0.01, 0.01]
        lines[f"{model}, by confidence"] = [0.6] * 4
        lines[f"{model}, by entropy"] = [0.2, 0.01, 0.01, 0.01]
    lines[recipe.APART] = [0.7] * 4
    numbers = {
        (recipe.DRAWS, "tv"): 0.01,
        (recipe.ENTROPY, "nats"): 0.7,
        (f"{recipe.EXACT}, {recipe.BOUND}", "excess"): 0.001,
        (f"{recipe.LEARNED}, {recipe.BOUND}", "excess"): 0.01,
    }
    bound = changed.pop("bound", [0.08, 0.04, 0.02, 0.005])
    numbers |= {(name, "excess"): value for name, value in changed.items() if isinstance(value, float)}  # type: ignore[misc]
    numbers = {key: changed.get(key[0], value) if key[1] == "excess" else value for key, value in numbers.items()}  # type: ignore[misc]
    made = [row(arm, "ours", metric, [value], "x") for (arm, metric), value in numbers.items()]
    for count, value in zip(recipe.COUNTS, bound, strict=True):  # type: ignore[call-overload]
        made.append(row(f"{recipe.EXACT}, {recipe.STEPS}", "baseline", f"excess@{count}", [value], "x"))
    for arm, line in lines.items():
        found = changed.get(arm, line)
        made += [row(arm, "ours", f"tv@{c}", [v], "x") for c, v in zip(recipe.COUNTS, found, strict=True)]  # type: ignore[call-overload]
    return Numbers(made)


@pytest.mark.parametrize(
    ("name", "value", "failed"),
    [
        (f"{recipe.EXACT}, {recipe.BOUND}", 0.01, {0}),
        (f"{recipe.EXACT}, {recipe.BOUND}", -0.01, {0}),
        (f"{recipe.EXACT}, ancestral", [0.2, 0.1, 0.05, 0.03], {0}),
        ("bound", [0.08, 0.04, 0.05, 0.005], {1}),
        ("bound", [0.03, 0.02, 0.01, 0.005], {1}),
        (recipe.APART, [0.7, 0.6, 0.4, 0.1], {2}),
        (f"{recipe.LEARNED}, {recipe.BOUND}", 0.03, {3}),
        (f"{recipe.LEARNED}, {recipe.BOUND}", -0.03, {3}),
        (f"{recipe.LEARNED}, ancestral", [0.2, 0.1, 0.1, 0.1], {4}),
        (f"{recipe.EXACT}, random order, fixed counts", [0.1, 0.2, 0.01, 0.01], {5}),
        (f"{recipe.EXACT}, by confidence", [0.6, 0.6, 0.3, 0.01], {6}),
        (f"{recipe.EXACT}, by entropy", [0.2, 0.1, 0.1, 0.1], {7}),
    ],
)
def test_each_check_follows_its_numbers(name: str, value: object, failed: set[int]) -> None:
    assert all(recipe.checks(made_up()).values())
    outcomes = list(recipe.checks(made_up(**{name: value})).values())
    assert {k for k, true in enumerate(outcomes) if not true} == failed


def test_few_samples_have_every_arm_and_metric() -> None:
    """At a small scale: all arms that have a role, finite numbers, and the law reached at 64 steps only."""
    found = recipe.samples(0, 2000, 2) | recipe.bounds(0, 300, 2)
    arms = {name for name, _ in found}
    assert arms == set(recipe._ROLES_OF_SAMPLES) | set(recipe._ROLES_OF_BOUNDS)
    assert all(math.isfinite(value) for value in found.values())
    own = [found[f"{recipe.EXACT}, ancestral", f"tv@{count}"] for count in recipe.COUNTS]
    assert own[0] > 0.15 and own[-1] < found[recipe.DRAWS, "tv"] + 0.05
    assert found[f"{recipe.LEARNED}, ancestral", "tv@64"] > 0.3
