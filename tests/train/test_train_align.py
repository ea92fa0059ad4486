"""Training by `Align`: its modules and checkpoints, its end, flips, a kill; and the tasks that learn its encoder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import softmix
from softmix.data import Data, Report, random_view
from softmix.data import load as load_data
from softmix.data.store import make
from softmix.denoiser import PointHead, SoftHead
from softmix.loss import Align, Energy, ImageEncoder, RandomEncoder, SavedEncoder, Square, nt_xent
from softmix.net import DiTSpec
from softmix.rng import Rng
from softmix.sampler import sample
from softmix.train import (
    Config,
    Denoise,
    LearnClasses,
    LearnEncoder,
    Optimiser,
    Run,
    RunError,
    Trainer,
    TrainingError,
    encoder_of,
    facts_of,
    learn_encoder,
    load,
    read_run,
    training,
)

PARTS = (LearnEncoder, LearnClasses)
NET = DiTSpec(width=16, depth=2, patch=2)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits", limit=200)


def config(loss: Any, steps: int = 6, **task: Any) -> Config:
    return Config(
        Denoise(net=NET, **{"head": PointHead(), "loss": loss, **task}),
        batch=16,
        steps=steps,
        save=2,
        precision="fp32",
    )


def settings(task: Any, **changes: Any) -> Config:
    return Config(task, precision="fp32", **changes)


def align(**settings: Any) -> Align:
    return Align(RandomEncoder(4), Square("v"), width=16, **settings)


def trainer(data: Data, settings: Config, out: Path | None = None) -> Trainer:
    return Trainer(Run(settings, facts_of(data, settings)), data, out or Path())


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in module.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# the modules of a run


def test_the_projector_is_trained_and_the_encoder_is_not(digits: Data, tmp_path: Path) -> None:
    one = trainer(digits, config(align()), tmp_path)
    before = {name: weights(module) for name, module in one.modules.items()}
    for _ in range(3):
        one.advance()
    one.save()
    after = {name: weights(module) for name, module in one.modules.items()}
    assert after.keys() == {"model", "projector", "encoder"}
    assert same(before["encoder"], after["encoder"])
    assert not any(torch.equal(before["projector"][name], each) for name, each in after["projector"].items())
    files = {path.stem: load_file(path) for path in (tmp_path / "checkpoints/step-000003").glob("*.safetensors")}
    kept = {"model", "projector", "encoder", "optimizer", "optimizer-projector", "ema-0.050", "ema-0.100"}
    assert files.keys() == kept
    # the averages are those of the network alone
    assert files["ema-0.050"].keys() == files["model"].keys() == one.model.state_dict().keys()
    assert same(files["encoder"], weights(RandomEncoder(4).build((1, 8, 8))))


def test_weight_0_trains_the_network_as_the_base_does(digits: Data) -> None:
    one, plain, other = (trainer(digits, config(loss)) for loss in (align(weight=0.0), Square("v"), align()))
    for _ in range(3):
        for each in (one, plain, other):
            each.advance()
    assert same(weights(one.model), weights(plain.model))
    assert not same(weights(other.model), weights(plain.model))


def test_the_term_ends_at_its_step(digits: Data) -> None:
    """Of 8 steps those before progress 0.5 are aligned: 4."""
    one, whole = trainer(digits, config(align(until=0.5), 8)), trainer(digits, config(align(), 8))
    alike = []
    for _ in range(8):
        items = torch.arange(one.step * 16, (one.step + 1) * 16)
        aligned, plain = (replace(one.task, loss=loss) for loss in (align(), Square("v")))  # type: ignore[type-var]
        found = one.losses(items)
        batch, source = one.batch(items), one.feed.source
        alike.append([torch.equal(found, task.losses(one.modules, source, batch)) for task in (aligned, plain)])
        one.advance()
        whole.advance()
    assert alike == 4 * [[True, False]] + 4 * [[False, True]]
    assert not same(weights(one.model), weights(whole.model))


def test_soft_mixtures_are_aligned_and_sampled(digits: Data, tmp_path: Path) -> None:
    loss = Align(RandomEncoder(4), Energy(m=2), block=1, width=16)
    for _ in training(digits, config(loss, head=SoftHead()), tmp_path / "run"):
        pass
    model = load(tmp_path / "run")
    assert "projector" not in dict(model.network.named_modules())
    assert sample(model.denoiser, 3, 2).isfinite().all()


def test_a_mirrored_image_is_mirrored_for_the_encoder_too(digits: Data) -> None:
    one = trainer(digits, config(align(), flip=True))
    items, seen = torch.arange(32), []
    one.modules["encoder"].register_forward_hook(lambda module, given, features: seen.append(given[0]))
    one.losses(items)
    noised = one.task.examples(one.source, one.batch(items), one.task.cond_spec(one.source))[0]  # type: ignore[attr-defined]
    assert torch.equal(torch.cat(seen), noised.x0)
    stored = one.batch(items).read(one.feed.source)[0]
    turned = (noised.x0 == stored.flip(-1)).flatten(1).all(1) & (noised.x0 != stored).flatten(1).any(1)
    kept = (noised.x0 == stored).flatten(1).all(1)
    assert turned.any() and kept.any() and (turned | kept).all()


def test_parts_that_do_not_fit_are_refused_before_anything_is_written(digits: Data, tmp_path: Path) -> None:
    for loss, sentence in (
        (align(block=3), "block 3, and the network has blocks 1 to 2"),
        (Align(SavedEncoder("nowhere/encoder.safetensors", "0" * 12, 4)), "cannot be read.*put the file back"),
    ):
        with pytest.raises(TrainingError, match=sentence):
            next(training(digits, config(loss), tmp_path / "run"))
        assert not (tmp_path / "run").exists()


@dataclass(frozen=True)
class Pixels:
    """An encoder of the caller, without weights: the pixels themselves and their squares."""

    channels: int = 2

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        class Both(nn.Module):
            def forward(self, x0: Tensor) -> Tensor:
                return torch.cat([x0, x0**2 + 1], 1)

        return Both()


def test_an_encoder_of_the_caller_trains_and_loads(digits: Data, tmp_path: Path) -> None:
    settings = config(Align(Pixels(), width=16))  # type: ignore[arg-type]
    for _ in training(digits, settings, tmp_path / "run", parts=(Pixels,)):
        pass
    assert load(tmp_path / "run", parts=(Pixels,)).config == settings
    with pytest.raises(RunError, match=r'encoder\.kind: one of "RandomEncoder", "SavedEncoder".*parts=\('):
        load(tmp_path / "run")


# the tasks that learn an encoder


@pytest.fixture(scope="module")
def learned(digits: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoder") / "run"
    learn_encoder(digits, out, LearnEncoder(4, 16), batch=64, steps=6)
    return out


def test_the_encoder_of_a_run_has_its_averaged_weights(learned: Path) -> None:
    spec, x0 = encoder_of(learned), load_data("digits", limit=5).x0()
    model = load(learned, parts=PARTS)
    assert isinstance(model.result, ImageEncoder) and spec.width == 4
    assert torch.equal(spec.build((1, 8, 8))(x0), model.result(x0))
    assert not torch.equal(model.result(x0), load(learned, "model", PARTS).result(x0))


def test_a_finished_encoder_is_not_trained_again(learned: Path, digits: Data) -> None:
    before = {path: path.stat().st_mtime_ns for path in learned.rglob("*.safetensors")}
    assert learn_encoder(digits, learned, LearnEncoder(4, 16), batch=64, steps=6) == encoder_of(learned)
    assert before == {path: path.stat().st_mtime_ns for path in learned.rglob("*.safetensors")}


def test_an_interrupted_encoder_ends_with_the_same_file(learned: Path, digits: Data, tmp_path: Path) -> None:
    for step in training(digits, read_run(learned, PARTS).config, tmp_path / "run", parts=PARTS):
        if step.step == 3:
            break
    spec = learn_encoder(digits, tmp_path / "run", LearnEncoder(4, 16), batch=64, steps=6)
    assert spec.fingerprint == encoder_of(learned).fingerprint


def test_an_encoder_learns_by_views_if_nothing_else_is_said(digits: Data, tmp_path: Path) -> None:
    spec = learn_encoder(digits, tmp_path / "run", steps=2, batch=16, rate=1e-4, seed=3)
    run = read_run(tmp_path / "run", PARTS)
    assert run.config.task == LearnEncoder() and spec.width == 32
    assert (run.config.batch, run.config.steps, run.config.seed, run.config.optimiser.rate) == (16, 2, 3, 1e-4)


def test_a_run_of_another_task_holds_no_encoder(digits: Data, tmp_path: Path) -> None:
    for _ in training(digits, config(Square(), 2), tmp_path / "run"):
        pass
    with pytest.raises(RunError, match="was trained for Denoise and holds no encoder: see learn_encoder"):
        encoder_of(tmp_path / "run")


def test_a_trained_model_needs_no_encoder_and_a_training_does(learned: Path, digits: Data, tmp_path: Path) -> None:
    spec = encoder_of(learned)
    file = tmp_path / "moved.safetensors"
    file.write_bytes(Path(spec.file).read_bytes())
    settings = config(Align(replace(spec, file=str(file)), width=16))
    for step in training(digits, settings, tmp_path / "run"):
        if step.step == 4:
            break
    file.unlink()
    assert sample(load(tmp_path / "run").denoiser, 2, 2).isfinite().all()
    with pytest.raises(TrainingError, match=r"moved\.safetensors cannot be read"):
        next(training(digits, settings, tmp_path / "run"))
    file.write_bytes(Path(spec.file).read_bytes())
    assert [step.step for step in training(digits, settings, tmp_path / "run")] == [5, 6]


def test_the_loss_of_the_views_is_contrastive(digits: Data) -> None:
    one = trainer(digits, settings(LearnEncoder(4, 16), batch=8, steps=2))
    items = torch.arange(8)
    batch = one.batch(items)
    x0 = digits.x0(batch.index)
    expanded = [
        one.modules["head"](one.model(random_view(x0, batch.rng.child(f"view.{k}"))).mean((2, 3))) for k in range(2)
    ]
    assert not torch.allclose(*expanded)
    assert torch.allclose(one.losses(items), nt_xent(*expanded), rtol=1e-5)
    assert one.task.whole and one.run.facts.lanes == 1


def test_the_loss_of_the_classes_is_their_cross_entropy(digits: Data) -> None:
    one = trainer(digits, settings(LearnClasses(4), batch=8, steps=2))
    items = torch.arange(8)
    batch = one.batch(items)
    assert digits.labels is not None
    view = random_view(digits.x0(batch.index), batch.rng.child("view"))
    logits = one.modules["head"](one.model(view).mean((2, 3)))
    assert logits.shape == (8, 10)
    right = -logits.log_softmax(1)[items, digits.labels[batch.index]]
    assert torch.allclose(one.losses(items), right, rtol=1e-5)


def test_views_teach_the_classes_without_labels() -> None:
    """The mean features tell the digits apart better than those of random weights, by the nearest mean of a class.

    Over 5 seeds: 0.79 to 0.80 after 60 steps, 0.57 to 0.64 before, and a difference of at least 0.16.
    """
    data = load_data("digits")
    fast = Optimiser(rate=5e-3, warmup=10)
    one = trainer(data, settings(LearnEncoder(8, 32), batch=64, steps=60, optimiser=fast))
    before = _share(one.model, data)
    for _ in range(60):
        one.advance()
    assert _share(one.averaged(), data) > before + 0.1


@torch.no_grad()
def _share(encoder: nn.Module, data: Data) -> float:
    """The share of held-out digits with the nearest class mean of their own class."""
    other = load_data("digits", split="test")
    assert data.labels is not None and other.labels is not None
    h, theirs = (encoder(each.x0()).mean((2, 3)) for each in (data, other))
    means = torch.stack([h[data.labels == k].mean(0) for k in range(10)])
    return float((torch.cdist(theirs, means).argmin(1) == other.labels).double().mean())


def test_data_without_images_or_labels_are_refused(digits: Data) -> None:
    points = load_data("toy:ring", limit=50)
    unlabelled = make("plain", digits.values, None, (), Report(read=len(digits)))
    for task, data, sentence in (
        (LearnEncoder(), points, "an encoder of images was asked for, and .* holds no images"),
        (LearnClasses(), points, "holds no images"),
        (LearnClasses(), unlabelled, "one class label for each image, and plain has 0: take LearnEncoder"),
    ):
        with pytest.raises(TrainingError, match=sentence):
            trainer(data, settings(task, batch=8, steps=2))


def test_a_view_of_an_image_does_not_depend_on_its_batch_and_stays_near_it() -> None:
    x0 = load_data("digits", limit=20).x0()
    views, two = random_view(x0, Rng(0, 20, "view")), slice(3, 5)
    assert torch.allclose(views[two], random_view(x0[two], Rng(0, 20, "view").take(two)), atol=1e-6)
    assert not torch.allclose(views, random_view(x0, Rng(0, 20, "another")))
    # a view is nearer to its own image than to most others
    rank = (torch.cdist(views.flatten(1), x0.flatten(1)).argsort(1) == torch.arange(20)[:, None]).int().argmax(1)
    assert float(rank.double().mean()) < 5


# a kill

SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_train_align import killed_run
killed_run(sys.argv[2], sys.argv[3])
"""


def killed_run(encoder: str, out: str) -> None:
    """A training in two lanes, with an end of the term."""
    data = load_data("digits", limit=200)
    loss = Align(encoder_of(encoder), Square("v"), width=16, until=0.7)
    for _ in training(data, config(loss, 20), out):
        pass


def started(learned: Path, out: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    source = str(Path(softmix.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([source, environment.get("PYTHONPATH", "")])
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(learned), str(out)], env=environment)  # fmt: skip # noqa: E501


def test_a_killed_training_ends_with_the_same_bits(learned: Path, tmp_path: Path) -> None:
    killed_run(str(learned), str(tmp_path / "alone"))
    process = started(learned, tmp_path / "killed")
    while process.poll() is None and not (tmp_path / "killed/checkpoints/step-000006").is_dir():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert started(learned, tmp_path / "killed").wait() == 0
    alone, killed = (
        {path.stem: load_file(path) for path in (tmp_path / name / "checkpoints/step-000020").glob("*.safetensors")}
        for name in ("alone", "killed")
    )
    assert {"model", "projector", "encoder", "optimizer-projector"} <= alone.keys()
    assert alone.keys() == killed.keys() and all(same(alone[name], killed[name]) for name in alone)
    # the saved encoder is the one of the file
    assert same(alone["encoder"], load_file(encoder_of(learned).file))
