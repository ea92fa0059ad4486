"""Tests of `softmix evaluate` and `softmix statistics`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import call
from PIL import Image
from torch import Tensor

import softmix
from softmix.cli.common import UsageError, statistics_path
from softmix.cli.evaluate_runs import _curves
from softmix.cli.evaluate_shared import LEGEND, sample_count
from softmix.cli.run_data import with_held_out
from softmix.data import load
from softmix.data.store import choose
from softmix.denoiser import averaged
from softmix.evaluate import ReferenceSet, evaluator, features_for, text
from softmix.info import fit_statistics
from softmix.process import karras
from softmix.rng import Rng
from softmix.sampler import Statistics, adams, ancestral, ddim, dpm_solver_v3, on_grid, sample
from softmix.train import find_device
from softmix.train import load as load_run

TINY = ["--set", "net.width=8", "batch=8", "optimiser.warmup=1"]


def done(*arguments: object) -> str:
    code, out, err = call(*arguments)
    assert code == 0, (out, err)
    return out


def refused(*arguments: object) -> str:
    code, out, err = call(*arguments)
    assert code == 2, (code, out, err)
    assert "Traceback" not in err
    return " ".join(err.replace("│", " ").split())


def pictures(folder: Path, count: int, seed: int, size: tuple[int, int] = (8, 8), colour: bool = False) -> None:
    folder.mkdir(parents=True)
    shape = (count, *size, 3) if colour else (count, *size)
    for k, array in enumerate(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)):
        Image.fromarray(array).save(folder / f"{k:03d}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with data (photos, wide.npy), runs (smd, plain, classes, wide, points, limited, few), and a cache."""
    folder = tmp_path_factory.mktemp("evaluate")
    before = {name: os.environ.get(name) for name in ("SOFTMIX_CACHE",)}
    os.environ["SOFTMIX_CACHE"] = str(folder / "cache")
    pictures(folder / "photos" / "train" / "a", 30, 0)
    pictures(folder / "photos" / "train" / "b", 30, 1)
    pictures(folder / "photos" / "test" / "a", 10, 2)
    pictures(folder / "photos" / "test" / "b", 14, 3)
    np.save(folder / "wide.npy", np.random.default_rng(4).integers(0, 256, (100, 8, 10), dtype=np.uint8))
    runs: dict[str, list[object]] = {
        "smd": [folder / "photos"],
        "plain": [folder / "photos", "--model", "plain"],
        "classes": [folder / "photos"],
        "wide": [folder / "wide.npy", "--model", "plain"],
        "points": ["toy:ring"],
        "limited": [folder / "photos", "--limit", 20],
    }
    for name, more in runs.items():
        told = ["classes=true"] if name == "classes" else []
        done("train", *more, "--out", folder / name, "--steps", 2, *(TINY if name != "points" else []), *told)
    yield folder
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def rows(report: Path) -> list[dict[str, Any]]:
    return json.loads(report.with_suffix(".json").read_text())["rows"]


def evaluated(tmp_path: Path, *arguments: object) -> dict[str, dict[str, float]]:
    """The rows of a new evaluation, by name, without time and cost."""
    done("evaluate", *arguments, "--out", tmp_path / "x.html")
    found = {row["name"]: row["values"] for row in rows(tmp_path / "x.html")}
    return {
        name: {k: v for k, v in values.items() if k not in ("seconds", "evaluations")} for name, values in found.items()
    }


def truth(place: Path, x: Tensor, seed: int = 0, features: str = "auto") -> dict[str, float]:
    train, held_out = (load(place / "photos", split=split) for split in ("train", "test"))
    reference = ReferenceSet(train, held_out, features_for(train, place / "cache", features), seed)
    return reference.compare(x.clamp(-1, 1))


def drawn(run: Path, n: int, steps: int, **options: Any) -> Tensor:
    """Samples on the device of the command, returned on the CPU."""
    model = load_run(run, options.pop("weights", None))
    model.denoiser.to(find_device())
    wrap = options.pop("wrap", lambda denoiser: denoiser)
    return sample(wrap(model.denoiser), n, steps, **({"sampler": model.sampler} | options)).cpu()


# Runs.


def test_a_run_is_measured_on_its_own_data_from_anywhere(place: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = place / "smd"
    out = done("evaluate", run, "--steps", 1, 2, "--n", 20)
    assert f"report: {run / 'report.html'}" in out
    page = (run / "report.html").read_text()
    train, held_out = load(place / "photos"), load(place / "photos", split="test")
    assert f"photos (60 training items, fingerprint {train.fingerprint})" in page
    assert f"24 items, the test split, fingerprint {held_out.fingerprint}" in page
    found = {row["name"]: row for row in rows(run / "report.html")}
    assert list(found) == ["smd: real training items (floor)", "smd: 1 step", "smd: 2 steps"]
    for row in found.values():
        assert row["recipe"]["training_data"] == train.fingerprint
        assert row["recipe"]["held_out_data"] == held_out.fingerprint
    assert found["smd: real training items (floor)"]["values"] == truth(place, train.x0(choose(60, 20)))
    ours = found["smd: 2 steps"]["values"]
    assert ours.items() >= truth(place, drawn(run, 20, 2)).items()
    # Rows are printed as they come, then the table, then the spread that the latent carries.
    order = [
        "smd, real training items (floor): frechet",
        "smd, 1 step: frechet",
        "smd, 2 steps: ",
        "frechet ± se",
        "logsnr",
    ]
    assert sorted(order, key=out.index) == order
    assert "step 2, weights ema-0.050" in page
    assert '<section id="training">' in page


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--seed", 5], {"seed": 5}),
        (["--sampler", "ddim", "--average", 3], {"sampler": ddim, "wrap": averaged(3)}),
        (["--sampler", "ancestral", "--eta", 0.5], {"sampler": partial(ancestral, eta=0.5)}),
        (["--sampler", "ancestral", "--grid", "karras"], {"sampler": on_grid(ancestral, karras)}),
        (["--weights", "model"], {"weights": "model"}),
        (["--weights", "ema-0.100"], {"weights": "ema-0.100"}),
        (["--precision", "bf16"], {"precision": "bf16"}),
    ],
)
def test_each_sampling_option_changes_the_measured_samples(
    place: Path, tmp_path: Path, options: list[object], expected: Any
) -> None:
    found = evaluated(tmp_path, place / "smd", "--steps", 2, "--n", 20, *options)
    seed = expected.get("seed", 0)
    assert found["smd: 2 steps"] == truth(place, drawn(place / "smd", 20, 2, **expected), seed)
    assert found["smd: 2 steps"] != truth(place, drawn(place / "smd", 20, 2))


def test_each_column_of_the_table_has_a_line_in_the_legend(place: Path, tmp_path: Path) -> None:
    out = done("evaluate", place / "plain", "--steps", 1, "--n", 20, "--out", tmp_path / "x.html")
    header = next(line for line in out.splitlines() if line.lstrip().startswith("frechet ± se"))
    columns = header.replace("± se", "").split()
    below = out[out.index(header) :].splitlines()[1:]
    explained = [line.split()[0] for line in below if line.split() and line.split()[0] in LEGEND]
    assert explained == columns
    assert "class_tv       total variation between the class shares of samples and of real items" in out
    assert "nearest_ratio  distance to the nearest training item over that of new real items" in out


def test_the_legend_explains_every_column_that_a_table_can_have() -> None:
    assert tuple(LEGEND) == text._COLUMNS


def test_the_legend_of_points_has_the_columns_of_points(place: Path, tmp_path: Path) -> None:
    out = done("evaluate", place / "points", "--steps", 1, "--n", 20, "--out", tmp_path / "x.html")
    assert "sliced_wasserstein  sliced Wasserstein distance" in out
    assert "class_tv" not in out


def test_each_kind_of_features_is_used(place: Path, tmp_path: Path) -> None:
    names = {}
    for kind in ("auto", "classifier", "pca", "pixels"):
        found = evaluated(tmp_path / kind, place / "plain", "--steps", 1, "--n", 20, "--features", kind)
        assert found["plain: 1 step"] == truth(place, drawn(place / "plain", 20, 1), features=kind)
        names[kind] = {row["recipe"]["features"] for row in rows(tmp_path / kind / "x.html")}
    assert names["auto"] == names["classifier"] == {features_for(load(place / "photos"), place / "cache").name}
    assert names["pixels"] == {"pixels"}
    assert next(iter(names["pca"])).startswith("pca60-")


def test_default_steps_and_number_of_samples(place: Path, tmp_path: Path) -> None:
    out = done("evaluate", place / "plain", "--out", tmp_path / "x.html", "--features", "pixels")
    assert [row["recipe"].get("steps") for row in rows(tmp_path / "x.html")] == [None, 1, 2, 4, 8, 16]
    assert {row["recipe"]["n"] for row in rows(tmp_path / "x.html")} == {60}
    assert (
        "60 samples for each row, not 2,000: there are 24 held-out items to compare them with, and 60 training" in out
    )
    assert {row["recipe"]["precision"] for row in rows(tmp_path / "x.html")[1:]} == {"fp32"}


@pytest.mark.parametrize(
    ("n", "train", "held_out", "count", "says"),
    [
        (None, 60000, 10000, 2000, ""),
        (None, 60000, 200, 2000, ""),
        (None, 60000, 199, 1990, "1,990 samples for each row, not 2,000: there are 199 held-out items"),
        (None, 1437, 360, 1437, "1,437 training items for the floor"),
        (None, 8, 8, 8, "8 samples"),
        (5000, 60000, 10000, 5000, ""),
        (300, 270, 30, 300, ""),
        (301, 270, 30, 301, "with 30 held-out items, more than 300 samples tell hardly more, and 301 were asked for"),
    ],
)
def test_the_default_number_of_samples_follows_the_number_of_items(n, train, held_out, count, says, capsys) -> None:
    assert sample_count(n, torch.zeros(train), torch.zeros(held_out)) == count
    said = capsys.readouterr().out
    assert (says in said) if says else (said == "")


@pytest.mark.parametrize(("n", "train", "held_out"), [(7, 100, 100), (None, 7, 100), (9, 100, 7), (9, 7, 100)])
def test_fewer_than_eight_samples_or_items_are_refused(n, train, held_out) -> None:
    with pytest.raises(UsageError, match="at least 8 of each"):
        sample_count(n, torch.zeros(train), torch.zeros(held_out))


def test_several_runs_share_one_report(place: Path, tmp_path: Path) -> None:
    found = evaluated(tmp_path, place / "smd", "--beside", place / "plain", place / "classes", "--steps", 1, "--n", 24)
    names = ["smd: real training items (floor)", "smd: 1 step", "plain: 1 step", "classes: 1 step"]
    assert list(found) == names, "the floor is measured once"
    assert found["plain: 1 step"] == truth(place, drawn(place / "plain", 24, 1))
    told = drawn(place / "classes", 24, 1, cond=torch.arange(24) % 2)
    assert found["classes: 1 step"] == truth(place, told)
    page = (tmp_path / "x.html").read_text()
    assert all(f"</span> {name}" in page for name in ("smd", "plain", "classes"))


def test_a_report_holds_at_most_200_points_of_the_loss(place: Path, tmp_path: Path) -> None:
    lines = [{"step": k, "loss": k / 2} for k in range(1, 402)] + [{"step": 9, "speed": 1}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    points = _curves(tmp_path)["loss"]
    assert points == tuple((k, k / 2) for k in range(1, 402, 3))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:200]))
    assert len(_curves(tmp_path)["loss"]) == 200
    (tmp_path / "log.jsonl").write_text("")
    assert _curves(tmp_path) == {}


def test_images_that_are_not_square_are_measured(place: Path, tmp_path: Path) -> None:
    out = done("evaluate", place / "wide", "--steps", 1, "--out", tmp_path / "x.html")
    assert "wide has no test split: a tenth of the training items stands in for it" in out
    assert "a tenth of the training items, fingerprint" in (tmp_path / "x.html").read_text()
    train = load(place / "wide.npy")
    kept, held_out = train.split(0.1, 0)
    values = ReferenceSet(kept, held_out, features_for(kept, None)).compare(drawn(place / "wide", 90, 1).clamp(-1, 1))
    assert rows(tmp_path / "x.html")[1]["values"].items() >= values.items()


def test_points_are_measured(place: Path, tmp_path: Path) -> None:
    found = evaluated(tmp_path, place / "points", "--steps", 1, "--n", 50)
    assert found["points: 1 step"]["sliced_wasserstein"] > 0


# Data.


def test_other_data_are_refused_and_moved_data_are_accepted(place: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "photos" / "train" / "a", 60, 9)
    pictures(tmp_path / "photos" / "test" / "a", 24, 10)
    said = refused("evaluate", place / "smd", tmp_path / "photos", "--out", tmp_path / "x.html")
    assert "fingerprint" in said
    assert "softmix evaluate SAMPLES DATA" in said
    assert "fingerprint" in refused("statistics", place / "smd", tmp_path / "photos")
    shutil.copytree(place / "photos", tmp_path / "moved")
    evaluated(tmp_path, place / "smd", tmp_path / "moved", "--steps", 1, "--n", 8)
    (tmp_path / "moved" / "train" / "a" / "000.png").unlink()
    assert "fingerprint" in refused("evaluate", place / "smd", tmp_path / "moved", "--out", tmp_path / "x.html")


def test_a_run_on_a_part_of_the_items_is_measured_against_the_whole_test_split(place: Path, tmp_path: Path) -> None:
    evaluated(tmp_path, place / "limited", "--steps", 1)
    recipe = rows(tmp_path / "x.html")[0]["recipe"]
    assert recipe["training_data"] == load(place / "photos", limit=20).fingerprint
    assert recipe["held_out_data"] == load(place / "photos", split="test").fingerprint
    assert recipe["n"] == 20


def test_missing_data_give_an_error_with_the_command_to_name_them(place: Path, tmp_path: Path, monkeypatch) -> None:
    pictures(tmp_path / "photos", 20, 9)
    done("train", tmp_path / "photos", "--out", tmp_path / "run", "--steps", 1, *TINY)
    (tmp_path / "photos").rename(tmp_path / "gone")
    for verb in ("evaluate", "statistics"):
        assert f"softmix {verb} {tmp_path / 'run'} DATA" in refused(verb, tmp_path / "run")
    monkeypatch.setattr("softmix.data.builtin.fashion_places", lambda: [])
    assert "softmix evaluate fashion DATA" in refused("evaluate", "fashion", "--out", tmp_path / "x.html")


def test_a_run_on_other_data_is_refused_beside_the_first(place: Path, tmp_path: Path) -> None:
    for other in ("wide", "points", "limited"):
        said = refused("evaluate", place / "smd", "--beside", place / other, "--out", tmp_path / "x.html")
        assert "--beside takes runs on the same data" in said
        assert other in said
    said = refused("evaluate", place / "smd", "--beside", place / "photos", "--out", tmp_path / "x.html")
    assert "photos is not a run folder" in said


def test_held_out_data_are_read_with_the_options_of_the_training_data(tmp_path: Path) -> None:
    pictures(tmp_path / "d" / "train", 12, 0, (10, 10))
    pictures(tmp_path / "d" / "test", 9, 1, (12, 9))
    train, held_out, whence = with_held_out(load(tmp_path / "d", size=8, channels=3))
    assert held_out.fingerprint == load(tmp_path / "d", split="test", size=8, channels=3).fingerprint
    assert (len(train), whence) == (12, "the test split")
    # The commonest size of the training pictures, not of the test pictures.
    _, held_out, _ = with_held_out(load(tmp_path / "d"))
    assert held_out.fingerprint == load(tmp_path / "d", split="test", size=10).fingerprint


def test_held_out_data_of_another_shape_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "d" / "train", 12, 0, (10, 8))
    pictures(tmp_path / "d" / "test", 9, 1, (12, 9))
    with pytest.raises((UsageError, softmix.data.DataError), match=r"shape \(1, 12, 9\)|commonest"):
        with_held_out(load(tmp_path / "d"))
    for file in (tmp_path / "d" / "test").iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(softmix.data.DataError):
        with_held_out(load(tmp_path / "d"))


@pytest.mark.parametrize("limit", [None, 30])
def test_a_run_is_measured_on_its_held_out_share(tmp_path: Path, limit: int | None) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (50, 8, 8), dtype=np.uint8))
    train = load(tmp_path / "x.npy", hold_out=0.2, limit=limit)
    same, held_out, whence = with_held_out(train)
    assert same.fingerprint == train.fingerprint
    assert held_out.fingerprint == load(tmp_path / "x.npy", split="test", hold_out=0.2, limit=limit).fingerprint
    assert whence == "the share held out"
    seen = {item.tobytes() for item in train.values.numpy()}
    assert not any(item.tobytes() in seen for item in held_out.values.numpy())


# Wrong options.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--steps"], "--steps was given nothing"),
        (["--steps", 0], "at least 1"),
        (["--steps", 2, 4, 2], "--steps 2 was asked for twice"),
        (["--n", 0], "at least 1"),
        (["--n", 7], "at least 8"),
        (["--average", -1], "at least 0"),
        (["--sampler", "nothing"], "'nothing' was asked for"),
        (["--sampler", "plms", "--steps", 4, 2], "in fewer than 4 steps"),
        (["--eta", 2], "--eta 2"),
        (["--weights", "ema-0.9"], "ema-0.9"),
        (["--features", "inception"], "inception"),
        (["--out", "/proc/nothing/report.html"], "cannot be written"),
        (["--out", "/dev/null/report.html"], "cannot be written"),
        (["--out", "a" * 300 + ".html"], "cannot be written"),
        (["--out", "report.json"], "ends in .html"),
        (["--out", "nothing"], "ends in .html"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    place: Path, tmp_path: Path, monkeypatch, options: list[object], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in options else ["--out", tmp_path / "x.html"]
    assert says in refused("evaluate", place / "smd", *options, *out)
    assert list(tmp_path.iterdir()) == []


def test_options_without_effect_are_refused(place: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "x.html"]
    assert "--average 2 was asked for" in refused("evaluate", place / "plain", "--average", 2, *out)
    assert "points are measured as they are" in refused("evaluate", place / "points", "--features", "pca", *out)
    assert "was named twice" in refused("evaluate", place / "smd", "--beside", place / "plain" / ".." / "smd", *out)
    np.save(tmp_path / "s.npy", np.zeros((20, 8, 8), dtype=np.uint8))
    for option in ("--steps", "--sampler", "--eta", "--grid", "--weights", "--average", "--precision"):
        value = {"--sampler": "ddim", "--grid": "few", "--weights": "model", "--precision": "fp32"}.get(option, 1)
        assert option in refused("evaluate", tmp_path / "s.npy", place / "photos", option, value, *out)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s.npy"]


def test_a_foreign_json_file_is_not_replaced(place: Path, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"mine": 1}')
    assert "this file holds something else" in refused("evaluate", place / "smd", "--out", tmp_path / "x.html")
    assert (tmp_path / "x.json").read_text() == '{"mine": 1}'


def test_a_dry_run_measures_nothing(place: Path, tmp_path: Path) -> None:
    out = done("evaluate", place / "smd", "--beside", place / "plain", "--out", tmp_path / "x.html", "--dry-run")
    assert "60 samples at 1, 2, 4, 8, 16 steps from" in out
    assert "against 24 held-out items" in out
    out = done("evaluate", place / "photos" / "test", place / "photos", "--out", tmp_path / "x.html", "--dry-run")
    assert "24 samples of" in out
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_place_of_the_report_is_refused_and_no_folder_is_left(place: Path, tmp_path: Path) -> None:
    (tmp_path / "x.html").mkdir()
    assert "is a folder" in refused("evaluate", place / "smd", "--out", tmp_path / "x.html")
    assert "at least 8" in refused("evaluate", place / "smd", "--out", tmp_path / "new" / "deep" / "x.html", "--n", 2)
    assert [file.name for file in tmp_path.iterdir()] == ["x.html"]


def test_the_error_for_a_read_only_run_names_the_option_out(
    place: Path, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("4m")
    shutil.copytree(place / "plain", disk / "plain")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    error = refused("evaluate", disk / "plain", place / "photos", "--steps", 1, "--n", 8, "--features", "pixels")
    assert f"the report {disk / 'plain' / 'report.html'} cannot be written: Read-only file system" in error
    assert error.endswith("; name another place with --out")
    done(
        "evaluate", disk / "plain", place / "photos", "--steps", 1, "--n", 8, "--features", "pixels", "--out", tmp_path
    )
    assert (tmp_path / "report.html").is_file()


def test_the_report_goes_into_a_present_folder(place: Path, tmp_path: Path) -> None:
    done("evaluate", place / "plain", "--steps", 1, "--n", 8, "--features", "pixels", "--out", tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json"]


# Interrupted evaluations.


def test_ctrl_c_saves_finished_rows_and_the_same_command_continues(place: Path, tmp_path: Path, monkeypatch) -> None:
    command = ("evaluate", place / "plain", "--steps", 1, 2, 4, "--n", 20, "--out", tmp_path / "x.html")
    seen: list[int] = []

    def stopped(denoiser: Any, n: int, steps: int, **options: Any) -> Tensor:
        seen.append(steps)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return sample(denoiser, n, steps, **options)

    monkeypatch.setattr(evaluator, "sample", stopped)
    code, _, err = call(*command)
    assert code == 130
    assert f"3 finished rows are in {tmp_path / 'x.json'}, and the same command goes on from there" in err
    assert "checkpoint" not in err
    assert not (tmp_path / "x.html").exists()
    before = rows(tmp_path / "x.html")
    assert [row["recipe"].get("steps") for row in before] == [None, 1, 2]
    done(*command)
    assert rows(tmp_path / "x.html")[:3] == before
    assert len(rows(tmp_path / "x.html")) == 4
    # Of saved rows only the pictures are drawn again.
    assert seen == [1, 2, 4, 1, 2, 4]


def test_ctrl_c_before_the_first_row(place: Path, tmp_path: Path, monkeypatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluator, "features_for", stop)
    code, _, err = call("evaluate", place / "plain", "--n", 20, "--out", tmp_path / "x.html")
    assert code == 130
    assert "no row was finished yet" in err
    monkeypatch.setattr("softmix.info.fit_statistics", stop)
    code, _, err = call("statistics", place / "plain")
    assert code == 130
    assert "nothing was written" in err
    assert not (place / "plain" / "statistics").exists() or not list((place / "plain" / "statistics").iterdir())


def test_saved_rows_of_other_settings_are_not_reused(place: Path, tmp_path: Path, monkeypatch) -> None:
    common = ("--steps", 1, "--n", 20, "--out", tmp_path / "x.html", "--features", "pixels")
    monkeypatch.setattr("softmix.evaluate.write_report", lambda path, evaluations: path)
    for run, more, count in [
        ("smd", [], 2),
        ("smd", ["--weights", "model"], 3),
        ("smd", ["--average", 2], 4),
        ("smd", ["--average", 3], 5),
        ("smd", ["--precision", "bf16"], 6),
        ("plain", [], 7),
        ("plain", ["--sampler", "dpm-solver-v3"], 8),
        ("plain", [], 8),
    ]:
        done("evaluate", place / run, *more, *common)
        assert len(rows(tmp_path / "x.html")) == count, (run, more)
    shutil.copytree(place / "plain", tmp_path / "plain")
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    config["config"]["task"]["process"]["schedule"] = "linear"
    (tmp_path / "plain" / "config.json").write_text(json.dumps(config))
    done("evaluate", tmp_path / "plain", place / "photos", *common)
    assert len(rows(tmp_path / "x.html")) == 9, "the same weights in another process"


# Samples of any origin.


@pytest.mark.parametrize("form", ["folder", "zip", "npy"])
def test_samples_are_measured_against_data(place: Path, tmp_path: Path, form: str) -> None:
    pictures(tmp_path / "made", 40, 7)
    source = tmp_path / "made"
    if form == "zip":
        source = Path(shutil.make_archive(str(tmp_path / "made"), "zip", tmp_path / "made"))
    if form == "npy":
        source = tmp_path / "made.npy"
        np.save(source, load(tmp_path / "made").values[:, 0].numpy())
    out = done("evaluate", source, place / "photos", "--out", tmp_path / "x.html")
    floor, row = rows(tmp_path / "x.html")
    assert row["values"] == truth(place, load(tmp_path / "made").x0())
    assert floor["values"] == truth(place, load(place / "photos").x0(choose(60, 40)))
    assert "40 against 24 held-out" in out
    assert "real training items (floor): frechet" in out
    page = (tmp_path / "x.html").read_text()
    assert f"40 items, fingerprint {load(tmp_path / 'made').fingerprint}" in page
    assert f"({60} items beside the held-out ones, fingerprint {load(place / 'photos').fingerprint})" in page


def test_without_the_extra_report_the_rows_are_saved_for_a_later_report(
    place: Path, tmp_path: Path, monkeypatch
) -> None:
    common = ("evaluate", place / "points", "--steps", 1, "--n", 20, "--out", tmp_path / "x.html")
    with monkeypatch.context() as bare:
        for module in ("matplotlib", "jinja2"):
            bare.setitem(sys.modules, module, None)
        said = done(*common)
    assert "no report: report.html needs matplotlib and Jinja2, but matplotlib and Jinja2" in said
    assert 'pip install "softmix[report]"' in said
    assert not (tmp_path / "x.html").exists()
    kept = rows(tmp_path / "x.html")
    assert [row["name"] for row in kept][-1] == "points: 1 step"
    done(*common)
    assert rows(tmp_path / "x.html") == kept, "the same rows, not measured again"
    assert (tmp_path / "x.html").stat().st_size > 1000


def test_n_seed_and_beside_work_for_samples(place: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "made", 40, 7)
    pictures(tmp_path / "more", 30, 8)
    common = (tmp_path / "made", place / "photos", "--out", tmp_path / "x.html", "--features", "pixels")
    done("evaluate", *common, "--beside", tmp_path / "more", "--seed", 3)
    found = {row["name"]: row for row in rows(tmp_path / "x.html")}
    assert {row["recipe"]["n"] for row in found.values()} == {30}, "as many of each"
    made = load(tmp_path / "made").x0(choose(40, 30))
    assert found["made: made"]["values"] == truth(place, made, 3, "pixels")
    assert found["more: more"]["values"] == truth(place, load(tmp_path / "more").x0(), 3, "pixels")
    done("evaluate", *common, "--n", 25)
    assert rows(tmp_path / "x.html")[-1]["recipe"]["n"] == 25
    assert "made holds 40 samples" in refused("evaluate", *common, "--n", 41)
    assert "is a run, and one report takes one kind" in refused("evaluate", *common, "--beside", place / "smd")
    assert "was named twice" in refused("evaluate", *common, "--beside", tmp_path / "made")
    assert "at least 1" in refused("evaluate", *common, "--n", 0)


def test_samples_decide_the_size_and_the_data_decide_the_channels(place: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "made", 20, 7, (10, 10), colour=True)
    out = done("evaluate", tmp_path / "made", place / "photos", "--out", tmp_path / "x.html")
    assert f"{tmp_path / 'made'} has 3 channels and {place / 'photos'} 1: the samples are read as the data are" in out
    recipe = rows(tmp_path / "x.html")[1]["recipe"]
    assert recipe["training_data"] == load(place / "photos", size=10).fingerprint
    assert recipe["held_out_data"] == load(place / "photos", size=10, split="test").fingerprint
    assert recipe["samples"] == load(tmp_path / "made", channels=1).fingerprint


def test_samples_of_another_shape_are_refused(place: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.zeros((20, 9, 8), dtype=np.uint8))
    out = ("--out", tmp_path / "x.html")
    said = refused("evaluate", tmp_path / "w.npy", place / "photos", *out)
    assert "w.npy holds items of shape (1, 9, 8)" in said
    np.save(tmp_path / "p.npy", np.zeros((20, 3), dtype=np.float32))
    assert "holds items of shape (3,)" in refused("evaluate", tmp_path / "p.npy", "toy:ring", *out)
    pictures(tmp_path / "made", 20, 7)
    assert "two classes" in refused("evaluate", tmp_path / "made", tmp_path / "made", "--features", "classifier", *out)


def test_samples_without_data_and_missing_samples_are_refused(place: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "made", 20, 7)
    said = refused("evaluate", tmp_path / "made")
    assert "not a run folder" in said
    assert f"softmix evaluate {tmp_path / 'made'} DATA" in said
    assert "not a run folder" in refused("evaluate", tmp_path / "nothing")
    assert "nothing" in refused("evaluate", tmp_path / "nothing", place / "photos", "--out", tmp_path / "x.html")


def test_the_report_of_samples_is_written_to_the_current_folder(place: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "made", 20, 7)
    assert "report: report.html" in done("evaluate", "made", place / "photos", "--features", "pixels")
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "report.json").is_file()


def test_points_are_compared_with_points(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32))
    done("evaluate", tmp_path / "p.npy", "toy:ring", "--out", tmp_path / "x.html")
    values = rows(tmp_path / "x.html")[1]["values"]
    train, held_out = load("toy:ring"), load("toy:ring", split="test")
    expected = ReferenceSet(train, held_out, features_for(train, None)).compare(load(tmp_path / "p.npy").x0())
    assert values == expected


# Statistics.


@pytest.mark.parametrize("run", ["plain", "wide"])
def test_statistics_equal_those_of_the_same_call_in_python(place: Path, run: str) -> None:
    out = done("statistics", place / run, "--n", 30, "--nodes", 4, "--seed", 2, "--weights", "model")
    model = load_run(place / run, "model")
    file = place / run / "statistics" / f"model-{model.fingerprint}.safetensors"
    assert f"wrote {file}: 30 items at 4 levels" in out
    data = load(place / ("photos" if run == "plain" else "wide.npy"))
    by_hand = fit_statistics(model.denoiser, data.x0(choose(len(data), 30)), Rng(2, 30, "statistics"), 4)
    found = Statistics.load(file)
    for part in ("clock", "l", "s", "b"):
        assert torch.equal(getattr(found, part), getattr(by_hand, part))
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_statistics_of_a_shipped_model_are_in_the_cache_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installed package is not written to; it may belong to another user."""
    monkeypatch.setenv("SOFTMIX_CACHE", str(tmp_path))
    model = load_run("fashion")
    assert statistics_path(model) == tmp_path / "statistics" / f"{model.weights}-{model.fingerprint}.safetensors"


def test_rows_depend_on_the_statistics_of_the_sampler(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "plain"
    shutil.copytree(place / "plain", run)
    command = ("evaluate", run, place / "photos", "--sampler", "dpm-solver-v3", "--steps", 3, "--n", 20)
    for count, more in enumerate(([], ["--seed", 0], ["--seed", 1])):
        if more:
            done("statistics", run, place / "photos", "--nodes", 4, *more)
        done(*command, "--out", tmp_path / "x.html")
        assert len(rows(tmp_path / "x.html")) == 2 + count
    model = load_run(run)
    # The run may also have statistics of other weights, from an earlier test.
    known = Statistics.load(statistics_path(model))
    x = drawn(run, 20, 3, sampler=partial(dpm_solver_v3, statistics=known))
    assert rows(tmp_path / "x.html")[-1]["values"].items() >= truth(place, x).items()
    assert model.weights in rows(tmp_path / "x.html")[-1]["recipe"]["weights"]


def test_statistics_of_a_model_with_classes_use_the_labels(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "classes", run)
    done("statistics", run, place / "photos", "--n", 20, "--nodes", 3, "--weights", "model")
    data, chosen = load(place / "photos"), choose(60, 20)
    model = load_run(run, "model")
    assert model.sampler is not adams or model.denoiser.classes == 2
    by_hand = fit_statistics(model.denoiser, data.x0(chosen), Rng(0, 20, "statistics"), 3, cond=data.labels[chosen])
    unconditional = fit_statistics(model.denoiser, data.x0(chosen), Rng(0, 20, "statistics"), 3)
    found = Statistics.load(statistics_path(model))
    assert torch.equal(found.b, by_hand.b)
    assert not torch.equal(found.b, unconditional.b)


def test_statistics_of_few_items_take_all_of_them(place: Path) -> None:
    out = done("statistics", place / "limited", "--nodes", 3)
    assert "512 items were asked for, and photos has 20: all of them are taken" in out
    assert "20 items at 3 levels" in out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--nodes", 2], "at least 3"),
        (["--n", 1], "at least 2"),
        (["--n", 0], "at least 1"),
        (["--weights", "x"], "'x'"),
    ],
)
def test_wrong_options_of_statistics_are_refused(place: Path, options: list[object], says: str) -> None:
    assert says in refused("statistics", place / "plain", *options)


def test_statistics_that_cannot_be_written_are_not_measured(place: Path, tmp_path: Path, monkeypatch) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "plain", run)
    shutil.rmtree(run / "statistics", ignore_errors=True)
    (run / "statistics").write_text("a file in the way")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("softmix.info.fit_statistics", never)
    assert "the statistics" in refused("statistics", run, place / "photos")
