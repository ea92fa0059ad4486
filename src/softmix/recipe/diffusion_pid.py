"""DiffusionPID: the information of two conditions on each pixel, alone and in parts, from the errors of a denoiser.

By the measure of the paper and with equal priors, the redundancy is -log p(y) for copies and for independent pictures
alike, in a law of pictures that name their classes: two independent labels are as redundant as two equal ones. The
share of the redundancy in the information of both labels, and i(y1) + i(y2) - i(y1, y2), tell the two apart. No exact
information is above -log p(y), so that a larger redundancy of copies comes from the errors of the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..cond import Cond
from ..data import Data, load
from ..denoiser import Network
from ..info import (
    InformationMaps,
    Levels,
    TwoSources,
    label_information,
    pointwise_decomposition,
)
from ..net import UNetSpec
from ..rng import Rng
from ..train import Config, Run, Trainer, facts_of
from .canvases import COPY, INDEPENDENT, LEFT, RIGHT, Canvases
from .exact_information import exact
from .frame import Arms, Numbers, Results, Study
from .images import base
from .in_memory import averaged_on_cpu
from .paper import Paper, Role

PAPER = Paper.of(
    "diffusion_pid",
    "The errors of a denoiser give the information of each of two conditions on each pixel; its unique, redundant and "
    "synergistic parts show the place at which a condition acts, and that two conditions say the same.",
)
RESULT = ""

STANDARD, ORTHOGONAL, LAW, MOST = "i_s", "i_o", "the law", "-log p(y)"
UNTRAINED, WRONG = "an untrained network", "a wrong label"
MIXTURES = "mixtures and Gaussians, by quadrature"
# the noise levels at which a label says anything of an image, and those of the authors
WITHIN, AUTHORS = Levels(-1.0, 1.25), Levels(1.0, 2.0, 3.0)
KINDS = {INDEPENDENT: "independent", COPY: "copies"}
_NAMES = {"standard": STANDARD, "orthogonal": ORTHOGONAL}


def exact_numbers(seed: int, n: int, nodes: int, levels: int) -> Results:
    """The numbers of the exact laws, by arm."""
    names = {"standard": STANDARD, "orthogonal": ORTHOGONAL, "law": LAW}
    return {(names[name], metric): value for (name, metric), value in exact(seed, n, nodes, levels).items()}


@lru_cache(maxsize=2)
def pictures(source: str, size: int) -> tuple[Data, Data]:
    """The training and the held-out pictures. size : of a side, 0 for that of the source."""
    train, held_out = (load(source, size=size or None, split=split) for split in ("train", "test"))
    return train, held_out


def learned(seed: int, source: str, size: int, width: int, images: int, n: int, levels: int) -> Results:
    """Train a network on canvases with labels that are dropped one by one, and measure it on held-out canvases."""
    train, held_out = pictures(source, size)
    canvases, config = Canvases(train), configuration(train, width, images, seed)
    trained = cast(Network, averaged_on_cpu(canvases, config)).eval()
    untrained = cast(Network, Trainer(Run(config, facts_of(canvases, config)), canvases, Path()).averaged())
    results = dict(measured(trained, held_out, seed, n, levels))
    control = measured(untrained.to("cpu").eval(), held_out, seed, n, levels)
    return results | {(UNTRAINED, metric): value for (name, metric), value in control.items() if name == STANDARD}


def configuration(train: Data, width: int, images: int, seed: int) -> Config:
    """A plain training, with labels, of which three in ten are dropped."""
    net, shape = UNetSpec(width=width, depth=1, patch=2), Canvases(train).shape
    return base(shape, net, images, seed).but(classes=True, drop=0.3)


def canvases_of(held_out: Data, kind: int, n: int, rng: Rng) -> tuple[Tensor, Cond]:
    """n held-out canvases of one kind: INDEPENDENT or COPY."""
    source = Canvases(held_out, float(kind == COPY))
    return source.batch(torch.arange(n, device="cpu") * (len(held_out) // n), rng)


def measured(model: Network, held_out: Data, seed: int, n: int, levels: int) -> Results:
    """The shares, parts, and accuracies of a network on n held-out canvases of each kind."""
    rng, prior = Rng(seed, n, "canvases"), math.log(model.cond.classes)
    results: dict[tuple[str, str], float] = {(MOST, "nats of a label"): prior}
    for kind, word in KINDS.items():
        x, cond = canvases_of(held_out, kind, n, rng.child(word))
        sources = TwoSources.of(cond, model.cond, LEFT, RIGHT)
        for maps in pointwise_decomposition(model, x, rng.child("levels"), WITHIN, sources, levels):
            name, parts = _NAMES[maps.estimator], maps.total.parts((prior, prior))
            both = float(maps.total.both.mean())
            results[name, f"redundant nats, {word}"] = float(parts.redundant.mean())
            results[name, f"redundant share, {word}"] = float(parts.redundant.mean()) / both
            results[name, f"nats of the left label, {word}"] = float(maps.total.first.mean())
            results[name, f"synergy nats, {word}"] = float(parts.synergy.mean())
            shared = maps.total.first + maps.total.second - maps.total.both
            results[name, f"shared nats, {word}"] = float(shared.mean())
            if kind == INDEPENDENT:
                results[name, "share on the left"] = share_on_the_left(maps)
                results[name, "nats given the other"] = float(maps.total.first_given_second.mean())
    x, cond = canvases_of(held_out, INDEPENDENT, n, rng.child(KINDS[INDEPENDENT]))
    sources = TwoSources.of(cond, model.cond, LEFT, RIGHT)
    for maps in pointwise_decomposition(model, x, rng.child("levels"), AUTHORS, sources, levels):
        results[_NAMES[maps.estimator], "share on the left, authors' levels"] = share_on_the_left(maps)
    false = TwoSources.of(with_wrong_left(cond, model.cond.classes, rng.child("wrong")), model.cond, LEFT, RIGHT)
    for maps in pointwise_decomposition(model, x, rng.child("levels"), WITHIN, false, levels):
        results[WRONG, f"nats given the other, {_NAMES[maps.estimator]}"] = float(maps.total.first_given_second.mean())
        results[WRONG, f"share on the left, {_NAMES[maps.estimator]}"] = share_on_the_left(maps)
    for name, right in named(model, x, cond, rng.child("named"), levels).items():
        results[name, "accuracy, left"] = float(right[:, 0].double().mean())
        results[name, "accuracy, pair"] = float(right.all(1).double().mean())
    return results


def share_on_the_left(maps: InformationMaps) -> float:
    """The share of the left half in the mass of the mean map of i(x; y_left | y_right): the sum of its sizes."""
    mass = maps.first_given_second.mean(0).abs()
    return float(mass[:, : mass.shape[1] // 2].sum() / mass.sum())


def with_wrong_left(cond: Cond, classes: int, rng: Rng) -> Cond:
    """The same labels with another class on the left, drawn evenly from the rest."""
    assert cond.label is not None
    label = cond.label.clone()
    label[:, 0] = (label[:, 0] + 1 + rng.integers(classes - 1, (len(cond),))) % classes
    return Cond(label=label)


def named(model: Network, x: Tensor, cond: Cond, rng: Rng, levels: int) -> Mapping[str, Tensor]:
    """Whether the largest information of all classes is that of the left and of the right label, [B, 2], by each
    estimator.

    The halves are independent, so that the best pair is the pair of the best.
    """
    assert cond.label is not None
    context = cond.without((LEFT, RIGHT), model.cond)
    right: dict[str, list[Tensor]] = {STANDARD: [], ORTHOGONAL: []}
    for column in range(2):
        candidates = []
        for k in range(model.cond.classes):
            assert context.label is not None
            label = context.label.clone()
            label[:, column] = k
            candidates.append(Cond(label=label))
        found = label_information(model, x, rng, WITHIN, candidates, context, levels)
        for name, each in zip((STANDARD, ORTHOGONAL), found, strict=True):
            right[name].append(each.argmax(1) == cond.label[:, column])
    return {name: torch.stack(each, 1) for name, each in right.items()}


def checks(value: Numbers) -> Mapping[str, bool]:
    """The place of a label, the parts of two labels, the names of labels, and the exact laws."""
    return {**_of_place(value), **_of_two_labels(value), **_of_exact_laws(value)}


def _of_place(value: Numbers) -> Mapping[str, bool]:
    ours, other, none = (value[name, "share on the left"] for name in (STANDARD, ORTHOGONAL, UNTRAINED))
    low, high = (value[WRONG, f"nats given the other, {name}"] for name in (STANDARD, ORTHOGONAL))
    pairs = {name: value[name, "accuracy, pair"] for name in (STANDARD, ORTHOGONAL, UNTRAINED)}
    chance = math.exp(-2 * value[MOST, "nats of a label"])
    return {
        f"of i_s of the left label given the right one, 90 % lie in the left half ({100 * ours:.1f} %)": ours >= 0.9,
        f"of i_o too ({100 * other:.1f} %)": other >= 0.9,
        f"of an untrained network less ({100 * none:.1f} %)": none < ours,
        f"a wrong label on the left has an i_s below 0 ({low:.2f} nats), and an i_o above 0 ({high:.2f})": low
        < 0
        < high,
        f"the largest i_s names both labels of more pairs ({pairs[STANDARD]:.2f}) than chance ({chance:.2f}), i_o "
        f"({pairs[ORTHOGONAL]:.2f}) and an untrained network ({pairs[UNTRAINED]:.2f})": pairs[STANDARD]
        > max(pairs[UNTRAINED], pairs[ORTHOGONAL], chance),
    }


def _of_two_labels(value: Numbers) -> Mapping[str, bool]:
    def both(metric: str) -> tuple[float, float]:
        """Of copies, and of independent pictures."""
        copies, independent = (value[STANDARD, f"{metric}, {KINDS[kind]}"] for kind in (COPY, INDEPENDENT))
        return copies, independent

    nats, part, shared, alone = map(
        both, ("redundant nats", "redundant share", "shared nats", "nats of the left label")
    )
    width = math.hypot(*(value.spread(STANDARD, f"redundant nats, {word}") for word in KINDS.values()))
    most = value[MOST, "nats of a label"]
    return {
        "the labels of copies are more redundant than those of independent pictures, by two standard deviations "
        f"({nats[0]:.2f} and {nats[1]:.2f} nats; one is {width:.2f})": nats[0] > nats[1] + 2 * width,
        f"as a share of the information of both, too ({part[0]:.2f} and {part[1]:.2f})": part[0] > part[1],
        f"i(y1) + i(y2) - i(y1, y2) is above 0 for copies ({shared[0]:.2f} nats), and less for independent pictures "
        f"({shared[1]:.2f})": shared[0] > max(shared[1], 0),
        f"a label says at most its -log p(y) in the mean ({alone[0]:.2f} nats of copies, {alone[1]:.2f} of independent "
        f"pictures, at most {most:.2f})": max(alone) <= most,
    }


def _of_exact_laws(value: Numbers) -> Mapping[str, bool]:
    point, mean = (
        [value[name, f"nats {where}"] for name in (STANDARD, ORTHOGONAL, LAW)] for where in ("at -1.5", "in the mean")
    )
    errors = [value[STANDARD, f"error of {what}"] for what in ("two labels", "parts")]
    linear = [[value[name, f"linear, {what}, bits"] for name in (STANDARD, LAW)] for what in _LINEAR]
    return {
        f"exactly: i_s is log p(x | y) / p(x) at a point ({point[0]:.3f}, known {point[2]:.3f}), and i_o is not "
        f"({point[1]:.3f})": abs(point[0] - point[2]) < 1e-3 < abs(point[1] - point[2]),
        f"both agree in the mean ({mean[0]:.4f} and {mean[1]:.4f}, known {mean[2]:.4f})": max(
            abs(each - mean[2]) for each in mean
        )
        < 1e-3,
        f"two labels and their parts are right to 0.001 nats at each point ({max(errors):.5f})": max(errors) < 1e-3,
        "the redundant and the synergistic bits of a linear Gaussian are right to 0.001 "
        f"({linear[0][0]:.4f} and {linear[1][0]:.4f})": max(abs(found - known) for found, known in linear) < 1e-3,
    }


_LINEAR = ("redundant", "synergy")
_EXACT: dict[str, Role] = {STANDARD: "ours", ORTHOGONAL: "baseline", LAW: "oracle"}
_LEARNED: dict[str, Role] = {
    STANDARD: "ours",
    ORTHOGONAL: "baseline",
    UNTRAINED: "control",
    WRONG: "control",
    MOST: "oracle",
}
run = Study(
    PAPER,
    checks,
    [
        Arms(
            _EXACT,
            exact_numbers,
            MIXTURES,
            {"n": 8, "nodes": 16, "levels": 100},
            {"n": 40, "nodes": 24, "levels": 150},
            seeds=1,
        ),
        Arms(
            _LEARNED,
            learned,
            "canvases of digits, 8 x 16",
            {"source": "digits", "size": 0, "width": 32, "images": 48_000, "n": 60, "levels": 12},
        ),
        Arms(
            _LEARNED,
            learned,
            "canvases of Fashion-MNIST, 8 x 16",
            None,
            {"source": "fashion-mnist", "size": 8, "width": 48, "images": 280_000, "n": 160, "levels": 12},
            seeds=3,
            needs=partial(load, "fashion-mnist"),
        ),
    ],
)
