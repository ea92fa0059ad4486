"""Tests of all verbs together: a mistake of the user gives a sentence and exit code 2, no traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command import call, refused
from PIL import Image
from PIL.PngImagePlugin import PngInfo

TINY = ["--set", "net.width=8", "batch=16", "optimiser.warmup=2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runs")
    for model in ("smd", "plain"):
        code, _, err = call("train", "digits", "--out", folder / model, "--model", model, "--steps", 4, *TINY)
        assert code == 0, err
    code, _, err = call(
        "train", "digits", "--out", folder / "meanless", "--steps", 2, *TINY, "head.mean=none", "loss.kind=Energy"
    )
    assert code == 0, err
    yield folder


def test_unknown_data_are_named_in_the_error() -> None:
    assert "nonsense" in refused("train", "nonsense", "--out", "x", "--steps", 1)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("train", tmp_path / "empty", "--out", tmp_path / "run", "--steps", 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", [["sample", "--out", "x.png"], ["evaluate"], ["cite"]])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, verb: list[str]) -> None:
    assert "not a run folder" in refused(verb[0], tmp_path, *verb[1:])


def test_too_few_steps_are_refused(runs: Path, tmp_path: Path) -> None:
    assert "at least 1" in refused("sample", runs / "smd", "--out", tmp_path / "x.png", "--steps", 0)
    assert "in fewer than 4 steps" in refused(
        "sample", runs / "smd", "--out", tmp_path / "x.png", "--steps", 2, "--sampler", "plms"
    )
    assert "at least 1" in refused("train", "digits", "--out", tmp_path / "run", "--steps", 0)
    assert "at least 1" in refused("evaluate", runs / "smd", "--steps", 0)


def test_training_needs_steps_or_minutes(tmp_path: Path) -> None:
    assert "--minutes" in refused("train", "digits", "--out", tmp_path / "run")


def test_a_warning_about_the_data_is_printed_before_and_after_training(tmp_path: Path) -> None:
    np.save(tmp_path / "dark.npy", np.arange(20 * 64).reshape(20, 8, 8).astype(np.uint8) % 20)
    _, out, _ = call("train", tmp_path / "dark.npy", "--out", tmp_path / "run", "--steps", 2, *TINY)
    lines = [line for line in out.splitlines() if "nearly black: the largest pixel is 19 of 255" in line]
    assert len(lines) == 2
    assert out.rstrip().splitlines()[-1] == lines[-1]
    assert lines[-1].startswith("WARNING: ")
    assert out.index(lines[0]) < out.index("trained steps 1 to")


def test_pictures_too_large_for_any_network_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softmix.cli.train.LARGEST", 20 * 30 - 1)
    np.save(tmp_path / "large.npy", np.full((4, 20, 30), 200, np.uint8))
    error = refused("train", tmp_path / "large.npy", "--out", tmp_path / "run", "--steps", 2)
    assert "the pictures are 30x20" in error
    assert "give --size 64" in error
    assert not (tmp_path / "run").exists()
    code, _, err = call("train", tmp_path / "large.npy", "--out", tmp_path / "run", "--size", 8, "--steps", 1, *TINY)
    assert code == 0, err


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(runs: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(runs / "smd", run)
    newest = sorted((run / "checkpoints").iterdir())[-1]
    file = newest / "ema-0.050.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    code, _, err = call("sample", run, "--out", tmp_path / "x.npy", "--n", 1, "--steps", 1)
    assert code == 0
    assert newest.name in err
    assert "ema-0.050" in err
    assert "ema-0.050" in refused("check", run) + call("check", run)[1]
    for step in (run / "checkpoints").iterdir():
        (step / "ema-0.050.safetensors").write_bytes(b"")
    assert "ema-0.050" in refused("sample", run, "--out", tmp_path / "x.npy")


def test_a_run_refuses_data_of_another_size(runs: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", np.zeros((20, 9, 8), dtype=np.uint8), allow_pickle=False)
    err = refused("train", tmp_path / "other.npy", "--out", runs / "smd", "--steps", 4, *TINY)
    assert "other data" in err


def test_a_folder_in_place_of_a_picture_is_refused(runs: Path, tmp_path: Path) -> None:
    error = refused("edit", runs / "plain", tmp_path, "--shift", 1, 0, "--out", tmp_path / "o.png")
    assert "it is a folder: name one picture" in error


def test_a_sampler_that_needs_a_mean_refuses_a_posterior_without_one(runs: Path, tmp_path: Path) -> None:
    for sampler in ("ddim", "heun", "dpm-solver-2m", "adams"):
        err = refused("sample", runs / "meanless", "--out", tmp_path / "x.png", "--n", 1, "--sampler", sampler)
        assert "mean" in err
        assert "averaged" in err
    assert (
        call("sample", runs / "meanless", "--out", tmp_path / "x.png", "--n", 1, "--sampler", "heun", "--average", 2)[0]
        == 0
    )


@pytest.mark.parametrize(
    "change", ["nothing=1", "net.nothing=1", 'batch="four"', "net.width=x", "loss.kind=Circle", "loss.m=1", "batch"]
)
def test_a_wrong_change_of_the_configuration_is_refused(tmp_path: Path, change: str) -> None:
    refused("train", "digits", "--out", tmp_path / "run", "--steps", 1, "--set", change)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"config": 1}', "null", "\x00"])
def test_an_unreadable_config_is_refused(runs: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert "config" in refused("sample", tmp_path, "--out", tmp_path / "x.png")
    assert "config" in refused("train", "digits", "--out", tmp_path, "--steps", 1)


def test_labels_and_guidance_need_a_model_with_classes(runs: Path, tmp_path: Path) -> None:
    assert "trained without" in refused("sample", runs / "smd", "--out", tmp_path / "x.png", "--label", 3)
    assert "classes" in refused("sample", runs / "smd", "--out", tmp_path / "x.png", "--guidance", 2)


def test_an_unknown_sampler_and_a_wrong_eta_are_refused(runs: Path, tmp_path: Path) -> None:
    assert "dpm-solver-2m" in refused("sample", runs / "smd", "--out", tmp_path / "x.png", "--sampler", "euler")
    for more in (["--eta", 2], ["--eta", 0.5, "--sampler", "heun", "--average", 2]):
        assert "eta" in refused("sample", runs / "smd", "--out", tmp_path / "x.png", *more)
    for name, more in (("draw", []), ("fresh", ["--eta", 1])):
        assert (
            call("sample", runs / "meanless", "--out", tmp_path / f"{name}.npy", "--n", 2, "--steps", 2, *more)[0] == 0
        )
    draw, fresh = (np.load(tmp_path / f"{name}.npy", allow_pickle=False) for name in ("draw", "fresh"))
    assert (draw != fresh).any()


def test_another_kind_of_part_has_settings_of_its_own(tmp_path: Path) -> None:
    """In any order. A setting of the earlier kind only is refused by name."""
    start = ("train", "digits", "--out", tmp_path / "x", "--dry-run", "--steps", 1)
    code, out, _ = call(*start, "--set", "loss.m=3", "loss.kind=Energy", "head.mean=none")
    assert code == 0
    assert json.loads(out[out.index("{") : out.rindex("}") + 1])["config"]["task"]["loss"] == {
        "kind": "Energy",
        "beta": 1.0,
        "m": 3,
        "lam": 1.0,
        "weight": "eps",
        "mean": 1.0,
    }
    assert "share" in refused(*start, "--set", "loss.kind=Energy", "loss.share=0.4")


def test_an_unknown_paper_gives_a_list_of_papers() -> None:
    assert "smd" in refused("reproduce", "nobody")


def test_samples_go_to_a_grid_an_array_or_single_files(runs: Path, tmp_path: Path) -> None:
    for out in ("grid.png", "array.npy", "folder"):
        assert call("sample", runs / "smd", "--out", tmp_path / out, "--n", 5, "--steps", 2, "--seed", 7)[0] == 0
    array = np.load(tmp_path / "array.npy", allow_pickle=False)
    assert array.shape == (5, 8, 8)
    assert array.dtype == np.uint8
    for k in range(5):
        single = Image.open(tmp_path / "folder" / f"{k:06d}.png")
        assert (np.asarray(single) == array[k]).all()
        recipe = json.loads(single.info["softmix"])
        own = recipe["arguments"]
        assert own["seed"] == 7
        assert own["first"] == k
        assert own["n"] == 1
        assert own["steps"] == 2
    assert json.loads(Image.open(tmp_path / "grid.png").info["softmix"])["arguments"]["n"] == 5
    assert (
        call("sample", runs / "smd", "--out", tmp_path / "one.npy", "--n", 1, "--first", 3, "--steps", 2, "--seed", 7)[
            0
        ]
        == 0
    )
    one = np.load(tmp_path / "one.npy", allow_pickle=False).astype(int)
    assert np.abs(one[0] - array[3].astype(int)).max() <= 1


def test_dry_runs_write_nothing(runs: Path, tmp_path: Path) -> None:
    code, out, _ = call("train", "digits", "--out", tmp_path / "run", "--minutes", 20, "--dry-run")
    assert code == 0
    assert "parameters" in out
    assert not (tmp_path / "run").exists()
    assert call("sample", runs / "smd", "--out", tmp_path / "x.png", "--dry-run")[0] == 0
    assert not (tmp_path / "x.png").exists()
    assert call("reproduce", "smd", "--dry-run")[0] == 0


def test_the_same_configuration_gives_the_same_weights(runs: Path, tmp_path: Path) -> None:
    assert call("train", "digits", "--out", tmp_path / "again", "--config", runs / "plain" / "config.json")[0] == 0
    again, first = (sorted((run / "checkpoints").iterdir())[-1] for run in (tmp_path / "again", runs / "plain"))
    assert (again / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()


def test_a_picture_is_made_again_from_the_recipe_inside_it(runs: Path, tmp_path: Path) -> None:
    more = ("--n", 5, "--steps", 2, "--seed", 7, "--sampler", "ancestral", "--eta", 0.5)
    for out in ("grid.png", "folder"):
        assert call("sample", runs / "smd", "--out", tmp_path / out, *more)[0] == 0
    code, said, err = call("repeat", tmp_path / "grid.png", "--run", runs / "smd", "--out", tmp_path / "again.png")
    assert code == 0, err
    assert "values are the same" in said, err
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "grid.png").read_bytes()
    # An image of a batch, made alone, is rounded in another order.
    code, said, err = call("repeat", tmp_path / "folder" / "000003.png", "--run", runs / "smd")
    assert code == 0, err
    assert "are the same" in said or "by 1 of 255" in said, err
    image = Image.open(tmp_path / "grid.png")
    altered = np.asarray(image).copy()
    altered[5, 7] ^= 3
    Image.fromarray(altered).save(tmp_path / "altered.png", pnginfo=_text(image.info["softmix"]))
    assert "differ, by 3 of 255" in call("repeat", tmp_path / "altered.png", "--run", runs / "smd")[1]
    assert "say where it is with --run" in refused("repeat", tmp_path / "grid.png")
    assert "was made by weights" in refused("repeat", tmp_path / "grid.png", "--run", runs / "plain")
    image.save(tmp_path / "bare.png")
    assert "no picture with a recipe" in refused("repeat", tmp_path / "bare.png")
    assert "no picture with a recipe" in refused("repeat", tmp_path / "nothing.png")


def _text(recipe: str) -> PngInfo:
    info = PngInfo()
    info.add_text("softmix", recipe)
    return info


def test_repeat_counts_the_digits_that_agree(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert call("train", "toy:ring", "--out", run, "--steps", 40, "--limit", 500, "--set", "net.width=16")[0] == 0
    code, said, err = call("repeat", run, "--steps", 20)
    assert code == 0, err
    assert "digits that agree at least: loss all, norm all" in said, err
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    lines[1]["loss"] *= 1 + 3e-6
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, said, err = call("repeat", run, "--steps", 20)
    assert code == 0, err
    assert "digits that agree at least: loss 5.5, norm all" in said, err
    (run / "log.jsonl").unlink()
    assert "nothing to compare" in refused("repeat", run)


def test_a_model_with_classes_samples_a_class_and_with_guidance(tmp_path: Path) -> None:
    assert call("train", "digits", "--out", tmp_path / "run", "--steps", 2, *TINY, "classes=true")[0] == 0
    for more in ([], ["--label", 3], ["--guidance", 2], ["--guidance", 2, "--interval", -2, 2]):
        assert call("sample", tmp_path / "run", "--out", tmp_path / "x.png", "--n", 2, "--steps", 2, *more)[0] == 0
    assert "0 to 9" in refused("sample", tmp_path / "run", "--out", tmp_path / "x.png", "--label", 10)


def test_check_cite_and_papers(runs: Path) -> None:
    code, out, _ = call("check", runs / "smd")
    assert code == 0
    assert "all whole" in out
    assert "1437 images" in call("check", "digits")[1]
    assert "2309.14068" in call("cite", runs / "smd")[1]
    assert "2309.14068" not in call("cite", runs / "plain")[1]
    assert "smd" in call("papers")[1]


def test_the_page_of_papers_is_the_output_of_the_command(tmp_path: Path) -> None:
    assert call("papers", "--out", tmp_path / "papers.md")[0] == 0
    page = Path(__file__).parents[2] / "docs" / "papers.md"
    assert page.read_text() == (tmp_path / "papers.md").read_text(), "run: softmix papers --out docs/papers.md"


def test_points_can_be_trained_and_sampled(tmp_path: Path) -> None:
    assert call("train", "toy:ring", "--out", tmp_path / "run", "--steps", 3, "--limit", 500)[0] == 0
    assert call("sample", tmp_path / "run", "--out", tmp_path / "x.npy", "--n", 7)[0] == 0
    assert np.load(tmp_path / "x.npy", allow_pickle=False).shape == (7, 2)
    assert ".npy" in refused("sample", tmp_path / "run", "--out", tmp_path / "x.png")
