"""The class labels of held-out items in the class numbers of the training data."""

import pytest
import torch
from torch import Tensor, nn

from softmix.data.report import Report
from softmix.data.store import Data, choose, make
from softmix.evaluate import evaluate_model, evaluator
from softmix.evaluate.spread import LatentSpread
from softmix.posterior import Point
from softmix.process import VP


class Half(nn.Module):
    """A denoiser of 8x8 images with three classes. It ignores the labels."""

    def __init__(self):
        super().__init__()
        self.process, self.shape, self.classes = VP(), (1, 8, 8), 3

    def forward(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Point:
        return Point(xt / 2)


def images(seed: int, classes: tuple[str, ...]) -> Data:
    values = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return make("noise", values, torch.arange(40) % len(classes), classes, Report(40))


@pytest.mark.parametrize(
    ("classes", "number"),
    [(("a", "b", "c"), [0, 1, 2]), (("c", "a"), [2, 0]), (("b",), [1]), (("a", "stranger"), None)],
)
def test_held_out_labels_use_the_class_numbers_of_the_training_data(monkeypatch, classes, number):
    conditions = []

    def spread(denoiser: nn.Module, x0: Tensor, *, cond: Tensor | None, m: int) -> LatentSpread:
        conditions.append(cond)
        return LatentSpread((0.0,), (1.0,), (1.0,), "residual")

    monkeypatch.setattr(evaluator, "latent_spread", spread)
    held_out = images(1, classes)
    evaluate_model(Half(), images(0, ("a", "b", "c")), held_out, title="x", steps=(1,), n=20, features="pixels")
    (cond,) = conditions
    if number is None:
        assert cond is None, "a class is unknown to the model"
    else:
        assert torch.equal(cond.cpu(), torch.tensor(number)[held_out.labels[choose(40, 128)]].cpu())
