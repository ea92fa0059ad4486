"""Tokens, from arrays of whole numbers and from text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from file_helpers import encoded, fill, saved

from softmix.data import DataError, load, to_text
from softmix.rng import Rng

TEXT = "zur Mühle, ∞ und 🎈 weiter"


def test_an_array_of_whole_numbers_is_tokens(tmp_path: Path) -> None:
    numbers = np.array([[0, 4, 2], [3, 3, 0]], np.uint8)
    saved(tmp_path / "labels.npy", np.array([1, 0]))
    data = load(saved(tmp_path / "a.npy", numbers), tokens=5)
    assert data.kind == "tokens"
    assert data.vocabulary == 5
    assert not data.is_image
    assert data.shape == (3,)
    x0, cond = data.batch(torch.tensor([1, 0]), Rng(0, 2))
    assert x0.dtype == torch.int64
    assert x0.tolist() == [[3, 3, 0], [0, 4, 2]]
    assert cond is not None
    assert cond.label is not None
    assert cond.label.tolist() == [0, 1]
    assert "taken as tokens of shape (3,), numbers from 0 to 4 of 5 tokens" in data.report.notes


def test_the_size_of_the_vocabulary_changes_the_fingerprint(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", np.zeros((4, 3), np.int64))
    assert load(path, tokens=5).fingerprint != load(path, tokens=6).fingerprint
    assert load(path, tokens=5, hold_out=0.5).vocabulary == 5


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([[0, 5]]), r"5 tokens were asked for.*run from 0 to 5; give --tokens 6, or more"),
        (np.array([[-1, 2]]), "run from -1 to 2; count them from 0"),
        (np.array([[0.0, 1.0]]), r"tokens are whole numbers \[N, L\] or \[N, H, W\]"),
        (np.zeros((2, 2, 2, 2), np.int64), r"tokens are whole numbers \[N, L\] or \[N, H, W\]"),
        (np.zeros(3, np.int64), r"tokens are whole numbers \[N, L\] or \[N, H, W\]"),
    ],
)
def test_arrays_that_cannot_be_tokens_are_refused(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        load(saved(tmp_path / "a.npy", array), tokens=5)


@pytest.mark.parametrize(
    "options", [{"size": 8}, {"channels": 1}, {"bits": 8}, {"values": "0..1"}, {"layout": "channels-last"}]
)
def test_tokens_have_no_options_of_pictures(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"holds tokens, and has no {next(iter(options))} to choose"):
        load(saved(tmp_path / "a.npy", np.zeros((2, 2, 2), np.int64)), tokens=5, **options)
    (tmp_path / "a.txt").write_text("some words")
    with pytest.raises(DataError, match=f"is read as text, and has no {next(iter(options))} to choose"):
        load(tmp_path / "a.txt", tokens="bytes", length=2, **options)


def test_characters_become_tokens_and_text_again(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(TEXT, encoding="utf-8")
    data = load(tmp_path / "book.txt", tokens="characters", length=4)
    assert data.alphabet == "".join(sorted(set(TEXT)))
    assert data.vocabulary == len(set(TEXT))
    assert len(data) == len(TEXT) // 4
    assert "".join(to_text(data.x0(), data.alphabet)) == TEXT[: len(TEXT) // 4 * 4]
    rest = len(TEXT) % 4
    assert f"the last {rest} characters are too few for an item, and were left out" in data.report.notes


def test_bytes_become_tokens_and_text_again(tmp_path: Path) -> None:
    (tmp_path / "book.bin").write_bytes(TEXT.encode())
    data = load(tmp_path / "book.bin", tokens="bytes", length=len(TEXT.encode()))
    assert data.vocabulary == 256
    assert data.alphabet == ""
    assert to_text(data.x0(), "") == [TEXT]
    assert data.x0().tolist() == [list(TEXT.encode())]


def test_another_alphabet_changes_the_fingerprint(tmp_path: Path) -> None:
    found = []
    for text in ("abab", "acac"):
        (tmp_path / "t.txt").write_text(text)
        found.append(load(tmp_path / "t.txt", tokens="characters", length=2))
    assert torch.equal(found[0].values, found[1].values)
    assert found[0].fingerprint != found[1].fingerprint


def test_a_held_out_part_of_a_text_has_its_alphabet(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abcdefghij" * 4)
    parts = [load(tmp_path / "t.txt", tokens="characters", length=1, hold_out=0.1, split=s) for s in ("train", "test")]
    assert [len(part) for part in parts] == [36, 4]
    assert {part.alphabet for part in parts} == {"abcdefghij"}
    some = load(tmp_path / "t.txt", tokens="characters", length=4, limit=3)
    assert len(some) == 3
    assert "limit: 3 items were taken, chosen at random from 10" in some.report.notes


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tokens": "characters"}, "give both or neither"),
        ({"length": 4}, "give both or neither"),
        ({"tokens": 5, "length": 4}, "give both or neither"),
        ({"tokens": "words", "length": 4}, "give 'characters' or 'bytes' of a text"),
        ({"tokens": 1}, "how many tokens there are, 2 to"),
        ({"tokens": True}, "how many tokens there are, 2 to"),
        ({"tokens": "bytes", "length": 0}, "give 1 or more"),
        ({"tokens": "bytes", "length": 50}, "items of 50 bytes were asked for, and it has 5; give a smaller length"),
        ({"tokens": "bytes", "length": 2, "split": "test"}, "its test split was asked for, but it has none"),
        ({"tokens": "bytes", "length": 2, "spacing": (1, 1, 1)}, "no spacing to choose"),
    ],
)
def test_texts_that_are_refused(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    (tmp_path / "t.txt").write_text("hello")
    with pytest.raises(DataError, match=reason):
        load(tmp_path / "t.txt", **options)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"cannot be read as text .* save it as UTF-8"):
        load(tmp_path / "t.txt", tokens="characters", length=1)
    with pytest.raises(DataError, match="was to be read as characters, and is no file"):
        load(tmp_path, tokens="characters", length=1)


def test_tokens_are_not_for_pictures(tmp_path: Path) -> None:
    fill(tmp_path, {"a/1.png": encoded(np.zeros((4, 4), np.uint8))})
    for source in (tmp_path / "a", "digits", "toy:ring"):
        with pytest.raises(DataError, match="no tokens to choose"):
            load(source, tokens=9)


def test_numbers_outside_of_the_vocabulary_are_refused() -> None:
    for tokens, alphabet in ((torch.tensor([[3]]), "abc"), (torch.tensor([[-1]]), "abc"), (torch.tensor([[256]]), "")):
        with pytest.raises(ValueError, match="tokens are whole numbers from 0 to"):
            to_text(tokens, alphabet)
    with pytest.raises(ValueError, match=r"found torch\.float32"):
        to_text(torch.tensor([[1.0]]), "abc")
    assert to_text(torch.zeros(0, 4, dtype=torch.int64), "abc") == []
