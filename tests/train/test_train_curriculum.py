"""A curriculum: the clusters of each stage, the pacing, and runs that keep it."""

from __future__ import annotations

import importlib.util
import json
import os
import random
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

from softmix.config import ConfigError, from_json, to_json
from softmix.data import load
from softmix.denoiser import MapHead, PointHead, SoftHead
from softmix.loss import SIDDM, ChainMMD, Consistency, FeatureDrift, MeanFlow, Square
from softmix.net import MLPSpec
from softmix.process import VP, Flow
from softmix.rng import Rng, permutation
from softmix.train import (
    Batch,
    Config,
    Curriculum,
    Denoise,
    DenoisePair,
    Run,
    Times,
    Trainer,
    facts_of,
    training,
    tuning,
)
from softmix.train.curriculum import Pace
from softmix.train.denoise import PACE
from softmix.train.noise_times import times
from softmix.train.trial import trial_run

STEPS = 60


def small(**changes: Any) -> Config:
    task = Denoise(net=MLPSpec(width=16, depth=1), head=PointHead(), loss=Square("v"))
    return Config(task, batch=32, steps=STEPS, save=2, precision="fp32").but(**changes)


def batch_of(count: int, progress: float = 0.0, seed: int = 0, device: str = "cpu") -> Batch:
    items = torch.arange(count, device=device)
    return Batch(items, items, Rng(seed, items, "train.0", device), seed, progress=progress)  # type: ignore[arg-type]


def pace_at(curriculum: Curriculum, stage: int, device: str = "cpu") -> Pace:
    pace = Pace(curriculum).to(device)
    pace.stage.fill_(stage)
    return pace


def clusters_of(task: Denoise, stage: int, device: str, seed: int = 0) -> torch.Tensor:
    """The number of examples in each cluster, of 8,000; cluster 0 has the least noise."""
    assert task.curriculum is not None
    t = times(task, batch_of(8000, seed=seed, device=device), pace_at(task.curriculum, stage, device))
    share = (t - task.times.low) / (1 - task.times.low)
    if task.times.by == "logsnr":
        low, high = task.times.logsnr
        share = 1 - (task.process.logsnr(t) - low) / (high - low)  # type: ignore[union-attr]
    return (share * task.curriculum.clusters).floor().clamp(0, task.curriculum.clusters - 1).long().bincount().cpu()


# the noise levels of a stage


@pytest.mark.parametrize("law", [Times(), Times("logsnr", logsnr=(-8.0, 8.0))])
@pytest.mark.parametrize("stage", [1, 2, 7, 10])
def test_a_stage_trains_evenly_on_the_levels_with_the_most_noise(law: Times, stage: int, device: str) -> None:
    """The golden sequence leaves less than 25 of 8,000 examples to chance: 6 at most were measured."""
    task = Denoise(process=VP(), times=law, curriculum=Curriculum(10))
    counts = clusters_of(task, stage, device)
    wanted = torch.zeros(10)
    wanted[10 - stage :] = 8000 / stage
    assert torch.allclose(counts.float(), wanted[: len(counts)], atol=25)


def test_with_hard_first_the_levels_with_the_least_noise_enter_first(device: str) -> None:
    counts = clusters_of(Denoise(curriculum=Curriculum(10, "hard first")), 3, device)
    assert len(counts) == 3 and torch.allclose(counts.float(), torch.full((3,), 8000 / 3), atol=25)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_order_is_that_of_the_seed(seed: int, device: str) -> None:
    task = Denoise(curriculum=Curriculum(10, "random"))
    easiest_first = permutation(seed, 10, "curriculum")[:4]
    found = clusters_of(task, 4, device, seed).gt(25).nonzero()[:, 0].tolist()
    assert found == sorted((9 - easiest_first).tolist())


def test_the_last_stage_has_the_law_of_no_curriculum(device: str) -> None:
    task, batch = Denoise(curriculum=Curriculum(20, pacing="even")), batch_of(8000, 1.0, device=device)
    plain = times(replace(task, curriculum=None), batch).sort().values
    # as even as the golden sequence, so that the sorted times differ by less than one in a thousand
    assert float((times(task, batch).sort().values - plain).abs().max()) < 1e-3


def test_times_stay_within_their_law(device: str) -> None:
    """Also at a share that rounds to 1, and to a border between clusters."""
    curriculum = Curriculum(20)
    u = torch.tensor([0.0, 0.05, 0.1, 0.5, 1 - 2**-53], dtype=torch.float64, device=device)
    for stage in range(1, 21):
        for high in (True, False):
            share = curriculum.shares(u, stage, 0, high)
            assert bool(((share >= 0) & (share <= 1)).all())
            easy = share if high else 1 - share
            assert float(easy.min()) >= 1 - stage / 20 - 1e-12


# pacing


def test_even_stages_have_equal_lengths(device: str) -> None:
    curriculum = Curriculum(4, pacing="even", until=0.5)
    stages = [curriculum.stage(k / 1000) for k in range(1000)]
    assert [stages.count(n) for n in (1, 2, 3)] == [125, 125, 125] and stages.count(4) == 625
    assert stages == sorted(stages)


def test_mixed_trains_every_level_as_often_as_even(device: str) -> None:
    """Counts in five clusters over a run of 100,000 examples; the sd of a count is at most 160."""
    even = Denoise(curriculum=Curriculum(5, pacing="even", until=0.8))
    mixed = Denoise(curriculum=Curriculum(5, pacing="mixed", until=0.8))

    def counts(task: Denoise) -> torch.Tensor:
        each = [times(task, batch_of(1000, (k + 0.5) / 100, seed=k, device=device)) for k in range(100)]
        return torch.histc(torch.cat(each).cpu(), 5, 0.001, 1)

    expected = counts(even)
    # the most noise is trained most: 0.8 / 5 (1 + 1/2 + 1/3 + 1/4 + 1/5) + 0.2 / 5 of all
    assert float(expected[4]) == pytest.approx(100_000 * (0.16 * (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) + 0.04), abs=300)
    assert float((counts(mixed) - expected).abs().max()) < 5 * 160
    # nothing comes before the other
    first = times(mixed, batch_of(20_000, 0.0, device=device))
    last = times(mixed, batch_of(20_000, 1.0, device=device))
    assert torch.equal(first, last)


def test_mixed_draws_for_an_item_do_not_depend_on_its_batch(device: str) -> None:
    task = Denoise(curriculum=Curriculum(5, pacing="mixed"))
    many = times(task, batch_of(40, device=device))
    items = torch.tensor([17], device=device)
    assert torch.equal(times(task, Batch(items, items, Rng(0, items, "train.0", device))), many[17:18])


def paced(losses: list[float], curriculum: Curriculum) -> list[int]:
    """The stages by plain Python, from the definition."""
    stage, seen, best, since, stages = 1, list[float](), float("inf"), 0, list[int]()
    for loss in losses:
        seen.append(loss)
        mean = seen[0]
        for k, each in enumerate(seen[1:], 2):
            mean += (each - mean) / min(k, curriculum.smooth)
        best, since = (mean, 0) if mean < best else (best, since + 1)
        if since >= curriculum.patience and stage < curriculum.clusters:
            stage, seen, best, since = stage + 1, [], float("inf"), 0
        stages.append(stage)
    return stages


@pytest.mark.parametrize(("patience", "smooth"), [(1, 1), (5, 1), (8, 10), (3, 50)])
def test_a_stage_ends_when_its_running_mean_has_no_new_minimum(patience: int, smooth: int, device: str) -> None:
    curriculum = Curriculum(6, patience=patience, smooth=smooth)
    draw = random.Random(0)
    losses = [1 / (1 + k / 40) + draw.gauss(0, 0.1) for k in range(200)]
    pace, found = Pace(curriculum).to(device), list[int]()
    for loss in losses:
        pace.observe(torch.tensor(loss, device=device, dtype=torch.float64))
        found.append(int(pace.stage))
    assert found == paced(losses, curriculum)
    assert found[-1] > 1 and (patience > 1 or found[-1] == 6)


def test_a_falling_loss_keeps_its_stage(device: str) -> None:
    pace = Pace(Curriculum(6, patience=2, smooth=1)).to(device)
    for k in range(50):
        pace.observe(torch.tensor(1.0 - k / 100, device=device))
    assert int(pace.stage) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing(bad: float, device: str) -> None:
    pace = Pace(Curriculum(6, patience=1)).to(device)
    for loss in (1.0, 2.0, 3.0):
        pace.observe(torch.tensor(loss, device=device))
    before = {name: buffer.clone() for name, buffer in pace.named_buffers()}
    pace.observe(torch.tensor(bad, device=device))
    assert all(torch.equal(before[name], buffer) for name, buffer in pace.named_buffers())


# runs


def trainer_of(config: Config, out: Path) -> Trainer:
    data = load("toy:grid", limit=500)
    return Trainer(Run(config, facts_of(data, config)), data, out)


def test_a_run_observes_each_step_once_and_no_trial(tmp_path: Path) -> None:
    one = trainer_of(small(curriculum=Curriculum(patience=1000)), tmp_path)
    trial_run(one, lambda sentence: None)
    assert int(one.modules[PACE].steps) == 0
    for _ in range(5):
        one.advance()
    assert int(one.modules[PACE].steps) == 5


def test_a_run_trains_at_the_levels_of_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer_of(small(curriculum=Curriculum(4, patience=1, smooth=1)), tmp_path)
    least, stages, right = list[float](), list[int](), Square.__call__

    def listening(self: Square, posterior: Any, noised: Any, rng: Rng) -> torch.Tensor:
        least.append(float(noised.t.min()))
        return right(self, posterior, noised, rng)

    monkeypatch.setattr(Square, "__call__", listening)
    for _ in range(40):
        stages.append(int(one.modules[PACE].stage))
        one.advance()
    assert stages[0] == 1 and stages[-1] == 4
    # 32 even times: the least lies within a tenth of the lower end
    assert all(1 - stage / 4 <= t <= 1.1 - stage / 4 for stage, t in zip(stages, least, strict=True))


def test_only_patience_keeps_a_batch_in_one_piece() -> None:
    assert small(curriculum=Curriculum()).task.whole
    for pacing in ("even", "mixed"):
        task = small(curriculum=Curriculum(pacing=pacing)).task
        assert not task.whole and not task.together and task.groups() == {}


def test_a_recorded_step_is_used_within_a_stage_alone() -> None:
    task = small(curriculum=Curriculum(4, pacing="even", until=1.0)).task
    assert task.phase(0.1) == task.phase(0.2) is not None and task.phase(0.2) != task.phase(0.3)
    assert small(curriculum=Curriculum()).task.phase(0.1) is None
    # an objective without phases may use the progress as it likes
    flow = {"process": Flow(), "head": MapHead(), "loss": MeanFlow(), "output": "flow"}
    assert small(**flow, curriculum=Curriculum(4, pacing="even")).task.phase(0.1) is None
    # with an objective that has phases of its own, a change of either is another recording
    both = small(loss=Consistency(), curriculum=Curriculum(4, pacing="even", until=1.0)).task
    own = small(loss=Consistency()).task
    assert own.phase(0.24) == own.phase(0.26) and both.phase(0.24) != both.phase(0.26)
    assert own.phase(0.55) != own.phase(0.74) and both.phase(0.55) != both.phase(0.74)


def test_the_turn_of_a_rival_is_no_step_of_the_pace(tmp_path: Path) -> None:
    place = Path(__file__).parents[1] / "strangers/adversarial.py"
    spec = importlib.util.spec_from_file_location("adversarial_for_curriculum", place)
    assert spec is not None and spec.loader is not None
    paper = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = paper
    spec.loader.exec_module(paper)
    config = paper.config(10).but(curriculum=Curriculum(patience=1000))
    data = load("toy:grid", limit=500)
    one = Trainer(Run(config, facts_of(data, config)), data, tmp_path)
    for _ in range(4):
        one.advance()
    assert int(one.modules[PACE].steps) == 4


SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from softmix.config import from_json
from softmix.data import load
from softmix.train import Config, training
import json
config = from_json(Config, json.loads(sys.argv[2]))
for step in training(load("toy:grid", limit=500), config, sys.argv[1]):
    pass
"""


def test_a_run_resumes_after_a_kill_with_the_same_bits_and_the_same_stage(tmp_path: Path) -> None:
    config = small(curriculum=Curriculum(8, patience=2, smooth=3))
    for _ in training(load("toy:grid", limit=500), config, tmp_path / "alone"):
        pass

    def start() -> subprocess.Popen[bytes]:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        arguments = [str(tmp_path / "killed"), json.dumps(to_json(config))]
        return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], env=environment)

    process = start()
    while process.poll() is None and not (tmp_path / "killed/checkpoints/step-000010").is_dir():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert start().wait() == 0
    found = {}
    for name in ("alone", "killed"):
        last = sorted((tmp_path / name / "checkpoints").glob("step-??????"))[-1]
        found[name] = {file.stem: load_file(file) for file in last.glob("*.safetensors")}
    assert found["alone"].keys() == found["killed"].keys() and PACE in found["alone"]
    for entry, tensors in found["alone"].items():
        assert all(torch.equal(tensor, found["killed"][entry][key]) for key, tensor in tensors.items()), entry
    # patience has ended some stages by then, and not all
    assert 1 < int(found["alone"][PACE]["stage"]) <= 8


# settings


def test_a_curriculum_stands_in_the_configuration() -> None:
    for own in (Curriculum(5, "random", "even", until=0.25), Curriculum(5, "random", "patience", 7, 3)):
        config = small(curriculum=own)
        assert from_json(Config, to_json(config)) == config
    assert "curriculum" in config.task.cites and "curriculum" not in small().task.cites


@pytest.mark.parametrize(
    ("pacing", "values"), [("patience", {"until": 0.4}), ("even", {"patience": 5}), ("mixed", {"smooth": 5})]
)
def test_settings_of_another_pacing_are_refused(pacing: Any, values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(ValueError, match=f"{name} = .* would have no effect"):
        Curriculum(pacing=pacing, **values)


@pytest.mark.parametrize("values", [{"clusters": 0}, {"patience": 0}, {"smooth": 0}, {"until": 0.0}, {"until": 1.5}])
def test_numbers_out_of_their_range_are_refused(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(ValueError, match=name):
        Curriculum(**values)
    with pytest.raises(ConfigError, match=name):
        from_json(Curriculum, values)


@pytest.mark.parametrize("values", [{"order": "easy"}, {"pacing": "slow"}])
def test_an_unknown_order_or_pacing_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="was asked for; there are"):
        Curriculum(**values)


def test_two_noise_levels_have_no_curriculum() -> None:
    with pytest.raises(ValueError, match="two noise levels"):
        DenoisePair(curriculum=Curriculum())


def test_a_loss_with_times_of_its_own_has_no_curriculum() -> None:
    for loss, head in ((ChainMMD(), PointHead()), (SIDDM(), SoftHead(mean="none")), (FeatureDrift(), SoftHead())):
        with pytest.raises(ValueError, match=f"{type(loss).__name__} has times of its own"):
            small(head=head, loss=loss, curriculum=Curriculum())
    tuned = tuning("mmd", small(curriculum=Curriculum()), (2,))
    assert tuned.task.curriculum is None


def test_a_loss_that_is_not_finite_is_described_without_the_stage() -> None:
    batch = batch_of(16)
    assert small(curriculum=Curriculum()).task.describe(batch) == "16 examples"
    described = small(curriculum=Curriculum(2, pacing="even")).task.describe(batch)
    assert described.startswith("t from 0.5")
