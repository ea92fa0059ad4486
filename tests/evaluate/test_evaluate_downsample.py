"""Large images are averages before an extractor sees them."""

import pytest
import torch

from softmix.data.report import Report
from softmix.data.store import make
from softmix.evaluate import classifier_features, pixel_features
from softmix.evaluate import downsample as room
from softmix.evaluate.downsample import DownsampledFeatures, downsample, downsampled_items, downsampled_size

pytestmark = pytest.mark.usefixtures("on_device")


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((64, 64), (64, 64)),
        ((8, 3), (8, 3)),
        ((65, 64), (33, 64)),
        ((128, 256), (64, 64)),
        ((129, 100), (43, 50)),
        ((256, 1), (64, 1)),
        ((1000, 640), (63, 64)),
    ],
)
def test_each_side_is_divided_by_the_least_number_that_serves(size, seen):
    assert downsampled_size(*size) == seen


def test_small_images_stay_and_large_ones_are_means():
    x = torch.rand(2, 3, 64, 7)
    assert downsample(x) is x
    large = torch.rand(2, 3, 128, 192)
    by_hand = large.reshape(2, 3, 64, 2, 64, 3).mean((3, 5))
    torch.testing.assert_close(downsample(large), by_hand)


def test_items_are_shrunk_in_parts(monkeypatch):
    values = torch.randint(0, 256, (10, 1, 66, 70), dtype=torch.uint8)
    data = make("x", values, None, (), Report(10))
    chosen = torch.tensor([1, 4, 5, 9])
    whole = downsampled_items(data, chosen)
    assert torch.equal(whole, downsample(data.x0(chosen)))
    monkeypatch.setattr(room, "BATCH", 3)
    assert torch.equal(downsampled_items(data, chosen), whole)


def test_an_extractor_of_small_images_is_given_large_ones(monkeypatch):
    x = torch.rand(9, 1, 70, 66, generator=torch.Generator().manual_seed(0))
    inner = pixel_features(downsample(x))
    features = DownsampledFeatures(inner, (1, 70, 66))
    assert features.name == f"at-35x33-{inner.name}"
    torch.testing.assert_close(features(x), inner(downsample(x)))
    assert features.classify(x) is None
    assert features.accuracy is None
    monkeypatch.setattr(room, "BATCH", 2)
    torch.testing.assert_close(features(x), inner(downsample(x)))
    with pytest.raises(ValueError, match=r"fitted to images of shape \[1, 70, 66\]; these have shape \[1, 66, 70\]"):
        features(x.transpose(2, 3))
    with pytest.raises(ValueError, match=r"in \[-1, 1\]"):
        features(x + 1)


@pytest.mark.parametrize("size", [(65, 8), (256, 256)])
def test_the_classifier_learns_images_up_to_256(size):
    labels = torch.arange(20) % 2
    x0 = (torch.rand(20, 1, *size, generator=torch.Generator().manual_seed(1)) - labels[:, None, None, None]).float()
    features = classifier_features(x0, labels, 2, name="size")
    assert features.classify(x0).argmax(1).eq(labels.cpu()).double().mean() == 1
    assert features(x0).shape == (20, 64)
    with pytest.raises(ValueError, match="8x8 to 256x256"):
        classifier_features(torch.zeros(20, 1, 257, 8), labels, 2, name="size")
