"""What samples are compared with, and in which features."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..data import Data
from ..data.store import choose
from .coverage import coverage
from .extractor import Features
from .features import classifier_features, image_features, pixel_features, raw_features
from .frechet import frechet, frechet_error
from .kernel import kernel_distance
from .nearest import compared, nearest
from .points import histogram_tv, sliced_wasserstein
from .shrink import Shrunk, shrunk_items

Kind = Literal["auto", "pixels", "pca", "classifier"]
KINDS: tuple[Kind, ...] = ("auto", "pixels", "pca", "classifier")

LEAST = 8
MOST_FITTED = 20_000
MOST_BALLS = 5_000
MOST_NEAREST = 1_000
# A covariance of this many values takes about a second to be compared.
MOST_PIXELS = 1_024


def features_for(data: Data, cache: Path | None, kind: Kind = "auto") -> Features:
    """The extractor for these data, fitted to them.

    kind : "classifier", a small one trained on the labels, for images of 8 to 256 pixels a side; "pca", principal
        components of the pixels, for images of any size; "pixels", the values themselves, of small images. "auto" is
        the classifier where the data have two classes and it can be trained, else principal components. Points
        are always measured as they are. Of images above 64 pixels, the first two see averages (`shrink`), and
        their name says at what size. cache : where the classifier is kept.

    Components are fitted to at most 20,000 items. Raises ValueError for a kind that these data do not allow.
    """
    reason = refusal(data, kind)
    if reason:
        raise ValueError(f"the features {kind!r} were asked for: {reason}")
    if not data.is_image:
        return raw_features()
    if kind == "pixels":
        return image_features()
    if kind == "pca" or _no_classifier(data) or data.labels is None:
        return _shrunk(pixel_features(shrunk_items(data, choose(len(data), MOST_FITTED))), data)
    x0 = shrunk_items(data, torch.arange(len(data)))
    return _shrunk(classifier_features(x0, data.labels, len(data.classes), name=data.name, cache=cache), data)


def refusal(data: Data, kind: Kind) -> str:
    """Why these data cannot be measured in features of this kind; "" if they can."""
    if kind not in KINDS:
        return f"there are {', '.join(KINDS)}"
    if kind != "auto" and not data.is_image:
        return f"{data.name} has no images, and points are measured as they are; leave it out"
    if kind == "classifier" and _no_classifier(data):
        return f"{data.name} {_no_classifier(data)}; take pca"
    count = data.values[0].numel()
    if kind == "pixels" and count > MOST_PIXELS:
        return f"{data.name} has images of {count:,} values, and up to {MOST_PIXELS:,} can be compared; take pca"
    return ""


def _no_classifier(data: Data) -> str:
    """Why no classifier can be trained on these images; "" if one can."""
    _, height, width = data.shape
    if data.labels is None or len(data.classes) < 2:
        return "has no two classes to tell apart"
    if not (min(height, width) >= 8 and max(height, width) <= 256):
        return f"has images of {height}x{width} where 8x8 to 256x256 can be classified"
    return "" if len(data) >= 10 else f"has {len(data)} items where 10 are needed"


def _shrunk(features: Features, data: Data) -> Features:
    wrapped = Shrunk(features, data.shape)
    return features if wrapped.size == data.shape[1:] else wrapped


class Reference:
    """What samples are compared with: held-out data, their features, and how near they lie to the training set.

    Where a measure takes only some of the items, they are a fixed random choice (`choose`), of held-out data and of
    samples alike, since data are often sorted by class.
    """

    def __init__(self, train: Data, held_out: Data, features: Features, seed: int = 0):
        self.train, self.held_out, self.features, self.seed = train, held_out, features, seed

    @cached_property
    def real(self) -> Tensor:
        return self.held_out.x0()

    @cached_property
    def real_features(self) -> Tensor:
        return self.features(self.real)

    @cached_property
    def unseen(self) -> Tensor:
        """Distances [M] from at most 1,000 held-out items to the training items nearest to them."""
        return nearest(_some(self.real, MOST_NEAREST), self.train.x0()).distance

    @property
    def has_yardstick(self) -> bool:
        """Whether less than half of the held-out items are copies of training items."""
        return float(self.unseen.quantile(0.5)) > 0

    def compare(self, fake: Tensor) -> dict[str, float]:
        """Every distance between samples and held-out data; coverage takes as many of one as of the other.

        The nearest ratio and the share of copies are left out where half of the held-out items are copies themselves.
        Raises ValueError for fewer than 8 of either, and for values that are not finite.
        """
        n = min(len(self.real), len(fake), MOST_BALLS)
        if n < LEAST:
            raise ValueError(
                f"{len(fake)} samples and {len(self.real)} held-out items: distances need at least {LEAST} of each"
            )
        found = self.features(fake)
        cover = coverage(_some(self.real_features, n), _some(found, n))
        kernel = kernel_distance(self.real_features, found, self.seed, subsets=min(20, n // 2))
        values = {
            "frechet": frechet(self.real_features, found),
            "frechet_se": frechet_error(self.real_features, found, self.seed, 16 if found.shape[1] <= 256 else 4),
            "kernel": kernel.value,
            "kernel_se": kernel.standard_error,
            "precision": cover.precision,
            "recall": cover.recall,
            "density": cover.density,
            "coverage": cover.coverage,
        }
        return values | self._nearness(fake) | self._shares(fake) | self._sliced(fake)

    def _nearness(self, fake: Tensor) -> dict[str, float]:
        apart = nearest(_some(fake, MOST_NEAREST), self.train.x0()).distance
        if not self.has_yardstick:
            return {"nearest": float(apart.quantile(0.5))}
        copied = compared(apart, self.unseen)
        return {"nearest": copied.generated, "nearest_ratio": copied.ratio, "copied": copied.copied}

    def _shares(self, fake: Tensor) -> dict[str, float]:
        labels = labels_as(self.train, self.held_out)
        logits = self.features.classify(fake) if labels is not None else None
        if logits is None or labels is None:
            return {}
        weights = torch.bincount(labels, minlength=logits.shape[1]).double()
        return {"class_tv": histogram_tv(logits.argmax(1), weights / weights.sum())}

    def _sliced(self, fake: Tensor) -> dict[str, float]:
        if self.held_out.is_image:
            return {}
        return {"sliced_wasserstein": sliced_wasserstein(self.real, fake, seed=self.seed)}


def labels_as(train: Data, held_out: Data) -> Tensor | None:
    """The held-out items' labels in the numbers of the training classes, or None where a class is not among them."""
    if held_out.labels is None or held_out.classes == train.classes:
        return held_out.labels
    if not set(held_out.classes) <= set(train.classes):
        return None
    return torch.tensor([train.classes.index(name) for name in held_out.classes])[held_out.labels]


def _some(x: Tensor, most: int) -> Tensor:
    return x[choose(len(x), most)] if len(x) > most else x
