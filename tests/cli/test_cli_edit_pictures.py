"""Tests of `softmix edit` on a picture, and of the statistics of a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

import softmix
from softmix.cli import main
from softmix.cli.edit_picture import input_panel
from softmix.data import load, to_uint8
from softmix.sampler import BY_NAME


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of digits after a few steps, one with classes and one that draws, and a picture."""
    folder = tmp_path_factory.mktemp("edit")
    data = load("digits")
    for name, classes in (("plain", "false"), ("classes", "true"), ("soft", "false")):
        model = "smd" if name == "soft" else "plain"
        more = ["--set", "batch=32", "precision=fp32", f"classes={classes}"]
        main(["train", "digits", "--model", model, "--steps", "12", "--out", str(folder / name), *more])
    pixels = to_uint8(data.x0(slice(0, 1)))[0, 0]
    Image.fromarray(pixels.numpy()).save(folder / "digit.png")
    return folder


def edited(runs: Path, run: str, out: Path, *more: str, steps: int = 20) -> np.ndarray:
    main(["edit", str(runs / run), str(runs / "digit.png"), "--out", str(out), "--steps", str(steps), *more])
    return np.load(out)


@pytest.mark.parametrize("run", ["plain", "soft"])
@pytest.mark.parametrize("code", ["edit-friendly", "dpm-encoder"])
def test_a_small_weak_edit_returns_the_picture(
    run: str, code: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A colour on one pixel with little strength: the picture returns, and the output says its error."""
    args = ("--colour", "0.5", "--where", "0", "0", "1", "1", "--strength", "0.05", "--code", code)
    found = edited(runs, run, tmp_path / "a.npy", *args)
    was = np.asarray(Image.open(runs / "digit.png"))
    assert found.shape == (8, 8)
    assert np.abs(found.astype(int) - was).max() <= 1
    said = capsys.readouterr().out
    assert float(said.split("back to ")[1].split()[0]) < 1e-5


def test_each_edit_changes_the_intended_part(runs: Path, tmp_path: Path) -> None:
    was = np.asarray(Image.open(runs / "digit.png")).astype(int)
    moved = edited(runs, "plain", tmp_path / "m.npy", "--shift", "2", "0").astype(int)
    assert np.abs(moved[:, 2:] - was[:, :-2]).mean() < np.abs(moved - was).mean()
    lit = edited(runs, "plain", tmp_path / "c.npy", "--colour", "1", "--where", "0", "0", "4", "8").astype(int)
    assert (lit - was)[:, :4].mean() > (lit - was)[:, 4:].mean() + 20
    few = edited(runs, "plain", tmp_path / "f.npy", "--colour", "0.6").astype(int)
    many = edited(runs, "plain", tmp_path / "g.npy", "--colour", "0.6", steps=80).astype(int)
    assert abs(few.mean() - many.mean()) < 0.25 * abs(few.mean() - was.mean())
    one = edited(runs, "classes", tmp_path / "k.npy", "--from-class", "0", "--to-class", "1", "--guidance", "2")
    again = edited(runs, "classes", tmp_path / "l.npy", "--from-class", "0", "--to-class", "0")
    assert not np.array_equal(one, again)
    assert np.abs(again.astype(int) - was).max() <= 1
    other = edited(runs, "plain", tmp_path / "o.npy", "--other", str(runs / "soft"))
    assert np.abs(other.astype(int) - was).max() > 1


@pytest.mark.parametrize(
    ("run", "edit"),
    [
        ("plain", ["--shift", "1", "1"]),
        ("soft", ["--colour", "0.7", "--where", "1", "2", "3", "4"]),
        ("classes", ["--to-class", "3", "--code", "dpm-encoder"]),
    ],
)
def test_the_picture_of_an_edit_holds_its_input_and_its_recipe(
    run: str, edit: list[str], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Input, reconstruction and edit are side by side; `softmix repeat` makes the picture again from its recipe."""
    out = tmp_path / "p.png"
    main(["edit", str(runs / run), str(runs / "digit.png"), "--out", str(out), "--steps", "5", *edit])
    picture = Image.open(out)
    assert picture.size[0] > 2 * picture.size[1]
    kept = json.loads(picture.text["softmix"])  # type: ignore[attr-defined]
    assert kept["arguments"]["steps"] == 5
    assert kept["run"] == run
    assert np.array_equal(np.asarray(input_panel(out, (1, 8, 8))), np.asarray(Image.open(runs / "digit.png")))
    capsys.readouterr()
    main(["repeat", str(out), "--run", str(runs / run), "--out", str(tmp_path / "again.png")])
    assert "values are the same" in capsys.readouterr().out
    altered = np.asarray(picture).copy()
    altered[-9, -9] ^= 3
    Image.fromarray(altered).save(out, pnginfo=PngImagePlugin.PngInfo())
    with pytest.raises(SystemExit):
        main(["repeat", str(out), "--run", str(runs / run)])
    info = PngImagePlugin.PngInfo()
    info.add_text("softmix", json.dumps(kept))
    Image.fromarray(altered).save(out, pnginfo=info)
    main(["repeat", str(out), "--run", str(runs / run)])
    assert "differ, by 3 of 255" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("run", "more", "says"),
    [
        ("plain", ["--shift", "1", "1", "--colour", "1"], "one edit at a time"),
        ("plain", [], "one edit at a time"),
        ("plain", ["--shift", "1", "1", "--strength", "2"], "at least 0 and at most 1"),
        ("plain", ["--to-class", "3"], "classes of this model are none"),
        ("classes", ["--to-class", "12"], "are 0 to 9"),
        ("plain", ["--colour", "1", "0", "0"], "takes 1 number"),
        ("plain", ["--colour", "1", "--where", "8", "0", "2", "2"], "outside of an image of 8 x 8"),
        ("plain", ["--shift", "1", "1", "--guidance", "2"], "leads to a class"),
        ("plain", ["--shift", "1", "1", "--where", "0", "0", "1", "1"], "goes with --colour"),
        ("plain", ["--colour", "1", "--where", "-1", "0", "1", "1"], "from 0 on"),
        ("plain", ["--shift", "0", "0"], "moves nothing"),
        ("plain", ["--shift", "8", "0"], "leaves nothing of an image of 8 x 8"),
        ("plain", ["--shift", "0", "-" + "9" * 23], "leaves nothing of an image of 8 x 8"),
        ("plain", ["--colour", "nan"], "takes 1 number from 0 to 1"),
        ("plain", ["--colour", "1", "--where", "0", "0", "9" * 23, "0"], "outside of an image of 8 x 8"),
        ("plain", ["--shift", "1", "1", "--strength", "nan"], "at least 0 and at most 1"),
        ("classes", ["--to-class", "3", "--guidance", "inf"], "a finite number"),
        ("classes", ["--to-class", "three"], "are 0 to 9"),
        ("classes", ["--to-class", "3", "--from-class", "-1"], "--from-class -1 was asked for"),
    ],
)
def test_wrong_options_of_an_edit_are_refused(
    run: str, more: list[str], says: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        edited(runs, run, tmp_path / "x.npy", *more)
    assert end.value.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize("name", ["x.jpg", "x", "x.gif", "n" * 300 + ".png"])
def test_an_impossible_output_is_refused(
    name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        edited(runs, "plain", tmp_path / name, "--shift", "1", "1")
    assert end.value.code == 2
    assert "softmix: --out" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_steps_has_bounds(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for steps, says in ((0, "at least 1"), (10**9, "at most 100,000")):
        with pytest.raises(SystemExit):
            edited(runs, "plain", tmp_path / "x.npy", "--shift", "1", "1", steps=steps)
        assert says in capsys.readouterr().err


def test_a_file_that_is_no_picture_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "not.png").write_text("text")
    for name in ("not.png", "absent.png"):
        with pytest.raises(SystemExit):
            main(
                [
                    "edit",
                    str(runs / "plain"),
                    str(tmp_path / name),
                    "--out",
                    str(tmp_path / "x.png"),
                    "--shift",
                    "1",
                    "1",
                ]
            )
        assert "cannot be read" in capsys.readouterr().err


# the model is no interpolant, and no model of tokens
@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in ("interpolant-heun", "unmask")])
def test_every_sampler_draws_by_its_name(name: str, runs: Path, tmp_path: Path) -> None:
    main(
        [
            "sample",
            str(runs / "plain"),
            "--sampler",
            name,
            "--steps",
            "20",
            "--n",
            "2",
            "--out",
            str(tmp_path / "x.npy"),
        ]
    )
    assert np.load(tmp_path / "x.npy").shape == (2, 8, 8)


def test_the_sampler_uses_the_statistics_of_its_weights(runs: Path, tmp_path: Path) -> None:
    """The same command gives other pictures before and after `softmix statistics`. Other weights have no statistics."""
    sample = ["sample", str(runs / "plain"), "--sampler", "dpm-solver-v3", "--steps", "5", "--n", "2"]
    main([*sample, "--out", str(tmp_path / "before.npy")])
    main(["statistics", str(runs / "plain"), "--n", "64", "--nodes", "9"])
    main([*sample, "--out", str(tmp_path / "after.npy")])
    main([*sample, "--weights", "model", "--out", str(tmp_path / "raw.npy")])
    before, after = (np.load(tmp_path / f"{name}.npy").astype(int) for name in ("before", "after"))
    assert np.abs(before - after).max() > 1
    model = softmix.load(runs / "plain", "model")
    plain = softmix.sample(model.denoiser, 2, 5, sampler=softmix.sampler.dpm_solver_v3)
    right = to_uint8(plain.clamp(-1, 1))[:, 0].numpy()
    assert np.abs(np.load(tmp_path / "raw.npy").reshape(right.shape).astype(int) - right).max() <= 1
    assert torch.isfinite(plain).all()
