"""Feature extractors. The name of each one holds its data set and a hash of its weights."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..memory import in_batches
from ..precision import full_fp32
from ..rng import permutation
from . import classifier
from .downsample import DownsampledFeatures, downsample, downsampled_size
from .extractor import Features, need_images
from .files import read_weights, weights_hash, write_weights
from .matrix import as_matrix

BATCH = 256


class RawFeatures(Features):
    """The values themselves: "raw" for points, "pixels" for images."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, x0: Tensor) -> Tensor:
        return as_matrix(x0, "the sample")


class PixelFeatures(Features):
    """Principal components: (x0 - mean) components^T."""

    def __init__(self, mean: Tensor, components: Tensor):
        self.mean, self.components = mean, components
        self.name = f"pca{len(components)}-{weights_hash({'mean': mean, 'components': components})[:6]}"

    def __call__(self, x0: Tensor) -> Tensor:
        x0 = need_images(x0)
        if x0[0].numel() != len(self.mean):
            raise ValueError(
                f"{self.name} was fitted to images of {len(self.mean)} values; these have shape {list(x0.shape)}"
            )

        def projected(low: int, high: int) -> Tensor:
            return (as_matrix(x0[low:high], "x0") - self.mean) @ self.components.T

        return torch.cat(in_batches(projected, len(x0), BATCH, "image"))


class ClassifierFeatures(Features):
    """The penultimate layer of a trained classifier, computed in full float32 on the device of its weights."""

    def __init__(
        self, net: classifier.Classifier, name: str, shape: tuple[int, ...], accuracy: float, trained_on: str = ""
    ):
        self.net, self.shape, self.accuracy, self.trained_on = net.eval(), shape, accuracy, trained_on
        self.name = f"{name}-cnn-{weights_hash(net.state_dict())[:6]}"

    def __call__(self, x0: Tensor) -> Tensor:
        return self._last_layers(x0)[0]

    def classify(self, x0: Tensor) -> Tensor:
        return self._last_layers(x0)[1]

    @torch.no_grad()
    @full_fp32()
    def _last_layers(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        x0 = need_images(x0)
        if tuple(x0.shape[1:]) != self.shape:
            raise ValueError(
                f"{self.name} was trained on images of shape {list(self.shape)}; these have shape {list(x0.shape[1:])}"
            )
        device = self.net.head.weight.device

        def penultimate(low: int, high: int) -> Tensor:
            return self.net.features(x0[low:high].to(device, torch.float32))

        features = torch.cat(in_batches(penultimate, len(x0), BATCH, "image"))
        return features.cpu().double(), cast(Tensor, self.net.head(features)).cpu().double()


def raw_features() -> Features:
    """Return the extractor for points: the flattened values in float64. Its name is "raw"."""
    return RawFeatures("raw")


def image_features() -> Features:
    """Return the extractor for small images: the pixel values in float64. Its name is "pixels".

    A Fréchet distance in these features is in squared units of x0. Its cost grows with the third power of the number
    of values.
    """
    return RawFeatures("pixels")


def pixel_features(x0_reference: Tensor, dim: int = 64) -> Features:
    """Fit principal components to the pixels of a reference set. Choose them for images without labels.

    Parameters
    ----------
    x0_reference : images [N, C, H, W] in [-1, 1], N >= 2. The real set, never the generated one.
    dim : number of components; fewer if the images have fewer values, or the reference fewer items.

    The components are not rescaled, so a Fréchet distance in them is in squared units of x0. The name is
    "pca64-<hash>". They show colour, layout and blur, but little of the content of a picture. Use
    `classifier_features` if there are labels.

    Raises ValueError for values not finite or not in [-1, 1].
    """
    flat = need_images(x0_reference).detach().cpu().flatten(1)
    if len(flat) < 2:
        raise ValueError(f"the reference holds {len(flat)} images; at least 2 are needed to fit components")
    # numpy has no bfloat16. A float64 copy of a large float32 set may not fit into memory.
    values = flat.numpy() if flat.dtype in (torch.float32, torch.float64) else flat.float().numpy()
    from sklearn.decomposition import PCA

    pca = PCA(min(dim, *values.shape), random_state=0).fit(values)
    return PixelFeatures(torch.from_numpy(pca.mean_).double(), torch.from_numpy(pca.components_).double())


def classifier_features(
    x0: Tensor,
    labels: Tensor,
    classes: int,
    *,
    name: str,
    seed: int = 0,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> Features:
    """Train a small classifier on real images and return its penultimate layer: 64 features per image.

    Parameters
    ----------
    x0 : real images [N, C, H, W] in [-1, 1], N >= 10, H and W from 8 to 256, any C. Images above 64 pixels are averaged
        first, see `downsample`. The name then begins with the smaller size: at-48x64-photos-cnn-3f2a91.
    labels : integers [N] in 0 .. classes - 1.
    classes : the number of classes.
    name : the data set's name; the extractor is called <name>-cnn-<first 6 hex of SHA-256 of its weights>.
    seed : decides the initial weights, the order of images and the held-out tenth.
    cache : a folder for the weights (safetensors). The file name is a hash of images, labels and settings, and the
        same for every device. A complete file replaces the training, also if it was trained on another device. A
        damaged file causes a warning, and the classifier is trained again.
    device : trains the classifier, if the cache has none, and computes the features. `trained_on` says the device of
        the training.

    The same data, seed, torch build and kind of processor give the same bits and so the same name. The number of
    threads does not matter, because training uses one. On other machines the bits may differ. Then the name differs
    too, and the numbers are not comparable: to compare them, copy the file of one machine to the cache of the other.
    From the same file, two devices give the same features up to the rounding of float32, without TF32. Training takes
    about 25 s on one CPU core for any number of images. `accuracy` is measured on the held-out tenth. If it is low, do
    not use the features: the classifier cannot distinguish the classes.

    Raises ValueError for sizes, labels or values outside these limits.
    """
    x0, labels = _labelled(x0, labels, classes)
    shape = tuple(x0.shape[1:])
    if downsampled_size(*shape[1:]) != shape[1:]:
        inner = classifier_features(downsample(x0), labels, classes, name=name, seed=seed, cache=cache, device=device)
        return DownsampledFeatures(inner, shape)
    path = None if cache is None else cache / f"{name}-cnn-{_key(x0, labels, classes, seed)}.safetensors"

    def fresh() -> classifier.Classifier:
        return classifier.build(shape[0], classes, min(shape[1:]), seed)

    saved = _reload(fresh(), path) if path is not None else None
    if saved is not None:
        net, notes = saved
        return ClassifierFeatures(net.to(device), name, shape, float(notes["accuracy"]), notes.get("trained_on", ""))
    net, trained_on = fresh().to(device), _name_of(torch.device(device))
    accuracy = _train(net, x0, labels, seed)
    if path is not None:
        _save(net, {"accuracy": repr(accuracy), "trained_on": trained_on}, path)
    return ClassifierFeatures(net, name, shape, accuracy, trained_on)


def _name_of(device: torch.device) -> str:
    """The kind of a device, for the report: "cpu", or the name of the card."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@full_fp32()
def _train(net: classifier.Classifier, x0: Tensor, labels: Tensor, seed: int) -> float:
    """Train on nine tenths; return the accuracy on the rest."""
    device = net.head.weight.device
    order = permutation(seed, len(x0), "classifier held out")
    unseen, seen = order[: len(x0) // 10], order[len(x0) // 10 :]
    classifier.fit(net, x0[seen], labels[seen], seed)

    @torch.no_grad()
    def guesses(low: int, high: int) -> Tensor:
        return net(x0[unseen[low:high]].to(device)).argmax(1)

    found = torch.cat(in_batches(guesses, len(unseen), BATCH, "image")).cpu()
    return float((found == labels[unseen]).double().mean())


def _reload(net: classifier.Classifier, path: Path) -> tuple[classifier.Classifier, dict[str, str]] | None:
    """The net with the saved weights, and their notes; None if there is no usable file."""
    if not path.exists():
        return None
    try:
        weights, notes = read_weights(path)
        float(notes["accuracy"])
        net.load_state_dict(weights)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        warnings.warn(f"{path} cannot be used ({error}); the classifier is trained again", stacklevel=3)
        return None
    return net, notes


def _save(net: classifier.Classifier, notes: dict[str, str], path: Path) -> None:
    try:
        write_weights(path, net.state_dict(), notes)
    except OSError as error:
        # The features are valid without the cache; only the next run has to train again.
        warnings.warn(f"the classifier could not be saved as {path} ({error})", stacklevel=3)


def _key(x0: Tensor, labels: Tensor, classes: int, seed: int) -> str:
    recipe = {"version": 1, "shape": list(x0.shape), "classes": classes, "seed": seed}
    recipe |= {"width": classifier.WIDTH, "rate": classifier.RATE, "batch": classifier.BATCH}
    recipe |= {"epochs": classifier.EPOCHS, "most_steps": classifier.MOST_STEPS}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    for part in (x0, labels):
        digest.update(part.contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _labelled(x0: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Check the training data and return float32 images and int64 labels on the CPU."""
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
            f"labels run from {int(labels.min())} to {int(labels.max())}, but classes = {classes} was given; "
            f"labels must be in 0 .. {classes - 1}"
        )
    return x0.detach().cpu().float(), labels.detach().cpu().long()
