"""Every part keeps the shape contracts, and every kind of violation is detected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("jaxtyping")
from jaxtyping import TypeCheckError

from contracts import held, methods
from softmix import oracle
from softmix.cond import CondError, class_label
from softmix.denoiser import MixtureHead, Network, NormalHead, PointHead, SoftHead, averaged, guided
from softmix.net import DiTSpec, MLPSpec, UNetSpec
from softmix.posterior import HasDensity, HasMean, Point
from softmix.process import PROCESSES, VP
from softmix.rng import Rng

SPECS = [
    (MLPSpec(width=16, depth=1), (3,)),
    (UNetSpec(width=8, depth=1), (3, 8, 8)),
    (DiTSpec(width=16, depth=1), (3, 8, 8)),
]
HEADS = [
    PointHead(),
    NormalHead(),
    MixtureHead(2),
    SoftHead(latent=3, local=0),
    SoftHead(latent=3, local=0, mean="own"),
]


def test_every_room_has_methods_with_contracts() -> None:
    found = {f"{each.__name__}.{name}" for each, name, _ in methods()}
    assert found >= {
        *("Gaussian.noise", "Gaussian.bridge", "Point.mean", "Normal.mean", "Normal.log_prob", "Mixture.mean"),
        *("Mixture.log_prob", "FullMixture.mean", "FullMixture.log_prob", "Empirical.mean", "ImplicitMean.mean"),
        *("Net.forward", "Network.forward", "Wrapped.__call__", "ExactMixture.__call__", "ExactData.__call__"),
    }


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("shape", [(3,), (3, 3, 3), (2, 5)], ids=str)
@pytest.mark.parametrize("t", [0.6, torch.tensor(0.6), torch.tensor([0.5, 0.6, 0.9])], ids=["number", "scalar", "each"])
def test_processes_keep_their_contract(process: Any, shape: tuple[int, ...], t: Any) -> None:
    x0, rng = torch.randn(3, *shape), Rng(0, 3)
    with held():
        noised = process.noise(x0, t, rng)
        assert process.bridge(noised.xt, x0, t, 0.3, rng).shape == x0.shape


@pytest.mark.parametrize(("spec", "shape"), SPECS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("head", HEADS, ids=repr)
@pytest.mark.parametrize("t", [0.6, torch.tensor([0.5, 0.6, 0.9])], ids=["number", "each"])
def test_networks_keep_their_contract(spec: Any, shape: tuple[int, ...], head: Any, t: Any) -> None:
    network = Network(VP(), spec, head, shape, class_label(3))
    xt, cond = torch.randn(3, *shape), torch.tensor([0, -1, 2])
    with held(), torch.no_grad():
        posterior = network(xt, t, cond)
        for wrap in (guided(2.0), *([] if isinstance(posterior, HasMean) else [averaged(2)])):
            wrap(network)(xt, t, cond)
        if isinstance(posterior, HasMean):
            assert posterior.mean.shape == xt.shape
        if isinstance(posterior, HasDensity):
            assert posterior.log_prob(xt).shape == (3,)


@pytest.mark.parametrize("problem", oracle.problems(), ids=lambda problem: problem.name)
def test_exact_denoisers_keep_their_contract(problem: Any) -> None:
    x0 = problem.sample(3, Rng(0, 3))
    with held():
        posterior = problem.denoiser()(x0, torch.tensor([0.2, 0.5, 0.9], dtype=x0.dtype))
        assert posterior.mean.shape == x0.shape
        assert posterior.log_prob(x0).shape == (3,)


# violations, and the contract that detects each


def test_a_mean_without_a_batch_axis_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Point, "mean", property(lambda self: torch.tensor(0.0)))
    with held(), pytest.raises(TypeCheckError, match="mean"):
        _ = Point(torch.zeros(3, 2)).mean


def test_times_of_another_batch_size_are_detected() -> None:
    with held(), pytest.raises((TypeCheckError, RuntimeError)):
        VP().noise(torch.zeros(3, 2), torch.rand(4), Rng(0, 3))


def test_a_step_that_loses_an_axis_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softmix.process.Gaussian.bridge", lambda self, xt, *rest, **named: xt[..., 0])
    with held(), pytest.raises(TypeCheckError, match="bridge"):
        VP().bridge(torch.zeros(3, 2), torch.zeros(3, 2), 0.5, 0.2, Rng(0, 3))


def test_labels_that_are_not_integers_are_detected() -> None:
    network = Network(VP(), MLPSpec(width=16, depth=1), PointHead(), (2,))
    with held(), pytest.raises((TypeCheckError, CondError)):
        network(torch.zeros(3, 2), 0.5, torch.zeros(3))


def test_a_net_that_changes_the_size_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    net = UNetSpec(width=8, depth=1).build(1, 1)

    def halved(self: Any, x: Tensor, logsnr: Tensor, label: Tensor | None = None) -> Tensor:
        return x[..., ::2]

    monkeypatch.setattr("softmix.net.Net.forward", halved)
    with held(), pytest.raises(TypeCheckError, match="net"):
        net(torch.zeros(2, 1, 8, 8), torch.zeros(2))


def test_the_methods_are_restored_afterwards() -> None:
    before = vars(VP)["alpha"], vars(Point)["mean"]
    with held():
        assert vars(Point)["mean"] is not before[1]
    assert (vars(VP)["alpha"], vars(Point)["mean"]) == before
