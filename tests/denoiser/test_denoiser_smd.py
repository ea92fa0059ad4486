"""Soft mixtures, ours and as published, layer by layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from softmix.cond import class_label
from softmix.denoiser import (
    Network,
    Output,
    PointHead,
    PublishedSMD,
    SoftHead,
    affine,
)
from softmix.denoiser.smd import _Hyper
from softmix.net import DiTSpec, MLPSpec, SequenceSpec, SideInputs, UNetSpec
from softmix.posterior import Implicit, ImplicitMean
from softmix.process import VP, Gaussian
from softmix.rng import Rng
from softmix.shape import column

F64 = torch.float64
T = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
MLP = MLPSpec(width=16, depth=3, frequencies=2)
UNET = UNetSpec(width=8, depth=1)
DIT = DiTSpec(width=16, depth=3, patch=2)
SEQUENCE = SequenceSpec(width=16, depth=3)
NETS = pytest.mark.parametrize(
    ("spec", "shape"),
    [(MLP, (2,)), (UNET, (2, 4, 4)), (DIT, (2, 4, 4)), (SEQUENCE, (5, 2))],
    ids=["mlp", "unet", "dit", "sequence"],
)


def x_of(shape: tuple[int, ...], n: int = 3) -> Tensor:
    return Rng(0, n, "x").normal((n, *shape), F64)


def row(process: Gaussian, output: Output, sd: float, x: Tensor) -> tuple[Tensor, Tensor]:
    a, b = affine(output, process.alpha(T), process.sigma(T), sd)
    return column(a, x), column(b, x)


# soft heads


def soft(spec: object, shape: tuple[int, ...], **options: object) -> Network:
    torch.manual_seed(0)
    network = Network(VP(), spec, SoftHead(**options), shape, class_label(2)).double()  # type: ignore[arg-type]
    nn.init.normal_(network.head.off)  # type: ignore[arg-type, union-attr]
    return network


@NETS
def test_the_scale_is_the_standard_deviation_of_the_latent(spec: object, shape: tuple[int, ...]) -> None:
    """A draw with half the scale equals the draw with half the latent. With scale 0 all draws are equal."""
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
    state = net.run(net.stem(x / size), SideInputs(emb, emb), 0, net.splits[where])  # type: ignore[index]
    side = SideInputs(emb + network.head.off, emb)  # type: ignore[operator, union-attr]
    said = net.out(net.run(state, side, net.splits[where], len(net.body)), side, net.size(x))  # type: ignore[index]
    a, b = row(VP(), "v", 1.0, x)
    assert torch.allclose(found.mean, a * x + b * said)


@NETS
@pytest.mark.parametrize("where", ["all", "decoder", "head"])
def test_a_draw_goes_through_g_and_f_and_mixes_its_local_latents_in(
    spec: object, shape: tuple[int, ...], where: str
) -> None:
    """z = g(eta, mean of the state, emb). The blocks that follow get emb + f(silu(z)), and each place gets
    h + g_local(h, local).
    """
    network, x, cond = soft(spec, shape, where=where, latent=5, local=2), x_of(shape), torch.tensor([0, 1, -1])
    found, net, head = network(x, T, cond), network.net, network.head
    assert isinstance(found, Implicit)
    eta = found.latents(1, Rng(3, 3))
    emb = net.time(VP().logsnr(T), cond)
    size = column((VP().alpha(T) ** 2 + VP().sigma(T) ** 2).sqrt(), x)
    split = net.splits[where]  # type: ignore[index]
    state = net.run(net.stem(x / size), SideInputs(emb, emb), 0, split)
    h = state[0]
    flat = h[:, None] if h.ndim == 2 else h if h.ndim == 3 else h.flatten(2).mT
    z = head.g(torch.cat([eta[0][:, :5], flat.mean(1), emb], 1))  # type: ignore[operator, union-attr]
    if h.ndim > 2:
        flat = flat + head.g_local(torch.cat([flat, eta[0][:, 5:].unflatten(1, (-1, 2))], -1))  # type: ignore[operator, union-attr]
        state = (flat if h.ndim == 3 else flat.mT.reshape(h.shape), *state[1:])
    side = SideInputs(emb + head.f(nn.functional.silu(z)), emb)  # type: ignore[operator, union-attr]
    said = net.out(net.run(state, side, split, len(net.body)), side, net.size(x))
    a, b = row(VP(), "v", 1.0, x)
    assert torch.allclose(found.head(eta)[0], a * x + b * said)


def test_a_soft_head_without_a_mean_has_none() -> None:
    found = soft(MLP, (2,), mean="none")(x_of((2,)), T)
    assert isinstance(found, Implicit) and not isinstance(found, ImplicitMean)


@NETS
def test_the_latent_has_its_shared_numbers_and_some_for_each_place(spec: object, shape: tuple[int, ...]) -> None:
    """A point has one place and no local latents. 4 x 4 pixels with a patch of 2 make 4 places, and the coarsest level
    of the U-Net 1. A sequence of 5 has 5.
    """
    places = {MLPSpec: 0, UNetSpec: 1, DiTSpec: 4, SequenceSpec: 5}[type(spec)]  # type: ignore[index]
    for latent, local in ((32, 4), (5, 2), (5, 0)):
        found = soft(spec, shape, latent=latent, local=local)(x_of(shape), T)
        assert found.latent_shape == (latent + local * places,)  # type: ignore[attr-defined]


@NETS
def test_the_layers_of_the_latent_are_initialised_orthogonal_with_gain_2(spec: object, shape: tuple[int, ...]) -> None:
    """W W^T = 4 I on the shorter side, so that eta has an effect from the start."""
    head = soft(spec, shape).head
    weights = [p for name, p in head.named_parameters() if name.endswith("weight")]
    assert len(weights) >= 3
    for w in weights:
        square = w @ w.mT if w.shape[0] <= w.shape[1] else w.mT @ w
        assert torch.allclose(square, 4 * torch.eye(len(square), dtype=F64), atol=1e-5)


@pytest.mark.parametrize("head", [SoftHead(latent=5, local=2), PublishedSMD(7)], ids=str)
@NETS
def test_draws_depend_on_the_class(spec: object, shape: tuple[int, ...], head: object) -> None:
    torch.manual_seed(0)
    network, x = Network(VP(), spec, head, shape, class_label(2)).double(), x_of(shape)  # type: ignore[arg-type]
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
    """z from g(x, eta) at the noise level; M(z) after the stem, and a second one before the output."""
    torch.manual_seed(0)
    network, x, cond = (
        Network(VP(), spec, PublishedSMD(7), shape, class_label(2)).double(),
        x_of(shape),
        torch.tensor([0, 1, -1]),
    )  # type: ignore[arg-type]
    found, net, head = network(x, T, cond), network.net, network.head
    assert isinstance(found, Implicit) and found.latent_shape == shape
    eta = found.latents(1, Rng(0, 3))
    logsnr = VP().logsnr(T)
    scaled = x / column((VP().alpha(T) ** 2 + VP().sigma(T) ** 2).sqrt(), x)
    last = lambda h: h.permute(0, 2, 3, 1) if h.ndim == 4 else h  # noqa: E731
    back = lambda h: h.permute(0, 3, 1, 2) if h.ndim == 4 else h  # noqa: E731
    small = SideInputs(head.g.time(logsnr), logsnr)  # type: ignore[union-attr, operator]
    both = torch.cat([scaled, eta[0]], net.channel_axis)
    z = head.z(last(head.g.run(head.g.stem(both), small, 0, len(head.g.body))[0]))  # type: ignore[union-attr, operator, arg-type]
    side = SideInputs(net.time(logsnr, cond), logsnr)
    state = net.stem(scaled)
    state = (back(head.first(last(state[0]), z)), *state[1:])  # type: ignore[operator, union-attr]
    state = net.run(state, side, 0, len(net.body))
    state = (back(head.last(last(state[0]), z)), *state[1:])  # type: ignore[operator, union-attr]
    a, b = row(VP(), "v", 1.0, x)
    assert torch.allclose(found.head(eta)[0], a * x + b * net.out(state, side, net.size(x)))


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


def test_another_size_works_without_local_latents() -> None:
    torch.manual_seed(0)
    plain = Network(VP(), UNET, PointHead(), (2, 4, 4))
    assert plain(torch.zeros(3, 2, 6, 8), 0.5).mean.shape == (3, 2, 6, 8)  # type: ignore[attr-defined]
    for wrong in ((3, 3, 4, 4), (3, 2, 4)):
        with pytest.raises(ValueError, match="was made for items of shape"):
            plain(torch.zeros(wrong), 0.5)
    with pytest.raises(ValueError, match="was made for items of shape"):
        Network(VP(), UNET, SoftHead(), (2, 4, 4))(torch.zeros(3, 2, 6, 8), 0.5)
    assert copy.deepcopy(plain).shape == (2, 4, 4)
