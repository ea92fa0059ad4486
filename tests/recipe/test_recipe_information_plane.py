"""The recipe of the information plane: its networks, its figures, its channel, and its checks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmix.info import PlanePoint, bottleneck
from softmix.oracle import SpherePatterns, sphere_patterns
from softmix.recipe import information_plane as recipe
from softmix.recipe import plane_networks
from softmix.recipe.frame import Numbers, row
from softmix.recipe.plane_channel import ChannelPlane, channel_plane, of_a_sign
from softmix.recipe.plane_networks import (
    HIDDEN,
    SIZES,
    drawn_weights,
    epochs_to_measure,
    first_weights,
    layers_of,
    trained_layers,
    with_norms,
)

F64 = torch.float64


# networks


def test_weights_have_the_variance_of_a_cut_normal_law() -> None:
    """0.774 / inputs, of a normal law cut at two standard deviations; over 200 seeds to 2 %."""
    first = torch.stack([drawn_weights(seed)[0][0] for seed in range(200)])
    assert float(first.var()) * 12 == pytest.approx(0.774, rel=0.02) and float(first.abs().max()) <= 2 / math.sqrt(12)
    assert [tuple(weight.shape) for weight, _ in drawn_weights(0)] == list(zip(SIZES[1:], SIZES[:-1], strict=True))
    assert not any(bool(bias.any()) for _, bias in drawn_weights(0))


def test_networks_of_relu_start_with_neurons_that_are_on_for_some_patterns() -> None:
    x = sphere_patterns().bits.float()
    for seed in range(3):
        weights = first_weights(x, "ReLU", seed)
        for layer in layers_of(weights, x, "ReLU")[:HIDDEN]:
            share = (layer > 0).double().mean(0)
            assert int(((share > 0.1) & (share < 0.9)).sum()) >= 2
    assert torch.equal(first_weights(x, "tanh", 1)[0][0], drawn_weights(1)[0][0])


def test_random_weights_have_the_norms_of_others() -> None:
    like = [(3 * weight, bias + 0.5) for weight, bias in drawn_weights(5)]
    for (weight, bias), (its, other) in zip(with_norms(drawn_weights(0), like, 0), like, strict=True):
        assert float(weight.norm()) == pytest.approx(float(its.norm()), rel=1e-5)
        assert float(bias.norm()) == pytest.approx(float(other.norm()), rel=1e-5)
        assert not torch.allclose(weight, its, atol=0.1)


def test_epochs_are_even_in_their_logarithm() -> None:
    assert epochs_to_measure(64, 7) == [0, 1, 2, 4, 8, 16, 32, 64]
    assert epochs_to_measure(3, 9) == [0, 1, 2, 3]


@pytest.mark.parametrize("activation", ["tanh", "ReLU"])
def test_a_network_learns_the_rule_and_keeps_its_layers(activation: str) -> None:
    """After 60 epochs 0.95 to 0.98 of held-out labels are right, over four seeds; 0.5 before."""
    task = sphere_patterns()
    found = trained_layers(task, activation, 0, 60, 3e-3, 3)
    assert list(found.layers) == [0, 1, 8, 60] and found.accuracy > 0.9
    for layers in found.layers.values():
        assert [layer.shape[1] for layer in layers] == list(SIZES[1:])
        assert torch.allclose(layers[-1].sum(1), torch.ones(4096))
    assert all(
        torch.allclose(one, other, atol=1e-5)
        for one, other in zip(found.layers[60], layers_of(found.weights, task.bits.float(), activation), strict=True)
    )
    assert float(found.layers[60][0].min()) < -0.9 if activation == "tanh" else float(found.layers[60][0].min()) == 0
    again = trained_layers(task, activation, 0, 1, 3e-3, 3)
    assert torch.equal(again.layers[1][-1], found.layers[1][-1])
    assert not torch.equal(trained_layers(task, activation, 1, 1, 3e-3, 3).layers[1][-1], found.layers[1][-1])


def test_every_epoch_has_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, str]] = []

    def recorded(seed: int, count: int, role: str) -> Tensor:
        asked.append((seed, count, role))
        return torch.arange(count)

    monkeypatch.setattr(plane_networks, "permutation", recorded)
    trained_layers(sphere_patterns(), "tanh", 4, 2, 1e-3, 2)
    assert asked == [(4, 4096, "split"), (4, 3277, "epoch 0"), (4, 3277, "epoch 1")]


# figures


def test_figures_of_planes_by_hand() -> None:
    """Five hidden layers and the probabilities, at four epochs; the second layer loses most."""
    curve = bottleneck(torch.tensor([[0.5, 0.0], [0.0, 0.5]], dtype=F64), [1.5, 3.0])
    x = [[5, 4, 3, 2, 1, 6], [6, 6, 4, 2, 1.5, 7], [6, 3, 3.5, 2, 2, 0.5]]
    y = [[1, 0.5, 0.4, 0.3, 0.2, 0.1], [1] * 6, [1, 1, 1, 0.9, 0.8, 0.25]]
    planes = [[PlanePoint(*point) for point in zip(*each, strict=True)] for each in zip(x, y, strict=True)]
    found = recipe.figures([*planes, planes[-1]], curve)
    assert found["bits lost after the peak"] == 3 and found["layer"] == 2
    assert found["share of epochs after the peak, log scale"] == pytest.approx(2 / 3)
    assert found["change of the last layer"] == 1
    # of the deterministic label the bound is min(x, 1)
    assert found["gap to the bound"] == pytest.approx(0.25)
    assert found["gap to the bound, untrained"] == pytest.approx(0.9)
    assert found["largest I(X; T)"] == 7 and found["largest I(T; Y)"] == 1
    assert found["above the bound"] == pytest.approx(0, abs=1e-9)
    assert found["rise from layer to layer"] == pytest.approx(5.5)


def test_above_the_bound_is_seen() -> None:
    curve = bottleneck(torch.tensor([[0.5, 0.0], [0.0, 0.5]], dtype=F64), [1.5, 3.0])
    assert recipe.exact_facts([[PlanePoint(0.5, 0.7), PlanePoint(0.2, 0.1)]], curve) == pytest.approx(
        {"largest I(X; T)": 0.5, "largest I(T; Y)": 0.7, "above the bound": 0.2, "rise from layer to layer": -0.3}
    )


def test_the_arms_tell_bins_and_noise_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short training at few epochs. Every arm has its numbers; wide noise knows less than little noise."""
    monkeypatch.setattr(recipe, "NOISES", (0.1, 2.0))
    found = recipe.networks(0, 20, 3e-3, 3, 2, 4)
    assert {name for name, _ in found} == set(recipe._NETWORKS)
    assert all(math.isfinite(value) for value in found.values())
    assert found[recipe.BOUND, "largest I(T; Y)"] == pytest.approx(0.99, abs=1e-6)
    for name in (recipe.FIXED, recipe.OWN, recipe.RELU, recipe.RELU_OWN):
        assert found[name, "above the bound"] < 1e-6 and found[name, "largest I(X; T)"] < 12 + 1e-9
    assert found[recipe.FIXED, "change of the last layer"] != found[recipe.OWN, "change of the last layer"]
    for side in ("lower", "upper"):
        assert found[recipe.NOISY, f"change, noise 2, {side}"] > 0


def test_a_loss_is_what_the_end_has_less_than_the_peak() -> None:
    assert recipe.loss_of([1.0, 4.0, 3.0, 1.5]) == 2.5 and recipe.loss_of([1.0, 2.0]) == 0


# the channel


def test_a_sign_has_half_the_snr_at_first_and_one_bit_at_last() -> None:
    """The known series of a binary input: I = snr / 2 - snr^2 / 4 + snr^3 / 6 - ... nats."""
    for logsnr in (-6.0, -4.0):
        snr = math.exp(logsnr)
        assert float(of_a_sign(logsnr)) * math.log(2) == pytest.approx(snr / 2 - snr**2 / 4 + snr**3 / 6, rel=1e-4)
    assert float(of_a_sign(4.0)) == pytest.approx(1, abs=1e-4)
    # 0.4859 bits at a ratio of 1, from a table of the capacity of binary signalling
    assert float(of_a_sign(0.0)) == pytest.approx(0.4859, abs=1e-4)


def test_the_plane_of_a_diffusion_is_that_of_its_signs() -> None:
    """Six signs, and a label that is the product of two of them with a chance of 0.9.

    Over five seeds the largest errors were 0.041 bits of the draws, 0.062 of the integral and 0.011 of the label.
    """
    bits = (torch.arange(64)[:, None] >> torch.arange(6) & 1).double()
    one = 0.1 + 0.8 * (bits[:, 0] == bits[:, 1]).double()
    task = SpherePatterns(bits, torch.stack([1 - one, one], 1), bits)
    plane = channel_plane(task, 0, 2000, 3, 20)
    assert plane.logsnr.tolist() == [-6 + 1.5 * k for k in range(9)]
    x, y = (torch.tensor([getattr(point, axis) for point in plane.direct]).double() for axis in "xy")
    assert torch.allclose(x, plane.exact, atol=0.08) and float(plane.exact[-1]) == pytest.approx(6, abs=1e-4)
    assert torch.allclose(plane.by_errors[0], plane.exact, atol=0.09)
    assert torch.allclose(plane.by_errors[1], y, atol=0.03)
    assert torch.allclose(plane.by_errors[0][:3], plane.exact[:3], rtol=0.03)
    assert float(y[-1]) == pytest.approx(1 - 0.4689956, abs=1e-4) and bool((y.diff() > -1e-6).all())


def test_the_numbers_of_a_diffusion_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three levels: the direct value rises with the noise by 0.25 bits of the label, and the integral is off by 0.5."""
    direct = [PlanePoint(0, 0), PlanePoint(2, 0.75), PlanePoint(4, 0.5)]
    exact = torch.tensor([0.0, 1.9, 4.0])
    errors = torch.tensor([0.0, 2.0, 3.5]), torch.tensor([0.1, 0.75, 0.9])
    plane = ChannelPlane(torch.tensor([-1.0, 0, 1]), errors, direct, exact)
    monkeypatch.setattr(recipe, "channel_plane", lambda *settings: plane)
    found = recipe.diffusion(0, 1, 1, 1)
    assert found[recipe.DIRECT, "rise with noise"] == pytest.approx(0.25)
    assert found[recipe.ERRORS, "error of I(X_0; X_t)"] == pytest.approx(0.5)
    assert found[recipe.DIRECT, "error of I(X_0; X_t)"] == pytest.approx(0.1)
    assert found[recipe.ERRORS, "off the direct I(Y; X_t)"] == pytest.approx(0.4)
    assert found[recipe.DIRECT, "above the bound"] == pytest.approx(0, abs=1e-6)
    assert found[recipe.DIRECT, "gap to the bound at logsnr 0"] == pytest.approx(0.24, abs=1e-3)
    assert found[recipe.EXACT, "I(X_0; X_t) at logsnr 0"] == pytest.approx(1.9)


# checks


def made_up(**changed: float) -> Numbers:
    """Rows of a claim that holds in every check; `changed` replaces a number."""
    bins = {
        "largest I(X; T)": 12.0,
        "largest I(T; Y)": 0.98,
        "above the bound": -0.01,
        "rise from layer to layer": 0.0,
        "bits lost after the peak": 6.0,
        "gap to the bound": 0.05,
        "gap to the bound, untrained": 0.9,
    }
    numbers = {
        (name, metric): value
        for name in (recipe.FIXED, recipe.OWN, recipe.RELU, recipe.RELU_OWN)
        for metric, value in bins.items()
    }
    numbers |= {(recipe.SCALED, "bits lost after the peak"): 1.0, (recipe.BOUND, "largest I(T; Y)"): 0.99}
    for noise in recipe.NOISES:
        numbers |= {
            (recipe.NOISY, f"lost, noise {noise:g}, upper"): 2.0,
            (recipe.NOISY, f"change, noise {noise:g}, upper"): -1.0,
        }
    numbers |= {
        (recipe.ERRORS, "error of I(X_0; X_t)"): 0.05,
        (recipe.DIRECT, "error of I(X_0; X_t)"): 0.05,
        (recipe.ERRORS, "off the direct I(Y; X_t)"): 0.01,
        (recipe.DIRECT, "rise with noise"): 0.001,
        (recipe.DIRECT, "above the bound"): 0.0001,
        (recipe.DIRECT, "gap to the bound at logsnr 0"): 0.5,
    }
    rows = {key: changed.get("/".join(key), value) for key, value in numbers.items()}
    return Numbers([row(name, "ours", metric, [value], "x") for (name, metric), value in rows.items()])


@pytest.mark.parametrize(
    ("change", "value", "failed"),
    [
        (f"{recipe.FIXED}/bits lost after the peak", 0.9, {0, 2}),
        (f"{recipe.FIXED}/gap to the bound", 0.11, {1}),
        (f"{recipe.SCALED}/bits lost after the peak", 3.1, {2}),
        (f"{recipe.OWN}/bits lost after the peak", 0.9, {3}),
        (f"{recipe.RELU}/bits lost after the peak", 0.9, {4}),
        (f"{recipe.RELU_OWN}/bits lost after the peak", 0.9, {4}),
        (f"{recipe.NOISY}/lost, noise 1, upper", 0.9, {5}),
        (f"{recipe.NOISY}/change, noise 0.1, upper", 0.1, {6}),
        (f"{recipe.RELU}/largest I(X; T)", 12.1, {7}),
        (f"{recipe.OWN}/largest I(T; Y)", 0.991, {7}),
        (f"{recipe.RELU_OWN}/above the bound", 0.001, {7}),
        (f"{recipe.RELU}/rise from layer to layer", 0.1, {8}),
        (f"{recipe.ERRORS}/error of I(X_0; X_t)", 0.13, {9}),
        (f"{recipe.DIRECT}/error of I(X_0; X_t)", 0.13, {9}),
        (f"{recipe.ERRORS}/off the direct I(Y; X_t)", 0.06, {10}),
        (f"{recipe.DIRECT}/rise with noise", 0.02, {11}),
        (f"{recipe.DIRECT}/above the bound", 0.002, {11}),
    ],
)
def test_each_check_follows_its_number(change: str, value: float, failed: set[int]) -> None:
    assert all(recipe.checks(made_up()).values())
    outcomes = list(recipe.checks(made_up(**{change: value})).values())
    assert {k for k, true in enumerate(outcomes) if not true} == failed
