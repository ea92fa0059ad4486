"""Tests of `softmix check` on data."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

from softmix.cli import main
from softmix.cli.check import Check
from softmix.data import load
from softmix.data.origin import Layout, Tokens, Values


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    main(["check", *map(str, words)])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["check", *map(str, words)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def pictures(root: Path, sizes: dict[str, tuple[int, int]], kinds: tuple[str, ...] = ("cat", "dog")) -> Path:
    for i, (name, (width, height)) in enumerate(sizes.items()):
        place = root / kinds[i % len(kinds)] / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((height, width, 3), 100 + i, np.uint8)).save(place)
    return root


def test_options_are_those_of_load() -> None:
    hints, known = get_type_hints(Check), inspect.signature(load).parameters
    names = set(inspect.signature(Check).parameters) - {"what"}
    assert names == set(known) - {"source", "split", "max_pixels"}
    assert set(get_args(get_args(hints["values"])[0])) == set(get_args(Values))
    assert set(get_args(get_args(hints["layout"])[0])) == set(get_args(Layout))
    assert hints["tokens"] == Tokens | None
    for name in names:
        assert inspect.signature(Check).parameters[name].default == known[name].default


def test_check_lists_classes_counts_sizes_and_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path / "pets", {str(i): (12, 12) for i in range(7)})
    out = said(capsys, root)
    assert f"{root}: 7 images of shape (3, 12, 12), fingerprint {load(root).fingerprint}" in out
    assert "read 7, skipped 0, converted 0" in out
    assert "pixels from 100 to 106 of 0 to 255" in out
    assert "2 classes: cat (4), dog (3)" in out
    assert "`softmix train --classes` learns them" in out
    assert "no test split: --hold-out 0.1 keeps a tenth apart" in out


def test_pictures_of_several_sizes_are_refused_with_advice_and_accepted_with_a_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pictures(tmp_path, {str(i): (20, 16) if i % 3 else (14, 18) for i in range(12)})
    error = refused(capsys, root)
    size = re.search(r"4 of 12 pictures do not have the commonest, 20x16; resize all with --size (\d+), by", error)
    assert size is not None
    assert size[1] == "12"
    assert "12 of them are used" in error
    out = said(capsys, root, "--size", size[1])
    assert "12 images of shape (3, 12, 12)" in out
    assert "resized to 12x12, the centre square, from 20x16 (8), 14x18 (4)" in out


def test_hold_out_moves_items_to_the_test_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path, {str(i): (12, 12) for i in range(20)})
    out = said(capsys, root, "--hold-out", "0.25")
    assert "15 images" in out
    assert "test split: 5 items" in out
    assert "no test split" not in out


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("--channels", "1"), "(1, 12, 12)"),
        (("--channels", "4"), "(4, 12, 12)"),
        (("--limit", "5"), ": 5 images"),
    ],
)
def test_each_option_for_pictures_changes_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], shown: str
) -> None:
    assert shown in said(capsys, pictures(tmp_path, {str(i): (12, 12) for i in range(9)}), *words)


def test_each_option_for_arrays_changes_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array = np.arange(2 * 3 * 4 * 3).reshape(2, 3, 4, 3)
    np.save(tmp_path / "a.npy", array)
    assert "the value of white is not known" in refused(capsys, tmp_path / "a.npy")
    out = said(capsys, tmp_path / "a.npy", "--bits", 7)
    assert "pixels from 0 to 143 of 0 to 255" in out
    assert "(3, 3, 4)" in out
    assert "no labels" in out
    assert "(3, 4, 3)" in said(capsys, tmp_path / "a.npy", "--bits", 7, "--layout", "channels-first")
    np.save(tmp_path / "b.npy", array / 71 * 1.0)
    assert "pixels from 0 to 1 of" in said(capsys, tmp_path / "b.npy", "--values", "0..255")
    np.save(tmp_path / "c.npy", np.array([[0.0, 3.0], [4.0, 1.0]]))
    assert "2 points of shape (2,)" in (out := said(capsys, tmp_path / "c.npy"))
    assert "values from 0 to 4, standard deviation 1.58" in out


def test_a_long_list_of_classes_is_shortened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", np.full((30, 8, 8), 200, np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(30))
    out = said(capsys, tmp_path / "a.npy")
    assert "30 classes: 0 (1), 1 (1)" in out
    assert "19 (1) and 10 more" in out
    assert "20 (1)" not in out


def test_a_test_split_of_another_shape_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a.npz", x_train=np.full((4, 8, 8), 200, np.uint8), x_test=np.full((4, 9, 8), 200, np.uint8))
    assert "items of the test split are (1, 9, 8), those of training (1, 8, 8): give --size" in refused(
        capsys, tmp_path / "a.npz"
    )
    assert "test split: 4 items" in said(capsys, tmp_path / "a.npz", "--size", 8)


def test_a_test_split_that_cannot_be_read_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path / "train", {"a": (12, 12), "b": (12, 12)}).parent
    (root / "test").mkdir()
    (root / "test/x.png").write_bytes(b"")
    assert "none of 1 files can be used" in refused(capsys, root)


def test_a_run_folder_takes_no_options_for_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"config": {}, "facts": {"fingerprint": "01"}}')
    error = refused(capsys, tmp_path, "--size", 8, "--hold-out", "0.1")
    assert "is a run folder, and --size, --hold-out is for data" in error


def test_a_data_folder_with_a_config_of_another_program_is_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root: Any = pictures(tmp_path, {str(i): (12, 12) for i in range(4)})
    (root / "config.json").write_text('{"model": "other"}')
    assert "4 images" in said(capsys, root, "--size", 12)
    # With checkpoints it is a run with a damaged config.json.
    (root / "checkpoints").mkdir()
    assert "is a run folder" in refused(capsys, root, "--size", 12)


def test_a_warning_about_the_data_is_the_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = np.arange(144, dtype=np.uint16).reshape(12, 12) * 28
    for i in range(4):
        Image.fromarray(wide + np.uint16(i)).save(tmp_path / f"{i}.png")
    warning = (
        "WARNING: no value of 4 16-bit pictures is above 4007, which 12 bits hold, so they come out 16 times too dark "
        "if these are all their bits: give --bits 12"
    )
    out = said(capsys, tmp_path)
    assert out.rstrip().splitlines()[-2:] == ["", warning]
    assert out.count("give --bits 12") == 2
    assert "WARNING" not in said(capsys, tmp_path, "--bits", 12)


def test_large_pictures_without_a_size_give_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path / "photos", {str(i): (400, 300) for i in range(3)})
    last = said(capsys, root).rstrip().splitlines()[-1]
    assert last.startswith("WARNING: no size was asked for")
    assert "400x300" in last
    assert "give --size 64" in last
    np.save(tmp_path / "a.npy", np.full((2, 300, 400), 200, np.uint8))
    assert "as large as they are, 400x300" in said(capsys, tmp_path / "a.npy")
    for words in ((root, "--size", 32), (tmp_path / "a.npy", "--size", 32)):
        assert "WARNING" not in said(capsys, *words)
    assert "WARNING" not in said(capsys, pictures(tmp_path / "small", {str(i): (256, 256) for i in range(3)}))


def test_pairs_tokens_and_volumes_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = pictures(tmp_path / "photos", {str(i): (12, 12) for i in range(6)})
    pictures(tmp_path / "edges", {str(i): (12, 12) for i in range(5)})
    out = said(capsys, photos, "--beside", tmp_path / "edges")
    assert f"{photos}: 5 pairs of images of shape (3, 12, 12)" in out
    assert "no partner of this name: photos/dog/5.png" in out
    assert "told beside x_t: the label class (2 classes), an image of 3 channels" in out
    (tmp_path / "t.txt").write_text("hello world")
    out = said(capsys, tmp_path / "t.txt", "--tokens", "characters", "--length", 3)
    assert "3 tokens of shape (3,)" in out
    assert "tokens from 0 to 7 of 8" in out
    np.save(tmp_path / "n.npy", np.arange(12).reshape(4, 3) % 5)
    assert "tokens from 0 to 4 of 6" in said(capsys, tmp_path / "n.npy", "--tokens", 6)
    np.save(tmp_path / "v.npy", np.full((2, 1, 3, 4, 5), 200, np.uint8))
    out = said(capsys, tmp_path / "v.npy", "--spacing", 2.5, 1, 1)
    assert "2 volumes of shape (1, 3, 4, 5)" in out
    assert "pixels from 200 to 200 of 0 to 255" in out
