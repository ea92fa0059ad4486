"""Tests of `softmix restore` with a known answer: a model without residual, and figures that follow by hand."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command import call, refused
from PIL import Image
from torch import Tensor

import softmix
from softmix import Cond, CondSpec
from softmix.cli.common import UsageError
from softmix.cli.restore import _require_pairs
from softmix.data import to_uint8
from softmix.denoiser import Network
from softmix.picture import recipe_in
from softmix.posterior import Point
from softmix.train import find_device, memory

TINY = ("net.width=8", "batch=8", "optimiser.warmup=1", "net.attention=false", "precision=fp32")


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, 230, shape)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey pairs in clean/ and given/ with the classes a and b, and the runs any, for any size, and soft, for 8 x 8."""
    folder = tmp_path_factory.mktemp("truth")
    for k in range(16):
        name, picture = f"{'ab'[k % 2]}/{k:02}.png", noise(k, 8, 8)
        save(folder / "clean" / name, picture)
        save(folder / "given" / name, picture // 2 + 40)
    for name, model in (("any", ()), ("soft", ("--model", "smd"))):
        code, _, err = call(
            *("train", folder / "clean", "--pairs", folder / "given", "--process", "rddm", "--out", folder / name),
            *("--steps", 1, *model, "--set", *TINY),
        )
        assert code == 0, err
    return folder


@pytest.fixture
def same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network has the residual 0 without doubt: x0 is the given picture."""

    def x0(self: Network, xt: Tensor, t: object, cond: Cond | None = None) -> Point:
        assert cond is not None and cond.image is not None
        return Point(cond.image)

    monkeypatch.setattr(Network, "forward", x0)


def restored(*arguments: object) -> tuple[str, str]:
    """Standard output and standard error of `softmix restore`, which must succeed."""
    code, out, err = call("restore", *arguments)
    assert code == 0, err
    return out, err


@pytest.mark.usefixtures("same")
def test_a_model_of_no_residual_gives_pictures_of_any_size_back(place: Path, tmp_path: Path) -> None:
    for k, size in enumerate([(8, 8), (5, 7), (30, 13), (2, 2), (64, 40)]):
        picture = save(tmp_path / "in" / f"{k}.png", noise(k, *size))
        restored(place / "any", picture, "--out", tmp_path / "one.png")
        assert np.array_equal(pixels_of(tmp_path / "one.png"), pixels_of(picture))
    restored(place / "any", tmp_path / "in", "--out", tmp_path / "all")
    for k in range(5):
        assert np.array_equal(pixels_of(tmp_path / "all" / f"{k}.png"), pixels_of(tmp_path / "in" / f"{k}.png"))


@pytest.mark.usefixtures("same")
def test_the_psnr_follows_from_the_error(place: Path, tmp_path: Path) -> None:
    """Of 10 and 20 grey levels it is 20 log10(255 / 10) = 28.13 and 22.11 dB."""
    for name, error in (("one", 10), ("two", 20)):
        save(tmp_path / "in" / f"{name}.png", noise(1, 9, 11))
        save(tmp_path / "truth" / f"{name}.png", noise(1, 9, 11) + error)
    out, err = restored(place / "any", tmp_path / "in", "--truth", tmp_path / "truth", "--out", tmp_path / "restored")
    assert [line.split() for line in out.splitlines()[:4]] == [
        ["PSNR", "in", "dB", "before", "after"],
        ["one", "28.13", "28.13"],
        ["two", "22.11", "22.11"],
        ["mean", "of", "2", "25.12", "25.12"],
    ]
    assert "further from the truth" not in err
    one = [tmp_path / folder / "one.png" for folder in ("in", "truth")]
    out, _ = restored(place / "any", one[0], "--truth", one[1], "--out", tmp_path / "one.png")
    assert out.splitlines()[1].split() == ["one", "28.13", "28.13"] and "mean of" not in out


@pytest.mark.usefixtures("same")
def test_colour_becomes_grey_for_a_grey_model(place: Path, tmp_path: Path) -> None:
    picture = save(tmp_path / "in.png", noise(3, 8, 9, 3))
    restored(place / "any", picture, "--out", tmp_path / "x.png")
    assert np.array_equal(pixels_of(tmp_path / "x.png"), np.asarray(Image.open(picture).convert("L")).astype(int))


@pytest.mark.usefixtures("same")
def test_a_soft_mixture_restores_the_middle_of_a_larger_picture(place: Path, tmp_path: Path) -> None:
    """With the truth brought to the same middle, the picture is its own truth after it."""
    large = save(tmp_path / "large.png", noise(4, 16, 24))
    truth = save(tmp_path / "truth.png", noise(4, 16, 24))
    out, _ = restored(place / "soft", large, "--truth", truth, "--out", tmp_path / "x.png")
    middle = Image.open(large).resize((8, 8), Image.Resampling.LANCZOS, box=(4, 0, 20, 16))
    assert np.abs(pixels_of(tmp_path / "x.png") - np.asarray(middle).astype(int)).max() <= 1
    assert out.splitlines()[1].split()[1] == "inf"


def test_without_a_class_the_model_is_told_that_none_is_given(place: Path, tmp_path: Path) -> None:
    picture = save(tmp_path / "in.png", noise(3, 8, 8))
    code, _, err = call(
        *("train", place / "clean", "--out", tmp_path / "run", "--model", "plain", "--steps", 20, "--classes"),
        *("--pairs", place / "given", "--set", *TINY, "optimiser.rate=0.02", "task.drop=0.3"),
    )
    assert code == 0, err
    model = softmix.load(tmp_path / "run")
    x: Tensor = torch.from_numpy(pixels_of(picture))[None, None].float() / 127.5 - 1
    found = []
    for options, label in (((), -1), (("--label", "0"), 0)):
        restored(tmp_path / "run", picture, "--out", tmp_path / "out.png", "--steps", 3, *options)
        right = softmix.restore(model.denoiser, x, 3, sampler=model.sampler, label=torch.tensor([label]))
        found.append(pixels_of(tmp_path / "out.png"))
        assert np.abs(found[-1] - to_uint8(right.clamp(-1, 1).cpu())[0, 0, 0].numpy().astype(int)).max() <= 1
    assert not np.array_equal(*found)


def test_draws_of_many_pictures_go_in_smaller_batches(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six images at once are two pictures with three draws each."""
    batches = []
    whole = softmix.restore

    def noted(denoiser: object, images: Tensor, *rest: object, **more: object) -> Tensor:
        batches.append(len(images))
        return whole(denoiser, images, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("softmix.sampler.restore", noted)
    monkeypatch.setattr(sys.modules["softmix.sampler.restoration"], "batch_of_images", lambda *_: 6)
    for k in range(5):
        save(tmp_path / "in" / f"{k}.png", noise(k, 8, 8))
    restored(place / "any", tmp_path / "in", "--draws", 3, "--out", tmp_path / "x")
    assert batches == [2, 2, 1]


def test_the_recipe_of_a_sheet_names_its_pictures(place: Path, tmp_path: Path) -> None:
    for k in range(18):
        save(tmp_path / "in" / f"{k:02}.png", noise(k, 8, 8))
    restored(place / "any", tmp_path / "in", "--out", tmp_path / "x", "--compare", tmp_path / "sheet.png")
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.size == (2 * 98 + 2, 16 * 114)
    assert json.loads(recipe_in(sheet))["image"] == [f"{k:02}.png" for k in range(16)]
    assert "was restored from" in refused("repeat", tmp_path / "sheet.png", "--run", place / "any")


def test_a_link_to_a_given_picture_is_not_overwritten(place: Path, tmp_path: Path) -> None:
    picture = save(tmp_path / "photo.png", noise(3, 8, 8))
    os.symlink(picture, tmp_path / "link.png")
    said = refused("restore", place / "any", picture, "--out", tmp_path / "link.png")
    assert "is one of the given pictures, and would be lost" in said


def test_a_damaged_picture_of_a_folder_is_left_out_before_the_work(place: Path, tmp_path: Path) -> None:
    """Its header is whole, and its pixels are not."""
    good = save(tmp_path / "in" / "good.png", noise(3, 40, 40))
    (tmp_path / "in" / "cut.png").write_bytes(good.read_bytes()[:900])
    _, err = restored(place / "any", tmp_path / "in", "--out", tmp_path / "x")
    assert "left out: " in err and "cut.png cannot be read: damaged or cut off" in err
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["good.png"]


def test_pictures_of_one_name_are_refused(place: Path, tmp_path: Path) -> None:
    one = save(tmp_path / "in" / "a.png", noise(3, 8, 8))
    save(tmp_path / "in" / "a.webp", noise(4, 8, 8))
    said = refused("restore", place / "any", tmp_path / "in", "--out", tmp_path / "y")
    assert "two results would be written to" in said and not (tmp_path / "y").exists()
    said = refused("restore", place / "any", one, "--truth", tmp_path / "in", "--out", tmp_path / "y.png")
    assert "a.png and " in said and "have one name: remove one" in said


@pytest.mark.parametrize(
    ("shape", "cond"),
    [
        ((2, 8, 8), CondSpec(image=2)),
        ((1, 8, 8), CondSpec(image=2)),
        ((1, 8, 8), CondSpec(image=1, values=3)),
        ((1, 8, 8), CondSpec((("class", 2), ("colour", 3)), image=1)),
    ],
)
def test_a_model_of_other_channels_and_conditions_is_used_in_python(shape: tuple[int, ...], cond: CondSpec) -> None:
    model: Any = SimpleNamespace(
        denoiser=SimpleNamespace(cond=cond), facts=SimpleNamespace(shape=shape), path=Path("runs/x")
    )
    with pytest.raises(UsageError, match=f"runs/x makes images of {shape[0]} channels from .*In Python: softmix.sampl"):
        _require_pairs(model)


def test_a_result_that_is_no_number_is_not_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Network.forward
    monkeypatch.setattr(Network, "forward", lambda self, x, *rest, **more: whole(self, x * math.nan, *rest, **more))
    picture = save(tmp_path / "in.png", noise(3, 8, 8))
    code, _, err = call("restore", place / "any", picture, "--out", tmp_path / "x.png")
    assert code == 1 and "not finite numbers" in err and not (tmp_path / "x.png").exists()


def test_a_picture_that_is_too_large_for_the_memory_is_an_error_in_words(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if memory.free_memory() is None or find_device().type != "cpu":
        pytest.skip("the limit is that of a CPU under Linux")
    monkeypatch.setattr(memory, "free_memory", lambda: 200 << 20)
    picture = save(tmp_path / "in.png", noise(3, 2000, 2000))
    code, _, err = call("restore", place / "any", picture, "--out", tmp_path / "x.png")
    assert code == 1 and "in.png is too large: 2000 x 2000 pixels are restored as a whole" in err, err
    assert not (tmp_path / "x.png").exists()


def test_pairs_are_asked_for_in_words(place: Path, tmp_path: Path) -> None:
    said = refused("train", place / "clean", "--process", "rddm", "--steps", 3, "--out", tmp_path / "run")
    assert "softmix train CLEAN --pairs DEGRADED" in " ".join(said.split())
    for one, other in (("--beside", "--pairs"), ("--pairs", "--pairs=x")):
        words = ("train", place / "clean", one, place / "given", other, *([] if "=" in other else [place / "given"]))
        assert "--beside (or --pairs) was given twice" in refused(*words, "--steps", 3, "--out", tmp_path / "run")
