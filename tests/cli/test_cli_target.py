"""`softmix train target:NAME`, and the other commands on such a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command import call, refused

import softmix
from softmix.train import SampleTarget, read_run

TINY = ("--steps", 6, "--batch", 8, "--set", "net.width=8", "net.depth=1", "path=4", "optimiser.warmup=2")


def works(*arguments: object) -> str:
    code, out, err = call(*arguments)
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("runs") / "funnel"
    assert "softmix sample" in works("train", "target:funnel", *TINY, "--out", place)
    yield place


def test_a_target_is_trained_and_its_run_is_continued_by_the_same_words(run: Path) -> None:
    made = read_run(run)
    assert isinstance(made.config.task, SampleTarget)
    assert made.config.task.path == 4 and made.facts.shape == (10,) and made.facts.data == "target:funnel"
    assert "nothing was trained" in works("train", "target:funnel", *TINY, "--out", run)
    assert "trained steps 7 to 9" in works("train", "--out", run, "--more", 3)
    card = (run / "README.md").read_text()
    assert "target:funnel: a density of items of shape (10,)" in card and "Denoising Diffusion Samplers" in card
    found = softmix.load(run).result.sample(5)
    assert found.x.shape == (5, 10)


def test_its_first_steps_are_made_again(run: Path) -> None:
    assert "loss all" in works("repeat", run, "--steps", 6)
    assert "leave it out" in refused("repeat", run, "--steps", 6, "--data", "digits")


def test_its_samples_are_written(run: Path, tmp_path: Path) -> None:
    works("sample", run, "--n", 7, "--steps", 4, "--out", tmp_path / "x.npy")
    x = np.load(tmp_path / "x.npy")
    assert x.shape == (7, 10) and np.isfinite(x).all()
    assert "cannot be written" in refused("sample", run, "--out", tmp_path / "x.png")


def test_a_run_on_an_own_density_says_how_to_sample_it(tmp_path: Path) -> None:
    from softmix.data import Target
    from softmix.train import preset_for_target

    target = Target((2,), lambda x: -x.square().sum(1), "mine")
    softmix.train(target, preset_for_target(path=2).but(steps=1, batch=2), tmp_path / "run")
    message = " ".join(refused("sample", tmp_path / "run", "--out", tmp_path / "x.npy").split())
    assert "trained for mine, a function that its run folder does not hold: give it by model.result.on" in message


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--model", "smd"), "--model smd learns from items, and target:funnel has none: leave it out"),
        (("--classes",), "--classes was asked for, and SampleTarget has no such setting: leave it out"),
        (("--flip",), "--flip was asked for, and SampleTarget has no such setting"),
        (("--size", 8), "--size was asked for, and target:funnel is a density without items: leave it out"),
        (("--limit", 8), "--limit was asked for"),
        (("--pairs", "digits"), "--beside was asked for"),
        (("--process", "vp"), "a process was asked for, and the task SampleTarget has none"),
        (("--set", "path=0"), "a path has from 1 to 10,000 steps; found 0"),
    ],
)
def test_options_of_data_are_refused(words: tuple[object, ...], reason: str, tmp_path: Path) -> None:
    message = refused("train", "target:funnel", "--steps", 2, *words, "--out", tmp_path / "run")
    assert reason in " ".join(message.split())
    assert not (tmp_path / "run").exists()


def test_commands_on_data_say_that_a_target_has_no_items(run: Path, tmp_path: Path) -> None:
    for words in (("check", "target:funnel"), ("evaluate", run, "target:funnel")):
        message = " ".join(refused(*words).split())
        assert "density" in message and "items" in message
    assert "which has no items" in " ".join(refused("evaluate", run).split())
    assert "there is no such target; there are target:mixture" in " ".join(
        refused("train", "target:nothing", "--steps", 2, "--out", tmp_path / "run").split()
    )
