"""`evaluate_model` and `evaluate_samples`: each row holds the measurements of its samples."""

import math
import re
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from softmix.data.report import Report
from softmix.data.store import Data, choose, make
from softmix.evaluate import (
    ReferenceSet,
    SavedRows,
    evaluate_model,
    evaluate_samples,
    features_for,
    latent_spread,
    nearest,
)
from softmix.evaluate.evaluator import STEPS
from softmix.posterior import Normal, Point
from softmix.process import VP
from softmix.sampler import ancestral, ddim, heun, sample


class Toy(nn.Module):
    """A denoiser of 8x8 images with weights, and with classes that shift its posterior."""

    def __init__(self, classes: int = 0, spread: bool = False, shape: tuple[int, ...] = (1, 8, 8)):
        super().__init__()
        self.process, self.shape, self.classes, self.spread = VP(), shape, classes, spread
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.line = nn.Linear(math.prod(shape), math.prod(shape))
        self.labels_seen: list[Tensor | None] = []

    def forward(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None):
        self.labels_seen.append(cond)
        mean = 1.3 * torch.tanh(self.line(xt.flatten(1)).float()).reshape(xt.shape)
        if cond is not None:
            mean = mean + cond.reshape(-1, *[1] * (xt.ndim - 1)) / 4
        return Normal(mean, torch.full_like(mean, 0.04)) if self.spread else Point(mean)


def images(count: int, seed: int, classes: int = 0) -> Data:
    noise = torch.randint(0, 100, (count, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(count) * max(classes, 1) // count
    values = (noise + 50 * labels.reshape(-1, 1, 1, 1)).to(torch.uint8)
    return make("noise", values, labels if classes else None, tuple("abc"[:classes]), Report(count))


def points(count: int, seed: int) -> Data:
    return make("points", torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)), None, (), Report(count))


TRAIN, HELD_OUT = images(70, 0), images(40, 1)


def evaluated(model: nn.Module | None = None, **more: object):
    options = {"title": "toy", "steps": (2,), "n": 30, "sampler": ddim} | more
    with torch.no_grad():
        return evaluate_model(model or Toy(), options.pop("train", TRAIN), options.pop("held_out", HELD_OUT), **options)


def numbers(row) -> dict[str, float]:
    return {key: value for key, value in row.values.items() if key not in ("seconds", "evaluations")}


def expected(x: Tensor, seed: int = 0, features: str = "auto") -> dict[str, float]:
    return ReferenceSet(TRAIN, HELD_OUT, features_for(TRAIN, None, features), seed).compare(x)


def drawn(n: int = 30, steps: int = 2, model: nn.Module | None = None, **more: object) -> Tensor:
    with torch.no_grad():
        return sample(model or Toy(), n, steps, **({"sampler": ddim} | more))


def test_each_row_measures_the_samples_at_its_number_of_steps():
    found = evaluated(steps=(1, 2, 4))
    assert [row.name for row in found.rows] == ["real training items (floor)", "1 step", "2 steps", "4 steps"]
    assert [row.steps for row in found.rows] == [None, 1, 2, 4]
    assert [row.is_floor for row in found.rows] == [True, False, False, False]
    for k, row in zip((1, 2, 4), found.rows[1:], strict=True):
        assert numbers(row) == expected(drawn(steps=k).clamp(-1, 1))
        assert row.values["evaluations"] == k
        assert row.values["seconds"] > 0
        assert row.sampler == "ddim"
    assert drawn(steps=1).abs().max() > 1, "else the clamp would not be seen"


def test_the_floor_is_a_random_choice_of_training_items_as_many_as_samples():
    floor = evaluated().rows[0]
    assert numbers(floor) == expected(TRAIN.x0(choose(70, 30)))
    assert floor.values["nearest"] == 0
    assert floor.sampler == ""


def test_the_floor_of_data_sorted_by_class_has_all_classes():
    """Every second of 360 cut at 200 would be all of the first class and half of the second."""
    train, held_out = images(360, 0, 3), images(90, 1, 3)
    whole = [evaluated(train=train, held_out=held_out, n=n, features="pca").rows[0].values for n in (360, 200, 190)]
    assert whole[1]["frechet"] < 2.5 * whole[0]["frechet"]
    assert whole[2]["frechet"] < 2.5 * whole[0]["frechet"]
    assert whole[2]["recall"] > 0.9


@pytest.mark.parametrize(
    "change", [{"seed": 3}, {"sampler": heun}, {"sampler": partial(ancestral, eta=0.5)}, {"n": 20}]
)
def test_seed_sampler_and_n_decide_the_samples(change):
    row = evaluated(steps=(3,), **change).rows[1]
    options = {key: value for key, value in change.items() if key != "n"}
    x = drawn(change.get("n", 30), 3, **options).clamp(-1, 1)
    assert numbers(row) == expected(x, change.get("seed", 0))
    assert numbers(row) != expected(drawn(30, 3).clamp(-1, 1))
    if "sampler" in change:
        assert row.sampler == {"heun": "heun"}.get(change["sampler"].__class__.__name__, row.sampler)
        assert row.values["evaluations"] == (5 if change["sampler"] is heun else 3)


def test_the_sampler_is_named_with_its_settings():
    found = evaluated(sampler=partial(ancestral, eta=0.5))
    assert found.rows[1].sampler == found.facts["sampler"] == "ancestral, eta 0.5"


def test_precision_is_that_of_the_network():
    rough = evaluated(precision="bf16").rows[1]
    assert numbers(rough) == expected(drawn(precision="bf16").clamp(-1, 1))
    assert numbers(rough) != numbers(evaluated().rows[1])


def test_class_labels_go_round_in_turn():
    model = Toy(classes=3)
    row = evaluated(model).rows[1]
    assert numbers(row) == expected(drawn(model=Toy(classes=3), cond=torch.arange(30) % 3).clamp(-1, 1))
    assert model.labels_seen[0].tolist() == [0, 1, 2] * 10
    plain = Toy()
    evaluated(plain)
    assert plain.labels_seen[0] is None


def test_facts_name_features_counts_sampler_and_seed(device):
    found = evaluated(facts={"data": "noise"}, seed=7)
    assert found.title == "toy"
    assert found.facts == {
        "data": "noise",
        "features": features_for(TRAIN, None).name,
        "samples": "30 against 40 held-out",
        "sampler": "ddim",
        "seed": "7",
    }
    assert evaluated(n=80).facts["floor"].startswith("all 70 training items; 80 were needed")
    assert "floor" not in evaluated(n=70).facts
    labelled = evaluated(train=images(70, 0, 2), held_out=images(40, 1, 2)).facts
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    assert re.fullmatch(
        rf"labels \d+\.\d% of a tenth of the training items correctly, trained on {name}", labelled["classifier"]
    )


def test_copies_in_the_held_out_data_are_reported_and_leave_out_the_ratio():
    values = torch.cat([TRAIN.values[:24], HELD_OUT.values[:16]])
    found = evaluated(held_out=make("h", values, None, (), Report(40)))
    assert found.facts["copies"] == "60.0% of the held-out items are exact copies of training items"
    assert all("nearest_ratio" not in row.values for row in found.rows)


def test_pictures_are_real_ones_samples_and_the_nearest_to_the_last():
    found = evaluated(steps=(1, 4), n=40).pictures
    assert [p.caption for p in found] == ["real", "1 step", "4 steps", "nearest training image to each at 4 steps"]
    real, one, four, near = (p.images for p in found)
    assert torch.equal(real, HELD_OUT.x0(choose(40, 32)))
    torch.testing.assert_close(one, drawn(40, 1).cpu().clamp(-1, 1)[:32])
    torch.testing.assert_close(four, drawn(40, 4).cpu().clamp(-1, 1)[:32])
    assert torch.equal(near, TRAIN.x0(nearest(four, TRAIN.x0()).train_index))


def test_the_latent_spread_is_measured_on_a_random_choice_of_held_out_items():
    held_out = images(300, 1)
    found = evaluated(Toy(spread=True), held_out=held_out).latent_spread
    with torch.no_grad():
        by_hand = latent_spread(Toy(spread=True), held_out.x0(choose(300, 128)), m=8)
    assert found == by_hand
    assert evaluated().latent_spread is None, "a model of points has none"


def test_the_latent_spread_of_a_model_with_classes_uses_the_labels():
    train, held_out = images(70, 0, 3), images(60, 1, 3)
    model = Toy(classes=3, spread=True)
    found = evaluated(model, train=train, held_out=held_out, features="pca").latent_spread
    with torch.no_grad():
        by_hand = latent_spread(Toy(classes=3, spread=True), held_out.x0(), cond=held_out.labels, m=8)
    assert found == by_hand
    unlabelled = make("h", held_out.values, None, (), Report(60))
    evaluated(model, train=train, held_out=unlabelled, features="pca")
    assert model.labels_seen[-1] is None


def test_points_are_neither_clamped_nor_shown():
    train, held_out = points(50, 0), points(40, 1)
    found = evaluated(Toy(shape=(2,)), train=train, held_out=held_out, steps=(1,))
    x = drawn(30, 1, Toy(shape=(2,)))
    assert x.abs().max() > 1
    assert numbers(found.rows[1]) == ReferenceSet(train, held_out, features_for(train, None)).compare(x)
    assert found.pictures == ()


def test_samples_that_are_not_finite_are_counted_and_the_others_measured():
    class Broken(Toy):
        def forward(self, xt, t, cond=None):
            posterior = super().forward(xt, t, cond)
            if len(self.labels_seen) == 1:
                posterior.mean[:3] = torch.nan
            return posterior

    found = evaluated(Broken(), steps=(1, 2))
    assert numbers(found.rows[1]) == {"not_finite": 0.1}
    assert "frechet" in found.rows[2].values
    assert [p.caption for p in found.pictures] == ["real", "2 steps", "nearest training image to each at 2 steps"]
    last = evaluated(Broken(), steps=(1,))
    assert [p.caption for p in last.pictures] == ["real"]


def test_curves_are_passed_on_and_callbacks_are_called():
    rows, looked, messages = [], [], []
    found = evaluated(
        steps=(1, 3),
        curves={"loss": ((1.0, 2.0),)},
        on_row=lambda row: rows.append(row.name),
        look=lambda step: looked.append(step.evaluations),
        on_message=messages.append,
    )
    assert found.curves == {"loss": ((1.0, 2.0),)}
    assert rows == [row.name for row in found.rows]
    assert looked == [1, 1, 2, 3]
    assert [re.sub(r"[\d.]+ s$", "", text) for text in messages] == [
        "30 samples in 1 step: ",
        "30 samples in 3 steps: ",
    ]


def test_the_usual_steps_and_what_is_refused():
    assert STEPS == (1, 2, 4, 8, 16)
    with pytest.raises(ValueError, match="no number of steps"):
        evaluated(steps=())
    with pytest.raises(ValueError, match="7 samples and 40 held-out"):
        evaluated(n=7)


# -- saved rows


def test_saved_rows_are_reused_with_their_pictures(tmp_path):
    first = evaluated(saved=SavedRows(tmp_path / "x.json"), weights="w", steps=(1, 2))
    looked: list[object] = []
    saved = SavedRows(tmp_path / "x.json")
    again = evaluated(saved=saved, weights="w", steps=(1, 2), look=looked.append)
    assert again.rows == first.rows
    assert looked == []
    assert (saved.reused, saved.measured) == (3, 0)
    for ours, theirs in zip(again.pictures, first.pictures, strict=True):
        assert ours.caption == theirs.caption
        torch.testing.assert_close(ours.images, theirs.images)
    more = evaluated(saved=saved, weights="w", steps=(2, 3), look=looked.append)
    assert more.rows[1] == first.rows[2]
    assert len(looked) == 3


@pytest.mark.parametrize(
    ("change", "reused"),
    [
        ({"weights": "other"}, 1),
        ({"sampler": heun}, 1),
        ({"sampler": partial(ddim, eta=0.5)}, 1),
        ({"steps": (3,)}, 1),
        ({"precision": "bf16"}, 1),
        ({"n": 31}, 0),
        ({"seed": 1}, 0),
        ({"features": "pixels"}, 0),
        ({"train": images(70, 5)}, 0),
        ({"held_out": images(40, 6)}, 0),
        ({}, 2),
    ],
)
def test_a_saved_row_is_reused_only_if_everything_that_decides_it_is_equal(change, reused):
    """Weights, sampler, steps and precision do not change the floor."""
    saved = SavedRows()
    evaluated(saved=saved, weights="w")
    evaluated(saved=saved, **({"weights": "w"} | change))
    assert saved.reused == reused


def test_rows_name_the_evaluation():
    seen: list[str] = []

    class Recorder(SavedRows):
        def get_or_measure(self, name, recipe, measure):
            seen.append(name)
            return super().get_or_measure(name, recipe, measure)

    evaluated(saved=Recorder())
    assert seen == ["toy: real training items (floor)", "toy: 2 steps"]


# -- samples of any origin


def test_given_samples_are_one_row_beside_the_floor():
    given, rows = images(35, 9), []
    found = evaluate_samples(given, TRAIN, HELD_OUT, title="given", facts={"data": "noise"}, on_row=rows.append)
    floor, row = found.rows
    assert numbers(floor) == expected(TRAIN.x0(choose(70, 35)))
    assert numbers(row) == expected(given.x0())
    assert rows == [floor, row]
    assert (floor.is_floor, row.is_floor, row.steps) == (True, False, None)
    assert found.latent_spread is None
    assert found.facts == {
        "data": "noise",
        "features": features_for(TRAIN, None).name,
        "samples": "35 against 40 held-out",
        "given samples": f"noise, 35 items, fingerprint {given.fingerprint}",
        "seed": "0",
    }
    assert [p.caption for p in found.pictures] == ["real", "noise", "nearest training image to each given"]
    assert torch.equal(found.pictures[1].images, given.x0(choose(35, 32)))
    assert torch.equal(found.pictures[0].images, HELD_OUT.x0(choose(40, 32)))


def test_given_samples_are_cut_by_a_random_choice_and_seeded():
    given = images(35, 9)
    found = evaluate_samples(given, TRAIN, HELD_OUT, title="given", n=20, seed=4, features="pixels")
    assert numbers(found.rows[1]) == expected(given.x0(choose(35, 20)), 4, "pixels")
    assert numbers(found.rows[0]) == expected(TRAIN.x0(choose(70, 20)), 4, "pixels")
    assert found.facts["samples"] == "20 against 40 held-out"
    assert found.facts["seed"] == "4"
    assert (
        evaluate_samples(images(80, 9), TRAIN, HELD_OUT, title="g").facts["floor"].startswith("all 70 training items")
    )
    assert evaluate_samples(given, TRAIN, HELD_OUT, title="given", n=50).facts["samples"] == "35 against 40 held-out"


def test_saved_rows_of_given_samples_depend_on_the_samples_and_n():
    saved = SavedRows()
    for given, n, found in [
        (images(35, 9), 20, 0),
        (images(35, 9), 20, 2),
        (images(35, 8), 20, 3),
        (images(35, 9), 21, 3),
    ]:
        evaluate_samples(given, TRAIN, HELD_OUT, title="g", n=n, saved=saved)
        assert saved.reused == found


def test_given_points_have_no_pictures_and_another_shape_is_refused():
    assert evaluate_samples(points(20, 3), points(30, 4), points(20, 5), title="p").pictures == ()
    with pytest.raises(ValueError, match=r"points has items of shape \(2,\), and noise of shape \(1, 8, 8\)"):
        evaluate_samples(points(20, 3), TRAIN, HELD_OUT, title="p")


def test_the_cache_folder_is_used(tmp_path):
    train, held_out = images(40, 0, 2), images(20, 1, 2)
    evaluated(train=train, held_out=held_out, cache=tmp_path / "a")
    evaluate_samples(images(20, 2), train, held_out, title="g", cache=tmp_path / "b")
    assert len(list((tmp_path / "a").iterdir())) == len(list((tmp_path / "b").iterdir())) == 1
