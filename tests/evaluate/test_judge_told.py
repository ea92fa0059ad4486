"""What the model is told of held-out items where their classes are not those of the training data."""

import sys

import pytest
import torch
from torch import Tensor, nn

from softmix.data.report import Report
from softmix.data.store import Data, choose, make
from softmix.evaluate import judge
from softmix.evaluate.carried import Carried
from softmix.posterior import Point
from softmix.process import VP

# the package has the function of the same name
JUDGE = sys.modules["softmix.evaluate.judge"]


class Half(nn.Module):
    """A denoiser of 8x8 images with three classes, which does not listen to them."""

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
def test_held_out_items_are_told_by_the_numbers_of_the_training_classes(monkeypatch, classes, number):
    told = []

    def spread(denoiser: nn.Module, x0: Tensor, *, cond: Tensor | None, m: int) -> Carried:
        told.append(cond)
        return Carried((0.0,), (1.0,), (1.0,), "residual")

    monkeypatch.setattr(JUDGE, "carried", spread)
    held_out = images(1, classes)
    judge(Half(), images(0, ("a", "b", "c")), held_out, title="x", steps=(1,), n=20, features="pixels")
    (cond,) = told
    if number is None:
        assert cond is None, "of a class that the model does not know nothing is told"
    else:
        assert torch.equal(cond, torch.tensor(number)[held_out.labels[choose(40, 128)]])
