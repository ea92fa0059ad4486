"""The held-out data that samples are compared with, and the choice of features."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..data import Data
from ..data.store import choose
from .coverage import coverage
from .downsample import DownsampledFeatures, downsampled_items
from .extractor import Features
from .features import classifier_features, image_features, pixel_features, raw_features
from .frechet import frechet, frechet_error
from .kernel import kernel_distance
from .nearest import memorisation_of, nearest
from .points import histogram_tv, sliced_wasserstein

FeatureKind = Literal["auto", "pixels", "pca", "classifier"]
FEATURE_KINDS: tuple[FeatureKind, ...] = ("auto", "pixels", "pca", "classifier")

LEAST = 8
MOST_FITTED = 20_000
MOST_BALLS = 5_000
MOST_NEAREST = 1_000
# A Fréchet distance of this many values takes about a second.
MOST_PIXELS = 1_024


def features_for(
    data: Data, cache: Path | None, kind: FeatureKind = "auto", device: torch.device | str = "cpu"
) -> Features:
    """Fit a feature extractor to a data set.

    data : the data set.
    cache : the folder that caches the classifier, or None.
    kind : "classifier" is a small classifier trained on the labels, for images of 8 to 256 pixels a side. "pca" is the
        principal components of the pixels, for images of any size, fitted to at most 20,000 items. "pixels" is the
        pixel values, for small images. "auto" is the classifier if the data have two classes or more and it can be
        trained, otherwise "pca".
    device : trains and evaluates a classifier. All other features are computed on the CPU.

    Points are always measured as they are. For images above 64 pixels, "classifier" and "pca" use averages
    (`downsample`), and the name of the extractor gives their size.

    Raises ValueError for a kind that these data do not allow.
    """
    reason = refusal(data, kind)
    if reason:
        raise ValueError(f"the features {kind!r} were asked for: {reason}")
    if not data.is_image:
        return raw_features()
    if kind == "pixels":
        return image_features()
    if kind == "pca" or _no_classifier(data) or data.labels is None:
        return _downsampled(pixel_features(downsampled_items(data, choose(len(data), MOST_FITTED))), data)
    x0 = downsampled_items(data, torch.arange(len(data), device=data.values.device))
    count = len(data.classes)
    return _downsampled(classifier_features(x0, data.labels, count, name=data.name, cache=cache, device=device), data)


def refusal(data: Data, kind: FeatureKind) -> str:
    """Return the reason why these data cannot be measured in features of this kind; "" if they can."""
    if kind not in FEATURE_KINDS:
        return f"the kinds are {', '.join(FEATURE_KINDS)}"
    if kind != "auto" and not data.is_image:
        return f"{data.name} has no images, and points are measured as they are; leave it out"
    if kind == "classifier" and _no_classifier(data):
        return f"{data.name} {_no_classifier(data)}; take pca"
    count = data.values[0].numel()
    if kind == "pixels" and count > MOST_PIXELS:
        return f"{data.name} has images of {count:,} values, and up to {MOST_PIXELS:,} can be compared; take pca"
    return ""


def _no_classifier(data: Data) -> str:
    """Return the reason why no classifier can be trained on these images; "" if one can."""
    _, height, width = data.shape
    if data.labels is None or len(data.classes) < 2:
        return "has fewer than two classes"
    if not (min(height, width) >= 8 and max(height, width) <= 256):
        return f"has images of {height}x{width}; a classifier takes 8x8 to 256x256"
    return "" if len(data) >= 10 else f"has {len(data)} items; a classifier needs 10"


def _downsampled(features: Features, data: Data) -> Features:
    wrapped = DownsampledFeatures(features, data.shape)
    return features if wrapped.size == data.shape[1:] else wrapped


class ReferenceSet:
    """Held-out data, with their features and their distances to the training set. Samples are compared with it.

    Some measures use only a part of the items. This part is a fixed random choice (`choose`), for held-out data and for
    samples, because data are often sorted by class.

    train, held_out : the training data, and data that were not trained on.
    features : the extractor.
    seed : decides random blocks, halves and directions.
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
    def held_out_nearest(self) -> Tensor:
        """Distances [M] from at most 1,000 held-out items to their nearest training items."""
        return nearest(_random_items(self.real, MOST_NEAREST), self.train.x0()).distance

    @property
    def held_out_is_new(self) -> bool:
        """Whether fewer than half of the held-out items are copies of training items."""
        return float(self.held_out_nearest.quantile(0.5)) > 0

    def compare(self, fake: Tensor) -> dict[str, float]:
        """Measure every distance between samples [N, ...] and held-out data.

        Coverage uses equal numbers of both. If half of the held-out items are copies of training items, the nearest
        ratio and the share of copies are left out.

        Raises ValueError for fewer than 8 samples or held-out items, and for values that are not finite.
        """
        n = min(len(self.real), len(fake), MOST_BALLS)
        if n < LEAST:
            raise ValueError(
                f"{len(fake)} samples and {len(self.real)} held-out items: distances need at least {LEAST} of each"
            )
        fake_features = self.features(fake)
        cover = coverage(_random_items(self.real_features, n), _random_items(fake_features, n))
        kernel = kernel_distance(self.real_features, fake_features, self.seed, subsets=min(20, n // 2))
        values = {
            "frechet": frechet(self.real_features, fake_features),
            "frechet_se": frechet_error(
                self.real_features, fake_features, self.seed, 16 if fake_features.shape[1] <= 256 else 4
            ),
            "kernel": kernel.value,
            "kernel_se": kernel.standard_error,
            "precision": cover.precision,
            "recall": cover.recall,
            "density": cover.density,
            "coverage": cover.coverage,
        }
        return values | self._nearness(fake) | self._shares(fake) | self._sliced(fake)

    def _nearness(self, fake: Tensor) -> dict[str, float]:
        apart = nearest(_random_items(fake, MOST_NEAREST), self.train.x0()).distance
        if not self.held_out_is_new:
            return {"nearest": float(apart.quantile(0.5))}
        memory = memorisation_of(apart, self.held_out_nearest)
        return {"nearest": memory.generated, "nearest_ratio": memory.ratio, "copied": memory.copied}

    def _shares(self, fake: Tensor) -> dict[str, float]:
        labels = labels_in_classes(self.train, self.held_out)
        logits = self.features.classify(fake) if labels is not None else None
        if logits is None or labels is None:
            return {}
        weights = torch.bincount(labels, minlength=logits.shape[1]).double()
        return {"class_tv": histogram_tv(logits.argmax(1), weights / weights.sum())}

    def _sliced(self, fake: Tensor) -> dict[str, float]:
        if self.held_out.is_image:
            return {}
        return {"sliced_wasserstein": sliced_wasserstein(self.real, fake, seed=self.seed)}


def labels_in_classes(train: Data, held_out: Data) -> Tensor | None:
    """Convert the held-out labels to the class numbers of the training data; None if a class is missing there."""
    if held_out.labels is None or held_out.classes == train.classes:
        return held_out.labels
    if not set(held_out.classes) <= set(train.classes):
        return None
    numbers = [train.classes.index(name) for name in held_out.classes]
    return torch.tensor(numbers, device=held_out.labels.device)[held_out.labels]


def _random_items(x: Tensor, most: int) -> Tensor:
    return x[choose(len(x), most)] if len(x) > most else x
