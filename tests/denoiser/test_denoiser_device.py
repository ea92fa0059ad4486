"""Denoisers on another device than the CPU.

torch's "meta" device computes nothing, and raises if a tensor was left on the CPU.
"""

from __future__ import annotations

import pytest
import torch

from softmix.cond import class_label
from softmix.denoiser import (
    MapHead,
    MixtureHead,
    Network,
    NormalHead,
    PointHead,
    PublishedSMD,
    SoftAtHighNoise,
    SoftHead,
    autoguided,
    averaged,
    guided,
    within,
)
from softmix.net import DiTSpec, MLPSpec, UNetSpec
from softmix.posterior import HasDensity, HasMean, HasVariance
from softmix.process import VP, Flow
from softmix.rng import Rng

META = torch.device("meta")
HEADS = [PointHead(), NormalHead(), MixtureHead(3, "pixel"), MixtureHead(3, "item"), SoftHead(), SoftHead(mean="none")]
HEADS += [PublishedSMD(), MapHead()]
NETS = {
    "unet": UNetSpec(width=8, depth=1),
    "dit": DiTSpec(width=16, depth=2, patch=2),
    "mlp": MLPSpec(width=8, depth=1),
}


def network(head: object, net: str = "unet") -> Network:
    shape = (2,) if net == "mlp" else (1, 8, 8)
    process = Flow() if isinstance(head, MapHead) else VP()
    return Network(process, NETS[net], head, shape, class_label(3), "v", 0.5).to(META).eval()  # type: ignore[arg-type]


def asked(denoiser: object, shape: tuple[int, ...], t: object) -> None:
    """Every ability of the posterior returns tensors on the device of x_t."""
    xt = torch.empty(3, *shape, device=META)
    belief = denoiser(xt, t, torch.arange(3, device=META))  # type: ignore[operator]
    found = [belief.sample(Rng(0, 3, "a", META)), belief.draws(2, Rng(0, 3, "b", META))[0]]
    found += [belief.mean] if isinstance(belief, HasMean) else []
    found += [belief.var.expand_as(xt)] if isinstance(belief, HasVariance) else []
    assert {(one.device, one.shape) for one in found} == {(META, xt.shape)}
    if isinstance(belief, HasDensity):
        assert belief.log_prob(xt).device == META


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("net", NETS)
def test_a_posterior_is_on_the_device_of_x(head: object, net: str) -> None:
    one = network(head, net)
    for t in (0.3, torch.tensor(0.3), torch.tensor([0.1, 0.3, 1.0]), torch.full((3,), 0.3, device=META)):
        asked(one, one.shape, t)


@pytest.mark.parametrize("name", ["averaged", "guided", "within", "autoguided", "staged"])
def test_a_wrapped_posterior_is_on_the_device_of_x(name: str) -> None:
    soft, plain = network(SoftHead(mean="none")), network(PointHead())
    wrapped = {
        "averaged": averaged(4)(soft),
        "guided": guided(2.0)(network(SoftHead())),
        "within": within(-5.0, 5.0, guided(2.0))(plain),
        "autoguided": autoguided(network(PointHead()), 2.0)(plain),
        "staged": SoftAtHighNoise(network(SoftHead()), -6.0),
    }[name]
    for t in (0.3, torch.tensor(0.3), 1.0):
        asked(wrapped, (1, 8, 8), t)
