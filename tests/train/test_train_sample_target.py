"""The task of sampling a density: runs on a source without items, their results, and their refusals."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import softmix
from softmix.config import from_json, to_json
from softmix.data import DataError, Target, load
from softmix.denoiser import Control
from softmix.net import MLPSpec
from softmix.oracle import TARGETS, known_target, ring_target
from softmix.process import StationaryOU
from softmix.rng import Rng
from softmix.sampler import ancestral, controlled_path, importance_samples, path_grid, sample, with_fixed_parameters
from softmix.sampler.weighted import log_normal
from softmix.train import (
    Config,
    Denoise,
    Optimiser,
    Run,
    RunError,
    SampleTarget,
    TargetError,
    TargetSampler,
    Trainer,
    TrainingError,
    data_of,
    facts_of,
    preset_for_target,
    training,
)
from softmix.train.feed import NoItemsFeed, feed_for

SPEC = MLPSpec(width=16, depth=1, frequencies=0)
TASK = SampleTarget(StationaryOU(1.2), SPEC, path=6)


def off_centre(x: Tensor) -> Tensor:
    """log of 3.7 N(x; 0.7, 0.8^2 I)."""
    return math.log(3.7) + log_normal(x - 0.7, 0.8)


TARGET = Target((2,), off_centre)


def config(steps: int = 30, **changes: Any) -> Config:
    optimiser = Optimiser(rate=1e-2, warmup=5)
    return Config(TASK, batch=32, steps=steps, precision="fp32", optimiser=optimiser, save=5).but(**changes)


def trainer(source: object = TARGET, **changes: Any) -> Trainer:
    made = config(**changes)
    return Trainer(Run(made, facts_of(source, made)), source, Path())  # type: ignore[arg-type]


def trained(steps: int, source: Target = TARGET, **changes: Any) -> TargetSampler:
    run = trainer(source, steps=max(steps, 1), **changes)
    for _ in range(steps):
        run.advance()
    result = run.task.result(run.averaged(), run.run.facts, steps)
    assert isinstance(result, TargetSampler)
    return result.on(source)


# the loss


def test_the_loss_is_minus_the_log_weight_of_each_path_from_its_own_noise() -> None:
    """The same paths, from the stream of each example. An example does not depend on its batch."""
    run = trainer()
    for _ in range(3):
        run.advance()
    model, items = run.model, torch.arange(40, 48)
    assert isinstance(model, Control)
    rng = run.batch(items).rng.child("path")
    _, log_weight = controlled_path(model, off_centre, TASK.process, (2,), path_grid(TASK.process, 6), rng)
    found = run.losses(items)
    assert torch.allclose(found, -log_weight, atol=1e-5)
    assert torch.allclose(run.losses(items[5:6]), found[5:6], atol=1e-5)
    assert len(found.unique()) == 8


@pytest.mark.parametrize("noise_term", ["fixed", "full"])
def test_the_gradient_has_the_noise_term_that_was_asked_for(noise_term: str) -> None:
    run = trainer(noise_term=noise_term)
    # at the start the last layers are 0, and the two forms have one gradient
    for _ in range(3):
        run.advance()
    items, parameters = torch.arange(16), list(run.model.parameters())
    found = torch.autograd.grad(run.losses(items).sum(), parameters, allow_unused=True)
    right = {}
    for name, term in (("full", None), ("fixed", with_fixed_parameters)):
        rng, grid = run.batch(items).rng.child("path"), path_grid(TASK.process, 6)
        _, log_weight = controlled_path(run.model, off_centre, TASK.process, (2,), grid, rng, term)
        right[name] = torch.autograd.grad(-log_weight.sum(), parameters, allow_unused=True)

    def apart(one: Any, other: Any) -> float:
        return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True) if a is not None)

    other = "full" if noise_term == "fixed" else "fixed"
    assert apart(found, right[noise_term]) < 1e-3 < apart(found, right[other])


def test_an_untrained_sampler_is_importance_sampling() -> None:
    """u = 0: the ends are normal with the scale of the process, and the weights are those of importance sampling."""
    result = trained(0)
    got = result.sample(50, 3)
    assert torch.allclose(got.log_weight, (off_centre(got.x) - log_normal(got.x, 1.2)).double(), atol=1e-4)
    many = result.sample(4000, 1)
    assert float(many.x.std()) == pytest.approx(1.2, rel=0.03)


def test_training_closes_the_gap_of_the_bound_and_log_z_is_right() -> None:
    """Measured over three seeds: the gap falls from 1.2 to 0.064 or less, log Z of 4,000 samples is within 0.008, and
    the effective size grows from 1,800 to 3,600."""
    before = importance_samples(off_centre, (2,), 4000, Rng(0, 4000), 1.2)
    after = trained(120, path=10).sample(4000, 5)
    truth = math.log(3.7)
    assert truth - after.elbo < (truth - before.elbo) / 8
    assert after.log_z == pytest.approx(truth, abs=0.03)
    assert after.effective_size > 1.6 * before.effective_size
    assert ((after.mean - 0.7).abs() < 0.1).all()


# the result


def test_a_sample_is_a_function_of_its_number_and_weights_are_exact_for_any_steps() -> None:
    result = trained(10)
    whole = result.sample(20, 7)
    part = result.sample(4, 7, first=9, batch=3)
    assert torch.allclose(part.x, whole.x[9:13], atol=1e-5)
    assert torch.allclose(part.log_weight, whole.log_weight[9:13], atol=1e-4)
    assert not torch.allclose(result.sample(20, 8).x, whole.x)
    assert whole.calls == 7 and result.sample(2, 7, steps=3).calls == 4
    for steps in (1, 3, 25):
        w = result.sample(40_000, 1, steps=steps).log_weight.exp()
        assert abs(float(w.mean()) - 3.7) < 4 * float(w.std()) / 200


def test_it_samples_in_double_precision() -> None:
    result = trained(5)
    result.control.double()
    found = result.sample(6, 2)
    assert found.x.dtype == torch.float64
    rng, grid = Rng(2, 6, "softmix.path"), path_grid(TASK.process, 6)
    x, log_weight = controlled_path(*(result.control, off_centre, TASK.process, (2,), grid, rng), dtype=torch.float64)
    assert torch.equal(found.x, x) and torch.equal(found.log_weight, log_weight)


def test_the_view_as_a_denoiser_samples(tmp_path: Path) -> None:
    view = trained(10).denoiser
    assert sample(view, 5, 4, sampler=ancestral).isfinite().all()


# runs


def test_a_run_on_an_own_density_needs_it_again(tmp_path: Path) -> None:
    model = softmix.train(TARGET, config(8), tmp_path / "run")
    loaded = softmix.load(tmp_path / "run")
    assert loaded.facts.count == 0 and loaded.facts.data == "target off_centre"
    with pytest.raises(TargetError, match=r"a function that its run folder does not hold: give it by model.result.on"):
        loaded.result.sample(3)
    with pytest.raises(RunError, match="does not hold: give it by"):
        _ = loaded.denoiser
    other = Target((2,), lambda x: 2 * off_centre(x), "target off_centre")
    with pytest.raises(TargetError, match="give the same function, shape and name"):
        loaded.result.on(other)
    again = loaded.result.on(Target((2,), off_centre))
    assert torch.equal(again.sample(5).x, model.result.on(TARGET).sample(5).x)
    with pytest.raises(RunError, match="the density target off_centre, which has no items"):
        data_of(tmp_path / "run")


@pytest.mark.parametrize("name", TARGETS)
def test_a_run_on_a_target_with_a_name_finds_it(name: str, tmp_path: Path) -> None:
    source = known_target(f"target:{name}")
    softmix.train(source, config(2, path=3, batch=4), tmp_path / "run")
    model = softmix.load(tmp_path / "run")
    assert model.result.sample(3).x.shape == (3, *source.shape)
    assert softmix.sample(model.denoiser, 3, 2, sampler=model.sampler).shape == (3, *source.shape)
    assert model.facts.origin is not None and model.facts.origin.source == f"target:{name}"


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(DataError, match=r"target:tunnel was asked for, but .* there are target:mixture, target:funnel"):
        known_target("target:tunnel")


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import test_train_sample_target as here
from softmix.train import training
for step in training(here.TARGET, here.config(40), sys.argv[2]):
    pass
"""


def started(out: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(out)], env=environment)


def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    for _ in training(TARGET, config(40), tmp_path / "alone"):
        pass
    process = started(tmp_path / "killed")
    while process.poll() is None and not (tmp_path / "killed/checkpoints/step-000010").is_dir():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for _ in training(TARGET, config(40), tmp_path / "killed"):
        pass
    files = [sorted((tmp_path / run / "checkpoints/step-000040").glob("*.safetensors")) for run in ("alone", "killed")]
    assert [file.name for file in files[0]] == [file.name for file in files[1]] and len(files[0]) >= 4
    for one, other in zip(*files, strict=True):
        a, b = load_file(one), load_file(other)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_configuration_survives_its_json() -> None:
    for made in (preset_for_target(2.5, 32), config(3, noise_term="full", clip=7.0)):
        assert from_json(Config, to_json(made)) == made
    assert preset_for_target(2.5, 32).task == SampleTarget(StationaryOU(2.5), path=32)


# refusals


def test_half_precision_and_data_with_items_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r'precision is bf16: give "fp32"'):
        next(training(TARGET, config(precision="bf16"), tmp_path / "run"))
    points = load("toy:ring", limit=20)
    with pytest.raises(
        TrainingError, match=r"SampleTarget learns from a density, and toy:ring has items: give softmix"
    ):
        next(training(points, config(), tmp_path / "run"))
    with pytest.raises(TrainingError, match="a target density has none; train with a task that makes its own samples"):
        next(training(TARGET, config().but(task=Denoise(net=SPEC)), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"path": 0}, "from 1 to 10,000 steps; found 0"), ({"clip": 0.0}, "clip is above 0; found 0.0")],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(TASK, **changes)


def test_a_density_that_is_not_finite_stops_the_run_with_a_sentence(tmp_path: Path) -> None:
    wall = Target((2,), lambda x: torch.where(x[:, 0] < 0.5, off_centre(x), -math.inf), "wall")
    with pytest.raises(TrainingError, match=r"loss inf, .*32 paths of 6 steps.*--set nonfinite=skip"):
        for _ in training(wall, config(), tmp_path / "run"):
            pass


def test_a_source_without_items_has_a_feed_without_data() -> None:
    feed = feed_for(TARGET, 0, 4, torch.device("cpu"))
    assert isinstance(feed, NoItemsFeed)
    assert feed.index(torch.arange(5, 8)).tolist() == [0, 0, 0]
    assert feed.staged(torch.arange(3)) is None
    assert not isinstance(feed_for(load("toy:ring", limit=20), 0, 4, torch.device("cpu")), NoItemsFeed)
    meta = feed_for(TARGET, 0, 4, torch.device("meta"))
    assert meta.index(torch.arange(3, device="meta")).device.type == meta.numbers.type == "meta"


def test_the_ring_has_eight_modes_and_known_numbers() -> None:
    problem = ring_target()
    x, _ = problem.draw(8000, Rng(0, 8000))
    assert float(x.var(0).mean()) == pytest.approx(float(problem.var.mean()), rel=0.05)
    far = importance_samples(problem.log_density, (2,), 200_000, Rng(1, 200_000), 1.2, torch.float64)
    assert far.log_z == pytest.approx(problem.log_z, abs=0.03)
