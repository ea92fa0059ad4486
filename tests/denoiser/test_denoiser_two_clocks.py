"""Views of a model of two clocks: one signal given the other, and the pair on a leg."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softmix import Cond
from softmix.cond import class_label
from softmix.denoiser import Given, Network, OnPath, PointHead, SoftHead, averaged, given, guided_by_other
from softmix.denoiser.head import HeadSpec
from softmix.denoiser.wrap import CallCounter
from softmix.net import MLPSpec, TwoStreamsSpec, UNetSpec
from softmix.oracle import MixtureProblem, PairedProblem, gaussian, joint
from softmix.posterior import FullMixture, HasMean, HasVariance, Mixture, Normal, Point, Posterior, need, part_of
from softmix.process import JOINT, VP, Leg, TwoClocks, slower
from softmix.rng import Rng

F64 = torch.float64


def pair(n: int = 4) -> tuple[Tensor, Tensor]:
    z, _ = joint().draw(n, Rng(0, n))
    return z[:, :2], z[:, 2:]


def mean_of(posterior: Posterior) -> Tensor:
    return need(posterior, HasMean, "test").mean


# one signal given the other


@pytest.mark.parametrize("t", [1.0, 0.6, 0.05])
def test_x_given_a_clean_y_has_the_posterior_of_pairs(t: float) -> None:
    problem = joint()
    x, y = pair()
    xt = VP().noise(x, t, Rng(1, 4)).xt
    found = given(0)(problem.denoiser())(xt, t, Cond(value=y))
    right = PairedProblem("pairs", problem.law, VP(), (2,), (2,)).denoiser()(xt, t, Cond(value=y))
    assert isinstance(found, HasVariance)
    assert torch.allclose(found.mean, right.mean, atol=1e-8) and torch.allclose(found.var, right.var, atol=1e-8)


@pytest.mark.parametrize(("stream", "held"), [(0, 0.5), (1, 0.0), (1, 0.3)])
def test_a_view_asks_for_its_signal_at_its_time_and_the_other_at_the_held_one(stream: int, held: float) -> None:
    problem, signals = joint(), pair()
    t = torch.tensor([0.2, 0.5, 0.8, 1.0], dtype=F64)
    view = given(stream, held)(problem.denoiser())
    found = view(signals[stream], t, Cond(value=signals[1 - stream]))
    times = [t, torch.full_like(t, held)]
    whole = problem.denoiser()(torch.cat(signals, 1), torch.stack(times if stream == 0 else times[::-1], 1))
    own = slice(2) if stream == 0 else slice(2, 4)
    assert torch.allclose(mean_of(found), whole.mean[:, own])
    assert torch.equal(found.draws(3, Rng(2, 4)), whole.draws(3, Rng(2, 4))[..., own])
    assert view.process == VP() and view.shape == (2,)  # type: ignore[attr-defined]


def test_one_time_serves_all_items() -> None:
    view, (x, y) = given(0)(joint().denoiser()), pair()
    at = [view(x, t, Cond(value=y)) for t in (0.4, torch.tensor(0.4), torch.full((4,), 0.4))]
    assert torch.allclose(mean_of(at[0]), mean_of(at[1])) and torch.allclose(mean_of(at[0]), mean_of(at[2]), atol=1e-6)


def test_a_view_without_the_other_signal_is_refused() -> None:
    x, y = pair()
    view = given(0)(joint().denoiser())
    for cond in (None, Cond(), Cond(value=y[:, :1]), torch.zeros(4, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"x given y was asked for, and the condition needs y of shape \[2\]"):
            view(x, 0.5, cond)
    with pytest.raises(TypeError, match="needs a model of two signals with a time each"):
        given(0)(gaussian().denoiser())


def network(head: HeadSpec | None = None, output: str = "v") -> Network:
    torch.manual_seed(0)
    clocks = TwoClocks(VP(), (1, 2), 3, low=0.01)
    spec = TwoStreamsSpec(UNetSpec(width=8, mults=(1,), depth=1), 1)
    return Network(clocks, spec, head or PointHead(), (3, 4, 4), class_label(3), output).double()  # type: ignore[arg-type]


def test_other_conditions_reach_the_model() -> None:
    model = network()
    x, y = (Rng(k, 2).normal((2, size, 4, 4), F64) for k, size in enumerate((1, 2)))
    label = torch.tensor([0, 2])
    found = given(0)(model)(x, 0.5, Cond(label=label, image=y))
    whole = model(torch.cat([x, y], 1), torch.tensor([[0.5, 0.0]], dtype=F64), label)
    assert torch.equal(mean_of(found), mean_of(whole)[:, :1])
    assert not torch.equal(mean_of(given(0)(model)(x, 0.5, Cond(image=y))), mean_of(found))


# a fresh condition


def test_a_fresh_condition_is_drawn_at_each_call_with_the_noise_of_its_pace() -> None:
    """The difference of two answers of a linear model is the gain times the difference of two noises."""
    problem, n = joint(components=1), 4000
    z, _ = problem.draw(n, Rng(3, n))
    x, y = z[:1, :2].expand(n, 2), z[:1, 2:].expand(n, 2)
    ratio, t = 0.3, 0.7
    view = Given(problem.denoiser(), 0, lambda at: slower(VP(), ratio, at), Rng(4, n))
    answers = [mean_of(view(x, t, Cond(value=y))) for _ in range(2)]
    assert not torch.equal(*answers)
    its = slower(VP(), ratio, t).reshape(1)
    times = torch.tensor([[t, float(its)]], dtype=F64)
    unit = torch.cat([x[:1], VP().alpha(its)[:, None] * y[:1]], 1)
    steps = torch.cat([torch.zeros(2, 2), torch.eye(2)], 1).double() * VP().sigma(its)
    gain = problem.denoiser()(unit + steps, times).mean[:, :2] - problem.denoiser()(unit, times).mean[:, :2]
    for answer in answers:
        off = answer - problem.denoiser()(unit, times).mean[:, :2]
        assert float(off.mean(0).abs().max()) < 5 * float((gain.T @ gain).diagonal().max().sqrt()) / n**0.5
        assert torch.allclose(off.T.cov(), gain.T @ gain, rtol=0.1, atol=1e-4)


# the pair on a leg


def test_the_pair_on_a_leg_is_asked_at_its_times() -> None:
    problem, z = joint(), torch.cat(pair(), 1)
    leg = Leg((1.0, 0.4), (0.0, 0.0))
    found = OnPath(problem.denoiser(), leg)(z, 0.5)
    assert isinstance(found, FullMixture)
    assert torch.equal(found.mean, problem.denoiser()(z, torch.tensor([[0.5, 0.2]], dtype=F64)).mean)
    assert OnPath(problem.denoiser(), JOINT.legs[0]).process == VP()
    with pytest.raises(ValueError, match="one signal is held: take `given`"):
        OnPath(problem.denoiser(), Leg((1.0, 0.4), (0.0, 0.4)))


# networks


@pytest.mark.parametrize("output", ["v", "eps", "flow", "edm"])
def test_a_clean_signal_is_returned_as_it_is(output: str) -> None:
    model, z = network(output=output), Rng(0, 2).normal((2, 3, 4, 4), F64)
    mean = mean_of(model(z, torch.tensor([[0.6, 0.0]], dtype=F64)))
    assert torch.equal(mean[:, 1:], z[:, 1:]) and not torch.equal(mean[:, :1], z[:, :1])
    assert bool(mean_of(model(z, torch.tensor([[1.0, 1.0]], dtype=F64))).isfinite().all())


def test_a_network_has_a_pair_of_times_for_each_item() -> None:
    model, z = network(), Rng(0, 3).normal((3, 3, 4, 4), F64)
    t = torch.tensor([[0.9, 0.1], [0.3, 0.8], [0.5, 0.0]], dtype=F64)
    together = mean_of(model(z, t))
    for k in range(3):
        assert torch.allclose(mean_of(model(z[k : k + 1], t[k : k + 1]))[0], together[k], atol=1e-12)
    for wrong in (0.5, torch.tensor([0.1, 0.2, 0.3]), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match=r"pair of times|one for x and one for y"):
            model(z, wrong)


# parts of a posterior


def test_the_part_of_a_posterior_has_its_abilities() -> None:
    value = torch.arange(12, dtype=F64).reshape(3, 4)
    cut = lambda x0: x0[..., :1] if x0.shape[-1] > 1 else x0  # noqa: E731
    point = part_of(Point(value), cut)
    assert isinstance(point, Point) and torch.equal(point.mean, value[:, :1])
    wide = part_of(Normal(value, torch.full((3, 1), 4.0, dtype=F64)), cut)
    assert isinstance(wide, HasVariance) and torch.equal(wide.var, torch.full((3, 1), 4.0, dtype=F64))
    assert torch.equal(wide.sample(Rng(0, 3)), Normal(value, torch.tensor(4.0)).sample(Rng(0, 3))[:, :1])
    mixture = part_of(Mixture(torch.zeros(3, 2), torch.stack([value, -value], 1), torch.ones(1)), cut)
    assert isinstance(mixture, HasVariance) and torch.allclose(mixture.var, 1 + value[:, :1] ** 2)


def test_the_part_of_a_soft_mixture_has_a_mean_if_the_whole_has() -> None:
    x, y = Rng(0, 2).normal((2, 1, 4, 4), F64), Rng(1, 2).normal((2, 2, 4, 4), F64)
    own, none = (given(0)(network(SoftHead(latent=3, local=0, mean=mean))) for mean in ("own", "none"))  # type: ignore[arg-type]
    assert isinstance(own(x, 0.5, Cond(image=y)), HasMean)
    lacking = none(x, 0.5, Cond(image=y))
    with pytest.raises(TypeError, match="averaged"):
        need(lacking, HasMean, "adams")
    filled = given(0)(averaged(8)(network(SoftHead(latent=3, local=0, mean="none"))))
    assert isinstance(filled(x, 0.5, Cond(image=y)), HasMean)
    assert lacking.draws(5, Rng(0, 2)).shape == (5, 2, 1, 4, 4)


def test_a_view_is_on_the_device_of_the_state(device: torch.device) -> None:
    clocks = TwoClocks(VP(), (2, 2), 1)
    model = Network(clocks, TwoStreamsSpec(MLPSpec(width=16, depth=2)), PointHead(), (4,)).to(device)
    x, y = (Rng(k, 3, device=device).normal((3, 2)) for k in (0, 1))
    fresh = Given(model, 0, lambda t: 0.3 * t, Rng(2, 3, device=device))
    for view in (given(0)(model), given(1, 0.4)(model), fresh):
        assert mean_of(view(x, 0.5, Cond(value=y))).device.type == device.type


# guidance between the signals


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_moves_each_mean_from_that_without_the_other_signal(scale: float) -> None:
    """The means without the other are those of the marginals. alpha(1) is not quite 0: 2e-3 of them."""
    problem, (x, y) = joint(), pair()
    times = torch.tensor([[0.3, 0.7], [0.5, 0.5], [0.9, 0.2], [0.2, 1.0]], dtype=F64)
    counter = CallCounter(problem.denoiser())
    guided = guided_by_other(scale, Rng(1, 4))(counter)
    z = torch.cat([x, y], 1)
    found, together = mean_of(guided(z, times)), problem.denoiser()(z, times).mean
    assert counter.calls == 3 and guided.process == problem.process
    for stream, part in enumerate((slice(2), slice(2, 4))):
        alone = MixtureProblem("one", problem.marginal(stream), VP(), (2,)).denoiser()
        apart = torch.cat([alone(z[k : k + 1, part], float(times[k, stream])).mean for k in range(4)])
        right = apart + scale * (together[:, part] - apart)
        assert torch.allclose(found[:, part], right, atol=2e-3 * abs(scale - 1) + 1e-9)
    # the two signals know much of each other here
    assert scale == 1 or float((found - together).abs().max()) > 0.1


class Swapped:
    """A model that answers x by y_t' and y by x_t, and records its conditions."""

    def __init__(self) -> None:
        self.process, self.shape, self.conds = TwoClocks(VP(), (2, 2), 1), (4,), list[object]()

    def __call__(self, xt: Tensor, t: Tensor | float, cond: object = None) -> Point:
        self.conds.append(cond)
        return Point(xt.roll(2, 1))


def test_guidance_puts_noise_in_the_place_of_the_other_signal() -> None:
    """N(0, 1) anew for each signal, 4 standard errors; all three questions have the condition."""
    model, n = Swapped(), 4000
    z, label = torch.full((n, 4), 9.0, dtype=F64), torch.zeros(n, dtype=torch.long)
    seen = mean_of(guided_by_other(0.0, Rng(3, n))(model)(z, torch.tensor([[0.4, 0.6]]), Cond(label=label)))
    assert float(seen.mean(0).abs().max()) < 4 / n**0.5
    assert torch.allclose(seen.T.cov(), torch.eye(4, dtype=F64), atol=4 * 2**0.5 / n**0.5)
    assert len(model.conds) == 3 and all(isinstance(cond, Cond) and cond.label is label for cond in model.conds)
    other = mean_of(guided_by_other(0.0, Rng(4, n))(model)(z, torch.tensor([[0.4, 0.6]])))
    assert not torch.equal(seen, other)


def test_guidance_between_signals_needs_two_clocks() -> None:
    with pytest.raises(TypeError, match="guided_by_other needs a model of two signals"):
        guided_by_other(2.0, Rng(0, 4))(gaussian((2,)).denoiser())
