"""Zip archives of pictures: forged names, damaged members, encryption."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from file_helpers import encoded, zipped

from softmix.data import DataError, load

COLOUR = np.random.RandomState(1).randint(0, 256, (12, 12, 3)).astype(np.uint8)
GOOD = {"good-1.png": encoded(COLOUR), "good-2.png": encoded(255 - COLOUR)}


def test_zip_refuses_names_that_lead_out(tmp_path: Path) -> None:
    names = ["../evil.png", "a/../../evil.png", "/abs.png", "C:\\evil.png", "..\\evil.png"]
    (tmp_path / "in").mkdir()
    source = zipped(tmp_path / "in" / "x.zip", GOOD)
    with zipfile.ZipFile(source, "a") as file:
        for name in names:
            file.writestr(name, encoded(COLOUR))
    before = sorted(tmp_path.rglob("*"))
    data = load(source)
    assert len(data) == 2
    assert {reason for _, reason in data.report.skipped} == {"its name leads out of the archive"}
    assert len(data.report.skipped) == len(names)
    assert sorted(tmp_path.rglob("*")) == before


def test_zip_with_a_damaged_member(tmp_path: Path) -> None:
    source = tmp_path / "x.zip"
    with zipfile.ZipFile(source, "w") as file:
        for name, body in (GOOD | {"hurt.png": encoded(255 - COLOUR.transpose(1, 0, 2))}).items():
            file.writestr(name, body)
        at = file.getinfo("hurt.png").header_offset + 200
    content = bytearray(source.read_bytes())
    content[at] ^= 0xFF
    source.write_bytes(content)
    data = load(source)
    assert len(data) == 2
    assert [name for name, _ in data.report.skipped] == ["hurt.png"]


def test_zip_that_is_encrypted_or_none(tmp_path: Path) -> None:
    source = zipped(tmp_path / "x.zip", {"a.png": encoded(COLOUR)})
    content = bytearray(source.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    source.write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        load(source)
    source.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"x\.zip cannot be read as a zip archive"):
        load(source)
