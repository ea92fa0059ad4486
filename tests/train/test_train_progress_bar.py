"""The output of a run: its speed, its pictures, and the weights of a loaded model."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image

from softmix.data import Data, Report
from softmix.data.store import make
from softmix.denoiser import PointHead
from softmix.loss import Square
from softmix.net import MLPSpec, UNetSpec
from softmix.sampler import sample
from softmix.train import (
    Config,
    Denoise,
    Optimiser,
    Run,
    Trainer,
    build,
    checkpoint,
    facts_of,
    load,
    log_of,
    preset,
    training,
)
from softmix.train.pictures import picture

LOOP = sys.modules["softmix.train.loop"]
FAST = Optimiser(rate=0.05, warmup=0)


def points() -> Data:
    return make("points", torch.randn(60, 2, generator=torch.Generator().manual_seed(0)), None, (), Report(60))


def images() -> Data:
    values = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return make("images", values, torch.arange(40) % 4, tuple("abcd"), Report(40))


def small(**changes: object) -> Config:
    base = Config(Denoise(net=MLPSpec(width=8, depth=1), head=PointHead(), loss=Square("v")), batch=12, steps=9)
    return base.but(precision="fp32", optimiser=FAST, **changes)  # type: ignore[arg-type]


def test_the_speed_is_of_items_and_leaves_the_first_five_steps_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by half a second for each step, and by a minute before the fifth."""
    clock = itertools.chain([0.0, 20.0, 40.0, 50.0, 60.0], itertools.count(100.0, 0.5))
    monkeypatch.setattr(LOOP, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    speeds = [step.images_per_second for step in training(points(), small(), tmp_path)]
    assert speeds == [0.0] * 5 + [12 / 0.5] * 4
    assert log_of(tmp_path, "speed.jsonl") == [{"step": 9, "images_per_second": 24.0}]


def test_a_picture_is_sixteen_samples_of_the_first_average_with_classes_in_turn() -> None:
    config = preset("plain", (1, 8, 8)).but(net=UNetSpec(width=8, depth=1), batch=8, steps=20, seed=3)
    config = config.but(classes=True, precision="fp32", optimiser=FAST, ema=(0.1, 0.25))
    one = Trainer(Run(config, facts_of(images(), config)), images(), Path())
    for _ in range(4):
        one.advance()
    shown = picture(one)
    made = {}
    for width in (0.1, 0.25):
        network = build(one.run)["model"].eval().to(one.device)
        network.load_state_dict(one.ema.tensors(width))
        cond = torch.arange(16) % 4
        made[width] = sample(network, 16, 4, sampler=config.task.suited(network), seed=3, cond=cond)
    assert shown is not None and torch.equal(shown, made[0.1])
    assert not torch.equal(shown, made[0.25])


def test_a_run_is_loaded_with_its_first_average_by_default(tmp_path: Path) -> None:
    for _ in training(points(), small(ema=(0.1, 0.25)), tmp_path):
        pass
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None
    held = newest.tensors
    found = {}
    for asked, name in (
        (None, "ema-0.100"),
        ("ema-0.100", "ema-0.100"),
        ("ema-0.250", "ema-0.250"),
        ("model", "model"),
    ):
        model = load(tmp_path, asked)
        found[name] = model.network.state_dict()
        assert model.weights == name and model.step == 9
        assert found[name].keys() == held[name].keys()
        assert all(torch.equal(found[name][key], held[name][key]) for key in held[name])
    for one, other in itertools.combinations(found.values(), 2):
        assert any(not torch.equal(one[key], other[key]) for key in one)


def test_a_fingerprint_is_the_hash_of_names_and_weights(tmp_path: Path) -> None:
    """Pictures name it, and runs that begin with these weights: it may not change from one version to the next."""
    for _ in training(points(), small(), tmp_path):
        pass
    model, digest = load(tmp_path), hashlib.sha256()
    for name in sorted(model.network.state_dict()):
        digest.update(name.encode())
        digest.update(model.network.state_dict()[name].numpy().tobytes())
    assert model.fingerprint == digest.hexdigest()[:12] != load(tmp_path, "model").fingerprint


def test_a_picture_says_which_samples_it_shows(tmp_path: Path) -> None:
    config = preset("plain", (1, 8, 8)).but(net=UNetSpec(width=8, depth=1), batch=8, steps=4, show=2, seed=3)
    for _ in training(images(), config.but(precision="fp32", ema=(0.1, 0.25)), tmp_path):
        pass
    for step in (2, 4):
        with Image.open(tmp_path / "samples" / f"step-{step:06d}.png") as picture:
            said = json.loads(picture.info["softmix"])
        assert said == {"step": step, "steps": 4, "seed": 3, "weights": "ema-0.100"}
