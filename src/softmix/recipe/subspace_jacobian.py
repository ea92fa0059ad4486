"""The Jacobian of a denoiser: how many directions it knows, and whether the first of them are good edits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import cast

import torch
from torch import Tensor

from ..data import Data, load
from ..denoiser import Denoiser, Network, jacobian, wiener
from ..evaluate.extractor import Features
from ..evaluate.reference import features_for
from ..oracle import digits
from ..process import VP
from ..rng import Rng
from .frame import Arms, Numbers, Results
from .images import DATA_SETS, base
from .in_memory import averaged_on_cpu
from .paper import Role

F64 = torch.float64
LEVELS = (-4.0, -2.0, 0.0, 2.0)
EXACT, LINEAR = "exact posterior", "linear denoiser"

# edits: from the paper's time, 0.7, to less noise; LENGTH is the norm of an edit, for digits and for Fashion-MNIST
EDITED = (round(float(VP().logsnr(0.7)), 2), 0.0, 2.0)
LENGTH, LONGER = 1.5, 4.0
FIRST, PRINCIPAL = "edits by the Jacobian", "edits by the first principal component"
OWN, ANY = "edits by that of the own class", "edits in a random direction"
NETWORK, FLAT = "network", "linear denoiser of these data"


def _directions_known(values: Tensor) -> float:
    """The number of directions that hold 99 % of the energy, from singular values [N, D]: the mean over items."""
    energy = values.square()
    share = energy.cumsum(1) / energy.sum(1, keepdim=True)
    return float((share < 0.99).sum(1).add(1).double().mean())


def ranks(seed: int, n: int) -> Results:
    """The number of directions that hold 99 % of the Jacobian's energy, the mean over items, for ten Gaussians fitted
    to digits and for one Gaussian of the same moments."""
    problem = digits()
    models = {EXACT: problem.denoiser(), LINEAR: wiener(VP(), problem.law.mean, problem.law.covariance)}
    x0 = problem.sample(n, Rng(seed, n, "items"))
    results: dict[tuple[str, str], float] = {}
    for level in LEVELS:
        xt, t = _noisy(x0, level, seed)
        for name, model in models.items():
            values = torch.linalg.svdvals(jacobian(model, xt, t).flatten(2))
            results[name, f"rank@{level:g}"] = _directions_known(values)
    return results


def _noisy(x0: Tensor, level: float, seed: int) -> tuple[Tensor, float]:
    t = float(VP().time(level))
    return VP().noise(x0, t, Rng(seed, len(x0), f"state {level}")).xt, t


def _answered(model: Denoiser, x0: Tensor, level: float, seed: int) -> Tensor:
    """The change of the mean by a small step along the first right singular vector of the Jacobian: the first left one,
    [N, D]."""
    xt, t = _noisy(x0, level, seed)
    return torch.linalg.svd(jacobian(model, xt, t).flatten(2).double())[0][:, :, 0]


def edits(seed: int, n: int) -> Results:
    """The log density that an edit costs, in nats: the mean over items and both signs, for edits of equal norm."""
    problem, law = digits(), digits().law
    x0 = problem.sample(n, Rng(seed, n, "items"))
    clean = x0.flatten(1)
    own = law.nearest(clean)[0]
    classes = torch.stack([_principal(each) for each in law.covariances])
    fixed = {
        PRINCIPAL: _principal(law.covariance).expand(n, -1),
        OWN: classes[own],
        ANY: Rng(seed, n, "direction").normal(clean.shape, F64),
    }

    def lost(direction: Tensor) -> float:
        step = LENGTH * direction / direction.norm(dim=1, keepdim=True)
        after = (law.log_prob(clean + step) + law.log_prob(clean - step)) / 2
        return float((law.log_prob(clean) - after).mean())

    results = {(name, f"nats@{EDITED[0]:g}"): lost(direction) for name, direction in fixed.items()}
    for level in EDITED:
        results[FIRST, f"nats@{level:g}"] = lost(_answered(problem.denoiser(), x0, level, seed))
    return results


def _principal(covariance: Tensor) -> Tensor:
    """The first principal component, [D]."""
    return torch.linalg.eigh(covariance).eigenvectors[:, -1]


# a network trained on Fashion-MNIST

DATA = "fashion14"
PICTURES = "Fashion-MNIST, 14 x 14, trained"


@lru_cache(maxsize=1)
def _images() -> tuple[Data, Data, Features]:
    source, size, _ = DATA_SETS[DATA]
    train = load(source, size=size)
    return train, load(source, size=size, split="test"), features_for(train, None, "classifier")


def on_network(seed: int, images: int, n: int) -> Results:
    """The directions of a trained network and of the linear denoiser of its data; and the change of the class
    probabilities of a classifier by edits of equal norm: half the sum of the absolute differences."""
    train, held_out, features = _images()
    network = cast(Network, averaged_on_cpu(train, base(train.shape, DATA_SETS[DATA][2], images, seed))).eval()
    flat = train.x0().flatten(1).double()
    mean, covariance = flat.mean(0), torch.cov(flat.T)
    chosen = torch.arange(n) * (len(held_out) // n)
    x0, linear = held_out.x0(chosen), wiener(VP(), mean, covariance)
    results: dict[tuple[str, str], float] = {}
    for level in LEVELS:
        xt, t = _noisy(x0, level, seed)
        for name, model, state in ((NETWORK, network, xt), (FLAT, linear, xt.double().flatten(1))):
            values = torch.linalg.svdvals(jacobian(model, state, t).reshape(n, flat.shape[1], -1).double())
            results[name, f"rank@{level:g}"] = _directions_known(values)
    before = _probabilities(features, x0)

    def changed(direction: Tensor) -> float:
        step = (LONGER * direction / direction.norm(dim=1, keepdim=True)).reshape(x0.shape).float()
        each = [(_probabilities(features, (x0 + s * step).clamp(-1, 1)) - before).abs().sum(1) / 2 for s in (1, -1)]
        return float(torch.stack(each).mean())

    noise = Rng(seed, n, "direction").normal(x0.flatten(1).shape, F64)
    first = _principal(covariance).expand(n, -1)
    for name, direction in ((PRINCIPAL, first), (ANY, noise)):
        results[_on_pictures(name), f"change@{EDITED[0]:g}"] = changed(direction)
    for level in EDITED:
        results[_on_pictures(FIRST), f"change@{level:g}"] = changed(_answered(network, x0, level, seed))
    return results


def _probabilities(features: Features, x: Tensor) -> Tensor:
    logits = features.classify(x)
    assert logits is not None
    return logits.softmax(1)


def _on_pictures(name: str) -> str:
    return f"{name}, images"


def jacobian_checks(value: Numbers) -> Mapping[str, bool]:
    """Ranks and edits with exact laws, and of a trained network where it ran."""

    def text(found: list[float]) -> str:
        return ", ".join(f"{each:.3g}" for each in found)

    exact, linear = (value.line(name, "rank", LEVELS) for name in (EXACT, LINEAR))
    cost = value.line(FIRST, "nats", EDITED)
    other, own, chance = (value[name, f"nats@{EDITED[0]:g}"] for name in (PRINCIPAL, OWN, ANY))
    found = {
        f"on digits the rank of the Jacobian is far below 64 ({text(exact)}), and that of a linear denoiser is not "
        f"({text(linear)})": max(exact[1:]) < 32 and min(b / a for a, b in zip(exact, linear, strict=True)) > 1.5,
        f"at the paper's time an edit by its first direction costs less than half the log density of one by the first "
        f"principal component ({cost[0]:.3g} nats; {other:.3g}; random {chance:.3g})": cost[0] < other / 2,
        f"at less noise it does ({cost[-1]:.3g} at logsnr {EDITED[-1]:g}; by the component of the own class "
        f"{own:.3g})": cost[-1] < other / 2,
    }
    if (NETWORK, f"rank@{LEVELS[0]:g}") in value:
        network, flat = (value.line(name, "rank", LEVELS) for name in (NETWORK, FLAT))
        change = value.line(_on_pictures(FIRST), "change", EDITED)
        first, noise = (value[_on_pictures(name), f"change@{EDITED[0]:g}"] for name in (PRINCIPAL, ANY))
        found |= {
            f"a trained network knows far fewer directions than pixels ({text(network)} of 196) and than the linear "
            f"denoiser ({text(flat)})": max(network) < 98
            and all(1.5 * a < b for a, b in zip(network, flat, strict=True)),
            f"its edits change the class more than those by the first principal component and random ones of equal "
            f"norm ({text(change)}; {first:.3g}; {noise:.3g})": change[0] > 1.1 * max(first, noise),
        }
    return found


_EDITS: dict[str, Role] = {FIRST: "ours", PRINCIPAL: "baseline", OWN: "oracle", ANY: "control"}
_TRAINED: dict[str, Role] = {_on_pictures(name): role for name, role in _EDITS.items() if name != OWN}
_TRAINED |= {NETWORK: "ours", FLAT: "baseline"}
LAW = "ten Gaussians fitted to digits"
JACOBIAN_ARMS = [
    Arms({EXACT: "oracle", LINEAR: "baseline"}, ranks, LAW, {"n": 50}, {"n": 200}),
    Arms(_EDITS, edits, LAW, {"n": 50}, {"n": 200}),
    Arms(
        _TRAINED,
        on_network,
        PICTURES,
        None,
        {"images": 60_000, "n": 40},
        seeds=3,
        needs=partial(load, DATA_SETS[DATA][0]),
    ),
]
