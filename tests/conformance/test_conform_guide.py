"""Guidance between conditional and unconditional estimates, of means and of draws, everywhere and in an interval."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softmix.cond import class_label
from softmix.denoiser import CallCounter, ExactMixture, Network, PointHead, SoftHead, guided, within
from softmix.net import MLPSpec
from softmix.oracle import correlated
from softmix.posterior import FullMixture, HasMean, Implicit, ImplicitMean
from softmix.process import VP, few
from softmix.rng import Rng
from softmix.sampler import adams, ancestral, ddim, sample

F64 = torch.float64


class Classes:
    """With class k, x0 is from component k of a mixture; with -1, from any."""

    def __init__(self) -> None:
        self.law = correlated().law
        self.process, self.shape = VP(), (2,)

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> FullMixture:
        label = -1 if cond is None else int(cond[0])
        keep = (
            torch.ones(3, dtype=torch.bool, device=xt.device)
            if label < 0
            else torch.arange(3, device=xt.device) == label
        )
        law = self.law.to(xt.device)
        return ExactMixture(VP(), law.weights[keep], law.means[keep], law.covariances[keep])(xt, t)


XT, LABEL = Rng(0, 4).normal((4, 2), F64), torch.ones(4, dtype=torch.long)


def mean(denoiser: object, cond: Tensor | None = LABEL) -> Tensor:
    posterior = denoiser(XT, 0.5, cond)  # type: ignore[operator]
    assert isinstance(posterior, HasMean)
    return posterior.mean


def test_scale_one_is_conditional_and_scale_zero_is_unconditional() -> None:
    bare = Classes()
    conditional, unconditional = mean(bare), mean(bare, None)
    assert (conditional - unconditional).abs().max() > 0.1
    assert (mean(guided(1.0)(bare)) - conditional).abs().max() < 1e-12
    assert (mean(guided(0.0)(bare)) - unconditional).abs().max() < 1e-12
    assert (mean(guided(2.5)(bare)) - (unconditional + 2.5 * (conditional - unconditional))).abs().max() < 1e-12
    assert (mean(guided(3)(bare)) - mean(guided(3.0)(bare))).abs().max() == 0
    assert (mean(guided(lambda a, b: a * b)(bare)) - conditional * unconditional).abs().max() < 1e-12


def test_guidance_needs_a_condition() -> None:
    with pytest.raises(ValueError, match="class labels"):
        guided(2.0)(Classes())(XT, 0.5)


def soft(mean: str = "own") -> Network:
    torch.manual_seed(0)
    head = SoftHead(mean=mean)  # type: ignore[arg-type]
    return Network(VP(), MLPSpec(width=32, depth=2), head, (2,), class_label(3)).double()


def test_implicit_posteriors_share_the_latent() -> None:
    bare = soft()
    conditional, unconditional = bare(XT, 0.5, LABEL), bare(XT, 0.5)
    joined = guided(2.0)(bare)(XT, 0.5, LABEL)
    assert (
        isinstance(conditional, ImplicitMean)
        and isinstance(unconditional, ImplicitMean)
        and isinstance(joined, ImplicitMean)
    )
    a, b = conditional.draws(5, Rng(1, 4)), unconditional.draws(5, Rng(1, 4))
    assert (joined.draws(5, Rng(1, 4)) - (b + 2 * (a - b))).abs().max() < 1e-12
    assert (joined.mean - (2 * conditional.mean - unconditional.mean)).abs().max() < 1e-12
    assert (a - b).abs().max() > 1e-3
    without = guided(2.0)(soft("none"))(XT, 0.5, LABEL)
    assert isinstance(without, Implicit) and not isinstance(without, HasMean)


def test_guidance_of_draws_survives_sampling() -> None:
    labels = torch.tensor([0, 1, 2, -1])
    network = soft().float()
    with torch.no_grad():
        for sampler in (ancestral, ddim):
            plain = sample(network, 4, 3, sampler=sampler, cond=labels)
            once = sample(guided(1.0)(network), 4, 3, sampler=sampler, cond=labels)
            assert (plain - once).abs().max() < 1e-5
            assert (sample(guided(4.0)(network), 4, 3, sampler=sampler, cond=labels) - plain).abs().max() > 1e-3


def test_an_interval_spends_one_evaluation_outside() -> None:
    """Stated in logsnr: VP's cosine at t = 0.5 has logsnr 0."""
    inner = CallCounter(Classes())
    wrapped = within(-1.0, 1.0, guided(3.0))(inner)
    for t, calls in ((0.5, 2), (0.2, 1), (0.8, 1), (torch.tensor(0.5), 2), (torch.full((4,), 0.9), 1)):
        inner.calls = 0
        got = wrapped(XT, t, LABEL)
        assert inner.calls == calls
        truth = guided(3.0)(Classes()) if calls == 2 else Classes()
        assert (got.mean - truth(XT, t, LABEL).mean).abs().max() < 1e-12  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="one time for the whole batch"):
        wrapped(XT, torch.tensor([0.5, 0.5, 0.9, 0.9]), LABEL)


def test_an_interval_is_the_same_for_any_number_of_steps() -> None:
    """The share of steps inside tends to the share of the interval in the grid: from -2 to 2 on the cosine."""
    for n in (10, 40):
        inner = CallCounter(Classes())
        sample(within(-2.0, 2.0, guided(2.0))(inner), 3, n, sampler=ddim, cond=torch.zeros(3, dtype=torch.long))
        inside = [t for t in VP().grid(n)[:-1] if abs(float(VP().logsnr(t))) <= 2]
        assert inner.calls == n + len(inside) and len(inside) > n / 3


@pytest.mark.parametrize("n", [2, 3, 4, 6])
def test_an_end_that_is_a_level_of_the_grid_is_inside(n: int) -> None:
    """The last time of n steps of `few` has logsnr n, up to the rounding of `time` and `logsnr`."""
    for low, high in ((-5.0, float(n)), (float(n), 9.0)):
        inner = CallCounter(Classes())
        sample(within(low, high, guided(2.0))(inner), 3, n, sampler=adams, cond=torch.zeros(3, dtype=torch.long))
        levels = [float(VP().logsnr(t)) for t in few(VP(), n)[:-1]]
        assert inner.calls == n + sum(low - 1e-4 < level < high + 1e-4 for level in levels) > n


def test_the_condition_of_a_network_is_its_label_alone() -> None:
    torch.manual_seed(0)
    network = Network(VP(), MLPSpec(width=32, depth=2), PointHead(), (2,), class_label(3)).double()
    unconditional = mean(network, None)
    assert torch.equal(mean(network, torch.full((4,), -1)), unconditional)
    each = [mean(network, torch.full((4,), k)) for k in range(3)]
    assert all((a - b).abs().max() > 1e-3 for a in each for b in [unconditional, *each] if a is not b)
    mixed = mean(network, torch.tensor([0, 1, 2, -1]))
    assert (mixed - torch.stack([*(each[k][k] for k in range(3)), unconditional[3]])).abs().max() < 1e-12
