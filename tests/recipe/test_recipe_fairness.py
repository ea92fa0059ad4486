"""The recipe of federated fairness: its people, FedAvg, its classifiers, and its checks."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from softmix.info import disparities
from softmix.recipe import fairness as recipe
from softmix.recipe.frame import Numbers, row

pytest.importorskip("cvxpy")
F64 = torch.float64


def share(of: Tensor) -> float:
    return float(of.double().mean())


def test_the_people_have_their_law() -> None:
    """Shares of 40,000, each with a standard error of at most 0.0035."""
    for split, right in (("iid", 0.5), ("heterogeneous", 0.96), ("synergy", 0.96)):
        people = recipe.People(split, 40_000, 3)
        z, y, s = people.z, people.y, people.s
        assert share(z) == pytest.approx(0.5, abs=0.015)
        assert share(y == z) == pytest.approx(0.7, abs=0.015)
        if split != "synergy":
            assert share(s == z) == pytest.approx(right, abs=0.015)
        if split == "synergy":
            assert share(s == (z ^ y)) == pytest.approx(right, abs=0.015)
        for k, signal in enumerate((2.0 * y - 1, 1.5 * (2.0 * z - 1))):
            off = people.x[:, k] - signal
            assert float(off.mean()) == pytest.approx(0, abs=0.02) and float(off.var()) == pytest.approx(1, abs=0.03)
        first, second = people.of(0), people.of(1)
        assert len(first[1]) + len(second[1]) == 40_000 and torch.equal(first[0], people.x[s == 0])
        # the shares of all cells
        joint = people.joint(1 - y)
        assert float(joint.sum()) == pytest.approx(1) and float(joint.diagonal(dim1=2, dim2=3).sum()) == 0
        assert float(joint[1, 0].sum()) == pytest.approx(share((z == 1) & (s == 0)))
        assert float(joint[:, :, 1].sum()) == pytest.approx(share(y == 1))


def test_common_weights_are_the_mean_by_items() -> None:
    parts = [{"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([5.0, 2.0])}]
    assert recipe.averaged_weights(parts, [3, 1])["w"].tolist() == [2.0, 0.5]


def test_rounds_begin_at_the_common_weights() -> None:
    """Each client adds its own number and the number of the round."""

    def train(shard: float, weights: Mapping[str, Tensor], number: int) -> Mapping[str, Tensor]:
        return {"w": weights["w"] + shard + number}

    found = recipe.federated([1.0, 4.0], [2, 1], {"w": torch.zeros(1)}, 3, train)
    assert float(found["w"]) == pytest.approx(3 * 2 + 0 + 1 + 2)


def test_a_round_of_one_client_is_a_training() -> None:
    people = recipe.People("iid", 300, 0)
    start = recipe._start(0)
    own = recipe._trained((people.x, people.y), start, 0, 0, 3)
    both = recipe.federated([(people.x, people.y)], [300], start, 1, lambda s, w, k: recipe._trained(s, w, k, 0, 3))
    assert all(torch.equal(own[name], both[name]) for name in own)
    assert any(not torch.equal(own[name], start[name]) for name in own)
    again = recipe._trained((people.x, people.y), start, 1, 0, 3)
    assert any(not torch.equal(own[name], again[name]) for name in own)


def test_each_classifier_is_near_the_best_one() -> None:
    """Bayes' rule of the iid split is right for 0.862 of the items: it adds 2 x and log odds of the group."""
    train, test = recipe.People("iid", 3000, 0), recipe.People("iid", 20_000, 1)
    odds = torch.tensor([0.3 / 0.7, 0.7 / 0.3], dtype=F64).log()
    towards = torch.sigmoid(3 * test.x[:, 1])
    bayes = 2 * test.x[:, 0] + ((1 - towards) * 0.3 + towards * 0.7).log() - ((1 - towards) * 0.7 + towards * 0.3).log()
    best = share((bayes > 0).long() == test.y)
    assert odds[1] > 0 and best == pytest.approx(0.862, abs=0.01)
    for name, guess in recipe.classifiers(train, test, 0, 4, 2).items():
        assert best - 0.02 < share(guess == test.y) < best + 0.005, name


def test_clients_alone_use_their_own_classifier() -> None:
    """By group xor class a client knows the class of a group: its own classifier is far better than a common one."""
    train, test = recipe.People("synergy", 3000, 0), recipe.People("synergy", 5000, 1)
    found = {name: share(guess == test.y) for name, guess in recipe.classifiers(train, test, 0, 4, 2).items()}
    assert found[recipe.LOCAL] > 0.9 > found[recipe.POOLED]


def test_a_denoiser_is_a_classifier() -> None:
    """Two rounds of 60 steps: right for 0.80 to 0.84 of 600 new items over three seeds, where 0.862 is the best."""
    train, test = recipe.People("iid", 1000, 0), recipe.People("iid", 600, 1)
    guess = recipe.by_denoiser(train, test, 0, 2, 60, 8)
    assert share(guess == test.y) > 0.7


def test_known_predictions_have_known_parts() -> None:
    """A guess of the group, of clients that are the groups: a redundant bit, which the bounds allow at once."""
    joint = torch.zeros(2, 2, 2, 2, dtype=F64)
    for z in range(2):
        joint[z, z, z, z] = 0.4
        joint[z, z, 1 - z, z] = 0.1
    found = recipe.judged_fairness(joint)
    assert found["accuracy"] == pytest.approx(0.8)
    right = {"global": 1, "local": 0, "unique": 0, "redundant": 1, "masked": 0, "identities": 0}
    assert all(found[name] == pytest.approx(value, abs=1e-5) for name, value in right.items())
    assert found["bound"] == pytest.approx(1, abs=1e-4) and found["bound of its outputs"] == pytest.approx(
        0.8, abs=1e-4
    )
    assert found["bound of its outputs, half"] < 0.79
    # the guess of the group, whatever the client: masked bits are those that the client adds
    masked = torch.zeros(2, 2, 2, 2, dtype=F64)
    for z in range(2):
        for s in range(2):
            masked[z, s, z, z ^ s] = 0.25
    parts = recipe.judged_fairness(masked)
    assert parts["masked"] == pytest.approx(1, abs=1e-5) and disparities(masked) == pytest.approx((0.0, 1.0))


def test_the_program_has_the_known_answers() -> None:
    found = recipe.surfaces(0)
    assert found["error"] < 1e-4 and found["accuracy@0.05 bits"] == pytest.approx(0.6309, abs=1e-4)


def made_up(**changed: float) -> Numbers:
    """Rows of a claim that holds; `changed` replaces a number."""
    numbers: dict[tuple[str, str], float] = {
        (recipe.EXACT, "error"): 1e-6,
        (recipe.EXACT, "accuracy@0.05 bits"): 0.6309,
        (recipe.EXACT, "masked: local bits at 0 global"): 1.0,
        (recipe.EXACT, "redundant: global bits at 0 local"): 1.0,
    }
    parts = {"iid": (0.1, 0.0, 0.01), "heterogeneous": (0.0, 0.1, 0.01), "synergy": (0.1, 0.0, 0.3)}
    for name in (recipe.FEDERATED, recipe.POOLED, recipe.LOCAL, recipe.DENOISER):
        for split, values in parts.items():
            more = {"accuracy": 0.85, "identities": 1e-9, "bound": 0.9, "bound of its outputs": 0.85}
            more |= {"bound of its outputs, half": 0.8, **dict(zip(recipe.PARTS, values, strict=True))}
            numbers |= {(name, f"{split}: {metric}"): value for metric, value in more.items()}
    rows = {key: changed.get("/".join(key), value) for key, value in numbers.items()}
    return Numbers([row(name, "ours", metric, [value], "x") for (name, metric), value in rows.items()])


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({}, None),
        ({f"{recipe.EXACT}/error": 0.1}, "the program has the known answers"),
        ({f"{recipe.EXACT}/accuracy@0.05 bits": 0.7}, "the program has the known answers"),
        ({f"{recipe.EXACT}/masked: local bits at 0 global": 0.1}, "no disparity over all clients"),
        (
            {f"{recipe.FEDERATED}/iid: redundant": 0.5, f"{recipe.DENOISER}/iid: redundant": 0.5},
            "FedAvg on clients of one",
        ),
        (
            {f"{recipe.FEDERATED}/heterogeneous: unique": 0.5, f"{recipe.DENOISER}/heterogeneous: unique": 0.5},
            "on clients of mostly",
        ),
        (
            {f"{recipe.FEDERATED}/synergy: unique": 0.5, f"{recipe.DENOISER}/synergy: unique": 0.5},
            "on clients by group xor",
        ),
        ({f"{recipe.LOCAL}/synergy: identities": 0.1}, "its parts add up"),
        ({f"{recipe.LOCAL}/iid: bound": 0.5}, "no model is above"),
        ({f"{recipe.DENOISER}/iid: bound of its outputs": 0.5}, "no model is above"),
        (
            {f"{recipe.FEDERATED}/{split}: bound of its outputs, half": 0.849 for split in recipe.SPLITS},
            "half of the disparities",
        ),
        ({f"{recipe.FEDERATED}/{split}: bound": 1.0 for split in recipe.SPLITS}, "the bound on all strategies"),
        ({f"{recipe.POOLED}/iid: accuracy": 0.8}, "one training on all items"),
        ({f"{recipe.DENOISER}/iid: accuracy": 0.8}, "a class-conditional denoiser"),
        ({f"{recipe.DENOISER}/iid: masked": 0.8}, "a class-conditional denoiser"),
    ],
)
def test_each_check_reads_its_numbers(changed: dict[str, float], failed: str | None) -> None:
    outcomes = recipe.checks(made_up(**changed))
    wrong = [sentence for sentence, holds in outcomes.items() if not holds]
    assert (wrong == []) if failed is None else (len(wrong) == 1 and wrong[0].startswith(failed))
