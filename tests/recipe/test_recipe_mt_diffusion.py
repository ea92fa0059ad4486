"""The recipe of MT-Diffusion: its data, its measures, its trainings and its checks."""

from __future__ import annotations

import pytest
import torch

from softmix.config import from_json, to_json
from softmix.data import load
from softmix.recipe import mt_diffusion as recipe
from softmix.recipe.frame import Numbers, row
from softmix.recipe.images import base
from softmix.rng import Rng
from softmix.train import Config, DenoiseModalities


def test_the_training_points_have_the_law_of_the_problem() -> None:
    """Means of each label to five standard errors."""
    data = recipe.source(3, 0, 20_000)
    x0, cond = data.batch(torch.arange(20_000), Rng(0, 20_000))
    assert cond is not None and cond.label is not None and cond.value is not None
    both, law = torch.cat([x0, cond.value], 1).double(), recipe.problem(3).law
    for k in range(3):
        own = both[cond.label == k]
        sd = law.covariances[k].diagonal().sqrt() / len(own) ** 0.5
        assert bool(((own.mean(0) - law.means[k]).abs() < 5 * sd).all())
    assert recipe.source(1, 0, 100).cond.labels == ()


def test_shuffled_classes_keep_the_images_and_their_counts() -> None:
    data = load("digits")
    mixed = recipe.shuffled(data)
    assert torch.equal(mixed.values, data.values) and data.labels is not None and mixed.labels is not None
    assert torch.equal(mixed.labels.bincount(), data.labels.bincount())
    assert float((mixed.labels == data.labels).double().mean()) < 0.15 and mixed.fingerprint != data.fingerprint


@pytest.mark.parametrize("name", recipe.TRAININGS)
def test_each_training_can_be_saved(name: str) -> None:
    shape = (1, 14, 14)
    config = recipe.training_of(name).change(base(shape, recipe.together(0.5, 0.1).net, 640, 0), shape)
    assert from_json(Config, to_json(config)) == config
    joint = isinstance(config.task, DenoiseModalities)
    assert joint == (name not in (recipe.PLAIN, recipe.CLASSED))
    if joint:
        assert config.task.label is not None  # type: ignore[union-attr]
        assert (config.task.label.scale == 0) == (name == recipe.UNLEARNED)  # type: ignore[union-attr]


def test_the_decoder_of_a_row_alone_learns() -> None:
    """After 60 steps the decoder of x has learned, and that of the values has not, if x alone learns."""
    known = recipe.problem(1)
    model, own = recipe.learned(1, 0, 60, "x")
    found, right = recipe.errors(model, own, 0, 2000), recipe.errors(known.denoiser(), known, 0, 2000)
    assert found["x"][2] < 2 * right["x"][2] and found["value"][2] > 3 * right["value"][2]


def test_the_laws_of_samples_are_measured() -> None:
    found = recipe.law_of_samples(0, 500, 16)
    assert found[recipe.GIVEN, "named"] > 0.98 and 0.2 < found[recipe.ANY, "named"] < 0.4
    assert found[recipe.GIVEN, "x distance"] < 0.02 < found[recipe.ANY, "x distance"]
    assert found[recipe.EXACT, "joint distance"] > found[recipe.DRAWS, "joint distance"]
    assert {name for name, _ in found} == set(recipe._SAMPLES)


def made_up(**changed: float) -> Numbers:
    """Rows of a claim that holds; `changed` replaces a number."""
    numbers: dict[tuple[str, str], float] = {}
    for data, names in ((recipe.GAUSSIAN, ("x %", "value %")), (recipe.POINTS, ("x %", "value %", "class nats"))):
        for short, arm in (("together", recipe.TOGETHER), ("apart", recipe.APART)):
            for each in names:
                start = 0.01 if "nats" in each else 1.0
                numbers[recipe.named(arm, data), f"excess {each}"] = changed.get(f"{short} {data} {each}", start)
    for arm in (recipe.EXACT, recipe.DRAWS):
        numbers |= {(arm, "class TV"): 0.01, (arm, "x distance"): 0.001, (arm, "joint distance"): 0.001}
    numbers |= {(recipe.GIVEN, "named"): 1.0, (recipe.ANY, "named"): 0.3}
    for name in recipe.TRAININGS:
        numbers[name, "frechet@16"] = 2.0
        if name != recipe.PLAIN:
            chance = name in (recipe.SHUFFLED, recipe.UNLEARNED)
            numbers[name, "accuracy@16"] = 0.1 if chance else 0.95
    numbers |= {
        (name, metric): changed[f"{name}/{metric}"] for name, metric in numbers if f"{name}/{metric}" in changed
    }
    return Numbers([row(name, "ours", metric, [value, value], "x") for (name, metric), value in numbers.items()])


def test_a_claim_that_holds_passes_every_check() -> None:
    found = recipe.checks(made_up())
    assert len(found) == 13 and all(found.values())


@pytest.mark.parametrize(
    ("change", "value", "failed"),
    [
        (f"together {recipe.GAUSSIAN} value %", 2.5, ["every decoder is within", "a network for each decoder"]),
        (f"together {recipe.POINTS} x %", 1.9, []),
        (f"together {recipe.POINTS} class nats", 0.03, ["every decoder is within", "a network for each decoder"]),
        (f"apart {recipe.POINTS} x %", -0.1, ["a network for each decoder"]),
        (f"{recipe.EXACT}/class TV", 0.05, ["with exact decoders"]),
        (f"{recipe.EXACT}/x distance", 0.01, ["with exact decoders"]),
        (f"{recipe.EXACT}/joint distance", 0.006, ["x and values together"]),
        (f"{recipe.GIVEN}/named", 0.9, ["a given label"]),
        (f"{recipe.SHUFFLED}/accuracy@16", 0.3, ["shuffled classes agree"]),
        (f"{recipe.SHUFFLED}/frechet@16", 3.0, ["and leave the images"]),
        (f"{recipe.UNLEARNED}/accuracy@16", 0.5, ["a decoder that does not learn"]),
        (f"{recipe.CLASSED}/accuracy@16", 0.99, ["they agree as often"]),
        (f"{recipe.PLAIN}/frechet@16", 1.0, ["the images are as good"]),
    ],
)
def test_each_check_can_fail(change: str, value: float, failed: list[str]) -> None:
    found = [name for name, holds in recipe.checks(made_up(**{change: value})).items() if not holds]
    assert len(found) == len(failed) and all(
        any(part in name for name in found) for part in failed
    )  # fmt: skip
