"""The recipe of REPA: its count of operations, its equal computation, its probe, and its checks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from softmix.denoiser import Network, PointHead
from softmix.loss import Align, RandomEncoder
from softmix.net import DiTSpec
from softmix.process import Flow
from softmix.recipe import repa as recipe
from softmix.recipe.frame import Numbers, row
from softmix.rng import Rng

DATA = "digits, 8 x 8"
TINY = {"images": 128, "encoder_images": 256, "n": 16, "features": "pca"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipe.DATA_SETS, DATA, ("digits", None, DiTSpec(width=16, depth=2, patch=2)))


def test_the_operations_of_the_alignment_are_those_of_its_layers() -> None:
    sizes = recipe._Sizes(128, 256, 16)
    with_it, without = (
        recipe.operations(recipe._trainer(recipe._config(recipe.ROWS[name], DATA, 0, 2, Path(), sizes)[0], DATA))
        for name in (recipe.RANDOM, recipe.PLAIN)
    )
    batch, tokens, width, channels = 64, 16, recipe.WIDTH, 2 * recipe.WIDTH
    # forward, and two products of the gradient
    projector = 3 * batch * tokens * (16 * 256 + 256 * 256 + 256 * channels)
    # without a gradient: 8 x 8 places, then 4 x 4
    encoder = batch * (64 * width * 9 + 16 * channels * width * 9 + 2 * 16 * channels * channels * 9)
    # rows and columns of the grid of features, each 4 x 4
    grid = 2 * batch * channels * 4 * 4 * 4
    assert with_it - without == projector + encoder + grid


def test_the_longer_baseline_has_the_computation_of_the_aligned_one() -> None:
    ours, longer, plain = (
        recipe.measure(name, DATA, 0, **TINY)  # type: ignore[arg-type]
        for name in (recipe.OURS, recipe.LONGER, recipe.PLAIN)
    )
    # whole steps, of which a plain training has two
    assert ours["work"] > 1.2 and abs(longer["work"] - ours["work"]) <= 0.25
    assert plain["work"] == 1.0 and plain["distance"] != ours["distance"]
    assert recipe.measure(recipe.IDLE, DATA, 0, **TINY) | {"work": 1.0} == plain  # type: ignore[arg-type]


def test_each_row_has_its_encoder(tmp_path: Path) -> None:
    sizes, x0 = recipe._Sizes(128, 256, 16), Rng(0, 2).normal((2, 1, 8, 8))
    features = {}
    for name in (recipe.OURS, recipe.RANDOM, recipe.CLASSES):
        config, before = recipe._config(recipe.ROWS[name], DATA, 0, 2, tmp_path, sizes)
        loss = config.task.loss  # type: ignore[union-attr]
        assert isinstance(loss, Align) and loss.weight == 0.5 and (before > 0) == (name != recipe.RANDOM)
        features[name] = loss.encoder.build((1, 8, 8))(x0)
    assert torch.equal(features[recipe.RANDOM], RandomEncoder(recipe.WIDTH, 0).build((1, 8, 8))(x0))
    assert not torch.allclose(features[recipe.OURS], features[recipe.CLASSES])


def test_the_probe_finds_classes_and_does_not_invent_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(known: bool) -> None:
        def states(network: Network, images: object, seed: int) -> tuple[Tensor, Tensor]:
            count = len(images)  # type: ignore[arg-type]
            labels = Rng(1, count, "labels").integers(10, (count,))
            noise = Rng(2, count, "noise").normal((count, 12), torch.float64)
            mean = torch.eye(10, 12, dtype=torch.float64)[labels]
            return noise + (20 * mean if known else 0), labels

        monkeypatch.setattr(recipe, "_hidden", states)

    network = Network(Flow(), DiTSpec(width=16, depth=2, patch=2), PointHead(), (1, 8, 8))
    hidden(True)
    assert recipe.probe(network, DATA, 0) == 1.0
    hidden(False)
    # 360 guesses among 10 classes
    assert recipe.probe(network, DATA, 0) < 0.2


def test_the_probed_state_is_the_mean_of_the_aligned_tokens() -> None:
    network = Network(Flow(), DiTSpec(width=16, depth=3, patch=2), PointHead(), (1, 8, 8))
    images = recipe._sets(DATA)[1]
    h, labels = recipe._hidden(network, images, 5)
    assert h.shape == (360, 16) and images.labels is not None and torch.equal(labels, images.labels)
    noised = Flow().noise(images.x0(slice(7, 9)), recipe.PROBE_AT, Rng(5, range(7, 9), "probe"))
    side = network.with_side(noised.xt, noised.t, hidden=(recipe.BLOCK - 1,))[1]
    right = side.hidden[recipe.BLOCK - 1].mean(1).double()
    assert torch.allclose(h[7:9], right, atol=1e-6)


def named(name: str) -> str:
    return recipe.named(name, DATA)


def numbers(**changes: float) -> Numbers:
    """A world in which the claim holds."""
    values = {recipe.PLAIN: 2.0, recipe.LONGER: 1.8, recipe.OURS: 1.0, recipe.SOONER: 1.2, recipe.RANDOM: 1.9}
    values |= {recipe.CLASSES: 1.1, recipe.IDLE: 2.0, recipe.SHORTER: 2.2} | {
        getattr(recipe, name): each for name, each in changes.items()
    }
    rows = []
    for name, value in values.items():
        for metric in ("distance", "frechet"):
            rows.append(row(named(name), recipe.ROWS[name].role, metric, [value - 0.1, value + 0.1], DATA))
        rows += [
            row(named(name), "ours", "work", [1.5], DATA),
            row(named(name), "ours", "probe %", [100 - value], DATA),
        ]
    return Numbers(rows)


def test_the_checks_hold_in_a_world_in_which_the_claim_holds() -> None:
    assert all(recipe.checks(numbers()).values()) and len(recipe.checks(numbers())) == 7


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({"OURS": 1.7, "SOONER": 1.2}, [0, 1, 3, 4]),
        ({"LONGER": 1.2}, [1]),
        ({"SOONER": 2.1}, [2]),
        ({"SHORTER": 1.5}, [2]),
        ({"RANDOM": 1.1}, [0]),
        ({"IDLE": 2.01}, [6]),
    ],
)
def test_each_check_fails_where_its_sentence_is_wrong(changed: dict[str, float], failed: list[int]) -> None:
    found = list(recipe.checks(numbers(**changed)).values())
    assert [k for k, holds in enumerate(found) if not holds] == failed


def test_the_probes_are_compared() -> None:
    value = numbers()
    value._rows[named(recipe.OURS), "probe %"] = row(named(recipe.OURS), "ours", "probe %", [97.0], DATA)
    value._rows[named(recipe.PLAIN), "probe %"] = row(named(recipe.PLAIN), "ours", "probe %", [98.0], DATA)
    assert [k for k, holds in enumerate(recipe.checks(value).values()) if not holds] == [5]


def test_without_the_row_of_weight_0_there_is_no_check_of_it() -> None:
    value = numbers()
    rows = [each for key, each in value._rows.items() if key[0] != named(recipe.IDLE)]
    assert len(recipe.checks(Numbers(rows))) == 6
