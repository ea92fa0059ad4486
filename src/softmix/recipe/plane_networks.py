"""Networks of the information plane: small networks on all patterns of bits, with their layers during the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from ..oracle import SpherePatterns
from ..rng import Rng, permutation

SIZES = (12, 10, 7, 5, 4, 3, 2)
HIDDEN = len(SIZES) - 2
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "ReLU": torch.relu}
# a weight and a bias for each layer
Weights = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class TrainedLayers:
    """A training of one network.

    layers : for each measured epoch, the output of each layer at all patterns; the last are the probabilities.
    weights : at the end.
    accuracy : on the held-out patterns, at the end.
    """

    layers: Mapping[int, Sequence[Tensor]]
    weights: Weights
    accuracy: float


def drawn_weights(seed: int, role: str = "weights") -> Weights:
    """Normal weights of the variance 1 / inputs, cut at two standard deviations, and biases of 0."""
    ends = torch.special.ndtr(torch.tensor([-2.0, 2.0], dtype=torch.float64))
    found = []
    for k, (before, after) in enumerate(pairwise(SIZES)):
        u = Rng(seed, 1, f"{role} {k}").uniform((1, after, before), torch.float64)[0]
        weight = torch.special.ndtri(ends[0] + u * (ends[1] - ends[0])) / math.sqrt(before)
        found.append((weight.float(), torch.zeros(after)))
    return found


def first_weights(x: Tensor, activation: str, seed: int) -> Weights:
    """The weights at the start. For ReLU these are the first, of twice the variance, at which each hidden layer has two
    neurons that are on for some patterns: a layer of three neurons that are all off learns nothing."""
    if activation != "ReLU":
        return drawn_weights(seed)
    for attempt in range(1000):
        weights = [(weight * math.sqrt(2), bias) for weight, bias in drawn_weights(seed, f"weights, attempt {attempt}")]
        shares = [(layer > 0).double().mean(0) for layer in _forward(weights, x, activation)[:HIDDEN]]
        if all(int(((share > 0.1) & (share < 0.9)).sum()) >= 2 for share in shares):
            return weights
    raise RuntimeError("no weights were found at which two neurons of each layer are on for some patterns")


def with_norms(weights: Weights, like: Weights, seed: int) -> Weights:
    """Random weights and biases that have the norms of others, layer by layer."""
    found = []
    for k, ((weight, bias), (its, other)) in enumerate(zip(weights, like, strict=True)):
        direction = Rng(seed, 1, f"bias {k}").normal((1, len(bias)))[0]
        found.append((weight * (its.norm() / weight.norm()), direction * (other.norm() / direction.norm())))
    return found


def layers_of(weights: Weights, x: Tensor, activation: str) -> list[Tensor]:
    """The hidden layers and the probabilities of the two labels."""
    *hidden, logits = _forward(weights, x, activation)
    return [*hidden, logits.softmax(1)]


def _forward(weights: Weights, x: Tensor, activation: str) -> list[Tensor]:
    found = []
    for k, (weight, bias) in enumerate(weights):
        x = functional.linear(x, weight, bias)
        if k < HIDDEN:
            x = ACTIVATIONS[activation](x)
        found.append(x)
    return found


def epochs_to_measure(epochs: int, count: int) -> list[int]:
    """0, and about `count` epochs up to the last, even in their logarithm."""
    return sorted({0, *(round(epochs ** (k / (count - 1))) for k in range(count))})


def trained_layers(
    task: SpherePatterns, activation: str, seed: int, epochs: int, rate: float, measured: int, batch: int = 512
) -> TrainedLayers:
    """Train on 80 % of the patterns by Adam, as the released code does, on labels that are drawn once.

    A loop of its own: the trainer of softmix is for denoisers, and this one keeps every layer.
    """
    x, n = task.bits.float(), len(task.bits)
    label = (Rng(seed, n, "labels").uniform((n, 1), torch.float64)[:, 0] < task.given[:, 1]).long()
    order = permutation(seed, n, "split")
    train, held_out = order[: round(0.8 * n)], order[round(0.8 * n) :]
    weights = [(w.requires_grad_(), b.requires_grad_()) for w, b in first_weights(x, activation, seed)]
    optimiser = torch.optim.Adam([part for both in weights for part in both], lr=rate, fused=True)
    keep, found = set(epochs_to_measure(epochs, measured)), {}
    for epoch in range(epochs + 1):
        if epoch in keep:
            with torch.no_grad():
                found[epoch] = layers_of(weights, x, activation)
        if epoch == epochs:
            break
        for rows in train[permutation(seed, len(train), f"epoch {epoch}")].split(batch):
            loss = functional.cross_entropy(_forward(weights, x[rows], activation)[-1], label[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    right = found[epochs][-1][held_out].argmax(1) == label[held_out]
    return TrainedLayers(found, [(w.detach(), b.detach()) for w, b in weights], float(right.float().mean()))
