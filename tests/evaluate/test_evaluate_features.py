"""Extractors are reproducible, their names hold the hash of their weights, bad caches heal."""

import pickle
import re
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from softmix.evaluate import Features, classifier_features, frechet, pixel_features, raw_features
from softmix.evaluate import features as room
from softmix.evaluate.files import read_weights, weights_hash, write_weights


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.from_numpy(data.images).float()[:, None] / 8 - 1, torch.from_numpy(data.target)


@pytest.fixture(scope="module")
def learned(digits) -> Features:
    return classifier_features(*digits, 10, name="digits")


@pytest.fixture
def small() -> tuple[Tensor, Tensor]:
    """Bright and dark noise: 60 images in colour, wider than high."""
    labels = torch.arange(60) % 2
    noise = torch.rand(60, 3, 8, 11, generator=torch.Generator().manual_seed(0))
    return noise - labels[:, None, None, None].float(), labels


def train(small: tuple[Tensor, Tensor], cache: Path | None = None, seed: int = 0) -> Features:
    return classifier_features(*small, 2, name="small", seed=seed, cache=cache)


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_):
        raise AssertionError("it trained instead of reading the cache")

    return lambda: monkeypatch.setattr(room, "_train", refuse)


def test_digits_are_told_apart(digits, learned):
    assert learned.accuracy > 0.95
    logits = learned.classify(digits[0])
    assert logits.shape == (1797, 10)
    assert (logits.argmax(1) == digits[1]).double().mean() > 0.97


def test_features_are_float64_rows_and_the_batch_does_not_matter(digits, learned, monkeypatch):
    features = learned(digits[0][:300])
    assert features.dtype == torch.float64
    assert features.shape == (300, 64)
    assert not features.requires_grad
    single = torch.cat([learned(digits[0][i : i + 1]) for i in range(5)])
    torch.testing.assert_close(single, features[:5], rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(room, "BATCH", 37)
    torch.testing.assert_close(learned(digits[0][:300]), features, rtol=1e-4, atol=1e-5)


def test_one_pixel_of_shift_and_a_lost_class_show_above_the_floor(digits, learned):
    x0, labels = digits
    half, other = learned(x0[::2]), x0[1::2]
    floor = frechet(half, learned(other))
    assert frechet(half, learned(other.roll(1, 3))) > 4 * floor
    assert frechet(half, learned(other[labels[1::2] != 3])) > 2 * floor


def test_two_trainings_agree_to_the_bit_whatever_torchs_seed_and_threads(small):
    torch.manual_seed(1)
    first = train(small)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    torch.set_num_threads(2)
    second = train(small)
    assert torch.get_num_threads() == 2
    assert first.name == second.name
    assert torch.equal(first(small[0]), second(small[0]))
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "training must leave torch's own random state alone"


def test_the_name_ends_with_the_hash_of_the_weights(small):
    first, second = train(small), train(small, seed=1)
    assert re.fullmatch(r"small-cnn-[0-9a-f]{6}", first.name)
    assert first.name.endswith(weights_hash(first.net.state_dict())[:6])
    assert first.name != second.name
    with torch.no_grad():
        first.net.head.bias[0] += 1e-6
    assert not first.name.endswith(weights_hash(first.net.state_dict())[:6])


def test_the_cache_is_read_and_gives_the_same_bits(small, tmp_path, no_training):
    made = train(small, tmp_path)
    no_training()
    read = train(small, tmp_path)
    assert (read.name, read.accuracy) == (made.name, made.accuracy)
    assert torch.equal(read(small[0]), made(small[0]))
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_the_cache_is_not_used_for_other_data_labels_or_seeds(small, tmp_path):
    train(small, tmp_path)
    x0, labels = small
    changed = x0.clone()
    changed[0, 0, 0, 0] += 0.001
    for data, seed in [((changed, labels), 0), ((x0, labels.flip(0)), 0), (small, 1)]:
        train(data, tmp_path, seed)
    assert len(list(tmp_path.iterdir())) == 4


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit(content: bytes) -> bytes:
    return content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:]


def empty(content: bytes) -> bytes:
    return b""


def pickled(content: bytes) -> bytes:
    return pickle.dumps(Trap())


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a pickle was executed",)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, pickled])
def test_a_damaged_cache_is_named_and_trained_anew(small, tmp_path, no_training, damage):
    made = train(small, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=re.escape(str(path))):
        healed = train(small, tmp_path)
    assert torch.equal(healed(small[0]), made(small[0]))
    no_training()
    assert train(small, tmp_path).name == made.name


def test_a_whole_file_of_another_network_is_trained_anew_from_the_right_start(small, tmp_path):
    made = train(small, tmp_path)
    (path,) = tmp_path.iterdir()
    weights, notes = read_weights(path)
    weights = {key: torch.zeros_like(value) for key, value in weights.items()}
    write_weights(path, weights | {"head.bias": torch.zeros(7)}, {"accuracy": notes["accuracy"]})
    with pytest.warns(UserWarning, match="trained again"):
        healed = train(small, tmp_path)
    assert healed.name == made.name


def test_a_folder_that_cannot_be_written_costs_a_warning_only(small, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(UserWarning, match="could not be saved"):
        assert train(small, tmp_path / "file").name == train(small).name


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (33, 64)])
def test_every_size_from_8_to_64_is_learned(size):
    labels = torch.arange(40) % 2
    x0 = (torch.rand(40, 1, *size, generator=torch.Generator().manual_seed(1)) - labels[:, None, None, None]).float()
    features = classifier_features(x0, labels, 2, name="size")
    assert features.classify(x0).argmax(1).eq(labels.cpu()).double().mean() == 1
    assert features(x0).shape == (40, 64)


def test_pixel_features_keep_distances_and_carry_their_hash(digits):
    x0 = digits[0]
    features = pixel_features(x0)
    # 64 components of 64 pixels are a rotation: distances between images stay.
    few, flat = features(x0[:9]), x0[:9].flatten(1).double()
    torch.testing.assert_close(torch.cdist(few, few), torch.cdist(flat, flat), rtol=1e-4, atol=1e-4)
    assert re.fullmatch(r"pca64-[0-9a-f]{6}", features.name)
    assert pixel_features(x0).name == features.name != pixel_features(x0[:-1]).name
    assert features.classify(x0) is None
    assert features.accuracy is None


def test_fewer_components_are_those_of_most_variance(digits):
    x0 = digits[0]
    kept = pixel_features(x0, 10)(x0)
    singular = torch.linalg.svdvals(x0.flatten(1).double() - x0.flatten(1).double().mean(0))
    torch.testing.assert_close(kept.square().sum(0).sqrt(), singular[:10], rtol=1e-3, atol=0)
    assert pixel_features(x0[:7]).name.startswith("pca7-")


def test_raw_features_are_the_points():
    x = torch.randn(5, 2)
    features = raw_features()
    assert features.name == "raw"
    assert torch.equal(features(x), x.double().cpu())


def test_what_cannot_be_used_is_named(small):
    x0, labels = small
    with pytest.raises(ValueError, match=r"in \[-1, 1\]"):
        classifier_features(x0 * 127, labels, 2, name="x")
    with pytest.raises(ValueError, match="7x11"):
        classifier_features(x0[:, :, 1:], labels, 2, name="x")
    with pytest.raises(ValueError, match="at least 10"):
        classifier_features(x0[:9], labels[:9], 2, name="x")
    with pytest.raises(ValueError, match="labels run from 0 to 1"):
        classifier_features(x0, labels, 1, name="x")
    with pytest.raises(ValueError, match="integers of shape"):
        classifier_features(x0, labels[:-1], 2, name="x")
    with pytest.raises(ValueError, match="trained on images of shape"):
        train(small)(x0[:, :, :, :8])
    nan = x0.clone()
    nan[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        pixel_features(x0)(nan)
