"""Room `evaluate`: a model against data it has not seen, by number of steps: the numbers of a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from softmix.data import Data
from softmix.denoiser import Denoiser
from softmix.evaluate.carried import Carried, carried
from softmix.evaluate.coverage import coverage
from softmix.evaluate.features import Features, classifier_features, pixel_features, raw_features
from softmix.evaluate.frechet import frechet
from softmix.evaluate.kernel import kernel_distance
from softmix.evaluate.nearest import compared, nearest
from softmix.evaluate.points import histogram_tv, sliced_wasserstein
from softmix.sampler import Precision, Sampler, ancestral, label, sample, traits

STEPS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Row:
    """Samples of one kind against held-out data. values: metric -> number, in the order of the table."""

    name: str
    steps: int | None
    sampler: str
    values: dict[str, float]


@dataclass(frozen=True)
class Pictures:
    """Images to look at, x0 in [-1, 1], [N, C, H, W], under a caption."""

    caption: str
    images: Tensor


@dataclass(frozen=True)
class Evaluation:
    """Everything that a report shows.

    title; facts: name -> text, what the numbers depend on (data, hashes, counts, seeds, weights, machine);
    rows: the floor (real against real) first; carried: how much spread the latent has, by noise level, or
    None for a model that believes in points; pictures: samples by step count, nearest training images.
    """

    title: str
    facts: dict[str, str]
    rows: tuple[Row, ...]
    carried: Carried | None
    pictures: tuple[Pictures, ...] = ()
    curves: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)


def features_for(data: Data, cache: Path | None) -> Features:
    """The extractor for these data: a small classifier where there are labels, else principal components, or
    the points themselves."""
    if not data.is_image:
        return raw_features()
    if data.labels is not None and len(data.classes) > 1:
        return classifier_features(data.x0(), data.labels, len(data.classes), name=data.name, cache=cache)
    return pixel_features(data.x0(slice(0, 20000)))


class Reference:
    """What samples are compared with: held-out data, their features, and how near they lie to the training set."""

    def __init__(self, train: Data, held_out: Data, features: Features, seed: int = 0):
        self.train, self.held_out, self.features, self.seed = train, held_out, features, seed
        self.real = held_out.x0()
        self.real_features = features(self.real)
        self.unseen = nearest(self.real[:1000], train.x0()).distance

    def compare(self, fake: Tensor) -> dict[str, float]:
        """Every distance between samples and held-out data; coverage takes as many of one as of the other."""
        found = self.features(fake)
        n = min(len(self.real), len(fake), 5000)
        if n < 8:
            raise ValueError(
                f"{len(fake)} samples and {len(self.real)} held-out items: distances need at least 8 of each"
            )
        cover = coverage(self.real_features[:n], found[:n])
        kernel = kernel_distance(self.real_features, found, self.seed, subsets=min(20, n // 2))
        copied = compared(nearest(fake[:1000], self.train.x0()).distance, self.unseen)
        values = {
            "frechet": frechet(self.real_features, found),
            "kernel": kernel.value,
            "kernel_se": kernel.standard_error,
            "precision": cover.precision,
            "recall": cover.recall,
            "density": cover.density,
            "coverage": cover.coverage,
            "nearest": copied.generated,
            "nearest_ratio": copied.ratio,
            "copied": copied.copied,
        }
        labels = self.held_out.labels
        logits = self.features.classify(fake) if labels is not None else None
        if logits is not None and labels is not None:
            weights = torch.bincount(labels, minlength=len(self.held_out.classes)).double()
            values["class_tv"] = histogram_tv(logits.argmax(1), weights / weights.sum())
        if not self.held_out.is_image:
            values["sliced_wasserstein"] = sliced_wasserstein(self.real, fake, seed=self.seed)
        return values


def judge(
    denoiser: Denoiser,
    train: Data,
    held_out: Data,
    *,
    title: str,
    facts: dict[str, str] | None = None,
    curves: dict[str, tuple[tuple[float, float], ...]] | None = None,
    steps: Sequence[int] = STEPS,
    sampler: Sampler = ancestral,
    n: int = 2000,
    seed: int = 0,
    cache: Path | None = None,
    precision: Precision = "fp32",
    say: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Samples n items at each number of steps and measures them; the floor is as many real training items."""
    features = features_for(train, cache)
    reference = Reference(train, held_out, features, seed)
    device = next((p.device for p in getattr(denoiser, "parameters", lambda: iter(()))()), torch.device("cpu"))
    count = min(n, len(held_out))
    floor = train.x0(torch.arange(len(train))[:: max(len(train) // n, 1)][:n])
    rows = [Row("real training items (floor)", None, "", reference.compare(floor))]
    pictures = [Pictures("real", held_out.x0(slice(0, 32)))] if train.is_image else []
    classes = getattr(denoiser, "classes", 0)
    cond = torch.arange(n) % classes if classes else None
    last = floor
    for k in steps:
        began = time.perf_counter()
        last = sample(denoiser, n, k, sampler=sampler, seed=seed, cond=cond, device=device, precision=precision).cpu()
        seconds = time.perf_counter() - began
        if train.is_image:
            last = last.clamp(-1, 1)
        say(f"{n} samples in {k} steps: {seconds:.1f} s")
        values = reference.compare(last) | {
            "evaluations": traits(sampler).evaluations(k),
            "seconds": seconds,
        }
        rows.append(Row(f"{k} step{'s' if k > 1 else ''}", k, label(sampler), values))
        if train.is_image:
            pictures.append(Pictures(f"{k} step{'s' if k > 1 else ''}", last[:32]))
    if train.is_image:
        pictures.append(Pictures(f"nearest training image to each at {steps[-1]} steps", _nearest(last[:32], train)))
    some = held_out.x0(slice(0, 128)).to(device)
    labels = held_out.labels[:128].to(device) if classes and held_out.labels is not None else None
    found = carried(denoiser, some, cond=labels, m=8)
    about = {
        "features": features.name,
        "samples": f"{n} against {count} held-out",
        "sampler": label(sampler),
        "seed": str(seed),
    }
    return Evaluation(
        title,
        (facts or {}) | about,
        tuple(rows),
        found if sum(found.spread) > 0 else None,
        tuple(pictures),
        curves or {},
    )


def _nearest(fake: Tensor, train: Data) -> Tensor:
    """For each fake the training image that is closest in pixels."""
    return train.x0(nearest(fake, train.x0()).train_index)
