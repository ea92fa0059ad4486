"""Samplers on a device that is not the CPU.

The "meta" device of torch computes nothing and refuses tensors of the CPU. Times stay on the CPU. Tensors of the shape
of items are on the device of the items.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from softmix.denoiser import Network, PointHead, device_of, guided
from softmix.net import MLPSpec
from softmix.posterior import Implicit, Point, Posterior
from softmix.posterior.implicit import ImplicitMean
from softmix.process import VE, VP, Flow, Gaussian
from softmix.rng import Rng
from softmix.sampler import SAMPLERS, Sampler, dpm_encoder, drive, edit_friendly, traits
from softmix.sampler.drive import finish

META = torch.device("meta")


@dataclass(frozen=True)
class Half:
    """The posterior of x0 is at x / 2: a point, or draws around it."""

    process: Gaussian
    soft: bool

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        if not self.soft:
            return Point(xt / 2)

        def head(eta: Tensor) -> Tensor:
            return xt / 2 + eta[:, :, :1, None]

        return ImplicitMean(head, len(xt), (2,), xt, lambda: xt / 2)


def test_the_meta_device_refuses_tensors_of_the_cpu() -> None:
    with pytest.raises(RuntimeError, match="not on the expected device meta"):
        torch.lerp(torch.ones(3, 2, 2, device=META), torch.zeros(3, 2, 2), 0.5)
    assert isinstance(Half(VP(), True)(torch.ones(3, 2, 2), 0.5), Implicit)


@pytest.mark.parametrize("soft", [False, True], ids=["point", "soft"])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: traits(sampler).name)
def test_a_sampler_stays_on_the_device_of_x(sampler: Sampler, soft: bool) -> None:
    known = traits(sampler)
    n = max(known.least, 5)
    for process in (VP(), Flow(), VE()):
        rng = Rng(0, 3, "walk", META)
        x, seen = process.prior((3, 2, 2), rng.child("prior")), []
        steps = drive(Half(process, soft), sampler, x, known.grid(process, n), rng)
        end = finish(steps, lambda step, seen=seen: seen.append(step.preview().device))
        assert end.device == META and set(seen) == {META} and len(seen) == known.evaluations(n)


@pytest.mark.parametrize("encoder", [edit_friendly, dpm_encoder])
def test_a_code_is_on_the_device_of_its_images(encoder: Sampler) -> None:
    x0, rng = torch.empty(3, 2, 2, device=META), Rng(0, 3, "code", META)
    code = finish(drive(Half(VP(), False), encoder, x0, torch.linspace(1, 0, 6, dtype=torch.float64), rng))
    assert {code.noise.device, code.path.device, code.start(2).device} == {META}


def test_samples_are_by_default_on_the_device_of_the_weights() -> None:
    """A denoiser without weights is sampled on the CPU."""
    net = Network(VP(), MLPSpec(16, 1), PointHead(), (2,)).to(META)
    assert device_of(net) == device_of(guided(2.0)(net)) == META
    assert device_of(Half(VP(), False)) == torch.device("cpu")
