"""`ReferenceSet`: every distance, in features of every kind, and the choice of subsets."""

import pytest
import torch
from torch import Tensor

from softmix.data.report import Report
from softmix.data.store import Data, choose, make
from softmix.evaluate import (
    ReferenceSet,
    classifier_features,
    coverage,
    features_for,
    frechet,
    frechet_error,
    histogram_tv,
    kernel_distance,
    memorisation,
    pixel_features,
    raw_features,
    sliced_wasserstein,
)
from softmix.evaluate import reference as room
from softmix.evaluate.downsample import downsample
from softmix.evaluate.reference import FEATURE_KINDS, labels_in_classes, refusal


def images(count: int, seed: int = 0, shape: tuple[int, ...] = (1, 8, 8), classes: int = 0, sort: bool = True) -> Data:
    """Noise with a brightness that grows with the class; sorted by class, like folders."""
    noise = torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(count) * max(classes, 1) // count if sort else torch.arange(count) % max(classes, 1)
    values = (noise * 90 + labels.reshape(-1, 1, 1, 1) * (160 / max(classes, 1))).to(torch.uint8)
    names = tuple("abcdefghij"[:classes])
    return make("noise", values, labels if classes else None, names, Report(count))


def points(count: int, seed: int = 0) -> Data:
    return make("points", torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)), None, (), Report(count))


def reference_of(train: Data, held_out: Data, **more: object) -> ReferenceSet:
    return ReferenceSet(train, held_out, pixel_features(train.x0()), **more)


def test_every_number_is_that_of_its_own_measure():
    train, held_out, fake = images(60, 0, classes=2), images(30, 1, classes=2), images(40, 2, classes=2).x0()
    features = classifier_features(train.x0(), train.labels, 2, name="noise")
    found = ReferenceSet(train, held_out, features, seed=5).compare(fake)
    real, ours = features(held_out.x0()), features(fake)
    kernel = kernel_distance(real, ours, 5, subsets=15)
    near = memorisation(fake, train.x0(), held_out.x0())
    assert found == {
        "frechet": frechet(real, ours),
        "frechet_se": frechet_error(real, ours, 5, 16),
        "kernel": kernel.value,
        "kernel_se": kernel.standard_error,
        **coverage(real, ours[choose(40, 30)])._asdict(),
        "nearest": near.generated,
        "nearest_ratio": near.ratio,
        "copied": near.copied,
        "class_tv": histogram_tv(features.classify(fake).argmax(1), torch.tensor([0.5, 0.5])),
    }
    assert list(found)[:2] == ["frechet", "frechet_se"]


def test_points_have_the_sliced_distance_in_place_of_classes():
    train, held_out, fake = points(60), points(50, 1), torch.randn(40, 2) + 1
    found = ReferenceSet(train, held_out, raw_features(), seed=3).compare(fake)
    assert found["sliced_wasserstein"] == sliced_wasserstein(held_out.x0(), fake, seed=3)
    assert found["kernel"] == kernel_distance(held_out.x0(), fake, 3, subsets=20).value
    assert "class_tv" not in found
    assert "sliced_wasserstein" not in reference_of(images(20), images(20, 1)).compare(images(20, 2).x0())


def test_shares_of_classes_are_those_of_the_held_out_data_with_and_without_labels():
    train = images(60, 0, classes=2)
    features = classifier_features(train.x0(), train.labels, 2, name="noise")
    held_out = images(40, 1, classes=2)
    uneven = held_out.take(torch.cat([torch.arange(10), torch.arange(20, 40)]), "")
    assert ReferenceSet(train, uneven, features).compare(uneven.x0())["class_tv"] == pytest.approx(0, abs=0.01)
    assert ReferenceSet(train, uneven, features).compare(held_out.x0())["class_tv"] == pytest.approx(1 / 6, abs=0.01)
    unlabelled = make("x", held_out.values, None, (), Report(40))
    assert "class_tv" not in ReferenceSet(train, unlabelled, features).compare(held_out.x0())


def test_classes_are_matched_by_name_and_not_by_number():
    """A test folder without the class a names b and c 0 and 1, which are the training data's 1 and 2."""
    train = images(90, 0, classes=3)
    features = classifier_features(train.x0(), train.labels, 3, name="noise")
    whole = images(60, 1, classes=3)
    held_out = make("t", whole.values[20:], whole.labels[20:] - 1, ("b", "c"), Report(40))
    assert labels_in_classes(train, held_out).tolist() == [1] * 20 + [2] * 20
    expected = histogram_tv(features.classify(held_out.x0()).argmax(1), torch.tensor([0.0, 0.5, 0.5]))
    assert ReferenceSet(train, held_out, features).compare(held_out.x0())["class_tv"] == expected
    assert torch.equal(labels_in_classes(train, whole), whole.labels)
    other = make("t", whole.values, whole.labels, ("a", "b", "z"), Report(60))
    assert labels_in_classes(train, other) is None
    assert "class_tv" not in ReferenceSet(train, other, features).compare(held_out.x0())
    assert labels_in_classes(train, points(3)) is None


def test_subsets_are_a_random_choice_of_both_sides(monkeypatch):
    """Sorted data cut at the front would lose whole classes."""
    monkeypatch.setattr(room, "MOST_BALLS", 100)
    monkeypatch.setattr(room, "MOST_NEAREST", 100)
    train, held_out, fake = images(400, 0, classes=4), images(400, 1, classes=4), images(400, 2, classes=4).x0()
    reference = reference_of(train, held_out)
    chosen = choose(400, 100)
    assert len(reference.held_out_nearest) == 100
    near = memorisation(fake[chosen], train.x0(), held_out.x0(chosen))
    cover = coverage(reference.real_features[chosen], reference.features(fake)[chosen])
    found = reference.compare(fake)
    assert found["nearest_ratio"] == near.ratio
    assert found["nearest"] == near.generated
    assert found["recall"] == cover.recall
    assert found["precision"] == cover.precision > 0.9


def test_the_sizes_of_the_subsets(monkeypatch):
    assert (room.MOST_BALLS, room.MOST_NEAREST, room.MOST_FITTED, room.LEAST) == (5000, 1000, 20000, 8)
    seen = []
    monkeypatch.setattr(
        room, "coverage", lambda real, fake: seen.append((len(real), len(fake))) or coverage(real, fake)
    )
    reference_of(images(20), images(15, 1)).compare(images(40, 2).x0())
    reference_of(images(20), images(15, 1)).compare(images(9, 2).x0())
    assert seen == [(15, 15), (9, 9)]


def test_nearest_distances_are_to_the_training_set_and_relative_to_held_out_data():
    train, held_out = images(50), images(40, 1)
    reference = reference_of(train, held_out)
    copies = reference.compare(train.x0())
    assert (copies["nearest"], copies["nearest_ratio"], copies["copied"]) == (0, 0, 1)
    assert reference.compare(held_out.x0())["nearest_ratio"] == 1
    assert reference.held_out_is_new


def test_half_of_the_held_out_items_copied_from_the_training_set_leaves_the_ratio_out():
    train = images(50)
    held_out = make("h", torch.cat([train.values[:15], images(12, 1).values]), None, (), Report(27))
    reference = reference_of(train, held_out)
    assert not reference.held_out_is_new
    found = reference.compare(images(30, 2).x0())
    assert found["nearest"] > 0
    assert "nearest_ratio" not in found
    assert "copied" not in found
    assert {"frechet", "kernel", "recall"} <= set(found)


@pytest.mark.parametrize("which", ["held out", "training", "samples"])
def test_equal_items_give_finite_numbers(which):
    """Zero spread: of held-out data, training data or samples that are one image over and over."""
    one = lambda data: make("one", data.values[:1].repeat(len(data), 1, 1, 1), None, (), Report(len(data)))  # noqa: E731
    train, held_out, fake = images(30), images(20, 1), images(25, 2)
    train, held_out = one(train) if which == "training" else train, one(held_out) if which == "held out" else held_out
    found = reference_of(train, held_out).compare((one(fake) if which == "samples" else fake).x0())
    assert all(torch.isfinite(torch.tensor(value)) for value in found.values())
    assert found["frechet"] >= 0


@pytest.mark.parametrize(("real", "fake"), [(7, 20), (20, 7)])
def test_too_few_of_either_are_refused(real, fake):
    with pytest.raises(ValueError, match=f"{fake} samples and {real} held-out items: distances need at least 8"):
        reference_of(images(20), images(real, 1)).compare(images(fake, 2).x0())
    reference_of(images(20), images(8, 1)).compare(images(8, 2).x0())


def test_wide_features_are_halved_less_often(monkeypatch):
    seen = []
    monkeypatch.setattr(room, "frechet_error", lambda a, b, seed, splits: seen.append(splits) or 0.0)
    train, held_out, fake = images(20, shape=(1, 16, 17)), images(20, 1, shape=(1, 16, 17)), images(20, 2, (1, 16, 17))
    ReferenceSet(train, held_out, features_for(train, None, "pixels")).compare(fake.x0())
    narrow = images(20, shape=(1, 16, 16))
    ReferenceSet(narrow, narrow, features_for(narrow, None, "pixels")).compare(narrow.x0())
    assert seen == [4, 16]


# -- which features


def test_data_with_labels_get_a_classifier_and_others_principal_components():
    labelled = images(40, classes=2)
    assert features_for(labelled, None).name.startswith("noise-cnn-")
    assert features_for(images(40), None).name.startswith("pca40-")
    assert features_for(images(40, classes=1), None).name.startswith("pca40-")
    assert features_for(labelled, None, "pca").name.startswith("pca40-")
    assert features_for(points(9), None).name == "raw"


def test_the_cache_is_used(tmp_path):
    made = features_for(images(40, classes=2), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert features_for(images(40, classes=2), tmp_path).name == made.name


def test_pixels_are_the_values():
    data = images(12, shape=(3, 4, 5))
    features = features_for(data, None, "pixels")
    assert features.name == "pixels"
    assert torch.equal(features(data.x0()), data.x0().flatten(1).double().cpu())


def test_components_are_fitted_to_a_random_choice(monkeypatch):
    monkeypatch.setattr(room, "MOST_FITTED", 50)
    data = images(200, classes=2)
    assert features_for(data, None, "pca").name == pixel_features(data.x0(choose(200, 50))).name
    assert features_for(data, None, "pca").name != pixel_features(data.x0(slice(0, 50))).name


@pytest.mark.parametrize("shape", [(1, 5, 5), (1, 3, 9), (3, 65, 64), (1, 100, 40), (1, 130, 260)])
@pytest.mark.parametrize("classes", [0, 2])
def test_images_of_any_size_are_measured(shape, classes):
    data, fake = images(24, shape=shape, classes=classes), images(16, 1, shape)
    features = features_for(data, None)
    found = ReferenceSet(data, data, features).compare(fake.x0())
    assert found["frechet"] > 0
    height, width = shape[1:]
    learned = classes == 2 and min(height, width) >= 8 and max(height, width) <= 256
    assert ("cnn" in features.name) == learned
    assert features.name.startswith("at-") == (max(height, width) > 64)


def test_the_name_gives_the_downsampled_size():
    data = images(24, shape=(3, 100, 40), classes=2)
    features = features_for(data, None)
    assert features.name.startswith("at-50x40-noise-cnn-")
    assert features.accuracy is not None
    small = downsample(data.x0())
    inner = classifier_features(small, data.labels, 2, name="noise")
    assert torch.equal(features(data.x0()), inner(small))
    assert torch.equal(features.classify(data.x0()), inner.classify(small))
    assert features.name == f"at-50x40-{inner.name}"
    assert features_for(data, None, "pca").name == f"at-50x40-{pixel_features(small).name}"


@pytest.mark.parametrize(
    ("kind", "data", "says"),
    [
        ("inception", images(9), "the kinds are auto, pixels, pca, classifier"),
        ("pca", points(9), "points are measured as they are"),
        ("classifier", points(9), "points are measured as they are"),
        ("pixels", points(9), "points are measured as they are"),
        ("classifier", images(20), "fewer than two classes"),
        ("classifier", images(20, classes=1), "fewer than two classes"),
        ("classifier", images(20, shape=(1, 7, 20), classes=2), "7x20; a classifier takes 8x8 to 256x256"),
        ("classifier", images(20, shape=(1, 20, 257), classes=2), "20x257; a classifier takes 8x8 to 256x256"),
        ("classifier", images(9, classes=2), "9 items; a classifier needs 10"),
        ("pixels", images(9, shape=(1, 25, 41)), "1,025 values, and up to 1,024"),
    ],
)
def test_unsuitable_features_are_refused(kind, data, says):
    assert says in refusal(data, kind)
    with pytest.raises(ValueError, match="were asked for"):
        features_for(data, None, kind)


def test_suitable_features_are_not_refused():
    assert FEATURE_KINDS == ("auto", "pixels", "pca", "classifier")
    data = images(10, shape=(1, 32, 32), classes=2)
    assert [refusal(data, kind) for kind in FEATURE_KINDS] == [""] * 4
    assert refusal(points(9), "auto") == ""
    assert refusal(images(10, shape=(1, 8, 256), classes=2), "classifier") == ""


def test_distances_are_computed_only_when_used(monkeypatch):
    """Saved rows need no distances."""

    def refuse(*_: Tensor):
        raise AssertionError("computed")

    reference = ReferenceSet(images(20), images(20, 1), refuse)
    assert reference.seed == 0
    monkeypatch.setattr(room, "nearest", refuse)
    with pytest.raises(AssertionError, match="computed"):
        _ = reference.held_out_nearest
