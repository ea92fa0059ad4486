"""MT-Diffusion: one diffusion of an aggregate of all modalities, with a decoder for each.

The exact rows have points with a label and two values, whose joint law is known. The images have their class as a
second modality: one network draws both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import cast

import torch
from torch import Tensor

from ..cond import Cond
from ..data import Data, Paired, Report
from ..data.store import make
from ..denoiser import Denoiser, JointDenoiser, Modality
from ..denoiser.modalities import AGGREGATE, ITEM
from ..evaluate import energy_distance
from ..measure import guided_by_label
from ..net import MLPSpec
from ..oracle import AggregateProblem, aggregated
from ..posterior import Categorical, HasMean, need
from ..rng import Rng, permutation
from ..sampler import adams, sample_modalities
from ..train import Config, DenoiseModalities, Optimiser, facts_of
from .frame import Arms, Numbers, Results, TrainedStudy
from .images import trained
from .in_memory import averaged_on_cpu
from .paper import Paper, Role
from .trainings import Sampling, Training, change

PAPER = Paper.of(
    "mt_diffusion",
    "One diffusion in a space that adds up the codes of all modalities, with a decoder for each, generates them "
    "together without loss for any.",
)
RESULT = ""

# the exact rows

POINTS = "points with a label of three and two values"
GAUSSIAN = "points with two values, jointly Gaussian"
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
WEIGHT = 0.5
TOGETHER, APART = "all decoders, one network", "one network for each decoder"
EXACT, DRAWS = "samples by exact decoders", "exact samples"
GIVEN, ANY = "a given label, by its exact decoder", "no label given"


def problem(components: int, data_sd: float = 1.0) -> AggregateProblem:
    """The known law: with one component there is no label."""
    weights = {ITEM: 1.0, "value": WEIGHT} | ({"class": WEIGHT} if components > 1 else {})
    return replace(aggregated(weights, components=components), data_sd=data_sd)


@lru_cache(maxsize=4)
def source(components: int, seed: int, count: int = 1 << 16) -> Paired:
    """Training points, with their values and labels."""
    x, cond = problem(components).draw(count, Rng(seed, count, "train"))
    names = tuple(str(k) for k in range(components)) if components > 1 else ()
    report = Report(read=count)
    assert cond.value is not None
    labels = cond.label if components > 1 else None
    return Paired(
        make("points", x.float(), labels, names, report), make("values", cond.value.float(), None, (), report)
    )


def learned(components: int, seed: int, steps: int, only: str | None = None) -> tuple[JointDenoiser, AggregateProblem]:
    """A trained model, and the exact answers in the same space. only : the name of the decoder that learns alone."""
    data = source(components, seed)

    def part(name: str, weight: float) -> Modality:
        return Modality(weight, float(only in (None, name)))

    task = DenoiseModalities(
        net=MLPSpec(),
        x=part(ITEM, 1.0),
        value=part("value", WEIGHT),
        label=part("class", WEIGHT) if components > 1 else None,
    )
    ease = Optimiser(rate=2e-3, warmup_share=0.1)
    config = Config(task, steps=steps, batch=256, seed=seed, precision="fp32", optimiser=ease)
    model = cast(JointDenoiser, averaged_on_cpu(data, config))
    return model, problem(components, facts_of(data, config).data_sd)


@torch.no_grad()
def errors(model: JointDenoiser, known: AggregateProblem, seed: int, n: int) -> dict[str, list[float]]:
    """At each of `TIMES`: the mean squared error of each decoder, and -log q of the label in nats."""
    x, cond = known.draw(n, Rng(seed, n, "test"))
    assert cond.value is not None
    cond = Cond(cond.label, value=cond.value.float())
    parts = known.aggregation.parts(x.float(), cond)
    parts[AGGREGATE] = known.aggregation(parts)
    found: dict[str, list[float]] = {name: [] for name in parts}
    for t in TIMES:
        noised = known.process.noise(parts[AGGREGATE], t, Rng(seed, n, "noise"))
        for name, law in model.joint(noised.xt, noised.t).parts.items():
            each = (
                -law.log_prob(parts[name])
                if isinstance(law, Categorical)
                else (need(law, HasMean, "errors").mean - parts[name]).square()
            )
            found[name].append(float(each.double().mean()))
    return found


def decoders(components: int, seed: int, steps: int, n: int) -> Results:
    """The excess of each decoder over the exact one, the largest over the times: of errors in %, of labels in nats."""
    results: dict[tuple[str, str], float] = {}
    names = [ITEM, "value", *(["class"] if components > 1 else [])]
    for row, choices in ((TOGETHER, {None: [AGGREGATE, *names]}), (APART, {name: [name] for name in names})):
        for only, measured in choices.items():
            model, known = learned(components, seed, steps, only)
            own, exact = errors(model, known, seed, n), errors(known.denoiser(), known, seed, n)
            for name in measured:
                pairs = list(zip(own[name], exact[name], strict=True))
                is_label = name == "class"
                excess = max(a - b if is_label else 100 * (a / b - 1) for a, b in pairs)
                results[row, f"excess {name}" + (" nats" if is_label else " %")] = excess
    return results


def law_of_samples(seed: int, n: int, steps: int) -> Results:
    """Samples with exact decoders, beside the known law."""
    known = problem(3)
    model: Denoiser = known.denoiser()
    x, cond = known.draw(n, Rng(seed, n, "exact"))
    assert cond.label is not None and cond.value is not None
    both = torch.cat([x, cond.value], 1)
    other, theirs = known.draw(n, Rng(seed, n, "other"))
    assert theirs.label is not None and theirs.value is not None

    def note(name: str, parts: Mapping[str, Tensor]) -> None:
        shares = torch.stack([(parts["class"] == k).double().mean() for k in range(3)])
        results[name, "class TV"] = float((shares - known.law.weights).abs().sum() / 2)
        results[name, "x distance"] = energy_distance(parts[ITEM].double(), x)
        whole = torch.cat([parts[ITEM], parts["value"]], 1).double()
        results[name, "joint distance"] = energy_distance(whole, both)

    results: dict[tuple[str, str], float] = {}
    drawn = sample_modalities(model, n, steps, sampler=adams, seed=seed)
    note(EXACT, drawn)
    note(DRAWS, {ITEM: other, "class": theirs.label, "value": theirs.value})
    for name, wrapped in ((GIVEN, guided_by_label(1)(model)), (ANY, model)):
        found = sample_modalities(wrapped, n, steps, sampler=adams, seed=seed, batch=n)
        results[name, "named"] = float((found["class"] == 1).double().mean())
        results[name, "x distance"] = energy_distance(found[ITEM].double(), x[cond.label == 1])
    results[DRAWS, "named"] = 1.0
    return results


# images and their classes

IMAGES = "Fashion-MNIST, 14 x 14, and its classes, trained"
COUNTS = (8, 16)
WAYS = (Sampling("adams", adams),)
PLAIN, CLASSED = "trained, images alone", "trained, the class as a condition"
OURS, LIGHT = "trained, images and classes", "trained, images and classes, light code"
SHUFFLED, UNLEARNED = "trained, shuffled classes", "trained, classes not learned"


def together(weight: float, scale: float) -> DenoiseModalities:
    """The task of a row: w of the code of the class, and lambda of its loss."""
    return DenoiseModalities(label=Modality(weight, scale))


def shuffled(data: Data) -> Data:
    """The same images, with classes of other images."""
    assert data.labels is not None
    order = permutation(0, len(data), "shuffled classes")
    return make(f"{data.name}, shuffled", data.values, data.labels[order], data.classes, data.report)


def _joint(role: Role, weight: float, scale: float, mixed: bool = False) -> Training:
    def of(config: Config, shape: tuple[int, ...]) -> Config:
        task = together(weight, scale)
        return config.but(task=replace(task, net=config.task.net))  # type: ignore[union-attr]

    return Training(role, of, WAYS, source=shuffled) if mixed else Training(role, of, WAYS)


TRAININGS: dict[str, Training] = {
    PLAIN: Training("baseline", change(), WAYS),
    CLASSED: Training("baseline", change(classes=True, drop=0.0), WAYS),
    OURS: _joint("ours", WEIGHT, 0.1),
    LIGHT: _joint("ours", WEIGHT / 5, 0.1),
    SHUFFLED: _joint("control", WEIGHT, 0.1, mixed=True),
    UNLEARNED: _joint("control", WEIGHT, 0.0),
}


def training_of(name: str) -> Training:
    """A row of `TRAININGS`."""
    return TRAININGS[name]


def checks(value: Numbers) -> Mapping[str, bool]:
    """The decoders beside exact ones, the law of samples, and the images."""
    found: dict[str, bool] = {}
    for data, names in ((GAUSSIAN, ("x %", "value %")), (POINTS, ("x %", "value %", "class nats"))):
        own, alone = ([value[named(row, data), f"excess {each}"] for each in names] for row in (TOGETHER, APART))
        if data == GAUSSIAN:
            found[f"{data}: every decoder is within 2 % of the exact one ({_listed(own)} %)"] = max(own) < 2
        else:
            found[
                f"{data}: every decoder is within 2 % of the exact one, the label within 0.02 nats ({_listed(own)})"
            ] = max(own[:-1]) < 2 and own[-1] < 0.02
        found[f"{data}: a network for each decoder is better by less than 1 % ({_listed(alone)})"] = all(
            a < b + (0.01 if "nats" in each else 1) for a, b, each in zip(own, alone, names, strict=True)
        )
    ours, exact = ({m: value[name, m] for m in ("class TV", "x distance", "joint distance")} for name in (EXACT, DRAWS))
    found |= {
        f"with exact decoders samples have the law of the label (TV {ours['class TV']:.3f}) and that of x "
        f"(energy distance {ours['x distance']:.4f}; {exact['x distance']:.4f} of exact samples)": ours["class TV"]
        < 0.03
        and ours["x distance"] < exact["x distance"] + 0.002,
        f"x and values together have their joint law too ({ours['joint distance']:.4f}; "
        f"{exact['joint distance']:.4f} of exact samples)": ours["joint distance"] < exact["joint distance"] + 0.002,
        f"a given label is met ({value[GIVEN, 'named']:.3f} of samples; {value[ANY, 'named']:.3f} without)": value[
            GIVEN, "named"
        ]
        > 0.98,
    }
    if (OURS, f"frechet@{COUNTS[-1]}") in value:
        found |= _on_images(value)
    return found


def _on_images(value: Numbers) -> Mapping[str, bool]:
    last = COUNTS[-1]
    far = {name: value[name, f"frechet@{last}"] for name in TRAININGS}
    agree = {name: value[name, f"accuracy@{last}"] for name in TRAININGS if name != PLAIN}
    wide = {name: value.spread(name, f"frechet@{last}") for name in TRAININGS}

    def not_worse(name: str, than: str) -> bool:
        """Within two standard deviations."""
        return far[name] <= far[than] + 2 * (wide[name] ** 2 + wide[than] ** 2) ** 0.5

    best = min((OURS, LIGHT), key=lambda name: far[name])
    return {
        f"the images are as good as those of a model of images alone, at {last} ({best}: {far[best]:.2f}; "
        f"{far[PLAIN]:.2f})": not_worse(best, PLAIN),
        f"image and class agree in 90 % of samples, by a classifier of its own ({agree[best]:.3f})": agree[best] > 0.9,
        f"they agree as often as images of a given class ({agree[CLASSED]:.3f})": agree[best] > agree[CLASSED] - 0.02,
        f"shuffled classes agree by chance ({agree[SHUFFLED]:.3f})": abs(agree[SHUFFLED] - 0.1) < 0.05,
        f"and leave the images as they are ({far[SHUFFLED]:.2f})": not_worse(SHUFFLED, OURS)
        and not_worse(OURS, SHUFFLED),
        f"a decoder that does not learn knows no class ({agree[UNLEARNED]:.3f})": agree[UNLEARNED] < 0.2,
    }


def named(row: str, data: str) -> str:
    """The name of a row of decoders on one data set."""
    return f"{row} ({data})"


def _listed(values: list[float]) -> str:
    return ", ".join(f"{each:.2f}" for each in values)


def _decoders(data: str, components: int, seed: int, steps: int, n: int) -> Results:
    found = decoders(components, seed, steps, n)
    return {(named(row, data), metric): each for (row, metric), each in found.items()}


def _rows(data: str, components: int) -> Arms:
    roles: dict[str, Role] = {named(TOGETHER, data): "ours", named(APART, data): "control"}
    measure = partial(_decoders, data, components)
    return Arms(roles, measure, data, {"steps": 800, "n": 20_000}, {"steps": 3000, "n": 50_000}, seeds=3)


_SAMPLES: dict[str, Role] = {EXACT: "oracle", GIVEN: "ours", ANY: "control", DRAWS: "floor"}
run = TrainedStudy(
    PAPER,
    checks,
    [
        _rows(GAUSSIAN, 1),
        _rows(POINTS, 3),
        Arms(_SAMPLES, law_of_samples, POINTS, {"n": 2000, "steps": 32}, {"n": 10_000, "steps": 64}),
    ],
    trained=[trained(IMAGES, TRAININGS, training_of, COUNTS, ("frechet", "accuracy"))],
)
