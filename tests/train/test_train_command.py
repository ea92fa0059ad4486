"""`softmix train`: its options, its output, and the refusals before anything is written."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from softmix.cli import main
from softmix.cli.common import ModelName
from softmix.cli.train import LayoutName, ValueRange
from softmix.data.origin import Layout, Values
from softmix.train import JOINT_MODELS, MODELS, TOKEN_MODELS, data_of, load, log_of, read_run

TINY = ("--model", "plain", "--set", "net.width=8", "net.depth=1", "batch=8")
POINTS = ("toy:ring", "--limit", 60, "--set", "net.width=8", "net.depth=1", "batch=8")


def call(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            return int(end.code or 0), out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def works(*arguments: object) -> str:
    code, out, err = call(*arguments)
    assert code == 0, err
    return out


def refused(*arguments: object) -> str:
    code, out, err = call(*arguments)
    assert code == 2, (code, out, err)
    assert "Traceback" not in err
    return " ".join(err.split())


def planned(*arguments: object) -> dict[str, Any]:
    """config.json as --dry-run shows it."""
    out = works("train", *arguments, "--dry-run")
    found = json.loads(out[out.index("{\n") : out.rindex("}") + 1])
    assert isinstance(found, dict)
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 8 photographs, 12 wide and 10 high, which a path with a space leads to."""
    dice = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        folder = tmp_path / "my photos" / name
        folder.mkdir(parents=True)
        for k in range(8):
            Image.fromarray(dice.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    return tmp_path / "my photos"


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    run = tmp_path_factory.mktemp("runs") / "ring"
    works("train", *POINTS, "--out", run, "--steps", 6)
    yield run


# options


def test_names_are_those_of_the_rooms() -> None:
    """Written a second time, since the rooms take a second to import."""
    assert get_args(ModelName) == (*MODELS, *JOINT_MODELS, *TOKEN_MODELS)
    assert get_args(ValueRange) == get_args(Values) and get_args(LayoutName) == get_args(Layout)


def test_a_second_set_adds_to_the_first(tmp_path: Path) -> None:
    found = planned(
        "digits", "--out", tmp_path / "x", "--steps", 1, "--set", "net.width=16", "--set", "batch=4", "drop=0.3"
    )
    config = found["config"]
    assert (config["task"]["net"]["width"], config["batch"], config["task"]["drop"]) == (16, 4, 0.3)
    twice = planned("digits", "--out", tmp_path / "x", "--steps", 1, "--set", "batch=4", "--set", "batch=6")
    assert twice["config"]["batch"] == 6


@pytest.mark.parametrize(
    ("said", "path", "value"),
    [
        (("--classes",), "config.task.classes", True),
        ((), "config.task.classes", False),
        (("--batch", 5), "config.batch", 5),
        (("--flip",), "config.task.flip", True),
        ((), "config.task.flip", False),
        (("--seed", 7), "config.seed", 7),
        (("--minutes", 2.5), "config.minutes", 2.5),
        (("--minutes", 2.5), "config.steps", None),
        (("--limit", 9), "facts.count", 9),
        (("--size", 6), "facts.shape", [3, 6, 6]),
        ((), "facts.shape", [3, 10, 12]),
        (("--channels", 1), "facts.shape", [1, 10, 12]),
        (("--hold-out", 0.25), "facts.count", 12),
        (("--hold-out", 0.25), "facts.origin.hold_out", 0.25),
        (("--classes",), "facts.class_names", ["cats", "dogs"]),
        (("--model", "plain"), "config.task.head.kind", "PointHead"),
        ((), "config.task.head.kind", "SoftHead"),
    ],
)
def test_the_options_are_in_config_json(photos: Path, said: tuple[object, ...], path: str, value: object) -> None:
    length = () if "--minutes" in said else ("--steps", 3)
    found: Any = planned(photos, "--out", photos.parent / "run", *length, *said)
    for key in path.split("."):
        found = found[key]
    assert found == value


def test_arrays_are_read_by_the_options(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    np.save(tmp_path / "floats.npy", dice.uniform(size=(9, 8, 8, 3)).astype(np.float32))
    said = ("--values", "0..1", "--layout", "channels-last")
    origin = planned(tmp_path / "floats.npy", "--out", tmp_path / "run", "--steps", 1, *said)["facts"]["origin"]
    assert (origin["values"], origin["layout"]) == ("0..1", "channels-last")
    Image.fromarray(dice.integers(0, 4096, (8, 8), dtype=np.uint16)).save(tmp_path / "deep.png")
    origin = planned(tmp_path, "--out", tmp_path / "run", "--steps", 1, "--bits", 12)["facts"]["origin"]
    assert origin["bits"] == 12


def test_class_folders_without_the_classes_option_are_mentioned(photos: Path) -> None:
    out = works("train", photos, "--out", photos.parent / "run", "--steps", 1, "--dry-run")
    assert "2 classes (cats, dogs), and the model is not told them" in out and "--classes" in out
    assert "not told" not in works(
        "train", photos, "--out", photos.parent / "run", "--steps", 1, "--dry-run", "--classes"
    )
    assert "not told" not in works("train", "toy:ring", "--out", photos.parent / "run", "--steps", 1, "--dry-run")


def test_classes_that_are_not_there_are_refused(tmp_path: Path) -> None:
    assert "has no labels" in refused("train", "toy:ring", "--out", tmp_path / "x", "--steps", 1, "--classes")
    assert "no images to be mirrored" in refused("train", "toy:ring", "--out", tmp_path / "x", "--steps", 1, "--flip")


def test_a_dry_run_writes_nothing_and_counts_parameters(tmp_path: Path) -> None:
    out = works("train", *POINTS, "--out", tmp_path / "x", "--steps", 3, "--dry-run")
    works("train", *POINTS, "--out", tmp_path / "run", "--steps", 1)
    count = sum(p.numel() for p in load(tmp_path / "run").network.parameters())
    assert f"{count:,} parameters" in out and not (tmp_path / "x").exists()


# refused before anything is made

WRONG: list[tuple[tuple[object, ...], str]] = [
    (("--steps", 3, "--set", "batch=99999999999"), "at most 1,048,576"),
    (("--steps", 3, "--batch", 99999999999), "at most 1,048,576"),
    (("--steps", 3, "--batch", 0), "at least 1 item"),
    (("--steps", 3, "--set", "optimiser.rate=1e300"), "the rate is above 0 and at most 10"),
    (("--steps", 3, "--set", "optimiser.rate=nan"), "nan"),
    (("--minutes", "nan"), "found nan"),
    (("--minutes", "inf"), "found inf"),
    (("--minutes", -1), "minutes are above 0"),
    (("--steps", 0), "at least 1"),
    (("--steps", 10**20), "at most 1,000,000,000"),
    (("--steps", 3, "--seed", 2**70), "64 bits"),
    (("--steps", 3, "--minutes", 3), "one of the two"),
    ((), "say how long to train"),
    (("--steps", 3, "--hold-out", 2), "share of 2.0"),
    (("--steps", 3, "--limit", 0), "limit of 0"),
    (("--more", 5), "holds no run"),
    (("--steps", 3, "--more", -5), "-5 more steps"),
    (("--steps", 3, "--config", "nowhere/config.json"), "not a run folder"),
    (("--steps", 3, "--config", "settings.json"), "give the config.json of a run folder"),
    (("--steps", 3, "--start", "nowhere"), "not a run folder"),
    (("--steps", 3, "--shard"), "torchrun"),
    (("--steps", 3, "--set", "net.nothing=1"), 'the key "nothing" is unknown'),
    (("--steps", 3, "--set", "batch=4", "--set", "nothing=1"), "no nothing in the configuration"),
]


@pytest.mark.parametrize(("said", "sentence"), WRONG, ids=lambda value: None if isinstance(value, str) else str(value))
def test_senseless_options_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: tuple[object, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused("train", "toy:ring", "--out", "run", *said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 300, "file/run", "file", "/proc/softmix"])
def test_a_folder_that_cannot_be_made_is_refused_before_the_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    said = refused("train", "no such data", "--out", name, "--steps", 3)
    assert "no such data" not in said and ("run" in said or "folder" in said)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_data_must_be_named_for_a_new_run(tmp_path: Path) -> None:
    assert "no data were named" in refused("train", "--out", tmp_path / "x", "--steps", 3)
    assert "no data were named" in refused("train", "--out", tmp_path / "x", "--steps", 3, "--model", "plain")


# going on


def test_a_run_says_which_steps_were_taken_and_a_finished_one_that_none_were(tmp_path: Path) -> None:
    run = tmp_path / "my run"
    command = ("train", *POINTS, "--out", run, "--steps", 4)
    assert f"trained steps 1 to 4; the run is in {run}" in works(*command)
    again = works(*command)
    assert "nothing was trained" in again and "had ended, at step 4" in again and "trained steps" not in again
    # the command that it prints works as it stands
    line = next(line for line in again.splitlines() if "To go on: softmix" in line)
    out = works(*shlex.split(line.split("softmix ", 1)[1]))
    assert "trained steps 5 to 8" in out and "continues to step 8" in out


def test_a_run_resumes_by_its_folder_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    works("train", *POINTS, "--out", run, "--steps", 3, "--seed", 5)
    out = works("train", "--out", run, "--steps", 5)
    assert "trained steps 4 to 5" in out and f"read as for {run}: limit 60" in out
    assert "trained steps 6 to 8" in works("train", "--out", run, "--more", 3)
    assert "trained steps 9 to 9" in works(
        "train", "toy:ring", "--out", run, "--more", 1, "--set", "optimiser.rate=0.5"
    )
    kept = read_run(run)
    assert kept.facts.ends == (3, 5, 8) and kept.config.optimiser.rate == 0.5 and kept.config.seed == 5
    assert "another seed" in refused("train", "--out", run, "--seed", 6)
    assert "another head, loss" in refused("train", *POINTS, "--model", "plain", "--out", run, "--steps", 9)


def test_the_repeat_line_of_the_readme_repeats(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = photos.parent / "runs" / "a"
    said = ("--size", 8, "--limit", 10, "--channels", 1, "--hold-out", 0.2, "--classes", "--seed", 3)
    works("train", photos, "--out", run, "--steps", 12, *TINY, *said)
    text = (run / "README.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("softmix train "))
    monkeypatch.chdir(run)
    out = works(*shlex.split(line.removeprefix("softmix ").replace("NEW", "../b")))
    assert "size 8" in out and "limit 10" in out and "channels 1" in out and "hold_out 0.2" in out
    again = photos.parent / "runs" / "b"
    assert (run / "log.jsonl").read_bytes() == (again / "log.jsonl").read_bytes()
    assert load(run).fingerprint == load(again).fingerprint
    assert data_of(again).fingerprint == read_run(run).facts.fingerprint
    # and what is said beside it holds
    assert "size 8" not in works("train", "--config", "config.json", "--out", "../c", "--size", 6, "--dry-run")


def test_the_readme_repeats_a_run_made_longer_and_trained_for_minutes(tmp_path: Path) -> None:
    run = tmp_path / "a"
    works("train", *POINTS, "--out", run, "--minutes", 0.02)
    steps = read_run(run).facts.steps
    assert steps is not None and steps > 0
    config = planned("--config", run, "--out", tmp_path / "c")["config"]
    assert (config["steps"], config["minutes"]) == (steps, None)
    works("train", "--out", run, "--more", 3)
    lines = [line for line in (run / "README.md").read_text().splitlines() if line.startswith("softmix train ")]
    assert len(lines) == 2
    for line in lines:
        line = line.replace("config.json", str(run / "config.json")).replace("NEW", str(tmp_path / "b"))
        works(*shlex.split(line.removeprefix("softmix ")))
    assert load(run).fingerprint == load(tmp_path / "b").fingerprint
    assert read_run(tmp_path / "b").facts.steps == steps + 3


def test_the_model_card_describes_the_run(ring: Path) -> None:
    text, run = (ring / "README.md").read_text(), read_run(ring)
    for fact in (
        "# ring",
        "trained with softmix 0.1.0 on toy:ring: 60 items of shape (2,)",
        run.facts.fingerprint,
        f"- network: `{run.config.task.net}`",
        f"- posterior head: `{run.config.task.head}`",
        f"- loss: `{run.config.task.loss}`",
        f"- process: `{run.config.task.process}`",
        "- 6 steps of 8 items, seed 0, fp32",
        "2309.14068",
    ):
        assert fact in text


def test_the_printed_commands_work_in_the_folder_of_the_user(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos.parent / "elsewhere").mkdir()
    monkeypatch.chdir(photos.parent / "elsewhere")
    monkeypatch.setenv("SOFTMIX_CACHE", str(photos.parent / "cache"))
    out = works("train", "../my photos", "--out", "../my runs/x", "--size", 8, "--steps", 2, *TINY)
    line = next(line for line in out.splitlines() if line.startswith("next: "))
    drawn, measured = (part.strip() for part in line.removeprefix("next: softmix ").split("softmix "))
    works(*shlex.split(drawn.replace("--n 64", "--n 2")))
    assert Path("samples.png").is_file()
    assert shlex.split(measured)[:2] == ["evaluate", "../my runs/x"]
    assert data_of("../my runs/x").shape == (3, 8, 8)


def test_points_are_sampled_into_an_array(ring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = works("train", "--out", ring)
    command = out.split("next: softmix ")[1].split("    ")[0]
    works(*shlex.split(command))
    assert np.load(tmp_path / "samples.npy").shape == (64, 2)


# from another's weights


def test_a_run_starts_from_another_with_its_settings(ring: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    command = ("train", "toy:ring", "--limit", 80, "--out", child, "--start", ring, "--steps", 3)
    assert "trained steps 1 to 3" in works(*command)
    kept, parent = read_run(child), load(ring)
    assert kept.facts.start is not None and kept.facts.start.fingerprint == parent.fingerprint
    assert kept.config.task.net == parent.config.task.net and (kept.facts.count, kept.config.steps) == (80, 3)
    assert f"from the weights {parent.fingerprint} of" in (child / "README.md").read_text()
    assert "nothing was trained" in works(*command)
    assert "no data were named" in refused("train", "--out", tmp_path / "x", "--start", ring, "--steps", 3)
    assert "say how long" in refused("train", "toy:ring", "--out", tmp_path / "x", "--start", ring)
    said = refused("train", "toy:ring", "--out", tmp_path / "x", "--start", ring, "--steps", 3, "--set", "net.width=16")
    assert "do not fit: net" in said and not (tmp_path / "x").exists()
    assert "not with those of" in refused(*command[:-3], child, "--steps", 3)


def test_the_log_of_a_run_from_the_command_line_is_that_of_its_settings(ring: Path) -> None:
    (line,) = log_of(ring)
    assert line["step"] == 6 and line["rate"] == 0
