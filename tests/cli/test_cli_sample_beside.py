"""Tests of `softmix sample --beside`: the image condition, against the same call in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command import call, refused
from PIL import Image
from torch import Tensor

import softmix
from softmix import Cond
from softmix.data import to_uint8
from softmix.denoiser import guided

TINY = ["--set", "net.width=8", "batch=8", "optimiser.warmup=2", "precision=fp32"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey pictures, beside them pictures in colour of the same names, a run on the pairs, and a run without."""
    folder = tmp_path_factory.mktemp("beside")
    rng = np.random.default_rng(0)
    for name in ("grey", "colour"):
        (folder / name).mkdir()
        for k in range(12):
            size = (8, 8) if name == "grey" else (8, 8, 3)
            Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / name / f"{k:02}.png")
    for name, more in (("pairs", ["--beside", folder / "colour"]), ("plain", [])):
        code, _, err = call(
            "train", folder / "grey", "--out", folder / name, "--model", "plain", "--steps", 40, *more, *TINY
        )
        assert code == 0, err
    return folder


def drawn(place: Path, out: Path, *more: object) -> np.ndarray:
    code, _, err = call("sample", place / "pairs", "--out", out / "x.npy", "--steps", 3, *more)
    assert code == 0, err
    return np.load(out / "x.npy", allow_pickle=False)


def condition(place: Path, *numbers: int) -> Cond:
    pictures = [np.asarray(Image.open(place / "colour" / f"{k:02}.png")) for k in numbers]
    return Cond(image=torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1)


def expected(place: Path, cond: Cond | None, scale: float = 1.0, first: int = 0) -> np.ndarray:
    model = softmix.load(place / "pairs")
    denoiser = model.denoiser if scale == 1 else guided(scale)(model.denoiser)
    n = 3 if cond is None else len(cond)
    x: Tensor = softmix.sample(denoiser, n, 3, sampler=model.sampler, cond=cond, first=first)
    return to_uint8(x).squeeze(1).numpy()


def test_the_soft_mixture_of_pairs_learns_a_posterior_for_each(place: Path, tmp_path: Path) -> None:
    """Its draws are compared with their own picture, so that drift over a batch is not its loss."""
    for more, kind in (([], "FeatureDrift"), (["--beside", place / "colour"], "FeatureEnergy")):
        code, out, err = call("train", place / "grey", "--out", tmp_path / "run", "--steps", 4, "--dry-run", *more)
        assert code == 0 and f'"{kind}"' in out, err


def test_a_picture_is_the_condition_of_all_samples(place: Path, tmp_path: Path) -> None:
    found = drawn(place, tmp_path, "--n", 3, "--beside", place / "colour" / "04.png")
    assert np.array_equal(found, expected(place, condition(place, 4, 4, 4)))
    assert not np.array_equal(found, expected(place, condition(place, 5, 5, 5)))


def test_the_pictures_of_a_folder_take_turns_by_the_number_of_the_sample(place: Path, tmp_path: Path) -> None:
    found = drawn(place, tmp_path, "--n", 3, "--first", 10, "--beside", place / "colour")
    assert np.array_equal(found, expected(place, condition(place, 10, 11, 0), first=10))


def test_guidance_goes_from_no_picture_to_the_picture(place: Path, tmp_path: Path) -> None:
    found = drawn(place, tmp_path, "--n", 2, "--beside", place / "colour" / "04.png", "--guidance", 3)
    assert np.array_equal(found, expected(place, condition(place, 4, 4), scale=3.0))
    assert not np.array_equal(found, expected(place, condition(place, 4, 4)))


def test_without_a_picture_a_note_says_so(place: Path, tmp_path: Path) -> None:
    code, _, err = call("sample", place / "pairs", "--out", tmp_path / "x.npy", "--steps", 3, "--n", 3)
    assert code == 0
    assert "trained with an image condition" in err
    assert np.array_equal(np.load(tmp_path / "x.npy"), expected(place, None))


def test_a_model_without_an_image_condition_refuses_a_picture(place: Path, tmp_path: Path) -> None:
    said = refused("sample", place / "plain", "--out", tmp_path / "x.npy", "--beside", place / "colour" / "04.png")
    assert "was trained without an image condition" in said


def test_a_file_that_is_no_picture_and_an_empty_folder_are_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    for source, why in (("empty", "holds no picture"), ("text.png", "cannot be read"), ("none.png", "no such file")):
        said = refused("sample", place / "pairs", "--out", tmp_path / "x.npy", "--beside", tmp_path / source)
        assert why in said


def test_a_picture_drawn_beside_another_is_not_repeated_without_it(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    code, _, err = call("sample", place / "pairs", "--out", out, "--n", 2, "--beside", place / "colour" / "04.png")
    assert code == 0, err
    assert "04.png" in refused("repeat", out, "--run", place / "pairs")
