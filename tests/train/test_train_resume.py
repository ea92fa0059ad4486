"""A run that is killed at any instant resumes by the same command and ends with the same bits."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import softmix
from softmix.data import load as load_data
from softmix.denoiser import SoftHead
from softmix.loss import Energy
from softmix.process import Noised
from softmix.rng import Rng
from softmix.train import Run, Trainer, TrainingError, facts_of, read_run, training
from softmix.train.examples import item_index
from softmix.train.noise_times import times

COMMAND = ["train", "toy:ring", "--steps", "600", "--limit", "3000", "--set", "save=2", "batch=64", "net.width=32"]


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "softmix", *COMMAND[:2], "--out", str(out), *COMMAND[2:]]


def quiet() -> dict[str, str]:
    """The environment of a run on the CPU with one thread."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}


def weights(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    last = sorted((run / "checkpoints").glob("step-??????"))[-1]
    return {file.name: load_file(file) for file in sorted(last.glob("*.safetensors"))}


def assert_same_bits(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert (
        set(left)
        == set(right)
        == {"model.safetensors", "optimizer.safetensors", "ema-0.050.safetensors", "ema-0.100.safetensors"}
    )
    for file in left:
        assert set(left[file]) == set(right[file])
        for name, tensor in left[file].items():
            assert torch.equal(tensor, right[file][name]), f"{file}: {name}"


def steps_of(run: Path) -> int:
    """The last step in the log, 0 without one."""
    log = run / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def saving(run: Path) -> bool:
    return any((run / "checkpoints").glob("*.tmp"))


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_with_the_same_bits(tmp_path: Path) -> None:
    """At random instants, every other time in the middle of a save; each time at least a few steps are taken."""
    subprocess.run(command(tmp_path / "alone"), check=True, env=quiet(), capture_output=True)
    killed, dice, in_a_save = tmp_path / "killed", random.Random(0), 0
    for count in range(20):
        process = subprocess.Popen(command(killed), env=quiet(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        least, moment = steps_of(killed) + 10, dice.uniform(0, 0.2)
        while process.poll() is None and steps_of(killed) < least:
            time.sleep(0.002)
        began = time.monotonic()
        while process.poll() is None and not (time.monotonic() - began > moment if count % 2 else saving(killed)):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, f"the run ended before kill {count + 1}"
        in_a_save += saving(killed)
    # what was being written when the process died is still there
    assert in_a_save >= 5
    subprocess.run(command(killed), check=True, env=quiet(), capture_output=True)
    assert_same_bits(tmp_path / "alone", killed)
    assert (killed / "log.jsonl").read_bytes() == (tmp_path / "alone" / "log.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_on_a_signal_a_run_finishes_its_step_saves_and_says_how_to_continue(
    tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(command(run), env=quiet(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and steps_of(run) < 50:
        time.sleep(0.002)
    # a second process is refused while the first is at it; held, for a quick machine would be at the end before that
    process.send_signal(signal.SIGSTOP)
    other = subprocess.run(command(run), env=quiet(), capture_output=True, text=True, check=False)
    assert other.returncode == 2 and "by another process" in other.stderr
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait(30) == 128 + number
    found = re.search(r"stopped after step (\d+) of 600, and saved: the same command continues", said)
    assert found, said
    assert (run / "checkpoints" / f"step-{int(found[1]):06d}").is_dir()
    resumed = [step.step for step in training(load_data("toy:ring", limit=3000), read_run(run).config, run)]
    assert resumed[0] == int(found[1]) + 1 and resumed[-1] == 600


def small(**changes: object) -> softmix.Config:
    base = softmix.preset("smd", (2,))
    return base.but(net=replace(base.task.net, width=16, depth=2), batch=32, steps=12, save=4, **changes)  # type: ignore[arg-type, type-var]


def test_the_comparison_of_bits_can_fail(tmp_path: Path) -> None:
    data = load_data("toy:ring", limit=500)
    softmix.train(data, small(), tmp_path / "a")
    softmix.train(data, small(seed=1), tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same_bits(tmp_path / "a", tmp_path / "b")


def test_a_loop_that_the_caller_leaves_continues_with_the_same_bits(tmp_path: Path) -> None:
    data = load_data("toy:ring", limit=500)
    for _ in training(data, small(), tmp_path / "alone"):
        pass
    for step in training(data, small(), tmp_path / "left"):
        if step.step == 7:
            break
    seen = [step.step for step in training(data, small(), tmp_path / "left")]
    assert seen == list(range(8, 13))
    assert_same_bits(tmp_path / "alone", tmp_path / "left")


def test_accumulation_changes_nothing_but_the_order_of_sums(tmp_path: Path) -> None:
    data = load_data("toy:ring", limit=500)
    whole = softmix.train(data, small(), tmp_path / "whole")
    config = small()
    parts = softmix.train(data, config.but(optimiser=replace(config.optimiser, accumulate=4)), tmp_path / "parts")
    apart = max(
        float((a - b).abs().max())
        for a, b in zip(whole.denoiser.parameters(), parts.denoiser.parameters(), strict=True)
    )
    # measured over 3 seeds: 3e-8 to 6e-8; a change of 0.5 in one item of each part moves weights by 5e-4
    assert 0 < apart < 2e-6


def test_another_configuration_or_other_data_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = load_data("toy:ring", limit=500)
    softmix.train(data, small(), tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(TrainingError, match="batch"):
        next(training(data, small().but(batch=16), tmp_path / "run"))
    with pytest.raises(TrainingError, match="other data"):
        next(training(load_data("toy:moons", limit=500), small(), tmp_path / "run"))
    assert (tmp_path / "run" / "config.json").read_text() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("not a run")
    with pytest.raises(TrainingError, match="not empty"):
        next(training(data, small(), tmp_path / "full"))


def trainer(tmp_path: Path, **changes: object) -> Trainer:
    data = load_data("toy:ring", limit=500)
    config = small(**changes)
    return Trainer(Run(config, facts_of(data, config)), data, tmp_path)


def noised(one: Trainer, items: torch.Tensor) -> tuple[Noised, Rng]:
    return one.task.examples(one.source, one.batch(items), one.task.cond_spec(one.source))


def test_an_item_is_the_same_in_any_batch(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    many, _ = noised(one, torch.arange(495, 520))
    single, _ = noised(one, torch.tensor([503]))
    for name in ("x0", "xt", "t", "z"):
        assert torch.equal(getattr(many, name)[8], getattr(single, name)[0])


def test_an_epoch_shows_every_example_once(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    count = len(one.source)
    first, second = (item_index(0, count, torch.arange(k * count, (k + 1) * count)) for k in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(count))
    assert not torch.equal(first, second)


def test_times_are_even_over_every_stretch(tmp_path: Path) -> None:
    config = small()
    t = times(config.task, trainer(tmp_path).batch(torch.arange(1000, 1064))).sort().values
    gaps = t.diff()
    # 64 independent times would leave a gap above 0.05 in nine of ten batches; this sequence never does
    assert float(gaps.max()) < 0.05
    assert float(t[0]) >= config.task.times.low


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_is_equal_within_the_order_of_sums(tmp_path: Path) -> None:
    data = load_data("toy:ring", limit=500)
    plain = softmix.train(data, small(), tmp_path / "plain")
    compiled = softmix.train(data, small(compile=True), tmp_path / "compiled")
    pairs = zip(plain.denoiser.parameters(), compiled.denoiser.parameters(), strict=True)
    # a change of 0.5 in one item of each batch moves weights by 5e-4
    assert max(float((a - b).abs().max()) for a, b in pairs) < 2e-5


@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
def test_a_loss_that_is_not_finite_follows_the_policy(
    tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data("toy:ring", limit=500)
    right = Trainer.losses

    def broken(self: Trainer, items: torch.Tensor, turn: str = "model") -> torch.Tensor:
        return right(self, items) * (float("nan") if self.step == 6 and self.attempt == 0 else 1.0)

    monkeypatch.setattr(Trainer, "losses", broken)
    steps, notes = [], []
    run = training(data, small(nonfinite=policy), tmp_path / "run")
    if policy == "stop":
        with pytest.raises(TrainingError, match=r"step 7: loss nan.*items 192 to 223"):
            list(run)
        assert all(torch.isfinite(p).all() for p in softmix.load(tmp_path / "run").denoiser.parameters())
        return
    for step in run:
        steps.append(step.step)
        notes += step.notes
    assert any("step 7: loss nan" in note for note in notes)
    expected = (
        [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12] if policy == "skip" else [1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9, 10, 11, 12]
    )
    assert steps == expected


def lanes(count: int) -> Trainer:
    """Three steps on the digits with a piece of the batch on each of `count` threads."""
    data = load_data("digits")
    base = softmix.preset("smd", data.shape)
    # a score that compares the items of a piece with each other is another sum for other pieces
    head, loss = SoftHead(mean="none"), Energy(m=2)
    config = base.but(net=replace(base.task.net, width=16), head=head, loss=loss, batch=32, steps=3, precision="fp32")
    config = config.but(optimiser=replace(config.optimiser, warmup_share=None))
    one = Trainer(Run(config, replace(facts_of(data, config), lanes=count)), data, Path())
    for _ in range(3):
        one.advance()
    return one


def test_lanes_repeat_their_bits_and_change_nothing_but_the_order_of_sums() -> None:
    alone, two, again = lanes(1), lanes(2), lanes(2)
    for first, second in zip(two.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(first, second)
    pairs = zip(alone.model.parameters(), two.model.parameters(), strict=True)
    apart = max(float((a - b).detach().abs().max()) for a, b in pairs)
    # measured: 1e-7
    assert 0 < apart < 2e-6
