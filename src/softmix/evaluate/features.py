"""Feature extractors, each named after what it was fitted to and a hash of its weights."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..rng import permutation
from . import classifier
from .extractor import Features, need_images
from .matrix import rows, spans
from .shrink import Shrunk, shrink, shrunk_size
from .stored import read_weights, weights_hash, write_weights

BATCH = 256


class RawFeatures(Features):
    """The values themselves: "raw" for points, "pixels" for images."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, x0: Tensor) -> Tensor:
        return rows(x0, "the sample")


class PixelFeatures(Features):
    """Coordinates along fixed directions: (x0 - mean) components^T."""

    def __init__(self, mean: Tensor, components: Tensor):
        self.mean, self.components = mean, components
        self.name = f"pca{len(components)}-{weights_hash({'mean': mean, 'components': components})[:6]}"

    def __call__(self, x0: Tensor) -> Tensor:
        x0 = need_images(x0)
        if x0[0].numel() != len(self.mean):
            raise ValueError(
                f"{self.name} was fitted to images of {len(self.mean)} values; these have shape {list(x0.shape)}"
            )
        parts = spans(len(x0), BATCH)
        return torch.cat([(rows(x0[part], "x0") - self.mean) @ self.components.T for part in parts])


class ClassifierFeatures(Features):
    """The penultimate layer of a trained classifier."""

    def __init__(self, net: classifier.Classifier, name: str, shape: tuple[int, ...], accuracy: float):
        self.net, self.shape, self.accuracy = net.eval(), shape, accuracy
        self.name = f"{name}-cnn-{weights_hash(net.state_dict())[:6]}"

    def __call__(self, x0: Tensor) -> Tensor:
        return self._last_layers(x0)[0]

    def classify(self, x0: Tensor) -> Tensor:
        return self._last_layers(x0)[1]

    @torch.no_grad()
    def _last_layers(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        x0 = need_images(x0)
        if tuple(x0.shape[1:]) != self.shape:
            raise ValueError(
                f"{self.name} was trained on images of shape {list(self.shape)}; these have shape {list(x0.shape[1:])}"
            )
        features = torch.cat([self.net.features(x0[part].cpu().float()) for part in spans(len(x0), BATCH)])
        return features.double(), cast(Tensor, self.net.head(features)).double()


def raw_features() -> Features:
    """The extractor that leaves points as they are (flattened), in float64; its name is "raw"."""
    return RawFeatures("raw")


def image_features() -> Features:
    """The extractor that leaves the values of images as they are, in float64; its name is "pixels".

    A Fréchet distance in them is in squared units of x0. Its cost grows with the third power of their number.
    """
    return RawFeatures("pixels")


def pixel_features(x0_reference: Tensor, dim: int = 64) -> Features:
    """Principal components of raw values, fitted to the reference: for images that have no labels.

    Parameters
    ----------
    x0_reference : images [N, C, H, W] in [-1, 1], N >= 2. The real set, never the generated one.
    dim : number of components; less if the images have fewer values, or the reference fewer items.

    The components are not rescaled, so a Fréchet distance in them is in squared units of x0. The name is
    "pca64-<hash>". They see colour, layout and blur, and little of what a picture shows; use
    `classifier_features` where labels exist. Raises ValueError for values not finite or not in [-1, 1].
    """
    flat = need_images(x0_reference).detach().cpu().flatten(1)
    if len(flat) < 2:
        raise ValueError(f"the reference holds {len(flat)} images; at least 2 are needed to find components")
    # A half-precision tensor has no numpy twin; a float64 copy of a large float32 set may not fit.
    values = flat.numpy() if flat.dtype in (torch.float32, torch.float64) else flat.float().numpy()
    from sklearn.decomposition import PCA

    pca = PCA(min(dim, *values.shape), random_state=0).fit(values)
    return PixelFeatures(torch.from_numpy(pca.mean_).double(), torch.from_numpy(pca.components_).double())


def classifier_features(
    x0: Tensor, labels: Tensor, classes: int, *, name: str, seed: int = 0, cache: Path | None = None
) -> Features:
    """Features of a small classifier trained here on real images: 64 numbers per image.

    Parameters
    ----------
    x0 : real images [N, C, H, W] in [-1, 1], N >= 10, H and W from 8 to 256, any C. Above 64 it sees averages, see
        `shrink`, and its name begins with the size that it sees: at-48x64-photos-cnn-3f2a91.
    labels : integers [N] in 0 .. classes - 1.
    name : the data set's name; the extractor is called <name>-cnn-<first 6 hex of SHA-256 of its weights>.
    seed : decides the first weights, the order of images and which tenth of them is held out.
    cache : a folder for the weights (safetensors). Their file is keyed by images, labels and settings, is
        read instead of training if it is whole, and is trained anew, with a warning, if it is not.

    The same data, seed, torch build and kind of processor give the same bits and so the same name, however
    many threads torch has (training uses one); elsewhere bits may differ, and then the name says that the
    numbers are not comparable. Takes about 25 s on one CPU core, however many images there are. `accuracy`
    is on the held-out tenth: features of a classifier that cannot tell the classes apart are not worth
    measuring with.

    Raises ValueError for sizes, labels or values that do not fit the above.
    """
    x0, labels = _labelled(x0, labels, classes)
    shape = tuple(x0.shape[1:])
    if shrunk_size(*shape[1:]) != shape[1:]:
        inner = classifier_features(shrink(x0), labels, classes, name=name, seed=seed, cache=cache)
        return Shrunk(inner, shape)
    net = classifier.build(shape[0], classes, min(shape[1:]), seed)
    if cache is None:
        return ClassifierFeatures(net, name, shape, _train(net, x0, labels, seed))
    path = cache / f"{name}-cnn-{_key(x0, labels, classes, seed)}.safetensors"
    accuracy = _reload(net, path)
    if accuracy is None:
        # A file that was refused half way may have left some of its weights behind.
        net = classifier.build(shape[0], classes, min(shape[1:]), seed)
        accuracy = _train(net, x0, labels, seed)
        _keep(net, accuracy, path)
    return ClassifierFeatures(net, name, shape, accuracy)


def _train(net: classifier.Classifier, x0: Tensor, labels: Tensor, seed: int) -> float:
    """Fit on nine tenths; the accuracy on the last."""
    order = permutation(seed, len(x0), "classifier held out")
    unseen, seen = order[: len(x0) // 10], order[len(x0) // 10 :]
    classifier.fit(net, x0[seen], labels[seen], seed)
    with torch.no_grad():
        guesses = torch.cat([net(x0[part]).argmax(1) for part in torch.split(unseen, BATCH)])
    return float((guesses == labels[unseen]).double().mean())


def _reload(net: classifier.Classifier, path: Path) -> float | None:
    """Put stored weights into the net and return their accuracy; None if there are none to be trusted."""
    if not path.exists():
        return None
    try:
        weights, notes = read_weights(path)
        accuracy = float(notes["accuracy"])
        net.load_state_dict(weights)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        warnings.warn(f"{path} cannot be used ({error}); the classifier is trained anew", stacklevel=3)
        return None
    return accuracy


def _keep(net: classifier.Classifier, accuracy: float, path: Path) -> None:
    try:
        write_weights(path, net.state_dict(), {"accuracy": repr(accuracy)})
    except OSError as error:
        # The features are good without the cache; only the next run pays.
        warnings.warn(f"the classifier could not be stored on disk as {path} ({error})", stacklevel=3)


def _key(x0: Tensor, labels: Tensor, classes: int, seed: int) -> str:
    recipe = {"version": 1, "shape": list(x0.shape), "classes": classes, "seed": seed}
    recipe |= {"width": classifier.WIDTH, "rate": classifier.RATE, "batch": classifier.BATCH}
    recipe |= {"epochs": classifier.EPOCHS, "most_steps": classifier.MOST_STEPS}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    for part in (x0, labels):
        digest.update(part.contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _labelled(x0: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Checked training data: float32 images and int64 labels on the CPU."""
    count, height, width = need_images(x0).shape[0], x0.shape[2], x0.shape[3]
    if not (min(height, width) >= 8 and max(height, width) <= 256):
        raise ValueError(
            f"images from 8x8 to 256x256 can be classified here; these are {height}x{width}; "
            "resize them, or use pixel_features"
        )
    if count < 10:
        raise ValueError(f"{count} labelled images were given; at least 10 are needed, a tenth of them held out")
    if labels.shape != (count,) or labels.is_floating_point():
        raise ValueError(
            f"labels must be integers of shape [{count}]; they are {labels.dtype} of shape {list(labels.shape)}"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but {classes} classes were announced; "
            f"labels must be in 0 .. {classes - 1}"
        )
    return x0.detach().cpu().float(), labels.detach().cpu().long()
