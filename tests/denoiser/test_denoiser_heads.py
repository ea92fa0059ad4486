"""Room `denoiser`: what each head makes of the net's numbers, with a net whose numbers are known, and every default."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from softmix.denoiser import (
    MapHead,
    MixtureHead,
    Network,
    NormalHead,
    Output,
    PointHead,
    PublishedSMD,
    SoftHead,
    affine,
)
from softmix.denoiser.smd import _Hyper
from softmix.net import DiTSpec, MLPSpec, UNetSpec
from softmix.posterior import Implicit, ImplicitMean, Mixture, Normal, Point
from softmix.process import VE, VP, Flow, Gaussian
from softmix.rng import Rng
from softmix.shape import column

F64 = torch.float64
T = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
MLP = MLPSpec(width=16, depth=3, frequencies=2)
UNET = UNetSpec(width=8, depth=1)
DIT = DiTSpec(width=16, depth=3, patch=2)
NETS = pytest.mark.parametrize(("spec", "shape"), [(MLP, (2,)), (UNET, (2, 4, 4)), (DIT, (2, 4, 4))], ids=["mlp", "unet", "dit"])  # noqa: E501


class Saying(nn.Module):
    """In the place of a net: says fixed numbers, and notes what it is given."""

    def __init__(self, says: Tensor):
        super().__init__()
        self.says = says
        self.heard: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, logsnr: Tensor, label: Tensor | None = None) -> Tensor:
        self.heard.append((x, logsnr, label))
        return self.says


def saying(head: object, says: Tensor, shape: tuple[int, ...], **options: object) -> Network:
    spec = MLP if len(shape) == 1 else UNET
    network = Network(options.pop("process", VP()), spec, head, shape, **options)  # type: ignore[arg-type]
    assert head.channels(shape[0]) == says.shape[1]  # type: ignore[attr-defined]
    network.net = Saying(says)  # type: ignore[assignment]
    return network


def x_of(shape: tuple[int, ...], n: int = 3) -> Tensor:
    return Rng(0, n, "x").normal((n, *shape), F64)


def row(process: Gaussian, output: Output, sd: float, x: Tensor) -> tuple[Tensor, Tensor]:
    a, b = affine(output, process.alpha(T), process.sigma(T), sd)
    return column(a, x), column(b, x)


# defaults


def test_the_defaults_are_those_that_the_docs_give() -> None:
    assert NormalHead() == NormalHead(per="item") and MixtureHead() == MixtureHead(k=8, per="pixel")
    assert SoftHead() == SoftHead(where="decoder", latent=32, local=4, mean="own", scale=1.0)
    assert PublishedSMD() == PublishedSMD(latent=100)
    network = Network(VP(), MLP, PointHead(), (2,))
    assert (network.output, network.data_sd, network.classes) == ("v", 1.0, 0) and network.net.time.classes is None


@pytest.mark.parametrize("sizes", [(0, 4, 1.0), (32, -1, 1.0), (32, 4, -0.1)])
def test_a_latent_of_no_size_is_refused(sizes: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="at least 1 shared number"):
        SoftHead(latent=sizes[0], local=sizes[1], scale=sizes[2])
    with pytest.raises(ValueError, match="latent is at least 1"):
        PublishedSMD(0)
    with pytest.raises(ValueError, match="k is at least 1"):
        MixtureHead(0)


def test_a_net_for_points_takes_no_images_and_the_other_way_round() -> None:
    for spec, shape, use in ((MLP, (2, 4, 4), "UNetSpec or DiTSpec"), (UNET, (2,), "MLPSpec"), (DIT, (2,), "MLPSpec")):
        with pytest.raises(ValueError, match=use):
            Network(VP(), spec, PointHead(), shape)


# what the net is given


@pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)
@pytest.mark.parametrize("sd", [0.3, 1.0])
@pytest.mark.parametrize("head", [PointHead(), NormalHead(), MixtureHead(2)], ids=str)
def test_the_net_hears_x_of_unit_size_its_noise_level_and_its_class(process: Gaussian, sd: float, head: object) -> None:
    x, cond = x_of((2,)), torch.tensor([0, 1, -1])
    network = saying(head, torch.zeros(3, head.channels(2)), (2,), process=process, classes=2, data_sd=sd)  # type: ignore[attr-defined]
    network(x, T, cond)
    heard, logsnr, label = network.net.heard[0]  # type: ignore[attr-defined]
    size = (process.alpha(T) ** 2 * sd**2 + process.sigma(T) ** 2).sqrt()
    assert torch.allclose(heard, x / size[:, None]) and torch.allclose(logsnr, process.logsnr(T)) and label is cond


def test_a_net_without_classes_is_told_none() -> None:
    network = saying(PointHead(), torch.zeros(3, 2), (2,))
    network(x_of((2,)), T, torch.tensor([0, 1, -1]))
    assert network.net.heard[0][2] is None  # type: ignore[attr-defined]


# what it is taken to say


@pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)
@pytest.mark.parametrize("output", ["x0", "eps", "v", "flow", "edm"])
@pytest.mark.parametrize("sd", [0.3, 1.0])
def test_a_point_is_the_rows_x0(process: Gaussian, output: Output, sd: float) -> None:
    x, says = x_of((2, 4, 4)), Rng(1, 3).normal((3, 2, 4, 4), F64)
    a, b = row(process, output, sd, x)
    found = saying(PointHead(), says, (2, 4, 4), process=process, output=output, data_sd=sd)(x, T)
    assert isinstance(found, Point) and torch.allclose(found.mean, a * x + b * says)


def test_a_network_says_v_of_unit_data_unless_told() -> None:
    x, says = x_of((2,)), Rng(1, 3).normal((3, 2), F64)
    a, b = row(VP(), "v", 1.0, x)
    assert torch.allclose(saying(PointHead(), says, (2,))(x, T).mean, a * x + b * says)  # type: ignore[attr-defined]


@pytest.mark.parametrize("per", ["item", "element"])
@pytest.mark.parametrize("shape", [(2,), (2, 4, 4)], ids=str)
def test_a_normal_has_the_variance_b_squared_exp_2l(per: str, shape: tuple[int, ...]) -> None:
    """l is one number for each element, or the mean over an item's places."""
    x, head = x_of(shape), NormalHead(per)  # type: ignore[arg-type]
    says = Rng(1, 3).normal((3, head.channels(2), *shape[1:]), F64)
    a, b = row(VP(), "edm", 0.4, x)
    found = saying(head, says, shape, output="edm", data_sd=0.4)(x, T)
    log_sd = says[:, 2:]
    if per == "item":
        log_sd = log_sd.flatten(1).mean(1).reshape(-1, *[1] * len(shape))
    assert isinstance(found, Normal) and torch.allclose(found.mean, a * x + b * says[:, :2])
    assert torch.allclose(found.var.expand_as(x), ((b * log_sd.exp()) ** 2).expand_as(x))


@pytest.mark.parametrize("per", ["item", "pixel"])
@pytest.mark.parametrize("shape", [(2,), (2, 4, 4)], ids=str)
def test_a_mixture_has_components_a_x_plus_b_u_and_one_spread(per: str, shape: tuple[int, ...]) -> None:
    """Means and weights of k = 3 for each place or for the item; the sd is |b| exp(l), l the mean over places."""
    x, head = x_of(shape), MixtureHead(3, per)  # type: ignore[arg-type]
    says = Rng(1, 3).normal((3, head.channels(2), *shape[1:]), F64)
    a, b = row(VP(), "v", 1.0, x)
    found = saying(head, says, shape)(x, T)
    assert isinstance(found, Mixture) and float(b.max()) < 0
    for k in range(3):
        assert torch.allclose(found.means[:, k], a * x + b * says[:, 2 * k : 2 * k + 2])
    weights = says[:, 6:9]
    if shape[1:] and per == "item":
        weights = weights.mean((2, 3))
    elif shape[1:]:
        weights = weights[:, :, None]
    assert torch.allclose(found.log_weights, weights.log_softmax(1))
    log_sd = says[:, 9:].flatten(1).mean(1)
    var = (b.flatten() * log_sd.exp()) ** 2
    assert torch.allclose(found._var, var.reshape(-1, *[1] * (x.ndim)).expand_as(found.means))


# flow maps


@NETS
def test_a_flow_map_hears_its_second_time_and_its_class(spec: object, shape: tuple[int, ...]) -> None:
    """Its embedding is that of the level and the class, and that of the second level."""
    torch.manual_seed(0)
    network = Network(VP(), spec, MapHead(), shape, classes=2).double()  # type: ignore[arg-type]
    x, cond, to = x_of(shape), torch.tensor([0, 1, -1]), T / 2
    net = network.net
    emb = net.time(VP().logsnr(T), cond) + network.head.target(VP().logsnr(to))  # type: ignore[operator, union-attr]
    said = net.out(net.run(net.stem(x), emb, 0, len(net.body)), emb, shape[1:])
    a, b = row(VP(), "v", 1.0, x)
    assert torch.allclose(network(x, T, cond, to).mean, a * x + b * said)  # type: ignore[attr-defined]
    assert torch.equal(network(x, T, cond).mean, network(x, T, cond, T).mean)  # type: ignore[attr-defined]
    assert network.two_times and not Network(VP(), MLP, PointHead(), (2,)).two_times


# features


@NETS
def test_features_are_the_states_of_the_first_half_at_unit_size(spec: object, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    process, sd = VE(), 0.4
    network = Network(process, spec, PointHead(), shape, data_sd=sd).double()  # type: ignore[arg-type]
    x, net, t = x_of(shape), network.net, 0.3
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    emb = net.time(process.logsnr(t).expand(3))
    state = net.stem(x / math.sqrt(alpha**2 * sd**2 + sigma**2))
    found = network.features(x, t)
    assert len(found) == net.splits["decoder"] > 0
    for k, block in enumerate(list(net.body)[: net.splits["decoder"]]):
        state = block(state, emb)
        h = state[0]
        right = h[:, :, None] if h.ndim == 2 else h.transpose(1, 2) if h.ndim == 3 else h.flatten(2)
        assert torch.allclose(found[k], right)


# soft heads


def soft(spec: object, shape: tuple[int, ...], **options: object) -> Network:
    torch.manual_seed(0)
    network = Network(VP(), spec, SoftHead(**options), shape, classes=2).double()  # type: ignore[arg-type]
    nn.init.normal_(network.head.off)  # type: ignore[arg-type, union-attr]
    return network


@NETS
def test_the_scale_is_the_standard_deviation_of_the_latent(spec: object, shape: tuple[int, ...]) -> None:
    """A draw with half the scale is the draw with half the latent; with none all draws are one."""
    x = x_of(shape)
    one, half, none = (soft(spec, shape, scale=scale)(x, T) for scale in (1.0, 0.5, 0.0))
    assert isinstance(one, Implicit) and isinstance(half, Implicit) and isinstance(none, Implicit)
    eta = one.latents(2, Rng(5, 3))
    assert torch.allclose(half.head(eta), one.head(eta / 2)) and torch.allclose(none.head(eta), one.head(0 * eta))
    assert not torch.allclose(one.head(eta), one.head(eta / 2))


@NETS
@pytest.mark.parametrize("where", ["all", "decoder", "head"])
def test_the_mean_goes_through_the_modulated_blocks_with_a_learned_vector(
    spec: object, shape: tuple[int, ...], where: str
) -> None:
    network, x, cond = soft(spec, shape, where=where), x_of(shape), torch.tensor([0, 1, -1])
    found, net = network(x, T, cond), network.net
    assert isinstance(found, ImplicitMean)
    emb = net.time(VP().logsnr(T), cond)
    size = column((VP().alpha(T) ** 2 + VP().sigma(T) ** 2).sqrt(), x)
    state = net.run(net.stem(x / size), emb, 0, net.splits[where])  # type: ignore[index]
    emb = emb + network.head.off  # type: ignore[operator, union-attr]
    said = net.out(net.run(state, emb, net.splits[where], len(net.body)), emb, shape[1:])  # type: ignore[index]
    a, b = row(VP(), "v", 1.0, x)
    assert torch.allclose(found.mean, a * x + b * said)


def test_a_soft_head_without_a_mean_has_none() -> None:
    found = soft(MLP, (2,), mean="none")(x_of((2,)), T)
    assert isinstance(found, Implicit) and not isinstance(found, ImplicitMean)


@NETS
def test_the_latent_has_its_shared_numbers_and_some_for_each_place(spec: object, shape: tuple[int, ...]) -> None:
    """Points have one place, which shares all; of 4 x 4 pixels a patch of 2 makes 4 places, and the U-Net's coarsest
    level 1."""
    places = {2: 0, 4: {"UNetSpec": 1, "DiTSpec": 4}.get(type(spec).__name__, 0)}[shape[-1]]
    for latent, local in ((32, 4), (5, 2), (5, 0)):
        found = soft(spec, shape, latent=latent, local=local)(x_of(shape), T)
        assert found.latent_shape == (latent + local * places,)  # type: ignore[attr-defined]


@NETS
def test_the_latents_layers_begin_orthogonal_with_a_gain_of_2(spec: object, shape: tuple[int, ...]) -> None:
    """W W^T = 4 I on the shorter side: eta is seen from the start."""
    head = soft(spec, shape).head
    weights = [p for name, p in head.named_parameters() if name.endswith("weight")]
    assert len(weights) >= 3
    for w in weights:
        square = w @ w.mT if w.shape[0] <= w.shape[1] else w.mT @ w
        assert torch.allclose(square, 4 * torch.eye(len(square), dtype=F64), atol=1e-5)


@pytest.mark.parametrize("head", [SoftHead(latent=5, local=2), PublishedSMD(7)], ids=str)
@NETS
def test_draws_hear_the_class(spec: object, shape: tuple[int, ...], head: object) -> None:
    torch.manual_seed(0)
    network, x = Network(VP(), spec, head, shape, classes=2).double(), x_of(shape)  # type: ignore[arg-type]
    draws = [network(x, T, torch.full((3,), k)).draws(1, Rng(0, 3)) for k in (-1, 0, 1)]
    none = network(x, T).draws(1, Rng(0, 3))
    assert not torch.allclose(draws[1], draws[2]) and not torch.allclose(draws[0], draws[1])
    assert torch.equal(draws[0], none)


# as published


def test_the_small_net_is_a_quarter_as_wide_and_at_least_8() -> None:
    for width, right in ((128, 32), (64, 16), (16, 8)):
        g = Network(VP(), MLPSpec(width=width, depth=4), PublishedSMD(7), (2,)).head.g
        assert g.width == right and len(g.body) == 2  # type: ignore[union-attr, arg-type]
        g = Network(VP(), DiTSpec(width=width, depth=4, patch=2), PublishedSMD(7), (2, 4, 4)).head.g
        assert g.width == right and len(g.body) == 1  # type: ignore[union-attr, arg-type]
    unet = Network(VP(), UNetSpec(width=64, depth=2), PublishedSMD(7), (2, 4, 4)).head.g
    assert unet.width == 16 and len(unet.body) == len(UNetSpec(width=16, depth=1).build(4, 2).body)  # type: ignore[union-attr, arg-type]


@NETS
def test_the_published_draw_is_its_two_layers_around_the_net(spec: object, shape: tuple[int, ...]) -> None:
    """z from g(x, eta) at the noise level; M(z) after the stem and, another, before the output."""
    torch.manual_seed(0)
    network, x, cond = Network(VP(), spec, PublishedSMD(7), shape, classes=2).double(), x_of(shape), torch.tensor([0, 1, -1])  # type: ignore[arg-type]  # noqa: E501
    found, net, head = network(x, T, cond), network.net, network.head
    assert isinstance(found, Implicit) and found.latent_shape == shape
    eta = found.latents(1, Rng(0, 3))
    logsnr = VP().logsnr(T)
    scaled = x / column((VP().alpha(T) ** 2 + VP().sigma(T) ** 2).sqrt(), x)
    last = lambda h: h.permute(0, 2, 3, 1) if h.ndim == 4 else h  # noqa: E731
    back = lambda h: h.permute(0, 3, 1, 2) if h.ndim == 4 else h  # noqa: E731
    small = head.g.time(logsnr)  # type: ignore[union-attr, operator]
    z = head.z(last(head.g.run(head.g.stem(torch.cat([scaled, eta[0]], 1)), small, 0, len(head.g.body))[0]))  # type: ignore[union-attr, operator, arg-type]  # noqa: E501
    emb = net.time(logsnr, cond)
    state = net.stem(scaled)
    state = (back(head.first(last(state[0]), z)), *state[1:])  # type: ignore[operator, union-attr]
    state = net.run(state, emb, 0, len(net.body))
    state = (back(head.last(last(state[0]), z)), *state[1:])  # type: ignore[operator, union-attr]
    a, b = row(VP(), "v", 1.0, x)
    assert torch.allclose(found.head(eta)[0], a * x + b * net.out(state, emb, shape[1:]))


def test_a_published_layer_is_a_residual_of_two_rank_one_matrices() -> None:
    torch.manual_seed(0)
    layer = _Hyper(6, 4).double()
    x, z = Rng(0, 3).normal((3, 6), F64), Rng(1, 3).normal((3, 4), F64)
    for k in range(3):
        h = layer.enter(x[k])
        for vector, scale in zip(layer.vector, layer.scale, strict=True):
            v = vector(z[k])
            h = (torch.outer(v, v) + nn.functional.softplus(scale) * torch.eye(4, dtype=F64)) @ h
        assert torch.allclose(layer(x, z)[k], x[k] + layer.leave(h))


# sizes


def test_another_size_passes_where_nothing_belongs_to_a_place() -> None:
    torch.manual_seed(0)
    plain = Network(VP(), UNET, PointHead(), (2, 4, 4))
    assert plain(torch.zeros(3, 2, 6, 8), 0.5).mean.shape == (3, 2, 6, 8)  # type: ignore[attr-defined]
    for wrong in ((3, 3, 4, 4), (3, 2, 4)):
        with pytest.raises(ValueError, match="was made for items of shape"):
            plain(torch.zeros(wrong), 0.5)
    with pytest.raises(ValueError, match="was made for items of shape"):
        Network(VP(), UNET, SoftHead(), (2, 4, 4))(torch.zeros(3, 2, 6, 8), 0.5)
    assert copy.deepcopy(plain).shape == (2, 4, 4)
