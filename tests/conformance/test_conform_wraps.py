"""Autoguidance, and custom wraps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softmix.denoiser import (
    CallCounter,
    MapHead,
    Network,
    PointHead,
    SoftHead,
    adjusted,
    autoguided,
    guided,
    wiener,
    within,
)
from softmix.net import MLPSpec
from softmix.posterior import Implicit, Point, Posterior
from softmix.process import VE, VP, Flow
from softmix.rng import Rng
from softmix.sampler import adams, sample

F64 = torch.float64


def normal(mean: float, var: float) -> object:
    return wiener(VE(), torch.tensor([mean], dtype=F64), torch.tensor([[var]], dtype=F64))


@pytest.mark.parametrize("weak_var", [0.2, 0.5, 2.0])
def test_autoguidance_between_gaussians(weak_var: float) -> None:
    """The guided score has slope -(w / (l + sigma^2) - (w - 1) / (l_weak + sigma^2)): a blurred weak model narrows the
    samples, a weak model that is too narrow widens them, and an equal one has no effect.
    """
    strong, weak, w = normal(0.4, 0.5), normal(0.4, weak_var), 1.6
    both = autoguided(weak, w)(strong)  # type: ignore[arg-type]
    x = torch.linspace(-3, 3, 7, dtype=F64)[:, None]
    for t in (0.3, 0.6):
        noise = float(VE().sigma(t)) ** 2
        score = (both(x, t).mean - x) / noise  # type: ignore[attr-defined]
        slope = -(w / (0.5 + noise) - (w - 1) / (weak_var + noise))
        assert torch.allclose(score, slope * (x - 0.4), atol=1e-9)
    end = sample(both, 4000, 64, shape=(1,), sampler=adams, batch=4000)
    assert (float(end.var()) < 0.45) == (weak_var > 0.5) and (float(end.var()) > 0.55) == (weak_var < 0.5)
    assert (autoguided(weak, 1.0)(strong)(x, 0.5).mean - strong(x, 0.5).mean).abs().max() < 1e-12  # type: ignore[arg-type, operator]


def test_autoguidance_of_draws_shares_the_latent() -> None:
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(Network(VP(), MLPSpec(width=32, depth=2), SoftHead(mean="none"), (2,)).double())
    x = Rng(0, 4).normal((4, 2), F64)
    joined = autoguided(nets[1], 2.0)(nets[0])(x, 0.5)
    strong, weak = (net(x, 0.5).draws(3, Rng(1, 4)) for net in nets)
    assert isinstance(joined, Implicit) and torch.allclose(joined.draws(3, Rng(1, 4)), weak + 2 * (strong - weak))
    counted = CallCounter(nets[1])
    sample(within(-2, 2, autoguided(counted, 2.0))(nets[0].float()), 2, 10, shape=(2,))
    assert 0 < counted.calls < 10


def test_autoguidance_of_flow_maps_passes_the_target_time_to_both() -> None:
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(Network(Flow(), MLPSpec(width=32, depth=2), MapHead(), (2,)).double())
    x = Rng(0, 4).normal((4, 2), F64)
    strong, weak = (net(x, 0.7, to=0.3).mean for net in nets)
    joined = autoguided(nets[1], 2.0)(nets[0])
    assert torch.allclose(joined(x, 0.7, to=0.3).mean, weak + 2 * (strong - weak))  # type: ignore[call-arg, attr-defined]
    assert joined.two_times  # type: ignore[attr-defined]


def test_guidance_of_an_embedding_needs_unconditional() -> None:
    net = Network(VP(), MLPSpec(width=32, depth=2), PointHead(), (2,))
    with pytest.raises(ValueError, match="needs unconditional"):
        guided(2.0)(net)(torch.zeros(3, 2), 0.5, torch.zeros(3, 4, 8))


def test_a_custom_function_of_the_posterior() -> None:
    torch.manual_seed(0)
    bare = Network(VP(), MLPSpec(width=32, depth=2), PointHead(), (2,)).double()

    def change(posterior: Posterior, xt: Tensor, t: Tensor | float) -> Posterior:
        assert isinstance(posterior, Point)
        return Point(posterior.mean.clamp(-0.1, 0.1) + 0 * xt)

    wrapped = adjusted(change)(bare)
    assert float(sample(wrapped, 3, 4, sampler=adams, shape=(2,)).abs().max()) <= 0.1 + 1e-6
    assert wrapped.process == bare.process
