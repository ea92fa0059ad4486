"""The information plane: networks on all patterns of 12 bits, by bins and by noise, and the plane of a diffusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..info import BottleneckCurve, PlanePoint, binned_information, bottleneck, noise_bounds
from ..oracle import SpherePatterns, sphere_patterns
from .frame import Arms, Numbers, Results, Study
from .paper import Paper, Role
from .plane_channel import channel_plane
from .plane_networks import HIDDEN, TrainedLayers, drawn_weights, layers_of, trained_layers, with_norms

PAPER = Paper.of(
    "information_plane",
    "Training by gradients first fits the labels and then compresses: each hidden layer loses information on the input "
    "and ends near the bound of the information bottleneck.",
)
RESULT = ""

NETWORKS, CHANNEL = "networks on 4,096 patterns of 12 bits", "a diffusion of the same patterns"
FIXED, OWN = "tanh, bins on [-1, 1]", "tanh, bins on the range of each layer"
RELU, RELU_OWN = "ReLU, bins on the range over the training", "ReLU, bins on the range of each layer"
SCALED = "tanh, random weights with the norms of the trained"
NOISY, RELU_NOISY = "tanh, noise", "ReLU, noise"
BOUND = "bound of the bottleneck"
ERRORS, DIRECT, EXACT = "I-MMSE", "exact posterior", "twelve signs, by quadrature"
NOISES = (0.01, 0.1, 1.0)
BETAS = (*(1 + 0.02 * k for k in range(1, 26)), 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0, 300.0, 1000.0)
# the planes of a training: for each measured epoch the point of each layer
Planes = Sequence[Sequence[PlanePoint]]


def binned(
    layers: Sequence[Tensor], task: SpherePatterns, ends: Sequence[tuple[float, float] | None]
) -> list[PlanePoint]:
    """The point of each layer. ends : of the bins of each layer."""
    return [binned_information(layer, task.given, 30, end) for layer, end in zip(layers, ends, strict=True)]


def loss_of(bits: Sequence[float]) -> float:
    """What is lost at the end of a training after the peak, of a number at each epoch."""
    return max(bits) - bits[-1]


def figures(planes: Planes, curve: BottleneckCurve) -> dict[str, float]:
    """The numbers of one training. The layer of probabilities has a gap, and no loss: it is squashed in any network."""
    hidden = [[float(point.x) for point in line] for line in zip(*(layers[:HIDDEN] for layers in planes), strict=True)]
    losses = [loss_of(line) for line in hidden]
    best = losses.index(max(losses))
    # one position of the peak for the layer that loses most
    peak = hidden[best].index(max(hidden[best]))
    found = {
        "bits lost after the peak": losses[best],
        "layer": best + 1.0,
        "share of epochs after the peak, log scale": 1 - peak / (len(planes) - 1),
        "change of the last layer": hidden[-1][-1] - hidden[-1][0],
        "gap to the bound": max(float(curve.bound(point.x)) - point.y for point in planes[-1]),
        "gap to the bound, untrained": max(float(curve.bound(point.x)) - point.y for point in planes[0]),
    }
    return found | exact_facts(planes, curve)


def exact_facts(planes: Planes, curve: BottleneckCurve) -> dict[str, float]:
    """What no network may do with a function of the input, and what bins may: the largest value of each."""
    points = [point for layers in planes for point in layers]
    rises = [after.x - before.x for layers in planes for before, after in pairwise(layers)]
    return {
        "largest I(X; T)": max(point.x for point in points),
        "largest I(T; Y)": max(point.y for point in points),
        "above the bound": max(point.y - float(curve.bound(point.x)) for point in points),
        "rise from layer to layer": max(rises),
    }


def noisy(found: TrainedLayers, task: SpherePatterns, epochs: int, first: int) -> Mapping[str, float]:
    """What the last hidden layers lose of I(X; T + N) at each noise, by each of its bounds.

    epochs : that are measured, even among those of the training. first : of the layers.
    """
    kept = list(found.layers)
    chosen = [kept[round(k * (len(kept) - 1) / (epochs - 1))] for k in range(epochs)]
    numbers: dict[str, float] = {}
    for noise in NOISES:
        bounds = [
            [noise_bounds(layer, task.given, noise).x for layer in found.layers[epoch][first:HIDDEN]]
            for epoch in chosen
        ]
        lines = list(zip(*bounds, strict=True))
        # each bound is a measure of its own, as in published planes
        for side, name in enumerate(("lower", "upper")):
            numbers[f"lost, noise {noise:g}, {name}"] = max(loss_of([point[side] for point in line]) for line in lines)
            numbers[f"change, noise {noise:g}, {name}"] = lines[-1][-1][side] - lines[-1][0][side]
    return numbers


def networks(seed: int, epochs: int, rate: float, measured: int, noisy_epochs: int, first_noisy: int) -> Results:
    """All planes of two networks, of tanh and of ReLU, and of the controls without a training."""
    task = sphere_patterns()
    curve = bottleneck(task.joint, BETAS)
    results: dict[tuple[str, str], float] = {
        (BOUND, "largest I(T; Y)"): curve.limit,
        (BOUND, "I(T; Y) for 1 bit"): float(curve.bound(1.0)),
    }

    def add(name: str, numbers: Mapping[str, float]) -> None:
        results.update({(name, metric): value for metric, value in numbers.items()})

    plain: list[tuple[float, float] | None] = [(-1.0, 1.0)] * (HIDDEN + 1)
    own: list[tuple[float, float] | None] = [None] * (HIDDEN + 1)
    for activation, names in (("tanh", (FIXED, OWN, NOISY)), ("ReLU", (RELU, RELU_OWN, RELU_NOISY))):
        found = trained_layers(task, activation, seed, epochs, rate, measured)
        ends = plain if activation == "tanh" else [_over(line) for line in zip(*found.layers.values(), strict=True)]
        for name, choice in zip(names, (ends, own), strict=False):
            planes = [binned(layers, task, choice) for layers in found.layers.values()]
            add(name, figures(planes, curve) | {"accuracy": found.accuracy})
        add(names[2], noisy(found, task, noisy_epochs, first_noisy))
        if activation == "tanh":
            random = with_norms(drawn_weights(seed, "other weights"), found.weights, seed)
            both = found.layers[0], layers_of(random, task.bits.float(), "tanh")
            add(SCALED, figures([binned(layers, task, plain) for layers in both], curve))
    return results


def _over(layers: Sequence[Tensor]) -> tuple[float, float]:
    """The range of a layer over all epochs, a little wider for a layer that never changes."""
    both = torch.stack(list(layers))
    return float(both.min()), max(float(both.max()), float(both.min()) + 1e-6)


def diffusion(seed: int, items: int, levels: int, draws: int) -> Results:
    """The plane of nine noise levels in three ways, and its place below the bound."""
    task = sphere_patterns()
    curve, plane = bottleneck(task.joint, BETAS), channel_plane(task, seed, items, levels, draws)
    x, y = (torch.tensor([getattr(point, axis) for point in plane.direct]) for axis in "xy")
    middle = len(x) // 2
    return {
        (ERRORS, "error of I(X_0; X_t)"): float((plane.by_errors[0] - plane.exact).abs().max()),
        (DIRECT, "error of I(X_0; X_t)"): float((x - plane.exact).abs().max()),
        (ERRORS, "off the direct I(Y; X_t)"): float((plane.by_errors[1] - y).abs().max()),
        (DIRECT, "above the bound"): float((y - curve.bound(x)).max()),
        (DIRECT, "gap to the bound at logsnr 0"): float(curve.bound(x[middle]) - y[middle]),
        # with more noise nothing is learned
        (DIRECT, "rise with noise"): max(float(-part.diff().min()) for part in (x, y)),
        (EXACT, "I(X_0; X_t) at logsnr 0"): float(plane.exact[middle]),
        (ERRORS, "I(X_0; X_t) at logsnr 0"): float(plane.by_errors[0][middle]),
        (DIRECT, "I(X_0; X_t) at logsnr 0"): float(x[middle]),
        (ERRORS, "I(Y; X_t) at logsnr 0"): float(plane.by_errors[1][middle]),
        (DIRECT, "I(Y; X_t) at logsnr 0"): float(y[middle]),
    }


def checks(value: Numbers) -> Mapping[str, bool]:
    """The claim on networks, what bins, noise and activation have to do with it, and the plane of a channel."""
    lost = {name: value[name, "bits lost after the peak"] for name in (FIXED, OWN, RELU, RELU_OWN, SCALED)}
    gap, before = (value[FIXED, f"gap to the bound{when}"] for when in ("", ", untrained"))
    by_noise, change = ([value[NOISY, f"{what}, noise {s:g}, upper"] for s in NOISES] for what in ("lost", "change"))
    rise = {name: value[name, "rise from layer to layer"] for name in (FIXED, OWN, RELU, RELU_OWN)}
    limit, above = value[BOUND, "largest I(T; Y)"], max(value[name, "above the bound"] for name in rise)
    most = [max(value[name, f"largest I({pair})"] for name in rise) for pair in ("X; T", "T; Y")]
    exact, direct = (value[name, "error of I(X_0; X_t)"] for name in (ERRORS, DIRECT))
    with_noise, outside = value[DIRECT, "rise with noise"], value[DIRECT, "above the bound"]
    label, far = value[ERRORS, "off the direct I(Y; X_t)"], value[DIRECT, "gap to the bound at logsnr 0"]
    listed = ", ".join(f"{bits:.2f} at {s:g}" for s, bits in zip(NOISES, by_noise, strict=True))
    changes = ", ".join(f"{bits:+.2f} at {s:g}" for s, bits in zip(NOISES, change, strict=True))
    return {
        f"a hidden layer of tanh loses at least 1 bit of I(X; T) after its peak, in fixed bins ({lost[FIXED]:.2f}; "
        f"over seeds {value.spread(FIXED, 'bits lost after the peak'):.2f})": lost[FIXED] >= 1,
        f"its layers end within 0.1 bits of the bound ({gap:.3f}; untrained {before:.3f})": gap < 0.1,
        f"random weights with the norms of the trained lose less than half of that ({lost[SCALED]:.2f})": lost[SCALED]
        < lost[FIXED] / 2,
        f"tanh loses 1 bit also in bins on the range of each layer ({lost[OWN]:.2f})": lost[OWN] >= 1,
        f"ReLU loses 1 bit, in fixed bins ({lost[RELU]:.2f}) and in bins on the range of each layer "
        f"({lost[RELU_OWN]:.2f})": min(lost[RELU], lost[RELU_OWN]) >= 1,
        f"tanh loses 1 bit with noise in place of bins, at each size of the noise ({listed})": min(by_noise) >= 1,
        f"and its last hidden layer ends with less than it began with, at each size ({changes})": max(change) < 0,
        f"no bins give more than 12 bits ({most[0]:.2f}), more than I(X; Y) ({most[1]:.4f} of {limit:.4f}), or a point "
        f"above the bound ({above:.1e})": most[0] < 12 + 1e-9 and most[1] < limit + 1e-9 and above < 1e-6,
        f"I(X; T) does not rise from layer to layer in bins (tanh {rise[FIXED]:.2f} and {rise[OWN]:.2f}, ReLU "
        f"{rise[RELU]:.2f} and {rise[RELU_OWN]:.2f})": max(rise.values()) < 1e-9,
        f"of a diffusion, I(X_0; X_t) by errors and by the posterior is the exact one of 0 to 12 bits, to 1 % of them "
        f"({exact:.3f}, {direct:.3f})": max(exact, direct) < 0.12,
        f"I(Y; X_t) by errors is that by the posterior, to 0.05 bits ({label:.3f})": label < 0.05,
        f"both fall with the noise (by {with_noise:.3f} at most they rise), and no level is above the bound "
        f"({outside:.1e}; {far:.2f} below it at logsnr 0)": with_noise < 0.01 and outside < 1e-3,
    }


_NETWORKS: dict[str, Role] = {
    FIXED: "ours",
    OWN: "control",
    RELU: "control",
    RELU_OWN: "control",
    SCALED: "control",
    NOISY: "control",
    RELU_NOISY: "control",
    BOUND: "oracle",
}
_CHANNEL: dict[str, Role] = {ERRORS: "ours", DIRECT: "baseline", EXACT: "oracle"}
run = Study(
    PAPER,
    checks,
    [
        Arms(
            _NETWORKS,
            networks,
            NETWORKS,
            {"epochs": 300, "rate": 3e-3, "measured": 13, "noisy_epochs": 3, "first_noisy": 3},
            {"epochs": 8000, "rate": 4e-4, "measured": 21, "noisy_epochs": 7, "first_noisy": 2},
            seeds=3,
        ),
        Arms(
            _CHANNEL,
            diffusion,
            CHANNEL,
            {"items": 512, "levels": 3, "draws": 2},
            {"items": 2048, "levels": 4, "draws": 4},
            seeds=3,
        ),
    ],
)
