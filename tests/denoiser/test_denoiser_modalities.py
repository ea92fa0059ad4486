"""A diffusion of several modalities: codes, the exact laws, decoders, and a given label."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmix.cond import Cond, CondError, CondSpec
from softmix.denoiser import Aggregation, MixtureHead, Modalities, Modality, NormalHead, PointHead, averaged, within
from softmix.denoiser.head import HeadSpec
from softmix.measure import guided_by_label
from softmix.net import DiTSpec, MLPSpec, NetSpec, SequenceSpec, UNetSpec
from softmix.oracle import AggregateProblem, aggregated, gaussian
from softmix.posterior import Categorical, HasMean, Mixture, Normal, Point, need
from softmix.process import VP, Flow
from softmix.rng import Rng
from softmix.sampler import adams, ancestral, noised, sample, sample_aggregate, sample_modalities
from softmix.sampler.contract import SamplerError

F64 = torch.float64
ALL = CondSpec((("class", 4), ("side", 2)), image=2, values=3)
WEIGHTS = {"x": 1.0, "class": 0.5, "side": 0.25, "image": 0.75, "value": 2.0}


def mean_of(posterior: object) -> Tensor:
    return need(posterior, HasMean, "test").mean  # type: ignore[arg-type]


def items(shape: tuple[int, ...], n: int = 5) -> tuple[Tensor, Cond]:
    size = (shape[0], 2) if len(shape) == 2 else (2, *shape[1:])
    label = torch.stack([torch.arange(n) % 4, torch.arange(n) % 2], 1)
    image = None if len(shape) == 1 else Rng(1, n).normal((n, *size))
    return Rng(0, n).normal((n, *shape)), Cond(label, image, value=Rng(2, n).normal((n, 3)))


def spec_for(shape: tuple[int, ...]) -> CondSpec:
    return ALL.only(["label", "value"]) if len(shape) == 1 else ALL


def weights_for(shape: tuple[int, ...]) -> dict[str, float]:
    return {name: each for name, each in WEIGHTS.items() if name != "image" or len(shape) > 1}


# codes


@pytest.mark.parametrize("shape", [(2,), (3, 4, 5), (6, 3)])
def test_the_aggregate_is_the_sum_of_weighted_codes(shape: tuple[int, ...]) -> None:
    aggregation = Aggregation(shape, spec_for(shape), weights_for(shape), 0.7)
    parts = aggregation.parts(*items(shape))
    alone = [weight * aggregation.code(name, parts[name]) for name, weight in weights_for(shape).items()]
    assert torch.allclose(aggregation(parts), torch.stack(alone).sum(0), atol=1e-6)
    assert torch.equal(aggregation.code("x", parts["x"]), parts["x"])
    assert aggregation.sd == pytest.approx(0.7 * math.hypot(*weights_for(shape).values()))


@pytest.mark.parametrize("shape", [(400,), (2, 14, 15), (21, 20)])
def test_each_code_has_the_standard_deviation_of_the_data(shape: tuple[int, ...]) -> None:
    """Of about 400 numbers the standard deviation is known to 5 %; 8 patterns give 0.7 within 3 %."""
    aggregation = Aggregation(shape, spec_for(shape).only(["label", "value"]), {"x": 1.0, "class": 1.0}, 0.7)
    assert float(aggregation.code("class", torch.arange(4)).std()) == pytest.approx(0.7, rel=0.08)
    value = Rng(3, 200).normal((200, 3))
    assert float(aggregation.code("value", value).std()) == pytest.approx(0.7, rel=0.15)


def test_codes_are_linear_and_a_missing_label_has_none() -> None:
    aggregation = Aggregation((2, 3, 3), ALL, WEIGHTS, 1.0)
    codes = aggregation.code("class", torch.arange(4))
    shares = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 0.0, 0.0]])
    mixed = aggregation.code("class", shares)
    assert torch.allclose(mixed, torch.einsum("bk,kcyx->bcyx", shares, codes), atol=1e-6)
    assert torch.equal(mixed[1], codes[1]) and not torch.allclose(codes[0], codes[1])
    missing = aggregation.code("class", torch.tensor([2, -1]))
    assert torch.equal(missing[0], codes[2]) and not missing[1].any()
    image = Rng(4, 2).normal((2, 2, 3, 3))
    assert torch.equal(aggregation.code("image", image), image)
    value = Rng(5, 2).normal((2, 3))
    both = aggregation.code("value", value.sum(0, keepdim=True))
    assert torch.allclose(both, aggregation.code("value", value).sum(0, keepdim=True), atol=1e-6)


def test_an_image_of_other_channels_is_mixed_at_each_place() -> None:
    for shape, size in (((3, 2, 2), (2, 2, 2)), ((4, 3), (4, 2))):
        aggregation = Aggregation(shape, CondSpec(image=2), {"x": 1.0, "image": 1.0}, 1.0)
        image = Rng(4, 5).normal((5, *size))
        axis = 1 if len(shape) == 3 else 2
        code = aggregation.code("image", image)
        right = torch.einsum("dc,b...c->b...d", aggregation.mixing, image.movedim(axis, -1)).movedim(-1, axis)
        assert code.shape == (5, *shape) and torch.allclose(code, right, atol=1e-6)


def test_mixed_channels_keep_the_standard_deviation_on_average() -> None:
    """Over 64 channels, to 10 %."""
    aggregation = Aggregation((64, 4, 4), CondSpec(image=9), {"x": 1.0, "image": 1.0}, 1.0)
    code = aggregation.code("image", Rng(4, 50).normal((50, 9, 4, 4)))
    assert float(code.std()) == pytest.approx(1, rel=0.1)


def test_codes_stay_the_same() -> None:
    one, other = (Aggregation((2, 3, 3), ALL, WEIGHTS, 1.0) for _ in range(2))
    parts = one.parts(*items((2, 3, 3)))
    assert torch.equal(one(parts), other(parts))


def test_items_without_a_condition_are_refused() -> None:
    with pytest.raises(ValueError, match="needs both"):
        Aggregation((2,), spec_for((2,)), WEIGHTS, 1.0).parts(torch.zeros(1, 2), None)


# exact laws


def problem() -> AggregateProblem:
    return aggregated()


@pytest.mark.parametrize("t", [0.15, 0.5, 0.9])
def test_the_exact_laws_are_those_of_weighted_draws(t: float) -> None:
    """Draws of the joint law, weighted by p(z_t | z_0). The error of a mean is compared with its own size."""
    known, n = problem(), 200_000
    x, cond = known.draw(n, Rng(0, n))
    assert cond.label is not None and cond.value is not None
    z0 = known.aggregation(known.aggregation.parts(x, cond)).double()
    alpha, sigma = (float(level) for level in known.process.levels(t))
    zt = alpha * z0[:3] + sigma * Rng(1, 3).normal((3, 2), F64)
    found = known.denoiser().joint(zt, t).parts
    for k in range(3):
        weights = (-(zt[k] - alpha * z0).square().sum(1) / (2 * sigma**2)).softmax(0)
        size = float(weights.square().sum().sqrt())
        for name, truth in (("x", x), ("value", cond.value), ("z", z0)):
            off = (weights @ truth - mean_of(found[name])[k]).abs().max()
            assert float(off) < 5 * size
        law = found["class"]
        assert isinstance(law, Categorical)
        shares = torch.stack([weights[cond.label == c].sum() for c in range(3)])
        assert float((shares - law.probabilities[k]).abs().max()) < 5 * size


def test_the_draws_of_the_problem_have_their_label() -> None:
    known, n = problem(), 40_000
    x, cond = known.draw(n, Rng(0, n))
    assert cond.label is not None and cond.value is not None
    both = torch.cat([x, cond.value], 1)
    for k in range(3):
        own = both[cond.label == k]
        sd = known.law.covariances[k].diagonal().sqrt() / len(own) ** 0.5
        assert len(own) / n == pytest.approx(float(known.law.weights[k]), abs=0.01)
        assert bool(((own.mean(0) - known.law.means[k]).abs() < 5 * sd).all())


def test_the_mean_of_the_aggregate_is_the_aggregate_of_the_means() -> None:
    known = problem()
    parts = known.denoiser().joint(Rng(2, 6).normal((6, 2), F64), torch.linspace(0.1, 0.9, 6, dtype=F64)).parts
    law = parts["class"]
    assert isinstance(law, Categorical)
    means = {"x": mean_of(parts["x"]), "value": mean_of(parts["value"]), "class": law.probabilities}
    assert torch.allclose(known.aggregation(means).double(), mean_of(parts["z"]), atol=1e-5)


def test_problems_that_do_not_fit_are_refused() -> None:
    known = problem()
    with pytest.raises(ValueError, match="law of 4 dimensions was given"):
        AggregateProblem("x", known.law, (5,), VP(), {"x": 1.0})
    with pytest.raises(ValueError, match="weights of x"):
        AggregateProblem("x", known.law, (2,), VP(), {"x": 1.0, "image": 1.0})
    with pytest.raises(ValueError, match="has no condition"):
        known.denoiser()(torch.zeros(1, 2), 0.5, Cond(label=torch.zeros(1, dtype=torch.int64)))


def test_samples_have_the_law_of_labels_and_items() -> None:
    """Five standard errors of 4,000 samples."""
    known, n = problem(), 4000
    parts = sample_modalities(known.denoiser(), n, 64, sampler=adams, seed=1)
    shares = torch.stack([(parts["class"] == k).double().mean() for k in range(3)])
    assert float((shares - known.law.weights).abs().max()) < 5 * 0.5 / n**0.5
    sd = known.law.covariance.diagonal()[:2].sqrt()
    off = (parts["x"].double().mean(0) - known.law.mean[:2]).abs()
    assert bool((off < 5 * sd / n**0.5).all())


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_given_label_has_the_law_of_its_component(label: int) -> None:
    """Means and standard deviations of 4,000 samples, to five standard errors and 6 %."""
    known, n = problem(), 4000
    denoiser = guided_by_label(label)(known.denoiser())
    parts = sample_modalities(denoiser, n, 64, sampler=adams, seed=1, batch=n)
    assert float((parts["class"] == label).double().mean()) > 0.995
    sd = known.law.covariances[label].diagonal()[:2].sqrt()
    x = parts["x"].double()
    assert bool(((x.mean(0) - known.law.means[label, :2]).abs() < 0.02 + 5 * sd / n**0.5).all())


def test_the_guided_mean_is_that_of_bayes_rule() -> None:
    """E[z_0 | z_t, label] is the mean of the component of the label."""
    known = problem()
    zt, t = Rng(3, 4).normal((4, 2), F64), 0.4
    labels = torch.tensor([0, 1, 2, 1])
    whole = known.denoiser()(zt, t)
    right = whole._means[torch.arange(4), labels]
    found = mean_of(guided_by_label(labels)(known.denoiser())(zt, t))
    assert torch.allclose(found, right, atol=1e-6)
    half = mean_of(guided_by_label(labels, 0.5)(known.denoiser())(zt, t))
    assert torch.allclose(half, (whole.mean + right) / 2, atol=1e-6)


def test_what_guidance_by_a_label_cannot_use_is_refused() -> None:
    known = problem()
    model = known.denoiser()
    with pytest.raises(ValueError, match="classes 0 to 2; found 3"):
        guided_by_label(3)(model)
    with pytest.raises(ValueError, match="classes 0 to 2; found -1"):
        guided_by_label(torch.tensor([0, -1]))(model)
    with pytest.raises(ValueError, match="whole numbers"):
        guided_by_label(torch.tensor([0.5]))(model)
    with pytest.raises(ValueError, match="2 labels were given for 3 items"):
        guided_by_label(torch.tensor([0, 1]))(model)(torch.zeros(3, 2), 0.5)
    with pytest.raises(ValueError, match="give the name of a label"):
        guided_by_label(0, name="side")(model)
    with pytest.raises(ValueError, match="this model has none"):
        guided_by_label(0)(aggregated({"x": 1.0, "value": 1.0}).denoiser())
    with pytest.raises(TypeError, match="needs a model of several modalities"):
        guided_by_label(0)(gaussian().denoiser())
    with pytest.raises(TypeError, match="give the model itself"):
        guided_by_label(0)(averaged(2)(model))
    assert mean_of(within(-1e9, 1e9, guided_by_label(1))(model)(torch.zeros(3, 2), 0.5)).shape == (3, 2)


# networks


def network(
    shape: tuple[int, ...], net: NetSpec, head: HeadSpec | None = None, dtype: torch.dtype = torch.float32
) -> Modalities:
    torch.manual_seed(0)
    model = Modalities(VP(), net, head or PointHead(), shape, spec_for(shape), weights_for(shape), "v", 0.7)
    return model.to(dtype)


NETS: list[tuple[tuple[int, ...], NetSpec]] = [
    ((3,), MLPSpec(width=16, depth=2)),
    ((1, 4, 4), UNetSpec(width=8, depth=1, patch=1)),
    ((3, 3, 3), DiTSpec(width=16, depth=2, patch=1)),
    ((5, 2), SequenceSpec(width=16, depth=2)),
]


@pytest.mark.parametrize(("shape", "net"), NETS)
def test_a_network_has_a_law_of_every_modality(shape: tuple[int, ...], net: NetSpec) -> None:
    for dtype in (torch.float32, F64):
        model = network(shape, net, dtype=dtype)
        for n in (1, 2, 3, 7):
            zt = Rng(0, n).normal((n, *shape), dtype)
            t = torch.linspace(0.1, 0.9, n, dtype=F64)
            parts = model.joint(zt, t).parts
            assert list(parts) == [
                "z", "x", *(["image"] if len(shape) > 1 else []), "class", "side", "value"
            ]  # fmt: skip
            image = (shape[0], 2) if len(shape) == 2 else (2, *shape[1:])
            sizes = {"z": shape, "x": shape, "image": image, "value": (3,)}
            for name, law in parts.items():
                if isinstance(law, Categorical):
                    assert law.probabilities.shape == (n, {"class": 4, "side": 2}[name])
                else:
                    assert mean_of(law).shape == (n, *sizes[name]) and mean_of(law).dtype == dtype
            assert torch.equal(mean_of(model(zt, t)), mean_of(parts["z"]))


@pytest.mark.parametrize(("shape", "net"), NETS)
def test_a_batch_equals_its_items(shape: tuple[int, ...], net: NetSpec) -> None:
    model, zt = network(shape, net, dtype=F64), Rng(0, 3).normal((3, *shape), F64)
    t = torch.tensor([0.2, 0.5, 0.8], dtype=F64)
    whole = model.joint(zt, t).parts
    for k in range(3):
        one = model.joint(zt[k : k + 1], t[k : k + 1]).parts
        for name, law in whole.items():
            numbers = [
                each.log_probabilities if isinstance(each, Categorical) else mean_of(each) for each in (law, one[name])
            ]
            assert torch.allclose(numbers[0][k], numbers[1][0], atol=1e-10)


@pytest.mark.parametrize(("head", "kind"), [(PointHead(), Point), (NormalHead(), Normal), (MixtureHead(3), Mixture)])
def test_the_head_of_the_aggregate_is_the_usual_one(head: HeadSpec, kind: type) -> None:
    model = network((1, 4, 4), UNetSpec(width=8, depth=1, patch=1), head)
    zt = Rng(0, 2).normal((2, 1, 4, 4))
    found = model.joint(zt, 0.5).parts
    assert type(found["z"]) is kind and type(found["x"]) is Point and mean_of(found["image"]).shape == (2, 2, 4, 4)


def test_the_mean_of_the_aggregate_comes_from_the_table_of_outputs() -> None:
    """With a network of 0 "edm" gives the mean for normal data with the standard deviation of z_0."""
    shape = (3,)
    model = Modalities(
        *(VP(), MLPSpec(width=16, depth=2), PointHead(), shape, spec_for(shape), weights_for(shape), "edm", 0.7)
    ).double()
    last = [p for name, p in model.network.net.named_parameters() if name.startswith("leave")]
    assert last
    with torch.no_grad():
        for p in last:
            p.zero_()
    zt, t = Rng(0, 2).normal((2, 3), F64), 0.3
    alpha, sigma = VP().levels(t)
    sd = model.aggregation.sd
    right = alpha * sd**2 / (alpha**2 * sd**2 + sigma**2) * zt
    assert torch.allclose(mean_of(model(zt, t)), right, atol=1e-8)


@pytest.mark.parametrize(("shape", "net"), NETS)
def test_labels_are_decoded_from_the_last_state_of_the_first_half(shape: tuple[int, ...], net: NetSpec) -> None:
    model, zt = network(shape, net), Rng(0, 3).normal((3, *shape))
    seen: list[Tensor] = []
    model.decoders[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.joint(zt, 0.5)
    right = model.network.features(zt, 0.5)[-1].mean(2)
    assert torch.allclose(seen[0], right, atol=1e-6)


def test_decoding_asks_at_the_least_time_and_takes_the_most_probable_label() -> None:
    model = network((3,), MLPSpec(width=16, depth=2))
    z = Rng(0, 6).normal((6, 3))
    found, parts = model.decode(z), model.joint(z, model.low).parts
    law = parts["class"]
    assert isinstance(law, Categorical) and torch.equal(found["class"], law.probabilities.argmax(1))
    assert torch.equal(found["value"], mean_of(parts["value"])) and "z" not in found
    assert torch.equal(model.x_of(z), found["x"]) and not found["x"].requires_grad


# samples


def test_samples_are_decoded_and_do_not_depend_on_their_batch() -> None:
    model = network((1, 4, 4), UNetSpec(width=8, depth=1, patch=1))
    z = sample_aggregate(model, 5, 4, sampler=adams, seed=2)
    parts = sample_modalities(model, 5, 4, sampler=adams, seed=2, batch=2)
    right = model.decode(z)
    assert list(parts) == list(right)
    assert all(torch.allclose(parts[name].float(), right[name].float(), atol=1e-5) for name in parts)
    x = sample(model, 5, 4, sampler=adams, seed=2)
    assert torch.allclose(x, parts["x"], atol=1e-5) and not torch.allclose(x, z, atol=1e-2)
    assert sample_modalities(model, 0, 4)["class"].shape == (0,)


def test_a_start_is_in_the_space_of_the_aggregate() -> None:
    model, x0 = network((3,), MLPSpec(width=16, depth=2)), torch.zeros(2, 3)
    with pytest.raises(SamplerError, match="sample_aggregate"):
        sample(model, 2, 4, start=noised(x0), at=0.5)
    assert sample_aggregate(model, 2, 4, start=noised(x0), at=0.5).shape == (2, 3)


def test_other_models_and_conditions_are_refused() -> None:
    with pytest.raises(TypeError, match="sample_modalities needs a model of several modalities"):
        sample_modalities(gaussian().denoiser(), 2)
    with pytest.raises(TypeError, match="sample_aggregate needs"):
        sample_aggregate(gaussian().denoiser(), 2)
    with pytest.raises(CondError):
        sample(network((3,), MLPSpec(width=16, depth=2)), 2, 2, cond=torch.zeros(2, dtype=torch.int64))
    for bad in ({"scale": -1.0}, {"weight": float("inf")}, {"scale": float("nan")}):
        with pytest.raises(ValueError, match="a real weight and a scale of at least 0"):
            Modality(**bad)


def test_other_processes_serve() -> None:
    known = aggregated(process=Flow())
    parts = sample_modalities(known.denoiser(), 500, 32, sampler=ancestral, seed=1)
    shares = torch.stack([(parts["class"] == k).double().mean() for k in range(3)])
    assert float((shares - known.law.weights).abs().max()) < 5 * 0.5 / 500**0.5
