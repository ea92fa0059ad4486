"""Tests of `softmix restore` and `--pairs`: as in Python, for pictures of any size, and no given file is lost."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import call, refused
from PIL import Image
from torch import Tensor

import softmix
from softmix.cli import restore as verb
from softmix.cli.recipes import saved_options
from softmix.cli.restore import Restore
from softmix.cli.restore_output import spread_line
from softmix.data import to_uint8
from softmix.memory import NotEnoughMemoryError
from softmix.picture import recipe_in
from softmix.sampler import ddim
from softmix.train import read_run

TINY = ["--steps", 8, "--set", "net.width=8", "batch=8", "optimiser.warmup=1", "net.attention=false", "precision=fp32"]


def save(place: Path, pixels: np.ndarray) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(place)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour pictures of 8 x 8 with dim partners, those of other sizes, and runs on the pairs."""
    folder = tmp_path_factory.mktemp("restore")
    rng = np.random.default_rng(0)
    for k in range(16):
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        for root in ("", "kinds/"):
            below = "" if not root else f"{'ab'[k % 2]}/"
            save(folder / f"{root}sharp" / f"{below}{k:02}.png", pixels)
            save(folder / f"{root}dim" / f"{below}{k:02}.png", pixels // 2)
    for name, size in {"a": (8, 8), "b": (13, 10), "below/c": (8, 8), "d": (5, 6)}.items():
        pixels = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        save(folder / "new-sharp" / f"{name}.png", pixels)
        save(folder / "new" / f"{name}.png", pixels // 2)
    pairs = [folder / "sharp", "--pairs", folder / "dim"]
    runs: dict[str, list[Any]] = {
        "rddm": [*pairs, "--model", "plain", "--process", "rddm"],
        "vp": [*pairs, "--model", "plain"],
        "soft": [*pairs, "--model", "smd", "--process", "rddm"],
        "shift": [*pairs, "--model", "plain", "--process", "shift-ddpm"],
        "alone": [folder / "sharp", "--model", "plain"],
        "classes": [
            *(folder / "kinds/sharp", "--pairs", folder / "kinds/dim", "--classes"),
            *("--model", "plain", "--process", "rddm"),
        ],
    }
    for name, words in runs.items():
        code, out, err = call("train", *words, "--out", folder / name, *TINY)
        assert code == 0, err
        command = "softmix restore" if name != "alone" else "softmix sample"
        assert f"next: {command} {folder / name} " in out
    return folder


def ran(*words: object) -> tuple[str, str]:
    code, out, err = call("restore", *words)
    assert code == 0, err
    return out, err


def pixels_of(path: Path) -> Tensor:
    """uint8 [C, H, W] on the CPU."""
    array = np.asarray(Image.open(path))
    return torch.from_numpy(np.atleast_3d(array).transpose(2, 0, 1).copy())


def given(path: Path) -> Tensor:
    """[1, C, H, W] in [-1, 1]."""
    return pixels_of(path)[None].float() / 127.5 - 1


def expected(place: Path, run: str, picture: str, steps: int = 5, draws: int = 1, **more: Any) -> Tensor:
    """The draws of a picture in Python, float [m, C, H, W]."""
    model = softmix.load(place / run, more.pop("weights", None))
    images = given(place / "new" / picture)
    return (
        softmix.restore(model.denoiser, images, steps, draws=draws, **{"sampler": model.sampler} | more)[:, 0]
        .clamp(-1, 1)
        .cpu()
    )


def near(found: Path, right: Tensor) -> bool:
    """Whether a picture has these values, to a grey level of rounding."""
    pixels = pixels_of(found)
    return pixels.shape == right.shape and bool((pixels.int() - to_uint8(right).int()).abs().max() <= 1)


@pytest.mark.parametrize(("run", "steps"), [("rddm", 5), ("vp", 8), ("shift", 8)])
def test_a_picture_of_any_size_is_restored_as_in_python(run: str, steps: int, place: Path, tmp_path: Path) -> None:
    for picture in ("a.png", "b.png", "d.png"):
        out, err = ran(place / run, place / "new" / picture, "--out", tmp_path / picture)
        assert near(tmp_path / picture, expected(place, run, picture, steps)[0])
        assert not near(tmp_path / picture, expected(place, run, picture, steps + 3)[0])
        assert out == f"wrote {tmp_path / picture}\n" and "note" not in err


def test_the_default_steps_suit_the_model(place: Path) -> None:
    steps = {run: verb.default_steps(softmix.load(place / run)) for run in ("rddm", "vp", "soft", "shift")}
    assert steps == {"rddm": 5, "vp": 8, "soft": 5, "shift": 8}


def test_each_picture_of_a_folder_is_restored_as_it_is_alone(place: Path, tmp_path: Path) -> None:
    ran(place / "rddm", place / "new", "--out", tmp_path / "out")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert found == ["a.png", "b.png", "below/c.png", "d.png"]
    for name in found:
        assert near(tmp_path / "out" / name, expected(place, "rddm", name)[0])


def test_several_pictures_may_be_named_and_other_formats_are_written(place: Path, tmp_path: Path) -> None:
    new = place / "new"
    ran(place / "rddm", new / "a.png", new / "below", "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    ran(place / "rddm", new / "a.png", "--out", tmp_path / "a.webp")
    assert near(tmp_path / "a.webp", expected(place, "rddm", "a.png")[0])
    ran(place / "rddm", new / "a.png", "--out", tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").format == "JPEG"


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (["--seed", 3], {"seed": 3}),
        (["--sampler", "ddim"], {"sampler": ddim}),
        (["--steps", 2], {"steps": 2}),
        (["--weights", "model"], {"weights": "model"}),
        (["--precision", "bf16"], {"precision": "bf16"}),
    ],
)
def test_each_option_has_the_effect_that_it_has_in_python(
    words: list[object], more: dict[str, Any], place: Path, tmp_path: Path
) -> None:
    """bf16 changes few pixels, so that all are compared."""
    out = tmp_path / "x.png"
    ran(place / "rddm", place / "new/b.png", "--out", out, *words)
    assert near(out, expected(place, "rddm", "b.png", **more)[0])
    plain = tmp_path / "plain.png"
    ran(place / "rddm", place / "new/b.png", "--out", plain)
    assert not torch.equal(pixels_of(out), pixels_of(plain))


def test_draws_with_their_mean_and_their_standard_deviation(place: Path, tmp_path: Path) -> None:
    out, _ = ran(place / "rddm", place / "new/b.png", "--out", tmp_path, "--draws", 3, "--seed", 1)
    right = expected(place, "rddm", "b.png", draws=3, seed=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["b-mean.png", "b-sd.png", *(f"b-draw-{k}.png" for k in (1, 2, 3))]
    )
    for k in range(3):
        assert near(tmp_path / f"b-draw-{k + 1}.png", right[k])
    assert near(tmp_path / "b-mean.png", right.mean(0))
    squares = (right - right.mean(0)).square().sum(0) / 2
    levels = (4 * 127.5 * squares.mean(0).sqrt()).clamp(max=255)
    found = pixels_of(tmp_path / "b-sd.png")
    assert found.shape == (1, 13, 10)
    assert float((found[0] - levels).abs().max()) < 1
    assert float(levels.min()) < 250 and float(levels.std()) > 1
    spread = 127.5 * float(squares.mean(0).sqrt().mean())
    assert f"have a standard deviation of {spread:.2f} grey levels" in out


def test_draws_that_hardly_differ_are_named() -> None:
    assert "They hardly differ" in spread_line([0.2, 0.4])
    assert "They hardly differ" not in spread_line([0.2, 2.4])
    assert "of 1.30 grey levels" in spread_line([0.2, 2.4])


def psnr(one: Tensor, other: Tensor) -> float:
    return float(10 * torch.log10(4 / (one - other).square().mean()))


def test_the_psnr_before_and_after(place: Path, tmp_path: Path) -> None:
    out, err = ran(place / "rddm", place / "new", "--out", tmp_path / "out", "--truth", place / "new-sharp")
    rows = {line.split("  ")[0].strip(): line.split()[-2:] for line in out.splitlines()}
    values = []
    for name in ("a", "b", "below/c", "d"):
        truth = given(place / "new-sharp" / f"{name}.png")[0]
        after = expected(place, "rddm", f"{name}.png")[0]
        values.append((psnr(given(place / "new" / f"{name}.png")[0], truth), psnr(after, truth)))
        assert [float(each) for each in rows[name]] == pytest.approx(values[-1], abs=0.02)
    means = np.mean(values, axis=0)
    assert [float(each) for each in rows["mean of 4"]] == pytest.approx(means, abs=0.02)
    assert rows["PSNR in dB"] == ["before", "after"]
    assert ("further from the truth" in err) == (means[1] < means[0])


def test_the_psnr_of_one_draw_and_of_their_mean(place: Path, tmp_path: Path) -> None:
    words = ["--draws", 3, "--truth", place / "new-sharp/b.png"]
    out, _ = ran(place / "rddm", place / "new/b.png", "--out", tmp_path, *words)
    draws, truth = expected(place, "rddm", "b.png", draws=3), given(place / "new-sharp/b.png")[0]
    right = [np.mean([psnr(each, truth) for each in draws]), psnr(draws.mean(0), truth)]
    row = next(line for line in out.splitlines() if line.startswith("b "))
    assert [float(each) for each in row.split()[-2:]] == pytest.approx(right, abs=0.02)
    assert "one draw  mean of draws" in out


def test_a_note_says_that_the_results_are_worse_than_the_given_pictures(place: Path, tmp_path: Path) -> None:
    """Each given picture is its own truth here, and nothing can be better."""
    _, err = ran(place / "rddm", place / "new", "--out", tmp_path / "out", "--truth", place / "new")
    assert "further from the truth than the given pictures: train longer" in err


def panel(sheet: Path, column: int, row: int, size: tuple[int, int], factor: int) -> Tensor:
    """A panel of a comparison of pictures of one size [H, W], in its own pixels."""
    height, width = size
    pixels = pixels_of(sheet)
    top, left = 16 + row * (height * factor + 18), 2 + column * (width * factor + 2)
    return pixels[:, top : top + height * factor : factor, left : left + width * factor : factor]


def test_a_sheet_shows_before_after_and_truth(place: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    words = [place / "new/a.png", place / "new/below", "--out", tmp_path / "out", "--truth", place / "new-sharp"]
    clean = tmp_path / "clean"
    clean.mkdir()
    for name in ("a.png", "below/c.png"):
        shutil.copy(place / "new-sharp" / name, clean)
    words[-1] = clean
    ran(place / "rddm", *words, "--compare", sheet)
    for row, name in enumerate(("a", "c")):
        before = place / "new" / ("a.png" if name == "a" else "below/c.png")
        for column, path in enumerate((before, tmp_path / "out" / f"{name}.png", clean / f"{name}.png")):
            assert torch.equal(panel(sheet, column, row, (8, 8), 12), pixels_of(path))
    assert Image.open(sheet).size == (3 * 98 + 2, 2 * (96 + 18))


def test_a_sheet_of_draws_and_of_other_sizes(place: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.webp"
    ran(place / "rddm", place / "new/b.png", "--out", tmp_path / "out", "--draws", 4, "--compare", sheet)
    parts = [place / "new/b.png", *(tmp_path / "out" / f"b-{kind}.png" for kind in ("draw-1", "draw-2", "draw-3"))]
    for column, path in enumerate([*parts, tmp_path / "out/b-mean.png"]):
        assert torch.equal(panel(sheet, column, 0, (13, 10), 10), pixels_of(path))
    sd = pixels_of(tmp_path / "out/b-sd.png")
    assert torch.equal(panel(sheet, 5, 0, (13, 10), 10), sd.expand(3, -1, -1))
    ran(place / "rddm", place / "new", "--out", tmp_path / "all", "--compare", sheet)
    assert Image.open(sheet).height == 2 * (96 + 18) + (13 * 10 + 18) + (5 * 16 + 18)


def test_the_sheet_has_the_first_pictures_alone(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "SHOWN", 2)
    sheet = tmp_path / "sheet.png"
    ran(place / "rddm", place / "new", "--out", tmp_path / "all", "--compare", sheet)
    assert Image.open(sheet).height == (96 + 18) + (13 * 10 + 18)


def test_a_soft_mixture_brings_larger_pictures_to_its_size_and_says_so(place: Path, tmp_path: Path) -> None:
    _, err = ran(place / "soft", place / "new", "--out", tmp_path, "--truth", place / "new-sharp")
    assert "takes pictures of 8 x 8 and smaller ones" in err
    assert f"{place / 'new/b.png'} has 10 x 13 pixels, and 1 of 4 pictures are larger" in err
    sizes = {name: pixels_of(tmp_path / f"{name}.png").shape for name in ("a", "b", "below/c", "d")}
    assert sizes == {"a": (3, 8, 8), "b": (3, 8, 8), "below/c": (3, 8, 8), "d": (3, 5, 6)}
    assert near(tmp_path / "d.png", expected(place, "soft", "d.png")[0])
    _, err = ran(place / "soft", place / "new/d.png", "--out", tmp_path / "alone.png")
    assert "note" not in err
    for size in ((12, 5), (5, 12)):
        save(tmp_path / "long.png", np.zeros((*size, 3), dtype=np.uint8))
        _, err = ran(place / "soft", tmp_path / "long.png", "--out", tmp_path / "square.png")
        assert "note" in err and pixels_of(tmp_path / "square.png").shape == (3, 8, 8)


def test_the_class_of_the_pictures_reaches_the_model(place: Path, tmp_path: Path) -> None:
    run, picture = place / "classes", place / "new/b.png"
    for name, number in (("a", 0), ("b", 1)):
        ran(run, picture, "--out", tmp_path / f"{name}.png", "--label", name)
        label = torch.tensor([number])
        assert near(tmp_path / f"{name}.png", expected(place, "classes", "b.png", label=label)[0])
    assert not torch.equal(pixels_of(tmp_path / "a.png"), pixels_of(tmp_path / "b.png"))
    assert "name it with --label" in refused("restore", run, picture, "--out", tmp_path / "c.png")
    assert "the classes of this model are none" in refused(
        "restore", place / "rddm", picture, "--out", tmp_path / "c.png", "--label", "a"
    )


def test_files_that_are_no_pictures_are_left_out_with_a_note(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(place / "new", folder)
    (folder / "notes.txt").write_text("no picture at all")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:60])
    _, err = ran(place / "rddm", folder, "--out", tmp_path / "out")
    assert f"note: left out: {folder / 'notes.txt'} cannot be read: not an image" in err
    assert f"note: left out: {folder / 'cut.png'}" in err
    assert len(list((tmp_path / "out").rglob("*.png"))) == 4


def test_nothing_is_written_by_a_dry_run(place: Path, tmp_path: Path) -> None:
    out, _ = ran(place / "rddm", place / "new", "--out", tmp_path / "out", "--draws", 2, "--dry-run")
    shown = json.loads(out)
    assert len(shown["images"]) == 4 and str(tmp_path / "out/below/c-draw-2.png") in shown["out"]
    assert shown["arguments"]["steps"] == 5 and shown["sampler"].startswith("adams")
    assert list(tmp_path.iterdir()) == []


def test_a_result_holds_its_recipe_and_is_not_repeated_without_its_picture(place: Path, tmp_path: Path) -> None:
    ran(place / "rddm", place / "new/b.png", "--out", tmp_path, "--draws", 2, "--seed", 4)
    recipe = json.loads(recipe_in(Image.open(tmp_path / "b-draw-2.png")))
    model = softmix.load(place / "rddm")
    assert (recipe["image"], recipe["result"]) == ("b.png", "draw 2")
    assert (recipe["run"], recipe["weights_fingerprint"]) == ("rddm", model.fingerprint)
    assert recipe["arguments"] | {"seed": 4, "draws": 2, "steps": 5, "weights": model.weights} == recipe["arguments"]
    assert set(recipe["arguments"]) == set(saved_options(Restore))
    said = refused("repeat", tmp_path / "b-draw-2.png", "--run", place / "rddm")
    assert 'was restored from "b.png"' in said and "softmix restore" in said


def test_a_folder_keeps_its_files_and_a_named_file_is_replaced(place: Path, tmp_path: Path) -> None:
    words = [place / "rddm", place / "new", "--out", tmp_path / "out"]
    ran(*words)
    before = (tmp_path / "out/a.png").read_bytes()
    assert "4 of the results are there already" in refused("restore", *words, "--seed", 1)
    assert (tmp_path / "out/a.png").read_bytes() == before
    for seed in (0, 1):
        ran(place / "rddm", place / "new/a.png", "--out", tmp_path / "a.png", "--seed", seed)
    assert pixels_of(tmp_path / "a.png").equal(to_uint8(expected(place, "rddm", "a.png", seed=1)[0]))


def test_no_result_takes_the_place_of_a_given_picture_or_of_another_result(place: Path, tmp_path: Path) -> None:
    run, one = place / "rddm", tmp_path / "one/a.png"
    shutil.copytree(place / "new", tmp_path / "one")
    shutil.copytree(place / "new", tmp_path / "two")
    before = one.read_bytes()
    assert "one of the given pictures" in refused("restore", run, one, "--out", one)
    assert "one of the given pictures" in refused(
        "restore",
        run,
        one,
        "--out",
        tmp_path / "x.png",
        "--truth",
        tmp_path / "two/a.png",
        "--compare",
        tmp_path / "two/a.png",
    )
    assert "are there already" in refused("restore", run, tmp_path / "one", "--out", tmp_path / "one")
    assert "two results would be written to" in refused(
        "restore", run, one, tmp_path / "two/a.png", "--out", tmp_path / "out"
    )
    assert "two results would be written to" in refused(
        "restore", run, one, "--out", tmp_path / "x.png", "--compare", tmp_path / "x.png"
    )
    assert one.read_bytes() == before and not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rddm", "new/none.png"], "new/none.png cannot be read: No such file"),
        (["rddm"], "no picture was given"),
        (["rddm", "new", "--out", "x.png"], "x.png is one picture, for 4 pictures: name a folder"),
        (["rddm", "new/a.png", "--out", "x.png", "--draws", 2], "x.png is one picture, for 2 draws"),
        (["rddm", "new/a.png", "--out", "x.gif"], "name a .png, a .jpg"),
        (["rddm", "new/a.png", "--compare", "x.gif"], "--compare"),
        (["rddm", "new/a.png", "--compare", "folder"], "name a .png, a .jpg"),
        (["rddm", "new/a.png", "--steps", 0], "--steps 0 was asked for"),
        (["rddm", "new/a.png", "--draws", 0], "--draws 0 was asked for"),
        (["rddm", "new/a.png", "--sampler", "eulr"], "the sampler 'eulr'"),
        (["rddm", "new/a.png", "--weights", "ema-9"], "this run keeps"),
        (["rddm", "new", "--truth", "sharp"], "has no picture with the name a, for 4 of 4 pictures"),
        (["rddm", "new", "--truth", "sharp/00.png"], "is one picture, for 4"),
        (["rddm", "new/b.png", "--truth", "sharp/00.png"], "has 8 x 8 pixels, and"),
        (["alone", "new/a.png"], "train one with softmix train CLEAN/ --pairs DEGRADED/"),
        (["new", "new/a.png"], "is not a run folder"),
        (["rddm", "empty"], "empty holds no picture"),
    ],
)
def test_a_wrong_command_says_what_to_do(words: list[Any], says: str, place: Path, tmp_path: Path) -> None:
    (place / "empty").mkdir(exist_ok=True)
    own = ("x.png", "x.gif", "folder")
    roots = {"rddm", "alone", "new", "sharp", "empty"}
    asked: list[Any] = [
        tmp_path / word if word in own else place / word if str(word).split("/")[0] in roots else word for word in words
    ]
    asked += [] if "--out" in words else ["--out", tmp_path / "out.png" if "new/a.png" in words else tmp_path / "out"]
    assert says in refused("restore", *asked)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_is_damaged_inside_is_named(place: Path, tmp_path: Path) -> None:
    data = (place / "new/b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(data[: len(data) // 2])
    said = refused("restore", place / "rddm", tmp_path / "b.png", "--out", tmp_path / "out.png")
    assert f"{tmp_path / 'b.png'} cannot be read: damaged or cut off" in said


def test_ctrl_c_says_how_many_pictures_are_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pictures of 8 x 8 are the first batch; the second batch is stopped."""
    calls = []

    def stopped(*arguments: Any, **more: Any) -> Tensor:
        calls.append(len(arguments[1]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return softmix.sampler.restore.__wrapped__(*arguments, **more)  # type: ignore[attr-defined, no-any-return]

    stopped.__wrapped__ = softmix.restore  # type: ignore[attr-defined]
    monkeypatch.setattr(softmix.sampler, "restore", stopped)
    code, _, err = call("restore", place / "rddm", place / "new", "--out", tmp_path)
    assert (code, calls) == (130, [2, 1])
    assert "2 of 4 pictures are restored and written" in err
    assert sorted(path.stem for path in tmp_path.rglob("*.png")) == ["a", "c"]


def test_pictures_and_draws_together_make_a_batch(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a batch of 2 and 2 draws of each, the two pictures of one size are restored one by one."""
    calls, real = [], softmix.restore

    def noted(*arguments: Any, **more: Any) -> Tensor:
        calls.append(len(arguments[1]))
        return real(*arguments, **more)

    monkeypatch.setattr(softmix.sampler, "restore", noted)
    monkeypatch.setattr(sys.modules["softmix.sampler.restoration"], "batch_of_images", lambda device, shape: 2)
    for draws, right in ((1, [2, 1, 1]), (2, [1, 1, 1, 1])):
        calls.clear()
        ran(place / "rddm", place / "new", "--out", tmp_path / str(draws), "--draws", draws)
        assert calls == right


def test_a_picture_that_is_too_large_for_the_memory_is_named(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **more: Any) -> Tensor:
        raise NotEnoughMemoryError("one sample at a time does not fit into the memory (...)")

    monkeypatch.setattr(softmix.sampler, "restore", full)
    code, _, err = call("restore", place / "rddm", place / "new/b.png", "--out", tmp_path / "x.png")
    assert code == 1
    assert re.search(r"b\.png is too large: 10 x 13 pixels .* does not fit into the memory", err)
    assert "cut it into parts" in err and not (tmp_path / "x.png").exists()


def test_pairs_is_another_name_of_beside(place: Path, tmp_path: Path) -> None:
    for option in ("--pairs", "--beside"):
        words = [place / "sharp", option, place / "dim", "--process", "rddm", "--model", "plain", *TINY]
        code, out, err = call("train", *words, "--out", tmp_path / option)
        assert code == 0, err
        assert "pairs of sharp and dim, by the names of their files" in out
    one, other = (read_run(tmp_path / option) for option in ("--pairs", "--beside"))
    assert one.config == other.config and one.facts.fingerprint == other.facts.fingerprint
    both = ["train", place / "sharp", "--pairs", place / "dim", "--beside", place / "dim", "--out", tmp_path / "x"]
    assert "--beside (or --pairs) was given twice" in refused(*both, "--steps", 3)
    help_text = " ".join(call("train", "--help")[1].replace("│", " ").split())
    assert "--pairs STR, --beside STR" in help_text or "--beside STR, --pairs STR" in help_text
