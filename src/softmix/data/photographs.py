"""Crops of photographs that scikit-learn and scikit-image bring along: a small data set in colour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from .array import from_array
from .report import DataError
from .request import Request
from .store import Data

SIDE = 32
# the shorter side of a photograph before it is cropped
SHORT = 160
STRIDE = 4
HELD_OUT = 0.2
# the names in skimage.data
_OF_SCIKIT_IMAGE = (
    *("astronaut", "chelsea", "coffee", "hubble_deep_field", "immunohistochemistry", "retina", "rocket"),
    "stereo_motorcycle",
)
_OF_SCIKIT_LEARN = ("china", "flower")
CLASSES = tuple(sorted((*_OF_SCIKIT_IMAGE, *_OF_SCIKIT_LEARN)))


def photographs(request: Request) -> Data:
    """Crops of 32 x 32 pixels from ten photographs in colour; the class of a crop is its photograph.

    Each photograph is averaged to a shorter side of 160 pixels. Crops begin at every fourth pixel in both directions.
    The training crops are from the left 80 % of a photograph, and the test crops from the rest: no pixel is in both.
    Crops overlap, so that there are fewer independent images than items. A mirrored crop could be one of the data.

    Source: the two sample images of scikit-learn and eight photographs of scikit-image, which have the licences of
    those packages. Raises DataError with the way to install scikit-image.
    """
    crops = [_crops(picture, request.split) for picture in map(_photograph, CLASSES)]
    labels = torch.tensor([label for label, each in enumerate(crops) for _ in each], dtype=torch.int64, device="cpu")
    return from_array("photographs", np.concatenate(crops), labels, CLASSES, request)


def _photograph(name: str) -> np.ndarray:
    """uint8 [H, W, 3], as it is stored."""
    if name in _OF_SCIKIT_LEARN:
        from sklearn.datasets import load_sample_image

        return np.asarray(load_sample_image(f"{name}.jpg"))
    try:
        from skimage import data as pictures
    except ImportError:
        raise DataError(
            "photographs was asked for, and eight of its ten pictures are inside scikit-image, which is not installed: "
            "pip install 'softmix[photographs]'"
        ) from None
    read: Callable[[], Any] = getattr(pictures, name)
    found = read()
    # the stereo pair comes with its disparities
    return np.asarray(found[0] if isinstance(found, tuple) else found)


def _crops(picture: np.ndarray, split: str) -> np.ndarray:
    """The crops of one split, uint8 [n, 32, 32, 3], row by row."""
    height, width = picture.shape[:2]
    scale = SHORT / min(height, width)
    size = (round(width * scale), round(height * scale))
    small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
    cut = round(size[0] * (1 - HELD_OUT))
    part = small[:, :cut] if split == "train" else small[:, cut:]
    windows = np.lib.stride_tricks.sliding_window_view(part, (SIDE, SIDE), axis=(0, 1))[::STRIDE, ::STRIDE]
    # [rows, columns, 3, 32, 32]
    return windows.transpose(0, 1, 3, 4, 2).reshape(-1, SIDE, SIDE, 3)
