"""A model runs on the device of its weights, and its samples are measured on the CPU.

The other device is torch's "meta" device, which computes nothing. Functions that compute are replaced by spies.
"""

import torch
from torch import Tensor, nn

from softmix.data.report import Report
from softmix.data.store import Data, make
from softmix.evaluate import SavedRows, evaluate_model, evaluator
from softmix.evaluate.spread import LatentSpread
from softmix.process import VP

META = torch.device("meta")


class Far(nn.Module):
    """A denoiser of 8x8 images with two classes. Its only weight is on the device meta."""

    def __init__(self):
        super().__init__()
        self.process, self.shape, self.classes = VP(), (1, 8, 8), 2
        self.weight = nn.Parameter(torch.empty(1, device=META))


def images(count: int, seed: int) -> Data:
    values = torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return make("noise", values, torch.arange(count) % 2, ("a", "b"), Report(count))


def test_samples_and_spread_are_computed_on_the_device_of_the_weights(monkeypatch):
    asked = []

    def sampled(denoiser: nn.Module, n: int, steps: int, **options: object) -> Tensor:
        asked.append(("sample", options["device"]))
        return images(n, 2).x0()

    def spread(denoiser: nn.Module, x0: Tensor, *, cond: Tensor, m: int) -> LatentSpread:
        asked.append(("carried", x0.device))
        asked.append(("told", cond.device))
        return LatentSpread((0.0,), (1.0,), (1.0,), "residual")

    monkeypatch.setattr(evaluator, "sample", sampled)
    monkeypatch.setattr(evaluator, "latent_spread", spread)
    found = evaluate_model(Far(), images(40, 0), images(30, 1), title="far", steps=(1,), n=20, features="pixels")
    assert asked == [("sample", META), ("carried", META), ("told", META)]
    assert found.latent_spread is not None and found.latent_spread.total == 1


def test_the_device_is_a_part_of_the_recipe_of_a_row(monkeypatch):
    """Another device rounds otherwise: a row of one is not taken for a row of the other."""
    monkeypatch.setattr(evaluator, "sample", lambda denoiser, n, steps, **options: images(n, 2).x0())
    monkeypatch.setattr(evaluator, "latent_spread", lambda *_, **__: LatentSpread((0.0,), (1.0,), (1.0,), "residual"))
    near = Far()
    near.weight = nn.Parameter(torch.zeros(1))
    kept = SavedRows()
    for model, found in ((Far(), 0), (Far(), 2), (near, 3)):
        evaluate_model(
            model, images(40, 0), images(30, 1), title="far", steps=(1,), n=20, features="pixels", saved=kept
        )
        assert kept.reused == found
