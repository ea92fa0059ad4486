"""Tests of `softmix sample`, against the same call in Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import call, refused
from PIL import Image
from torch import Tensor

import softmix
from softmix.cli.guidance_interval import noise_levels
from softmix.data import to_uint8
from softmix.denoiser import averaged, guided, within
from softmix.process import few, karras, uniform_logsnr
from softmix.sampler import BY_NAME, adams, ancestral, ddim, heun, traits
from softmix.train import find_device

TINY = ["--set", "net.width=8", "batch=16", "optimiser.warmup=2", "precision=fp32"]
NAMES = ("10", "cat", "ox")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of few steps: a mean with named classes, a posterior that draws, one without a mean, and one of points."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    for k, name in enumerate(NAMES):
        (folder / "data" / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.clip(rng.normal(60 + 70 * k, 20, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "data" / name / f"{i}.png")
    np.save(folder / "wide.npy", rng.integers(0, 255, (20, 8, 12), dtype=np.uint8))
    for name, data, more in (
        ("classes", folder / "data", ["--model", "plain", "--steps", 30, *TINY, "classes=true"]),
        ("smd", "digits", ["--steps", 4, *TINY]),
        ("meanless", "digits", ["--steps", 4, *TINY, "head.mean=none", "loss.kind=Energy"]),
        ("ring", "toy:ring", ["--steps", 3, "--limit", 200]),
        ("wide", folder / "wide.npy", ["--model", "plain", "--steps", 2, *TINY]),
    ):
        code, _, err = call("train", data, "--out", folder / name, *more)
        assert code == 0, err
    return folder


def drawn(run: Path, out: Path, *more: object) -> np.ndarray:
    """The array that the command writes, [n, C, H, W]."""
    code, _, err = call("sample", run, "--out", out / "x.npz", *more)
    assert code == 0, err
    return np.load(out / "x.npz", allow_pickle=False)["arr_0"].transpose(0, 3, 1, 2)


def pixels(x: Tensor) -> np.ndarray:
    return to_uint8(x.cpu()).numpy()


# One option each: the samples equal those of Python, and differ from the samples without the option.


def every(n: int, first: int = 0) -> Tensor:
    return torch.arange(first, first + n) % 3


PLAIN: dict[str, Any] = {"n": 4, "steps": 3, "seed": 0, "sampler": adams, "cond": every(4)}


@pytest.mark.parametrize(
    ("more", "changed", "wrap"),
    [
        (["--n", 5], {"n": 5, "cond": every(5)}, None),
        (["--steps", 5], {"steps": 5}, None),
        (["--seed", 3], {"seed": 3}, None),
        (["--first", 7], {"first": 7, "cond": every(4, 7)}, None),
        (["--sampler", "heun"], {"sampler": heun}, None),
        (["--sampler", "ancestral"], {"sampler": ancestral}, None),
        (["--sampler", "ancestral", "--eta", 0.5], {"sampler": lambda *a: ancestral(*a, eta=0.5)}, None),
        (["--sampler", "ddim", "--eta", 1], {"sampler": lambda *a: ddim(*a, eta=1)}, None),
        (["--grid", "karras"], {"grid": karras}, None),
        (["--sampler", "ddim", "--grid", "uniform-logsnr"], {"sampler": ddim, "grid": uniform_logsnr}, None),
        (
            ["--sampler", "ddim", "--eta", 1, "--grid", "few"],
            {"sampler": lambda *a: ddim(*a, eta=1), "grid": few},
            None,
        ),
        (["--label", "cat"], {"cond": torch.full((4,), 1)}, None),
        (["--label", 2], {"cond": torch.full((4,), 2)}, None),
        (["--guidance", 4], {}, guided(4.0)),
        (["--guidance", 4, "--interval", -2, 3], {}, within(-2.0, 3.0, guided(4.0))),
        (["--guidance", 4, "--interval", "-inf", -1], {}, within(-float("inf"), -1.0, guided(4.0))),
        (["--precision", "bf16"], {"precision": "bf16"}, None),
    ],
)
def test_each_option_does_what_it_says(
    more: list[object], changed: dict[str, Any], wrap: Any, runs: Path, tmp_path: Path
) -> None:
    model = softmix.load(runs / "classes")
    model.denoiser.to(find_device())
    denoiser = wrap(model.denoiser) if wrap else model.denoiser
    kept = dict(zip(map(str, more[::2]), more[1::2], strict=False)) if "--interval" not in more else {}
    start: list[object] = [
        word for name, value in (("--n", 4), ("--steps", 3)) if name not in kept for word in (name, value)
    ]
    settings = PLAIN | changed
    if "grid" in changed:
        settings["grid"] = changed["grid"](model.process, 3)
    elif "sampler" in changed and callable(changed["sampler"]) and changed["sampler"].__name__ == "<lambda>":
        settings["grid"] = model.process.grid(3)
    right = pixels(softmix.sample(denoiser, **settings))
    found = drawn(runs / "classes", tmp_path, *start, *more)
    assert np.array_equal(found, right)
    assert not np.array_equal(found, drawn(runs / "classes", tmp_path, "--n", 4, "--steps", 3))


def test_other_weights_make_other_images(runs: Path, tmp_path: Path) -> None:
    made = {}
    for weights in ("model", "ema-0.050", "ema-0.100"):
        model = softmix.load(runs / "classes", weights)
        made[weights] = pixels(softmix.sample(model.denoiser, **PLAIN))
        assert np.array_equal(
            drawn(runs / "classes", tmp_path, "--n", 4, "--steps", 3, "--weights", weights), made[weights]
        )
    assert not np.array_equal(made["model"], made["ema-0.050"])
    # The default is the first average of the run.
    assert np.array_equal(drawn(runs / "classes", tmp_path, "--n", 4, "--steps", 3), made["ema-0.050"])


def test_an_average_of_draws(runs: Path, tmp_path: Path) -> None:
    model = softmix.load(runs / "meanless")
    made = []
    for k in (2, 5):
        right = pixels(softmix.sample(averaged(k)(model.denoiser), 3, 4, sampler=heun))
        more = ("--n", 3, "--steps", 4, "--sampler", "heun", "--average", k)
        made.append(drawn(runs / "meanless", tmp_path, *more))
        assert np.array_equal(made[-1], right)
    assert not np.array_equal(*made)


def test_default_options(runs: Path, tmp_path: Path) -> None:
    """64 images in 4 steps, seed 0, by the sampler that suits the model."""
    model = softmix.load(runs / "smd")
    assert model.sampler is not adams
    found = drawn(runs / "smd", tmp_path)
    assert np.array_equal(found, pixels(softmix.sample(model.denoiser, 64, 4, sampler=model.sampler)))


def test_the_recipe_holds_every_option(runs: Path, tmp_path: Path) -> None:
    more = (
        *("--n", 2, "--steps", 6, "--sampler", "ancestral", "--eta", 0.25, "--seed", 9, "--label", "ox"),
        *("--guidance", 1.5, "--interval", -3, 2, "--weights", "model", "--first", 4, "--precision", "bf16"),
        *("--grid", "uniform"),
    )
    assert call("sample", runs / "classes", "--out", tmp_path / "x.png", *more)[0] == 0
    recipe = json.loads(Image.open(tmp_path / "x.png").info["softmix"])
    model = softmix.load(runs / "classes", "model")
    assert recipe.pop("arguments") == {
        "n": 2,
        "steps": 6,
        "sampler": "ancestral",
        "eta": 0.25,
        "grid": "uniform",
        "seed": 9,
        "label": 2,
        "guidance": 1.5,
        "interval": [-3.0, 2.0],
        "weights": "model",
        "average": 0,
        "first": 4,
        "precision": "bf16",
    }
    assert recipe == {
        "run": "classes",
        "step": 30,
        "weights": "model",
        "data": model.facts.data,
        "fingerprint": model.facts.fingerprint,
        "weights_fingerprint": model.fingerprint,
        "sampler": "ancestral, grid uniform, eta 0.25",
        "form": "grid",
        "softmix": softmix.__version__,
    }
    code, out, _ = call("sample", runs / "classes", "--out", tmp_path / "y.png", *more, "--dry-run")
    assert code == 0
    assert json.loads(out) == {key: recipe[key] for key in recipe if key != "form"} | {
        "arguments": json.loads(Image.open(tmp_path / "x.png").info["softmix"])["arguments"]
    }
    assert not (tmp_path / "y.png").exists()


def test_the_recipe_names_the_default_weights(runs: Path, tmp_path: Path) -> None:
    assert call("sample", runs / "classes", "--out", tmp_path / "x.png", "--n", 1, "--steps", 1)[0] == 0
    recipe = json.loads(Image.open(tmp_path / "x.png").info["softmix"])
    assert recipe["weights"] == recipe["arguments"]["weights"] == "ema-0.050"
    # Other options that were not given stay open: the model decides them again.
    assert recipe["arguments"]["sampler"] is None
    assert recipe["arguments"]["eta"] is None


# Classes by name.


def test_a_class_by_its_name_or_number(runs: Path, tmp_path: Path) -> None:
    """A folder named 10 is the first of three classes: the name has precedence over the same number."""
    model = softmix.load(runs / "classes")
    assert model.facts.class_names == NAMES
    for label, k in (("10", 0), ("cat", 1), ("2", 2), ("0", 0)):
        right = pixels(softmix.sample(model.denoiser, **(PLAIN | {"cond": torch.full((4,), k)})))
        assert np.array_equal(drawn(runs / "classes", tmp_path, "--n", 4, "--steps", 3, "--label", label), right)
    for label in ("dog", "3", "-1", "1.0", "Cat"):
        err = refused("sample", runs / "classes", "--out", tmp_path / "y.png", "--label", label)
        assert f"--label {label} was asked for; the classes of this model are 0 to 2 (10, cat, ox)" in err
    assert "none: it was trained without" in refused(
        "sample", runs / "smd", "--out", tmp_path / "y.png", "--label", "3"
    )


# Outputs.


def test_each_format_holds_the_same_samples(runs: Path, tmp_path: Path) -> None:
    for name in ("x.npy", "x.npz", "x.png", "x.webp", "x.jpg", "x.JPEG"):
        code, out, err = call("sample", runs / "classes", "--out", tmp_path / name, "--n", 5, "--steps", 2)
        assert code == 0, err
        assert out == f"wrote {tmp_path / name}\n"
    array, whole = np.load(tmp_path / "x.npy"), np.load(tmp_path / "x.npz")
    assert array.shape == (5, 8, 8)
    assert array.dtype == np.uint8
    # The format of the evaluator of guided-diffusion.
    assert sorted(whole.files) == ["arr_0", "arr_1"]
    assert whole["arr_0"].shape == (5, 8, 8, 1)
    assert np.array_equal(whole["arr_0"][..., 0], array)
    assert whole["arr_1"].tolist() == [0, 1, 2, 0, 1]
    png, webp, jpg = (
        np.asarray(Image.open(tmp_path / f"x.{form}").convert("L"), int) for form in ("png", "webp", "jpg")
    )
    assert np.array_equal(png, webp)
    assert 0 < np.abs(png - jpg).max() < 40
    assert np.abs(png - jpg).mean() < 2
    assert (tmp_path / "x.jpg").read_bytes() == (tmp_path / "x.JPEG").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.JPEG", "x.jpg", "x.npy", "x.npz", "x.png", "x.webp"]


def test_an_npz_without_classes_has_one_array(runs: Path, tmp_path: Path) -> None:
    assert call("sample", runs / "smd", "--out", tmp_path / "x.npz", "--n", 2, "--steps", 1)[0] == 0
    assert np.load(tmp_path / "x.npz").files == ["arr_0"]


def test_points_are_written_as_they_are(runs: Path, tmp_path: Path) -> None:
    model = softmix.load(runs / "ring")
    right = softmix.sample(model.denoiser.to(find_device()), 5, 2, sampler=model.sampler).cpu().numpy()
    for name in ("x.npy", "x.npz"):
        assert call("sample", runs / "ring", "--out", tmp_path / name, "--n", 5, "--steps", 2)[0] == 0
    assert np.array_equal(np.load(tmp_path / "x.npy"), right)
    assert np.array_equal(np.load(tmp_path / "x.npz")["arr_0"], right)
    for name in ("x.png", "x.webp", "folder"):
        assert ".npy or .npz" in refused("sample", runs / "ring", "--out", tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 2


def test_new_pictures_get_free_numbers_and_replace_nothing(runs: Path, tmp_path: Path) -> None:
    sample = ("sample", runs / "smd", "--out", tmp_path / "x", "--steps", 1)
    assert call(*sample, "--n", 3)[0] == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()}
    assert sorted(first) == ["000000.png", "000001.png", "000002.png"]
    err = refused(*sample, "--n", 2, "--first", 2, "--seed", 1)
    assert "holds 3 pictures, 000002.png among them: --first 3 numbers on" in err
    assert call(*sample, "--n", 2, "--first", 3)[0] == 0
    assert {name: (tmp_path / "x" / name).read_bytes() for name in first} == first
    assert len(list((tmp_path / "x").iterdir())) == 5
    (tmp_path / "x" / "photo.JPG").touch()
    assert "holds other pictures (photo.JPG)" in refused(*sample, "--n", 1, "--first", 9)


def test_taken_numbers_are_refused_and_their_neighbours_are_free(runs: Path, tmp_path: Path) -> None:
    sample = ("sample", runs / "smd", "--out", tmp_path / "x", "--steps", 1)
    assert call(*sample, "--n", 1, "--first", 5)[0] == 0
    for first, n in ((5, 1), (4, 2), (5, 2), (3, 3)):
        assert "000005.png among them: --first 6" in refused(*sample, "--n", n, "--first", first)
    for first, n in ((3, 2), (6, 1)):
        assert call(*sample, "--n", n, "--first", first)[0] == 0
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [f"{k:06d}.png" for k in (3, 4, 5, 6)]


def test_other_files_in_the_folder_stay(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "v1.5").mkdir()
    (tmp_path / "v1.5" / "notes.txt").write_text("kept")
    assert call("sample", runs / "smd", "--out", tmp_path / "v1.5", "--n", 1, "--steps", 1)[0] == 0
    assert sorted(path.name for path in (tmp_path / "v1.5").iterdir()) == ["000000.png", "notes.txt"]


def test_images_that_are_not_square_are_sampled_edited_and_repeated(runs: Path, tmp_path: Path) -> None:
    run = runs / "wide"
    assert drawn(run, tmp_path, "--n", 2, "--steps", 1).shape == (2, 1, 8, 12)
    assert call("sample", run, "--out", tmp_path / "x.png", "--n", 3, "--steps", 2)[0] == 0
    assert "are the same" in call("repeat", tmp_path / "x.png", "--run", run)[1]
    edit = ("edit", run, tmp_path / "x.png", "--shift", 1, 0, "--steps", 4)
    code, _, err = call(*edit, "--out", tmp_path / "e.png")
    assert code == 0, err
    assert "are the same" in call("repeat", tmp_path / "e.png", "--run", run)[1]
    assert call(*edit, "--out", tmp_path / "e.npy")[0] == 0
    assert np.load(tmp_path / "e.npy").shape == (8, 12)


# Wrong options are refused before the work.


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--n", 0], "--n 0 was asked for; it must be at least 1"),
        (["--n", 2**63], "must be at most"),
        (["--n", 10**12], "GB of memory"),
        (["--n", 3 * 10**6, "--out", "x.webp"], "16,383 on a side"),
        (["--steps", 0], "--steps 0 was asked for"),
        (["--steps", 10**9], "at most 100,000"),
        (["--first", 2**63], "--first 9223372036854775808 was asked for; it must be at most"),
        (["--first", 2**63 - 64], "must be at most"),
        (["--first", -1], "at least 0"),
        (["--average", -1], "at least 0"),
        (["--average", 10**9], "at most 10,000"),
        (["--average", 2], "gives one mean and no draws to average"),
        (["--guidance", "nan"], "--guidance nan was asked for; it must be a finite number"),
        (["--guidance", "inf"], "a finite number"),
        (["--interval", -3, 3], "nothing guides"),
        (["--interval", 3, -3, "--guidance", 2], "the smaller logsnr comes first"),
        (["--interval", 3, 3, "--guidance", 2], "the smaller logsnr comes first"),
        (["--interval", "nan", 3, "--guidance", 2], "the smaller logsnr comes first"),
        (["--interval", 60, 90, "--guidance", 2], "nothing would be guided"),
        (["--interval", 4, 90, "--guidance", 2, "--steps", 1], "nothing would be guided"),
        (["--interval", -90, -60, "--guidance", 2], "nothing would be guided"),
        # The sampler adams asks the model at -20, -2.667, 0.667, 4, and the two stages of dpm-solver-2s at 2.333 too
        (["--interval", 1, 2, "--guidance", 2], "next to the interval at 0.6667 and 4. Widen it past one of these"),
        (["--interval", 2.4, 3.9, "--guidance", 2, "--sampler", "dpm-solver-2s"], "at 2.333 and 4. Widen it past"),
        (["--eta", "nan", "--sampler", "ddim"], "runs from 0 to 1"),
        (["--weights", "best"], "this run keeps model, ema-0.050"),
        (["--sampler", "euler"], "there are"),
        (
            ["--grid", "even"],
            "the grid 'even' was asked for; there are uniform, uniform-logsnr, few, after-draw, karras",
        ),
        (["--grid", "trailing", "--steps", 1001], "--grid trailing was asked for: 1001 steps were asked for"),
        (["--sampler", "plms", "--steps", 8, "--grid", "few"], "plms leaves the data's range on any grid but its own"),
        (["--out", "x.gif"], "write to a .png, .jpg"),
        (["--out", "/proc/x.npy"], "cannot be written"),
        (["--out", "n" * 300 + ".png"], "File name too long"),
        (["--out", "file/x.png"], "Not a directory"),
    ],
)
def test_wrong_options_are_refused_before_the_work(
    more: list[object], says: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in more else ["--out", "x.npy"]
    assert says in refused("sample", runs / "classes", *out, *more)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interval_may_lie_around_an_inner_stage_of_a_step(runs: Path, tmp_path: Path) -> None:
    words = ("--n", 4, "--steps", 4, "--sampler", "dpm-solver-2s")
    without = drawn(runs / "classes", tmp_path, *words)
    assert not np.array_equal(drawn(runs / "classes", tmp_path, *words, "--guidance", 9, "--interval", 2, 3), without)


# the model is no interpolant, and no model of tokens
@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in ("interpolant-heun", "unmask")])
@pytest.mark.parametrize("steps", [5, 20])
def test_noise_levels_are_those_of_the_real_sampler(name: str, steps: int, runs: Path) -> None:
    if steps < traits(BY_NAME[name]).least:
        return
    model = softmix.load(runs / "smd")
    found: set[float] = set()
    softmix.sample(
        model.denoiser,
        2,
        steps,
        sampler=BY_NAME[name],
        seed=1,
        look=lambda step: found.add(float(model.process.logsnr(step.t))),
    )
    assert noise_levels(BY_NAME[name], model.process, model.facts.shape, steps) == sorted(found)


def test_the_largest_image_number_is_that_of_64_bits(runs: Path, tmp_path: Path) -> None:
    first = 2**63 - 1 - 2
    assert drawn(runs / "classes", tmp_path, "--n", 2, "--steps", 1, "--first", first).shape == (2, 1, 8, 8)


# Errors during the work leave nothing behind.


def broken(error: BaseException) -> Callable[..., Any]:
    def at_once(*arguments: object, **options: object) -> None:
        raise error

    return at_once


def test_ctrl_c_says_that_nothing_was_written(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmix.sampler, "sample", broken(KeyboardInterrupt()))
    code, _, err = call("sample", runs / "smd", "--out", tmp_path / "x.npy")
    assert code == 130
    assert err == f"softmix: stopped; {tmp_path / 'x.npy'} was not written\n"


def test_ctrl_c_while_writing_leaves_nothing(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softmix.picture.save_png", broken(KeyboardInterrupt()))
    for name in ("x.png", "folder"):
        code, _, err = call("sample", runs / "smd", "--out", tmp_path / name, "--n", 2, "--steps", 1)
        assert code == 130
        assert "was not written" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.png", "folder"])
def test_a_full_disk_leaves_nothing_under_the_final_name(
    name: str, runs: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("16k")
    code, _, err = call("sample", runs / "smd", "--out", disk / name, "--n", 400, "--steps", 1)
    assert code == 1
    assert err.splitlines()[-1] == f"softmix: {disk / name} was not written: No space left on device"
    assert list(disk.iterdir()) == []


def test_samples_that_are_not_finite_are_not_written(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ("smd", "ring"):
        shape = softmix.load(runs / run).facts.shape
        x = torch.zeros(4, *shape)
        x[1, 0] = float("nan")
        monkeypatch.setattr(softmix.sampler, "sample", lambda *a, x=x, **k: x)
        code, _, err = call("sample", runs / run, "--out", tmp_path / "x.npy", "--n", 4)
        assert code == 1
        assert "1 of 4 samples are not finite numbers" in err
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_program_is_one_sentence(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmix.sampler, "sample", broken(RuntimeError("a\nb")))
    code, _, err = call("sample", runs / "smd", "--out", tmp_path / "x.npy")
    assert code == 1
    assert err.count("\n") == 1
    assert "RuntimeError: a." in err
