"""Trial steps before a run: they change nothing, and keep to the memory and the minutes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import softmix
from softmix.cond import CondSpec
from softmix.config import dumps
from softmix.data import Data, Report
from softmix.data.store import make
from softmix.denoiser import MapHead, MixtureHead, NormalHead, PointHead, PublishedSMD, SoftAtHighNoise, SoftHead
from softmix.loss import (
    SIDDM,
    Consistency,
    Energy,
    FeatureDrift,
    FeatureEnergy,
    InductiveMomentMatching,
    Likelihood,
    MeanFlow,
    PublishedSquare,
    Square,
)
from softmix.memory import NotEnoughMemoryError, is_memory_error
from softmix.net import MLPSpec, SequenceSpec, UNetSpec
from softmix.process import VE, VP, Flow
from softmix.sampler import adams, ancestral, ddim, renoise, soft_adams
from softmix.train import (
    MODELS,
    Config,
    Denoise,
    Optimiser,
    Run,
    StoppedError,
    Trainer,
    TrainingError,
    checkpoint,
    facts_of,
    preset,
    read_run,
    train,
    training,
)
from softmix.train.make import build, require_trainable
from softmix.train.memory import fits_in, free_memory, saved_for_backward
from softmix.train.trial import halve_parts, halved, too_short, trial_run

TRIAL = sys.modules["softmix.train.trial"]


def images(count: int = 40) -> Data:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return make("images", values, None, (), Report(count))


def points(count: int = 200) -> Data:
    return make("points", torch.randn(count, 2, generator=torch.Generator().manual_seed(0)), None, (), Report(count))


def small(**changes: object) -> Config:
    base = Config(Denoise(net=MLPSpec(width=8, depth=1), head=PointHead(), loss=Square("v")), batch=16, steps=8)
    return base.but(precision="fp32", **changes)  # type: ignore[arg-type]


def staged(**changes: object) -> Config:
    base = preset("smd", (1, 8, 8)).but(net=UNetSpec(width=8, depth=1), batch=8, steps=8, precision="fp32")
    return base.but(**changes)  # type: ignore[arg-type]


def trainer(config: Config, data: Data) -> Trainer:
    return Trainer(Run(config, facts_of(data, config)), data, Path())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A clock by which a step takes so many seconds, before and after the loss keeps something; nothing else does."""
    now = [0.0]
    right = Trainer.advance
    costs: list[float] = []

    def advance(self: Trainer, rate: float | None = None) -> tuple[float, float]:
        now[0] += costs[0] if self.frozen is None else costs[1]
        return right(self, rate)

    def start(first: float, second: float = 0.0) -> None:
        costs[:] = [first, second]

    monkeypatch.setattr(Trainer, "advance", advance)
    monkeypatch.setattr(TRIAL.time, "perf_counter", lambda: now[0])
    return start


# nothing stays


@pytest.mark.parametrize("which", ["points", "two stages"])
def test_a_rehearsal_leaves_weights_averages_and_step_as_they_were(which: str) -> None:
    config, data = (small(), points()) if which == "points" else (staged(), images())
    one = trainer(config.but(steps=None, minutes=0.01, optimiser=Optimiser(weight_decay=5.0)), data)
    right = build(one.run)["model"].to(one.device).state_dict()
    trial_run(one, lambda sentence: None)
    assert (one.step, one.attempt, one.saved, one.frozen) == (0, 0, -1, None) and not any(
        one.optimisers.state().values()
    )
    for found in (one.model.state_dict(), one.ema.tensors(0.05), one.ema.tensors(0.1)):
        assert all(torch.equal(found[name], tensor) for name, tensor in right.items())
    assert all(p.grad is None for p in one.optimisers.parameters())


def test_both_stages_of_a_loss_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, int]] = []
    right = Trainer.advance

    def advance(self: Trainer, rate: float | None = None) -> tuple[float, float]:
        assert rate == 0
        seen.append((self.frozen is None, self.step))
        return right(self, rate)

    monkeypatch.setattr(Trainer, "advance", advance)
    trial_run(trainer(staged(), images()), lambda sentence: None)
    trial_run(trainer(small(), points()), lambda sentence: None)
    assert seen == [(True, 0), (False, 0), (True, 0)]


def test_nothing_is_written_if_a_step_cannot_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Trainer, rate: float | None = None) -> tuple[float, float]:
        raise NotEnoughMemoryError("no room")

    monkeypatch.setattr(Trainer, "advance", failing)
    with pytest.raises(TrainingError, match=r"the memory is too small for step 1.*\(no room\).*net\.width"):
        next(training(points(), small(), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_who_stops_while_steps_are_tried_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match="nothing was written") as stop:
        next(training(points(), small(), tmp_path / "run", lambda: 2))
    assert stop.value.number == 2 and not (tmp_path / "run").exists()


# minutes


def total_of(config: Config, data: Data, minutes: float) -> tuple[int, list[str]]:
    said: list[str] = []
    found = trial_run(trainer(config.but(steps=None, minutes=minutes), data), said.append)
    assert found.facts.steps is not None
    return found.facts.steps, said


@pytest.mark.parametrize(("seconds", "minutes"), [(0.01, 1.0), (0.5, 1.0), (4.0, 0.5), (1.0, 30.0)])
def test_as_many_steps_are_taken_as_fit_into_the_minutes(
    clock: Callable[..., None], seconds: float, minutes: float
) -> None:
    """What was spent on trying counts too."""
    clock(seconds)
    total, said = total_of(small(), points(), minutes)
    assert 0.8 * 60 * minutes - 3 * seconds <= total * seconds <= 0.99 * (60 * minutes - seconds)
    assert any(f"{total:,} steps in {minutes:g} minutes" in sentence for sentence in said)


def test_a_step_longer_than_all_the_minutes_is_tried_once_and_taken_once(clock: Callable[..., None]) -> None:
    clock(100.0)
    assert total_of(small(), points(), 0.5)[0] == 1


def test_a_step_that_would_take_a_good_part_of_the_minutes_is_judged_by_a_few_items(
    clock: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batch of 16 takes four times what four items take; were it tried twice, half of the minute would be gone.
    The four are seen twice, the first time to make ready."""
    clock(16.0)
    one, right, now = trainer(small(steps=None, minutes=1.0), points()), Trainer.losses, [0.0]
    if one.device.type != "cpu":
        pytest.skip("an accelerator needs no plan: its steps are tried at once")

    def losses(self: Trainer, items: torch.Tensor, turn: str = "model") -> torch.Tensor:
        now[0] += float(len(items))
        return right(self, items)

    monkeypatch.setattr(Trainer, "losses", losses)
    monkeypatch.setattr(TRIAL.time, "perf_counter", lambda: now[0])
    found = trial_run(one, lambda sentence: None)
    # 52 of the 60 seconds are left, for steps of 16
    assert found.facts.steps == 3 and now[0] == 8


def test_one_time_work_does_not_count_as_a_long_step(
    clock: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first four items take 30 s, by which a step of 16 would take two minutes; all others are quick."""
    clock(0.5)
    one, right, now = trainer(small(steps=None, minutes=2.0), points()), Trainer.losses, [0.0]
    if one.device.type != "cpu":
        pytest.skip("an accelerator needs no plan: its steps are tried at once")
    step, taken = Trainer.advance, []

    def losses(self: Trainer, items: torch.Tensor, turn: str = "model") -> torch.Tensor:
        now[0] += 30.0 if not now[0] else 0.01
        return right(self, items)

    def advance(self: Trainer, rate: float | None = None) -> tuple[float, float]:
        taken.append(1)
        now[0] += 0.5
        return step(self, rate)

    monkeypatch.setattr(Trainer, "losses", losses)
    monkeypatch.setattr(Trainer, "advance", advance)
    monkeypatch.setattr(TRIAL.time, "perf_counter", lambda: now[0])
    found = trial_run(one, lambda sentence: None)
    # about 87 seconds are left, for steps of half a second; judged by the first items there would be none
    assert taken and 140 < found.facts.steps < 180


def test_both_stages_count_by_their_share(clock: Callable[..., None]) -> None:
    clock(0.01, 0.03)
    config = staged(loss=FeatureEnergy(share=0.25))
    total, _ = total_of(config, images(), 5.0)
    # 0.25 of a hundredth of a second and 0.75 of three; a fiftieth of the time for each stage is spent on trying
    assert total == pytest.approx(300 / 0.025, rel=0.08) and total * 0.025 < 300


def test_pictures_and_checkpoints_count_too(clock: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    clock(0.01)
    monkeypatch.setattr(TRIAL, "_picture_and_checkpoint", lambda trainer: (0.0, 0.0))
    free, _ = total_of(small(), points(), 1.0)
    monkeypatch.setattr(TRIAL, "_picture_and_checkpoint", lambda trainer: (2.0, 1.0))
    tenths, _ = total_of(small(), points(), 1.0)
    assert free - tenths == pytest.approx(10 * 3.0 / 0.01, abs=2)
    often, _ = total_of(small(show=100, save=50), points(), 1.0)
    # with 0.02 seconds of pictures and 0.02 of checkpoints a step takes five times as long
    assert often == pytest.approx(free / 5, rel=0.01)
    monkeypatch.setattr(TRIAL, "_picture_and_checkpoint", lambda trainer: (20.0, 10.0))
    assert total_of(small(), points(), 1.0)[0] == 1


def test_half_a_minute_is_half_a_minute(tmp_path: Path) -> None:
    """By the real clock, a twentieth of it."""
    data, began = images(), time.monotonic()
    config = staged(steps=None, minutes=0.05)
    for step in training(data, config, tmp_path / "run"):
        assert step.total == read_run(tmp_path / "run").facts.steps
    # measured: 2 to 3 s; on a machine with other work a step may take three times as long as when it was tried
    assert time.monotonic() - began < 9
    assert step.step == step.total


def test_a_run_of_0_1_stopped_before_its_length_was_known_resumes(tmp_path: Path) -> None:
    """Its moments are not lost while the length is found."""
    config = small(steps=None, minutes=0.01)
    for step in training(points(), small(), tmp_path / "run"):
        if step.step == 3:
            break
    kept = read_run(tmp_path / "run")
    old = replace(kept, config=replace(config), facts=replace(kept.facts, steps=None))
    (tmp_path / "run/config.json").write_text(dumps(old))
    found = checkpoint.latest(tmp_path / "run/checkpoints")
    assert found is not None and found.step == 3
    checkpoint.save(tmp_path / "run/checkpoints", 3, found.tensors, {**found.state, "total": None})
    steps = training(points(), config, tmp_path / "run")
    first = next(steps)
    assert first.step == 4 and first.total is not None and first.total > 4
    assert read_run(tmp_path / "run").facts.steps == first.total
    alone = trainer(small(), points())
    for _ in range(4):
        alone.total = None if alone.step == 3 else 8
        alone.advance()
    steps.close()
    ours = softmix.load(tmp_path / "run", "model").network.state_dict()
    assert all(torch.allclose(ours[name], p.cpu(), atol=1e-7) for name, p in alone.model.state_dict().items())


def test_a_run_of_0_1_with_its_length_in_the_checkpoint_keeps_it(tmp_path: Path) -> None:
    """Its config.json does not: the length was found while it trained."""
    for step in training(points(), small(), tmp_path / "run"):
        if step.step == 3:
            break
    kept, config = read_run(tmp_path / "run"), small(steps=None, minutes=0.01)
    old = replace(kept, config=config, facts=replace(kept.facts, steps=None))
    (tmp_path / "run/config.json").write_text(dumps(old))
    steps = [(step.step, step.total) for step in training(points(), config, tmp_path / "run")]
    assert steps == [(k, 8) for k in (4, 5, 6, 7, 8)]


def test_a_run_too_short_to_be_any_good_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    softmix.train(points(), small(), tmp_path / "run", say=said.append)
    assert [sentence for sentence in said if "8 steps are few: a model of points" in sentence]
    said.clear()
    softmix.train(points(), small().but(steps=10), tmp_path / "run", say=said.append)
    assert not any("few" in sentence for sentence in said)
    assert too_short(299, False) and too_short(999, True)
    assert too_short(300, False) is None and too_short(1000, True) is None


def test_the_bar_is_there_while_the_first_step_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []
    right = Trainer.advance

    def advance(self: Trainer, rate: float | None = None) -> tuple[float, float]:
        seen.append(capsys.readouterr().err)
        return right(self, rate)

    monkeypatch.setattr(Trainer, "advance", advance)
    softmix.train(points(), small(), tmp_path / "my run", say=lambda sentence: None)
    assert "my run:   0%" in seen[0] and "a step is tried" in seen[0]
    assert "8/8" in capsys.readouterr().err
    for step in training(points(), small().but(steps=12), tmp_path / "my run"):
        if step.step == 9:
            break
    softmix.train(points(), small().but(steps=12), tmp_path / "my run", say=lambda sentence: None)
    assert "12/12" in capsys.readouterr().err


# memory


class Lacking:
    """Room for so many items at a time, from a step on."""

    def __init__(self, room: int, since: int = 0):
        self.room, self.since = room, since

    def __call__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        right = Trainer.losses

        def losses(one: Trainer, items: torch.Tensor, turn: str = "model") -> torch.Tensor:
            if len(items) > self.room and one.step >= self.since:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 byte")
            return right(one, items)

        monkeypatch.setattr(Trainer, "losses", losses)


def weights(out: Path) -> torch.Tensor:
    return torch.cat([p.flatten() for p in softmix.load(out, "model").network.parameters()])


def test_a_batch_that_memory_does_not_suffice_for_is_halved_before_the_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in training(points(), small(), tmp_path / "whole"):
        pass
    Lacking(5)(monkeypatch)
    said: list[str] = []
    for _ in training(points(), small(), tmp_path / "parts", say=said.append):
        pass
    assert read_run(tmp_path / "parts").facts.parts == ((0, 4),)
    lines = [sentence for sentence in said if "memory" in sentence]
    assert "16 items at once: from step 1 on a batch of 16 is computed in 2 parts" in lines[0]
    assert "8 items at once: from step 1 on a batch of 16 is computed in 4 parts" in lines[1]
    apart = float((weights(tmp_path / "parts") - weights(tmp_path / "whole")).abs().max())
    # the same numbers up to rounding: steps are of size 1e-4
    assert 0 < apart < 2e-6
    monkeypatch.undo()
    # a run that is continued does the same, where there is room again too
    for step in training(points(), small().but(steps=12), tmp_path / "parts"):
        assert step.step > 8
    assert read_run(tmp_path / "parts").facts.parts == ((0, 4),)


def test_memory_that_runs_out_later_halves_the_batch_from_there_and_when_continued_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lacking(8, since=5)(monkeypatch)
    notes = [note for step in training(points(), small(save=4), tmp_path / "a") for note in step.notes]
    assert len(notes) == 1 and "from step 6 on a batch of 16 is computed in 2 parts" in notes[0]
    assert read_run(tmp_path / "a").facts.parts == ((5, 2),)
    for step in training(points(), small(save=4), tmp_path / "b"):
        if step.step == 7:
            break
    monkeypatch.undo()
    # killed after the checkpoint of step 4
    shutil.rmtree(tmp_path / "b/checkpoints/step-000007")
    assert [step.step for step in training(points(), small(save=4), tmp_path / "b")] == [5, 6, 7, 8]
    assert torch.equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_a_picture_that_memory_does_not_suffice_for_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(self: Trainer) -> None:
        raise MemoryError

    monkeypatch.setattr(sys.modules["softmix.train.pictures"], "picture", lacking)
    config = staged(loss=Square("v"), head=PointHead(), steps=2, show=1)
    steps = list(training(images(), config, tmp_path / "run"))
    assert [step.notes for step in steps] == [
        (f"the memory is too small for a picture of step {k}; there is none",) for k in (1, 2)
    ]
    assert not (tmp_path / "run/samples").exists()


def test_of_one_item_at_a_time_there_is_nothing_to_halve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Lacking(2)(monkeypatch)
    steps = training(points(), small(), tmp_path / "run")
    next(steps)
    Lacking(0)(monkeypatch)
    with pytest.raises(TrainingError, match="the memory is too small for step 2"):
        next(steps)
    with pytest.raises(TrainingError, match=r"the memory is too small for two items with items of shape \(2,\)"):
        next(training(points(), small(), tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_halving_goes_down_to_one_item_for_a_lane() -> None:
    run = Run(small(batch=12), replace(facts_of(points(), small()), lanes=2))
    found = []
    now: Run | None = run
    while now is not None:
        found.append(now.parts(3))
        now = halved(now, 3)
    # 6, 3, 2 and 1 items for each of two lanes
    assert found == [1, 2, 4, 8]
    later = halved(halved(run, 3), 7)  # type: ignore[arg-type]
    assert later is not None and later.facts.parts == ((3, 2), (7, 4))
    assert halved(later, 7).facts.parts == ((3, 2), (7, 8))  # type: ignore[union-attr]


def test_for_a_loss_over_items_of_a_part_the_sentence_warns() -> None:
    assert "compares the items of a part" in halve_parts(trainer(staged(), images()), NotEnoughMemoryError("x"))
    assert "compares" not in halve_parts(trainer(small(), points()), NotEnoughMemoryError("x"))


@pytest.mark.parametrize("free", [None, 10**12, 0])
def test_on_a_cpu_a_batch_that_is_not_likely_to_fit_is_halved_before(
    free: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that takes too much there is killed without an error."""
    one = trainer(small(), points())
    _, held = saved_for_backward(lambda: one.losses(torch.arange(4)).sum(), one.optimisers.parameters())
    monkeypatch.setattr(TRIAL, "free_memory", lambda: held if free == 0 else free)
    if one.device.type != "cpu":
        pytest.skip("an accelerator says what it has not")
    found = trial_run(one, lambda sentence: None)
    # with room for what 4 items hold, of which 0.8 are taken and each needs 1.5: 2 at a time
    assert found.parts(0) == (8 if free == 0 else 1)


def test_tensors_saved_by_autograd_are_counted_once_and_without_the_weights() -> None:
    weight = torch.randn(1000, 100, requires_grad=True)
    x = torch.randn(50, 1000, requires_grad=True)

    def work() -> torch.Tensor:
        y = x @ weight
        # the exponential is held for its gradient, and again for that of the product
        z = y.exp()
        return (z * z).sum()

    found, held = saved_for_backward(work, [weight])
    assert held == 4 * (50 * 1000 + 50 * 100)
    found.backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None


def test_memory_errors_are_recognised() -> None:
    for lacking in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("could not create a primitive"),
        RuntimeError("std::bad_alloc"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to"),
    ):
        assert is_memory_error(lacking)
    assert not is_memory_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_memory_error(ValueError("a memory of other days"))


def test_an_error_that_is_not_about_memory_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer(small(), points())
    monkeypatch.setattr(one, "losses", lambda items, turn="model": torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        one.advance()


def test_a_step_that_fails_for_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer(small(optimiser=Optimiser(accumulate=2)), points())
    right, calls = one.losses, list[int]()

    def second(items: torch.Tensor, turn: str = "model") -> torch.Tensor:
        calls.append(len(items))
        if len(calls) == 2:
            raise MemoryError
        return right(items)

    monkeypatch.setattr(one, "losses", second)
    before = [p.detach().clone() for p in one.optimisers.parameters()]
    with pytest.raises(NotEnoughMemoryError):
        one.advance()
    assert one.step == 0 and all(
        torch.equal(a, b) and b.grad is None for a, b in zip(before, one.optimisers.parameters(), strict=True)
    )


def laid(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_memory_that_is_free_is_the_least_of_machine_and_groups(tmp_path: Path) -> None:
    meminfo = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    4000 kB\nHugePages_Total: 0\n"}
    assert free_memory(tmp_path / "nothing") is None
    assert free_memory(laid(tmp_path / "machine", meminfo)) == 4000 * 1024
    second = meminfo | {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.current": "5\n",
        "sys/fs/cgroup/a/memory.max": "3000000\n",
        "sys/fs/cgroup/a/memory.current": "2500000\n",
        "sys/fs/cgroup/a/memory.stat": "anon 7\ninactive_file 400000\n",
    }
    assert free_memory(laid(tmp_path / "second", second)) == 900_000
    first = meminfo | {
        "proc/self/cgroup": "4:cpu:/x\n3:memory:/x\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "300000\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 1000\n",
    }
    assert free_memory(laid(tmp_path / "first", first)) == 701_000
    assert fits_in(10.0, None) and fits_in(1.0, 2) and not fits_in(1.1, 2)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit of memory as Linux has it")
def test_a_run_under_a_real_limit_of_memory_ends(tmp_path: Path) -> None:
    """With 700 MB of address space above what torch takes, and a batch that needs more."""
    script = f"""
import resource, sys, torch
from pathlib import Path
from dataclasses import replace
torch.set_num_threads(1)
from softmix.data import Report
from softmix.data.store import make
from softmix.train import preset, training, read_run
from softmix.net import UNetSpec
values = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
values[::2] = 255
data = make("n", values, None, (), Report(64))
base = preset("plain", data.shape)
config = base.but(batch=512, steps=2, net=UNetSpec(width=32, depth=1, patch=2), precision="fp32", show=99)
# one step without a limit: what torch opens at its first step is not what is measured
for step in training(data, config.but(batch=8, steps=1), {str(tmp_path / "first")!r}):
    pass
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 700 * 2**20,) * 2)
for step in training(data, config, {str(tmp_path / "run")!r}, say=print):
    print(step.step, step.loss)
print(read_run({str(tmp_path / "run")!r}).facts.parts)
"""
    on_the_cpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", script], env=on_the_cpu, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "the memory is too small for 512 items at once" in done.stdout and "((0, " in done.stdout


# good starts


def test_an_unknown_model_and_unknown_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the model 'SMD' was asked for; there are smd, plain"):
        preset("SMD", (1, 28, 28))  # type: ignore[arg-type]
    for name in ("digits", Path("photos")):
        with pytest.raises(TrainingError, match="is a name: give softmix"):
            train(name, small(), tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_presets_have_the_documented_settings() -> None:
    picture, point = (1, 28, 28), (2,)
    kinds = {name: preset(name, picture) for name in MODELS}
    assert {name: type(config.task.head) for name, config in kinds.items()} == {
        "smd": SoftHead,
        "plain": PointHead,
        "published": PublishedSMD,
        "mixture": MixtureHead,
        "normal": NormalHead,
        "consistency": PointHead,
        "meanflow": MapHead,
        "imm": MapHead,
        "siddm": SoftHead,
    }
    assert {name: type(config.task.loss) for name, config in kinds.items()} == {
        "smd": FeatureDrift,
        "plain": Square,
        "published": PublishedSquare,
        "mixture": Likelihood,
        "normal": Likelihood,
        "consistency": Consistency,
        "meanflow": MeanFlow,
        "imm": InductiveMomentMatching,
        "siddm": SIDDM,
    }
    own = ("consistency", "meanflow", "imm")
    assert {type(config.task.process) for name, config in kinds.items() if name not in own} == {VP}
    assert isinstance(kinds["consistency"].task.process, VE) and isinstance(kinds["meanflow"].task.process, Flow)
    assert (kinds["consistency"].task.output, kinds["meanflow"].task.output, kinds["plain"].task.output) == (
        "edm",
        "flow",
        "v",
    )
    assert kinds["consistency"].task.times.logsnr == (1.5, 4.0) and kinds["meanflow"].task.times.logsnr == (0.8, 2.0)
    assert kinds["imm"].task.process == Flow(end=1 / 160) and kinds["imm"].task.output == "flow"
    assert kinds["imm"].task.times == Denoise().times
    assert kinds["smd"].task.head == SoftHead() and kinds["plain"].task.loss == Square("v")
    assert kinds["mixture"].task.head == MixtureHead(8, "pixel") and kinds["mixture"].task.loss == Likelihood(0.5)
    assert preset("mixture", point).task.head == MixtureHead(64, "item") and preset(
        "mixture", point
    ).task.loss == Likelihood(0.9)
    given = CondSpec(image=3)
    assert preset("smd", picture, given).task.loss == FeatureEnergy(m=4, pixels=1.0, features=0.3)
    assert preset("smd", picture, CondSpec(values=2)).task.loss == preset("smd", picture, given).task.loss
    assert preset("smd", picture, CondSpec((("class", 10),))) == kinds["smd"]
    assert all(preset(name, picture, given) == kinds[name] for name in MODELS if name != "smd")
    assert preset("smd", point, given) == preset("smd", point)
    ring = preset("smd", point)
    assert ring.task.loss == Energy(m=2, weight="v") and ring.task.head == SoftHead(mean="none")
    assert (ring.batch, ring.optimiser.rate, ring.precision) == (256, 2e-3, "fp32")
    assert (kinds["smd"].optimiser.rate, kinds["smd"].precision) == (1e-3, "auto")
    assert all(config.optimiser.warmup_share == 0.1 for config in (*kinds.values(), ring))


@pytest.mark.parametrize(
    ("shape", "batch"),
    [
        ((1, 8, 8), 64),
        ((3, 32, 32), 64),
        ((3, 64, 64), 64),
        ((3, 64, 128), 32),
        ((3, 128, 128), 16),
        ((3, 512, 512), 8),
    ],
)
def test_larger_images_have_smaller_batches(shape: tuple[int, ...], batch: int) -> None:
    assert preset("plain", shape).batch == batch


def test_small_images_have_a_network_of_their_own() -> None:
    assert preset("smd", (1, 16, 16)).task.net == UNetSpec(width=32, depth=1, patch=1)
    assert preset("smd", (1, 17, 8)).task.net == UNetSpec(width=64, depth=1, patch=2)
    assert preset("smd", (2,)).task.net == MLPSpec()


def test_items_that_no_network_takes_are_refused_with_a_sentence(tmp_path: Path) -> None:
    volumes = make("volumes", torch.randn(20, 1, 4, 4, 4), None, (), Report(20))
    with pytest.raises(TrainingError, match="cannot be trained on"):
        next(training(volumes, small(), tmp_path / "run"))
    for shape in ((), (1, 2, 3, 4)):
        with pytest.raises(TrainingError, match="cannot be trained on"):
            require_trainable(shape)
    assert not (tmp_path / "run").exists()
    require_trainable((2,))
    require_trainable((1, 8, 8))


@pytest.mark.parametrize("model", MODELS)
def test_sequences_are_trained_by_every_preset_that_suits_them(model: str, tmp_path: Path) -> None:
    data = make("songs", torch.randn(20, 6, 3), None, (), Report(20))
    config = preset(model, data.shape).but(net=SequenceSpec(width=16, depth=2), batch=8, steps=2, precision="fp32")
    for step in training(data, config, tmp_path / "run"):
        assert step.loss == step.loss
    made = softmix.load(tmp_path / "run")
    steps = getattr(made.denoiser, "steps", 2)
    assert softmix.sample(made.denoiser, 2, steps, sampler=made.sampler).shape == (2, 6, 3)


def test_the_sampler_suits_the_model() -> None:
    suited = {name: preset(name, (1, 8, 8)).task.suited() for name in MODELS}
    assert suited["plain"] is adams
    assert suited["mixture"] is ancestral and suited["normal"] is ancestral and suited["published"] is ancestral
    assert suited["consistency"] is renoise and suited["meanflow"] is ddim and suited["imm"] is ddim
    assert suited["siddm"] is ancestral
    soft = suited["smd"]
    assert soft.func is ancestral and soft.keywords == {"eta": 0.0}  # type: ignore[attr-defined]
    run = Run(staged(), facts_of(images(), staged()))
    assert staged().task.suited(SoftAtHighNoise(build(run)["model"], -6.0)) is soft_adams


def test_a_run_in_two_stages_gives_a_staged_denoiser_from_its_second_on() -> None:
    run = Run(staged(), facts_of(images(), staged()))
    network, task = build(run)["model"], staged().task
    assert task.result(network, run.facts, 4) is network
    late = task.result(network, run.facts, 5)
    assert isinstance(late, SoftAtHighNoise) and late.soft is network and late.until == -6.0
    assert isinstance(task.result(network, replace(run.facts, steps=100, ends=(8,)), 5), SoftAtHighNoise)
    assert task.result(network, replace(run.facts, steps=None), 10**6) is network
    assert small().task.result(network, run.facts, 8) is network
