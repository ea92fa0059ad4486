"""The crops of photographs: what they are cut from, and what separates training and test."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from softmix.data import DataError, load
from softmix.data.photographs import CLASSES, _crops, _photograph


def test_photographs_are_crops_in_colour_with_their_photograph_as_class() -> None:
    train, test = load("photographs"), load("photographs", split="test")
    assert train.classes == test.classes == CLASSES and len(CLASSES) == 10
    assert train.shape == test.shape == (3, 32, 32) and train.values.dtype == torch.uint8 and train.is_image
    # rows (160 - 32) / 4 + 1 = 33; columns of a square photograph (128 - 32) / 4 + 1 = 25, and (32 - 32) / 4 + 1 = 1
    square = CLASSES.index("astronaut")
    assert int((train.labels == square).sum()) == 33 * 25 and int((test.labels == square).sum()) == 33
    assert len(train) > 9_000 and len(test) > 900 and len(set(test.labels.tolist())) == 10
    assert load("photographs").fingerprint == train.fingerprint != test.fingerprint
    # more than one photograph is in colour
    spread = train.x0(torch.arange(0, len(train), 50)).std(1).mean((1, 2))
    assert float(spread.median()) > 0.05


def test_a_crop_is_a_part_of_its_averaged_photograph() -> None:
    # every pixel of this picture is averaged from 2 x 2 equal ones, and says where it is
    rows, columns = np.mgrid[0:160, 0:200]
    small = np.stack([rows, columns, (rows + columns) % 256], axis=2).astype(np.uint8)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    train, test = _crops(large, "train"), _crops(large, "test")
    assert train.shape == (33 * 33, 32, 32, 3) and test.shape == (33 * 3, 32, 32, 3)
    for k, crop in enumerate(train):
        top, left = 4 * (k // 33), 4 * (k % 33)
        assert np.array_equal(crop, small[top : top + 32, left : left + 32])
    assert int(train[..., 1].max()) == 159 and int(test[..., 1].min()) == 160


def test_each_photograph_is_there_in_eight_bits() -> None:
    for name in CLASSES:
        picture = _photograph(name)
        assert (
            picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and min(picture.shape[:2]) >= 160
        )


def test_photographs_take_size_channels_and_limit() -> None:
    data = load("photographs", size=16, channels=1, limit=50)
    assert data.shape == (1, 16, 16) and len(data) == 50 and len(set(data.labels.tolist())) > 4


def test_without_scikit_image_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(DataError, match=r"pip install 'softmix\[photographs\]'"):
        load("photographs")
