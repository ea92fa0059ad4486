"""Tuning a trained model by `ChainMMD`: its configuration, its command, its parent, and the same bits after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

import softmix
from softmix.cli import main
from softmix.cli.common import TuningName as CommandTuningName
from softmix.data import load as load_data
from softmix.denoiser import MixtureHead, PointHead, SoftHead, TunedDenoiser, TunedError
from softmix.evaluate import energy_distance, evaluate_model
from softmix.hub import HubError, export
from softmix.loss import ChainMMD, CubicKernel, Energy, MeanFlow, Square
from softmix.net import MLPSpec, UNetSpec
from softmix.sampler import ddim, traits
from softmix.train import (
    Config,
    DenoisePair,
    Model,
    Optimiser,
    TrainingError,
    TuningName,
    load,
    preset,
    read_run,
    training,
    tuning,
)

POINT, IMAGE, STEPS = (2,), (1, 8, 8), 40
SMALL = MLPSpec(width=32, depth=2)
POINTS = ("toy:ring", "--limit", 400)


def call(*arguments: object) -> tuple[int, str, str]:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            return int(end.code or 0), out.getvalue(), " ".join(err.getvalue().split())
    return 0, out.getvalue(), err.getvalue()


def refused(*arguments: object) -> str:
    code, out, err = call(*arguments)
    assert code == 2 and "Traceback" not in err, (code, out, err)
    return err


def works(*arguments: object) -> str:
    code, out, err = call(*arguments)
    assert code == 0, err
    return out


def train(config: Config, out: Path, data: str = "toy:ring", start: Model | None = None) -> Model:
    source = load_data(data, limit=400)
    for _ in training(source, config, out, start=start):
        pass
    return load(out)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    config = preset("plain", POINT).but(net=SMALL, steps=300, batch=128, optimiser=Optimiser(rate=4e-3))
    yield train(config, tmp_path_factory.mktemp("runs") / "plain")


# the configuration


def test_the_tuning_of_a_model_keeps_it_and_lowers_the_rate() -> None:
    base = preset("plain", POINT)
    found = tuning("mmd", base, POINT)
    assert found.task.loss == ChainMMD() and found.task.head == PointHead()  # type: ignore[attr-defined]
    assert found.optimiser.rate == base.optimiser.rate / 20 and found.optimiser.clip == 0.5
    assert (found.batch, found.steps, found.minutes) == (256, None, None)
    assert found.but(loss=Square("v"), optimiser=base.optimiser, batch=base.batch) == base


def test_soft_mixtures_draw_and_images_are_compared_in_features_too() -> None:
    assert tuning("mmd", preset("smd", POINT), POINT).task.loss == ChainMMD(sampler="ancestral")  # type: ignore[attr-defined]
    images = tuning("mmd", preset("smd", IMAGE).but(batch=512), IMAGE)
    assert images.task.loss == ChainMMD(sampler="ancestral", features=1.0) and images.batch == 512  # type: ignore[attr-defined]
    mixture = tuning("mmd", preset("mixture", POINT), POINT)
    assert mixture.task.loss == ChainMMD() and isinstance(mixture.task.head, MixtureHead)  # type: ignore[attr-defined]


def test_what_cannot_be_tuned_is_refused() -> None:
    with pytest.raises(TrainingError, match="found MapHead"):
        tuning("mmd", preset("meanflow", POINT), POINT)
    with pytest.raises(TrainingError, match="found DenoisePair"):
        tuning("mmd", Config(DenoisePair()), IMAGE)
    with pytest.raises(TrainingError, match="there is mmd"):
        tuning("kid", preset("plain", POINT), POINT)  # type: ignore[arg-type]
    assert get_args(TuningName) == get_args(CommandTuningName)
    assert not isinstance(preset("plain", POINT).task.loss, MeanFlow)


def test_a_batch_is_never_divided(tmp_path: Path) -> None:
    config = tuning("mmd", preset("plain", POINT), POINT).but(net=SMALL, steps=2)
    assert config.task.whole and config.task.together
    with pytest.raises(TrainingError, match="never divided"):
        train(config.but(optimiser=Optimiser(accumulate=2)), tmp_path / "run")


# training


def test_tuning_brings_the_samples_nearer_and_names_the_chain_and_the_parent(parent: Model, tmp_path: Path) -> None:
    """Two steps, 60 steps of training. Measured for three seeds: 0.14 to 0.19 before, -0.003 to 0.002 after."""
    base = tuning("mmd", parent.config, POINT)
    config = base.but(loss=ChainMMD(steps=2), steps=60, batch=128, optimiser=Optimiser(rate=2e-3, warmup=5))
    model = train(config, tmp_path / "mmd", start=parent)
    real = load_data("toy:ring", limit=400).x0().double()
    before = softmix.sample(parent.denoiser, 2000, 2, sampler=ddim, seed=3).double()
    after = softmix.sample(model.denoiser, 2000, 2, sampler=model.sampler, seed=3).double()
    assert energy_distance(after, real) < 0.2 * energy_distance(before, real)
    assert isinstance(model.denoiser, TunedDenoiser) and model.denoiser.steps == 2
    assert traits(model.sampler).name == "ddim"
    start = model.facts.start
    assert start is not None and start.fingerprint == parent.fingerprint
    with pytest.raises(TunedError, match="take steps=2"):
        softmix.sample(model.denoiser, 4, 4, sampler=model.sampler)


def test_a_soft_mixture_is_tuned_by_its_draws(tmp_path: Path) -> None:
    """Measured for three seeds: 0.06 to 0.09 before, and 0.06 to 0.15 of it after."""
    head = SoftHead(where="all", latent=2, local=0, mean="none")
    base = preset("smd", POINT).but(net=SMALL, head=head, loss=Energy(m=2, weight="v"), steps=60, batch=128)
    first = train(base, tmp_path / "soft")
    config = tuning("mmd", base, POINT).but(
        loss=ChainMMD(steps=2, sampler="ancestral"), steps=80, batch=128, optimiser=Optimiser(rate=2e-3, warmup=5)
    )
    model = train(config, tmp_path / "mmd", start=first)
    assert model.denoiser.suits == ("ancestral", {"eta": 0.0})
    real = load_data("toy:ring", limit=400).x0().double()
    distances = [
        energy_distance(softmix.sample(each.denoiser, 2000, 2, sampler=first.sampler, seed=3).double(), real)
        for each in (first, model)
    ]
    assert distances[1] < 0.5 * distances[0]


def test_images_are_tuned_in_features_of_the_model_before(tmp_path: Path) -> None:
    """The frozen copy is the start, and stays it; a picture of samples is made in its number of steps."""
    base = preset("plain", IMAGE).but(net=UNetSpec(width=8, depth=1), steps=4, batch=16, precision="fp32", show=4)
    first = train(base, tmp_path / "plain", "digits")
    config = tuning("mmd", base, IMAGE).but(
        loss=ChainMMD(steps=2, features=1.0, kernel=CubicKernel()), batch=16, steps=4, show=2, save=4
    )
    model = train(config, tmp_path / "mmd", "digits", start=first)
    kept = load_file(tmp_path / "mmd/checkpoints/step-000004/kept.safetensors")
    weights = first.network.state_dict()
    assert all(torch.equal(kept[f"extractor.network.{name}"], each) for name, each in weights.items())
    assert any(not torch.equal(model.network.state_dict()[name], each) for name, each in weights.items())
    assert float(kept["scales"].min()) > 0
    assert list((tmp_path / "mmd").rglob("*.png"))
    with pytest.raises(HubError, match="export the run that it was tuned from"):
        export(model, tmp_path / "exported")


def test_an_evaluation_of_a_tuned_soft_mixture_has_no_spread(tmp_path: Path) -> None:
    data, other = load_data("toy:ring", limit=300), load_data("toy:ring", limit=300)
    config = tuning("mmd", preset("smd", POINT), POINT).but(net=SMALL, steps=2, batch=16)
    model = train(config.but(loss=ChainMMD(steps=2, sampler="ancestral")), tmp_path / "run")
    found = evaluate_model(model.denoiser, data, other, title="tuned", steps=(2,), n=64, sampler=model.sampler)
    assert found.latent_spread is None


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {folder!r})
import test_train_tuning as own
own.train(own.long(), Path(sys.argv[2]), start=own.load(sys.argv[1]))
"""


def long() -> Config:
    """With gradient checkpointing, features, and a checkpoint every tenth of the run."""
    loss = ChainMMD(steps=3, features=1.0, recompute="yes")
    config = tuning("mmd", preset("plain", POINT).but(net=SMALL), POINT)
    return config.but(loss=loss, steps=STEPS, batch=64, precision="fp32")


def started(parent: Path, out: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    code = SCRIPT.format(folder=str(Path(__file__).parent))
    return subprocess.Popen([sys.executable, "-c", code, str(parent), str(out)], env=environment)


def tensors(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    last = sorted((run / "checkpoints").glob("step-??????"))[-1]
    assert last.name == f"step-{STEPS:06d}"
    return {file.stem: load_file(file) for file in last.glob("*.safetensors")}


def test_it_resumes_after_a_kill_with_the_same_bits(parent: Model, tmp_path: Path) -> None:
    train(long(), tmp_path / "alone", start=parent)
    process = started(parent.path, tmp_path / "killed")
    while process.poll() is None and not (tmp_path / "killed/checkpoints/step-000012").is_dir():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert started(parent.path, tmp_path / "killed").wait() == 0
    alone, killed = tensors(tmp_path / "alone"), tensors(tmp_path / "killed")
    assert alone.keys() == killed.keys() >= {"model", "optimizer", "kept"}
    for entry in alone:
        assert alone[entry].keys() == killed[entry].keys()
        assert all(torch.equal(tensor, killed[entry][key]) for key, tensor in alone[entry].items()), entry


# the command


def test_the_command_tunes_and_samples_and_repeats(parent: Model, tmp_path: Path) -> None:
    run, asked = tmp_path / "mmd", ("--model", "mmd", "--start", parent.path, "--set", "loss.steps=3", "batch=32")
    line = ("train", *POINTS, "--out", run, *asked, "--steps", 6)
    works(*line)
    config: Any = read_run(run).config
    assert config.task.loss == ChainMMD(steps=3) and config.task.net == SMALL and config.batch == 32
    assert config.optimiser.rate == parent.config.optimiser.rate / 20
    # once more: the run had ended
    assert "nothing was trained" in works(*line)
    works("train", "--out", run, "--more", 2)
    assert load(run).step == 8
    works("sample", run, "--n", 4, "--steps", 3, "--out", tmp_path / "x.npy")
    assert "take steps=3 (--steps 3)" in refused("sample", run, "--n", 4, "--out", tmp_path / "y.npy")
    other = ("sample", run, "--n", 4, "--steps", 3, "--out", tmp_path / "y.npy")
    assert "adams was asked for: take ddim" in refused(*other, "--sampler", "adams", "--grid", "uniform")
    assert "with fresh noise" in refused(*other, "--eta", 1)
    assert not (tmp_path / "y.npy").exists()
    # its configuration alone has no trained weights
    again = ("train", *POINTS, "--model", "mmd", "--config", run, "--steps", 2, "--out", tmp_path / "z")
    assert "name its run, --start RUN" in refused(*again)


def test_the_command_refuses_guidance_of_a_tuned_model_of_classes(tmp_path: Path) -> None:
    base = ("digits", "--limit", 60, "--classes", "--steps", 2)
    small = ("--set", "net.width=8", "net.depth=1", "batch=8")
    works("train", *base, "--model", "plain", *small, "--out", tmp_path / "plain")
    works(
        *("train", *base, "--model", "mmd", "--start", tmp_path / "plain", "--out", tmp_path / "mmd"),
        *("--set", "loss.steps=2", "batch=8"),
    )
    asked = ("sample", tmp_path / "mmd", "--n", 2, "--steps", 2, "--out", tmp_path / "x.png")
    works(*asked)
    assert "guidance needs posteriors of x0" in refused(*asked, "--guidance", 2)


def test_the_command_refuses_a_tuning_without_a_trained_model(parent: Model, tmp_path: Path) -> None:
    line = ("train", *POINTS, "--model", "mmd", "--steps", 2)
    assert "name its run, --start RUN" in refused(*line, "--out", tmp_path / "x")
    assert "was not trained by mmd" in refused(*line, "--out", parent.path)
    assert "was not trained by mmd" in refused(*line, "--out", tmp_path / "x", "--config", parent.path)
    small = ("--set", "net.width=8", "batch=8", "--steps", 2)
    works("train", *POINTS, "--model", "meanflow", *small, "--out", tmp_path / "m")
    assert "cannot be tuned by mmd" in refused(*line, "--out", tmp_path / "x", "--start", tmp_path / "m")
