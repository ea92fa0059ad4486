"""Training with `SIDDM`: turns, parts of a batch, classes, presets, and the same bits after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import softmix
from softmix.cli import main
from softmix.cli.restore import default_steps
from softmix.data import Data, Report, load
from softmix.data.store import make
from softmix.denoiser import FixedSteps, SoftHead
from softmix.hub import HubError, export
from softmix.loss import SIDDM
from softmix.net import MLPSpec, UNetSpec
from softmix.net.mlp import MLP
from softmix.net.sequence import SequenceNet
from softmix.net.unet import UNet
from softmix.sampler import ancestral
from softmix.train import Config, Denoise, Optimiser, Run, Trainer, facts_of, preset, training
from softmix.train import load as load_run

STEPS = 30
SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import test_train_siddm as test
from softmix.train import training
for step in training(test.data(), test.small(), Path(sys.argv[2])):
    pass
"""


def data() -> Data:
    return load("toy:grid", limit=500)


def small(**changes: Any) -> Config:
    net = MLPSpec(width=16, depth=2, frequencies=2)
    task = Denoise(net=net, head=SoftHead(mean="none", latent=4), loss=SIDDM(net=net))
    optimiser = Optimiser(rate=1e-3, betas=(0.5, 0.999), warmup=1)
    base = Config(task, batch=32, steps=STEPS, save=2, show=STEPS, precision="fp32", optimiser=optimiser)
    return base.but(**changes)


def trainer(config: Config, source: Data | None = None) -> Trainer:
    source = source or data()
    return Trainer(Run(config, facts_of(source, config)), source, Path())


def tensors(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    last = sorted((run / "checkpoints").glob("step-??????"))[-1]
    assert last.name == f"step-{STEPS:06d}"
    return {file.stem: load_file(file) for file in last.glob("*.safetensors")}


def started(out: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(out)], env=environment)


def test_a_killed_run_ends_with_the_same_bits_and_samples(tmp_path: Path) -> None:
    for _ in training(data(), small(), tmp_path / "alone"):
        pass
    process = started(tmp_path / "killed")
    while process.poll() is None and not (tmp_path / "killed/checkpoints/step-000010").is_dir():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert started(tmp_path / "killed").wait() == 0
    alone, killed = tensors(tmp_path / "alone"), tensors(tmp_path / "killed")
    assert alone.keys() == killed.keys() and {"model", "rivals", "optimizer", "optimizer-rivals"} <= alone.keys()
    for entry in alone:
        assert alone[entry].keys() == killed[entry].keys()
        assert all(torch.equal(tensor, killed[entry][key]) for key, tensor in alone[entry].items()), entry
    model = softmix.load(tmp_path / "killed")
    assert model.sampler is ancestral and isinstance(model.denoiser, FixedSteps)
    assert bool(softmix.sample(model.denoiser, 8, 4, sampler=model.sampler).isfinite().all())


def test_a_step_trains_the_rivals_and_then_the_network() -> None:
    """The same weights as by hand: AdamW on the loss of the rivals, and on that of the network with the new rivals."""
    one, other = trainer(small()), trainer(small())
    one.advance(1e-3)
    for name, rate in (("rivals", SIDDM().rate), ("model", 1e-3)):
        parameters = list(other.modules[name].parameters())
        by_hand = torch.optim.AdamW(parameters, lr=rate, betas=(0.5, 0.999), weight_decay=0.0, fused=True)
        loss = other.losses(torch.arange(32), name).mean()
        for parameter, part in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            parameter.grad = part
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        by_hand.step()
    for (name, a), b in zip(one.modules.named_parameters(), other.modules.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7), name


def test_parts_and_lanes_of_a_batch_give_the_same_weights() -> None:
    """No item sees another, so that a batch may be divided: for points 3 parts, for images 2 lanes."""
    whole, parts = trainer(small()), trainer(small(optimiser=replace(small().optimiser, accumulate=3)))
    images, net = load("digits", limit=64), UNetSpec(width=8, depth=1, patch=1)
    config = small(net=net, loss=SIDDM(net=net), batch=8)
    one, two = trainer(config, images), trainer(config, images)
    two.run = replace(two.run, facts=replace(two.run.facts, lanes=2))
    one.run = replace(one.run, facts=replace(one.run.facts, lanes=1))
    for a, b in ((whole, parts), (one, two)):
        for _ in range(3):
            a.advance(1e-3)
            b.advance(1e-3)
        for first, second in zip(a.modules.parameters(), b.modules.parameters(), strict=True):
            assert torch.allclose(first, second, atol=2e-5)


def test_the_rivals_know_the_class() -> None:
    """Classes reach the discriminator and the regressor as they reach the network."""
    points = make("two", torch.randn(200, 2), torch.arange(200) % 2, ("a", "b"), Report(200))
    one = trainer(small(classes=True), points)
    rivals = one.modules["rivals"]
    x, s = torch.randn(4, 2), torch.full((4,), 0.5, dtype=torch.float64)
    for module in (lambda *given: rivals["discriminator"](*given)[0], rivals["regressor"]):  # type: ignore[index]
        a, b = (module(x, s, torch.full((4,), label)) for label in (0, 1))
        assert float((a - b).detach().abs().max()) > 1e-5
    for _ in range(2):
        one.advance()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_each_number_of_steps_trains_without_a_warning(steps: int, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = small(loss=SIDDM(steps=steps, net=MLPSpec(16, 2)), steps=4)
        for step in training(data(), config, tmp_path / "run"):
            assert step.loss == step.loss
        model = softmix.load(tmp_path / "run")
        assert softmix.sample(model.denoiser, 3, steps, sampler=model.sampler).shape == (3, 2)


def test_the_preset_is_the_published_game() -> None:
    for shape in ((2,), (6, 3), (1, 28, 28)):
        config = preset("siddm", shape)
        assert config.task.head == SoftHead(mean="none") and config.task.loss == SIDDM(rate=1e-3)
        assert (config.optimiser.rate, config.optimiser.betas) == (5e-4, (0.5, 0.999))


@pytest.mark.parametrize(
    ("shape", "kind"), [((2,), MLP), ((6, 3), SequenceNet), ((1, 8, 8), UNet), ((1, 28, 28), UNet)], ids=str
)
def test_the_rivals_have_a_small_net_of_the_kind_of_the_data(shape: tuple[int, ...], kind: type) -> None:
    source = make("some", torch.rand(64, *shape) * 2 - 1, None, (), Report(64))
    one = trainer(preset("siddm", shape).but(batch=4, steps=2, precision="fp32"), source)
    for rival in one.modules["rivals"].values():  # type: ignore[operator]
        assert type(rival.network.net) is kind
    one.advance()
    assert one.step == 1


def test_the_command_trains_it_and_refuses_other_steps_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    small_net = ["--set", "net.width=16", "--set", "net.depth=2", "--set", "loss.steps=2", "--set", "batch=16"]
    main(["train", "toy:grid", "--model", "siddm", "--steps", "2", "--out", run, *small_net])
    assert "--steps 2 --out samples.npy" in capsys.readouterr().out
    main(["sample", run, "--out", str(tmp_path / "x.npy"), "--n", "4", "--steps", "2"])
    with pytest.raises(SystemExit) as ended:
        main(["sample", run, "--out", str(tmp_path / "y.npy"), "--n", "4", "--steps", "4"])
    assert ended.value.code == 2
    assert "softmix: the times 0.75, 0.25 were asked for" in capsys.readouterr().err


def test_a_model_of_fixed_steps_is_evaluated_at_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And is not exported; the steps of a restoration are its own."""
    run = tmp_path / "run"
    small_net = ["--set", "net.width=16", "--set", "net.depth=2", "--set", "loss.steps=2", "--set", "batch=16"]
    main(["train", "toy:grid", "--model", "siddm", "--steps", "2", "--out", str(run), *small_net])
    main(["evaluate", str(run), "--n", "200", "--dry-run"])
    assert "200 samples at 2 steps" in capsys.readouterr().out
    main(["evaluate", str(run), "--n", "200"])
    with pytest.raises(SystemExit):
        main(["evaluate", str(run), "--n", "200", "--steps", "2", "8"])
    assert "were asked for, and this model knows 1, 0.5, 0 alone" in capsys.readouterr().err
    model = load_run(run)
    assert default_steps(model) == 2
    with pytest.raises(HubError, match="the steps of one grid"):
        export(model, tmp_path / "folder")
