"""Federated fairness: which disparity is whose, the best accuracy under bounds on it, and models trained by clients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..data import Data, Report
from ..data.store import make
from ..denoiser import Network
from ..info import GaussianReference, Levels, decompose, density, disparities, fair_accuracy
from ..rng import Rng, permutation
from ..train import Run, facts_of, preset
from ..train import build as build_modules
from .frame import Arms, Numbers, Results, Study, arm
from .in_memory import finished
from .paper import Paper, Role

PAPER = Paper.of(
    "fairness",
    "The unfairness of a federated model parts into unique, redundant and masked disparity, which decide whether "
    "fairness over all clients and within each imply each other; a convex program gives the best accuracy under both.",
)
RESULT = ""

F64 = torch.float64
EXACT, GRADES = "three laws with known surfaces", "groups and classes in the plane"
# how a client is made of the group z and the class y, with probability 0.92
SPLITS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "iid": lambda z, y, coin: coin,
    "heterogeneous": lambda z, y, coin: z,
    "synergy": lambda z, y, coin: z ^ y,
}
SURE = 0.92
FEDERATED, POOLED, LOCAL, DENOISER = "FedAvg", "one training on all", "each client alone", "FedAvg, a denoiser"
PARTS = ("unique", "redundant", "masked")
KINDS = ("global", "local")


def _law(kind: str) -> Tensor:
    """p(z, s, y) of two fair coins z and s, or of one."""
    p = torch.zeros(2, 2, 2, dtype=F64)
    for z, s in product(range(2), range(2)):
        if kind == "Y = Z":
            p[z, s, z] = 0.25
        elif kind == "Y = Z xor S":
            p[z, s, z ^ s] = 0.25
        elif z == s:
            p[z, s, z] = 0.5
    return p


def _entropy(a: float) -> float:
    """Of a coin, in bits."""
    return 0.0 if a in (0.0, 1.0) else -(a * math.log2(a) + (1 - a) * math.log2(1 - a))


def _accuracy_of(bits: float) -> float:
    """The accuracy a above 1/2 with 1 - H(a) = bits."""
    low, high = 0.5, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - _entropy(middle) < bits else (low, middle)
    return low


def surfaces(seed: int) -> Mapping[str, float]:
    """The program at laws with known answers: the largest error, and the answers themselves."""
    wide = 1.0
    cases = [("Y = Z", bits, wide, _accuracy_of(min(bits, 1.0))) for bits in (0.0, 0.05, 0.2, 0.7)]
    cases += [("Y = Z", wide, bits, _accuracy_of(bits)) for bits in (0.05, 0.5)]
    cases += [
        ("Y = Z xor S", 0.0, wide, 1.0),
        ("Y = Z xor S", wide, 0.0, 0.5),
        ("Y = Z xor S", 0.0, 0.3, _accuracy_of(0.3)),
    ]
    cases += [("Y = Z = S", wide, 0.0, 1.0), ("Y = Z = S", 0.0, wide, 0.5), ("Y = Z = S", 0.3, 0.0, _accuracy_of(0.3))]
    off = [abs(fair_accuracy(_law(kind), far, near).accuracy - right) for kind, far, near, right in cases]
    return {
        "error": max(off),
        "accuracy@0.05 bits": fair_accuracy(_law("Y = Z"), 0.05, wide).accuracy,
        "masked: local bits at 0 global": disparities(fair_accuracy(_law("Y = Z xor S"), 0.0, wide).joint)[1],
        "redundant: global bits at 0 local": disparities(fair_accuracy(_law("Y = Z = S"), wide, 0.0).joint)[0],
    }


class People:
    """Items x in the plane with a class y, a group z and a client s.

    z is a fair coin, y = z with probability 0.7, and x ~ N((2 y - 1, 1.5 (2 z - 1)), I): the second coordinate tells of
    the class by the group alone. s follows a rule of `SPLITS` with probability 0.92, and is a coin otherwise.
    """

    def __init__(self, split: str, n: int, seed: int):
        u = Rng(seed, n, f"people {split}").uniform((n, 4), F64)
        z = (u[:, 0] < 0.5).long()
        y = torch.where(u[:, 1] < 0.7, z, 1 - z)
        coin = (u[:, 2] < 0.5).long()
        s = torch.where(u[:, 3] < SURE, SPLITS[split](z, y, coin), coin)
        noise = Rng(seed, n, f"noise {split}").normal((n, 2), F64)
        self.x = torch.stack([2.0 * y - 1, 1.5 * (2.0 * z - 1)], 1) + noise
        self.y, self.z, self.s = y, z, s

    def of(self, client: int) -> tuple[Tensor, Tensor]:
        """The items and classes of a client."""
        return self.x[self.s == client], self.y[self.s == client]

    def joint(self, guess: Tensor) -> Tensor:
        """The shares of (z, s, y, guess), [2, 2, 2, 2]."""
        cell = ((self.z * 2 + self.s) * 2 + self.y) * 2 + guess
        return (torch.bincount(cell, minlength=16).double() / len(cell)).reshape(2, 2, 2, 2)


def averaged_weights(parts: Sequence[Mapping[str, Tensor]], sizes: Sequence[int]) -> dict[str, Tensor]:
    """FedAvg: the mean of weights, each with the share of its items."""
    total = sum(sizes)
    return {
        name: cast(Tensor, sum(size / total * part[name] for size, part in zip(sizes, parts, strict=True)))
        for name in parts[0]
    }


def federated(
    shards: Sequence[Any],
    sizes: Sequence[int],
    start: Mapping[str, Tensor],
    rounds: int,
    train: Callable[[Any, Mapping[str, Tensor], int], Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """FedAvg: in each round every client trains from the common weights, and these become the mean.

    train : (items of a client, weights, round) -> weights.
    Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017.
    """
    weights = dict(start)
    for number in range(rounds):
        weights = averaged_weights([train(shard, weights, number) for shard in shards], sizes)
    return weights


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))


def _start(seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _net().state_dict()


def _trained(
    shard: tuple[Tensor, Tensor], weights: Mapping[str, Tensor], number: int, seed: int, epochs: int, batch: int = 256
) -> Mapping[str, Tensor]:
    """A classifier after some epochs on the items of a client."""
    net = _net()
    net.load_state_dict(dict(weights))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    x, y = shard[0].float(), shard[1]
    for epoch in range(epochs):
        for chosen in permutation(seed, len(x), f"round {number}, epoch {epoch}").split(batch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[chosen]), y[chosen]).backward()
            optimiser.step()
    return {name: weight.detach().clone() for name, weight in net.state_dict().items()}


def _guesses(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    net = _net()
    net.load_state_dict(dict(weights))
    with torch.no_grad():
        return net(x.float()).argmax(1)


def classifiers(train: People, test: People, seed: int, rounds: int, epochs: int) -> dict[str, Tensor]:
    """The classes that each classifier gives to new items."""
    shards = [train.of(client) for client in range(2)]
    sizes = [len(y) for _, y in shards]
    start = _start(seed)
    local_steps = partial(_trained, seed=seed, epochs=epochs)
    alone = [_guesses(_trained(shard, start, 0, seed, rounds * epochs), test.x) for shard in shards]
    return {
        FEDERATED: _guesses(federated(shards, sizes, start, rounds, local_steps), test.x),
        POOLED: _guesses(_trained((train.x, train.y), start, 0, seed, rounds * epochs), test.x),
        LOCAL: torch.where(test.s == 0, alone[0], alone[1]),
    }


def by_denoiser(train: People, test: People, seed: int, rounds: int, steps: int, levels: int) -> Tensor:
    """The classes with the higher likelihood by a class-conditional denoiser that was trained federatedly, times the
    share of the class: Bayes' classifier of the model."""
    config = preset("plain", (2,)).but(steps=steps, batch=256, seed=seed, precision="fp32", classes=True)
    shards = [_data(*train.of(client)) for client in range(2)]
    sizes = [len(shard) for shard in shards]

    def local(shard: Data, weights: Mapping[str, Tensor], number: int) -> Mapping[str, Tensor]:
        trainer = finished(shard, config.but(seed=1000 * seed + number), weights or None)
        return {name: weight.detach().cpu().clone() for name, weight in trainer.model.state_dict().items()}

    weights = federated(shards, sizes, {}, rounds, local)
    network = cast(Network, build_modules(Run(config, facts_of(shards[0], config)))["model"]).eval()
    network.load_state_dict(weights)
    reference = GaussianReference.fit(train.x)
    wide = Levels.of(reference.variances, clip=7)
    rng = Rng(seed, len(test.x), "levels")
    scores = []
    for label in range(2):
        cond = torch.full((len(test.x),), label)
        nats = density(network, test.x.float(), rng, reference, wide, n=levels, cond=cond, batch=2000).each
        scores.append(nats - math.log(float((train.y == label).double().mean())))
    return torch.stack(scores, 1).argmin(1)


def _data(x: Tensor, y: Tensor) -> Data:
    return make("people of a client", x.float(), y, ("0", "1"), Report(read=len(x)))


def judged_fairness(joint: Tensor) -> dict[str, float]:
    """Accuracy, disparities, their parts, and the accuracies that the program allows at the same disparities: to any
    strategy, and to changes of these outputs in each group."""
    far, near = disparities(joint)
    # the information of the guess and the client on the group
    parts = decompose(joint.sum(2).permute(2, 1, 0), "broja")
    accuracy = float(joint.diagonal(dim1=2, dim2=3).sum())
    p = joint.sum(3)
    return {
        "accuracy": accuracy,
        "global": far,
        "local": near,
        "unique": float(parts.first),
        "redundant": float(parts.redundant),
        "masked": float(parts.synergy),
        "identities": max(
            abs(far - float(parts.first + parts.redundant)), abs(near - float(parts.first + parts.synergy))
        ),
        "bound": fair_accuracy(p, far, near).accuracy,
        "bound of its outputs": fair_accuracy(p, far, near, joint).accuracy,
        "bound of its outputs, half": fair_accuracy(p, far / 2, near / 2, joint).accuracy,
    }


def models(seed: int, n: int, rounds: int, epochs: int, tested: int, steps: int, levels: int, scored: int) -> Results:
    """All models on all splits. n, tested : items of the training, and new ones. scored : new items for the denoiser,
    which is trained for `steps` in each of a tenth of the rounds."""
    results: dict[tuple[str, str], float] = {}
    for split in SPLITS:
        train, test = People(split, n, seed), People(split, tested, 1000 + seed)
        few = People(split, scored, 1000 + seed)
        found = {name: test.joint(guess) for name, guess in classifiers(train, test, seed, rounds, epochs).items()}
        found[DENOISER] = few.joint(by_denoiser(train, few, seed, max(rounds // 10, 1), steps, levels))
        for name, joint in found.items():
            results |= {(name, f"{split}: {metric}"): value for metric, value in judged_fairness(joint).items()}
        order = permutation(seed, tested, "shuffled")
        shuffled = test.joint(_guesses(_start(seed), test.x)[order])
        results |= {
            ("shuffled guesses", f"{split}: {kind}"): value
            for kind, value in zip(KINDS, disparities(shuffled), strict=True)
        }
    return results


def checks(value: Numbers) -> Mapping[str, bool]:
    """Known surfaces; the parts of each split; soundness of the bounds; the denoiser beside the classifier."""
    off, at = value[EXACT, "error"], value[EXACT, "accuracy@0.05 bits"]
    masked, redundant = (
        value[EXACT, "masked: local bits at 0 global"],
        value[EXACT, "redundant: global bits at 0 local"],
    )
    names = (FEDERATED, POOLED, LOCAL, DENOISER)

    def of(name: str, split: str, metric: str) -> float:
        return value[name, f"{split}: {metric}"]

    def largest(split: str) -> str:
        return max(PARTS, key=lambda part: of(FEDERATED, split, part))

    def shown(split: str) -> str:
        return ", ".join(f"{part} {of(FEDERATED, split, part):.3f}" for part in PARTS)

    identities = max(of(name, split, "identities") for name in names for split in SPLITS)
    above = max(
        of(name, split, "accuracy") - of(name, split, bound)
        for name in names
        for split in SPLITS
        for bound in ("bound", "bound of its outputs")
    )
    price = max(
        of(FEDERATED, split, "accuracy") - of(FEDERATED, split, "bound of its outputs, half") for split in SPLITS
    )
    room = min(of(FEDERATED, split, "bound") - of(FEDERATED, split, "accuracy") for split in SPLITS)
    gap = max(abs(of(DENOISER, split, "accuracy") - of(FEDERATED, split, "accuracy")) for split in SPLITS)
    same = all(max(PARTS, key=lambda part: of(DENOISER, split, part)) == largest(split) for split in SPLITS)
    pooled = max(abs(of(POOLED, split, "accuracy") - of(FEDERATED, split, "accuracy")) for split in SPLITS)
    return {
        f"the program has the known answers of three laws (to {off:.1g}; 0.6309 at 0.05 bits: {at:.4f})": off < 1e-3
        and abs(at - 0.6309) < 1e-3,
        f"no disparity over all clients leaves a masked one within each ({masked:.2f} bits), and none within each a "
        f"redundant one over all ({redundant:.2f} bits)": masked > 0.9 and redundant > 0.9,
        f"FedAvg on clients of one law has a unique disparity ({shown('iid')} bits)": largest("iid") == "unique",
        f"on clients of mostly one group it is redundant ({shown('heterogeneous')} bits)": largest("heterogeneous")
        == "redundant",
        f"on clients by group xor class it is masked ({shown('synergy')} bits)": largest("synergy") == "masked",
        f"its parts add up to the disparities (to {identities:.1g} bits)": identities < 1e-5,
        f"no model is above the program at its own disparities (at most by {above:.1g})": above < 1e-5,
        f"half of the disparities cost FedAvg accuracy, by changes of its outputs (up to {price:.3f})": price > 0.005,
        f"the bound on all strategies binds: it is within 0.1 of FedAvg ({room:.3f} above it at least)": room < 0.1,
        f"one training on all items differs from FedAvg by less than 0.02 in accuracy ({pooled:.3f})": pooled < 0.02,
        f"a class-conditional denoiser that was trained federatedly is as good a classifier, to 0.02 ({gap:.3f}), with "
        "the same kinds of disparity": gap < 0.02 and same,
    }


_ROLES: dict[str, Role] = {
    FEDERATED: "ours",
    DENOISER: "ours",
    POOLED: "baseline",
    LOCAL: "baseline",
    "shuffled guesses": "control",
}
run = Study(
    PAPER,
    checks,
    [
        arm(EXACT, "oracle", surfaces, "laws of three bits", {}, {}, 1),
        Arms(
            _ROLES,
            models,
            GRADES,
            {"n": 2000, "rounds": 10, "epochs": 2, "tested": 20_000, "steps": 150, "levels": 12, "scored": 2000},
            {"n": 4000, "rounds": 50, "epochs": 10, "tested": 100_000, "steps": 400, "levels": 24, "scored": 10_000},
        ),
    ],
)
