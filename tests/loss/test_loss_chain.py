"""`ChainMMD`: the gradient through a chain, checkpointing, its views, and the denoiser that knows its chain."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from softmix.cond import Cond, CondSpec
from softmix.config import from_json, to_json
from softmix.denoiser import (
    CallCounter,
    CategoricalHead,
    MapHead,
    MixtureHead,
    Network,
    NoiseHead,
    PointHead,
    SoftHead,
    TunedDenoiser,
    TunedError,
    autoguided,
    guided,
    is_tuned,
    recomputed,
    within,
)
from softmix.info import log_density
from softmix.loss import (
    ChainMMD,
    ComparedViews,
    CubicKernel,
    EnergyKernel,
    FeatureExtractor,
    GaussianKernel,
    Stage,
    loss_of,
    median_distance,
    unbiased_mmd,
)
from softmix.loss.drift import means_of_cells
from softmix.measure import guided_by_draws, guided_by_mean
from softmix.net import MLPSpec, UNetSpec
from softmix.posterior import Point, Posterior
from softmix.process import VP, Flow, Gaussian, Interpolant, LabelShift, Masked, Noised, ShiftDDPM, few
from softmix.rng import Rng
from softmix.sampler import SamplerError, adams, ancestral, ddim, on_grid, sample
from softmix.train import Denoise, Times
from softmix.train.memory import saved_for_backward

pytestmark = pytest.mark.usefixtures("on_device")

F64 = torch.float64
IMAGE = (1, 8, 8)
Way = Literal["ddim", "ancestral"]
BOTH = pytest.mark.parametrize("way", ["ddim", "ancestral"])


def network(head: Any = None, shape: tuple[int, ...] = (2,), cond: CondSpec | None = None, width: int = 8) -> Network:
    torch.manual_seed(0)
    net = MLPSpec(width=width, depth=2) if len(shape) == 1 else UNetSpec(width=8, depth=1)
    model = Network(VP(), net, head or PointHead(), shape, cond or CondSpec()).to(torch.zeros(()).device)
    # the last layer of a new network is 0, and then no gradient reaches the others
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def data(n: int, shape: tuple[int, ...] = (2,), dtype: torch.dtype = F64, cond: Any = None) -> Noised:
    x0 = Rng(0, n, "x0").normal((n, *shape), dtype)
    return VP().noise(x0, torch.full((n,), 0.5, dtype=F64), Rng(1, n), cond)


def soft(mean: Literal["own", "none"] = "none") -> SoftHead:
    return SoftHead(where="all", latent=2, local=0, mean=mean)


class Linear(nn.Module):
    """The mean of x0 is a x_t + b, at every time."""

    def __init__(self, a: float = 0.4, b: float = 0.3):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a, dtype=F64)), nn.Parameter(torch.tensor(b, dtype=F64))
        self.process = VP()

    def forward(self, xt: Tensor, t: Tensor | float, cond: Any = None) -> Posterior:
        return Point(self.a * xt + self.b)


# the chain


@BOTH
def test_the_samples_are_those_of_the_sampler_from_the_same_noise(way: Way) -> None:
    model, noised = network(soft("own")).double(), data(5)
    loss, rng = ChainMMD(steps=3, sampler=way), Rng(7, 5)
    found = loss.generated(model, noised, rng)
    x, grid = VP().prior((5, 2), rng.child("prior")).double(), VP().grid(3)
    stream = rng.child("chain")
    with torch.no_grad():
        for t, s in pairwise(grid):
            posterior = model(x, t)
            x0 = posterior.mean if way == "ddim" else posterior.sample(stream)  # type: ignore[attr-defined]
            alpha, sigma = VP().alpha(t), VP().sigma(t)
            x = VP().alpha(s) * x0 + VP().sigma(s) * (x - alpha * x0) / sigma
    assert found.requires_grad and torch.allclose(found, x, atol=1e-10)


def test_the_gradient_reaches_every_step() -> None:
    """Of a linear model x_K = c(a) x_1 + d(a, b): the derivative by a, from the recursion of c."""
    model, loss, noised, rng = Linear(), ChainMMD(steps=3), data(4), Rng(3, 4)
    found = loss.generated(model, noised, rng)  # type: ignore[arg-type]
    (slope,) = torch.autograd.grad(found.sum(), model.a)
    a, b, h = 0.4, 0.3, 1e-6

    def end(a: float) -> Tensor:
        x = VP().prior((4, 2), rng.child("prior")).double()
        for t, s in pairwise(VP().grid(3)):
            x0 = a * x + b
            x = VP().alpha(s) * x0 + VP().sigma(s) * (x - VP().alpha(t) * x0) / VP().sigma(t)
        return x.sum()

    assert float(slope) == pytest.approx(float(end(a + h) - end(a - h)) / (2 * h), rel=1e-6)


@pytest.mark.parametrize("recompute", ["no", "yes"])
@pytest.mark.parametrize("way", ["ddim", "ancestral"])
@pytest.mark.parametrize("kernel", [CubicKernel(), GaussianKernel()], ids=["cubic", "gaussian"])
def test_the_gradient_is_that_of_finite_differences(kernel: Any, way: Way, recompute: Any) -> None:
    """Of the loss, in float64, along a random direction of all weights."""
    model = network(PointHead() if way == "ddim" else soft()).double()
    loss, noised = ChainMMD(steps=3, kernel=kernel, sampler=way, recompute=recompute), data(6)
    frozen = loss.freeze(network(), noised.x0)
    value = lambda: loss.ask(model, noised, Rng(5, 6), Stage(frozen=frozen)).mean()  # noqa: E731
    weights = list(model.parameters())
    direction = [Rng(k, 1).normal((1, *p.shape), F64)[0] for k, p in enumerate(weights)]
    slopes = torch.autograd.grad(value(), weights, allow_unused=True)
    found = sum(float((slope * d).sum()) for slope, d in zip(slopes, direction, strict=True) if slope is not None)
    ends, h = [], 1e-6
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p += sign * h * d
            ends.append(float(value()))
    assert abs(found) > 1e-4
    assert found == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)


@BOTH
def test_checkpointing_changes_neither_values_nor_gradients(way: Way) -> None:
    model, noised, gradients = network(PointHead() if way == "ddim" else soft()), data(6, dtype=torch.float32), []
    for recompute in ("no", "yes"):
        loss = ChainMMD(steps=4, sampler=way, recompute=recompute)  # type: ignore[arg-type]
        values = loss.ask(model, noised, Rng(5, 6), Stage())
        slopes = torch.autograd.grad(values.mean(), list(model.parameters()), allow_unused=True)
        gradients.append([values.detach(), *(slope for slope in slopes if slope is not None)])
    assert len(gradients[0]) == len(gradients[1]) > 5
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-7)


def test_checkpointing_saves_the_memory_of_all_evaluations_but_one() -> None:
    """Eight steps: the bytes that autograd holds. Measured: 0.1 % on points, 1 % on images."""
    for shape, n in (((2,), 64), (IMAGE, 16)):
        model, noised = network(shape=shape, width=64), data(n, shape, torch.float32)
        losses = [ChainMMD(steps=8, recompute=each) for each in ("no", "yes")]  # type: ignore[arg-type]
        works = [partial(loss.generated, model, noised, Rng(0, n)) for loss in losses]
        held = [saved_for_backward(work, model.parameters())[1] for work in works]
        assert held[1] < 0.05 * held[0]


def test_a_recomputed_posterior_advances_the_stream_as_the_posterior_does() -> None:
    model, x = network(soft()), data(3, dtype=torch.float32).xt
    plain, again = Rng(0, 3), Rng(0, 3)
    right = [model(x, 0.5).sample(plain) for _ in range(2)]
    found = [recomputed(model)(x, 0.5).sample(again) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(right, found, strict=True))
    assert plain.draws == again.draws == 2 and not torch.equal(*right)


def test_a_recomputed_evaluation_is_made_twice_with_a_gradient() -> None:
    counted = CallCounter(network())
    noised = data(4, dtype=torch.float32)
    value = ChainMMD(steps=3, recompute="yes").generated(counted, noised, Rng(0, 4))
    assert counted.calls == 3
    value.sum().backward()
    assert counted.calls == 6


# the loss


def test_the_loss_of_a_batch_is_the_unbiased_discrepancy_of_the_samples_and_the_data() -> None:
    model, noised, loss = network().double(), data(6), ChainMMD(steps=2, pixels=0.7, kernel=EnergyKernel())
    found = loss_of(loss, model, noised, Rng(5, 6))
    drawn = loss.generated(model, noised, Rng(5, 6))
    right = 0.7 * unbiased_mmd(drawn, noised.x0, EnergyKernel(), median_distance(noised.x0)).mean()
    assert found.shape == (6,) and float(found.mean()) == pytest.approx(float(right), rel=1e-12)


def test_the_scale_is_that_of_the_frozen_data_and_not_of_the_batch() -> None:
    model, noised, loss = network().double(), data(6), ChainMMD(steps=2)
    frozen = loss.freeze(model, 5 * noised.x0)
    right = unbiased_mmd(
        loss.generated(model, noised, Rng(5, 6)), noised.x0, GaussianKernel(), 5 * median_distance(noised.x0)
    )
    found = loss.ask(model, noised, Rng(5, 6), Stage(frozen=frozen))
    assert torch.allclose(found, right, atol=1e-12)


def test_each_step_has_fresh_noise_that_depends_on_the_item_alone() -> None:
    model, noised, loss = network().double(), data(4), ChainMMD(steps=2)
    whole, other = (loss.generated(model, noised, Rng(seed, 4)) for seed in (5, 6))
    one = loss.generated(model, noised.take(slice(2, 3)), Rng(5, [2]))
    assert torch.allclose(one, whole[2:3], atol=1e-12) and not torch.allclose(whole, other)


def test_features_are_means_over_cells_of_the_frozen_network_and_count_as_one_discrepancy() -> None:
    model, noised = network(shape=IMAGE).double(), data(6, IMAGE)
    loss = ChainMMD(steps=2, pixels=0.5, features=2.0, cells=2, kernel=CubicKernel())
    old = network(shape=IMAGE).double()
    frozen = loss.freeze(old, noised.x0)
    drawn = loss.generated(model, noised, Rng(5, 6))
    features = FeatureExtractor(old, 0.05, noised.x0)
    views = [[means_of_cells(h.transpose(1, 2), 2).flatten(1) for h in features(x)] for x in (drawn, noised.x0)]
    assert len(views[0]) > 1 and views[0][0].shape[1] == 4 * 8
    of_blocks = [float(unbiased_mmd(a, b, CubicKernel()).mean()) for a, b in zip(*views, strict=True)]
    right = 0.5 * float(unbiased_mmd(drawn.flatten(1), noised.x0.flatten(1), CubicKernel()).mean())
    right += 2.0 * sum(of_blocks) / len(of_blocks)
    found = loss.ask(model, noised, Rng(5, 6), Stage(frozen=frozen)).mean()
    assert float(found) == pytest.approx(right, rel=1e-9)
    # features alone
    loss = replace(loss, pixels=0.0)
    found = loss.ask(model, noised, Rng(5, 6), Stage(frozen=loss.freeze(old, noised.x0))).mean()
    assert float(found) == pytest.approx(2.0 * sum(of_blocks) / len(of_blocks), rel=1e-9)


def test_a_trial_without_a_frozen_copy_leaves_the_network_trainable() -> None:
    model, noised = network(shape=IMAGE), data(4, IMAGE, torch.float32)
    loss = ChainMMD(steps=1, features=1.0)
    loss.ask(model, noised, Rng(5, 4), Stage()).mean().backward()
    assert all(parameter.requires_grad for parameter in model.parameters())


class OwnFeatures(ChainMMD):
    """Features of the caller: the first row of pixels."""

    def extractor(self, network: Network, x0: Tensor) -> nn.Module:
        class Row(nn.Module):
            def forward(self, x: Tensor) -> list[Tensor]:
                return [x[:, :, 0]]

        return Row()


def test_a_derived_class_has_features_of_its_own() -> None:
    model, noised, loss = network(shape=IMAGE).double(), data(4, IMAGE), OwnFeatures(steps=1, pixels=0.0, features=1.0)
    found = loss.ask(model, noised, Rng(5, 4), Stage()).mean()
    drawn, real = loss.generated(model, noised, Rng(5, 4))[:, 0, 0], noised.x0[:, 0, 0]
    right = unbiased_mmd(drawn, real, GaussianKernel(), median_distance(real)).mean()
    assert float(found) == pytest.approx(float(right), rel=1e-9)


@pytest.mark.parametrize("as_cond", [False, True])
def test_labels_are_those_of_the_real_items_in_the_chain_and_in_the_comparison(as_cond: bool) -> None:
    labels = torch.tensor([0, 1, 0, 1, -1, 0])
    cond: Any = Cond(label=labels) if as_cond else labels
    asked: list[Any] = []
    model = network(cond=CondSpec((("class", 2),))).double()

    class Recorded(nn.Module):
        process = VP()

        def forward(self, xt: Tensor, t: Any, cond: Any = None) -> Posterior:
            asked.append(cond)
            return model(xt, t, cond)

    noised, loss = data(6, cond=cond), ChainMMD(steps=2)
    found = loss.ask(Recorded(), noised, Rng(5, 6), Stage())  # type: ignore[arg-type]
    assert len(asked) == 2 and all(each is cond for each in asked)
    drawn = loss.generated(model, noised, Rng(5, 6))
    right = unbiased_mmd(drawn, noised.x0, GaussianKernel(), median_distance(noised.x0), labels)
    assert torch.allclose(found, right)


def test_a_process_with_a_frame_is_sampled_in_its_frame() -> None:
    """With a shift by the class: the mean of x_1 is that of the class, and so are the samples of the exact model."""
    torch.manual_seed(0)
    spec = CondSpec((("class", 2),))
    model = Network(ShiftDDPM(shift=LabelShift()), MLPSpec(8, 2), PointHead(), (2,), spec, "eps")
    model = model.to(torch.zeros(()).device).double()
    labels = torch.tensor([0, 1, 0, 1])
    noised = model.process.noise(data(4).x0, torch.full((4,), 0.5, dtype=F64), Rng(1, 4), labels)
    loss = ChainMMD(steps=2)
    found = loss.generated(model, noised, Rng(5, 4))
    tuned = loss.made(model, 0, 1.0)
    x = model.process.prior((4, 2), Rng(5, 4).child("prior"), labels).double()
    with torch.no_grad():
        for t, s in pairwise(loss.grid(model.process)):
            base, y = model.process.base, model.process.enter(x, t, labels)
            x0 = tuned(x, t, labels).mean  # type: ignore[attr-defined]
            y = base.alpha(s) * x0 + base.sigma(s) * (y - base.alpha(t) * x0) / base.sigma(t)
            x = model.process.leave(y, s, labels)
    assert torch.allclose(found, x, atol=1e-9)


# the denoiser that knows its chain


def tuned(way: Way = "ddim", steps: int = 3, **more: Any) -> TunedDenoiser:
    return ChainMMD(steps=steps, sampler=way).made(network(soft("own"), **more), 10, 20.0)


@BOTH
def test_it_samples_as_its_network_does_with_its_sampler(way: Way) -> None:
    model = tuned(way)
    sampler: Any = ddim if way == "ddim" else partial(ancestral, eta=0.0)
    assert model.suits == (way, {} if way == "ddim" else {"eta": 0.0}) and model.steps == 3
    right = sample(model.network, 4, 3, sampler=sampler, seed=2)
    assert torch.equal(sample(model, 4, 3, sampler=sampler, seed=2), right)
    # no fresh noise, said twice; the same grid by its name; a wrap
    again = on_grid(partial(ddim if way == "ddim" else ancestral, eta=0.0), lambda_free)
    assert torch.equal(sample(model, 4, 3, sampler=again, seed=2), right)
    assert torch.equal(sample(CallCounter(model), 4, 3, sampler=sampler, seed=2), right)


def lambda_free(process: Gaussian, n: int) -> Tensor:
    return process.grid(n)


@pytest.mark.parametrize(
    ("sampler", "steps", "words"),
    [
        (ddim, 4, "4 steps were asked for: take steps=3"),
        (ddim, 1, "1 steps were asked for"),
        (on_grid(ddim, few), 3, "no other grid"),
        (partial(ddim, eta=0.5), 3, "ddim with fresh noise was asked for"),
        (partial(ancestral, eta=0.0), 3, "ancestral was asked for: take ddim with eta = 0"),
        (on_grid(adams, lambda_free), 3, "adams was asked for"),
    ],
)
def test_other_steps_grids_and_samplers_are_refused(sampler: Any, steps: int, words: str) -> None:
    with pytest.raises(TunedError, match=words):
        sample(tuned(), 2, steps, sampler=sampler)


def test_draws_with_fresh_noise_are_refused() -> None:
    with pytest.raises(TunedError, match="ancestral with fresh noise"):
        sample(tuned("ancestral"), 2, 3, sampler=ancestral)


@pytest.mark.parametrize("t", [0.5, 0.0, torch.tensor([1.0, 0.9])], ids=str)
def test_it_has_no_answer_between_its_times(t: Any) -> None:
    with pytest.raises(TunedError, match="is undefined"):
        tuned()(torch.zeros(2, 2), t)


def test_it_answers_at_its_times_one_for_all_or_each() -> None:
    model, x = tuned(), data(2, dtype=torch.float32).xt
    for t in (1.0, torch.tensor(2 / 3), torch.tensor([1 / 3, 1.0], dtype=F64)):
        assert torch.equal(model(x, t).mean, model.network(x, t).mean)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "use",
    [
        lambda model: guided(2.0)(model),
        lambda model: autoguided(model.network, 2.0)(model),
        lambda model: autoguided(model, 2.0)(model.network),
        lambda model: guided_by_mean(lambda x0: -x0.square().sum(1))(model),
        lambda model: guided_by_draws(lambda x0: -x0.square().sum(1), 2, Rng(0, 2))(model),
        lambda model: log_density(model, torch.zeros(2, 2), torch.tensor([0.1, 0.5])),
        lambda model: guided(2.0)(CallCounter(model)),
    ],
)
def test_guidance_and_likelihoods_are_refused_with_the_model_to_take(use: Any) -> None:
    with pytest.raises(TunedError, match=r"tuned for 3 steps of ddim at t = 1, 0.667, 0.333, 0: take the model that"):
        use(tuned())


def test_guidance_in_an_interval_is_refused_when_it_begins() -> None:
    model = within(-20.0, 20.0, guided(2.0))(tuned(cond=CondSpec((("class", 2),))))
    with pytest.raises(TunedError, match="guidance needs posteriors"):
        sample(model, 2, 3, sampler=ddim, cond=torch.tensor([0, 1]))


def test_a_wrap_of_a_tuned_denoiser_is_tuned_and_others_are_not() -> None:
    assert is_tuned(tuned()) and is_tuned(CallCounter(tuned()))
    assert not is_tuned(network()) and not is_tuned(CallCounter(network()))


def test_an_error_of_a_tuned_denoiser_is_a_value_error() -> None:
    assert issubclass(TunedError, ValueError) and not issubclass(TunedError, SamplerError)


# options


def test_the_defaults_are_the_documented_ones_and_round_trip() -> None:
    right = ChainMMD(4, "ddim", GaussianKernel((0.1, 0.2, 0.5, 1.0, 2.0)), 1.0, 0.0, 0.05, 4, "no")
    assert ChainMMD() == right and right.whole and not right.proper and right.freeze_at == 0
    other = ChainMMD(2, "ancestral", CubicKernel(), 0.0, 1.0, recompute="yes")
    for each in (right, other):
        assert from_json(ChainMMD, to_json(each)) == each


@pytest.mark.parametrize(
    "changes",
    [{"steps": 0}, {"pixels": -1.0}, {"pixels": 0.0}, {"features": -1.0}, {"cells": 0}, {"at": 0.0}, {"at": 1.0}],
)
def test_bad_options_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="found"):
        ChainMMD(**changes)


@pytest.mark.parametrize(
    ("way", "head", "process", "words"),
    [
        ("ddim", SoftHead(mean="none"), VP(), 'take sampler="ancestral"'),
        ("ancestral", MixtureHead(), VP(), 'take sampler="ddim"'),
        ("ddim", MapHead(), Flow(), "found MapHead"),
        ("ddim", NoiseHead(), VP(), "found NoiseHead"),
        ("ddim", PointHead(), Interpolant(), "found Interpolant"),
    ],
)
def test_heads_and_processes_without_such_a_chain_are_refused(way: Way, head: Any, process: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ChainMMD(sampler=way).fits(head, process)


@pytest.mark.parametrize(
    ("way", "head"),
    [("ddim", PointHead()), ("ddim", SoftHead()), ("ddim", MixtureHead()), ("ancestral", SoftHead(mean="none"))],
)
def test_other_heads_fit(way: Way, head: Any) -> None:
    ChainMMD(sampler=way).fits(head, VP())


def test_conditions_other_than_labels_are_refused() -> None:
    ChainMMD().fits_cond(CondSpec((("class", 3),)))
    for spec in (CondSpec(image=1), CondSpec((("class", 3),), values=2)):
        with pytest.raises(ValueError, match="has a law of its own"):
            ChainMMD().fits_cond(spec)


def test_the_views_know_the_network_that_a_compiler_finds() -> None:
    x0 = data(4, IMAGE, torch.float32).x0
    with_features = ChainMMD(features=1.0).freeze(network(shape=IMAGE), x0)
    assert isinstance(with_features.network, Network) and ComparedViews(None, ChainMMD(), x0).network is None
    assert with_features.weights == [1.0, *[1 / (len(with_features.scales) - 1)] * (len(with_features.scales) - 1)]


def test_tokens_have_no_gradient() -> None:
    with pytest.raises(ValueError, match="tokens have none"):
        ChainMMD(sampler="ancestral").fits(CategoricalHead(), Masked(4))


def test_settings_without_effect_are_refused() -> None:
    for values in ({"at": 0.1}, {"cells": 2}):
        with pytest.raises(ValueError, match="without a weight of features none are computed"):
            ChainMMD(**values)  # type: ignore[arg-type]
        assert ChainMMD(features=1.0, **values)  # type: ignore[arg-type]
    for times in (Times("logsnr"), Times(low=0.1), Times(high=0.9)):
        with pytest.raises(ValueError, match=r"training times .* would have no effect"):
            Denoise(loss=ChainMMD(), times=times)


@pytest.mark.parametrize("values", [{"sampler": "ddpm"}, {"recompute": True}])
def test_an_unknown_sampler_or_recompute_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="ddim or ancestral, and recompute yes or no"):
        ChainMMD(**values)
