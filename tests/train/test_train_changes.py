"""Resumed runs: allowed changes, added steps, a start from other weights, and the checks before anything is written."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import softmix
from softmix.cond import CondSpec
from softmix.config import ConfigError, dumps, to_json
from softmix.data import load as load_data
from softmix.denoiser import PointHead, SoftHead
from softmix.loss import FeatureEnergy, Square
from softmix.net import MLPSpec, UNetSpec
from softmix.train import (
    Config,
    Denoise,
    Optimiser,
    Run,
    RunError,
    Trainer,
    TrainingError,
    checkpoint,
    data_of,
    facts_of,
    load,
    log_of,
    read_run,
    training,
)
from softmix.train.device_step import Failure
from softmix.train.record import EarlierSettings, StartingRun, read

RING = load_data("toy:ring", limit=300)


def small(**changes: object) -> Config:
    base = Config(Denoise(net=MLPSpec(width=8, depth=1), head=PointHead(), loss=Square("v")), batch=16, steps=8, save=2)
    return base.but(optimiser=Optimiser(rate=0.01, warmup=2), **changes)  # type: ignore[arg-type]


def slower(rate: float, **changes: object) -> Config:
    return replace(small(**changes), optimiser=Optimiser(rate=rate, warmup=2))


def run(out: Path, config: Config, until: int | None = None, **more: object) -> list[int]:
    """Trains, leaving the loop after step `until`, and gives the steps that were taken."""
    steps = []
    for step in training(RING, config, out, **more):  # type: ignore[arg-type]
        steps.append(step.step)
        if step.step == until:
            break
    return steps


def weights(out: Path) -> torch.Tensor:
    return torch.cat([p.flatten() for p in load(out, "model").network.parameters()])


def held(out: Path, step: int) -> checkpoint.Checkpoint:
    """The whole checkpoint of one step."""
    name = f"step-{step:06d}"
    with tempfile.TemporaryDirectory() as alone:
        shutil.copytree(out / "checkpoints" / name, Path(alone) / name)
        found = checkpoint.latest(Path(alone))
    assert found is not None
    return found


def killed(out: Path, step: int) -> None:
    """As after a kill right after the checkpoint of this step."""
    for folder in (out / "checkpoints").iterdir():
        if int(folder.name[5:]) > step:
            shutil.rmtree(folder)


# what may change


def test_the_rate_of_a_resumed_run_may_change_and_config_json_records_the_step(tmp_path: Path) -> None:
    run(tmp_path, small(), 4)
    steps = list(training(RING, slower(0.001), tmp_path))
    assert [step.step for step in steps] == [5, 6, 7, 8]
    assert steps[0].notes == ("from step 5 on optimiser.rate is 0.001; before it was 0.01",)
    assert log_of(tmp_path)[0]["notes"] == list(steps[0].notes)
    kept = read_run(tmp_path)
    assert kept.config.optimiser.rate == 0.001 and kept.earlier == (EarlierSettings(4, 0.01, "stop"),)
    # 6 of 8 steps are done, and the rate is on its way down
    assert steps[1].rate == 0.0005


def test_a_change_holds_from_its_step_on_though_steps_before_it_are_taken_again(tmp_path: Path) -> None:
    run(tmp_path / "a", small(), 4)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    run(tmp_path / "a", slower(0.001), 6)
    shutil.rmtree(tmp_path / "a/checkpoints/step-000006")
    shutil.rmtree(tmp_path / "a/checkpoints/step-000004")
    # the one of step 2 was thrown away when that of 6 was kept: begin again
    assert run(tmp_path / "a", slower(0.001)) == list(range(1, 9))
    run(tmp_path / "b", slower(0.001))
    assert torch.equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    run(tmp_path / "never", small())
    assert not torch.equal(weights(tmp_path / "a"), weights(tmp_path / "never"))


def test_a_change_before_the_first_step_needs_no_record(tmp_path: Path) -> None:
    run(tmp_path / "a", small(), 2)
    killed(tmp_path / "a", 0)
    run(tmp_path / "a", slower(0.001))
    run(tmp_path / "b", slower(0.001))
    assert read_run(tmp_path / "a").earlier == ()
    assert torch.equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_a_second_change_replaces_the_part_it_overtakes(tmp_path: Path) -> None:
    run(tmp_path, small(keep=9), 4)
    run(tmp_path, slower(0.001, keep=9), 6)
    run(tmp_path, slower(0.002, keep=9), 7)
    assert read_run(tmp_path).earlier == (EarlierSettings(4, 0.01, "stop"), EarlierSettings(6, 0.001, "stop"))
    killed(tmp_path, 4)
    run(tmp_path, slower(0.003, keep=9), 5)
    assert read_run(tmp_path).earlier == (EarlierSettings(4, 0.002, "stop"),)


@pytest.mark.parametrize(("name", "value"), [("nonfinite", "skip"), ("save", 3), ("show", 5), ("keep", 7)])
def test_policy_and_distances_may_change(tmp_path: Path, name: str, value: object) -> None:
    run(tmp_path, small(), 4)
    steps = list(training(RING, small(**{name: value}) if name != "save" else small().but(save=3), tmp_path))
    before = getattr(small(), name)
    assert steps[0].notes == (f"from step 5 on {name} is {value}; before it was {before}",)
    assert getattr(read_run(tmp_path).config, name) == value
    assert len(read_run(tmp_path).earlier) == (name == "nonfinite")


@pytest.mark.parametrize(
    "other",
    [
        {"batch": 32},
        {"seed": 1},
        {"drop": 0.2},
        {"output": "eps"},
        {"ema": (0.1,)},
        {"net": MLPSpec(width=16, depth=1)},
        {"precision": "bf16"},
    ],
)
def test_nothing_else_may_change(tmp_path: Path, other: dict[str, object]) -> None:
    run(tmp_path, small(), 2)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(TrainingError, match=rf"another {next(iter(other))}: .*only optimiser.rate, nonfinite"):
        run(tmp_path, small().but(**other))  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="another optimiser"):
        run(tmp_path, small().but(optimiser=Optimiser(rate=0.01, warmup=2, clip=0.5)))
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
def test_the_advice_after_a_loss_that_is_not_finite_can_be_followed(
    tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every change that the sentence names is taken by the run."""
    right = Trainer.losses

    def broken(self: Trainer, items: torch.Tensor, turn: str = "model") -> torch.Tensor:
        return right(self, items) * (float("nan") if self.run.peak(self.step) > 0.005 and self.step >= 5 else 1.0)

    monkeypatch.setattr(Trainer, "losses", broken)
    config = small(nonfinite=policy)
    with pytest.raises(TrainingError, match=r"--set optimiser\.rate=0\.003") as error:
        # a run that never gave up would go on for ever
        list(itertools.islice(training(RING, config.but(steps=30), tmp_path), 200))
    said = str(error.value)
    assert ("nonfinite=rollback" in said and "nonfinite=skip" in said) is (policy == "stop")
    assert "the run continues from step" in said and "same command" in said
    steps = run(tmp_path, replace(slower(0.003, nonfinite=policy), steps=30))
    assert steps[-1] == 30


def test_a_run_that_gives_up_has_tried_ten_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def failing(self: Trainer, rate: float | None = None) -> tuple[float, float]:
        if rate == 0.0:
            return 1.0, 1.0
        tried.append(self.step)
        self._failure = Failure(float("nan"), 1.0)
        return float("nan"), 1.0

    monkeypatch.setattr(Trainer, "advance", failing)
    with pytest.raises(TrainingError, match="10 tries with nonfinite = skip did not help"):
        list(training(RING, replace(small(nonfinite="skip"), steps=30), tmp_path))
    assert tried == list(range(10))


def test_a_rolled_back_run_resumes_with_its_new_draws_and_its_averages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Trainer.losses

    def broken(self: Trainer, items: torch.Tensor, turn: str = "model") -> torch.Tensor:
        return right(self, items) * (float("nan") if self.step == 3 and self.attempt == 0 else 1.0)

    monkeypatch.setattr(Trainer, "losses", broken)
    config = small(nonfinite="rollback")
    run(tmp_path / "alone", config)
    run(tmp_path / "cut", config, 5)
    assert held(tmp_path / "cut", 5).state["attempt"] == 1
    run(tmp_path / "cut", config)
    assert torch.equal(weights(tmp_path / "alone"), weights(tmp_path / "cut"))
    ends = [held(tmp_path / name, 8).tensors["ema-0.100"] for name in ("alone", "cut")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


# longer


def test_a_finished_run_trains_nothing(tmp_path: Path) -> None:
    run(tmp_path, small())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert run(tmp_path, small()) == []
    assert before == {path: path.read_bytes() for path in before}


def test_more_steps_are_added_to_a_run_that_has_ended(tmp_path: Path) -> None:
    run(tmp_path, small())
    steps = list(training(RING, small(), tmp_path, more=4))
    assert [step.step for step in steps] == [9, 10, 11, 12]
    assert {step.total for step in steps} == {12}
    assert "continues to step 12; from step 9 on" in steps[0].notes[0]
    # the rate of the step after: up for 2 steps, and down over the last half
    assert [step.rate for step in steps] == pytest.approx([0.01, 0.01, 0.005, 0])
    kept = read_run(tmp_path)
    assert (kept.facts.steps, kept.facts.ends, kept.config.steps) == (12, (8,), 8)
    # the command that began it is at home too, and there is nothing left to do
    assert run(tmp_path, small()) == []
    assert run(tmp_path, small(), more=4) == [13, 14, 15, 16]


def test_more_steps_that_are_cut_off_go_on_and_are_not_added_twice(tmp_path: Path) -> None:
    for name in ("alone", "cut"):
        run(tmp_path / name, small())
    run(tmp_path / "alone", small(), more=4)
    assert run(tmp_path / "cut", small(), 10, more=4) == [9, 10]
    assert run(tmp_path / "cut", small(), more=4) == [11, 12]
    assert torch.equal(weights(tmp_path / "alone"), weights(tmp_path / "cut"))
    assert read_run(tmp_path / "alone") == read_run(tmp_path / "cut")


def test_a_greater_number_of_steps_makes_a_run_longer_whether_it_has_ended_or_not(tmp_path: Path) -> None:
    run(tmp_path / "ended", small())
    assert run(tmp_path / "ended", small().but(steps=12)) == [9, 10, 11, 12]
    assert run(tmp_path / "ended", small().but(steps=12)) == []
    run(tmp_path / "not", small(), 3)
    assert run(tmp_path / "not", small().but(steps=12)) == list(range(4, 13))
    assert torch.equal(weights(tmp_path / "ended"), weights(tmp_path / "not"))


def test_an_impossible_length_is_refused(tmp_path: Path) -> None:
    run(tmp_path, small(), 3)
    with pytest.raises(TrainingError, match=r"has done 3 of 8 steps, and 5 more.*--steps 13"):
        run(tmp_path, small(), more=5)
    with pytest.raises(TrainingError, match=r"a run of 8 steps, and 4 steps were asked for.*not shorter"):
        run(tmp_path, small().but(steps=4))
    with pytest.raises(TrainingError, match="a run of 8 steps, and 3 minutes were asked for"):
        run(tmp_path, small().but(steps=None, minutes=3.0))
    with pytest.raises(TrainingError, match="-1 more steps"):
        run(tmp_path, small(), more=-1)
    with pytest.raises(TrainingError, match="holds no run"):
        run(tmp_path / "new", small(), more=5)
    with pytest.raises(TrainingError, match="the length of the run is missing"):
        run(tmp_path / "new", small().but(steps=None))
    assert not (tmp_path / "new").exists() and read_run(tmp_path).facts.steps == 8


# from another's weights


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("parents") / "parent"
    run(out, small())
    yield out


def test_a_run_begins_with_the_averaged_weights_of_another_and_says_which(parent: Path, tmp_path: Path) -> None:
    model = load(parent)
    steps = training(RING, slower(1e-9, seed=3), tmp_path / "child", start=model)
    next(steps)
    steps.close()
    begun = read_run(tmp_path / "child").facts
    assert begun.start is not None
    assert (begun.start.weights, begun.start.step, begun.start.fingerprint) == ("ema-0.050", 8, model.fingerprint)
    assert (tmp_path / "child" / begun.start.run).resolve() == parent.resolve()
    theirs, ours = model.network.state_dict(), load(tmp_path / "child", "model").network.state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-7) for name in theirs)
    # before the first step too, where a run that is stopped at once would be sampled
    begun_with = held(tmp_path / "child", 0).tensors
    assert all(torch.equal(begun_with[name][key], theirs[key]) for name in ("model", "ema-0.050") for key in theirs)
    averaged = load(tmp_path / "child").network.state_dict()
    assert all(torch.allclose(averaged[name], theirs[name], atol=1e-7) for name in theirs)


def test_a_run_from_the_weights_of_another_resumes_with_the_same_bits(parent: Path, tmp_path: Path) -> None:
    model = load(parent)
    run(tmp_path / "a", small(), start=model)
    run(tmp_path / "b", small(), 3, start=model)
    run(tmp_path / "b", small(), 5, start=model)
    run(tmp_path / "b", small())
    assert torch.equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    run(tmp_path / "c", small())
    assert not torch.equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_a_kill_before_the_first_checkpoint_does_not_lose_the_start(parent: Path, tmp_path: Path) -> None:
    run(tmp_path / "a", small(), start=load(parent))
    run(tmp_path / "b", small(), 1, start=load(parent))
    shutil.rmtree(tmp_path / "b/checkpoints")
    run(tmp_path / "b", small())
    assert torch.equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    moved = shutil.copytree(parent, tmp_path / "parent")
    run(tmp_path / "c", small(), 1, start=load(moved))
    shutil.rmtree(tmp_path / "c/checkpoints")
    run(moved, small(), more=4)
    with pytest.raises(TrainingError, match="was to begin with the weights"):
        run(tmp_path / "c", small())
    shutil.rmtree(moved)
    with pytest.raises(TrainingError, match="is not a run folder"):
        run(tmp_path / "c", small())


def test_weights_that_do_not_fit_and_another_start_are_refused(parent: Path, tmp_path: Path) -> None:
    model = load(parent)
    with pytest.raises(TrainingError, match=r"do not fit: net: MLPSpec\(width=16.*--config"):
        run(tmp_path / "x", small().but(net=MLPSpec(width=16, depth=1)), start=model)
    with pytest.raises(TrainingError, match="do not fit: output: eps here, v there"):
        run(tmp_path / "x", small(output="eps"), start=model)
    assert not (tmp_path / "x").exists()
    run(tmp_path / "own", small(), 1)
    with pytest.raises(TrainingError, match="began with weights of its own"):
        run(tmp_path / "own", small(), start=model)
    run(tmp_path / "child", small(), 1, start=model)
    other = shutil.copytree(parent, tmp_path / "other")
    with pytest.raises(TrainingError, match="not with those of"):
        run(tmp_path / "child", small(), start=load(other))


def test_a_child_scales_by_the_spread_of_its_parents_data(parent: Path, tmp_path: Path) -> None:
    far = replace(RING, values=3 * RING.values, fingerprint="another")
    next(training(far, small(), tmp_path / "child", start=load(parent)))
    assert read_run(tmp_path / "child").facts.data_sd == read_run(parent).facts.data_sd


# the data of a run


def written(folder: Path, count: int = 40) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / "points.npy", np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32))
    return folder / "points.npy"


def trained_on(place: Path, out: Path, until: int = 1, **options: object) -> None:
    for step in training(load_data(place, **options), small(), out):  # type: ignore[arg-type]
        if step.step == until:
            break


def test_config_json_has_the_place_of_the_data_relative_to_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = written(tmp_path / "data")
    trained_on(place.relative_to(tmp_path), Path("runs/x"), limit=30)
    kept = json.loads((tmp_path / "runs/x/config.json").read_text())["facts"]["origin"]
    assert kept["source"] == "../../data/points.npy" and kept["limit"] == 30
    # both moved together, and asked for from elsewhere
    shutil.move(tmp_path / "data", tmp_path / "there/data")
    shutil.move(tmp_path / "runs", tmp_path / "there/runs")
    monkeypatch.chdir("/")
    found = data_of(tmp_path / "there/runs/x")
    assert len(found) == 30 and found.fingerprint == read_run(tmp_path / "there/runs/x").facts.fingerprint


def test_other_data_in_the_place_of_a_runs_own_are_seen(tmp_path: Path) -> None:
    place = written(tmp_path / "data")
    trained_on(place, tmp_path / "run")
    np.save(place, np.ones((40, 2), dtype=np.float32))
    with pytest.raises(RunError, match=r"was trained on points.*fingerprint.*holds 40 items.*name the data"):
        data_of(tmp_path / "run")
    other = written(tmp_path / "other")
    assert data_of(tmp_path / "run", other).fingerprint == read_run(tmp_path / "run").facts.fingerprint
    with pytest.raises(TrainingError, match="holds a run on other data"):
        trained_on(place, tmp_path / "run")


def test_a_run_resumes_with_moved_data_and_records_their_new_place(tmp_path: Path) -> None:
    place = written(tmp_path / "data")
    trained_on(place, tmp_path / "run", 3)
    shutil.move(place, tmp_path / "moved.npy")
    trained_on(tmp_path / "moved.npy", tmp_path / "run", 4)
    origin = read_run(tmp_path / "run").facts.origin
    assert origin is not None and origin.source == "../moved.npy"
    assert len(data_of(tmp_path / "run")) == 40


def test_the_data_of_a_run_of_0_1_are_read_by_name_and_size(tmp_path: Path) -> None:
    """Its config.json does not say how they were read."""
    base = softmix.preset("plain", (1, 8, 8))
    data = load_data("digits", limit=50)
    config = base.but(net=replace(base.task.net, width=8), batch=4, steps=1)  # type: ignore[type-var]
    for _ in training(data, config, tmp_path / "run"):
        pass
    old = read_run(tmp_path / "run")
    old = replace(old, facts=replace(old.facts, origin=None))
    (tmp_path / "run/config.json").write_text(dumps(old))
    assert data_of(tmp_path / "run").fingerprint == data.fingerprint


# config.json


def test_a_config_json_of_0_1_has_the_same_meaning() -> None:
    """Without the fields that came later: a rise as long as `warmup`, nothing mirrored, parts as asked for."""
    config = small()
    now = Run(config, facts_of(RING, config))
    tree = json.loads(dumps(now))
    # what is trained stood beside how
    tree["config"] |= tree["config"].pop("task")
    del tree["config"]["kind"]
    for part, names in OLD.items():
        holder = tree
        for key in part:
            holder = holder[key]
        for name in names:
            del holder[name]
    old = read(json.dumps(tree))
    assert old.config == replace(config, optimiser=old.config.optimiser)
    assert old.config.optimiser.warmup_share is None and not old.config.task.flip
    assert old.facts.shown == "first" and old.facts.start is None and old.facts.origin is None
    assert old.earlier == () and old.parts(5) == 1 and old.peak(5) == 0.01


def test_a_config_json_that_0_1_wrote_is_read(tmp_path: Path) -> None:
    """The file is as 0.1 wrote it: what is trained beside how, no conditions but classes, a setting that is gone."""
    text = (Path(__file__).parent / "config-0.1.json").read_text()
    run = read(text)
    assert run.config.task == Denoise(
        net=UNetSpec(width=16, depth=1),
        head=SoftHead(),
        loss=FeatureEnergy(),
        classes=True,
        drop=0.2,
    )
    assert (run.config.batch, run.config.steps, run.config.ema) == (64, 7, (0.05, 0.1))
    assert run.facts.cond_spec == CondSpec((("class", 3),)) and run.facts.class_names == ("shoe", "coat", "bag")
    # written as today, it is the same run
    assert read(dumps(run)) == run
    alike = text.replace('"alike": false', '"alike": true')
    with pytest.raises(ConfigError, match=r'config\.config\.task\.loss: the key "alike" is unknown'):
        read(alike)


OLD: dict[tuple[str, ...], tuple[str, ...]] = {
    ("config", "optimiser"): ("warmup_share",),
    ("config",): ("flip", "curriculum"),
    ("facts",): ("origin", "ends", "parts", "shown", "start", "cond"),
    (): ("earlier",),
}


def test_defaults_have_the_documented_values() -> None:
    """Each is written into config.json, and decides what a run without it is."""
    found: Any = to_json(Config())
    found |= found.pop("task")
    assert found.pop("kind") == "Denoise"
    parts = {name: found.pop(name) for name in ("process", "net", "head", "loss", "times", "optimiser")}
    assert {name: part["kind"] for name, part in parts.items() if "kind" in part} == {
        "process": "VP",
        "net": "UNetSpec",
        "head": "SoftHead",
        "loss": "Energy",
    }
    assert parts["times"] == {"by": "t", "low": 1e-3, "logsnr": [-10.0, 10.0], "high": 1.0}
    assert parts["optimiser"] == {
        "rate": 1e-3,
        "betas": [0.9, 0.99],
        "weight_decay": 0.0,
        "warmup": 100,
        "decay": 0.5,
        "clip": 1.0,
        "accumulate": 1,
        "warmup_share": None,
    }
    assert found == {
        "output": "v",
        "batch": 128,
        "steps": None,
        "minutes": None,
        "classes": False,
        "drop": 0.1,
        "ema": [0.05, 0.1],
        "precision": "auto",
        "compile": False,
        "seed": 0,
        "save": 0,
        "show": 0,
        "keep": 2,
        "nonfinite": "stop",
        "flip": False,
        "curriculum": None,
        "graph": "auto",
    }


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: Config(batch=0), "at least 1 item"),
    (lambda: Config(batch=99999999999), "at most 1,048,576"),
    (lambda: Config(steps=0), "at least 1 step"),
    (lambda: Config(steps=10**18), "at most 1,000,000,000"),
    (lambda: Config(minutes=0.0), "minutes are above 0"),
    (lambda: Config(minutes=float("nan")), "found nan"),
    (lambda: Config(minutes=float("inf")), "found inf"),
    (lambda: Config(seed=2**63), "64 bits"),
    (lambda: Config(seed=-(2**63) - 1), "64 bits"),
    (lambda: Denoise(drop=1.1), "drop is a share"),
    (lambda: Denoise(drop=-0.1), "drop is a share"),
    (lambda: Config(save=-1), "save and show"),
    (lambda: Config(show=-1), "save and show"),
    (lambda: Config(keep=0), "1 checkpoint"),
    (lambda: Config(ema=()), "at least one width"),
    (lambda: Optimiser(rate=0.0), "the rate is above 0"),
    (lambda: Optimiser(rate=1e300), "at most 10"),
    (lambda: Optimiser(rate=float("nan")), "found nan"),
    (lambda: Optimiser(betas=(1.0, 0.9)), "each beta"),
    (lambda: Optimiser(betas=(0.9, -0.1)), "each beta"),
    (lambda: Optimiser(weight_decay=-1.0), "weight_decay"),
    (lambda: Optimiser(rate=0.5, weight_decay=2.0), "change their sign"),
    (lambda: Optimiser(warmup=-1), "warmup is at least 0"),
    (lambda: Optimiser(warmup_share=1.5), "warmup_share is a share"),
    (lambda: Optimiser(warmup_share=-0.1), "warmup_share is a share"),
    (lambda: Optimiser(decay=1.5), "decay is a share"),
    (lambda: Optimiser(decay=-0.5), "decay is a share"),
    (lambda: Optimiser(clip=0.0), "clip is above 0"),
    (lambda: Optimiser(accumulate=0), "accumulate is from 1"),
    (lambda: Optimiser(accumulate=10**10), "accumulate is from 1"),
]


@pytest.mark.parametrize(("made", "said"), REFUSED)
def test_a_number_that_makes_no_sense_is_refused_when_it_is_written_down(made: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made()


def test_the_edges_of_the_ranges_are_in_them() -> None:
    Config(Denoise(drop=0.0), batch=1, steps=1, seed=-(2**63), keep=1)
    Config(Denoise(drop=1.0), batch=2**20, steps=10**9, seed=2**63 - 1, minutes=1e-3)
    Optimiser(rate=10.0, betas=(0.0, 0.0), warmup=0, decay=0.0, accumulate=1, warmup_share=0.0)
    Optimiser(rate=1e-9, decay=1.0, accumulate=2**20, warmup_share=1.0, weight_decay=1.0)


# the folder


BAD: dict[str, Callable[[Path], Path]] = {
    "a name of 300 characters": lambda here: here / ("x" * 300),
    "a name of 300 characters below": lambda here: here / "runs" / ("x" * 300) / "y",
    "a file as parent": lambda here: here / "file" / "run",
    "a file": lambda here: here / "file",
    "a folder with other things": lambda here: here / "full",
    "a path with a NUL": lambda here: here / "a\0b",
    "a folder of the system's": lambda here: Path("/proc/softmix"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("kind", BAD)
def test_an_impossible_run_folder_is_refused_before_anything_is_written(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter").write_text("text")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(TrainingError, match="run") as error:
        next(training(RING, small(), BAD[kind](tmp_path)))
    assert len(str(error.value)) < 400
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(TrainingError, match="Permission denied"):
        next(training(RING, small(), tmp_path / "closed" / "run"))


def test_a_lock_or_a_half_written_config_of_ours_does_not_make_a_folder_anothers(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").touch()
    (tmp_path / "run/config.json.tmp").write_text("{")
    assert run(tmp_path / "run", small(), 1) == [1]
    (tmp_path / "run/config.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"config\.json cannot be read"):
        run(tmp_path / "run", small())


def test_a_run_whose_last_step_is_skipped_has_a_checkpoint_of_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Trainer.losses
    monkeypatch.setattr(
        Trainer,
        "losses",
        lambda self, items, turn="model": right(self, items) * (float("nan") if self.step == 7 else 1.0),
    )
    assert run(tmp_path, small(nonfinite="skip")) == [1, 2, 3, 4, 5, 6, 7]
    assert checkpoint.newest_step(tmp_path / "checkpoints") == 8
    assert run(tmp_path, small(nonfinite="skip")) == []


def test_a_start_is_read_under_the_name_of_its_class_in_earlier_versions() -> None:
    facts = replace(facts_of(RING, small()), start=StartingRun("../other", "model", 8, "0123456789ab"))
    text = dumps(Run(small(), facts))
    assert '"kind": "StartingRun"' in text
    assert read(text.replace('"kind": "StartingRun"', '"kind": "Start"')) == Run(small(), facts)


def test_a_key_that_stands_twice_in_config_json_is_refused() -> None:
    text = dumps(Run(small(), facts_of(RING, small())))
    with pytest.raises(ConfigError, match='the key "seed" stands twice'):
        read(text.replace('"seed": 0', '"seed": 0, "seed": 1'))
