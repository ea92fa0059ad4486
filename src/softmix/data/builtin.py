"""The data sets with a name: digits, fashion-mnist and the toys."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ..rng import Rng
from .array import from_array
from .mnist import from_idx_folder, is_idx_folder
from .report import DataError, Report
from .request import Request
from .store import Data, make
from .toys import TOYS

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DIGITS_HELD_OUT = 360
TOY_ITEMS = 20_000


def digits(request: Request) -> Data:
    """Scikit-learn's 1797 handwritten digits, 8x8 grey, 0..16 scaled to 0..255: 1437 for training and 360 for testing.

    Source: E. Alpaydin & C. Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998 (its test part).
    """
    # A local import: scikit-learn takes a second to import, and most loads do not need it.
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    raw = load_digits()
    images = np.rint(raw.images * (255 / 16)).astype(np.uint8)
    labels = torch.from_numpy(raw.target.astype(np.int64))
    classes = tuple(str(i) for i in range(10))
    whole = make("digits", torch.from_numpy(images)[:, None], labels, classes, Report(len(images)))
    train, held_out = whole.split(DIGITS_HELD_OUT / len(whole), seed=0)
    part = train if request.split == "train" else held_out
    return from_array("digits", part.values.numpy(), part.labels, classes, request)


def fashion_places() -> list[Path]:
    """The folders to search for Fashion-MNIST, in order."""
    home = Path(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"))
    own = [Path(os.environ["SOFTMIX_DATA"]) / "fashion-mnist"] if os.environ.get("SOFTMIX_DATA") else []
    return [*own, home / "softmix/fashion-mnist", home / "fashion-mnist", Path("/usr/share/datasets/fashion-mnist")]


def fashion_mnist(request: Request) -> Data:
    """Fashion-MNIST: 28x28 grey pictures of clothes in ten classes, 60000 for training and 10000 for testing.

    Source: H. Xiao, K. Rasul & R. Vollgraf, arXiv:1708.07747. Raises DataError with the way to install it.
    """
    places = fashion_places()
    root = next((folder for folder in places if is_idx_folder(folder)), None)
    if root is None:
        raise DataError(
            f"fashion-mnist was asked for, but its IDX files are in none of {', '.join(map(str, places))}; run "
            "`apt-get install dataset-fashion-mnist`, or name a folder that holds its four IDX files "
            "(train-images-idx3-ubyte.gz and so on)"
        )
    return from_idx_folder("fashion-mnist", root, FASHION_CLASSES, request)


def toy(name: str, request: Request) -> Data:
    """20000 points of a toy, float32 [N, D]. The test split is another draw. An item does not depend on `limit`."""
    full = f"toy:{name}"
    if name not in TOYS:
        known = ", ".join(f"toy:{key}" for key in TOYS)
        raise DataError(f"{full} was asked for, but there is no such toy; there are {known}")
    useless = ("size", "channels", "bits", "values", "layout", "tokens", "length", "spacing")
    request.refuse_options(full, "holds points, not images", *useless)
    count = min(request.limit or TOY_ITEMS, TOY_ITEMS)
    points = TOYS[name]().sample(count, Rng(0, count, f"{full}.{request.split}")).float()
    return make(full, points, None, (), Report(count, notes=("drawn with seed 0",)))
