"""Tests of `softmix repeat` on pictures, altered ones too, and on runs."""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from command import call
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import softmix
from softmix.cli import repeat_picture
from softmix.cli.recipes import Recipe, Unfit, fit_type
from softmix.picture import sheet_size

TINY = ["--set", "net.width=8", "batch=16", "optimiser.warmup=2", "precision=fp32"]


def refused(*arguments: object) -> str:
    code, out, err = call(*arguments)
    assert code == 2, (code, out, err)
    assert err.count("\n") == 1, err
    return err


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs beside their data, and pictures of one of them."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    np.save(folder / "data.npy", rng.integers(0, 255, (40, 8, 8), dtype=np.uint8))
    np.save(folder / "wide.npy", rng.integers(0, 255, (20, 8, 12), dtype=np.uint8))
    for name, data, more in (
        ("plain", folder / "data.npy", ["--model", "plain", "--limit", 30]),
        ("wide", folder / "wide.npy", ["--model", "plain"]),
    ):
        code, _, err = call("train", data, "--out", folder / name, "--steps", 20, *more, *TINY)
        assert code == 0, err
    sample = ("sample", folder / "plain", "--steps", 2)
    for out, n in (("grid.png", 5), ("grid.jpg", 5), ("grid.webp", 5), ("single", 2)):
        assert call(*sample, "--n", n, "--out", folder / out)[0] == 0
    assert call(*sample, "--n", 5, "--grid", "karras", "--out", folder / "karras.png")[0] == 0
    edit = ("edit", folder / "plain", folder / "single" / "000000.png", "--shift", 1, 0, "--steps", 4)
    for out in ("edit.png", "edit.webp"):
        assert call(*edit, "--out", folder / out)[0] == 0
    return folder


@pytest.mark.parametrize(
    "name", ["grid.png", "grid.jpg", "grid.webp", "karras.png", "single/000000.png", "edit.png", "edit.webp"]
)
def test_pictures_of_every_form_are_made_again(name: str, runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / f"again{Path(name).suffix}"
    code, out, err = call("repeat", runs / name, "--run", runs / "plain", "--out", copy)
    assert code == 0, err
    assert "are the same" in out or "by 1 of 255" in out, err
    assert Image.open(copy).size == Image.open(runs / name).size
    assert [path.name for path in tmp_path.iterdir()] == [copy.name]


def test_a_run_is_found_by_its_name(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the current folder, in runs/, or beside the picture."""
    monkeypatch.chdir(runs)
    assert call("repeat", "grid.png")[0] == 0
    (tmp_path / "runs").mkdir()
    shutil.copytree(runs / "plain", tmp_path / "runs" / "plain")
    monkeypatch.chdir(tmp_path)
    assert call("repeat", runs / "grid.png")[0] == 0
    shutil.copy(runs / "grid.png", tmp_path / "runs" / "plain")
    monkeypatch.chdir(tmp_path / "runs" / "plain" / "checkpoints")
    assert call("repeat", "../grid.png")[0] == 0


# Altered recipes.


def forged(runs: Path, out: Path, name: str, change: Callable[[Any], object], text: str | None = None) -> Path:
    """A picture with an altered recipe."""
    image = Image.open(runs / name)
    recipe = json.loads(image.info["softmix"])
    recipe = change(recipe) or recipe
    info = PngInfo()
    info.add_text("softmix", json.dumps(recipe) if text is None else text)
    image.save(out / "forged.png", pnginfo=info)
    return out / "forged.png"


def argument(**values: object) -> Callable[[Any], None]:
    return lambda recipe: recipe["arguments"].update(values)


def test_a_picture_from_before_there_were_grids_is_made_again(runs: Path, tmp_path: Path) -> None:
    def earlier(recipe: Any) -> None:
        del recipe["arguments"]["grid"]

    picture = forged(runs, tmp_path, "grid.png", earlier)
    code, out, err = call("repeat", picture, "--run", runs / "plain", "--out", tmp_path / "again.png")
    assert code == 0 and "are the same" in out, err


UNUSABLE = "cannot be used"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (argument(n=10**9), "one of the two was altered"),
        (argument(n=3 * 10**6), "one of the two was altered"),
        (argument(n=-5), "one of the two was altered"),
        (argument(n=10), "one of the two was altered"),
        (argument(n="3"), 'n is "3"'),
        (argument(n=2.5), "n is 2.5"),
        (argument(n=None), "n is null"),
        (argument(n=True), "n is true"),
        (argument(steps=10**9), "say --yes"),
        (argument(steps=10**6), "say --yes"),
        (argument(steps=0), "--steps 0 was asked for"),
        (argument(steps=float("nan")), "NaN is no number"),
        (argument(average=10**9), "say --yes"),
        (argument(average=-1), "--average -1 was asked for"),
        (argument(sampler=[]), "sampler is []"),
        (argument(sampler="../../x"), "the sampler '../../x' was asked for"),
        (argument(first="x"), 'first is "x"'),
        (argument(first=2**63), "must be at most"),
        (argument(seed="text"), 'seed is "text"'),
        (argument(seed=float("inf")), "Infinity is no number"),
        (argument(guidance="2"), 'guidance is "2"'),
        (argument(guidance=10**400), "guidance is 1000"),
        (argument(interval=[1]), "interval is [1]"),
        (argument(interval=[1, "2"]), "interval is"),
        (argument(interval=[-3, 3]), "nothing guides"),
        (argument(label={"a": 1}), "label is"),
        (argument(label=3), "trained without"),
        (argument(precision="fp8"), 'precision is "fp8"'),
        (argument(eta=7), "runs from 0 to 1"),
        (argument(weights="../x"), "the weights '../x' were asked for"),
        (argument(weights=7), "weights is 7"),
        (argument(out="/etc/x"), "of another softmix"),
        (lambda recipe: recipe["arguments"].pop("n") and None, "of another softmix"),
        (lambda recipe: recipe.update(arguments=[1]), "of another softmix"),
        (lambda recipe: recipe.update(form="edit"), "of another softmix"),
        (lambda recipe: recipe.update(form="single"), "one of the two was altered"),
        (lambda recipe: recipe.update(form="video"), 'form is "video"'),
        (lambda recipe: recipe.update(form=["grid"]), "form is"),
        (lambda recipe: recipe.update(run="../plain"), "not the name of a folder"),
        (lambda recipe: recipe.update(run="/etc"), "not the name of a folder"),
        (lambda recipe: recipe.update(run=".."), "not the name of a folder"),
        (lambda recipe: recipe.update(run="a\0b"), "not the name of a folder"),
        (lambda recipe: recipe.update(run=7), "run is 7"),
        (lambda recipe: recipe.update(step="4"), 'step is "4"'),
        (lambda recipe: recipe.update(weights_fingerprint=[]), "weights_fingerprint is []"),
        (
            lambda recipe: recipe.update(weights_fingerprint="0" * 12),
            "those weights are gone, and `softmix sample` draws",
        ),
        (
            lambda recipe: recipe.update(what="a DDPM") or (recipe.pop("step") and None),
            "was drawn from a folder of diffusers",
        ),
        (lambda recipe: recipe.pop("run") and None, "it has no run"),
        (lambda recipe: [1], "no table"),
        (lambda recipe: "text", "no table"),
    ],
)
def test_an_altered_recipe_is_refused_at_once(
    change: Callable[[Any], object], says: str, runs: Path, tmp_path: Path
) -> None:
    picture = forged(runs, tmp_path, "grid.png", change)
    began = time.monotonic()
    assert says in refused("repeat", picture, "--run", runs / "plain")
    assert time.monotonic() - began < 5
    assert [path.name for path in tmp_path.iterdir()] == ["forged.png"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"form": 1e400}', '{"form": "grid", "run": "x", "step": 1' + "0" * 5000 + "}", "\x00"],
)
def test_a_recipe_that_is_no_json_is_refused(text: str, runs: Path, tmp_path: Path) -> None:
    picture = forged(runs, tmp_path, "grid.png", lambda recipe: None, text)
    err = refused("repeat", picture, "--run", runs / "plain")
    assert UNUSABLE in err or "no picture with a recipe" in err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (argument(shift=[10**23, 0]), "leaves nothing of an image"),
        (argument(shift=[1]), "shift is [1]"),
        (argument(shift=[1, 2.5]), "shift is [1, 2.5]"),
        (argument(strength=7), "at most 1"),
        (argument(steps=10**9), "say --yes"),
        (argument(code="other"), 'code is "other"'),
        (argument(other=7, shift=None), "other is 7"),
        (argument(other="/proc/1", shift=None), "not a run folder"),
        (argument(shift=None, where=[0, 0, 1, 1]), "one edit at a time"),
        (argument(to_class=[]), "to_class is []"),
        (lambda recipe: recipe.update(form="grid"), "of another softmix"),
    ],
)
def test_an_altered_recipe_of_an_edit_is_refused(
    change: Callable[[Any], object], says: str, runs: Path, tmp_path: Path
) -> None:
    assert says in refused("repeat", forged(runs, tmp_path, "edit.png", change), "--run", runs / "plain")


def test_a_single_picture_with_a_recipe_of_two_images_is_refused(runs: Path, tmp_path: Path) -> None:
    picture = forged(runs, tmp_path, "single/000000.png", argument(n=2))
    assert "one of the two was altered" in refused("repeat", picture, "--run", runs / "plain")


def test_a_picture_of_another_size_than_its_recipe_is_refused(runs: Path, tmp_path: Path) -> None:
    image = Image.open(runs / "grid.png")
    info = PngInfo()
    info.add_text("softmix", image.info["softmix"])
    image.crop((0, 0, image.width - 1, image.height)).save(tmp_path / "x.png", pnginfo=info)
    assert "one of the two was altered" in refused("repeat", tmp_path / "x.png", "--run", runs / "plain")
    image.convert("RGB").save(tmp_path / "y.png", pnginfo=info)
    assert "has values" in refused("repeat", tmp_path / "y.png", "--run", runs / "plain")


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 260])
@pytest.mark.parametrize("columns", [None, 3])
def test_sheet_size_is_the_size_of_the_sheet(n: int, columns: int | None) -> None:
    import torch

    from softmix.picture import enlarge, tile, to_image

    for height, width in ((8, 8), (5, 70), (500, 3)):
        sheet = enlarge(to_image(tile(torch.zeros(n, 1, height, width, dtype=torch.uint8), columns)))
        assert sheet.size == sheet_size(n, height, width, columns)


# Recipes that take long.


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_costly_recipe_asks_before_it_runs(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 images in 2 steps take 10 evaluations: a limit of 9 gives a question, and a limit of 10 gives none."""
    repeat = ("repeat", runs / "grid.png", "--run", runs / "plain")
    monkeypatch.setattr(repeat_picture, "COST", 10)
    assert call(*repeat)[0] == 0
    monkeypatch.setattr(repeat_picture, "COST", 9)
    assert "asks for 10 evaluations of an image, about 0 seconds" in refused(*repeat)
    assert call(*repeat, "--yes")[0] == 0
    for answer, code in (("y\n", 0), ("yes\n", 0), ("n\n", 2), ("\n", 2), ("", 2)):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        found, out, err = call(*repeat)
        assert found == code, err
        assert "Make it? [y/N]" in out, err
    assert "nothing was made" in err
    edit = ("repeat", runs / "edit.png", "--run", runs / "plain")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(repeat_picture, "COST", 11)
    assert "asks for 12 evaluations" in refused(*edit)
    monkeypatch.setattr(repeat_picture, "COST", 12)
    assert call(*edit)[0] == 0


def test_the_cost_of_a_recipe_counts_evaluations(runs: Path) -> None:
    model = softmix.load(runs / "plain")

    def costs(**arguments: Any) -> int:
        known = {"n": 5, "steps": 3, "sampler": None, "guidance": 1.0, "average": 0} | arguments
        return repeat_picture.cost(Recipe("x", 1, "y", "grid", known, (1, 1)), model)

    assert costs() == 15
    assert costs(guidance=2.0) == 30
    assert costs(average=4) == 60
    assert costs(sampler="heun") == 25
    assert costs(n=7) == 21
    assert costs(steps=10**6) == 5 * 10**6
    assert repeat_picture.COST == 200_000


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 seconds"), (100, "100 seconds"), (150, "2 minutes"), (9000, "2 hours"), (2e5, "2 days")],
)
def test_a_duration_has_a_readable_unit(seconds: float, said: str) -> None:
    assert repeat_picture.duration(seconds) == said


@pytest.mark.parametrize(
    ("hint", "value", "right"),
    [
        (int, 3, 3),
        (int | None, None, None),
        (float, 3, 3),
        (float, 2.5, 2.5),
        (str | int | None, "3", "3"),
        (str | int | None, 3, 3),
        (tuple[int, int] | None, [1, 2], (1, 2)),
        (tuple[float, ...], [1, 2.5, 3], (1, 2.5, 3)),
        (Path | None, "a/b", Path("a/b")),
        (Literal["a", "b"], "b", "b"),
        (bool, True, True),
    ],
)
def test_a_value_of_json_gets_its_type(hint: object, value: object, right: object) -> None:
    assert fit_type(hint, value, "x") == right


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, 3.0),
        (int, True),
        (int, "3"),
        (float, True),
        (float, float("inf")),
        (float, "nan"),
        (str, None),
        (bool, 1),
        (tuple[int, int], [1]),
        (tuple[int, int], [1, 2, 3]),
        (tuple[int, int], "12"),
        (tuple[int, ...], 3),
        (Literal["a"], "b"),
        (Literal[1], True),
        (Path, 3),
    ],
)
def test_a_value_of_another_type_is_refused(hint: object, value: object) -> None:
    with pytest.raises(Unfit, match=r"^x is "):
        fit_type(hint, value, "x")


# Options without effect, and errors.


def test_options_without_effect_are_refused(runs: Path, tmp_path: Path) -> None:
    assert "--steps has no effect" in refused("repeat", runs / "grid.png", "--steps", 3)
    assert "--data has no effect" in refused("repeat", runs / "grid.png", "--data", "digits")
    assert "--run has no effect" in refused("repeat", runs / "plain", "--run", runs / "plain")
    assert "which is not there" in refused("repeat", tmp_path / "x", "--steps", 3)
    assert "at least 1" in refused("repeat", runs / "plain", "--steps", 0)
    assert "no such file" in refused("repeat", tmp_path / "x")


@pytest.mark.parametrize("name", ["x.npy", "x.jpg", "file/x.png", "folder.png"])
def test_an_impossible_output_is_refused_before_the_work(name: str, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    assert "--out" in refused("repeat", runs / "grid.png", "--run", runs / "plain", "--out", tmp_path / name)
    assert "--out" in refused("repeat", runs / "plain", "--out", tmp_path / "file")
    (tmp_path / "folder.png" / "x").touch()
    assert "not empty" in refused("repeat", runs / "plain", "--out", tmp_path / "folder.png")


def test_ctrl_c_says_what_is_saved(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    repeat = ("repeat", runs / "plain", "--steps", 10, "--out", tmp_path / "x")
    monkeypatch.setattr(softmix.sampler, "sample", stop)
    code, _, err = call("repeat", runs / "grid.png", "--run", runs / "plain", "--out", tmp_path / "y.png")
    assert (code, err) == (130, "softmix: stopped; nothing was compared or written\n")
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules["softmix.train"], "data_of", stop)
        code, _, err = call(*repeat)
    assert code == 130
    assert err.endswith("nothing was compared, and nothing kept\n")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(sys.modules["softmix.train"], "training", stop)
    code, _, err = call(*repeat)
    assert code == 130
    assert err.endswith(f"nothing was compared, and {tmp_path / 'x'} holds a part of the run\n")
    assert (tmp_path / "x" / "config.json").is_file()


# Runs.


def test_a_run_finds_its_data_from_anywhere(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call("repeat", runs / "plain", "--steps", 12)
    assert code == 0, err
    assert "loss all, norm all" in out, err
    assert [line.split()[0] for line in out.splitlines()[1:-1]] == ["10"]
    assert list(tmp_path.iterdir()) == []
    assert "the first is of step 10" in refused("repeat", runs / "plain", "--steps", 9)


def test_the_output_of_a_repeated_run_is_a_run(runs: Path, tmp_path: Path) -> None:
    code, _, err = call("repeat", runs / "plain", "--steps", 10, "--out", tmp_path / "a" / "b")
    assert code == 0, err
    # The new run finds its data too.
    assert call("repeat", tmp_path / "a" / "b", "--steps", 10)[0] == 0
    assert softmix.load(tmp_path / "a" / "b").step == 10


def test_a_run_of_images_that_are_not_square_is_repeated(runs: Path) -> None:
    code, out, err = call("repeat", runs / "wide", "--steps", 10)
    assert code == 0, err
    assert "loss all" in out, err


def test_moved_data_are_accepted_and_other_data_are_refused(runs: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(runs / "plain", moved / "plain")
    assert "Say where with --data" in refused("repeat", moved / "plain", "--steps", 10)
    code, out, err = call("repeat", moved / "plain", "--steps", 10, "--data", runs / "data.npy")
    assert code == 0, err
    assert "loss all" in out, err
    assert "fingerprint" in refused("repeat", moved / "plain", "--steps", 10, "--data", runs / "wide.npy")
    assert "--data" not in refused("repeat", moved / "plain", "--data", tmp_path / "nothing.npy")


def test_a_log_without_the_first_steps_names_the_number_of_steps_to_repeat(runs: Path) -> None:
    first = json.loads((runs / "plain/log.jsonl").read_text().splitlines()[0])["step"]
    assert f"there is nothing to compare; give --steps {first} or more" in refused(
        "repeat", runs / "plain", "--steps", first - 1
    )


def test_a_continued_run_asks_for_moved_data(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "plain", tmp_path / "plain")
    error = refused("train", "--out", tmp_path / "plain", "--more", 2)
    assert f"the data that {tmp_path / 'plain'} was trained on cannot be read" in error
    assert error.rstrip().endswith("If they are elsewhere now, say where: softmix train DATA ...")
