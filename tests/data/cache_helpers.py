"""Helpers of the cache tests: a folder of pictures, changes of it, and a comparison of two data sets."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from file_helpers import encoded, fill

from softmix.data import Data

PICTURES = np.random.RandomState(0).randint(0, 256, (14, 7, 6, 3)).astype(np.uint8)


def folder(root: Path) -> Path:
    files = {f"{'abc'[i % 3]}/{i:02}.png": encoded(picture) for i, picture in enumerate(PICTURES)}
    half = encoded(PICTURES[0], compress_level=0)[:-60]
    bad = {"a/broken.png": b"no", "b/small.png": encoded(PICTURES[0, :3]), "c/half.png": half}
    return fill(root / "photos", files | bad)


def stores(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())


def equal(cached: Data, plain: Data) -> bool:
    """Whether two data sets have the same bits and equal reports, except for notes on the cache."""
    notes = [note for note in cached.report.notes if "cache" not in note]
    labels = [None if each.labels is None else each.labels.tolist() for each in (cached, plain)]
    return (
        cached.values.dtype == plain.values.dtype
        and torch.equal(cached.values, plain.values)
        and labels[0] == labels[1]
        and cached.fingerprint == plain.fingerprint
        and (cached.classes, cached.name, cached.kind) == (plain.classes, plain.name, plain.kind)
        and (cached.vocabulary, cached.alphabet, cached.spacing) == (plain.vocabulary, plain.alphabet, plain.spacing)
        and notes == list(plain.report.notes)
        and (cached.report.skipped, cached.report.converted) == (plain.report.skipped, plain.report.converted)
    )


def load_plain(data: Data) -> Data:
    """The data set without the notes on the cache."""
    notes = tuple(note for note in data.report.notes if "cache" not in note)
    return replace(data, report=replace(data.report, notes=notes))


def changed(photos: Path, case: str) -> None:
    path = photos / "a/00.png"
    if case == "content":
        path.write_bytes(encoded(255 - PICTURES[0]))
    elif case == "time":
        os.utime(path, (1, 1))
    elif case == "added":
        fill(photos, {"a/99.png": encoded(PICTURES[1])})
    elif case == "removed":
        path.unlink()
    else:
        path.rename(photos / "b/00.png")
