"""A model whose weights are on an accelerator is asked there, and its samples are measured on the CPU.

The accelerator is torch's "meta" device, which computes nothing: what would compute is replaced by spies.
"""

import sys

import torch
from torch import Tensor, nn

from softmix.data.report import Report
from softmix.data.store import Data, make
from softmix.evaluate import judge
from softmix.evaluate.carried import Carried
from softmix.process import VP

# the package has the function of the same name
JUDGE = sys.modules["softmix.evaluate.judge"]
META = torch.device("meta")


class Far(nn.Module):
    """A denoiser of 8x8 images with two classes, whose only weight is far away."""

    def __init__(self):
        super().__init__()
        self.process, self.shape, self.classes = VP(), (1, 8, 8), 2
        self.weight = nn.Parameter(torch.empty(1, device=META))


def images(count: int, seed: int) -> Data:
    values = torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return make("noise", values, torch.arange(count) % 2, ("a", "b"), Report(count))


def test_samples_are_drawn_and_the_spread_is_measured_where_the_weights_are(monkeypatch):
    asked = []

    def sampled(denoiser: nn.Module, n: int, steps: int, **options: object) -> Tensor:
        asked.append(("sample", options["device"]))
        return images(n, 2).x0()

    def spread(denoiser: nn.Module, x0: Tensor, *, cond: Tensor, m: int) -> Carried:
        asked.append(("carried", x0.device))
        asked.append(("told", cond.device))
        return Carried((0.0,), (1.0,), (1.0,), "residual")

    monkeypatch.setattr(JUDGE, "sample", sampled)
    monkeypatch.setattr(JUDGE, "carried", spread)
    found = judge(Far(), images(40, 0), images(30, 1), title="far", steps=(1,), n=20, features="pixels")
    assert asked == [("sample", META), ("carried", META), ("told", META)]
    assert found.carried is not None and found.carried.total == 1


def test_the_device_is_a_part_of_the_recipe_of_a_row(monkeypatch):
    """Another device rounds otherwise: a row of one is not taken for a row of the other."""
    monkeypatch.setattr(JUDGE, "sample", lambda denoiser, n, steps, **options: images(n, 2).x0())
    monkeypatch.setattr(JUDGE, "carried", lambda *_, **__: Carried((0.0,), (1.0,), (1.0,), "residual"))
    near = Far()
    near.weight = nn.Parameter(torch.zeros(1))
    kept = JUDGE.Kept()
    for model, found in ((Far(), 0), (Far(), 2), (near, 3)):
        judge(model, images(40, 0), images(30, 1), title="far", steps=(1,), n=20, features="pixels", kept=kept)
        assert kept.found == found
