"""Locality from data statistics: what trained networks look at, and which closed form predicts their answers.

Networks of three kinds learn the same items, and the same items with their pixels in another order. Each closed form
answers for the same states. A network is asked on held-out items alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ..data import Data, load
from ..data.report import Report
from ..data.store import make
from ..denoiser import (
    Denoiser,
    ExactData,
    LocalData,
    PatchData,
    PointHead,
    correlated,
    jacobian,
    reach,
    wiener,
    windows,
)
from ..denoiser.wrap import Wrapped
from ..loss import Square
from ..net import DiTSpec, MLPSpec, NetSpec, UNetSpec
from ..posterior import HasMean, Point, need
from ..process import VP
from ..rng import Rng
from ..train import Config, Denoise, Optimiser
from .frame import Arms, Numbers, Results, Study
from .in_memory import averaged_on_cpu
from .paper import Paper, Role

PAPER = Paper.of(
    "locality",
    "That a trained denoiser looks at near pixels comes from the correlations of the data and not from convolutions; a "
    "closed form with neighbourhoods from these correlations predicts its answers best.",
)
RESULT = ""

LEVELS = (-4.0, -2.0, 0.0, 2.0)
SIZES = (1, 3, 5, 7)
NETS: dict[str, NetSpec] = {
    "U-Net": UNetSpec(width=32, depth=1, patch=1),
    "DiT": DiTSpec(width=64, depth=3, patch=1),
    "MLP": MLPSpec(width=256, depth=3, frequencies=0),
}
# the closed forms, and their roles beside the paper's
LOCAL, APART, AS_FEW, SQUARES, SHARED, LINEAR, WHOLE = (
    "correlated pixels",
    "correlated pixels, weights of blocks",
    "correlated pixels, as few items as the patches",
    "squares of the best size",
    "squares from other places, the best size",
    "linear",
    "the whole image",
)
FORMS: dict[str, Role] = {
    LOCAL: "ours",
    APART: "control",
    AS_FEW: "control",
    SQUARES: "baseline",
    SHARED: "baseline",
    LINEAR: "baseline",
    WHOLE: "control",
}
PERMUTED = "pixels in another order"


@dataclass(frozen=True, eq=False)
class Items:
    """Images for training and held-out ones, [N, C, S, S], perhaps with their pixels in another order.

    order : the place of each pixel of these images in the images as they are.
    """

    name: str
    train: Tensor
    held_out: Tensor
    order: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train.shape[1:])

    @property
    def covariance(self) -> Tensor:
        return torch.cov(self.train.flatten(1).double().T)

    def data(self, flat: bool) -> Data:
        x0 = self.train.flatten(1) if flat else self.train
        return make(self.name, x0, None, (), Report(read=len(x0)))

    def as_seen(self, field: Tensor) -> Tensor:
        """A field over these pixels, over the pixels of the images as they are."""
        found = torch.empty_like(field.flatten(-3))
        found[..., self.order] = field.flatten(-3)
        return found.reshape(field.shape)


@cache
def items(name: str, size: int, permuted: bool) -> Items:
    """The items of a data set; the order is the same at every call."""
    train, held_out = (load(name, size=size, split=split).x0() for split in ("train", "test"))
    count = train[0].numel()
    order = torch.randperm(count, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    order = order if permuted else order.sort().values
    train, held_out = (each.flatten(1)[:, order].reshape(each.shape) for each in (train, held_out))
    return Items(name, train, held_out, order)


def trained(net: str, own: Items, seed: int, images: int) -> Denoiser:
    """A network for these items, averaged over its training. An MLP sees an image as a list of numbers."""
    flat, batch = net == "MLP", 64
    steps = images // batch
    task = Denoise(process=VP(), net=NETS[net], head=PointHead(), loss=Square("v"))
    optimiser = Optimiser(rate=2e-3, warmup=min(100, steps // 4), decay=0.6)
    config = Config(task, steps=steps, batch=batch, seed=seed, precision="fp32", optimiser=optimiser)
    data = own.data(flat)
    # the closed forms and the items are on the CPU
    network: Any = averaged_on_cpu(data, config)
    if not flat:
        return network  # type: ignore[no-any-return]

    def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: object) -> Point:
        return Point(need(inner(xt.flatten(1), t), HasMean, "locality").mean.reshape(xt.shape))

    return Wrapped(network, call)


def mean_of(denoiser: Denoiser, xt: Tensor, t: float) -> Tensor:
    return need(denoiser(xt, t), HasMean, "locality").mean.detach()


def forms(own: Items, patch_items: int) -> dict[str, Sequence[Denoiser]]:
    """The closed forms; squares of each size.

    patch_items : the items of the patches from other places, whose work is many times that of the others.
    """
    y, flat, covariance = own.train, own.train.flatten(1).double(), own.covariance
    sizes = [size for size in SIZES if size <= own.shape[-1]]
    support = correlated(VP(), covariance)
    return {
        LOCAL: [LocalData(VP(), y, support)],
        APART: [LocalData(VP(), y, support, apart=min(512, len(y) // 3))],
        AS_FEW: [LocalData(VP(), y[:patch_items], support)],
        SQUARES: [LocalData(VP(), y, windows(own.shape, size)) for size in sizes],
        SHARED: [PatchData(VP(), y[:patch_items], size) for size in sizes],
        LINEAR: [wiener(VP(), flat.mean(0).float(), covariance.float())],
        WHOLE: [ExactData(VP(), y)],
    }


def explained(answers: Tensor, of: Tensor) -> float:
    """R^2: the share of the variance of a network's answers that others explain."""
    return float(1 - (answers - of).square().sum() / (of - of.mean(0)).square().sum())


def measure(
    name: str, size: int, seed: int, images: int, n: int, patch_items: int, nets: Sequence[str] = tuple(NETS)
) -> Results:
    """The answers of networks and closed forms at each noise level, and the reach of the networks."""
    results: dict[tuple[str, str], float] = {}
    for permuted in (False, True):
        own = items(name, size, permuted)
        models = {net: trained(net, own, seed, images) for net in nets}
        x0 = own.held_out[:n]
        known = {} if permuted else forms(own, patch_items)
        for level in LEVELS:
            t = float(VP().time(level))
            xt = VP().noise(x0, t, Rng(seed, len(x0), f"state {level}")).xt
            answers = {net: mean_of(model, xt, t) for net, model in models.items()}
            if not permuted:
                results |= _of_forms(known, answers, x0, xt, t, level)
            results |= _of_fields(own, models, answers, x0, xt[:16], t, level, permuted)
    return {(f"{arm} ({name})", metric): value for (arm, metric), value in results.items()}


def _of_forms(
    known: Mapping[str, Sequence[Denoiser]],
    answers: Mapping[str, Tensor],
    x0: Tensor,
    xt: Tensor,
    t: float,
    level: float,
) -> Results:
    """R^2 with each network, of the size that suits the network; and the error of the size that suits the data."""
    results: dict[tuple[str, str], float] = {}
    for form, each in known.items():
        own = [mean_of(model, xt, t) for model in each]
        results[form, f"error@{level:g}"] = min(float((mean - x0).square().mean()) for mean in own)
        for net, of in answers.items():
            results[form, f"explains {net}@{level:g}"] = max(explained(mean, of) for mean in own)
    return results


def _of_fields(
    own: Items,
    nets: Mapping[str, Denoiser],
    answers: Mapping[str, Tensor],
    x0: Tensor,
    xt: Tensor,
    t: float,
    level: float,
    permuted: bool,
) -> Results:
    """The error of each network, and its sensitivity fields beside those of the linear denoiser, over the pixels of the
    images as they are."""
    flat, covariance = own.train.flatten(1).double(), own.covariance
    linear = wiener(VP(), flat.mean(0).float(), covariance.float())
    # the pixels of the middle, as they are seen
    side = own.shape[-1]
    seen = [row * side + column for row in (side // 2 - 1, side // 2) for column in (side // 2 - 1, side // 2)]
    places = [int((own.order == place).nonzero()) for place in seen]
    results: dict[tuple[str, str], float] = {}
    models = {**nets, LINEAR: linear} if not permuted else dict(nets)
    right = _fields(own, linear, xt, t, places)
    for model_name, model in models.items():
        fields = _fields(own, model, xt, t, places)
        arm = f"{model_name}, {PERMUTED}" if permuted else model_name
        if model_name in nets:
            results[arm, f"error@{level:g}"] = float((answers[model_name] - x0).square().mean())
            alike = torch.nn.functional.cosine_similarity(fields.flatten(1), right.flatten(1))
            results[arm, f"likeness@{level:g}"] = float(alike.mean())
        results[arm, f"reach@{level:g}"] = sum(
            reach(field, place) for field, place in zip(fields, seen, strict=True)
        ) / len(seen)
    return results


def _fields(own: Items, model: Denoiser, xt: Tensor, t: float, places: Sequence[int]) -> Tensor:
    """The mean size of each row of the Jacobian, over the pixels as they are, [P, C, S, S]."""
    return own.as_seen(jacobian(model, xt, t, places).abs().mean(0))


def checks(value: Numbers) -> Mapping[str, bool]:
    """By each data set that was measured: the closed forms, the networks, the order of pixels, and the blocks."""
    found: dict[str, bool] = {}
    for name in ("fashion-mnist", "digits"):
        if (f"{LOCAL} ({name})", f"error@{LEVELS[0]:g}") in value:
            found |= _on(value, name)
    return found


def _on(value: Numbers, name: str) -> Mapping[str, bool]:
    def line(arm: str, kind: str) -> list[float]:
        return value.line(f"{arm} ({name})", kind, LEVELS)

    def text(values: Sequence[float]) -> str:
        return ", ".join(f"{each:.3f}" for each in values)

    by_form = {form: line(form, "explains U-Net") for form in FORMS}
    others = (SQUARES, LINEAR, WHOLE)
    best = [max(by_form[form][k] for form in others) for k in range(len(LEVELS))]
    field = line(LINEAR, "reach")
    nets = [net for net in NETS if (f"{net} ({name})", f"reach@{LEVELS[0]:g}") in value]
    ratios = {net: [a / b for a, b in zip(line(net, "reach"), field, strict=True)] for net in nets}
    moved = {net: [a / b for a, b in zip(line(f"{net}, {PERMUTED}", "reach"), field, strict=True)] for net in nets}
    free = [net for net in nets if net != "U-Net"]

    def near(values: Sequence[float]) -> bool:
        return all(2 / 3 < each < 3 / 2 for each in values)

    looks = "; ".join(f"{net} {text(ratios[net])}" for net in free)
    gap = [b - a for a, b in zip(by_form[LOCAL], by_form[APART], strict=True)]
    error = {form: line(form, "error") for form in (LOCAL, APART)}
    return {
        f"{name}: of the closed forms correlated pixels explain most of a U-Net at most noise levels (R^2 "
        f"{text(by_form[LOCAL])}; the best other {text(best)})": sum(
            a > b for a, b in zip(by_form[LOCAL], best, strict=True)
        )
        > len(LEVELS) / 2,
        f"{name}: and more than patches from other places, of as many items ({text(by_form[AS_FEW])}; "
        f"{text(by_form[SHARED])})": sum(a > b for a, b in zip(by_form[AS_FEW], by_form[SHARED], strict=True))
        > len(LEVELS) / 2,
        f"{name}: networks without convolutions reach as far as the linear denoiser, to a factor of 1.5 ({looks})": (
            all(near(ratios[net]) for net in free)
        ),
        f"{name}: and a U-Net does ({text(ratios['U-Net'])})": near(ratios["U-Net"]),
        f"{name}: with its pixels in another order an MLP reaches as far ({text(moved['MLP'])})": near(moved["MLP"]),
        f"{name}: and so does a U-Net there ({text(moved['U-Net'])})": near(moved["U-Net"]),
        f"{name}: the weights of blocks, as in the code of the paper, explain no more (by {text(gap)}) and have no "
        f"lower error ({text(error[APART])}; {text(error[LOCAL])})": max(gap) < 0.01
        and all(b > a - 1e-4 for a, b in zip(error[LOCAL], error[APART], strict=True)),
    }


def _arms(name: str, size: int, quick: Mapping[str, Any] | None, full: Mapping[str, Any], seeds: int) -> Arms:
    rows = FORMS | dict.fromkeys(NETS, "baseline") | {f"{net}, {PERMUTED}": "control" for net in NETS}
    roles: dict[str, Role] = {f"{arm} ({name})": role for arm, role in rows.items()}  # type: ignore[misc]
    return Arms(
        roles,
        partial(measure, name, size),
        f"{name}, {size} x {size}",
        quick,
        full,
        seeds,
        needs=partial(load, name),
    )


run = Study(
    PAPER,
    checks,
    [
        _arms("fashion-mnist", 14, None, {"images": 60_000, "n": 64, "patch_items": 300}, 3),
        _arms(
            "digits",
            8,
            {"images": 20_000, "n": 64, "patch_items": 300, "nets": ("U-Net", "MLP")},
            {"images": 100_000, "n": 128, "patch_items": 1437},
            5,
        ),
    ],
)
