"""Diffusion spectral information of hidden states: of a classifier in training, and of a diffusion model over noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from statistics import mean
from typing import cast

import torch
from torch import Tensor, nn

from ..data import Data, load
from ..denoiser import Network
from ..evaluate.classifier import Classifier
from ..evaluate.classifier import build as build_classifier
from ..info import relative_width, spectral_entropy, spectral_information
from ..rng import Rng, permutation
from ..train import Run, facts_of
from ..train import build as build_modules
from .frame import Results
from .images import DATA_SETS, base
from .in_memory import averaged_on_cpu
from .paper import Role
from .repa import linear_probe

DATA = "fashion14"
CLASSIFIER, DENOISER = "a classifier of Fashion-MNIST, 14 x 14", "a diffusion model of Fashion-MNIST, 14 x 14"

# the authors' width, and the factor of the median distance for widths that follow the scale
WIDTH, FACTOR = 10.0, 0.5
NEAREST = 3
BATCH, RATE = 64, 1e-3
TRUE, RANDOM = "true", "random"

FIXED, RELATIVE, STANDARD = "DSMI, one width", "DSMI, width of the scale", "DSMI, features standardised"
ENTROPY, ENTROPY_RELATIVE, ENTROPY_STANDARD = (
    "DSE, one width",
    "DSE, width of the scale",
    "DSE, features standardised",
)
NEIGHBOURS, PROBE, NETWORK, SCALE = "k nearest neighbours", "linear probe", "the network", "log2 of the median distance"
LEARNING: dict[str, Role] = {
    FIXED: "ours",
    RELATIVE: "ours",
    STANDARD: "control",
    ENTROPY: "ours",
    ENTROPY_RELATIVE: "control",
    ENTROPY_STANDARD: "control",
    SCALE: "control",
    NEIGHBOURS: "baseline",
    PROBE: "baseline",
    NETWORK: "floor",
}

# times from nearly clean to much noise, and the middle block of the network
TIMES = (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8)
MIDDLE = 2
BY_DSMI, BY_NEIGHBOURS, BY_NOISE = "states by DSMI", "states by k nearest neighbours", "states by the noise alone"
UNTRAINED, ANSWER = "states of an untrained network by DSMI", "states by a linear probe"
RANKED: dict[str, Role] = {
    BY_DSMI: "ours",
    BY_NEIGHBOURS: "baseline",
    BY_NOISE: "control",
    UNTRAINED: "control",
    ANSWER: "oracle",
}


def neighbour_information(x: Tensor, labels: Tensor, k: int = NEAREST) -> float:
    """The information of points [N, ...] and labels [N] by nearest neighbours, in bits:

        psi(N) + psi(k) - < psi(N_i) > - < psi(m_i) >

    N_i points have the label of point i, and m_i points of all, with itself, are nearer to it than its k-th neighbour
    of its label. Raises ValueError for a label of no more than k points.

    Source: Ross, "Mutual information between discrete and continuous data sets", PLOS ONE 2014.
    """
    flat = x.flatten(1).double()
    distance = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    total = 0.0
    for label in labels.unique():
        own = distance[labels == label]
        if len(own) <= k:
            raise ValueError(f"more than {k} points of each label are needed; label {int(label)} has {len(own)}")
        # the first neighbour is the point itself
        radius = own[:, labels == label].kthvalue(k + 1, dim=1).values
        # equal points are at the radius 0, and then not even the point itself is nearer
        nearer = (own < radius[:, None]).sum(1).clamp(min=1)
        total += float((_psi(k) - _psi(len(own)) - torch.digamma(nearer.double())).sum())
    return (float(_psi(len(x))) + total / len(x)) / math.log(2)


def _psi(number: int) -> Tensor:
    return torch.digamma(torch.tensor(float(number), dtype=torch.float64, device="cpu"))


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation; 0 for numbers that are all equal, which rank nothing."""
    from scipy.stats import spearmanr

    if len(set(one)) == 1 or len(set(other)) == 1:
        return 0.0
    return float(spearmanr(one, other).statistic)


@lru_cache(maxsize=1)
def _images() -> tuple[Data, Data]:
    source, size, _ = DATA_SETS[DATA]
    return load(source, size=size), load(source, size=size, split="test")


def _chosen(data: Data, n: int) -> tuple[Tensor, Tensor]:
    """n images from everywhere, and their labels."""
    index = torch.arange(n) * (len(data) // n)
    assert data.labels is not None
    return data.x0(index), data.labels[index]


def classifiers(x0: Tensor, labels: Tensor, seed: int, epochs: Sequence[int]) -> Iterator[Classifier]:
    """A classifier after each of these numbers of epochs, in the state of evaluation.

    Before the first epoch its norms see the images once, so that the scale of an untrained network is that of its
    data.
    """
    net = build_classifier(x0.shape[1], int(labels.max()) + 1, x0.shape[2], seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-2)
    for epoch in range(max(epochs) + 1):
        net.train()
        for chosen in permutation(seed, len(x0), f"epoch {epoch}").split(BATCH):
            with torch.set_grad_enabled(epoch > 0):
                loss = nn.functional.cross_entropy(net(x0[chosen]), labels[chosen])
            if epoch:
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        if epoch in epochs:
            yield net.eval()


def standardised(h: Tensor) -> Tensor:
    """Each feature of states [N, C] with mean 0 and variance 1."""
    return (h - h.mean(0)) / (h.std(0) + 1e-6)


def informations(h: Tensor, labels: Tensor, flat_width: float, seed: int) -> dict[str, float]:
    """What states [N, C] tell of labels [N], in bits. flat_width : for standardised features."""
    rng = Rng(seed, 1, "draws")
    return {
        FIXED: spectral_information(h, labels, WIDTH, rng),
        RELATIVE: spectral_information(h, labels, relative_width(h, FACTOR), rng),
        STANDARD: spectral_information(standardised(h), labels, flat_width, rng),
        NEIGHBOURS: neighbour_information(h, labels),
    }


def entropies(h: Tensor, flat_width: float) -> dict[str, float]:
    """The entropies of states [N, C] in bits, and their scale."""
    own = relative_width(h, FACTOR)
    return {
        ENTROPY: spectral_entropy(h, WIDTH),
        ENTROPY_RELATIVE: spectral_entropy(h, own),
        ENTROPY_STANDARD: spectral_entropy(standardised(h), flat_width),
        SCALE: math.log2(own / FACTOR),
    }


def learning(seed: int, images: int, n: int, doublings: int) -> Results:
    """Hidden states of held-out images and their classes, while a classifier learns true or random labels.

    And those of images that it learned from, with its random labels, as "own" labels. Numbers are before the training
    ("first"), after it ("last"), and the change along the line of least squares over 0, 1, 2, 4, ... epochs, at equal
    distances ("rise").

    images : to learn from. n : the images that are measured. doublings : of the epochs.
    """
    train, held_out = _images()
    x0, true = _chosen(train, images)
    new, classes = _chosen(held_out, n)
    random = Rng(seed, images, "labels").integers(int(true.max()) + 1, (images,))
    epochs = [0, *(2**k for k in range(doublings + 1))]
    lines: dict[tuple[str, str], list[float]] = {}
    for kind, labels in ((TRUE, true), (RANDOM, random)):
        flat_width = 0.0
        for net in classifiers(x0, labels, seed, epochs):
            with torch.no_grad():
                h, seen = (net.features(each) for each in (new, x0))
                guess, own = (net.head(each).argmax(1) for each in (h, seen))
            h, seen = h.double(), seen.double()
            # that of the untrained network, which is the same for both kinds of labels
            flat_width = flat_width or relative_width(standardised(h), FACTOR)
            found = {kind: informations(h, classes, flat_width, seed) | entropies(h, flat_width)}
            found[kind] |= {PROBE: linear_probe((seen, true), (h, classes)), NETWORK: _share(guess == classes)}
            found[f"{kind}, own"] = {NETWORK: _share(own == labels)}
            if kind == RANDOM:
                found[f"{kind}, own"] |= informations(seen[:n], labels[:n], flat_width, seed)
            for label, values in found.items():
                for name, value in values.items():
                    lines.setdefault((name, label), []).append(value)
    results: dict[tuple[str, str], float] = {}
    for (name, label), line in lines.items():
        parts = {"first": line[0], "last": line[-1], "rise": rise(line)}
        results |= {(name, f"{label}: {part}"): value for part, value in parts.items()}
    return results


def _share(right: Tensor) -> float:
    return float(right.double().mean())


def rise(values: Sequence[float]) -> float:
    """The change along the line of least squares through values at equal distances, from the first to the last."""
    y = torch.tensor(values, dtype=torch.float64, device="cpu")
    x = torch.arange(len(y)).to(y)
    x = x - x.mean()
    return float((x @ y) / (x @ x) * (len(y) - 1))


@torch.no_grad()
def states(network: Network, x0: Tensor, t: float, seed: int, part: str) -> list[Tensor]:
    """The hidden state after each block, of images at time t: the mean over places, [N, C] each."""
    blocks = range(len(network.net.body))
    pieces = []
    for low in range(0, len(x0), 250):
        items = range(low, min(low + 250, len(x0)))
        noised = network.process.noise(x0[low : items.stop], t, Rng(seed, items, f"noise {part} {t}"))
        hidden = network.with_side(noised.xt, noised.t, hidden=blocks)[1].hidden
        pieces.append([hidden[block].flatten(2).mean(2).double() for block in blocks])
    return [torch.cat(each) for each in zip(*pieces, strict=True)]


def over_noise(seed: int, images: int, n: int, fitted: int) -> Results:
    """Whether the information of the class ranks the blocks and noise levels of a network as a linear probe does.

    images : of the training, with repetition. n, fitted : images to measure, and to fit the probe to.
    """
    train, held_out = _images()
    config = base(train.shape, DATA_SETS[DATA][2], images, seed)
    trained = cast(Network, averaged_on_cpu(train, config)).eval()
    start = cast(Network, build_modules(Run(config, facts_of(train, config)))["model"]).eval()
    pictures = _chosen(train, fitted), _chosen(held_out, n)
    results: dict[tuple[str, str], float] = {}
    for network, name in ((trained, BY_DSMI), (start, UNTRAINED)):
        dsmi, neighbours, probe = levels_of(network, *pictures, seed)
        results |= {(name, metric): value for metric, value in ranks(dsmi, probe).items()}
        results |= {(name, f"bits@{t:g}"): bits[MIDDLE] for t, bits in zip(TIMES, dsmi, strict=True)}
        if name == BY_DSMI:
            results |= {(BY_NEIGHBOURS, metric): value for metric, value in ranks(neighbours, probe).items()}
            results |= {(BY_NEIGHBOURS, f"bits@{t:g}"): bits[MIDDLE] for t, bits in zip(TIMES, neighbours, strict=True)}
            results |= {(ANSWER, f"accuracy@{t:g}"): share[MIDDLE] for t, share in zip(TIMES, probe, strict=True)}
            noise = [[-t] * len(row) for t, row in zip(TIMES, probe, strict=True)]
            results |= {(BY_NOISE, metric): value for metric, value in ranks(noise, probe).items()}
    return results


Table = list[list[float]]


def levels_of(
    network: Network, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], seed: int
) -> tuple[Table, Table, Table]:
    """DSMI and the information by neighbours of each block at each time, and the accuracy of a linear probe: three
    tables [times][blocks]. train, test : images with labels."""
    dsmi: Table = []
    neighbours: Table = []
    probe: Table = []
    labels = test[1]
    for t in TIMES:
        fitted = states(network, train[0], t, seed, "fitted")
        measured = states(network, test[0], t, seed, "measured")
        rng = Rng(seed, 1, "draws")
        dsmi.append([spectral_information(h, labels, relative_width(h, FACTOR), rng) for h in measured])
        neighbours.append([neighbour_information(h, labels) for h in measured])
        pairs = zip(fitted, measured, strict=True)
        probe.append([linear_probe((h, train[1]), (other, labels)) for h, other in pairs])
    return dsmi, neighbours, probe


def ranks(measure: Table, probe: Table) -> dict[str, float]:
    """Rank correlations of two tables [times][blocks]: over all cells, over the times of a block (the mean over
    blocks), and over the blocks at a time (the mean over times)."""
    columns = zip(zip(*measure, strict=True), zip(*probe, strict=True), strict=True)
    times = [rank_correlation(one, other) for one, other in columns]
    blocks = [rank_correlation(one, other) for one, other in zip(measure, probe, strict=True)]
    return {
        "rank over all": rank_correlation([*chain(*measure)], [*chain(*probe)]),
        "rank over noise": mean(times),
        "rank over blocks": mean(blocks),
    }
