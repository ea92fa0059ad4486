"""Tests of the options of `softmix edit`, against the same edit in Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import softmix
from softmix.cli import main
from softmix.data import load, to_uint8
from softmix.denoiser import guided
from softmix.process import uniform_logsnr
from softmix.sampler import ColourEdit, dpm_encoder, drive, edit_friendly, replay
from softmix.sampler.drive import finish

TINY = ["--set", "net.width=8", "batch=16", "optimiser.warmup=2", "precision=fp32"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small runs of digits, one with classes and one that draws, and a picture."""
    folder = tmp_path_factory.mktemp("edit")
    for name, model, classes in (("plain", "plain", "false"), ("classes", "plain", "true"), ("soft", "smd", "false")):
        command = ["train", "digits", "--model", model, "--steps", "12", "--out", str(folder / name), *TINY]
        main([*command, f"classes={classes}"])
    Image.fromarray(to_uint8(load("digits").x0(slice(0, 1)))[0, 0].numpy()).save(folder / "digit.png")
    return folder


def edited(runs: Path, run: str, out: Path, *more: str, steps: int = 20) -> np.ndarray:
    main(["edit", str(runs / run), str(runs / "digit.png"), "--out", str(out), "--steps", str(steps), *more])
    return np.load(out)


# One option each: the edit equals that of the same call in Python, and differs from the edit without the option.


def right(runs: Path, run: str, **said: Any) -> np.ndarray:
    """The edit in Python, [H, W]."""
    given = {
        "steps": 20,
        "seed": 0,
        "weights": None,
        "code": edit_friendly,
        "skip": 0,
        "told": -1,
        "wanted": None,
    } | said
    model = softmix.load(runs / run, given["weights"])
    x0 = torch.tensor(np.asarray(Image.open(runs / "digit.png")))[None, None].float() / 127.5 - 1
    grid, rng = uniform_logsnr(model.process, given["steps"]), softmix.Rng(given["seed"], 1, "edit")
    told = torch.tensor([given["told"]]) if model.denoiser.classes else None
    wanted = told if given["wanted"] is None else torch.tensor([given["wanted"]])
    found = finish(drive(model.denoiser, given["code"], x0, grid, rng, told))
    skip = given["skip"]
    finish(drive(model.denoiser, replay(found, skip), found.start(skip), grid[skip:], rng, told))
    if "shift" in given:
        found, wanted = found.shifted(given["shift"][1], given["shift"][0], fill=rng.child("fill")), told
    denoiser = given["wrap"](model.denoiser) if "wrap" in given else model.denoiser
    denoiser = given.get("second", denoiser)
    after = finish(
        drive(denoiser, replay(found, skip, given.get("colour_edit")), found.start(skip), grid[skip:], rng, wanted)
    )
    return to_uint8(after.clamp(-1, 1))[0, 0].numpy()


def colour_edit(colour: float, left: int, top: int, wide: int, high: int, steps: int = 20) -> ColourEdit:
    mask = torch.zeros(1, 8, 8)
    mask[:, top : top + high, left : left + wide] = 1
    return ColourEdit(torch.tensor([[[colour]]]), mask, strength=20 / steps**0.5)


@pytest.mark.parametrize(
    ("run", "more", "said", "other"),
    [
        ("plain", ["--shift", "2", "1"], {"shift": (2, 1)}, {"shift": (1, 2)}),
        ("plain", ["--shift", "2", "1", "--seed", "5"], {"shift": (2, 1), "seed": 5}, {"shift": (2, 1)}),
        ("plain", ["--shift", "2", "1", "--steps", "9"], {"shift": (2, 1), "steps": 9}, {"shift": (2, 1)}),
        ("plain", ["--shift", "-2", "0", "--strength", "0.4"], {"shift": (-2, 0), "skip": 12}, {"shift": (-2, 0)}),
        (
            "plain",
            ["--shift", "2", "1", "--code", "dpm-encoder"],
            {"shift": (2, 1), "code": dpm_encoder},
            {"shift": (2, 1)},
        ),
        (
            "plain",
            ["--shift", "2", "1", "--weights", "model"],
            {"shift": (2, 1), "weights": "model"},
            {"shift": (2, 1)},
        ),
        (
            "plain",
            ["--colour", "0.9"],
            {"colour_edit": colour_edit(0.9, 0, 0, 8, 8)},
            {"colour_edit": colour_edit(0.8, 0, 0, 8, 8)},
        ),
        (
            "plain",
            ["--colour", "0.9", "--where", "1", "2", "3", "4"],
            {"colour_edit": colour_edit(0.9, 1, 2, 3, 4)},
            {"colour_edit": colour_edit(0.9, 0, 0, 8, 8)},
        ),
        (
            "plain",
            ["--colour", "0.9", "--where", "6", "1", "9", "99"],
            {"colour_edit": colour_edit(0.9, 6, 1, 2, 7)},
            {"colour_edit": colour_edit(0.9, 0, 0, 8, 8)},
        ),
        ("classes", ["--to-class", "3"], {"wanted": 3, "skip": 7}, {"wanted": 4, "skip": 7}),
        (
            "classes",
            ["--to-class", "3", "--from-class", "0"],
            {"wanted": 3, "told": 0, "skip": 7},
            {"wanted": 3, "skip": 7},
        ),
        (
            "classes",
            ["--to-class", "3", "--guidance", "4"],
            {"wanted": 3, "skip": 7, "wrap": guided(4.0)},
            {"wanted": 3, "skip": 7},
        ),
        ("plain", ["--other", "soft"], {"skip": 7, "second": "soft"}, {"skip": 7}),
    ],
)
def test_each_option_does_what_it_says(
    run: str, more: list[str], said: dict[str, Any], other: dict[str, Any], runs: Path, tmp_path: Path
) -> None:
    steps = 20 if "--steps" not in more else 9
    more = [word for k, word in enumerate(more) if "--steps" not in more[max(k - 1, 0) : k + 1]]
    if "second" in said:
        said, more = said | {"second": softmix.load(runs / "soft").denoiser}, ["--other", str(runs / "soft")]
    found = edited(runs, run, tmp_path / "x.npy", *more, steps=steps)
    assert np.array_equal(found, right(runs, run, **said))
    assert not np.array_equal(found, right(runs, run, **other))


def test_an_edit_of_strength_0_takes_one_step_and_returns_the_image(runs: Path, tmp_path: Path) -> None:
    found = edited(runs, "classes", tmp_path / "x.npy", "--to-class", "3", "--strength", "0")
    assert np.array_equal(found, right(runs, "classes", wanted=3, skip=19))
    before = np.asarray(Image.open(runs / "digit.png").convert("L"), dtype=int)
    # At the last step sigma is below 0.007 alpha, so that a class changes only the rest of the noise.
    assert abs(found - before).max() <= 2
    assert abs(edited(runs, "classes", tmp_path / "y.npy", "--to-class", "3", "--strength", "1") - before).max() > 20


def test_the_recipe_of_an_edit_holds_every_option(runs: Path, tmp_path: Path) -> None:
    more = ["--from-class", "7", "--to-class", "3", "--guidance", "2", "--strength", "0.5", "--seed", "8"]
    more += ["--steps", "6", "--code", "dpm-encoder", "--weights", "model"]
    main(["edit", str(runs / "classes"), str(runs / "digit.png"), "--out", str(tmp_path / "x.png"), *more])
    kept = json.loads(Image.open(tmp_path / "x.png").text["softmix"])  # type: ignore[attr-defined]
    model = softmix.load(runs / "classes", "model")
    assert 0 <= kept.pop("error") < 1e-4
    assert kept == {
        "run": "classes",
        "weights": "model",
        "weights_fingerprint": model.fingerprint,
        "step": 12,
        "form": "edit",
        "image": "digit.png",
        "softmix": softmix.__version__,
        "arguments": {
            "shift": None,
            "colour": None,
            "where": None,
            "to_class": 3,
            "from_class": 7,
            "other": None,
            "strength": 0.5,
            "steps": 6,
            "code": "dpm-encoder",
            "guidance": 2.0,
            "seed": 8,
            "weights": "model",
        },
    }
    main(["edit", str(runs / "plain"), str(runs / "digit.png"), "--out", str(tmp_path / "y.png"), "--colour", "0.5"])
    arguments = json.loads(Image.open(tmp_path / "y.png").text["softmix"])["arguments"]  # type: ignore[attr-defined]
    # The options that were not given.
    assert (arguments["steps"], arguments["strength"], arguments["code"]) == (100, 1.0, "edit-friendly")
    assert arguments["weights"] == "ema-0.050"
    assert arguments["colour"] == [0.5]
    main(
        [
            "edit",
            str(runs / "plain"),
            str(runs / "digit.png"),
            "--out",
            str(tmp_path / "z.png"),
            "--other",
            str(runs / "soft"),
        ]
    )
    arguments = json.loads(Image.open(tmp_path / "z.png").text["softmix"])["arguments"]  # type: ignore[attr-defined]
    assert arguments["strength"] == 0.64
    assert arguments["other"] == str(runs / "soft")


def test_each_output_format_holds_the_same_edit(runs: Path, tmp_path: Path) -> None:
    for name in ("x.npy", "x.npz", "x.png", "x.webp"):
        main(
            [
                "edit",
                str(runs / "plain"),
                str(runs / "digit.png"),
                "--out",
                str(tmp_path / name),
                "--shift",
                "1",
                "1",
                "--steps",
                "3",
            ]
        )
    alone = np.load(tmp_path / "x.npy")
    assert np.array_equal(np.load(tmp_path / "x.npz")["arr_0"], alone[None, :, :, None])
    png, webp = (np.asarray(Image.open(tmp_path / f"x.{form}").convert("L")) for form in ("png", "webp"))
    assert np.array_equal(png, webp)
    # The third panel is the edit.
    factor = png.shape[0] // 12
    panel = png[2 * factor : 10 * factor : factor, 22 * factor : 30 * factor : factor]
    assert np.array_equal(panel, alone)


def test_ctrl_c_in_an_edit_writes_nothing(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["softmix.sampler.drive"], "finish", stop)
    with pytest.raises(SystemExit) as end:
        edited(runs, "plain", tmp_path / "x.npy", "--shift", "1", "1")
    assert end.value.code == 130
    assert capsys.readouterr().err.endswith(f"softmix: stopped; {tmp_path / 'x.npy'} was not written\n")
    assert list(tmp_path.iterdir()) == []
