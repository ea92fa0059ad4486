"""Training on torch's "meta" device. It computes nothing, and refuses a tensor that is still on the CPU."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from softmix.data import Data, Report
from softmix.data.store import make
from softmix.net import UNetSpec
from softmix.train import Config, Run, Trainer, facts_of, preset, training
from softmix.train.pictures import picture

META = torch.device("meta")
TRAINER = sys.modules["softmix.train.trainer"]
# "meta" has no answer to two questions. meanflow asks which items have two times. imm moves its draws to the times of
# the items, which are on the CPU here.
PRESETS = ["smd", "plain", "published", "mixture", "normal", "consistency"]


def images() -> Data:
    values = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return make("images", values, torch.arange(40) % 4, tuple("abcd"), Report(40))


def small(name: str = "smd") -> Config:
    base = preset(name, (1, 8, 8)).but(net=UNetSpec(width=16, depth=1), batch=8, steps=6, save=2)
    return base.but(classes=True, flip=True, precision="fp32")


def trainer(config: Config, out: Path | None = None) -> Trainer:
    return Trainer(Run(config, facts_of(images(), config)), images(), out or Path())


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The accelerator is "meta", for which there is no autocast."""
    monkeypatch.setattr(TRAINER, "find_device", lambda: META)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def test_a_move_that_is_forgotten_is_refused() -> None:
    with pytest.raises(RuntimeError, match="not on the expected device meta"):
        torch.where(torch.ones(3, device=META) > 0, torch.arange(3), -1)


def test_examples_are_on_the_device_of_the_network(elsewhere: None) -> None:
    one = trainer(small())
    noised, rng = one.task.examples(one.source, one.batch(torch.arange(8)), one.run.facts.cond_spec)
    assert noised.cond is not None and noised.cond.label is not None
    assert {one.device for one in (noised.x0, noised.xt, noised.z, noised.cond.label, rng.normal((8, 2)))} == {META}


@pytest.mark.parametrize("name", PRESETS)
def test_a_loss_and_its_gradient_are_on_the_device_of_the_network(name: str, elsewhere: None) -> None:
    one = trainer(small(name))
    for step in [0] if one.task.freeze_at is None else [0, 5]:
        one.step = step
        one.frozen = one.freeze() if step else None
        loss = one.losses(torch.arange(8))
        assert loss.device == META
        gradient = torch.autograd.grad(loss.sum(), one.optimisers.parameters(), allow_unused=True)
        assert {part.device for part in gradient if part is not None} == {META}


@pytest.mark.filterwarnings("ignore:.*is a no-op")
def test_a_checkpoint_is_loaded_onto_the_device_of_the_network(tmp_path: Path, elsewhere: None) -> None:
    with pytest.MonkeyPatch.context() as here:
        here.setattr(TRAINER, "find_device", lambda: torch.device("cpu"))
        for _ in training(images(), small(), tmp_path):
            pass
    one = trainer(small(), tmp_path)
    one.load()
    assert one.step == 6 and isinstance(one.frozen, nn.Module)
    moments = list(one.optimisers.state()["optimizer"].values())
    assert moments
    averages = one.ema.tensors(0.05).values()
    kept = [*one.frozen.parameters(), *one.frozen.buffers()]
    for group in (one.modules.parameters(), moments, averages, kept):
        assert {tensor.device for tensor in group} == {META}
    assert one.losses(torch.arange(8)).device == META


def test_a_picture_is_sampled_on_the_device_of_the_network(tmp_path: Path, elsewhere: None) -> None:
    found = picture(trainer(small(), tmp_path))
    assert found is not None and found.device == META
