"""Translation of images without pairs: shirts become coats, by interpolants and by diffusion from noise.

All trainings have one network, one number of training images and the same items. The shirts of the interpolants are
drawn at random for each coat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from .. import training
from ..cond import Cond
from ..data import Data, Source, Unpaired, load
from ..denoiser import NoiseHead, SoftHead
from ..evaluate.reference import ReferenceSet, features_for
from ..loss import Energy, MeanAndNoise
from ..net import NetSpec
from ..process import Flow, Interpolant
from ..rng import Rng
from ..sampler import Sampler, adams, ancestral, epsilon, interpolant_heun, sample
from ..train import Config, find_device
from ..train import load as load_run
from .contest import steps_for
from .frame import Arms, Results
from .images import DATA_SETS, base, by, logged
from .paper import Role

COUNTS = (1, 2, 4, 8)
CLASSES = ("Shirt", "Coat")
SOFT: dict[str, object] = {"head": SoftHead(mean="none"), "loss": Energy(m=2, weight="v")}
BOTH: dict[str, object] = {"head": NoiseHead(), "loss": MeanAndNoise()}

BETWEEN: dict[str, object] = {"process": Interpolant(), "drop": 0.0}
NOISE: dict[str, object] = {"process": Flow()}


@dataclass(frozen=True)
class Translation:
    """A training and its ways to sample.

    change : of the plain configuration.
    """

    role: Role
    change: Mapping[str, object]
    ways: Mapping[str, Sampler]


TRANSLATIONS: dict[str, Translation] = {
    "interpolant, soft mixture": Translation("ours", BETWEEN | SOFT, {"draws": ancestral}),
    "interpolant": Translation(
        "rival",
        BETWEEN | BOTH,
        {
            "ODE": epsilon,
            "ODE, Heun": interpolant_heun,
            "SDE, eps 0.1": partial(epsilon, eps=0.1),
            "SDE, eps 0.5": partial(epsilon, eps=0.5),
        },
    ),
    "interpolant without latent noise": Translation(
        "control", {"process": Interpolant(c=0.0), "drop": 0.0}, {"ODE": epsilon, "ODE, Heun": interpolant_heun}
    ),
    "noise": Translation("baseline", NOISE, {"adams": adams}),
    "noise, soft mixture": Translation("baseline", NOISE | SOFT, {"draws": partial(ancestral, eta=0.0)}),
}


def of_class(data: Data, name: str) -> Data:
    """The items of one class."""
    assert data.labels is not None
    return data.take((data.labels == data.classes.index(name)).nonzero()[:, 0], f"{name} alone")


def configured(
    trained: Translation, shape: tuple[int, ...], net: NetSpec, images: int, seed: int, batch: int
) -> Config:
    """The configuration of a training."""
    return base(shape, net, images, seed, batch).but(**trained.change)  # type: ignore[arg-type]


def source_of(trained: Translation, coats: Data, shirts: Data) -> Source:
    """The coats, for an interpolant each with a random shirt."""
    return Unpaired(coats, shirts) if isinstance(trained.change["process"], Interpolant) else coats


def train_and_measure(
    name: str,
    out: Path,
    seed: int,
    images: int,
    n: int,
    batch: int = 64,
    counts: Sequence[int] = COUNTS,
    data: str = "fashion14",
    classes: tuple[str, str] = CLASSES,
) -> Results:
    """Train one configuration, or continue its training, and measure n samples for each way: from held-out shirts, or
    from noise, against held-out coats."""
    trained = TRANSLATIONS[name]
    loaded, size, net = DATA_SETS[data]
    train, test = load(loaded, size=size), load(loaded, size=size, split="test")
    coats, shirts = of_class(train, classes[1]), of_class(train, classes[0])
    known = ReferenceSet(coats, of_class(test, classes[1]), features_for(train, out / "cache"))
    readable = "".join(c if c.isalnum() else "-" for c in name)
    at = out / f"{data}-{images}-batch{batch}" / f"{readable}-{seed}"
    with logged(at):
        config = configured(trained, coats.shape, net, images, seed, batch)
        for step in training(source_of(trained, coats, shirts), config, at / "run"):
            if step.step % 250 == 0:
                print(f"{name}: step {step.step} of {step.total}, loss {step.loss:.4f}", flush=True)
    device = find_device()
    denoiser = load_run(at / "run").denoiser.to(device)  # type: ignore[attr-defined]
    start = of_class(test, classes[0]).x0()
    chosen = Rng(seed, n, "start").integers(len(start), (n,)).to(start.device)
    cond = Cond(image=start[chosen]) if isinstance(trained.change["process"], Interpolant) else None
    results = {}
    for way, sampler in trained.ways.items():
        for count in counts:
            x = sample(denoiser, n, steps_for(sampler, count), sampler=sampler, seed=seed, cond=cond, device=device)
            results[by(name, way), f"frechet@{count}"] = known.compare(x.clamp(-1, 1).cpu())["frechet"]
    return results


def untouched(out: Path, seed: int, n: int, data: str = "fashion14", classes: tuple[str, str] = CLASSES) -> Results:
    """The floor, n training coats, and the control, n held-out shirts as they are."""
    loaded, size, _ = DATA_SETS[data]
    train, test = load(loaded, size=size), load(loaded, size=size, split="test")
    coats, shirts = of_class(train, classes[1]), of_class(test, classes[0])
    known = ReferenceSet(coats, of_class(test, classes[1]), features_for(train, out / "cache"))
    results = {}
    for name, items in (
        ("real coats", coats.x0()),
        ("the shirts as they are", shirts.x0()),
    ):
        chosen = torch.randperm(len(items), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")[:n]
        results[name, f"frechet@{COUNTS[0]}"] = known.compare(items[chosen])["frechet"]
    return results


WHERE = f"Fashion-MNIST, {CLASSES[0]} to {CLASSES[1]}, 14 x 14"


def arms(out: Path, images: int = 60_000, n: int = 1000) -> list[Arms]:
    """The trainings with three seeds, and the untouched images. out : the folder in which trainings stay."""
    needs = partial(load, "fashion-mnist")
    rows = [
        Arms(
            {by(name, way): each.role for way in each.ways},
            partial(train_and_measure, name, out),
            f"{WHERE}, {name}",
            full={"images": images, "n": n},
            seeds=3,
            needs=needs,
        )
        for name, each in TRANSLATIONS.items()
    ]
    bounds: dict[str, Role] = {"real coats": "floor", "the shirts as they are": "control"}
    return [*rows, Arms(bounds, partial(untouched, out), f"{WHERE}, untouched", full={"n": n}, seeds=3, needs=needs)]
