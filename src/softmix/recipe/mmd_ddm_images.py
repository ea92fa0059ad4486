"""MMD-DDM on images: a model tuned in pixels and in features of its own, judged in the features of a classifier.

A seed has one trained model. All arms start from its averaged weights, and each tuning is for one number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from .. import training
from ..data import load
from ..denoiser import Denoiser, TunedDenoiser
from ..evaluate.reference import ReferenceSet
from ..loss import ChainMMD, CubicKernel, GaussianKernel
from ..process import few, uniform
from ..sampler import Sampler, adams, ddim, sample
from ..train import Config, Model, find_device, tuning
from ..train import load as load_run
from .frame import Arms, Numbers, Results, Trained
from .images import DATA_SETS, base, logged, reference, training_folder
from .paper import Role

PICTURES = "Fashion-MNIST, 14 x 14, trained"
DATA, COUNTS, BATCH = "fashion14", (2, 4), 128
BEFORE, LONGER, REAL = "trained", "trained, as many more evaluations", "real images"
PIXELS, BOTH, PAPER_LIKE = "tuned in pixels", "tuned in pixels and features", "tuned in features, cubic kernel"
ROLES: dict[str, Role] = {
    BEFORE: "baseline",
    LONGER: "control",
    PIXELS: "ours",
    BOTH: "ours",
    PAPER_LIKE: "ours",
    REAL: "floor",
}
METRICS = ("frechet", "recall", "nearest_ratio")


def loss_of_arm(name: str, k: int) -> ChainMMD:
    """The loss of an arm that tunes for k steps."""
    losses = {
        PIXELS: ChainMMD(kernel=GaussianKernel()),
        BOTH: ChainMMD(kernel=GaussianKernel(), features=1.0),
        # the mean over an image of each channel, as the paper takes those of an Inception network
        PAPER_LIKE: ChainMMD(kernel=CubicKernel(), pixels=0.0, features=1.0, cells=1),
    }
    return replace(losses[name], steps=k)


def image_arms(out: Path) -> list[Arms]:
    """The arms at full scale, with three seeds. out : the folder in which the trainings stay."""
    settings = {"images": 60_000, "steps": 200, "n": 1000}
    needs = partial(load, "fashion-mnist")
    return [Arms(ROLES, partial(train_and_measure, out), PICTURES, full=settings, seeds=3, needs=needs)]


def train_and_measure(out: Path, seed: int, images: int, steps: int, n: int) -> Results:
    """Train the model of a seed, and each arm from it, or continue; and measure the samples at each number of steps.

    images : of the first training. steps : of a tuning.
    """
    known, net = reference(DATA, out), DATA_SETS[DATA][2]
    results: dict[tuple[str, str], float] = {}
    with logged(training_folder(out, "mmd", DATA, images, seed)):
        first = base(known.train.shape, net, images, seed)
        start = trained(known, first, training_folder(out, BEFORE, DATA, images, seed) / "run")
        results |= _named(BEFORE, start.denoiser, known, seed, n)
        real = known.compare(known.train.x0(slice(0, n)))
        results |= {(REAL, f"{metric}@{k}"): real[metric] for metric in METRICS for k in COUNTS if metric in real}
        for k in COUNTS:
            further = tuning("mmd", first, known.train.shape).but(steps=steps, batch=BATCH)
            for name in (PIXELS, BOTH, PAPER_LIKE):
                at = training_folder(out, f"{name} {k}", DATA, images, seed) / "run"
                model = trained(known, further.but(loss=loss_of_arm(name, k)), at, start)
                results |= _named(name, model.denoiser, known, seed, n, (k,))
            # the same rate of a tuning, or that of a training: the control may take the better
            plain = further.but(loss=first.denoise.loss, steps=k * steps)
            values = []
            for rate in (further.optimiser.rate, first.optimiser.rate):
                at = training_folder(out, f"{LONGER} {k} {rate:g}", DATA, images, seed) / "run"
                model = trained(known, plain.but(optimiser=replace(plain.optimiser, rate=rate)), at, start)
                values.append(_named(LONGER, model.denoiser, known, seed, n, (k,)))
            results |= min(values, key=lambda each: each[LONGER, f"frechet@{k}"])
    return results


def trained(known: ReferenceSet, config: Config, run: Path, start: Model | None = None) -> Model:
    """Train, or continue a training."""
    for step in training(known.train, config, run, start=start):
        if step.step % 100 == 0:
            print(f"{run.parent.name}: step {step.step} of {step.total}, loss {step.loss:.4f}", flush=True)
    return load_run(run)


def _named(
    name: str, denoiser: Denoiser, known: ReferenceSet, seed: int, n: int, counts: tuple[int, ...] = COUNTS
) -> Results:
    """The metrics of samples by the best way at each number of steps."""
    ways: list[tuple[Sampler, object]] = [(each, grid) for each in (ddim, adams) for grid in (uniform, few)]
    if isinstance(denoiser, TunedDenoiser):
        ways = [(ddim, uniform)]
    device = find_device()
    denoiser.to(device)  # type: ignore[attr-defined]
    results: dict[tuple[str, str], float] = {}
    for k in counts:
        found = []
        for sampler, grid in ways:
            times = grid(denoiser.process, k)  # type: ignore[operator]
            x = sample(denoiser, n, k, sampler=sampler, seed=seed, grid=times, device=device).clamp(-1, 1).cpu()
            found.append(known.compare(x))
        best = min(found, key=lambda values: values["frechet"])
        results |= {(name, f"{metric}@{k}"): best[metric] for metric in METRICS if metric in best}
        print(f"{name}, {k}: {best['frechet']:.2f}", flush=True)
    return results


def checks_on_images(value: Numbers) -> Mapping[str, bool]:
    """Nearer than before in features of no loss, by more than further training, and no copies. None without images."""
    if (BEFORE, f"frechet@{COUNTS[0]}") not in value:
        return {}
    near = {name: value.line(name, "frechet", COUNTS) for name in ROLES}
    own = min((PIXELS, BOTH, PAPER_LIKE), key=lambda name: sum(near[name]))
    recall = {name: value.line(name, "recall", COUNTS) for name in (BEFORE, own)}
    drops = ", ".join(f"{b:.2f} to {a:.2f}" for a, b in zip(recall[own], recall[BEFORE], strict=True))
    ratio = value.line(own, "nearest_ratio", COUNTS)
    text = {name: ", ".join(f"{each:.3g}" for each in values) for name, values in near.items()}
    return {
        f"on images {own} is nearest in the features of a classifier ({text[own]}; before {text[BEFORE]})": all(
            a < b for a, b in zip(near[own], near[BEFORE], strict=True)
        ),
        f"by more than further training ({text[LONGER]})": all(
            a < b for a, b in zip(near[own], near[LONGER], strict=True)
        ),
        f"the paper's features and kernel gain too ({text[PAPER_LIKE]})": all(
            a < b for a, b in zip(near[PAPER_LIKE], near[BEFORE], strict=True)
        ),
        f"with no lower recall ({drops})": all(a >= b - 0.02 for a, b in zip(recall[own], recall[BEFORE], strict=True)),
        f"and no copies (nearest training image at {min(ratio):.2f} of that of unseen images, or more)": min(ratio)
        > 0.8,
    }


ON_IMAGES = [Trained.of(PICTURES, image_arms)]
