"""REPA: whether features of an encoder that learned from the same images make a small transformer learn faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..data import Data, load
from ..denoiser import Network, PointHead
from ..evaluate import energy_distance
from ..evaluate.features import pixel_features
from ..evaluate.frechet import frechet
from ..evaluate.reference import FeatureKind, features_for
from ..loss import Align, RandomEncoder, SavedEncoder, Square
from ..loss.encoder import file_fingerprint
from ..net import DiTSpec
from ..process import Flow
from ..rng import Rng
from ..sampler import adams, sample
from ..train import Config, Denoise, LearnClasses, LearnEncoder, Optimiser, Run, Trainer, facts_of
from .frame import Arms, Numbers, Study, arm
from .paper import Paper, Role

PAPER = Paper.of(
    "repa",
    "A diffusion transformer learns faster if a hidden state of the noisy image is aligned with features of the clean "
    "image from a self-supervised encoder.",
)
RESULT = ""

# the source, the side of an image if it is not its own, and the network of each data set; tokens of 2 x 2 pixels
DATA_SETS: dict[str, tuple[str, int | None, DiTSpec]] = {
    "digits, 8 x 8": ("digits", None, DiTSpec(width=64, depth=4, patch=2)),
    "Fashion-MNIST, 14 x 14": ("fashion-mnist", 14, DiTSpec(width=64, depth=6, patch=2)),
}
BATCH, ENCODER_BATCH, WIDTH = 64, 128, 16
BLOCK, WEIGHT = 2, 0.5
STEPS = 16
# the noise level, the most images, and the penalty of the linear probe
PROBE_AT, PROBED, PENALTY = 0.3, 10_000, 10.0
FEWER = 0.85

PLAIN, LONGER = "no alignment", "no alignment, equal computation"
OURS, SOONER = "self-supervised features", "self-supervised features, 15 % fewer steps"
SHORTER = "no alignment, 15 % fewer steps"
RANDOM, CLASSES, IDLE = "random features", "features of a classifier", "projector of weight 0"
REAL = "training images"
Settings = Mapping[str, Any] | None


@dataclass(frozen=True)
class AlignRow:
    """A training.

    encoder  : the encoder, "views" (self-supervised), "classes" or "random"; None for no alignment.
    weight   : of the alignment.
    steps    : the factor of the steps; None for the computation of the self-supervised row.
    """

    role: Role
    encoder: str | None
    weight: float = WEIGHT
    steps: float | None = 1.0


ROWS: dict[str, AlignRow] = {
    PLAIN: AlignRow("baseline", None),
    LONGER: AlignRow("baseline", None, steps=None),
    SHORTER: AlignRow("control", None, steps=FEWER),
    OURS: AlignRow("ours", "views"),
    SOONER: AlignRow("ours", "views", steps=FEWER),
    RANDOM: AlignRow("control", "random"),
    CLASSES: AlignRow("control", "classes"),
    IDLE: AlignRow("control", "views", weight=0.0),
}


@dataclass(frozen=True)
class _Sizes:
    """The lengths of the trainings, and the number of samples.

    images, encoder_images : seen in a training of the network and of an encoder, with repetition.
    """

    images: int
    encoder_images: int
    n: int

    @property
    def steps(self) -> int:
        return self.images // BATCH

    @property
    def encoder_steps(self) -> int:
        return self.encoder_images // ENCODER_BATCH


@lru_cache(maxsize=4)
def _sets(data: str) -> tuple[Data, Data]:
    """The training images and the held-out images."""
    source, size, _ = DATA_SETS[data]
    return load(source, size=size), load(source, size=size, split="test")


def _trainer(config: Config, data: str) -> Trainer:
    train = _sets(data)[0]
    return Trainer(Run(config, facts_of(train, config)), train, Path())


def _advanced(trainer: Trainer) -> nn.Module:
    """The averaged module at the end of a training."""
    assert trainer.total is not None
    while trainer.step < trainer.total:
        trainer.advance()
    return trainer.averaged().to("cpu")


@lru_cache(maxsize=2)
def _learned(encoder: str, data: str, seed: int, steps: int) -> tuple[bytes, float]:
    """The safetensors file of an encoder that learned from the training images, and the operations of its training."""
    task = LearnEncoder(WIDTH) if encoder == "views" else LearnClasses(WIDTH)
    ease = Optimiser(rate=5e-3, warmup_share=0.1)
    settings = Config(steps=steps, batch=ENCODER_BATCH, seed=seed, precision="fp32", optimiser=ease)
    config = settings.but(task=task)
    trainer = _trainer(config, data)
    cost = operations(trainer)
    weights = {name: tensor.contiguous() for name, tensor in _advanced(trainer).state_dict().items()}
    return save(weights), steps * cost


def operations(trainer: Trainer) -> float:
    """The multiply-adds of a step: the loss of a batch and its gradient."""
    items = torch.arange(trainer.run.config.batch)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(trainer.losses(items).sum(), trainer.optimisers.parameters(), allow_unused=True)
    return counter.get_total_flops() / 2


def _config(row: AlignRow, data: str, seed: int, steps: int, place: Path, sizes: _Sizes) -> tuple[Config, float]:
    """The configuration of a training, and the operations of its encoder's training."""
    base, before = Square("flow"), 0.0
    loss: Square | Align = base
    if row.encoder is not None:
        encoder: RandomEncoder | SavedEncoder = RandomEncoder(WIDTH, seed)
        if row.encoder != "random":
            content, before = _learned(row.encoder, data, seed, sizes.encoder_steps)
            file = place / f"{row.encoder}.safetensors"
            file.write_bytes(content)
            encoder = SavedEncoder(str(file), file_fingerprint(content), WIDTH)
        loss = Align(encoder, base, BLOCK, row.weight)
    task = Denoise(process=Flow(), net=DATA_SETS[data][2], head=PointHead(), loss=loss, output="flow")
    ease = Optimiser(warmup_share=0.1)
    return Config(task, steps=steps, batch=BATCH, seed=seed, precision="fp32", optimiser=ease), before


def _work(row: AlignRow, data: str, seed: int, sizes: _Sizes, place: Path) -> float:
    """The operations of a training of `sizes.steps` steps, with that of its encoder."""
    config, before = _config(row, data, seed, sizes.steps, place, sizes)
    return before + sizes.steps * operations(_trainer(config, data))


def measure(
    name: str, data: str, seed: int, images: int, encoder_images: int, n: int, features: FeatureKind
) -> Mapping[str, float]:
    """Distances of samples from held-out images, the accuracy of the probe, and the work beside plain training."""
    row, sizes = ROWS[name], _Sizes(images, encoder_images, n)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        plain = _work(ROWS[PLAIN], data, seed, sizes, place)
        share = row.steps if row.steps is not None else _work(ROWS[OURS], data, seed, sizes, place) / plain
        steps = round(share * sizes.steps)
        config, before = _config(row, data, seed, steps, place, sizes)
        trainer = _trainer(config, data)
        work = before + steps * operations(trainer)
        network = _advanced(trainer)
    assert isinstance(network, Network)
    x = sample(network, n, STEPS, sampler=adams, seed=seed, batch=256).clamp(-1, 1)
    return _distances(x, data, features) | {"probe %": 100 * probe(network, data, seed), "work": work / plain}


def floor(data: str, seed: int, n: int, features: FeatureKind) -> Mapping[str, float]:
    """The distances of n training images."""
    train = _sets(data)[0]
    chosen = torch.arange(len(train)) * 7919 % len(train)
    return _distances(train.x0(chosen[:n]), data, features)


def _distances(x: Tensor, data: str, features: FeatureKind) -> dict[str, float]:
    """The energy distance in pixels, and the Frechet distance in features that no encoder here has."""
    phi, real = _features(data, features), _sets(data)[1].x0()
    return {"distance": energy_distance(x.double(), real.double()), "frechet": frechet(phi(real), phi(x))}


@lru_cache(maxsize=2)
def _features(data: str, kind: FeatureKind) -> Callable[[Tensor], Tensor]:
    train = _sets(data)[0]
    return pixel_features(train.x0(), 32) if kind == "pca" else features_for(train, None, kind)


def probe(network: Network, data: str, seed: int) -> float:
    """The accuracy of `linear_probe` on the mean of the aligned state over tokens."""
    return linear_probe(*(_hidden(network, each, seed) for each in _sets(data)))


def linear_probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """The accuracy of a linear classifier (ridge regression) of states [N, C] with labels [N], fitted to `train`."""
    (h, labels), (other, theirs) = train, test
    mean, sd = h.mean(0), h.std(0) + 1e-6
    h, other = ((each - mean) / sd for each in (h, other))
    target = nn.functional.one_hot(labels).double()
    weights = torch.linalg.solve(h.T @ h + PENALTY * torch.eye(h.shape[1]).to(h), h.T @ (target - target.mean(0)))
    return float(((other @ weights + target.mean(0)).argmax(1) == theirs).double().mean())


@torch.no_grad()
def _hidden(network: Network, images: Data, seed: int) -> tuple[Tensor, Tensor]:
    """The aligned state of some noisy images, its mean over tokens, [N, C], and their labels."""
    count = min(len(images), PROBED)
    assert images.labels is not None
    states = []
    for low in range(0, count, 500):
        items = range(low, min(low + 500, count))
        noised = network.process.noise(images.x0(slice(low, items.stop)), PROBE_AT, Rng(seed, items, "probe"))
        side = network.with_side(noised.xt, noised.t, hidden=(BLOCK - 1,))[1]
        states.append(side.hidden[BLOCK - 1].mean(1).double())
    return torch.cat(states), images.labels[:count]


def named(name: str, data: str) -> str:
    """The name of a row on one data set."""
    return f"{name} ({data})"


def checks(value: Numbers) -> Mapping[str, bool]:
    """On each data set: equal steps beside no alignment and random features; equal computation; fewer steps."""
    found: dict[str, bool] = {}
    for data in DATA_SETS:
        if (named(OURS, data), "distance") in value:
            found |= _on(value, data)
    return found


def _on(value: Numbers, data: str) -> Mapping[str, bool]:
    def of(metric: str, *names: str) -> str:
        return "; ".join(f"{value[named(name, data), metric]:.3g} {name}" for name in names)

    def nearer(one: str, other: str, metric: str = "distance", sign: int = 1) -> bool:
        """By two standard deviations. sign : -1 for a number that is better if it is larger."""
        own, their = named(one, data), named(other, data)
        wide = (value.spread(own, metric) ** 2 + value.spread(their, metric) ** 2) ** 0.5
        return sign * value[own, metric] + 2 * wide < sign * value[their, metric]

    d = "distance"
    found = {
        f"{data}: at equal steps samples are nearer to held-out images than without alignment and with random "
        f"features, by two standard deviations ({of(d, OURS, PLAIN, RANDOM)})": nearer(OURS, PLAIN)
        and nearer(OURS, RANDOM),
        f"{data}: and at equal computation, with that of the encoder ({of(d, OURS, LONGER)}; "
        f"{value[named(OURS, data), 'work']:.2f} times the work of plain training)": nearer(OURS, LONGER),
        f"{data}: with 15 % fewer steps they are as near as without alignment, which is farther then "
        f"({of(d, SOONER, PLAIN, SHORTER)})": value[named(SOONER, data), d] <= value[named(PLAIN, data), d]
        and nearer(SOONER, SHORTER),
        f"{data}: than without alignment they are nearer ({of(d, OURS, PLAIN)})": nearer(OURS, PLAIN),
        f"{data}: the Frechet distance agrees ({of('frechet', OURS, PLAIN)})": nearer(OURS, PLAIN, "frechet"),
        f"{data}: the hidden state knows the class better ({of('probe %', OURS, PLAIN)})": nearer(
            OURS, PLAIN, "probe %", -1
        ),
    }
    if (named(IDLE, data), d) in value:
        same = value[named(IDLE, data), d] == value[named(PLAIN, data), d]
        found[f"{data}: the projector alone changes nothing ({of(d, IDLE)})"] = same
    return found


def _rows(data: str, names: Sequence[str], quick: Settings, full: Settings, seeds: int) -> list[Arms]:
    needs = partial(load, DATA_SETS[data][0])
    rows = [
        arm(named(name, data), ROWS[name].role, partial(measure, name, data), data, quick, full, seeds, needs)
        for name in names
    ]
    short, long = (None if each is None else {name: each[name] for name in ("n", "features")} for each in (quick, full))
    return [*rows, arm(named(REAL, data), "floor", partial(floor, data), data, short, long, 1, needs)]


def _arms() -> list[Arms]:
    digits, fashion = DATA_SETS
    small = {"images": 12_800, "encoder_images": 19_200, "n": 500, "features": "pca"}
    large = {"images": 48_000, "encoder_images": 64_000, "n": 2000, "features": "classifier"}
    # the digits show that a weight of 0 is no alignment, bit for bit
    others = [name for name in ROWS if name != IDLE]
    return [*_rows(digits, list(ROWS), small, small, 5), *_rows(fashion, others, None, large, 3)]


run = Study(PAPER, checks, _arms())
