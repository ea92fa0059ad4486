"""Reading the same items again from their origin, and folders with the name of a data set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_helpers import encoded, fill, saved

from softmix.config import from_json, to_json
from softmix.data import Data, Origin, load

WIDE = np.random.RandomState(0).randint(0, 256, (20, 9, 14, 3)).astype(np.uint8)


def again(data: Data) -> Data:
    """The data read again from the origin in a config.json."""
    assert data.origin is not None
    origin = from_json(Origin, json.loads(json.dumps(to_json(data.origin))))
    assert origin == data.origin
    return load(origin.source, **origin.options())  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "options",
    [{}, {"size": 8}, {"channels": 1}, {"limit": 12}, {"channels": 4, "limit": 15, "size": 6}],
    ids=lambda options: ",".join(options),
)
def test_pictures_that_are_not_square_are_read_again(tmp_path: Path, options: dict[str, Any], split: str) -> None:
    files = {f"{i % 3}/{i}.png": encoded(picture) for i, picture in enumerate(WIDE)}
    fill(tmp_path, files | {"0/small.png": encoded(WIDE[0, :5])})
    data = load(tmp_path, hold_out=0.2, split=split, **options)
    repeated = again(data)
    assert repeated.fingerprint == data.fingerprint
    assert repeated.classes == data.classes
    if "size" not in options:
        assert data.shape[1:] == (9, 14)


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (WIDE / 255, {}),
        (WIDE.transpose(0, 3, 1, 2) / 127.5 - 1, {"values": "as-is", "layout": "channels-first"}),
        (WIDE[..., :1].astype(np.uint16) * 16, {"bits": 12, "hold_out": 0.25}),
        (WIDE[:, :, :, 0].astype(np.float32) / 300, {"layout": "channels-last"}),
        (WIDE[:, 0, 0] / 255, {"values": "0..1", "split": "val", "hold_out": 0.5, "limit": 8}),
    ],
)
def test_arrays_are_read_again(tmp_path: Path, array: np.ndarray, options: dict[str, Any]) -> None:
    data = load(saved(tmp_path / "a.npy", array), **options)
    assert again(data).fingerprint == data.fingerprint
    assert data.origin is not None
    assert data.origin.options() == {**_DEFAULTS, **options}


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Origin) if field.name != "source"}


@pytest.mark.parametrize("source", ["digits", "toy:ring"])
def test_named_sets_are_read_again(source: str) -> None:
    data = load(source, limit=30, split="test")
    assert data.origin == Origin(source, "test", limit=30)
    assert again(data).fingerprint == data.fingerprint


def test_missing_fields_of_an_origin_take_their_defaults() -> None:
    assert from_json(Origin, {"source": "digits"}) == Origin("digits")


def test_a_relative_path_is_resolved_from_its_folder(tmp_path: Path) -> None:
    for source, kept in (
        (tmp_path / "data", "../data"),
        (tmp_path / "run/digits", "./digits"),
        (tmp_path / "run/toy:ring", "./toy:ring"),
        (tmp_path, ".."),
    ):
        origin = Origin(str(source)).relative_to_folder(tmp_path / "run")
        assert origin.source == kept
        assert origin.is_path
        assert origin.absolute_from(tmp_path / "run").source == str(source)
    assert Origin("digits").relative_to_folder(tmp_path) == Origin("digits").absolute_from(tmp_path) == Origin("digits")
    assert Origin("/data").relative_to_folder(Path("/runs/x")).source == "/data"


def test_a_folder_called_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fill(tmp_path, {"digits/1.png": encoded(WIDE[0]), "toy:ring/1.png": encoded(WIDE[1])}))
    for name in ("digits", "toy:ring"):
        known = load(name, limit=5)
        assert len(known) == 5
        assert known.origin == Origin(name, limit=5)
        words = f"./{name} was not read, since {name} is a data set of softmix; write ./{name} to read it"
        assert known.report.notes[-1] == words
        for path in (f"./{name}", f"{name}/", str(tmp_path / name), Path(name)):
            own = load(path)
            assert own.shape == (3, 9, 14)
            assert not any("was not read" in note for note in own.report.notes)
            assert again(own).fingerprint == own.fingerprint
    monkeypatch.chdir("/")
    assert not any("was not read" in note for note in load("digits", limit=5).report.notes)
