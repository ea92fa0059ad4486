"""Samplers on a device that is not the CPU: torch's "meta" device computes nothing, and refuses what a forgotten move
leaves on the CPU. Times stay on the CPU; whatever has the shape of items is where the items are."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from softmix.posterior import Implicit, Point, Posterior
from softmix.posterior.implicit import ImplicitMean
from softmix.process import VE, VP, Flow, Gaussian
from softmix.rng import Rng
from softmix.sampler import SAMPLERS, Sampler, dpm_encoder, drive, edit_friendly, traits
from softmix.sampler.drive import finish

META = torch.device("meta")


@dataclass(frozen=True)
class Half:
    """x0 is believed to be half of x, as a point or by draws around it."""

    process: Gaussian
    soft: bool

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        if not self.soft:
            return Point(xt / 2)

        def head(eta: Tensor) -> Tensor:
            return xt / 2 + eta[:, :, :1, None]

        return ImplicitMean(head, len(xt), (2,), xt, lambda: xt / 2)


def test_a_move_that_is_forgotten_is_refused() -> None:
    with pytest.raises(RuntimeError, match="not on the expected device meta"):
        torch.lerp(torch.ones(3, 2, 2, device=META), torch.zeros(3, 2, 2), 0.5)
    assert isinstance(Half(VP(), True)(torch.ones(3, 2, 2), 0.5), Implicit)


@pytest.mark.parametrize("soft", [False, True], ids=["point", "soft"])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: traits(sampler).name)
def test_a_walk_stays_where_it_began(sampler: Sampler, soft: bool) -> None:
    known = traits(sampler)
    n = max(known.least, 5)
    for process in (VP(), Flow(), VE()):
        rng = Rng(0, 3, "walk", META)
        x, seen = process.prior((3, 2, 2), rng.child("prior")), []
        steps = drive(Half(process, soft), sampler, x, known.grid(process, n), rng)
        end = finish(steps, lambda step, seen=seen: seen.append(step.preview().device))
        assert end.device == META and set(seen) == {META} and len(seen) == known.evaluations(n)


@pytest.mark.parametrize("encoder", [edit_friendly, dpm_encoder])
def test_a_code_is_where_its_images_are(encoder: Sampler) -> None:
    x0, rng = torch.empty(3, 2, 2, device=META), Rng(0, 3, "code", META)
    code = finish(drive(Half(VP(), False), encoder, x0, torch.linspace(1, 0, 6, dtype=torch.float64), rng))
    assert {code.noise.device, code.path.device, code.start(2).device} == {META}
