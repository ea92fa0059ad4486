"""The classifier behind the features is trained as its docstring says, on what is not held out."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from softmix.evaluate import classifier, classifier_features
from softmix.evaluate import features as room
from softmix.evaluate.extractor import need_images
from softmix.precision import full_fp32
from softmix.rng import permutation


def small(count: int = 50, classes: int = 2):
    labels = torch.arange(count) % classes
    noise = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return noise - labels[:, None, None, None].float() / classes, labels


def by_the_docstring(net: nn.Module, x0, labels, seed: int, batch: int, epochs: int, most: int) -> None:
    """The training in other words: a cosine cycle written out, and AdamW's decay of 0.01."""
    per_epoch = len(x0) // batch
    total = min(most, epochs * per_epoch)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1.0, weight_decay=0.01)
    peak = 0.2 * total - 1
    net.train()
    for step in range(total):
        rising = step <= peak
        share = step / peak if rising else (step - peak) / (total - 1 - peak)
        low, high = (0.002 / 25, 0.002) if rising else (0.002, 0.002 / 25 / 1e4)
        # momentum of the same cycle: from 0.95 down to 0.85, and back
        calm = (
            0.95 - 0.1 * (1 - math.cos(math.pi * share)) / 2
            if rising
            else 0.85 + 0.05 * (1 - math.cos(math.pi * share))
        )
        for group in optimiser.param_groups:
            group["lr"] = low + (high - low) * (1 - math.cos(math.pi * share)) / 2
            group["betas"] = (calm, 0.999)
        order = permutation(seed, len(x0), f"classifier epoch {step // per_epoch}")
        chosen = order[step % per_epoch * batch : (step % per_epoch + 1) * batch]
        optimiser.zero_grad()
        F.cross_entropy(net(x0[chosen]), labels[chosen]).backward()
        optimiser.step()


@pytest.mark.parametrize(("count", "batch", "epochs", "most"), [(33, 8, 5, 600), (33, 8, 5, 10), (33, 128, 12, 600)])
def test_the_training_is_that_of_its_docstring(monkeypatch, device, count, batch, epochs, most):
    monkeypatch.setattr(classifier, "BATCH", batch)
    monkeypatch.setattr(classifier, "EPOCHS", epochs)
    monkeypatch.setattr(classifier, "MOST_STEPS", most)
    x0, labels = small(count)
    ours, theirs = (classifier.build(1, 2, 8, 0).to(device) for _ in range(2))
    before = torch.get_num_threads()
    classifier.fit(ours, x0, labels, 3)
    assert torch.get_num_threads() == before
    assert not ours.training
    with full_fp32(), classifier.repeatable_convolutions():
        by_the_docstring(theirs, x0, labels, 3, min(batch, count), epochs, most)
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_the_numbers_of_the_training():
    assert (classifier.WIDTH, classifier.EPOCHS, classifier.MOST_STEPS) == (64, 20, 600)
    assert (classifier.BATCH, classifier.RATE) == (128, 2e-3)


def test_it_trains_where_gradients_are_switched_off(device):
    x0, labels = small()
    with torch.no_grad():
        net = classifier.build(1, 2, 8, 0).to(device)
        classifier.fit(net, x0, labels, 0)
    assert (net(x0).argmax(1) == labels).double().mean() > 0.9


@pytest.mark.parametrize(("size", "stride"), [(8, 1), (15, 1), (16, 2), (39, 2), (40, 4), (64, 4)])
def test_the_stem_brings_every_size_to_a_grid_of_about_8_to_16(device, size, stride):
    net = classifier.build(3, 5, size, 0).to(device)
    stem = net.body[0]
    assert stem.stride == (stride, stride)
    assert stem.kernel_size == (2 * stride + 1,) * 2
    assert 8 <= stem(torch.zeros(1, 3, size, size)).shape[-1] <= 20
    assert net(torch.zeros(2, 3, size, size)).shape == (2, 5)
    assert net.features(torch.zeros(2, 3, size, size)).shape == (2, 64)


def test_a_tenth_is_held_out_from_the_training_and_gives_the_accuracy(monkeypatch):
    x0, labels = small(57)
    seen = []

    def spy(net, images, names, seed):
        seen.append((images, names, seed))
        net.eval()
        net.head.weight.data.zero_()
        net.head.bias.data.copy_(torch.tensor([1.0, 0.0]))

    monkeypatch.setattr(classifier, "fit", spy)
    features = classifier_features(x0, labels, 2, name="x", seed=4)
    order = permutation(4, 57, "classifier held out")
    ((images, names, seed),) = seen
    assert torch.equal(images, x0[order[5:]].cpu())
    assert torch.equal(names, labels[order[5:]].cpu())
    assert seed == 4
    # it always says 0
    assert features.accuracy == float((labels[order[:5]] == 0).double().mean())


def test_the_file_of_a_cache_keeps_its_name(tmp_path, monkeypatch):
    """A cache of an earlier version is found: its name is a hash of the images, the labels and these settings."""
    monkeypatch.setattr(room, "_train", lambda *_: 0.5)
    labels = torch.arange(20) % 2
    x0 = torch.zeros(20, 1, 8, 8)
    classifier_features(x0, labels, 2, name="x", cache=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["x-cnn-bba86647d9e99e4f.safetensors"]


def test_images_may_leave_their_range_by_rounding_only():
    x0 = torch.full((2, 1, 8, 8), 1.0009)
    assert need_images(x0) is x0
    for bad in (torch.full((2, 1, 8, 8), -1.002), torch.full((2, 1, 8, 8), torch.nan)):
        with pytest.raises(ValueError, match=r"in \[-1, 1\]"):
            need_images(bad)
    for shape in ((0, 1, 8, 8), (3, 8, 8)):
        with pytest.raises(ValueError, match=r"\[N, C, H, W\]"):
            need_images(torch.zeros(shape))
