"""Papers written by an outsider: parts in their own files train, resume after a kill with the same bits, and sample.

Each file here has PARTS, source(folder for earlier stages), config(steps) and sampled(model, folder). Nothing in
softmix is changed for it.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from softmix.config import ConfigError, dumps, loads
from softmix.train import Run, RunError, Trainer, TrainingError, facts_of, load, read_run, training

HERE = Path(__file__).parent
PAPERS = ["adversarial", "twostage", "shifted", "masked"]
STEPS = 60

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
torch.set_num_threads(1)
import {name} as paper
from softmix.train import training
for step in training(paper.source(Path(sys.argv[3])), paper.config({steps}), sys.argv[2], parts=paper.PARTS):
    pass
"""


def paper_of(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def started(name: str, out: Path, place: Path) -> subprocess.Popen[bytes]:
    code = SCRIPT.format(name=name, steps=STEPS)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen([sys.executable, "-c", code, str(HERE), str(out), str(place)], env=environment)


def tensors(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    last = sorted((run / "checkpoints").glob("step-??????"))[-1]
    assert last.name == f"step-{STEPS:06d}"
    return {file.stem: load_file(file) for file in last.glob("*.safetensors")}


@pytest.mark.parametrize("name", PAPERS)
def test_it_trains_resumes_after_a_kill_with_the_same_bits_and_samples(name: str, tmp_path: Path) -> None:
    paper = paper_of(name)
    for _ in training(paper.source(tmp_path), paper.config(STEPS), tmp_path / "alone", parts=paper.PARTS):
        pass
    process = started(name, tmp_path / "killed", tmp_path)
    while process.poll() is None and not (tmp_path / "killed/checkpoints/step-000010").is_dir():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert started(name, tmp_path / "killed", tmp_path).wait() == 0
    alone, killed = tensors(tmp_path / "alone"), tensors(tmp_path / "killed")
    assert alone.keys() == killed.keys() and {"model", "optimizer"} <= alone.keys()
    for entry in alone:
        assert alone[entry].keys() == killed[entry].keys()
        assert all(torch.equal(tensor, killed[entry][key]) for key, tensor in alone[entry].items()), entry
    model = load(tmp_path / "killed", parts=paper.PARTS)
    x = paper.sampled(model, tmp_path)
    assert len(x) == 8 and torch.isfinite(x.float()).all()


# limits of custom parts


def adversarial() -> ModuleType:
    return paper_of("adversarial")


def rival_run(out: Path = Path(), **changes: object) -> Trainer:
    paper = adversarial()
    config, source = paper.config(10).but(**changes), paper.source(out)
    return Trainer(Run(config, facts_of(source, config)), source, out)


def test_a_rival_is_trained_by_its_own_settings_and_saved(tmp_path: Path) -> None:
    one = rival_run(tmp_path)
    before = {name: [p.detach().clone() for p in module.parameters()] for name, module in one.modules.items()}
    one.advance()
    for name, module in one.modules.items():
        assert not any(torch.equal(a, b) for a, b in zip(before[name], module.parameters(), strict=True) if b.ndim > 1)
    group = one.optimisers._made["rival"].param_groups[0]
    # its own peak learning rate, scaled like that of the network in the first step of the warm-up
    assert group["lr"] == pytest.approx(2e-3 * one.run.config.optimiser.rate / 100 / one.run.config.optimiser.rate)
    assert group["betas"] == (0.5, 0.9)
    one.save()
    kept = {file.stem for file in (tmp_path / "checkpoints/step-000001").glob("*.safetensors")}
    assert kept == {"model", "rival", "optimizer", "optimizer-rival", "ema-0.050", "ema-0.100"}


def test_one_training_step_equals_two_optimiser_steps_by_hand() -> None:
    """AdamW on the loss of the rival, and then on that of the network with the updated rival."""
    one, other = rival_run(), rival_run()
    one.advance(1e-3)
    items, batch = torch.arange(64), 64
    for name, rate in (("rival", 2e-3), ("model", 1e-3)):
        parameters = list(other.modules[name].parameters())
        betas = (0.5, 0.9) if name == "rival" else other.run.config.optimiser.betas
        by_hand = torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=0.0, fused=True)
        gradient = torch.autograd.grad(other.losses(items, name).sum() / batch, parameters, allow_unused=True)
        for parameter, part in zip(parameters, gradient, strict=True):
            parameter.grad = part
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        by_hand.step()
    for a, b in zip(one.modules.parameters(), other.modules.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_a_failed_step_leaves_the_rival_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    one = rival_run()
    one.advance()
    before = [p.detach().clone() for p in one.modules.parameters()]
    moments = {k: {n: t.clone() for n, t in entry.items()} for k, entry in one.optimisers.state().items()}
    right = one.losses
    monkeypatch.setattr(
        one, "losses", lambda items, turn: right(items, turn) * (float("nan") if turn == "model" else 1.0)
    )
    one.advance()
    assert one.step == 1 and all(torch.equal(a, b) for a, b in zip(before, one.modules.parameters(), strict=True))
    now = one.optimisers.state()
    assert all(torch.equal(t, now[k][n]) for k, entry in moments.items() for n, t in entry.items())
    monkeypatch.setattr(one, "losses", right)
    one.advance()
    plain = rival_run()
    plain.advance()
    plain.advance()
    assert all(torch.equal(a, b) for a, b in zip(plain.modules.parameters(), one.modules.parameters(), strict=True))


def test_a_run_with_an_own_part_needs_this_part_to_load(tmp_path: Path) -> None:
    paper = adversarial()
    for step in training(paper.source(tmp_path), paper.config(4), tmp_path / "run", parts=paper.PARTS):
        if step.step == 2:
            break
    with pytest.raises(RunError, match=r"config\.task\.loss\.kind: one of .*\"Adversarial\" was found.*parts=\("):
        read_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="Adversarial"):
        next(training(paper.source(tmp_path), paper.config(4), tmp_path / "other"))
    assert not (tmp_path / "other").exists()
    run = read_run(tmp_path / "run", parts=paper.PARTS)
    assert loads(Run, dumps(run, paper.PARTS), paper.PARTS) == run


def test_modules_without_a_group_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    paper = adversarial()
    monkeypatch.setattr(paper.Adversarial, "groups", {})
    with pytest.raises(ValueError, match=r"modules \['rival'\] and the groups \[\]"):
        config = paper.config(4)
        source = paper.source(Path())
        Trainer(Run(config, facts_of(source, config)), source, Path())


def test_a_loss_that_gives_one_number_for_all_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = adversarial()
    right = paper.Adversarial.ask
    monkeypatch.setattr(paper.Adversarial, "ask", lambda self, *asked: right(self, *asked).mean())
    with pytest.raises(TrainingError, match=r"a loss gives one number for each item, here \[2\]; found .*\[\]"):
        next(training(paper.source(tmp_path), paper.config(4), tmp_path / "run", parts=paper.PARTS))
